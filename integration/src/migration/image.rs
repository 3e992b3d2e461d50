//! The kernel and the initramfs of the lab's QEMU guest, from Debian packages that are unpacked and not installed.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Outcome, While, ensure};
use crate::kernel::Archive;

/// What QEMU boots.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Image {
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
}

/// Debian's meta package of the kernel for virtual machines.
const KERNEL_PACKAGE: &str = "linux-image-cloud-amd64";
/// Modules of that kernel for a virtio network card on PCI, in the order in which they can be loaded.
const MODULES: [&str; 8] = [
    "drivers/virtio/virtio_ring.ko",
    "drivers/virtio/virtio.ko",
    "drivers/virtio/virtio_pci_modern_dev.ko",
    "drivers/virtio/virtio_pci_legacy_dev.ko",
    "drivers/virtio/virtio_pci.ko",
    "net/core/failover.ko",
    "drivers/net/net_failover.ko",
    "drivers/net/virtio_net.ko",
];

/// Downloads what is missing into `cache` and makes the initramfs with `lab`, the lab's own program, as init.
pub(crate) fn provide(cache: &Path, lab: &Path) -> Outcome<Image> {
    ensure(cfg!(target_arch = "x86_64"), || "the lab's QEMU guest is made for amd64 only".into())?;
    fs::create_dir_all(cache).during(|| cache.display().to_string())?;
    let kernel_package = current_kernel_package()?;
    let version = kernel_package.trim_start_matches("linux-image-").to_owned();
    let kernel = cache.join(format!("vmlinuz-{version}"));
    let modules = cache.join(format!("modules-{version}"));
    let complete = MODULES.iter().enumerate().all(|(place, module)| modules.join(module_file(place, module)).exists());
    if !kernel.exists() || !complete {
        unpack_kernel(cache, &kernel_package, &version, &kernel, &modules)?;
    }
    let busybox = cache.join("busybox");
    if !busybox.exists() {
        let package = download(cache, "busybox-static")?;
        extract(&package, "./bin/busybox", &busybox)?;
        fs::remove_file(&package)?;
    }
    let initramfs = cache.join("initramfs.cpio");
    write_initramfs(&initramfs, lab, &busybox, &modules)?;
    Ok(Image { kernel, initramfs })
}

/// The package that the meta package depends on.
fn current_kernel_package() -> Outcome<String> {
    let depends = || -> Outcome<Option<String>> {
        let output =
            Command::new("apt-cache").args(["depends", KERNEL_PACKAGE]).output().during(|| "apt-cache".into())?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let name = text.split_whitespace().find(|word| word.starts_with("linux-image-") && *word != KERNEL_PACKAGE);
        Ok(name.map(str::to_owned))
    };
    if let Some(name) = depends()? {
        return Ok(name);
    }
    // A fresh machine has no package lists.
    let update = Command::new("apt-get").args(["update", "--quiet"]).stdout(Stdio::null()).status();
    ensure(update.during(|| "apt-get".into())?.success(), || "apt-get update failed".into())?;
    depends()?.ok_or_else(|| Failure::new(format!("apt knows no package {KERNEL_PACKAGE}")))
}

fn unpack_kernel(cache: &Path, package: &str, version: &str, kernel: &Path, modules: &Path) -> Outcome {
    println!("Downloading {package}, the kernel of the lab's guest");
    let file = download(cache, package)?;
    let fresh = cache.join("modules.new");
    let _ = fs::remove_dir_all(&fresh);
    fs::create_dir_all(&fresh)?;
    for (place, module) in MODULES.iter().enumerate() {
        let inside = format!("./lib/modules/{version}/kernel/{module}");
        extract(&file, &inside, &fresh.join(module_file(place, module)))?;
    }
    extract(&file, &format!("./boot/vmlinuz-{version}"), kernel)?;
    // What an interrupted or older run has left is not there any more, or never was.
    let _ = fs::remove_dir_all(modules);
    fs::rename(&fresh, modules)?;
    fs::remove_file(&file).during(|| file.display().to_string())
}

/// Name of a module's file in the initramfs: the number keeps the order in which they are loaded.
fn module_file(place: usize, module: &str) -> String {
    format!("{place}-{}", module.rsplit('/').next().unwrap_or(module))
}

