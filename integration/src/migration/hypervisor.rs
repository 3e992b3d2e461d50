//! The socket by which the hypervisor of a guest tells the daemon of its host what becomes of the guest: the hypervisor is outside of the lab's
//! machine, and what it says comes by a port of the machine.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::port::halves;
use crate::failure::{Outcome, While};
use crate::node::Node;

/// Where the daemon of the host looks for it: each node has a `/run` of its own.
pub(crate) const SOCKET: &str = "/run/vm1.qmp";

/// The socket. Dropping this takes it away.
pub(crate) struct Hypervisor<'lab> {
    node: &'lab Node,
    over: Arc<AtomicBool>,
}

impl<'lab> Hypervisor<'lab> {
    /// Listens in `node`; who connects speaks with the other end of `port`.
    pub(crate) fn offer(node: &'lab Node, port: File) -> Outcome<Self> {
        let listener = node.run(|| UnixListener::bind(SOCKET))?.during(|| SOCKET.into())?;
        listener.set_nonblocking(true)?;
        let over = Arc::new(AtomicBool::new(false));
        let theirs = Arc::clone(&over);
        std::thread::Builder::new().name("hypervisor".into()).spawn(move || {
            // An error is the end of the connection, which the daemon sees.
            let _ = serve(&listener, port, &theirs);
        })?;
        Ok(Self { node, over })
    }
}

impl Drop for Hypervisor<'_> {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // Whatever is there is no socket of the next process.
        let _ = self.node.run(|| fs::remove_file(SOCKET));
    }
}

/// Serves one client, as long as the port has another end: QEMU knows one at a time, and a daemon connects once to a hypervisor.
fn serve(listener: &UnixListener, port: File, over: &AtomicBool) -> io::Result<()> {
    let client = loop {
        match listener.accept() {
            Ok((client, _)) => break client,
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            Err(_) if over.load(Ordering::Relaxed) => return Ok(()),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    client.set_nonblocking(false)?;
    let (from_hypervisor, to_hypervisor) = halves(port)?;
    let from_daemon = client.try_clone()?;
    std::thread::Builder::new().name("to the hypervisor".into()).spawn(move || carry(from_daemon, to_hypervisor))?;
    let result = carry(from_hypervisor, client.try_clone()?);
    client.shutdown(Shutdown::Both)?;
    result
}

/// Carries what comes to where it goes, at once, to its end.
fn carry(mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            length => to.write_all(buffer.get(..length).unwrap_or_default())?,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn both_ways_until_the_hypervisor_ends() {
        let path = std::env::temp_dir().join(format!("kagemusha-lab-hypervisor-{}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let (mut hypervisor, port) = UnixStream::pair().unwrap();
        let port = File::from(OwnedFd::from(port));
        let served = std::thread::spawn(move || serve(&listener, port, &AtomicBool::new(false)));
        let mut daemon = UnixStream::connect(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let mut heard = [0; 5];
        daemon.write_all(b"query").unwrap();
        hypervisor.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"query");
        hypervisor.write_all(b"event").unwrap();
        daemon.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"event");
        drop(hypervisor);
        assert_eq!(daemon.read(&mut heard).unwrap(), 0);
        served.join().unwrap().unwrap();
    }
}
