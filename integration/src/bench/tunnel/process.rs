//! The process at an end of the tunnel, seen from the benchmark.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::failure::{Failure, Outcome, While, ensure};
use crate::node::Node;

use super::end::{COUNTERS, PORT, Specification};
use super::path::own_program;

/// Ends with this value.
pub(crate) struct EndProcess {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    description: String,
}

impl EndProcess {
    /// Starts it and waits until it carries.
    pub(crate) fn start(node: &Node, specification: &Specification) -> Outcome<Self> {
        let mut command = Command::new(own_program()?);
        command.args(["bench", "tunnel-end"]).arg(serde_json::to_string(specification)?);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = node.spawn(command)?;
        let input = child.stdin.take();
        let output = child.stdout.take().ok_or_else(|| Failure::new("no output of the end of the tunnel"))?;
        let mut output = BufReader::new(output);
        let mut description = String::new();
        output.read_line(&mut description)?;
        let mut end = Self { child, input, output, description: description.trim_end().to_owned() };
        if end.description.is_empty() {
            return Err(end.why());
        }
        Ok(end)
    }

    fn why(&mut self) -> Failure {
        let mut text = String::new();
        if let Some(mut errors) = self.child.stderr.take() {
            // What can be read of it is all there is to tell.
            let _ = std::io::Read::read_to_string(&mut errors, &mut text);
        }
        Failure::new(format!("the end of the tunnel did not start: {}", text.trim_end()))
    }

    pub(crate) fn description(&self) -> &str {
        &self.description
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has counted, in words.
    pub(crate) fn counters(&mut self) -> Outcome<String> {
        self.ask(COUNTERS)
    }

    /// Tells it that the guest's link is another one now, as the daemon's look at its ports does.
    pub(crate) fn port_changed(&mut self) -> Outcome {
        self.ask(PORT).map(drop)
    }

    fn ask(&mut self, question: &str) -> Outcome<String> {
        let input = self.input.as_mut().ok_or_else(|| Failure::new("no input of the end of the tunnel"))?;
        writeln!(input, "{question}")?;
        let mut line = String::new();
        ensure(self.output.read_line(&mut line)? > 0, || "the end of the tunnel has ended".into())?;
        Ok(line.trim_end().to_owned())
    }

    /// Resident memory in kB, as `/proc` tells it: of its own, and of files that it shares with others.
    pub(crate) fn memory(&self) -> Outcome<(u64, u64)> {
        let path = format!("/proc/{}/status", self.id());
        let status = std::fs::read_to_string(&path).during(|| path.clone())?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.split_whitespace().next()).and_then(|number| number.parse().ok()).unwrap_or(0)
        };
        Ok((field("RssAnon:"), field("RssFile:")))
    }
}

impl Drop for EndProcess {
    fn drop(&mut self) {
        self.input = None;
        // It is ours and may have ended meanwhile; either way it is gone afterwards.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
