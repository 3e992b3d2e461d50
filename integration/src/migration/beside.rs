//! Guests in QEMU beside the lab's machine (outer side), so that one emulation carries each, and not one the other.
//!
//! ```text
//!   outside                                          the lab's machine
//!   guest's process NAME ── NAME.net ─────────────── network card with the MAC address of NAME, a port of br-home
//!                        ── NAME.qmp, NAME.serial ── ports of the same names: who drives the guest
//!                        ── NAME.hypervisor ──────── port of the same name: the daemon of the host
//!         └── the migration, from process to process
//! ```
//!
//! A guest that moves needs a process wherever it goes. All are started with the machine: one that waits for its guest costs nothing.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::guest::VARIABLE;
use super::image::GuestImage;
use crate::failure::{Failure, Outcome, While};
use crate::kernel::accelerator::Accelerator;
use crate::kernel::machine::{Owner, Scratch, bound_to_us, emulated, escape};
use crate::topology::cast::{GUEST, GUEST_MAC};

/// Memory of a guest, 128 MiB and a little more. Of what is a multiple of 256 KiB QEMU before 9.0 notes what the guest
/// writes in a way that emulation passes by, and a guest that moves loses what it has written ("physmem: Fix migration
/// dirty bitmap coherency with TCG memory access").
const MEMORY: &str = "131080K";
/// QEMU makes its sockets at once.
const READY: Duration = Duration::from_secs(60);

/// The processes that the guest is in, or may come to be in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Process {
    /// At home, where the guest boots.
    Home,
    /// At site 1.
    One,
    /// At site 2; its guest never comes.
    Never,
    /// At site 2.
    Two,
    /// At home, in the end.
    HomeAgain,
}

/// What is said to a process and by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Channel {
    /// QEMU's machine protocol, for the one who drives the guest.
    Qmp,
    /// The same once more, for the daemon of the host.
    Hypervisor,
    /// The guest's serial line.
    Serial,
}

impl Channel {
    const ALL: [Self; 3] = [Self::Qmp, Self::Hypervisor, Self::Serial];

    fn name(self) -> &'static str {
        match self {
            Self::Qmp => "qmp",
            Self::Hypervisor => "hypervisor",
            Self::Serial => "serial",
        }
    }
}

impl Process {
    pub(crate) const ALL: [Self; 5] = [Self::Home, Self::One, Self::Never, Self::Two, Self::HomeAgain];

    /// For the user and for files.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Home => "home",
            Self::One => "one",
            Self::Never => "never",
            Self::Two => "two",
            Self::HomeAgain => "home-again",
        }
    }

    /// The MAC address of the machine's network card at the other end of the guest's. So high that no bridge takes it for its own.
    pub(crate) fn card(self) -> String {
        format!("fe:4b:47:00:00:{:02x}", self as u8)
    }

    /// Name of the machine's port at the other end of a channel, and of the socket.
    pub(crate) fn port(self, channel: Channel) -> String {
        format!("{}.{}", self.name(), channel.name())
    }

    fn network(self) -> String {
        format!("{}.net", self.name())
    }

    fn sockets(self) -> impl Iterator<Item = String> {
        Channel::ALL.into_iter().map(move |channel| self.port(channel)).chain([self.network()])
    }
}

/// The running processes. Dropping this ends them.
pub(crate) struct Guests {
    processes: Vec<(Process, Owner)>,
    /// Holds the sockets, by names that are short enough for an address.
    scratch: Scratch,
}

impl Guests {
    /// Starts all, and waits until a machine can be joined to them. Their logs go to `logs`.
    pub(crate) fn start(image: &GuestImage, accelerator: Accelerator, logs: &Path) -> Outcome<Self> {
        fs::create_dir_all(logs).during(|| logs.display().to_string())?;
        let mut guests = Self { processes: vec![], scratch: Scratch::new()? };
        for process in Process::ALL {
            let log = logs.join(format!("qemu-{}.log", process.name()));
            let file = File::create(&log).during(|| log.display().to_string())?;
            let mut command = guests.command(process, image, accelerator, logs);
            command.stdout(file.try_clone()?).stderr(file);
            let child = command.spawn().during(|| "starting qemu-system-x86_64".into())?;
            guests.processes.push((process, Owner::of(child)));
        }
        guests.wait(logs)?;
        Ok(guests)
    }

