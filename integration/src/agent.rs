//! A node in another machine: whoever drives a scenario asks, and an agent there does it. Both speak lines of JSON over a port that QEMU joins.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Outcome, While, ensure};
use crate::init;
use crate::node::Node;

/// Name of the port, on both sides.
pub(crate) const PORT: &str = "peer";

/// Network cards that join the two machines: the name at the node, the MAC address there, the one at the machine with the wires.
pub(crate) const CARDS: [Card; 2] = [
    Card { name: "eth0", there: "52:54:00:fd:00:01", here: "52:54:00:fe:00:01" },
    Card { name: "eth1", there: "52:54:00:fd:00:02", here: "52:54:00:fe:00:02" },
];

/// See [`CARDS`].
pub(crate) struct Card {
    pub(crate) name: &'static str,
    pub(crate) there: &'static str,
    pub(crate) here: &'static str,
}

/// A card is back among those of the machine when the namespace it was in is gone, which the kernel does in its own time.
const CARD_IS_BACK: Duration = Duration::from_secs(60);

#[derive(Debug, Serialize, Deserialize)]
enum Request {
    /// A new node, which has all cards, in place of the one before.
    Node(String),
    /// A program to its end.
    Run {
        program: Program,
        input: String,
    },
    /// A program that goes on; its output is added to the file.
    Spawn {
        program: Program,
        log: PathBuf,
    },
    /// Whether a program has ended.
    Poll(u32),
    Signal {
        process: u32,
        signal: i32,
    },
    Read(PathBuf),
    Write {
        path: PathBuf,
        text: String,
    },
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Done,
    Ended { status: i32, output: Vec<u8>, error: Vec<u8> },
    Process(u32),
    Status(Option<i32>),
    Text(Vec<u8>),
    Failed(String),
}

/// What [`Command`] says, in a form that travels.
#[derive(Debug, Serialize, Deserialize)]
struct Program {
    words: Vec<String>,
    environment: Vec<(String, String)>,
    directory: Option<PathBuf>,
}

impl Program {
    fn of(command: &Command) -> Self {
        let text = |word: &std::ffi::OsStr| word.to_string_lossy().into_owned();
        let words = std::iter::once(command.get_program()).chain(command.get_args()).map(text).collect();
        let set = command.get_envs().filter_map(|(name, value)| Some((text(name), text(value?))));
        Self { words, environment: set.collect(), directory: command.get_current_dir().map(Path::to_owned) }
    }

    fn command(&self) -> Outcome<Command> {
        let (program, arguments) = self.words.split_first().ok_or_else(|| Failure::new("no program is named"))?;
        let mut command = Command::new(program);
        command.args(arguments).envs(self.environment.iter().cloned());
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        Ok(command)
    }
}

/// The asking side.
pub(crate) struct Agent(Mutex<(BufReader<File>, File)>);

impl Agent {
    /// Opens the port to the other machine, whose agent may not be there yet: what is asked waits for it.
    pub(crate) fn connect() -> Outcome<Self> {
        let port = init::open_port(PORT)?;
        Ok(Self(Mutex::new((BufReader::new(port.try_clone()?), port))))
    }

    fn ask(&self, request: &Request) -> Outcome<Answer> {
        let mut port = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let line = serde_json::to_string(request)? + "\n";
        port.1.write_all(line.as_bytes()).during(|| "asking the other machine".into())?;
        let mut answer = String::new();
        let length = port.0.read_line(&mut answer).during(|| "the other machine's answer".into())?;
        ensure(length > 0, || "the other machine is gone; see the console in the directory of its run".into())?;
        match serde_json::from_str(&answer)? {
            Answer::Failed(why) => Err(Failure::new(format!("the other machine: {why}"))),
            answer => Ok(answer),
        }
    }

    /// Makes the node anew.
    pub(crate) fn make_node(&self, name: &str) -> Outcome {
        self.ask(&Request::Node(name.to_owned())).map(|_| ())
    }

