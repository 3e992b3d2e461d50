//! A program that runs in a node, wherever the node is.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::agent::Agent;
use crate::failure::{Outcome, While};
use crate::node::Node;

/// See the module.
pub(crate) enum Running {
    /// In this machine.
    Here(Child),
    /// In another one.
    Away { agent: Arc<Agent>, process: u32 },
}

impl Running {
    /// Starts a program in `node`; its output is added to `log`.
    pub(crate) fn start(node: &Node, mut command: Command, log: &Path) -> Outcome<Self> {
        if let Some(agent) = node.agent() {
            let process = agent.spawn(&command, log)?;
            return Ok(Self::Away { agent: Arc::clone(agent), process });
        }
        let file = File::options().create(true).append(true).open(log).during(|| log.display().to_string())?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        node.spawn(command).map(Self::Here)
    }

    /// Its number in its machine.
    pub(crate) fn id(&self) -> u32 {
        match self {
            Self::Here(child) => child.id(),
            Self::Away { process, .. } => *process,
        }
    }

    /// How it has ended, if it has.
    pub(crate) fn try_wait(&mut self) -> Outcome<Option<ExitStatus>> {
        match self {
            Self::Here(child) => Ok(child.try_wait()?),
            Self::Away { agent, process } => agent.poll(*process),
        }
    }

    pub(crate) fn signal(&self, signal: Signal) -> Outcome {
        match self {
            Self::Here(child) => {
                let pid = i32::try_from(child.id()).during(|| "process id".into())?;
                Ok(kill(Pid::from_raw(pid), signal)?)
            }
            Self::Away { agent, process } => agent.signal(*process, signal),
        }
    }

    /// What it has written to its log so far.
    pub(crate) fn log(&self, log: &Path) -> Vec<u8> {
        match self {
            Self::Here(_) => fs::read(log).unwrap_or_default(),
            // Only the machine that writes it knows how long it is.
            Self::Away { agent, .. } => agent.read(log).unwrap_or_default(),
        }
    }

    /// Ends it, if it has not ended.
    pub(crate) fn end(&mut self) {
        match self {
            Self::Here(child) => {
                // It is ours and may have ended meanwhile; either way it is gone afterwards.
                let _ = child.kill();
                let _ = child.wait();
            }
            Self::Away { agent, process } => {
                let _ = agent.signal(*process, Signal::SIGKILL);
            }
        }
    }
}