    fn wait(&mut self, logs: &Path) -> Outcome {
        let sockets: Vec<PathBuf> =
            Process::ALL.into_iter().flat_map(Process::sockets).map(|name| self.scratch.path().join(name)).collect();
        let deadline = Instant::now() + READY;
        loop {
            let listening = listening(&fs::read_to_string("/proc/net/unix").during(|| "/proc/net/unix".into())?);
            let Some(missing) = sockets.iter().find(|socket| !listening.contains(socket)) else { return Ok(()) };
            for (process, owner) in &mut self.processes {
                if let Some(status) = owner.ended()? {
                    let log = logs.join(format!("qemu-{}.log", process.name()));
                    let said = fs::read_to_string(&log).unwrap_or_default();
                    let first = said.lines().next().unwrap_or("it has not said why").to_owned();
                    return Err(Failure::new(format!("QEMU of the guest has ended ({status}): {first}")));
                }
            }
            if Instant::now() > deadline {
                return Err(Failure::timeout(format!("QEMU of the guest does not listen on {}", missing.display())));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What the machine needs to be joined to them, as arguments of QEMU.
    pub(crate) fn devices(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec![];
        let mut add = |option: &str, value: String| arguments.extend([option.into(), value.into()]);
        for process in Process::ALL {
            let (name, card) = (process.name(), process.card());
            add("-netdev", self.wire(process, "off"));
            add("-device", format!("virtio-net-pci,netdev={name},mac={card},romfile="));
            // Each with a controller of its own: what a controller tells of many ports at once, QEMU loses where the kernel
            // is slow to hear it, and a port of which it has lost that it is joined is never written.
            add("-device", format!("virtio-serial-pci,id={name}-ports,max_ports=4"));
            for channel in Channel::ALL {
                let port = process.port(channel);
                add("-chardev", format!("socket,id={port},path={}", self.socket(&port)));
                add("-device", format!("virtserialport,bus={name}-ports.0,chardev={port},name={port}"));
            }
        }
        arguments
    }

    /// One end of the wire between a guest's network card and the machine's.
    fn wire(&self, process: Process, server: &str) -> String {
        let path = self.socket(&process.network());
        format!("stream,id={},server={server},addr.type=unix,addr.path={path}", process.name())
    }

    fn socket(&self, name: &str) -> String {
        escape(&self.scratch.path().join(name))
    }

    fn command(&self, process: Process, image: &GuestImage, accelerator: Accelerator, logs: &Path) -> Command {
        let name = process.name();
        let mut command = bound_to_us(Path::new("qemu-system-x86_64"));
        // Emulation is no clockwork: the kernel would complain of its clocks, wherever the guest is.
        let kernel = format!("console=ttyS0 quiet {}", emulated());
        let console = logs.join(format!("{name}.console"));
        let serial = self.socket(&process.port(Channel::Serial));
        command
            // The sockets of migrations are made here.
            .current_dir(self.scratch.path())
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-machine", "pc", "-smp", "1"])
            .args(match accelerator {
                Accelerator::Kvm => accelerator.arguments(),
                // Without a hardware source of randomness the guest's first program waits for some.
                Accelerator::Tcg => &["-accel", "tcg,tb-size=64", "-cpu", "qemu64,+rdrand"],
            })
            .args(["-m", MEMORY, "-kernel"])
            .arg(&image.kernel)
            .arg("-initrd")
            .arg(&image.initramfs)
            .args(["-append", &format!("{kernel} {VARIABLE}={GUEST}/64")])
            .args(["-netdev", &self.wire(process, "on")])
            .args(["-device", &format!("virtio-net-pci,netdev={name},mac={GUEST_MAC},romfile=")])
            .args([
                "-chardev",
                &format!("socket,id=serial,path={serial},server=on,wait=off,logfile={}", escape(&console)),
            ])
            .args(["-serial", "chardev:serial"]);
        for channel in [Channel::Qmp, Channel::Hypervisor] {
            command.args(["-qmp", &format!("unix:{},server=on,wait=off", self.socket(&process.port(channel)))]);
        }
        match process {
            // Until it is told to go on.
            Process::Home => command.arg("-S"),
            _ => command.args(["-incoming", "defer"]),
        };
        command
    }
}

/// The names of the sockets that somebody listens on, of `/proc/net/unix`.
fn listening(table: &str) -> Vec<PathBuf> {
    // Flags of __SO_ACCEPTCON (linux/net.h) only listening sockets have.
    let is_listening = |line: &&str| line.split_whitespace().nth(3) == Some("00010000");
    let name = |line: &str| line.split_once(" /").map(|(_, name)| PathBuf::from(format!("/{name}")));
    table.lines().filter(is_listening).filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixDatagram, UnixListener};

    use super::*;

    #[test]
    fn who_listens_is_told_from_who_does_not() {
        let directory = std::env::temp_dir().join(format!("kagemusha-lab-listening-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let [listens, does_not] = ["listens here", "does-not"].map(|name| directory.join(name));
        let _kept = (UnixListener::bind(&listens).unwrap(), UnixDatagram::bind(&does_not).unwrap());
        let found = listening(&fs::read_to_string("/proc/net/unix").unwrap());
        fs::remove_dir_all(&directory).unwrap();
        assert!(found.contains(&listens) && !found.contains(&does_not), "{found:?}");
    }

    #[test]
    fn every_end_has_a_name_of_its_own() {
        let ends = |process: Process| process.sockets().chain([process.card()]);
        let mut all: Vec<String> = Process::ALL.into_iter().flat_map(ends).collect();
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!((all.len(), count), (25, 25));
    }
}
