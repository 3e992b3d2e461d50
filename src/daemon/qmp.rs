//! QEMU's machine protocol: what a hypervisor says about a guest, when the policy names a socket (`qmp = "PATH"`).
//!
//! A frame of the guest tells as much, but only once it has sent one; and that a guest has *left* no frame tells. The socket has to be one that
//! nobody else uses (QEMU serves one client at a time): `-qmp unix:PATH,server=on,wait=off` beside that of the manager.
//!
//! ```text
//!  target:  (connected, inmigrate) … MIGRATION completed, RESUME            prepare … attach
//!  source:  STOP, MIGRATION completed (or postcopy-active)                  detach
//!           STOP, MIGRATION failed or cancelled, RESUME                     attach again
//! ```
//!
//! What QEMU says is taken for no more than it is: a program that a guest may have taken over can only attach and detach its own guest.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::signaling::attachment::Command;

/// Between two attempts to reach a hypervisor: there is none as long as the guest is elsewhere.
const RETRY: Duration = Duration::from_millis(500);
/// Longest line. Events are short; the greeting and the state are, too.
const LINE_LIMIT: u64 = 64 << 10;
/// Orders that wait for the event loop.
const WAITING: usize = 64;

/// What a hypervisor has said, as an order about the guest of this name.
pub type Order = (String, Command);

/// The tasks that listen to hypervisors.
#[derive(Debug)]
pub struct Hypervisors {
    orders: mpsc::Sender<Order>,
    received: mpsc::Receiver<Order>,
    tasks: BTreeMap<(String, PathBuf), JoinHandle<()>>,
}

impl Drop for Hypervisors {
    fn drop(&mut self) {
        self.tasks.values().for_each(JoinHandle::abort);
    }
}

impl Default for Hypervisors {
    fn default() -> Self {
        let (orders, received) = mpsc::channel(WAITING);
        Self { orders, received, tasks: BTreeMap::new() }
    }
}

impl Hypervisors {
    /// Listens to these sockets, each with the name of its guest, and to no others any more.
    pub fn follow(&mut self, sockets: impl IntoIterator<Item = (String, PathBuf)>) {
        let mut before = std::mem::take(&mut self.tasks);
        for socket in sockets {
            // One that is the same is left in peace: a new connection would tell once more what is known.
            let task = before
                .remove(&socket)
                .unwrap_or_else(|| tokio::spawn(follow(socket.0.clone(), socket.1.clone(), self.orders.clone())));
            self.tasks.insert(socket, task);
        }
        before.values().for_each(JoinHandle::abort);
    }

    /// The next order. Cancel safe.
    pub async fn next(&mut self) -> Order {
        match self.received.recv().await {
            Some(order) => order,
            // A sender lives as long as this does.
            None => std::future::pending().await,
        }
    }
}

