//! What a correspondent does with a guest while it moves: a transfer, an echo as of a terminal, and a ping.
//!
//! Everything runs on threads that live in the correspondent's namespace. A connection that is reset, ends or brings a
//! wrong octet is a failure; how long it stood still is measured.

use std::io::{self, Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddrV6, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, Socket, Type};

use super::guest::{ECHO_PORT, STREAM_PORT, pattern};
use crate::failure::{Failure, Outcome, While, ensure};
use crate::node::Node;

/// A connection may stand still so long before it counts as dead.
const PATIENCE: Duration = Duration::from_secs(60);

/// Now, since the epoch, by the clock of captures and of QEMU's events.
pub(crate) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Work on a thread in a node that ends when it is told to.
struct Activity<T> {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Outcome<T>>,
}

impl<T: Send + 'static> Activity<T> {
    fn start(node: &Node, name: &str, work: impl FnOnce(&AtomicBool) -> Outcome<T> + Send + 'static) -> Outcome<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (theirs, builder) = (Arc::clone(&stop), std::thread::Builder::new().name(name.to_owned()));
        // A thread inherits the namespaces of the one that starts it.
        let thread = node.run(move || builder.spawn(move || work(&theirs)))??;
        Ok(Self { stop, thread })
    }

    fn end(self) -> Outcome<T> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| Failure::new("a thread of the traffic panicked"))?
    }
}

/// What a connection has carried.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Carried {
    /// Octets received, every one of them right.
    pub(crate) octets: u64,
    /// The longest time without any.
    pub(crate) longest_stop: Duration,
}

