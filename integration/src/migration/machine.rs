//! Guests that are QEMU processes, each at its site: live-migrated from one to the other over QMP.
//!
//! The processes are outside of the lab's machine (`beside`); here is the other end of their network cards, their QMP and their serial lines.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::json;

use super::beside::{Channel, Process};
use super::guest::{ASK_WORLD, BEGIN, END};
use super::hypervisor::Hypervisor;
use super::port::{Writer, halves};
use super::qmp::{Event, Qmp};
use super::traffic::now;
use crate::failure::{Failure, Outcome, While, ensure};
use crate::init::open_port;
use crate::node::Node;

/// The host's end of the guest's network card, a port of the (pseudo) home bridge, as in a domain's XML that names the bridge.
const PORT: &str = "tap-vm1";
/// Emulated on a slow machine that does other things, too.
const BOOT: Duration = Duration::from_secs(240);
/// For a migration, likewise.
const MIGRATION: Duration = Duration::from_secs(240);
/// For its end.
const END_OF_PROCESS: Duration = Duration::from_secs(60);
/// For its answer to what is asked on the serial line.
const ANSWER: Duration = Duration::from_secs(60);

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
    /// When it was begun, since the epoch, by the clock of captures.
    pub(crate) begun: Duration,
    /// QEMU's own pause: the guest runs nowhere. By the clock of the machine outside.
    pub(crate) pause: Duration,
    /// From the command to the end.
    pub(crate) took: Duration,
}

/// A QEMU process, as the host of its site has it.
pub(crate) struct Machine<'lab> {
    node: &'lab Node,
    process: Process,
    /// Name of its network card when it is nobody's.
    card: String,
    qmp: Qmp,
    serial: Serial,
    hypervisor: Hypervisor<'lab>,
}

impl<'lab> Machine<'lab> {
    /// Boots the guest in `node` and waits until its services run.
    pub(crate) fn boot(node: &'lab Node, process: Process) -> Outcome<Self> {
        let mut machine = Self::expect(node, process)?;
        machine.qmp.command("cont", json!({}))?;
        machine.serial.wait_for("guest-ready", BOOT)?;
        Ok(machine)
    }

    /// A process in `node` that waits for the guest to come.
    pub(crate) fn expect(node: &'lab Node, process: Process) -> Outcome<Self> {
        let card = plug(node, process)?;
        let port = |channel| open_port(&process.port(channel));
        let (reader, writer) = halves(port(Channel::Qmp)?)?;
        let qmp = Qmp::connect(reader, writer).during(|| format!("process {}", process.name()))?;
        let serial = Serial::new(port(Channel::Serial)?)?;
        let hypervisor = Hypervisor::offer(node, port(Channel::Hypervisor)?)?;
        Ok(Self { node, process, card, qmp, serial, hypervisor })
    }

    /// What the guest sees, and its kernel's log.
    pub(crate) fn world(&mut self) -> Outcome<(String, String)> {
        self.serial.world()
    }

    /// Live migration to `target`, to its end: afterwards this process holds nothing any more.
    pub(crate) fn migrate(&mut self, target: &mut Machine<'_>, mode: Mode) -> Outcome<Moved> {
        let (started, begun) = (Instant::now(), now());
        let uri = format!("unix:{}-to-{}.socket", self.process.name(), target.process.name());
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
        Ok(Moved { begun, pause: resumed.saturating_sub(stopped), took: started.elapsed() })
    }

    /// Begins a migration, cancels it, and waits until the guest runs here again.
    pub(crate) fn migrate_and_cancel(&mut self, target: &mut Machine<'_>) -> Outcome {
        let uri = format!("unix:{}-cancelled.socket", self.process.name());
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
        self.qmp.wait_for_end(END_OF_PROCESS).during(|| format!("process {}", self.process.name()))?;
        drop(self.hypervisor);
        // To where it was found.
        let card = &self.card;
        self.node.ip(&format!("link set {PORT} nomaster\nlink set {PORT} down\nlink set {PORT} netns 1 name {card}"))
    }
}

/// Makes the other end of a process's network card a port of the bridge in `node`. The name it had.
fn plug(node: &Node, process: Process) -> Outcome<String> {
    let card = card(&process.card())?;
    let namespace = node.namespace_path()?;
    let mut command = Command::new("ip");
    command.args(["link", "set", &card, "netns"]).arg(&namespace).args(["name", PORT]).stdin(Stdio::null());
    let output = command.output().during(|| "ip".into())?;
    ensure(output.status.success(), || {
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        format!("{card} cannot be given to {}: {}", node.name(), error.trim_end())
    })?;
    node.sysctl(&format!("conf/{PORT}/disable_ipv6"), "1")?;
    node.ip(&format!("link set {PORT} master br-home\nlink set {PORT} up"))?;
    Ok(card)
}

/// The network card that has this MAC address and was given to no node.
fn card(mac: &str) -> Outcome<String> {
    let directory = "/sys/class/net";
    let cards = fs::read_dir(directory).during(|| directory.into())?.flatten();
    let has_it = |path: &std::path::Path| fs::read_to_string(path.join("address")).is_ok_and(|text| text.trim() == mac);
    cards
        .map(|entry| entry.path())
        .find(|path| has_it(path))
        .and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
        .ok_or_else(|| Failure::new(format!("this machine has no network card {mac}")))
}

/// `status` of a migration, or the failure that it has ended with.
fn status(event: &Event, wanted: &str) -> Option<Outcome<()>> {
    match event.migration_status()? {
        "failed" => Some(Err(Failure::new("the migration failed"))),
        status if status == wanted => Some(Ok(())),
        _ => None,
    }
}

/// The guest's serial line.
struct Serial {
    writer: Writer,
    lines: mpsc::Receiver<String>,
}

impl Serial {
    fn new(port: File) -> Outcome<Self> {
        let (reader, writer) = halves(port)?;
        let (line, lines) = mpsc::channel();
        std::thread::Builder::new().name("serial".into()).spawn(move || {
            let mut reader = BufReader::new(reader);
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
        self.wait_for(BEGIN, ANSWER)?;
        let (mut world, mut log) = (String::new(), String::new());
        loop {
            let line = self.lines.recv_timeout(ANSWER).during(|| "the guest's report".into())?;
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
