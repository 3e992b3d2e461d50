//! The control socket: how `kagemusha status` and the other commands talk to the running daemon.
//!
//! A Unix socket of mode 0600 in the runtime directory, one for each network namespace, as there is one daemon for each. Who connects must be root
//! or the user of the daemon by what the kernel says of it (`SO_PEERCRED`). Every client has a task of its own; the event loop only ever sees
//! whole requests, one at a time, and never waits for a client: what is asked and answered is bounded in number, size and time, and events go into
//! a ring from which a slow client misses some.

pub mod client;
pub mod protocol;

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot};
use tokio::time::timeout;

use protocol::{Event, Reply, Request};

/// Clients at a time; more are told to come again.
const CLIENTS: usize = 16;
/// Requests that wait for the event loop.
const WAITING: usize = 4;
/// Longest request in octets: sequence numbers of some ten thousand guests.
pub const REQUEST_LIMIT: u64 = 8 << 20;
/// A request must be there whole within this time, and an answer be taken.
const PATIENCE: Duration = Duration::from_secs(10);
/// Events that are kept for a client that is behind.
const EVENTS: usize = 1024;

/// A request on its way to the event loop.
#[derive(Debug)]
pub struct Asked {
    /// What is asked.
    pub request: Request,
    /// Where the answer goes. A client that has gone is no error.
    pub reply: oneshot::Sender<Reply>,
}

/// The daemon's side.
#[derive(Debug)]
pub struct ControlSocket {
    path: PathBuf,
    requests: mpsc::Receiver<Asked>,
    events: broadcast::Sender<Event>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        self.task.abort();
        let _ = fs::remove_file(&self.path);
    }
}

/// The socket of the network namespace that this process is in.
///
/// # Errors
/// `/proc` does not tell the namespace.
pub fn path(runtime_directory: &Path) -> io::Result<PathBuf> {
    let namespace = fs::metadata("/proc/self/ns/net")?.ino();
    Ok(runtime_directory.join(format!("namespace-{namespace}.sock")))
}

impl ControlSocket {
    /// Listens, served by tasks of the current tokio runtime. A socket that an earlier daemon has left is replaced: the caller holds the claim on
    /// the namespace.
    ///
    /// # Errors
    /// The directory or the socket cannot be made, or something else is in its place.
    pub fn open(path: &Path) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        match fs::symlink_metadata(path) {
            Ok(there) if there.file_type().is_socket() => fs::remove_file(path)?,
            Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is something that is no socket")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let listener = UnixListener::bind(path)?;
        // Until here, and beyond it, who may ask is what the kernel says of the peer.
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
        let (asked, requests) = mpsc::channel(WAITING);
        let (events, _) = broadcast::channel(EVENTS);
        let task = tokio::spawn(listen(listener, asked, events.clone()));
        Ok(Self { path: path.to_owned(), requests, events, task })
    }

    /// Waits for the next request.
    ///
    /// Cancel safe.
    pub async fn next(&mut self) -> Asked {
        match self.requests.recv().await {
            Some(asked) => asked,
            // The listener holds a sender as long as it lives.
            None => std::future::pending().await,
        }
    }

    /// Tells every client that watches.
    pub fn tell(&self, event: Event) {
        // Nobody watches: no error.
        let _ = self.events.send(event);
    }
}

async fn listen(listener: UnixListener, asked: mpsc::Sender<Asked>, events: broadcast::Sender<Event>) {
    let places = Arc::new(Semaphore::new(CLIENTS));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "a client of the control socket could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::warn!("more than {CLIENTS} clients of the control socket: one was turned away");
            continue;
        };
        let (asked, events) = (asked.clone(), events.clone());
        tokio::spawn(async move {
            if let Err(error) = serve(stream, asked, events).await {
                tracing::debug!(%error, "a client of the control socket");
            }
            drop(place);
        });
    }
}

/// Whether a user may ask: root, and the user that the daemon runs as.
fn may_ask(user: u32, daemon: u32) -> bool {
    user == 0 || user == daemon
}

async fn serve(stream: UnixStream, asked: mpsc::Sender<Asked>, events: broadcast::Sender<Event>) -> io::Result<()> {
    let user = stream.peer_cred()?.uid();
    if !may_ask(user, nix::unistd::geteuid().as_raw()) {
        tracing::warn!(user, "a user that may not ask has connected to the control socket");
        return Ok(());
    }
    let (read, mut write) = stream.into_split();
    let mut reader = BufReader::new(read.take(REQUEST_LIMIT));
    let mut line = Vec::new();
    timeout(PATIENCE, reader.read_until(b'\n', &mut line)).await??;
    let request = match serde_json::from_slice(&line) {
        Ok(request) => request,
        Err(error) => {
            let long = line.len() as u64 >= REQUEST_LIMIT;
            let what = if long { format!("longer than {REQUEST_LIMIT} octets") } else { error.to_string() };
            return answer(&mut write, Reply::Error(format!("not a request: {what}"))).await;
        }
    };
    if request == Request::Watch {
        return watch(reader.into_inner().into_inner(), write, events.subscribe()).await;
    }
    let (reply, replied) = oneshot::channel();
    let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
    asked.send(Asked { request, reply }).await.map_err(|_| gone())?;
    // How long the event loop takes is its own affair; it answers everything.
    let reply = replied.await.map_err(|_| gone())?;
    answer(&mut write, reply).await
}

