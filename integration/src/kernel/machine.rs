//! One machine: QEMU with a kernel, and virtiofsd that gives it the root file system of this machine.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::accelerator::Accelerator;
use super::image::Image;
use crate::failure::{Failure, Outcome, While, ensure};
use crate::sys::time_stamp_rate;

/// Names the directory of the run to init: the kernel hands variables it does not know to init's environment.
pub(crate) const RUN_VARIABLE: &str = "KAGEMUSHA_LAB_RUN";
/// Where the kernel's modules are, likewise.
pub(crate) const MODULES_VARIABLE: &str = "KAGEMUSHA_LAB_MODULES";
/// In place of a run: the machine tells that it is up, and ends.
pub(crate) const TRIAL: &str = "trial";
/// The port by which a machine tells the lab outside what the user shall see.
pub(crate) const LAB_PORT: &str = "lab";

/// What the kernel says goes to this file in the directory of a run.
pub(crate) const CONSOLE: &str = "console.log";

const MEMORY_MEGABYTES: u32 = 1536;
/// Two, so that what is wrong on more than one CPU is seen.
pub(crate) const CPUS: u32 = 2;
/// Where virtiofsd is: the packages of Debian 12 and 13 have it beside what users call.
pub(crate) const VIRTIOFSD: [&str; 3] = ["/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/bin/virtiofsd"];
/// It makes its socket at once.
const FILE_SYSTEM_READY: Duration = Duration::from_secs(20);

/// What any kernel is told that may be emulated: nobody attacks what it executes, and emulation is no clockwork.
pub(crate) fn emulated() -> String {
    // Where this machine is busy, a kernel that finds out for itself how fast its processor counts may find a tenth of it,
    // and its clock then goes ten times too fast. Emulation and KVM both show the counter of this processor.
    format!("mitigations=off no_timer_check tsc=reliable tsc_early_khz={}", time_stamp_rate())
}

/// What is to be booted.
pub(crate) struct Boot<'a> {
    pub(crate) image: &'a Image,
    pub(crate) accelerator: Accelerator,
    /// The lab's own program, which is init.
    pub(crate) lab: &'a Path,
    /// Directory of the run, or [`TRIAL`].
    pub(crate) run: &'a Path,
    /// Where its log files go.
    pub(crate) logs: &'a Path,
    /// More arguments of QEMU.
    pub(crate) devices: &'a [OsString],
    /// More words on the kernel's command line.
    pub(crate) append: &'a str,
}

/// A running machine. Dropping it ends it.
pub(crate) struct Machine {
    // In the order in which they go.
    qemu: Owner,
    _file_system: Owner,
    _scratch: Scratch,
}

impl Machine {
    /// Starts both.
    pub(crate) fn boot(boot: &Boot<'_>) -> Outcome<Self> {
        let scratch = Scratch::new()?;
        let file_system = Owner(start_file_system(scratch.path(), boot.logs)?);
        let qemu = command(boot, scratch.path())?.spawn().during(|| "starting qemu-system-x86_64".into())?;
        Ok(Self { qemu: Owner(qemu), _file_system: file_system, _scratch: scratch })
    }

    /// What the machine tells by its port, and what QEMU itself complains of.
    pub(crate) fn streams(&mut self) -> Outcome<(ChildStdout, ChildStderr)> {
        match (self.qemu.0.stdout.take(), self.qemu.0.stderr.take()) {
            (Some(output), Some(error)) => Ok((output, error)),
            _ => Err(Failure::new("the streams of QEMU are taken")),
        }
    }
}

/// A child of ours. Dropping this ends it.
pub(crate) struct Owner(Child);

impl Owner {
    pub(crate) fn of(child: Child) -> Self {
        Self(child)
    }

    /// How it has ended, if it has.
    pub(crate) fn ended(&mut self) -> Outcome<Option<ExitStatus>> {
        Ok(self.0.try_wait()?)
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // It may have ended; either way it is gone afterwards.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A directory for as long as this lives, whose name the kernel's command line and the address of a socket can hold.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Outcome<Self> {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let scratch = std::env::temp_dir().join(format!("kagemusha-lab-{}-{number}", std::process::id()));
        ensure(!scratch.to_string_lossy().contains(char::is_whitespace), || {
            format!("{}: a kernel command line cannot hold white space; set TMPDIR", scratch.display())
        })?;
        fs::create_dir(&scratch).during(|| scratch.display().to_string())?;
        Ok(Self(scratch))
    }

