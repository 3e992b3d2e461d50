//! Guests that are QEMU processes: booted on one host, live-migrated to others over QMP.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::Ipv6Addr;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::json;

use super::guest::{ASK_WORLD, BEGIN, END, VARIABLE};
use super::image::Image;
use super::qmp::{Event, Qmp};
use crate::failure::{Failure, Outcome, While, ensure};
use crate::node::Node;
use crate::process::{Daemon, wait_until};
use crate::scenario::Lab;

/// Memory of a guest in MiB.
const MEMORY: u32 = 128;
/// The host's end of the guest's network card, a port of the (pseudo) home bridge, as in a domain's XML that names the bridge.
const TAP: &str = "tap-vm1";
/// Emulated inside User-Mode Linux on one slow processor, Debian's kernel boots in half a minute.
const BOOT: Duration = Duration::from_secs(240);
/// For a migration, likewise.
const MIGRATION: Duration = Duration::from_secs(240);

/// How memory and processor of a guest move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Memory first, then the processor.
    Precopy,
    /// The processor moves at once, and fetches the memory that it misses.
    Postcopy,
}

/// What a migration was like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moved {
    /// When the guest stood still at the source, since the epoch.
    pub(crate) stopped: Duration,
    /// When it went on at the target.
    pub(crate) resumed: Duration,
    /// From the command to the end.
    pub(crate) took: Duration,
}

impl Moved {
    /// QEMU's own pause: the guest runs nowhere.
    pub(crate) fn pause(&self) -> Duration {
        self.resumed.saturating_sub(self.stopped)
    }
}

/// A QEMU process.
pub(crate) struct Machine<'lab> {
    node: &'lab Node,
    name: String,
    process: Daemon<'lab>,
    qmp: Qmp,
    serial: Serial,
}

impl<'lab> Machine<'lab> {
    /// Boots a guest in `node` and waits until its services run.
    pub(crate) fn boot(lab: &'lab Lab, node: &'lab Node, name: &str, mac: &str, address: Ipv6Addr) -> Outcome<Self> {
        let mut machine = Self::start(lab, node, name, mac, address, false)?;
        machine.serial.wait_for("guest-ready", BOOT)?;
        Ok(machine)
    }

    /// A process in `node` that waits for the guest to come.
    pub(crate) fn expect(lab: &'lab Lab, node: &'lab Node, name: &str, mac: &str, address: Ipv6Addr) -> Outcome<Self> {
        Self::start(lab, node, name, mac, address, true)
    }

    fn start(
        lab: &'lab Lab,
        node: &'lab Node,
        name: &str,
        mac: &str,
        address: Ipv6Addr,
        incoming: bool,
    ) -> Outcome<Self> {
        let image = lab.image.as_ref().ok_or_else(|| Failure::new("the lab has no image of a guest"))?;
        node.ip(&format!("tuntap add dev {TAP} mode tap"))?;
        node.sysctl(&format!("conf/{TAP}/disable_ipv6"), "1")?;
        node.ip(&format!("link set {TAP} master br-home\nlink set {TAP} up"))?;
        for socket in ["qmp", "serial"] {
            // A socket of an earlier process of that name would refuse the connection.
            let _ = std::fs::remove_file(lab.directory.join(format!("{name}.{socket}")));
        }
        let mut command = command(image, name, mac, address);
        if incoming {
            command.args(["-incoming", "defer"]);
        }
        let mut process = Daemon::start(node, &format!("qemu-{name}"), &lab.directory, command)?;
        let qmp = connect(&lab.directory, &format!("{name}.qmp"), &mut process)?;
        let serial = connect(&lab.directory, &format!("{name}.serial"), &mut process)?;
        Ok(Self { node, name: name.to_owned(), process, qmp: Qmp::connect(qmp)?, serial: Serial::new(serial)? })
    }

    /// What the guest sees, and its kernel's log.
    pub(crate) fn world(&mut self) -> Outcome<(String, String)> {
        self.serial.world()
    }

    /// Live migration to `target`, to its end: afterwards this process holds nothing any more.
    pub(crate) fn migrate(&mut self, target: &mut Machine<'_>, mode: Mode) -> Outcome<Moved> {
        let started = Instant::now();
        let socket = format!("{}-to-{}.socket", self.name, target.name);
        let uri = format!("unix:{socket}");
        let capabilities = json!({ "capabilities": [
            { "capability": "events", "state": true },
            { "capability": "postcopy-ram", "state": mode == Mode::Postcopy },
        ]});
        for side in [&mut self.qmp, &mut target.qmp] {
            side.command("migrate-set-capabilities", capabilities.clone())?;
        }
        target.qmp.command("migrate-incoming", json!({ "uri": uri }))?;
        self.qmp.command("migrate", json!({ "uri": uri }))?;
        if mode == Mode::Postcopy {
            self.qmp.wait_for("MIGRATION active", MIGRATION, |event| status(event, "active"))?;
            self.qmp.command("migrate-start-postcopy", json!({}))?;
        }
        let stopped = self.qmp.wait_for_event("STOP", MIGRATION)?.time;
        let resumed = target.qmp.wait_for_event("RESUME", MIGRATION)?.time;
        self.qmp.wait_for("MIGRATION completed", MIGRATION, |event| status(event, "completed"))?;
        Ok(Moved { stopped, resumed, took: started.elapsed() })
    }

