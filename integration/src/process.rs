//! Programs under test: started in a node, their log in a file, ended by their own id.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::bench::memory::Resident;
use crate::child::Running;
use crate::failure::{Failure, Outcome, While, ensure, in_time};
use crate::node::Node;

/// A daemon that is told to end waits at most 8 s for others.
const END: Duration = Duration::from_secs(60);

/// A running daemon. Dropping it kills it.
pub(crate) struct Daemon<'lab> {
    node: &'lab Node,
    /// What the kernel of the node held before, see [`traces`].
    before: String,
    name: String,
    log: PathBuf,
    child: Running,
    ended: bool,
    /// Parts of ERROR lines that the scenario has brought about itself.
    expected_errors: Vec<&'static str>,
}

impl<'lab> Daemon<'lab> {
    /// Starts `program` in `node`; its output goes to `<directory>/<name>.log`.
    pub(crate) fn start(node: &'lab Node, name: &str, directory: &Path, mut command: Command) -> Outcome<Self> {
        let log = directory.join(format!("{name}.log"));
        // A daemon that is started again in a scenario continues the log.
        command.env("NO_COLOR", "1").current_dir(directory);
        let before = traces(node)?;
        let child = Running::start(node, command, &log)?;
        Ok(Self { node, before, name: name.to_owned(), log, child, ended: false, expected_errors: vec![] })
    }

    /// Everything it has logged.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&self.child.log(&self.log)).into_owned()
    }

    /// Fails with the end of its log if it has ended by itself.
    pub(crate) fn must_run(&mut self) -> Outcome {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => {
                self.ended = true;
                Err(Failure::new(format!("{} ended by itself: {status}; its log:{}", self.name, self.tail())))
            }
        }
    }

    /// Waits until it has ended by itself.
    pub(crate) fn wait(&mut self, timeout: Duration) -> Outcome<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.child.try_wait()? {
                self.ended = true;
                return Ok(status);
            }
            in_time(Instant::now() < deadline, || {
                format!("{} still runs after {:.1} s; its log:{}", self.name, timeout.as_secs_f64(), self.tail())
            })?;
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What of it is in memory.
    pub(crate) fn resident(&self) -> Outcome<Resident> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(&path).during(|| path.clone())?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            number.ok_or_else(|| Failure::new(format!("{path} has no {name}")))
        };
        Ok(Resident { all: field("VmRSS:")?, own: field("RssAnon:")? })
    }

    /// Asks it to end, as an administrator would.
    pub(crate) fn signal(&self, signal: Signal) -> Outcome {
        self.child.signal(signal).during(|| format!("{signal} to {}", self.name))
    }

    /// Does several things while it is stopped, so that it cannot come in between; it learns of all of them afterwards.
    pub(crate) fn while_stopped<T>(&self, work: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
        self.signal(Signal::SIGSTOP)?;
        let status = format!("/proc/{}/status", self.child.id());
        let done = wait_until(&format!("{} is stopped", self.name), END, || {
            Ok(std::fs::read_to_string(&status).during(|| status.clone())?.contains("State:\tT"))
        })
        .and_then(|()| work());
        self.signal(Signal::SIGCONT)?;
        done
    }

    /// SIGTERM, and it must end with exit code 0.
    pub(crate) fn terminate(&mut self) -> Outcome {
        if self.ended {
            return Ok(());
        }
        self.must_run()?;
        self.signal(Signal::SIGTERM)?;
        let status = self.wait(END)?;
        ensure(status.success(), || format!("{} ended with {status}; its log:{}", self.name, self.tail()))
    }

    /// SIGTERM for a peer, whose exit status is its own affair.
    pub(crate) fn terminate_anyhow(&mut self) -> Outcome {
        self.must_run()?;
        self.signal(Signal::SIGTERM)?;
        self.wait(END).map(|_| ())
    }

    /// SIGKILL: a crash.
    pub(crate) fn crash(&mut self) -> Outcome {
        self.signal(Signal::SIGKILL)?;
        let status = self.wait(END)?;
        ensure(status.signal() == Some(9), || format!("{} ended with {status}", self.name))
    }

    /// Starts it again after it has ended, with the same log; what it must not leave behind is what the first one found.
    pub(crate) fn start_again(&mut self, mut command: Command) -> Outcome {
        ensure(self.ended, || format!("{} still runs", self.name))?;
        command.env("NO_COLOR", "1");
        self.child = Running::start(self.node, command, &self.log)?;
        self.ended = false;
        Ok(())
    }

    /// As a daemon that was started after `crashed`: it has to clean up after that one too.
    pub(crate) fn instead_of(mut self, crashed: Self) -> Self {
        self.before.clone_from(&crashed.before);
        self
    }

    /// From now on errors with `part` in their line are what the scenario is about.
    pub(crate) fn expect_errors(&mut self, part: &'static str) {
        self.expected_errors.push(part);
    }

    /// Fails if it has panicked or logged an error that was not expected.
    pub(crate) fn log_must_be_clean(&self) -> Outcome {
        let log = self.log();
        let expected = |line: &str| self.expected_errors.iter().any(|part| line.contains(part));
        let is_error = |line: &str| line.contains(" ERROR ") || line.starts_with("ERROR ");
        match log.lines().find(|line| is_error(line) && !expected(line) || line.contains("panicked at")) {
            None => Ok(()),
            Some(line) => Err(Failure::new(format!("{} logged: {line}", self.name))),
        }
    }

    /// Fails if the kernel of its node holds anything that was not there before it was started.
    pub(crate) fn must_have_left_nothing(&self) -> Outcome {
        let after = traces(self.node)?;
        let left: String =
            after.lines().filter(|line| !self.before.contains(line)).map(|line| format!("\n    {line}")).collect();
        ensure(left.is_empty(), || format!("{} has left behind in {}:{left}", self.name, self.node.name()))
    }

    /// The last lines of its log, for a failure.
    pub(crate) fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines.iter().skip(lines.len().saturating_sub(15)).map(|line| format!("\n    {line}")).collect()
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.child.end();
        }
    }
}

/// Everything that a daemon may put into the kernel of its node and has to take away again: security associations and
/// policies, rules, links, routes and addresses.
pub(crate) fn traces(node: &Node) -> Outcome<String> {
    let mut all = String::new();
    for arguments in [&["xfrm", "state", "list", "nokeys"][..], &["xfrm", "policy"]] {
        all.push_str(&node.command("ip", arguments)?);
    }
    for arguments in [
        &["-6", "rule"][..],
        &["-6", "route", "show", "table", "all", "proto", "75"],
        &["-6", "route", "show", "table", "all", "type", "local"],
        &["-6", "neigh", "show", "proxy"],
    ] {
        all.push_str(&node.command("ip", arguments)?);
    }
    for line in node.command("ip", &["-brief", "link"])?.lines() {
        // State and MAC address of a bridge follow its ports.
        all.push_str(&format!("link {}\n", line.split_whitespace().next().unwrap_or_default()));
    }
    // What moves with the host is not the daemon's.
    Ok(all.lines().filter(|line| !line.contains(" dev eth0 ")).map(|line| format!("{line}\n")).collect())
}

/// Waits until `condition` holds.
pub(crate) fn wait_until(what: &str, timeout: Duration, mut condition: impl FnMut() -> Outcome<bool>) -> Outcome {
    let deadline = Instant::now() + timeout;
    while !condition()? {
        in_time(Instant::now() < deadline, || format!("not within {:.1} s: {what}", timeout.as_secs_f64()))?;
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
