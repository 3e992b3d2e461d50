//! The end of a port of QEMU's inside the lab's machine. Whoever is at the other end may die at any time, and a write that
//! nobody takes would wait for ever: so no read or write here blocks in the kernel.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// The other end is joined before the machine starts; the kernel may hear of it a little later.
const JOINED: Duration = Duration::from_secs(30);
/// The other end takes what it is told at once, or is gone.
const TAKEN: Duration = Duration::from_secs(10);
/// Between two looks at a port that says it has nothing and nobody.
const LOOK: Duration = Duration::from_millis(20);

/// Both halves of a port.
pub(crate) fn halves(port: File) -> io::Result<(Reader, Writer)> {
    fcntl(&port, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK))?;
    Ok((Reader::of(port.try_clone()?), Writer { port }))
}

fn wait(port: &File, flags: PollFlags) {
    // Whatever it says is tried.
    let _ = poll(&mut [PollFd::new(port.as_fd(), flags)], PollTimeout::from(100_u8));
}

/// Writes a port.
pub(crate) struct Writer {
    port: File,
}

impl Write for Writer {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let end = Instant::now() + TAKEN;
        loop {
            match self.port.write(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < end => {
                    std::thread::sleep(LOOK);
                    wait(&self.port, PollFlags::POLLOUT);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::Error::new(io::ErrorKind::BrokenPipe, "nobody is at the other end of the port"));
                }
                result => return result,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a port: until its other end is there it looks like one that has ended.
pub(crate) struct Reader {
    port: File,
    /// Until then, as long as nothing has come.
    patience: Option<Instant>,
}

impl Reader {
    fn of(port: File) -> Self {
        Self { port, patience: Some(Instant::now() + JOINED) }
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let length = match self.port.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    wait(&self.port, PollFlags::POLLIN);
                    continue;
                }
                result => result?,
            };
            if length > 0 {
                self.patience = None;
            } else if self.patience.is_some_and(|end| Instant::now() < end) {
                std::thread::sleep(LOOK);
                continue;
            }
            return Ok(length);
        }
    }
}
