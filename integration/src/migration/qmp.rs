//! A client of QEMU's machine protocol (QMP): one JSON object a line, answers in order, events at any time between.

use std::io::{BufRead, BufReader, Read, Write};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::failure::{Failure, Outcome, While};

/// How long QEMU may take for an answer: it answers between two slices of emulation.
const ANSWER: Duration = Duration::from_secs(60);

/// A connection on which commands may be given.
pub(crate) struct Qmp {
    writer: Box<dyn Write>,
    answers: mpsc::Receiver<Value>,
    events: mpsc::Receiver<Event>,
}

/// An event of QEMU.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) data: Value,
    /// QEMU's time of it, since the epoch.
    pub(crate) time: Duration,
}

impl Qmp {
    /// Takes the greeting and leaves the mode of negotiation.
    pub(crate) fn connect(reader: impl Read + Send + 'static, writer: impl Write + 'static) -> Outcome<Self> {
        let (answer, answers) = mpsc::channel();
        let (event, events) = mpsc::channel();
        std::thread::Builder::new().name("qmp".into()).spawn(move || {
            for line in BufReader::new(reader).lines() {
                let Ok(value) =
                    line.map_err(|_| ()).and_then(|line| serde_json::from_str::<Value>(&line).map_err(|_| ()))
                else {
                    return;
                };
                // Whoever does not listen any more has ended.
                let _ = match Event::read(&value) {
                    Some(read) => event.send(read).is_ok(),
                    None => answer.send(value).is_ok(),
                };
            }
        })?;
        let mut qmp = Self { writer: Box::new(writer), answers, events };
        let greeting = qmp.answer("the greeting")?;
        if greeting.get("QMP").is_none() {
            return Err(Failure::new(format!("no QMP greeting but {greeting}")));
        }
        qmp.command("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Gives a command and waits for what it returns.
    pub(crate) fn command(&mut self, name: &str, arguments: Value) -> Outcome<Value> {
        let mut line = json!({ "execute": name, "arguments": arguments }).to_string();
        line.push('\n');
        self.writer.write_all(line.as_bytes()).during(|| format!("QMP {name}"))?;
        let answer = self.answer(name)?;
        match answer.get("return") {
            Some(value) => Ok(value.clone()),
            None => Err(Failure::new(format!("QMP {name}: {answer}"))),
        }
    }

    fn answer(&self, to: &str) -> Outcome<Value> {
        self.answers.recv_timeout(ANSWER).during(|| format!("QMP {to}: no answer"))
    }

    /// Waits for an event for which `wanted` gives something; others are passed by.
    pub(crate) fn wait_for<T>(
        &mut self,
        what: &str,
        timeout: Duration,
        mut wanted: impl FnMut(&Event) -> Option<Outcome<T>>,
    ) -> Outcome<T> {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let event = self.events.recv_timeout(left).during(|| format!("QMP: no event: {what}"))?;
            if let Some(found) = wanted(&event) {
                return found;
            }
        }
    }

    /// Waits until QEMU has ended.
    pub(crate) fn wait_for_end(&mut self, timeout: Duration) -> Outcome {
        let deadline = Instant::now() + timeout;
        loop {
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(_) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(()),
                Err(error) => return Err(error).during(|| "QEMU does not end".into()),
            }
        }
    }

    /// Waits for an event of that name.
    pub(crate) fn wait_for_event(&mut self, name: &str, timeout: Duration) -> Outcome<Event> {
        self.wait_for(name, timeout, |event| (event.name == name).then(|| Ok(event.clone())))
    }
}

impl Event {
    fn read(value: &Value) -> Option<Self> {
        let name = value.get("event")?.as_str()?.to_owned();
        let stamp = |field: &str| value.get("timestamp").and_then(|stamp| stamp.get(field)).and_then(Value::as_u64);
        let time = Duration::from_secs(stamp("seconds").unwrap_or_default())
            + Duration::from_micros(stamp("microseconds").unwrap_or_default());
        Some(Self { name, data: value.get("data").cloned().unwrap_or_default(), time })
    }

    /// The `status` of a `MIGRATION` event.
    pub(crate) fn migration_status(&self) -> Option<&str> {
        if self.name == "MIGRATION" { self.data.get("status")?.as_str() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn commands_events_and_errors_between_each_other() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let qemu = std::thread::spawn(move || {
            let mut writer = theirs.try_clone().unwrap();
            let mut reader = BufReader::new(theirs);
            let mut say = |text: &str| writeln!(writer, "{text}").unwrap();
            let mut hear = || {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                serde_json::from_str::<Value>(&line).unwrap()["execute"].as_str().unwrap().to_owned()
            };
            say(r#"{"QMP": {"version": {}, "capabilities": []}}"#);
            assert_eq!(hear(), "qmp_capabilities");
            say(r#"{"return": {}}"#);
            assert_eq!(hear(), "migrate");
            say(
                r#"{"event": "MIGRATION", "data": {"status": "setup"}, "timestamp": {"seconds": 5, "microseconds": 250000}}"#,
            );
            say(r#"{"return": {"a": 1}}"#);
            assert_eq!(hear(), "nonsense");
            say(r#"{"error": {"class": "CommandNotFound", "desc": "no"}}"#);
        });
        let mut qmp = Qmp::connect(ours.try_clone().unwrap(), ours).unwrap();
        assert_eq!(qmp.command("migrate", json!({})).unwrap(), json!({"a": 1}));
        let event = qmp.wait_for_event("MIGRATION", Duration::from_secs(1)).unwrap();
        assert_eq!((event.migration_status(), event.time), (Some("setup"), Duration::from_millis(5250)));
        assert!(qmp.command("nonsense", json!({})).unwrap_err().to_string().contains("CommandNotFound"));
        qemu.join().unwrap();
        qmp.wait_for_end(Duration::from_secs(10)).unwrap();
    }
}
