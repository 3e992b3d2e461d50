//! System packages the lab needs.

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use crate::failure::{Outcome, While, ensure};

/// A program and the Debian package that has it.
pub(crate) type Need = (&'static str, &'static str);

pub(crate) const IPROUTE2: Need = ("ip", "iproute2");
pub(crate) const PING: Need = ("ping", "iputils-ping");
pub(crate) const TSHARK: Need = ("tshark", "tshark");
pub(crate) const UML: Need = ("linux.uml", "user-mode-linux");
pub(crate) const KMOD: Need = ("modprobe", "kmod");
pub(crate) const CLANG: Need = ("clang", "clang");
pub(crate) const QEMU: Need = ("qemu-system-x86_64", "qemu-system-x86");
pub(crate) const XZ: Need = ("xz", "xz-utils");
pub(crate) const BINUTILS: Need = ("strip", "binutils");
pub(crate) const RADVD: Need = ("radvd", "radvd");

/// Installs what is missing when that is possible. `Ok(Err(code))`: it is not, and the user has been told what to do.
pub(crate) fn provide(needs: &[Need]) -> Outcome<Result<(), ExitCode>> {
    let missing: Vec<&str> =
        needs.iter().filter(|(program, _)| !present(program)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(Ok(()));
    }
    if !nix::unistd::geteuid().is_root() || !Path::new("/etc/debian_version").exists() {
        eprintln!(
            "The lab needs these Debian packages (or what they hold): {0}. Install them with\n\n    \
             sudo env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends {0}\n",
            missing.join(" ")
        );
        return Ok(Err(ExitCode::from(2)));
    }
    println!("Installing {}", missing.join(" "));
    let install = |arguments: &[&str]| -> Outcome<bool> {
        let mut command = Command::new("apt-get");
        command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()).stdout(Stdio::null());
        Ok(command.status().during(|| "apt-get".into())?.success())
    };
    let arguments = [&["install", "--yes", "--quiet", "--no-install-recommends"], missing.as_slice()].concat();
    // A fresh machine has no package lists; one with lists need not wait for new ones.
    if !install(&arguments)? {
        ensure(install(&["update", "--quiet"])?, || "apt-get update failed".into())?;
        ensure(install(&arguments)?, || format!("apt-get {} failed", arguments.join(" ")))?;
    }
    Ok(Ok(()))
}

fn present(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/sbin", "/usr/bin"])
        .any(|directory| Path::new(directory).join(program).exists())
}