    /// Runs a program to its end.
    pub(crate) fn run(&self, command: &Command, input: &str) -> Outcome<Output> {
        match self.ask(&Request::Run { program: Program::of(command), input: input.to_owned() })? {
            Answer::Ended { status, output, error } => {
                Ok(Output { status: ExitStatus::from_raw(status), stdout: output, stderr: error })
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Starts a program; a number for it.
    pub(crate) fn spawn(&self, command: &Command, log: &Path) -> Outcome<u32> {
        match self.ask(&Request::Spawn { program: Program::of(command), log: log.to_owned() })? {
            Answer::Process(number) => Ok(number),
            other => Err(unexpected(&other)),
        }
    }

    /// How a program has ended, if it has.
    pub(crate) fn poll(&self, process: u32) -> Outcome<Option<ExitStatus>> {
        match self.ask(&Request::Poll(process))? {
            Answer::Status(status) => Ok(status.map(ExitStatus::from_raw)),
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) fn signal(&self, process: u32, signal: Signal) -> Outcome {
        self.ask(&Request::Signal { process, signal: signal as i32 }).map(|_| ())
    }

    /// The content of a file, as a program there sees it.
    pub(crate) fn read(&self, path: &Path) -> Outcome<Vec<u8>> {
        match self.ask(&Request::Read(path.to_owned()))? {
            Answer::Text(text) => Ok(text),
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) fn write(&self, path: &Path, text: &str) -> Outcome {
        self.ask(&Request::Write { path: path.to_owned(), text: text.to_owned() }).map(|_| ())
    }
}

fn unexpected(answer: &Answer) -> Failure {
    Failure::new(format!("the other machine has answered {answer:?}"))
}

/// The answering side, until the port is closed.
pub(crate) fn serve() -> Outcome {
    // What umip needs; the kernel does not ask for it by itself.
    init::load(&["ip6_tunnel", "xfrm6_tunnel"])?;
    let port = init::open_port(PORT)?;
    let mut answers = port.try_clone()?;
    let mut served = Served::default();
    for line in BufReader::new(port).lines() {
        let request = serde_json::from_str(&line.during(|| "the port".into())?)?;
        let answer = served.answer(request).unwrap_or_else(|failure| Answer::Failed(failure.to_string()));
        let line = serde_json::to_string(&answer)? + "\n";
        answers.write_all(line.as_bytes()).during(|| "the port".into())?;
    }
    Ok(())
}

#[derive(Default)]
struct Served {
    node: Option<Node>,
    processes: BTreeMap<u32, Child>,
}

impl Served {
    fn answer(&mut self, request: Request) -> Outcome<Answer> {
        let away = || Failure::new("there is no node yet");
        match request {
            Request::Node(name) => {
                self.end_all();
                if let Some(node) = self.node.take() {
                    CARDS.iter().try_for_each(|card| give_back(&node, card.name, card.there))?;
                }
                let node = Node::new(&name)?;
                for card in &CARDS {
                    move_card(card.there, &node, card.name)?;
                }
                self.node = Some(node);
                Ok(Answer::Done)
            }
            Request::Run { program, input } => {
                let mut command = program.command()?;
                command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
                let mut child = self.node.as_ref().ok_or_else(away)?.spawn(command)?;
                if let Some(mut to) = child.stdin.take() {
                    // A program that does not read has its reasons.
                    let _ = to.write_all(input.as_bytes());
                }
                let output = child.wait_with_output()?;
                let status = output.status.into_raw();
                Ok(Answer::Ended { status, output: output.stdout, error: output.stderr })
            }
            Request::Spawn { program, log } => {
                let file = File::options().create(true).append(true).open(&log);
                let file = file.during(|| log.display().to_string())?;
                let mut command = program.command()?;
                command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
                let child = self.node.as_ref().ok_or_else(away)?.spawn(command)?;
                let number = child.id();
                self.processes.insert(number, child);
                Ok(Answer::Process(number))
            }
            Request::Poll(number) => {
                let child = self.processes.get_mut(&number).ok_or_else(|| no_process(number))?;
                Ok(Answer::Status(child.try_wait()?.map(ExitStatusExt::into_raw)))
            }
            Request::Signal { process, signal } => {
                let child = self.processes.get(&process).ok_or_else(|| no_process(process))?;
                let pid = i32::try_from(child.id()).during(|| "process id".into())?;
                kill(Pid::from_raw(pid), Signal::try_from(signal)?)?;
                Ok(Answer::Done)
            }
            Request::Read(path) => {
                let node = self.node.as_ref().ok_or_else(away)?;
                node.run(move || fs::read(&path).during(|| path.display().to_string()))?.map(Answer::Text)
            }
            Request::Write { path, text } => {
                let node = self.node.as_ref().ok_or_else(away)?;
                node.run(move || fs::write(&path, text).during(|| path.display().to_string()))??;
                Ok(Answer::Done)
            }
        }
    }

    fn end_all(&mut self) {
        for child in self.processes.values_mut() {
            // They may have ended.
            let _ = child.kill();
            let _ = child.wait();
        }
        self.processes.clear();
    }
}

fn no_process(number: u32) -> Failure {
    Failure::new(format!("no process {number} was started"))
}

/// Moves the machine's card with that MAC address into a node, under a name.
pub(crate) fn move_card(mac: &str, node: &Node, name: &str) -> Outcome {
    let deadline = Instant::now() + CARD_IS_BACK;
    let card = loop {
        if let Some(card) = card_with(mac) {
            break card;
        }
        ensure(Instant::now() < deadline, || format!("the machine has no network card {mac}"))?;
        std::thread::sleep(Duration::from_millis(20));
    };
    let namespace = node.namespace_path()?;
    let mut command = Command::new("ip");
    command.args(["link", "set", "dev", &card, "netns"]).arg(namespace).args(["name", name]).stdin(Stdio::null());
    let output = command.output().during(|| "ip".into())?;
    ensure(output.status.success(), || {
        format!("moving the card {mac}: {}", String::from_utf8_lossy(&output.stderr).trim_end())
    })
}

/// Moves a card of a node back to the machine. The kernel would do that when the namespace goes, which something in it may delay for long.
/// It is known by its MAC address, which a scenario may have changed.
pub(crate) fn give_back(node: &Node, name: &str, mac: &str) -> Outcome {
    // Namespaces have a process 1: that of the machine.
    node.ip(&format!("link set {name} down\nlink set {name} address {mac}\nlink set {name} netns 1"))
}

fn card_with(mac: &str) -> Option<String> {
    fs::read_dir("/sys/class/net").ok()?.flatten().find_map(|entry| {
        let address = fs::read_to_string(entry.path().join("address")).ok()?;
        (address.trim() == mac).then(|| entry.file_name().to_string_lossy().into_owned())
    })
}
