//! How loops over sockets and devices go on: a batch at a time, past errors, and never spinning.

use std::io;
use std::time::Duration;

/// What is taken off one socket at a time, so that a flood there keeps neither timers nor other sockets waiting.
const BATCH: usize = 64;
/// First and longest pause between errors that follow each other.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(1));
/// Pauses before a packet is given to a full queue once more. Together they are longer than a queue of 1000 full packets at 10 Gb/s takes.
const ROOM: [Duration; 4] =
    [Duration::from_micros(50), Duration::from_micros(200), Duration::from_micros(500), Duration::from_micros(1500)];

/// Whether a socket was emptied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Nothing is left: wait until it is readable again.
    Empty,
    /// There may be more: come back after the others had their turn.
    More,
}

/// Receives until nothing is left, or a batch is done. An error that is pending on a socket is reported once, in place of a packet, so
/// what is behind it is received as well; a socket that gives nothing but errors counts as empty.
pub fn drain(mut receive: impl FnMut() -> io::Result<()>) -> Drained {
    let mut received = false;
    for _ in 0..BATCH {
        match receive() {
            Ok(()) => received = true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Drained::Empty,
            // The caller counts these: a packet was taken off.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => received = true,
            Err(error) => tracing::debug!(%error, "a socket reports an error"),
        }
    }
    if received { Drained::More } else { Drained::Empty }
}

/// Pauses of a thread whose reads fail: none after the first error, then longer ones.
#[derive(Debug, Default)]
pub struct Patience {
    errors: u32,
}

impl Patience {
    /// A read succeeded.
    pub fn renew(&mut self) {
        self.errors = 0;
    }

    /// A read failed; how long to wait before the next one.
    pub fn take(&mut self) -> Duration {
        self.errors = self.errors.saturating_add(1);
        match self.errors {
            1 => Duration::ZERO,
            n => PAUSES.0.saturating_mul(1 << n.min(20)).min(PAUSES.1),
        }
    }
}

/// Sends, and waits a little when the queue of the way out is full (`ENOBUFS`): meanwhile the packets behind this one wait in front of it.
///
/// # Errors
/// Those of `send`; `ENOBUFS` when the queue stays full.
pub fn send_when_there_is_room(
    mut send: impl FnMut() -> io::Result<()>,
    mut wait: impl FnMut(Duration),
) -> io::Result<()> {
    for pause in ROOM {
        match send() {
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => wait(pause),
            result => return result,
        }
    }
    send()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn would_block() -> io::Error {
        io::Error::from(io::ErrorKind::WouldBlock)
    }

    #[test]
    fn what_is_behind_a_pending_error_is_received() {
        let mut script = vec![
            Ok(()),
            Err(io::Error::from_raw_os_error(libc::ENETDOWN)),
            Err(io::Error::from_raw_os_error(libc::EHOSTUNREACH)),
            Ok(()),
            Err(would_block()),
        ]
        .into_iter();
        assert_eq!(drain(|| script.next().unwrap()), Drained::Empty);
        assert_eq!(script.count(), 0);
    }

    #[test]
    fn a_flood_gives_others_their_turn_and_an_error_for_ever_does_not_spin() {
        let mut calls = 0;
        let flood = drain(|| {
            calls += 1;
            Ok(())
        });
        assert_eq!((flood, calls), (Drained::More, BATCH));
        assert_eq!(drain(|| Err(io::Error::from_raw_os_error(libc::EBADF))), Drained::Empty);
    }

    #[test]
    fn patience_grows_and_is_renewed() {
        let mut patience = Patience::default();
        assert_eq!(patience.take(), Duration::ZERO);
        let pauses: Vec<_> = (0..100).map(|_| patience.take()).collect();
        assert!(pauses.is_sorted() && pauses[0] > Duration::ZERO && pauses[99] == PAUSES.1);
        patience.renew();
        assert_eq!(patience.take(), Duration::ZERO);
    }

    #[test]
    fn a_full_queue_is_waited_for_but_not_for_ever() {
        let full = || Err(io::Error::from_raw_os_error(libc::ENOBUFS));
        let (mut waited, mut tries) = (Duration::ZERO, 0);
        let sent = send_when_there_is_room(
            || {
                tries += 1;
                if tries == 3 { Ok(()) } else { full() }
            },
            |pause| waited += pause,
        );
        assert!(sent.is_ok() && waited == ROOM[0] + ROOM[1]);
        let mut pauses = 0;
        let error = send_when_there_is_room(full, |_| pauses += 1).unwrap_err();
        assert_eq!((error.raw_os_error(), pauses), (Some(libc::ENOBUFS), ROOM.len()));
        let other = send_when_there_is_room(|| Err(io::Error::from_raw_os_error(libc::EPERM)), |_| panic!("no wait"));
        assert_eq!(other.unwrap_err().raw_os_error(), Some(libc::EPERM));
    }
}
