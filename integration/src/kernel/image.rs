//! A kernel that can be booted on the root file system of this machine: downloaded, unpacked, never installed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::choice::Choice;
use super::cpio::Archive;
use super::package::Apt;
use crate::failure::{Failure, Outcome, While, ensure};

/// What QEMU boots.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    /// As `uname -r` tells it.
    pub(crate) release: String,
    pub(crate) kernel: PathBuf,
    /// Has `lib/modules/<release>`; none where everything is built in.
    pub(crate) modules: Option<PathBuf>,
    /// For a kernel that cannot mount its root file system by itself.
    pub(crate) initramfs: Option<PathBuf>,
}

/// For what is done before there is a root file system; static.
pub(crate) const BUSYBOX: &str = "/bin/busybox";

/// What mounts the root file system: the bus, and the file system.
const ROOT_MODULES: [&str; 2] = ["virtio_pci", "virtiofs"];

/// Mounts the machine's root file system, then becomes its init.
const INITRAMFS_INIT: &str = "#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
for module in /modules/*; do /bin/busybox insmod $module; done
for word in $(/bin/busybox cat /proc/cmdline); do case $word in init=*) init=${word#init=} ;; esac; done
/bin/busybox mount -t virtiofs rootfs /new && exec /bin/busybox switch_root /new $init
echo cannot mount the root file system of the machine
";

impl Image {
    /// Provides the kernel of a choice that boots one, keeping what is downloaded below `cache`.
    pub(crate) fn provide(choice: &Choice, cache: &Path) -> Outcome<Self> {
        let label = choice.label();
        match choice {
            Choice::Running | Choice::All => Err(Failure::new(format!("{choice} is no single kernel to boot"))),
            Choice::Debian12 => Self::of_suite(cache, label, "bookworm"),
            Choice::Debian13 => Self::of_suite(cache, label, "trixie"),
            Choice::Newest => Self::of_suite(cache, label, "unstable"),
            Choice::Package(name) => {
                let root = cache.join(&label);
                unpack_once(&root, name, || Ok(Apt::of_the_machine()))?;
                Self::unpacked(&root, label, cache)
            }
            Choice::File(path) => {
                let path = path.canonicalize().during(|| format!("--kernel {}", path.display()))?;
                ensure(path.is_file(), || format!("--kernel {}: no file", path.display()))?;
                if path.extension().is_some_and(|kind| kind == "deb") {
                    let root = cache.join(&label);
                    let _ = fs::remove_dir_all(&root);
                    unpack(&root, &[path])?;
                    Self::unpacked(&root, label, cache)
                } else {
                    Self::of_file(path, label, cache)
                }
            }
        }
    }

    fn of_suite(cache: &Path, label: String, suite: &str) -> Outcome<Self> {
        let root = cache.join(&label);
        let apt = || Apt::of_suite(&cache.join(format!("apt-{suite}")), suite);
        unpack_once(&root, "linux-image-cloud-amd64", apt)?;
        Self::unpacked(&root, label, cache)
    }

    /// Modules of it and what they need, ready to be loaded in that order; nothing for what is built in.
    pub(crate) fn modules(&self, names: &[&str]) -> Outcome<Vec<Vec<u8>>> {
        self.modules.as_ref().map_or(Ok(vec![]), |root| modules(root, &self.release, names))
    }

    /// Of packages that are unpacked in `root`.
    fn unpacked(root: &Path, label: String, cache: &Path) -> Outcome<Self> {
        let kernel = kernel_below(root);
        let kernel = kernel.ok_or_else(|| Failure::new(format!("{}: its packages hold no kernel", root.display())))?;
        Self::of_file(kernel, label, cache)
    }

    fn of_file(kernel: PathBuf, label: String, cache: &Path) -> Outcome<Self> {
        let head = fs::read(&kernel).during(|| kernel.display().to_string())?;
        let release = release(&head).ok_or_else(|| {
            Failure::new(format!("{}: no Linux kernel for x86 (a bzImage) is in this file", kernel.display()))
        })?;
        let has_modules = |root: &&Path| root.join("lib/modules").join(&release).is_dir();
        // Those of the tree that the kernel is in; at last those of this machine.
        let modules = kernel.ancestors().skip(1).find(has_modules).map(Path::to_owned);
        if modules.is_none() {
            println!(
                "{}: no lib/modules/{release} above this file: everything must be built into this kernel",
                kernel.display()
            );
        }
        let initramfs = match &modules {
            Some(root) => initramfs(root, &release, &cache.join(format!("{label}.initramfs")))?,
            None => None,
        };
        Ok(Self { release, kernel, modules, initramfs })
    }
}

/// The kernel of an unpacked package: in `/boot`, or since Debian 14 beside its modules.
fn kernel_below(root: &Path) -> Option<PathBuf> {
    let entries = |directory: &str| fs::read_dir(root.join(directory)).into_iter().flatten().flatten();
    let is_kernel = |path: &PathBuf| {
        path.is_file() && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz"))
    };
    let in_boot = entries("boot").map(|entry| entry.path());
    in_boot.chain(entries("lib/modules").map(|entry| entry.path().join("vmlinuz"))).find(is_kernel)
}

/// Unpacks a package and those that hold its parts, unless that was done before.
fn unpack_once(root: &Path, package: &str, apt: impl FnOnce() -> Outcome<Apt>) -> Outcome {
    if kernel_below(root).is_some() {
        return Ok(());
    }
    println!("Looking for {package}, the kernel {}", root.file_name().unwrap_or_default().to_string_lossy());
    let apt = apt()?;
    let packages = apt.with_parts(package)?;
    println!("Downloading {}", packages.join(" "));
    let files = root.with_extension("download");
    let _ = fs::remove_dir_all(&files);
    let debs = apt.download(&files, &packages)?;
    unpack(root, &debs)?;
    fs::remove_dir_all(&files).during(|| files.display().to_string())
}

/// As a whole or not at all.
fn unpack(root: &Path, debs: &[PathBuf]) -> Outcome {
    let fresh = root.with_extension("new");
    let _ = fs::remove_dir_all(&fresh);
    fs::create_dir_all(&fresh).during(|| fresh.display().to_string())?;
    for deb in debs {
        run(Command::new("dpkg-deb").arg("-x").arg(deb).arg(&fresh))?;
    }
    // Packages of a merged /usr have them there.
    if !fresh.join("lib").exists() && fresh.join("usr/lib/modules").exists() {
        symlink("usr/lib", fresh.join("lib"))?;
    }
    if let Ok(modules) = fs::read_dir(fresh.join("lib/modules")) {
        for entry in modules.flatten() {
            run(Command::new("depmod").arg("-b").arg(&fresh).arg(entry.file_name()))?;
        }
    }
    fs::rename(&fresh, root).during(|| root.display().to_string())
}

fn run(command: &mut Command) -> Outcome {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().during(|| name.clone())?;
    ensure(output.status.success(), || format!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim_end()))
}

/// The release in the header of a kernel image (`kernel_version` of Documentation/arch/x86/boot.rst).
fn release(image: &[u8]) -> Option<String> {
    if image.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let offset = usize::from(u16::from_le_bytes(image.get(0x20e..0x210)?.try_into().ok()?));
    let text = image.get(offset + 0x200..)?;
    let end = text.iter().position(|octet| [b' ', 0].contains(octet))?;
    String::from_utf8(text.get(..end)?.to_vec()).ok().filter(|release| !release.is_empty())
}

/// Makes an initramfs if the root file system needs modules.
fn initramfs(root: &Path, release: &str, to: &Path) -> Outcome<Option<PathBuf>> {
    let modules = modules(root, release, &ROOT_MODULES)
        .during(|| "QEMU cannot give it this machine's root file system".into())?;
    if modules.is_empty() {
        return Ok(None);
    }
    let mut archive = Archive::default();
    for directory in ["bin", "proc", "dev", "new", "modules"] {
        archive.directory(directory);
    }
    archive.file("bin/busybox", 0o755, &fs::read(BUSYBOX).during(|| BUSYBOX.into())?);
    archive.file("init", 0o755, INITRAMFS_INIT.as_bytes());
    for (place, module) in modules.iter().enumerate() {
        archive.file(&format!("modules/{place:02}.ko"), 0o644, module);
    }
    fs::write(to, archive.end()).during(|| to.display().to_string())?;
    Ok(Some(to.to_owned()))
}

/// Modules and what they need, ready to be loaded in that order; nothing for what is built in.
fn modules(root: &Path, release: &str, names: &[&str]) -> Outcome<Vec<Vec<u8>>> {
    let mut files: Vec<PathBuf> = vec![];
    for module in names {
        let output = Command::new("modprobe")
            .args(["--set-version", release, "--show-depends", module, "--dirname"])
            .arg(root)
            .output()
            .during(|| "modprobe".into())?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure(output.status.success(), || format!("Linux {release} has no {module}"))?;
        // "builtin …" for what needs no loading.
        let new = text.lines().filter_map(|line| line.trim().strip_prefix("insmod ")).map(PathBuf::from);
        for file in new {
            if !files.contains(&file) {
                files.push(file);
            }
        }
    }
    files.iter().map(|file| uncompressed(file)).collect()
}

fn uncompressed(module: &Path) -> Outcome<Vec<u8>> {
    let program = match module.extension().and_then(|kind| kind.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return fs::read(module).during(|| module.display().to_string()),
    };
    let output = Command::new(program).arg("-dc").arg(module).output().during(|| program.into())?;
    ensure(output.status.success(), || format!("{program} -dc {} failed", module.display()))?;
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_is_read_from_the_image() {
        let mut image = vec![0; 0x400];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
        image[0x300..0x310].copy_from_slice(b"6.12.117+deb12 (");
        assert_eq!(release(&image).as_deref(), Some("6.12.117+deb12"));
        image[0x202] = 0;
        assert_eq!(release(&image), None);
        assert_eq!(release(b"ELF"), None);
    }
}
