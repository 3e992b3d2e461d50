//! Captures: one thread per link writes every frame to a pcap file and keeps it for the assertions of the scenario.

use std::fs::File;
use std::io::{BufWriter, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};

use crate::dissect::Packet;
use crate::failure::{Failure, Outcome, While};
use crate::migration::traffic::now;
use crate::node::Node;
use crate::sys;

/// Frames are taken as they have come together in a time: to be woken for each would fill the lab's one processor. The kernel tells the time of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gather {
    /// Scenarios wait for what they must see.
    Scenario,
    /// Where time is measured, captures keep out of the way.
    Measurement,
}

impl Gather {
    fn time(self) -> Duration {
        match self {
            Self::Scenario => Duration::from_millis(2),
            Self::Measurement => Duration::from_millis(50),
        }
    }
}

/// How often it is looked for what must not be seen.
const LOOK: Duration = Duration::from_millis(100);
/// A capture that has not taken what waits for it after this time never will.
const STUCK: Duration = Duration::from_secs(100);

/// The frames of one link since the capture began.
pub(crate) struct Capture {
    link: &'static str,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Outcome>>,
}

struct Shared {
    gather: Duration,
    packets: Mutex<Vec<Arc<Packet>>>,
    /// Rung with new packets and new answers.
    arrival: Condvar,
    stop: AtomicBool,
    /// Questions whether everything that has passed was taken, and those that are answered: each with all before it.
    asked: AtomicU64,
    answered: AtomicU64,
    /// When the last question was asked, in nanoseconds since the epoch: with a frame that is younger, everything that it is about was taken.
    asked_at: AtomicU64,
    bell: UnixStream,
}

