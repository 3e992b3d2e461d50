//! Pid 1 of the lab's machines: makes the machine usable, runs the inner side as its child, powers off.
//!
//! The root file system is that of the machine outside, so nothing is changed in it but the directory of the run: what
//! must be writable is a tmpfs.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::Pid;

use crate::failure::{Failure, Outcome, While, ensure};
use crate::job::{ALIVE, Event, Job, LINE};
use crate::kernel::machine::{LAB_PORT, MODULES_VARIABLE, RUN_VARIABLE, TRIAL};
use crate::probe;

/// Where programs find the modules of the kernel.
const MODULE_DIRECTORY: &str = "/run/kagemusha-lab";

/// Init starts without one.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the lab always needs; crypto modules and the like come by the kernel's own requests. What is built in is no module, and what there is
/// none of is found out by trying it.
const ALWAYS: [&str; 10] =
    ["ipv6", "tun", "veth", "bridge", "dummy", "xfrm_user", "esp6", "mip6", "jitterentropy_rng", "virtio_net"];

/// How often the outer side hears that the machine lives.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(5);

/// Whether this process is the init of one of the lab's machines.
pub(crate) fn is_init() -> bool {
    std::process::id() == 1 && std::env::var_os(RUN_VARIABLE).is_some()
}

/// Never returns while the power can be switched off.
pub(crate) fn main() -> ExitCode {
    if let Err(failure) = run() {
        // By the console: the port may be what is missing.
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
    find_modules()?;
    let mut port = open_port(LAB_PORT)?;
    let kernel = nix::sys::utsname::uname()?.release().to_string_lossy().into_owned();
    port.write_all(Event::Up { kernel }.line().as_bytes())?;
    let directory = std::env::var_os(RUN_VARIABLE).unwrap_or_default();
    if directory == *TRIAL {
        return Ok(());
    }
    beat(port.try_clone()?)?;
    prepare().and_then(|()| run_inner(&PathBuf::from(directory), &port)).or_else(|failure| {
        let text = format!("{LINE}{UNUSABLE}{failure}\n");
        port.write_all(text.as_bytes()).during(|| "the lab's port".into())
    })
}

/// Tells again and again that the machine lives.
fn beat(mut port: File) -> Outcome {
    std::thread::Builder::new().name("heartbeat".into()).spawn(move || {
        while port.write_all(format!("{ALIVE}\n").as_bytes()).is_ok() {
            std::thread::sleep(HEARTBEAT);
        }
    })?;
    Ok(())
}

/// Begins what it says when it cannot do its job.
pub(crate) const UNUSABLE: &str = "this machine cannot be used: ";

fn prepare() -> Outcome {
    for module in ALWAYS {
        // One at a time: of a list modprobe loads nothing when there is none of one of them.
        let _ = load(&[module]);
    }
    // Links flood like hubs: on one with fifty guests twenty frames fill the kernel's queue of a thousand, and those behind them are lost, on any link.
    let backlog = "/proc/sys/net/core/netdev_max_backlog";
    fs::write(backlog, "65536").during(|| backlog.into())?;
    // Attaching the first program anywhere changes code that other CPUs run, and an emulated CPU may stop at the breakpoint that guards the change
    // after it has gone ("Oops: int3"). A qdisc that nobody uses has it changed now.
    let _ = Command::new("tc").env("PATH", PATH).args(["qdisc", "add", "dev", "lo", "clsact"]).status();
    let missing = probe::missing()?;
    ensure(missing.is_empty(), || format!("its kernel lacks {}", missing.join(", ")))
}

fn run_inner(directory: &Path, port: &File) -> Outcome {
    let job = Job::read(directory)?;
    let child = Command::new("/proc/self/exe")
        .arg("inner")
        .arg(directory)
        .envs(&job.environment)
        .env("PATH", PATH)
        .stdout(port.try_clone()?)
        .stderr(port.try_clone()?)
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

/// Opens a port of QEMU's by its name. There is no udev that would make links for them.
pub(crate) fn open_port(name: &str) -> Outcome<File> {
    let _ = load(&["virtio_console"]);
    let ports = "/sys/class/virtio-ports";
    for _ in 0..200 {
        for entry in fs::read_dir(ports).into_iter().flatten().flatten() {
            if fs::read_to_string(entry.path().join("name")).is_ok_and(|found| found.trim() == name) {
                let path = Path::new("/dev").join(entry.file_name());
                return File::options().read(true).write(true).open(&path).during(|| path.display().to_string());
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Err(Failure::new(format!("QEMU's port {name:?} is not there (virtio_console is missing?)")))
}

/// Lets programs, and the kernel itself, find its modules in a place that is not the usual one.
fn find_modules() -> Outcome {
    let Some(modules) = std::env::var_os(MODULES_VARIABLE) else { return Ok(()) };
    let (root, helper) = (format!("{MODULE_DIRECTORY}/root"), format!("{MODULE_DIRECTORY}/modprobe"));
    fs::create_dir_all(format!("{root}/lib"))?;
    symlink(Path::new(&modules).join("lib/modules"), format!("{root}/lib/modules"))?;
    fs::write(&helper, format!("#!/bin/sh\nexec modprobe -d {root} \"$@\"\n"))?;
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755))?;
    fs::write("/proc/sys/kernel/modprobe", &helper).during(|| "/proc/sys/kernel/modprobe".into())
}

/// Loads modules. On a running kernel that is not the lab's own, the usual place of modules serves.
pub(crate) fn load(modules: &[&str]) -> Outcome {
    let mut command = Command::new("modprobe");
    if Path::new(MODULE_DIRECTORY).exists() {
        command.arg("-d").arg(format!("{MODULE_DIRECTORY}/root"));
    }
    let output = command.env("PATH", PATH).arg("-a").args(modules).output().during(|| "modprobe".into())?;
    ensure(output.status.success(), || {
        format!("modprobe {}: {}", modules.join(" "), String::from_utf8_lossy(&output.stderr).trim_end())
    })
}