async fn answer(write: &mut OwnedWriteHalf, reply: Reply) -> io::Result<()> {
    // Ten thousand guests are some megaoctets, which the event loop need not wait for.
    let encode = tokio::task::spawn_blocking(move || serde_json::to_vec(&reply));
    let mut octets = encode.await.map_err(io::Error::other)??;
    octets.push(b'\n');
    timeout(PATIENCE, write.write_all(&octets)).await?
}

/// Gives a client the events until it goes.
async fn watch(
    mut read: OwnedReadHalf,
    mut write: OwnedWriteHalf,
    mut events: broadcast::Receiver<Event>,
) -> io::Result<()> {
    answer(&mut write, Reply::Done("watching".to_owned())).await?;
    let mut more = [0; 64];
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Ok(event) => answer(&mut write, Reply::Event(event)).await?,
                Err(broadcast::error::RecvError::Lagged(missed)) => answer(&mut write, Reply::Missed(missed)).await?,
                Err(broadcast::error::RecvError::Closed) => return Ok(()),
            },
            // Nothing more is asked: this is how a client is seen to have gone.
            read = read.read(&mut more) => if read? == 0 { return Ok(()) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, Read, Write};
    use std::os::unix::net::UnixStream as Blocking;

    fn event(number: u64) -> Event {
        Event {
            at: number,
            what: "test".to_owned(),
            guest: None,
            home_address: None,
            text: "x".repeat(2_000),
            trouble: false,
            after: None,
        }
    }

    /// Serves requests with their own text, in a thread, until `done`.
    fn with_socket(check: impl FnOnce(PathBuf) + Send + 'static, flood: u64) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/test.sock");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut socket = ControlSocket::open(&path).unwrap();
            let client = tokio::task::spawn_blocking({
                let path = path.clone();
                move || check(path)
            });
            tokio::pin!(client);
            let mut told = 0;
            loop {
                tokio::select! {
                    done = &mut client => { done.unwrap(); break; }
                    asked = socket.next() => {
                        let _ = asked.reply.send(Reply::Done(format!("{:?}", asked.request)));
                    }
                    () = tokio::time::sleep(Duration::from_millis(5)), if told < flood => {
                        for _ in 0..1_000 {
                            socket.tell(event(told));
                            told += 1;
                        }
                    }
                }
            }
        });
        assert!(!path.exists() || flood > 0, "the socket goes with the daemon");
    }

    fn ask(path: &Path, line: &[u8]) -> String {
        let mut stream = Blocking::connect(path).unwrap();
        // A daemon that has had enough closes while this is written.
        let _ = stream.write_all(line);
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        text
    }

    #[test]
    fn requests_are_answered_and_nonsense_gets_an_error() {
        with_socket(
            |path| {
                assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
                assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
                assert_eq!(ask(&path, b"{\"request\":\"status\"}\n"), "{\"done\":\"Status\"}\n");
                for nonsense in [&b"\n"[..], b"{\"request\":\"explode\"}\n", b"\xff\xfe\n", b"[[[[[[[[\n"] {
                    let answer = ask(&path, nonsense);
                    assert!(answer.starts_with("{\"error\":\"not a request"), "{answer}");
                }
                let long = vec![b'x'; REQUEST_LIMIT as usize + 10];
                assert!(matches!(
                    ask(&path, &long).as_str(),
                    "" | "{\"error\":\"not a request: longer than 8388608 octets\"}\n"
                ));
                assert_eq!(ask(&path, b"{\"request\":\"status\"}\n"), "{\"done\":\"Status\"}\n");
            },
            0,
        );
    }

    #[test]
    fn clients_that_say_nothing_or_read_nothing_hold_up_nobody() {
        with_socket(
            |path| {
                let silent: Vec<_> = (0..CLIENTS / 2).map(|_| Blocking::connect(&path).unwrap()).collect();
                let mut deaf = Blocking::connect(&path).unwrap();
                deaf.write_all(b"{\"request\":\"watch\"}\n").unwrap();
                for _ in 0..50 {
                    assert_eq!(ask(&path, b"{\"request\":\"status\"}\n"), "{\"done\":\"Status\"}\n");
                    std::thread::sleep(Duration::from_millis(2));
                }
                let mut missed = 0;
                for line in std::io::BufReader::new(&deaf).lines().take(1_500) {
                    if let Reply::Missed(events) = serde_json::from_str(&line.unwrap()).unwrap() {
                        missed += events;
                        break;
                    }
                }
                assert!(missed > 0, "who does not read misses something");
                drop(silent);
            },
            20_000,
        );
    }

    #[test]
    fn more_clients_than_places_are_turned_away() {
        with_socket(
            |path| {
                let silent: Vec<_> = (0..CLIENTS).map(|_| Blocking::connect(&path).unwrap()).collect();
                assert_eq!(ask(&path, b"{\"request\":\"status\"}\n"), "");
                drop(silent);
                std::thread::sleep(Duration::from_millis(100));
                assert_eq!(ask(&path, b"{\"request\":\"status\"}\n"), "{\"done\":\"Status\"}\n");
            },
            0,
        );
    }

    #[test]
    fn root_and_the_daemons_user_may_ask() {
        assert!(may_ask(0, 990) && may_ask(990, 990) && may_ask(0, 0));
        assert!(!may_ask(1000, 990) && !may_ask(1000, 0));
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("precious");
        fs::write(&path, "text").unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _guard = runtime.enter();
        assert!(ControlSocket::open(&path).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "text");
    }
}