impl Shared {
    fn packets(&self) -> MutexGuard<'_, Vec<Arc<Packet>>> {
        self.packets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until everything that has passed by now was taken, however little processor time the capture gets.
    fn take_all(&self) {
        self.asked_at.fetch_max(nanoseconds(now()), Ordering::SeqCst);
        let question = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        // A full bell rings already.
        let _ = (&self.bell).write(&[1]);
        let deadline = Instant::now() + STUCK;
        let mut packets = self.packets();
        while self.answered.load(Ordering::SeqCst) < question {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "a capture has not taken in {} s what had passed", STUCK.as_secs());
            packets = self.arrival.wait_timeout(packets, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn answer(&self, question: u64) {
        self.answered.store(question, Ordering::SeqCst);
        // Nobody is between looking at the number and waiting.
        drop(self.packets());
        self.arrival.notify_all();
    }
}

impl Capture {
    /// Captures what `interface` of `node` carries, in both directions, into `file`.
    pub(crate) fn start(
        node: &Node,
        interface: &str,
        link: &'static str,
        file: &Path,
        gather: Gather,
    ) -> Outcome<Self> {
        let name = interface.to_owned();
        let socket = node.run(move || sys::packet_socket(&name))?.during(|| format!("capturing on {interface}"))?;
        setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
        // A burst while the one processor of the lab's kernel does something else must not be lost.
        setsockopt(&socket, sockopt::RcvBufForce, &(4 << 20))?;
        let mut pcap = BufWriter::new(File::create(file).during(|| file.display().to_string())?);
        pcap.write_all(&pcap_header())?;
        let (bell, rung) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        rung.set_nonblocking(true)?;
        let shared = Arc::new(Shared {
            gather: gather.time(),
            packets: Mutex::default(),
            arrival: Condvar::new(),
            stop: AtomicBool::new(false),
            asked: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            asked_at: AtomicU64::new(0),
            bell,
        });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name(format!("capture {link}")).spawn(move || {
            let result = record(&socket, &rung, link, &mut pcap, &theirs);
            // Nothing comes any more.
            theirs.answer(u64::MAX);
            result
        })?;
        Ok(Self { link, shared, thread: Some(thread) })
    }

    /// An observer that looks at what comes from now on.
    pub(crate) fn new_observer(&self) -> Observer {
        // What has passed may not have been taken yet.
        let since = now();
        Observer { link: self.link, shared: Arc::clone(&self.shared), next: self.shared.packets().len(), since }
    }

    /// An observer that looks at everything since the capture began.
    pub(crate) fn observer_of_all(&self) -> Observer {
        Observer { link: self.link, shared: Arc::clone(&self.shared), next: 0, since: Duration::ZERO }
    }

    /// Ends the capture and completes the file.
    pub(crate) fn stop(&mut self) -> Outcome {
        self.shared.stop.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result.during(|| format!("capture of {}", self.link)),
            Some(Err(_)) => Err(Failure::new(format!("the capture of {} panicked", self.link))),
            None => Ok(()),
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // A scenario that ended early has its own failure to report.
        let _ = self.stop();
    }
}

/// Reads a capture packet by packet, in order: what one assertion has matched, the next does not see again.
#[derive(Clone)]
pub(crate) struct Observer {
    link: &'static str,
    shared: Arc<Shared>,
    next: usize,
    /// What is older is not for it.
    since: Duration,
}

impl Observer {
    /// Waits until a packet of that description has passed, and moves past it.
    pub(crate) fn must_see(
        &mut self,
        description: &str,
        timeout: Duration,
        matches: impl Fn(&Packet) -> bool,
    ) -> Outcome<Arc<Packet>> {
        let first = self.next;
        let deadline = Instant::now() + timeout;
        let mut packets = self.shared.packets();
        loop {
            while let Some(packet) = packets.get(self.next) {
                self.next += 1;
                if packet.time >= self.since && matches(packet) {
                    return Ok(Arc::clone(packet));
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let seen: String =
                    packets.iter().skip(first).rev().take(12).rev().map(|p| format!("\n    {p}")).collect();
                let seen = if seen.is_empty() { "\n    nothing".to_owned() } else { seen };
                return Err(Failure::timeout(format!(
                    "{}: not seen within {:.1} s: {description}; seen meanwhile:{seen}",
                    self.link,
                    timeout.as_secs_f64()
                )));
            }
            packets = self.shared.arrival.wait_timeout(packets, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// What has passed since its place.
    fn passed(&self) -> Vec<Arc<Packet>> {
        self.shared.take_all();
        self.taken()
    }

    fn taken(&self) -> Vec<Arc<Packet>> {
        let packets = self.shared.packets();
        packets.iter().skip(self.next).filter(|packet| packet.time >= self.since).cloned().collect()
    }

    /// Fails if a packet of that description has passed since this observer's place in the capture.
    pub(crate) fn must_not_have_seen(&self, description: &str, matches: impl Fn(&Packet) -> bool) -> Outcome {
        self.none_of(&self.passed(), description, matches)
    }

    fn none_of(&self, packets: &[Arc<Packet>], description: &str, matches: impl Fn(&Packet) -> bool) -> Outcome {
        match packets.iter().find(|packet| matches(packet)) {
            None => Ok(()),
            Some(packet) => Err(Failure::new(format!("{}: must not be seen: {description}:\n    {packet}", self.link))),
        }
    }

    /// Fails if a packet of that description passes within `window` from now (or has passed since this observer's place).
    pub(crate) fn must_not_see(
        &self,
        description: &str,
        window: Duration,
        matches: impl Fn(&Packet) -> bool,
    ) -> Outcome {
        let deadline = Instant::now() + window;
        // Soon, when there is something; certainly at the end.
        while !deadline.saturating_duration_since(Instant::now()).is_zero() {
            self.none_of(&self.taken(), description, &matches)?;
            std::thread::sleep(LOOK.min(deadline.saturating_duration_since(Instant::now())));
        }
        self.must_not_have_seen(description, matches)
    }

    /// What has come since the last time.
    pub(crate) fn take(&mut self) -> Vec<Arc<Packet>> {
        let packets = self.shared.packets();
        let new = packets.iter().skip(self.next).filter(|packet| packet.time >= self.since).cloned().collect();
        self.next = packets.len();
        new
    }

    /// How many packets of that description have passed since this observer's place.
    pub(crate) fn count(&self, matches: impl Fn(&Packet) -> bool) -> usize {
        self.passed().iter().filter(|packet| matches(packet)).count()
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn record(
    socket: &OwnedFd,
    mut bell: &UnixStream,
    link: &'static str,
    pcap: &mut impl Write,
    shared: &Shared,
) -> Outcome {
    let mut buffer = vec![0_u8; 1 << 16];
    loop {
        // Read before looking: what had arrived when the capture was stopped, or asked, still belongs to it.
        let (stop, asked) = (shared.stop.load(Ordering::Relaxed), shared.asked.load(Ordering::SeqCst));
        while let Some((length, time)) = receive(socket, &mut buffer)? {
            let frame = buffer.get(..length).unwrap_or_default();
            pcap.write_all(&pcap_record(time, length))?;
            pcap.write_all(frame)?;
            shared.packets().push(Arc::new(Packet::dissect(link, time, frame)));
            shared.arrival.notify_all();
            // On a busy link there may be no end of what waits.
            let asked = shared.asked.load(Ordering::SeqCst);
            if asked > shared.answered.load(Ordering::SeqCst)
                && nanoseconds(time) > shared.asked_at.load(Ordering::SeqCst)
            {
                shared.answer(asked);
            }
        }
        if stop {
            return Ok(pcap.flush()?);
        }
        if asked > shared.answered.load(Ordering::SeqCst) {
            shared.answer(asked);
        }
        let mut ready = [socket.as_fd(), bell.as_fd()].map(|source| PollFd::new(source, PollFlags::POLLIN));
        match poll(&mut ready, PollTimeout::from(50_u8)) {
            Ok(0) | Err(nix::Error::EINTR) => {}
            Ok(_) if matches!(bell.read(&mut [0; 64]), Ok(length) if length > 0) => {}
            Ok(_) => std::thread::sleep(shared.gather),
            Err(error) => return Err(error.into()),
        }
    }
}

/// One frame with the kernel's time of it (since the epoch), if one waits.
fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> Outcome<Option<(usize, Duration)>> {
    let mut control = nix::cmsg_space!(nix::sys::time::TimeSpec);
    let mut slices = [IoSliceMut::new(buffer)];
    let message = match recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::MSG_TRUNC) {
        Ok(message) => message,
        Err(nix::Error::EAGAIN | nix::Error::EINTR) => return Ok(None),
        // The interface went down or away: there is nothing to capture, and that is no failure of the scenario.
        Err(nix::Error::ENETDOWN) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let time = message.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::ScmTimestampns(time) => Some(Duration::from(time)),
        _ => None,
    });
    Ok(Some((message.bytes, time.unwrap_or_default())))
}

/// Header of a pcap file with nanosecond times and link type Ethernet.
fn pcap_header() -> [u8; 24] {
    let mut header = [0; 24];
    let words = [0xa1b2_3c4d_u32, 0x0004_0002, 0, 0, 1 << 16, 1];
    for (to, word) in header.chunks_exact_mut(4).zip(words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    header
}

fn pcap_record(time: Duration, length: usize) -> [u8; 16] {
    let mut record = [0; 16];
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    let words = [u32::try_from(time.as_secs()).unwrap_or(u32::MAX), time.subsec_nanos(), length, length];
    for (to, word) in record.chunks_exact_mut(4).zip(words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    record
}
