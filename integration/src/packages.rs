//! System packages the lab needs.

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use crate::failure::{Outcome, While, ensure};
use crate::kernel::machine::VIRTIOFSD;

/// Programs one of which the lab needs, by name or path, and the Debian packages that have it: the first that apt knows.
pub(crate) struct Need {
    programs: &'static [&'static str],
    packages: &'static [&'static str],
}

const fn need(programs: &'static [&'static str], packages: &'static [&'static str]) -> Need {
    Need { programs, packages }
}

pub(crate) const IPROUTE2: Need = need(&["ip"], &["iproute2"]);
pub(crate) const PING: Need = need(&["ping"], &["iputils-ping"]);
pub(crate) const TSHARK: Need = need(&["tshark"], &["tshark"]);
pub(crate) const KMOD: Need = need(&["modprobe"], &["kmod"]);
pub(crate) const CLANG: Need = need(&["clang"], &["clang"]);
pub(crate) const QEMU: Need = need(&["qemu-system-x86_64"], &["qemu-system-x86"]);
/// A package of its own since Debian 13.
pub(crate) const VIRTIOFS: Need = need(&VIRTIOFSD, &["virtiofsd", "qemu-system-common"]);
pub(crate) const BUSYBOX: Need = need(&["busybox"], &["busybox-static"]);
pub(crate) const XZ: Need = need(&["xz"], &["xz-utils"]);
pub(crate) const ZSTD: Need = need(&["zstd"], &["zstd"]);
pub(crate) const BINUTILS: Need = need(&["strip"], &["binutils"]);
pub(crate) const RADVD: Need = need(&["radvd"], &["radvd"]);

/// Installs what is missing when that is possible. `Ok(Err(code))`: it is not, and the user has been told what to do.
pub(crate) fn provide(needs: &[&Need]) -> Outcome<Result<(), ExitCode>> {
    let missing = missing(needs);
    if missing.is_empty() {
        return Ok(Ok(()));
    }
    if !nix::unistd::geteuid().is_root() || !Path::new("/etc/debian_version").exists() {
        let packages: Vec<&str> = missing.iter().filter_map(|need| need.package()).collect();
        eprintln!(
            "The lab needs these Debian packages (or what they hold): {0}. Install them with\n\n    \
             sudo env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends {0}\n",
            packages.join(" ")
        );
        return Ok(Err(ExitCode::from(2)));
    }
    // A fresh machine has no package lists; one with lists need not wait for new ones.
    if !install(&missing)? {
        ensure(apt_get(&["update", "--quiet"])?, || "apt-get update failed; is there a network?".into())?;
        let names: Vec<&str> = missing.iter().filter_map(|need| need.package()).collect();
        ensure(install(&missing)?, || format!("apt-get install {} failed", names.join(" ")))?;
    }
    // A package may count as installed of which somebody has deleted files.
    let still = self::missing(needs);
    ensure(still.is_empty(), || {
        let packages: Vec<&str> = still.iter().filter_map(|need| need.package()).collect();
        let programs: Vec<&str> = still.iter().filter_map(|need| need.programs.first()).copied().collect();
        format!(
            "{0} is installed, and {1} is not there: apt-get install --reinstall {0}",
            packages.join(" "),
            programs.join(" ")
        )
    })?;
    Ok(Ok(()))
}

/// Those of which no program is here.
fn missing<'a>(needs: &[&'a Need]) -> Vec<&'a Need> {
    needs.iter().copied().filter(|need| !need.programs.iter().any(|program| present(program))).collect()
}

fn install(missing: &[&Need]) -> Outcome<bool> {
    let packages: Vec<&str> = missing.iter().filter_map(|need| need.package()).collect();
    println!("Installing {}", packages.join(" "));
    apt_get(&[&["install", "--yes", "--quiet", "--no-install-recommends"], packages.as_slice()].concat())
}

fn apt_get(arguments: &[&str]) -> Outcome<bool> {
    let mut command = Command::new("apt-get");
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()).stdout(Stdio::null());
    Ok(command.status().during(|| "apt-get".into())?.success())
}

impl Need {
    /// The package that has it on this machine.
    fn package(&self) -> Option<&'static str> {
        let (last, others) = self.packages.split_last()?;
        let known = |name: &&&str| {
            let output = Command::new("apt-cache").args(["show", "--quiet=2", name]).output();
            output.is_ok_and(|output| output.status.success() && !output.stdout.is_empty())
        };
        others.iter().find(known).or(Some(last)).copied()
    }
}

fn present(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/sbin", "/usr/bin"])
        // A path stays what it is.
        .any(|directory| Path::new(directory).join(program).exists())
}
