//! Pid 1 of the lab's User-Mode Linux: makes the machine usable, runs the inner side as its child, powers off.
//!
//! The root file system is that of the machine outside, so nothing is changed in it but the directory of the run: what
//! must be writable is a tmpfs.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use nix::mount::{MsFlags, mount};
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::Pid;

use crate::failure::{Outcome, While};
use crate::job::{Job, LINE};
use crate::uml::{MODULES, RUN_VARIABLE};

/// Where the modules of Debian's user-mode-linux package are.
const MODULE_DIRECTORY: &str = "/run/kagemusha-lab";

/// Init starts without one.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the lab always needs; crypto modules and the like come by the kernel's own requests.
const ALWAYS: [&str; 9] = ["ipv6", "tun", "veth", "bridge", "dummy", "xfrm_user", "esp6", "mip6", "jitterentropy_rng"];

/// Whether this process is the init of the lab's User-Mode Linux.
pub(crate) fn is_init() -> bool {
    std::process::id() == 1 && std::env::var_os(RUN_VARIABLE).is_some()
}

/// Never returns while the power can be switched off.
pub(crate) fn main() -> ExitCode {
    if let Err(failure) = run() {
        println!("{LINE}init: {failure}");
    }
    // What was written to the machine outside is still in this kernel's memory.
    nix::unistd::sync();
    let Err(error) = nix::sys::reboot::reboot(nix::sys::reboot::RebootMode::RB_POWER_OFF);
    println!("{LINE}init: power off: {error}");
    ExitCode::FAILURE
}

fn run() -> Outcome {
    for (kind, directory) in [("proc", "/proc"), ("sysfs", "/sys"), ("tmpfs", "/run"), ("devtmpfs", "/dev")] {
        match mount(Some(kind), directory, Some(kind), MsFlags::empty(), None::<&str>) {
            // The kernel may have mounted /dev itself.
            Ok(()) | Err(nix::Error::EBUSY) => {}
            Err(error) => return Err(error).during(|| format!("mounting {directory}")),
        }
    }
    load_modules()?;
    // Links flood like hubs: on one with fifty guests twenty frames fill the kernel's queue of a thousand, and those behind them are lost, on any link.
    let backlog = "/proc/sys/net/core/netdev_max_backlog";
    fs::write(backlog, "65536").during(|| backlog.into())?;
    let directory = PathBuf::from(std::env::var_os(RUN_VARIABLE).unwrap_or_default());
    let job = Job::read(&directory)?;
    let child = Command::new("/proc/self/exe")
        .arg("inner")
        .arg(directory)
        .envs(&job.environment)
        .env("PATH", PATH)
        .spawn()
        .during(|| "starting the inner side".into())?;
    // Pid 1 also has to take leave of every orphan.
    loop {
        if let WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _) = wait()?
            && Ok(pid) == i32::try_from(child.id()).map(Pid::from_raw)
        {
            return Ok(());
        }
    }
}

/// Loads what is always needed and lets the kernel load the rest from the package's own place.
fn load_modules() -> Outcome {
    let (root, helper) = (format!("{MODULE_DIRECTORY}/root"), format!("{MODULE_DIRECTORY}/modprobe"));
    fs::create_dir_all(format!("{root}/lib"))?;
    symlink(MODULES, format!("{root}/lib/modules"))?;
    fs::write(&helper, format!("#!/bin/sh\nexec modprobe -d {root} \"$@\"\n"))?;
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755))?;
    load(&ALWAYS)?;
    fs::write("/proc/sys/kernel/modprobe", &helper).during(|| "/proc/sys/kernel/modprobe".into())
}

/// Loads modules. On a running kernel that is not the lab's own, the usual place of modules serves.
pub(crate) fn load(modules: &[&str]) -> Outcome {
    let mut command = Command::new("modprobe");
    if Path::new(MODULE_DIRECTORY).exists() {
        command.arg("-d").arg(format!("{MODULE_DIRECTORY}/root"));
    }
    let output = command.env("PATH", PATH).arg("-a").args(modules).output().during(|| "modprobe".into())?;
    crate::failure::ensure(output.status.success(), || {
        format!("modprobe {}: {}", modules.join(" "), String::from_utf8_lossy(&output.stderr).trim_end())
    })
}