    /// Begins a migration, cancels it, and waits until the guest runs here again.
    pub(crate) fn migrate_and_cancel(&mut self, target: &mut Machine<'_>) -> Outcome {
        let uri = format!("unix:{}-cancelled.socket", self.name);
        let capabilities = json!({ "capabilities": [
            { "capability": "events", "state": true },
            { "capability": "postcopy-ram", "state": false },
        ]});
        for side in [&mut self.qmp, &mut target.qmp] {
            side.command("migrate-set-capabilities", capabilities.clone())?;
        }
        // So slow that it cannot be done before it is cancelled.
        self.qmp.command("migrate-set-parameters", json!({ "max-bandwidth": 1 << 20 }))?;
        target.qmp.command("migrate-incoming", json!({ "uri": uri }))?;
        self.qmp.command("migrate", json!({ "uri": uri }))?;
        self.qmp.wait_for("MIGRATION active", MIGRATION, |event| status(event, "active"))?;
        self.qmp.command("migrate_cancel", json!({}))?;
        self.qmp.wait_for("MIGRATION cancelled", MIGRATION, |event| {
            (event.migration_status() == Some("cancelled")).then_some(Ok(()))
        })?;
        // QEMU's default.
        self.qmp.command("migrate-set-parameters", json!({ "max-bandwidth": 128 << 20 })).map(|_| ())
    }

    /// Ends the process, unless it has ended by itself as the target of a migration that was given up, and takes its network card away.
    pub(crate) fn end(mut self) -> Outcome {
        let _ = self.qmp.command("quit", json!({}));
        self.process.wait(Duration::from_secs(30))?;
        self.node.ip(&format!("link del {TAP}"))
    }
}

/// `status` of a migration, or the failure that it has ended with.
fn status(event: &Event, wanted: &str) -> Option<Outcome<()>> {
    match event.migration_status()? {
        "failed" => Some(Err(Failure::new("the migration failed"))),
        status if status == wanted => Some(Ok(())),
        _ => None,
    }
}

fn command(image: &Image, name: &str, mac: &str, address: Ipv6Addr) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    // Emulation is no clockwork: the kernel would complain of its clocks, wherever the guest is.
    let kernel = "console=ttyS0 quiet mitigations=off no_timer_check tsc=reliable";
    command
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-machine", "pc", "-smp", "1"])
        // Without a hardware source of randomness the guest's first program waits for some.
        .args(["-accel", "tcg,tb-size=32", "-cpu", "qemu64,+rdrand"])
        .args(["-m", &MEMORY.to_string(), "-kernel"])
        .arg(&image.kernel)
        .arg("-initrd")
        .arg(&image.initramfs)
        .args(["-append", &format!("{kernel} {VARIABLE}={address}/64")])
        .args(["-netdev", &format!("tap,id=net,ifname={TAP},script=no,downscript=no")])
        .args(["-device", &format!("virtio-net-pci,netdev=net,mac={mac},romfile=")])
        .args(["-chardev", &format!("socket,id=serial,path={name}.serial,server=on,wait=off,logfile={name}.console")])
        .args(["-serial", "chardev:serial"])
        .args(["-qmp", &format!("unix:{name}.qmp,server=on,wait=off")])
        // For the daemon of the host: each node has a /run of its own.
        .args(["-qmp", "unix:/run/vm1.qmp,server=on,wait=off"]);
    command
}

/// Connects to a socket in the scenario's directory, whose own name may be too long for an address.
fn connect(directory: &Path, name: &str, process: &mut Daemon<'_>) -> Outcome<UnixStream> {
    let opened = File::open(directory)?;
    let path = format!("/proc/self/fd/{}/{name}", opened.as_raw_fd());
    let mut stream = None;
    wait_until(&format!("QEMU listens on {name}"), Duration::from_secs(60), || {
        process.must_run()?;
        stream = UnixStream::connect(&path).ok();
        Ok(stream.is_some())
    })?;
    stream.ok_or_else(|| Failure::new(format!("no connection to {name}")))
}

/// The guest's serial line.
struct Serial {
    writer: UnixStream,
    lines: mpsc::Receiver<String>,
}

impl Serial {
    fn new(stream: UnixStream) -> Outcome<Self> {
        let writer = stream.try_clone()?;
        let (line, lines) = mpsc::channel();
        std::thread::Builder::new().name("serial".into()).spawn(move || {
            let mut reader = BufReader::new(stream);
            let mut bytes = Vec::new();
            // The firmware writes what is no text.
            while reader.read_until(b'\n', &mut bytes).is_ok_and(|length| length > 0) {
                let text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
                bytes.clear();
                if line.send(text).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { writer, lines })
    }

    fn wait_for(&mut self, wanted: &str, timeout: Duration) -> Outcome {
        let deadline = Instant::now() + timeout;
        let mut last = String::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self
                .lines
                .recv_timeout(left)
                .during(|| format!("the guest has not said {wanted:?}; last: {last:?}"))?;
            if line.contains(wanted) {
                return Ok(());
            }
            ensure(!line.starts_with("guest: "), || line.clone())?;
            last = line;
        }
    }

    /// Addresses, routes, link and routers; and the kernel's log.
    fn world(&mut self) -> Outcome<(String, String)> {
        writeln!(self.writer, "{ASK_WORLD}")?;
        self.wait_for(BEGIN, Duration::from_secs(60))?;
        let (mut world, mut log) = (String::new(), String::new());
        loop {
            let line = self.lines.recv_timeout(Duration::from_secs(60)).during(|| "the guest's report".into())?;
            if line.contains(END) {
                ensure(!world.contains("failed:"), || world.clone())?;
                return Ok((world, log));
            }
            let to = if line.starts_with("kernel ") { &mut log } else { &mut world };
            to.push_str(&line);
            to.push('\n');
        }
    }
}