    /// Removes what labs that were killed have left.
    pub(crate) fn sweep() {
        let number = |name: &str| name.strip_prefix("kagemusha-lab-")?.split_once('-')?.0.parse::<u32>().ok();
        for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
            let maker = number(&entry.file_name().to_string_lossy());
            if maker.is_some_and(|maker| !Path::new(&format!("/proc/{maker}")).exists()) {
                // Another lab may do the same.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A program that ends when the lab ends, however that comes about.
pub(crate) fn bound_to_us(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program).stdin(Stdio::null());
    command
}

/// virtiofsd, where it is installed.
pub(crate) fn virtiofsd() -> Option<&'static Path> {
    VIRTIOFSD.into_iter().map(Path::new).find(|path| path.exists())
}

fn start_file_system(scratch: &Path, logs: &Path) -> Outcome<Child> {
    let program = virtiofsd().ok_or_else(|| Failure::new("virtiofsd is missing"))?;
    let (socket, log) = (scratch.join("fs"), logs.join("virtiofsd.log"));
    let file = File::create(&log).during(|| log.display().to_string())?;
    let mut command = bound_to_us(program);
    command.arg(format!("--socket-path={}", socket.display()));
    // Nothing but this machine changes what the kernel inside keeps in its cache.
    for option in ["source=/", "cache=always", "sandbox=chroot", "xattr"] {
        command.args(["-o", option]);
    }
    command.arg("--thread-pool-size=4").stdout(file.try_clone()?).stderr(file);
    let mut child = command.spawn().during(|| program.display().to_string())?;
    let deadline = Instant::now() + FILE_SYSTEM_READY;
    while !socket.exists() {
        let ended = child.try_wait()?;
        if ended.is_some() || Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            let said = fs::read_to_string(&log).unwrap_or_default();
            let last = said.lines().last().unwrap_or("it has not said why").to_owned();
            return Err(Failure::new(format!("{} does not serve: {last}; see {}", program.display(), log.display())));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(child)
}

/// A comma in the value of an option of QEMU.
pub(crate) fn escape(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

fn command(boot: &Boot<'_>, scratch: &Path) -> Outcome<Command> {
    let init = scratch.join("init");
    symlink(boot.lab, &init).during(|| init.display().to_string())?;
    let link = |name: &str, target: &Path| -> Outcome<PathBuf> {
        let link = scratch.join(name);
        symlink(target, &link).during(|| link.display().to_string())?;
        Ok(link)
    };
    let run = if boot.run == Path::new(TRIAL) { TRIAL.into() } else { link("run", boot.run)? };
    let mut words = format!("console=ttyS0 quiet init={} {RUN_VARIABLE}={}", init.display(), run.display());
    if let Some(modules) = &boot.image.modules {
        words.push_str(&format!(" {MODULES_VARIABLE}={}", link("modules", modules)?.display()));
    }
    // A panic ends it at once.
    words.push_str(&format!(" panic=-1 nokaslr {}", emulated()));
    words.push_str(if boot.image.initramfs.is_some() {
        " rdinit=/init"
    } else {
        " rootfstype=virtiofs root=rootfs rw"
    });
    // The last word of a kind counts.
    words = format!("{words} {}", boot.append);
    let memory = format!("{MEMORY_MEGABYTES}M");
    let mut command = bound_to_us(Path::new("qemu-system-x86_64"));
    command
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-machine", "q35"])
        .args(boot.accelerator.arguments())
        .args(["-smp", &CPUS.to_string(), "-m", &memory])
        .args(["-object", &format!("memory-backend-memfd,id=memory,size={memory},share=on")])
        .args(["-numa", "node,memdev=memory"])
        .args(["-chardev", &format!("socket,id=fs,path={}", scratch.join("fs").display())])
        .args(["-device", "vhost-user-fs-pci,chardev=fs,tag=rootfs"])
        .args(["-device", "virtio-rng-pci"])
        .args(["-chardev", &format!("file,id=console,path={}", escape(&boot.logs.join(CONSOLE)))])
        .args(["-serial", "chardev:console"])
        .args(["-device", "virtio-serial-pci", "-chardev", "file,id=lab,path=/dev/stdout"])
        .args(["-device", &format!("virtserialport,chardev=lab,name={LAB_PORT}")])
        .args(boot.devices)
        .arg("-kernel")
        .arg(&boot.image.kernel)
        .args(["-append", words.trim_end()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(initramfs) = &boot.image.initramfs {
        command.arg("-initrd").arg(initramfs);
    }
    Ok(command)
}