fn connect(guest: Ipv6Addr, port: u16) -> Outcome<TcpStream> {
    let address = SocketAddrV6::new(guest, port, 0, 0).into();
    let stream =
        TcpStream::connect_timeout(&address, PATIENCE).during(|| format!("connecting to {guest} port {port}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_millis(50)))?;
    Ok(stream)
}

fn is_pause(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

/// A running TCP transfer from the guest, every octet of which is compared with what it must be.
pub(crate) struct Transfer(Activity<Carried>);

impl Transfer {
    /// `pause` in milliseconds between two blocks keeps it from filling the lab's one processor.
    pub(crate) fn start(node: &Node, guest: Ipv6Addr, pause: u8) -> Outcome<Self> {
        let mut stream = node.run(move || connect(guest, STREAM_PORT))??;
        stream.write_all(&[pause])?;
        Activity::start(node, "transfer", move |stop| transfer(stream, stop)).map(Self)
    }

    pub(crate) fn end(self) -> Outcome<Carried> {
        self.0.end().during(|| "the TCP transfer".into())
    }
}

fn transfer(mut stream: TcpStream, stop: &AtomicBool) -> Outcome<Carried> {
    let mut carried = Carried::default();
    let mut buffer = vec![0; 1 << 16];
    let mut last = Instant::now();
    let mut leaving = false;
    loop {
        if stop.load(Ordering::Relaxed) && !leaving {
            carried.longest_stop = carried.longest_stop.max(last.elapsed());
            // A good-bye, so that a reset on the wire is always a fault.
            stream.shutdown(Shutdown::Write)?;
            leaving = true;
        }
        match stream.read(&mut buffer) {
            Ok(0) if leaving => return Ok(carried),
            Ok(0) => {
                return Err(Failure::new(format!("the guest closed the connection after {} octets", carried.octets)));
            }
            Ok(length) => {
                let right = |(at, octet): (u64, &u8)| *octet == pattern(carried.octets + at);
                ensure((0..).zip(buffer.iter().take(length)).all(right), || {
                    format!("a wrong octet after {}", carried.octets)
                })?;
                carried.octets += length as u64;
                if !leaving {
                    carried.longest_stop = carried.longest_stop.max(last.elapsed());
                }
                last = Instant::now();
            }
            Err(error) if is_pause(&error) => ensure(last.elapsed() < PATIENCE, || {
                format!("nothing came for {} s after {} octets", PATIENCE.as_secs(), carried.octets)
            })?,
            Err(error) => return Err(error).during(|| format!("after {} octets", carried.octets)),
        }
    }
}

/// Somebody at a terminal: an octet every tenth of a second, each awaited.
pub(crate) struct Terminal(Activity<Carried>);

impl Terminal {
    pub(crate) fn start(node: &Node, guest: Ipv6Addr) -> Outcome<Self> {
        let stream = node.run(move || connect(guest, ECHO_PORT))??;
        Activity::start(node, "terminal", move |stop| terminal(stream, stop)).map(Self)
    }

    pub(crate) fn end(self) -> Outcome<Carried> {
        self.0.end().during(|| "the echo".into())
    }
}

fn terminal(mut stream: TcpStream, stop: &AtomicBool) -> Outcome<Carried> {
    let mut carried = Carried::default();
    while !stop.load(Ordering::Relaxed) {
        let octet = pattern(carried.octets);
        let typed = Instant::now();
        stream.write_all(&[octet])?;
        let mut buffer = [0];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => return Err(Failure::new("the guest closed the connection")),
                Ok(_) => break,
                Err(error) if is_pause(&error) => {
                    ensure(typed.elapsed() < PATIENCE, || format!("no echo for {} s", PATIENCE.as_secs()))?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        ensure(buffer == [octet], || format!("octet {}: another came back", carried.octets))?;
        carried.octets += 1;
        carried.longest_stop = carried.longest_stop.max(typed.elapsed());
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(carried)
}

/// One echo request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Probe {
    /// Which of the guests asked for it was for, by its place in their order.
    pub(crate) guest: usize,
    /// When it was sent, since the epoch.
    pub(crate) sent: Duration,
    /// How long the reply took; `None`: lost.
    pub(crate) round_trip: Option<Duration>,
}

/// Echo requests at a steady rate, to one guest or to several in turn.
pub(crate) struct Pinger {
    probes: Arc<Mutex<Vec<Probe>>>,
    sender: Activity<()>,
    receiver: Activity<()>,
}

impl Pinger {
    pub(crate) fn start(node: &Node, guests: &[Ipv6Addr], interval: Duration) -> Outcome<Self> {
        // Tells our replies from those of other programs.
        static NEXT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(0x4b00);
        let identifier = NEXT.fetch_add(1, Ordering::Relaxed);
        let socket = node.run(|| Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6)))??;
        socket.set_nonblocking(true)?;
        socket.set_recv_buffer_size(1 << 20)?;
        let replies = socket.try_clone()?;
        let probes = Arc::new(Mutex::new(Vec::new()));
        let (sent, received) = (Arc::clone(&probes), Arc::clone(&probes));
        let guests = guests.to_owned();
        let sender =
            Activity::start(node, "ping", move |stop| send(&socket, &guests, identifier, interval, &sent, stop))?;
        let receiver =
            Activity::start(node, "ping replies", move |stop| receive(&replies, identifier, &received, stop))?;
        Ok(Self { probes, sender, receiver })
    }

    /// What it has seen so far.
    pub(crate) fn probes(&self) -> Vec<Probe> {
        self.probes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends it after the last replies had `wait` to come.
    pub(crate) fn end(self, wait: Duration) -> Outcome<Vec<Probe>> {
        self.sender.end()?;
        std::thread::sleep(wait);
        self.receiver.end()?;
        let probes = self.probes.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(probes.clone())
    }
}

fn send(
    socket: &Socket,
    guests: &[Ipv6Addr],
    identifier: u16,
    interval: Duration,
    probes: &Mutex<Vec<Probe>>,
    stop: &AtomicBool,
) -> Outcome<()> {
    let mut next = Instant::now();
    let mut targets = guests.iter().enumerate().cycle();
    let mut number = 0_u32;
    while !stop.load(Ordering::Relaxed) {
        let Some((place, guest)) = targets.next() else { break };
        let mut message = vec![128, 0, 0, 0];
        message.extend(identifier.to_be_bytes());
        message.extend([0, 0]);
        message.extend(number.to_be_bytes());
        probes.lock().unwrap_or_else(PoisonError::into_inner).push(Probe {
            guest: place,
            sent: now(),
            round_trip: None,
        });
        number += 1;
        // What cannot be sent is lost like any other.
        let _ = socket.send_to(&message, &SocketAddrV6::new(*guest, 0, 0, 0).into());
        next += interval;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        // After a hold-up of the whole lab it does not catch up in a burst.
        next = next.max(Instant::now() - interval);
    }
    Ok(())
}

fn receive(socket: &Socket, identifier: u16, probes: &Mutex<Vec<Probe>>, stop: &AtomicBool) -> Outcome<()> {
    let mut socket_reader = socket;
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        let mut ready = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut ready, PollTimeout::from(50_u8));
        while let Ok(length) = socket_reader.read(&mut buffer) {
            let arrival = now();
            let [129, _, _, _, high, low, _, _, a, b, c, d, ..] = buffer.get(..length).unwrap_or_default() else {
                continue;
            };
            if u16::from_be_bytes([*high, *low]) != identifier {
                continue;
            }
            let number = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
            if let Some(probe) = probes.lock().unwrap_or_else(PoisonError::into_inner).get_mut(number) {
                probe.round_trip.get_or_insert(arrival.saturating_sub(probe.sent));
            }
        }
    }
    Ok(())
}

/// The longest run of lost probes among those sent from `from` to `to`, as the time from the first lost to the next answered.
pub(crate) fn longest_gap(probes: &[Probe], from: Duration, to: Duration) -> Duration {
    let (mut longest, mut begin) = (Duration::ZERO, None);
    for probe in probes.iter().filter(|probe| (from..=to).contains(&probe.sent)) {
        match (probe.round_trip, begin) {
            (None, None) => begin = Some(probe.sent),
            (Some(_), Some(first)) => {
                longest = longest.max(probe.sent - first);
                begin = None;
            }
            _ => {}
        }
    }
    // Lost to the end: at least that long.
    if let (Some(first), Some(last)) = (begin, probes.iter().rfind(|probe| probe.sent <= to)) {
        longest = longest.max(last.sent - first);
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_reaches_from_the_first_lost_to_the_next_answered() {
        let at = Duration::from_millis;
        let probes: Vec<Probe> = (0..100)
            .map(|number| Probe {
                guest: 0,
                sent: at(number * 10),
                round_trip: (!(20..25).contains(&number) && number != 50 && number < 98).then_some(at(1)),
            })
            .collect();
        assert_eq!(longest_gap(&probes, at(0), at(900)), at(50));
        assert_eq!(longest_gap(&probes, at(300), at(900)), at(10));
        assert_eq!(longest_gap(&probes, at(600), at(900)), at(0));
        assert_eq!(longest_gap(&probes, at(600), at(2000)), at(10), "lost to the end");
    }
}
