//! The end of a port of QEMU's inside the lab's machine, for reading.

use std::fs::File;
use std::io::{self, Read};
use std::time::{Duration, Instant};

/// The other end is joined before the machine starts; the kernel may hear of it a little later.
const JOINED: Duration = Duration::from_secs(30);

/// Reads a port: until its other end is there it looks like one that has ended.
pub(crate) struct Reader {
    port: File,
    /// Until then, as long as nothing has come.
    patience: Option<Instant>,
}

impl Reader {
    pub(crate) fn of(port: File) -> Self {
        Self { port, patience: Some(Instant::now() + JOINED) }
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let length = self.port.read(buffer)?;
            if length > 0 {
                self.patience = None;
            } else if self.patience.is_some_and(|end| Instant::now() < end) {
                std::thread::sleep(Duration::from_millis(20));
                continue;
            }
            return Ok(length);
        }
    }
}