/// Downloads a package and tells its file.
fn download(cache: &Path, package: &str) -> Outcome<PathBuf> {
    let scratch = cache.join("download");
    let _ = fs::remove_dir_all(&scratch);
    fs::create_dir_all(&scratch)?;
    let output = Command::new("apt-get").args(["download", "--quiet", package]).current_dir(&scratch).output();
    let output = output.during(|| "apt-get".into())?;
    ensure(output.status.success(), || {
        format!("apt-get download {package}: {}", String::from_utf8_lossy(&output.stderr).trim_end())
    })?;
    let mut files = fs::read_dir(&scratch)?.flatten().map(|entry| entry.path());
    let file = files.next().ok_or_else(|| Failure::new(format!("apt-get download {package} left no file")))?;
    let kept = cache.join(format!("{package}.deb"));
    fs::rename(&file, &kept)?;
    Ok(kept)
}

/// Extracts one file of a package, also when the package has it compressed by xz.
fn extract(package: &Path, name: &str, to: &Path) -> Outcome {
    let extract = |name: &str| -> Outcome<Vec<u8>> {
        let mut deb = Command::new("dpkg-deb");
        deb.arg("--fsys-tarfile").arg(package).stdout(Stdio::piped());
        let mut deb = deb.spawn().during(|| "dpkg-deb".into())?;
        let archive = deb.stdout.take().ok_or_else(|| Failure::new("dpkg-deb has no output"))?;
        let tar = Command::new("tar").args(["xO", name]).stdin(archive).output().during(|| "tar".into())?;
        // tar may have ended early; that it has found the file is what counts.
        deb.wait()?;
        ensure(tar.status.success() && !tar.stdout.is_empty(), || format!("{} has no {name}", package.display()))?;
        Ok(tar.stdout)
    };
    let content = match extract(name) {
        Ok(content) => content,
        Err(plain) => unxz(&extract(&format!("{name}.xz")).map_err(|_| plain)?)?,
    };
    fs::write(to, content).during(|| to.display().to_string())
}

fn unxz(compressed: &[u8]) -> Outcome<Vec<u8>> {
    let mut child =
        Command::new("xz").arg("-dc").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().during(|| "xz".into())?;
    let mut input = child.stdin.take().ok_or_else(|| Failure::new("xz has no input"))?;
    let compressed = compressed.to_owned();
    let writer = std::thread::spawn(move || input.write_all(&compressed));
    let output = child.wait_with_output()?;
    let written = writer.join().is_ok_and(|result| result.is_ok());
    ensure(written && output.status.success(), || "xz failed".into())?;
    Ok(output.stdout)
}

/// The lab's program as init with the libraries it needs, busybox for `ip` and `insmod`, and the modules.
fn write_initramfs(to: &Path, lab: &Path, busybox: &Path, modules: &Path) -> Outcome {
    let stripped = to.with_extension("init");
    let strip = Command::new("strip").arg("-o").arg(&stripped).arg(lab).status().during(|| "strip".into())?;
    ensure(strip.success(), || format!("strip {} failed", lab.display()))?;
    let mut archive = Archive::default();
    for directory in ["bin", "dev", "proc", "sys", "run", "modules", "lib", "lib64"] {
        archive.directory(directory);
    }
    archive.file("init", 0o755, &fs::read(&stripped)?);
    archive.file("bin/busybox", 0o755, &fs::read(busybox)?);
    for (name, path) in libraries(lab)? {
        if let Some((directory, _)) = name.rsplit_once('/') {
            archive.directories(directory);
        }
        archive.file(&name, 0o755, &fs::read(&path).during(|| path.display().to_string())?);
    }
    for entry in fs::read_dir(modules)?.flatten() {
        archive.file(&format!("modules/{}", entry.file_name().to_string_lossy()), 0o644, &fs::read(entry.path())?);
    }
    fs::write(to, archive.end()).during(|| to.display().to_string())?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o644))?;
    Ok(())
}

/// The shared libraries of a program, by the dynamic linker itself: name in the initramfs, and where the file is.
fn libraries(program: &Path) -> Outcome<Vec<(String, PathBuf)>> {
    let output = Command::new("ldd").arg(program).output().during(|| "ldd".into())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let paths = text.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(paths.map(|path| (path.trim_start_matches('/').to_owned(), PathBuf::from(path))).collect())
}