/// Listens for ever; a hypervisor that ends is waited for again.
async fn follow(guest: String, path: PathBuf, orders: mpsc::Sender<Order>) {
    loop {
        if let Ok(stream) = UnixStream::connect(&path).await {
            tracing::debug!(guest, socket = %path.display(), "its hypervisor is there");
            match listen(&guest, stream, &orders).await {
                Ok(()) => tracing::debug!(guest, "its hypervisor has ended"),
                Err(error) => {
                    tracing::warn!(guest, socket = %path.display(), "its hypervisor is not understood: {error}")
                }
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Listens until the hypervisor ends.
async fn listen(guest: &str, stream: UnixStream, orders: &mpsc::Sender<Order>) -> std::io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let mut course = Course::default();
    let mut line = Vec::new();
    for command in ["qmp_capabilities", "query-status"] {
        let mut request = json!({ "execute": command, "id": command }).to_string();
        request.push('\n');
        writer.write_all(request.as_bytes()).await?;
    }
    loop {
        line.clear();
        if (&mut reader).take(LINE_LIMIT).read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        if line.last() != Some(&b'\n') {
            return Err(std::io::Error::other(format!(
                "a line of more than {LINE_LIMIT} octets, or an unfinished one"
            )));
        }
        let message: Value = serde_json::from_slice(&line).map_err(std::io::Error::other)?;
        if let Some(command) = course.hear(&message)
            && orders.send((guest.to_owned(), command)).await.is_err()
        {
            return Ok(());
        }
    }
}

/// Where a guest is in its course, by what its hypervisor says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Course {
    /// It stands still.
    stopped: bool,
}

impl Course {
    fn hear(&mut self, message: &Value) -> Option<Command> {
        if message.get("id").and_then(Value::as_str) == Some("query-status") {
            let status = message.get("return")?.get("status")?.as_str()?;
            // One that waits for its migration was not stopped here: that this completes is its arrival.
            self.stopped = status == "paused";
            return match status {
                "running" => Some(Command::Attach),
                "inmigrate" | "prelaunch" => Some(Command::Prepare),
                _ => None,
            };
        }
        match message.get("event")?.as_str()? {
            "RESUME" => {
                self.stopped = false;
                Some(Command::Attach)
            }
            "STOP" => {
                self.stopped = true;
                None
            }
            // Its target says so as well, before or after RESUME; there nothing was stopped by a STOP.
            "MIGRATION" if self.stopped => {
                let status = message.get("data")?.get("status")?.as_str()?;
                matches!(status, "completed" | "postcopy-active").then_some(Command::Detach)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands(messages: &[Value]) -> Vec<Command> {
        let mut course = Course::default();
        messages.iter().filter_map(|message| course.hear(message)).collect()
    }

    fn status(status: &str) -> Value {
        json!({ "return": { "running": status == "running", "status": status }, "id": "query-status" })
    }

    fn event(name: &str) -> Value {
        json!({ "event": name, "timestamp": { "seconds": 1, "microseconds": 2 } })
    }

    fn migration(status: &str) -> Value {
        json!({ "event": "MIGRATION", "data": { "status": status } })
    }

    #[test]
    fn a_target_prepares_and_attaches_when_the_guest_goes_on() {
        for order in [[migration("completed"), event("RESUME")], [event("RESUME"), migration("completed")]] {
            let mut messages = vec![json!({ "QMP": {} }), status("inmigrate"), migration("setup"), migration("active")];
            messages.extend(order);
            assert_eq!(commands(&messages), [Command::Prepare, Command::Attach]);
        }
    }

    #[test]
    fn a_source_lets_go_when_the_guest_goes_on_elsewhere() {
        let begin = [status("running"), migration("setup"), migration("active")];
        let precopy = [&begin[..], &[event("STOP"), migration("device"), migration("completed")]].concat();
        assert_eq!(commands(&precopy), [Command::Attach, Command::Detach]);
        let postcopy = [&begin[..], &[event("STOP"), migration("postcopy-active"), migration("completed")]].concat();
        assert_eq!(commands(&postcopy), [Command::Attach, Command::Detach, Command::Detach]);
        for end in ["failed", "cancelled"] {
            let failed = [&begin[..], &[event("STOP"), migration(end), event("RESUME")]].concat();
            assert_eq!(commands(&failed), [Command::Attach, Command::Attach], "{end}");
            let early = [&begin[..], &[migration(end)]].concat();
            assert_eq!(commands(&early), [Command::Attach], "{end} before it stood still");
        }
    }

    #[test]
    fn what_says_nothing_of_the_guests_place_is_passed_by() {
        for message in [
            json!(null),
            json!(7),
            json!({ "return": {} }),
            json!({ "id": "query-status", "error": { "class": "GenericError" } }),
            json!({ "event": 7 }),
            json!({ "event": "MIGRATION" }),
            event("POWERDOWN"),
            status("paused"),
        ] {
            assert_eq!(commands(std::slice::from_ref(&message)), [], "{message}");
        }
    }

    #[tokio::test]
    async fn a_hypervisor_is_waited_for_heard_and_waited_for_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("qmp");
        let mut hypervisors = Hypervisors::default();
        hypervisors.follow([("vm1".to_owned(), path.clone())]);
        for _ in 0..2 {
            let listener = tokio::net::UnixListener::bind(&path).unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            stream.write_all(b"{\"QMP\": {\"capabilities\": []}}\n").await.unwrap();
            let mut line = String::new();
            stream.read_line(&mut line).await.unwrap();
            assert!(line.contains("qmp_capabilities"), "{line}");
            stream.write_all(format!("{{\"return\": {{}}}}\n{}\n", status("running")).as_bytes()).await.unwrap();
            assert_eq!(hypervisors.next().await, ("vm1".to_owned(), Command::Attach));
            // It ends, badly.
            stream.write_all(b"{\"event\": ").await.unwrap();
            drop(stream);
            std::fs::remove_file(&path).unwrap();
        }
    }

    #[tokio::test]
    async fn an_endless_line_is_given_up() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (orders, _received) = mpsc::channel(1);
        let hypervisor = tokio::spawn(async move {
            let (mut theirs, junk) = (theirs, vec![b'x'; 1 << 16]);
            while theirs.write_all(&junk).await.is_ok() {}
        });
        assert!(listen("vm1", ours, &orders).await.is_err());
        hypervisor.await.unwrap();
    }
}
