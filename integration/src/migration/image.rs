//! The kernel and the initramfs of the lab's QEMU guest, of Debian's packages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::{Outcome, While, ensure};
use crate::kernel::Archive;
use crate::kernel::choice::Choice;
use crate::kernel::image::{BUSYBOX, Image};

/// What QEMU boots.
#[derive(Debug, Clone)]
pub(crate) struct GuestImage {
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
}

/// The same whatever the hosts' kernel is, and the smallest of them.
const KERNEL: Choice = Choice::Debian12;
/// What a virtio network card on PCI needs.
const MODULES: [&str; 2] = ["virtio_pci", "virtio_net"];

/// Provides the kernel, keeping what is downloaded below `cache`, and makes the initramfs with `lab`, the lab's own program, as init.
pub(crate) fn provide(cache: &Path, lab: &Path) -> Outcome<GuestImage> {
    let image = Image::provide(&KERNEL, cache)?;
    let initramfs = cache.join("guest.initramfs");
    write_initramfs(&initramfs, lab, &image)?;
    Ok(GuestImage { kernel: image.kernel, initramfs })
}

/// The lab's program as init with the libraries it needs, busybox for `ip` and `insmod`, and the modules.
fn write_initramfs(to: &Path, lab: &Path, image: &Image) -> Outcome {
    let stripped = to.with_extension("init");
    let strip = Command::new("strip").arg("-o").arg(&stripped).arg(lab).status().during(|| "strip".into())?;
    ensure(strip.success(), || format!("strip {} failed", lab.display()))?;
    let mut archive = Archive::default();
    for directory in ["bin", "dev", "proc", "sys", "run", "modules", "lib", "lib64"] {
        archive.directory(directory);
    }
    archive.file("init", 0o755, &fs::read(&stripped)?);
    archive.file("bin/busybox", 0o755, &fs::read(BUSYBOX).during(|| BUSYBOX.into())?);
    for (name, path) in libraries(lab)? {
        if let Some((directory, _)) = name.rsplit_once('/') {
            archive.directories(directory);
        }
        archive.file(&name, 0o755, &fs::read(&path).during(|| path.display().to_string())?);
    }
    for (place, module) in image.modules(&MODULES)?.iter().enumerate() {
        archive.file(&format!("modules/{place:02}.ko"), 0o644, module);
    }
    fs::write(to, archive.end()).during(|| to.display().to_string())
}

/// The shared libraries of a program, by the dynamic linker itself: name in the initramfs, and where the file is.
fn libraries(program: &Path) -> Outcome<Vec<(String, PathBuf)>> {
    let output = Command::new("ldd").arg(program).output().during(|| "ldd".into())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let paths = text.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(paths.map(|path| (path.trim_start_matches('/').to_owned(), PathBuf::from(path))).collect())
}
