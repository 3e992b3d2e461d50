//! What a scenario is, and what it has to work with.

use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::capture::{Capture, Observer};
use crate::failure::{Failure, Outcome, While, ensure};
use crate::job::LINE;
use crate::node::Node;
use crate::topology::{Link, Topology};

/// A scenario: a directory `integration/scenarios/<name>/` with its text, its code, and the policies that only it uses.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// `README.md`; its first line is the title.
    pub(crate) readme: &'static str,
    pub(crate) peer: Peer,
    /// Whether every packet is meant to be well-formed, so that tshark must have nothing to say against it.
    pub(crate) well_formed: bool,
    pub(crate) run: fn(&mut Lab) -> Outcome,
}

/// Who else takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    None,
    /// umip's `mip6d`.
    Umip,
}

impl Scenario {
    /// The first line of its README, without its name.
    pub(crate) fn title(&self) -> &'static str {
        let line = self.readme.lines().next().unwrap_or_default();
        line.split_once(": ").map_or(line, |(_, title)| title)
    }
}

/// The topology with everything that runs in it, made anew for every scenario.
pub(crate) struct Lab {
    pub(crate) net: Topology,
    /// Where the captures, logs and policies of this scenario are.
    pub(crate) directory: PathBuf,
    pub(crate) kagemusha: PathBuf,
    pub(crate) mip6d: Option<PathBuf>,
    started: Instant,
}

impl Lab {
    pub(crate) fn new(directory: &Path, kagemusha: &Path, mip6d: Option<&Path>) -> Outcome<Self> {
        let started = Instant::now();
        std::fs::create_dir_all(directory).during(|| directory.display().to_string())?;
        let net = Topology::build(directory)?;
        Ok(Self {
            net,
            directory: directory.to_owned(),
            kagemusha: kagemusha.to_owned(),
            mip6d: mip6d.map(Path::to_owned),
            started,
        })
    }

    /// Tells the user what comes now.
    pub(crate) fn step(&self, what: &str) {
        println!("{LINE}    {:6.2} s  {what}", self.started.elapsed().as_secs_f64());
    }

    /// The capture of a link.
    pub(crate) fn on(&self, link: Link) -> Outcome<&Capture> {
        self.net.on(link)
    }

    /// An observer of what a link carries from now on.
    pub(crate) fn watch(&self, link: Link) -> Outcome<Observer> {
        Ok(self.on(link)?.from_now())
    }

    /// One echo request from `node` to `destination` that must be answered.
    pub(crate) fn ping(&self, node: &Node, destination: Ipv6Addr) -> Outcome {
        let answered = ping_once(node, destination, Duration::from_secs(3))?;
        ensure(answered, || format!("{}: no echo reply from {destination}", node.name()))
    }

    /// Echo requests from `node` to `destination` until one is answered.
    pub(crate) fn ping_until_answered(&self, node: &Node, destination: Ipv6Addr, timeout: Duration) -> Outcome {
        let deadline = Instant::now() + timeout;
        while !ping_once(node, destination, Duration::from_secs(1))? {
            ensure(Instant::now() < deadline, || {
                format!("{}: no echo reply from {destination} within {:.1} s", node.name(), timeout.as_secs_f64())
            })?;
        }
        Ok(())
    }

    /// One echo request from `node` to `destination` that nobody may answer.
    pub(crate) fn ping_unanswered(&self, node: &Node, destination: Ipv6Addr) -> Outcome {
        let answered = ping_once(node, destination, Duration::from_secs(1))?;
        ensure(!answered, || format!("{}: an echo reply came from {destination}", node.name()))
    }

    /// Ends the captures, so that their files are complete.
    pub(crate) fn finish(&mut self) -> Outcome {
        self.net.stop_captures()
    }
}

fn ping_once(node: &Node, destination: Ipv6Addr, wait: Duration) -> Outcome<bool> {
    let (wait, destination) = (wait.as_secs().to_string(), destination.to_string());
    let output = node.try_command("ping", &["-6", "-n", "-q", "-c", "1", "-W", &wait, &destination])?;
    match output.status.code() {
        Some(0) => Ok(true),
        Some(1) => Ok(false),
        _ => {
            Err(Failure::new(format!("{}: ping: {}", node.name(), String::from_utf8_lossy(&output.stderr).trim_end())))
        }
    }
}
