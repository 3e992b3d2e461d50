//! An underlay that loses and reorders, and sees whether anything leaves outside of the tunnel.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;

use kagemusha::daemon::sys::set_integer_option;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, send, setsockopt, sockopt};

use crate::failure::{Failure, Outcome, While};
use crate::node::Node;
use crate::sys;

/// One frame in so many is lost, one in so many comes later.
const LOST: u64 = 500;
const LATE: u64 = 200;
/// At most so many frames later.
const OVERTAKEN: u64 = 12;
/// Beginning of the inner addresses: 2001:db8:2000::/64.
const INNER: [u8; 8] = [0x20, 0x01, 0x0d, 0xb8, 0x20, 0x00, 0, 0];

/// What it has done.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) frames: AtomicU64,
    pub(super) lost: AtomicU64,
    pub(super) late: AtomicU64,
    /// Frames with an inner address in their first IPv6 header.
    pub(super) leaks: AtomicU64,
}

/// Carries frames between `w0` and `w1` of a node until it is dropped.
pub(super) struct Hostile {
    pub(super) seen: Arc<Seen>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Outcome>>,
}

/// One direction: frames that are to come later, with how many others go first.
struct Direction {
    from: OwnedFd,
    to: OwnedFd,
    late: VecDeque<(u64, Vec<u8>)>,
}

impl Hostile {
    pub(super) fn start(node: &Node, seed: u64) -> Outcome<Self> {
        let sockets = node.run(|| -> Outcome<[OwnedFd; 4]> {
            let open = |name| -> Outcome<OwnedFd> {
                let socket = sys::packet_socket(name)?;
                set_integer_option(socket.as_fd(), libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)?;
                setsockopt(&socket, sockopt::RcvBufForce, &(4 << 20))?;
                Ok(socket)
            };
            let (w0, w1) = (open("w0")?, open("w1")?);
            Ok([w0.try_clone()?, w1.try_clone()?, w1, w0])
        })?;
        let [a, b, c, d] = sockets.during(|| "the hostile underlay".into())?;
        let late = VecDeque::new;
        let mut directions = [Direction { from: a, to: b, late: late() }, Direction { from: c, to: d, late: late() }];
        let (seen, stop) = (Arc::new(Seen::default()), Arc::new(AtomicBool::new(false)));
        let (theirs, stopped) = (Arc::clone(&seen), Arc::clone(&stop));
        let thread = std::thread::Builder::new().name("hostile".to_owned()).spawn(move || {
            let (mut chance, mut buffer) = (seed | 1, vec![0; 2048]);
            while !stopped.load(Relaxed) {
                let mut sources: Vec<_> =
                    directions.iter().map(|way| PollFd::new(way.from.as_fd(), PollFlags::POLLIN)).collect();
                let quiet = poll(&mut sources, PollTimeout::from(5u8))? == 0;
                for way in &mut directions {
                    way.carry(&mut buffer, &mut chance, &theirs)?;
                    if quiet {
                        way.release(u64::MAX)?;
                    }
                }
            }
            Ok(())
        })?;
        Ok(Self { seen, stop, thread: Some(thread) })
    }

    /// Ends it, and tells of an error that it had.
    pub(super) fn stop(mut self) -> Outcome {
        self.stop.store(true, Relaxed);
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().map_err(|_| Failure::new("the hostile underlay has panicked"))?
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

impl Direction {
    /// Carries what is there.
    fn carry(&mut self, buffer: &mut [u8], chance: &mut u64, seen: &Seen) -> Outcome {
        for _ in 0..64 {
            let length = match recv(self.from.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => length,
                Err(Errno::EAGAIN | Errno::EINTR) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let frame = &buffer[..length];
            seen.frames.fetch_add(1, Relaxed);
            seen.leaks.fetch_add(u64::from(leaks(frame)), Relaxed);
            if next(chance).is_multiple_of(LOST) {
                seen.lost.fetch_add(1, Relaxed);
            } else if next(chance).is_multiple_of(LATE) {
                seen.late.fetch_add(1, Relaxed);
                self.late.push_back((1 + next(chance) % OVERTAKEN, frame.to_vec()));
            } else {
                put(&self.to, frame)?;
                self.release(1)?;
            }
        }
        Ok(())
    }

    /// So many frames have gone by.
    fn release(&mut self, gone: u64) -> Outcome {
        let Self { late, to, .. } = self;
        late.iter_mut().for_each(|(left, _)| *left = left.saturating_sub(gone));
        while late.front().is_some_and(|(left, _)| *left == 0) {
            let Some((_, frame)) = late.pop_front() else { break };
            put(to, &frame)?;
        }
        Ok(())
    }
}

fn put(to: &OwnedFd, frame: &[u8]) -> Outcome {
    match send(to.as_raw_fd(), frame, MsgFlags::empty()) {
        // A full queue loses, and so does an interface whose MTU has become less.
        Ok(_) | Err(Errno::ENOBUFS | Errno::EMSGSIZE | Errno::EAGAIN) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn leaks(frame: &[u8]) -> bool {
    let begins = |at: usize| frame.get(at..at + INNER.len()) == Some(&INNER[..]);
    frame.get(12..14) == Some(&[0x86, 0xdd]) && (begins(22) || begins(38))
}

/// Xorshift: the same run for the same seed.
pub(super) fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guests_packet_outside_of_the_tunnel_is_a_leak() {
        let mut frame = [0; 100];
        frame[12..14].copy_from_slice(&[0x86, 0xdd]);
        frame[14 + 40 + 8..][..8].copy_from_slice(&INNER);
        assert!(!leaks(&frame), "inside");
        frame[22..30].copy_from_slice(&INNER);
        assert!(leaks(&frame));
    }
}
