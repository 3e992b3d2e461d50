//! The thread out of the tunnel: it takes what came together, has every packet judged, and joins what belongs together before it is
//! written.

use std::io;
use std::net::Ipv6Addr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::ear::{self, Ear};
use super::keeper::Keeper;
use crate::daemon::pace::Patience;
use crate::daemon::sys::{self, Incoming, MESSAGES};
use crate::daemon::tap::VNET_HEADER_LENGTH;
use crate::daemon::tunnel_socket::TunnelSocket;
use crate::daemon::{clock, control};
use crate::tunnel::coalesce::Coalescer;
use crate::tunnel::{Counters, Offload, Outer, Reason, vnet};
use crate::wire::numbers::protocol;
use crate::wire::{ethernet, ipv6, tunnel};

/// Packets received at once.
const BATCH: usize = MESSAGES;
/// Room of one: the longest packet with everything in front of it. Not a power of two, so that the beginnings do not share cache lines.
const SIZE: usize = 65_536 + 1024 + 64;
/// Room of ancillary data: source, destination and traffic class with their headers.
const CONTROL: usize = 128;
/// After a fragmented tunnel packet the kernel's IPv6 receives everything for so long: it reassembles.
const FRAGMENTS: Duration = Duration::from_secs(10);
/// Without packets for so long, memory is given back.
const IDLE: Duration = Duration::from_secs(2);
/// While packets come faster than one by one, this long is waited for others: they are received, and joined, together. (Letting others run first
/// instead joins more, and on a CPU with much to do holds packets up for tens of milliseconds.)
const GATHER: Duration = Duration::from_micros(30);
/// So many at once mean that more are coming.
const BUSY: usize = 3;
/// In front of a packet that an ear heard.
const FRAME: usize = VNET_HEADER_LENGTH + ethernet::HEADER_LENGTH;
/// Ears that are listened to at most.
const EARS: usize = 62;

/// Decides on what came, and writes it. One for each role.
pub trait Exit {
    /// To whom something is written.
    type To: PartialEq + Copy;

    /// Sees the newest tables.
    fn begin(&mut self);

    /// Decides; what is delivered goes to `out`.
    fn judge<'a>(
        &self,
        outer: Outer,
        packet: &'a mut [u8],
        offload: Option<Offload>,
        out: &mut Coalescer<'a, Self::To>,
    );

    /// Whether UDP may be joined.
    fn joins_datagrams(&self) -> bool;

    /// Writes what was joined.
    fn write(&self, out: &Coalescer<'_, Self::To>);
}

/// The thread's buffers and where it listens.
pub struct Receiver<E> {
    exit: E,
    tunnel: Arc<TunnelSocket>,
    keeper: Arc<Keeper>,
    counters: Arc<Counters>,
    ears: Vec<Arc<Ear>>,
    /// Until when only the raw socket is listened to.
    fragments: Option<Instant>,
    payloads: Vec<u8>,
    controls: Vec<u8>,
    used: bool,
    /// Packets that came at once the last time.
    together: usize,
}

/// What became ready.
#[derive(Debug, Default)]
struct Ready {
    changed: bool,
    raw: bool,
    ears: u64,
}

impl<E: Exit> Receiver<E> {
    /// From the tunnel to `exit`.
    pub fn new(exit: E, tunnel: Arc<TunnelSocket>, keeper: Arc<Keeper>, counters: Arc<Counters>) -> Self {
        Self {
            exit,
            tunnel,
            keeper,
            counters,
            ears: Vec::new(),
            fragments: None,
            payloads: vec![0; BATCH * SIZE],
            controls: vec![0; BATCH * CONTROL],
            used: false,
            together: 0,
        }
    }

    /// Goes on for ever.
    pub fn run(&mut self) {
        let mut patience = Patience::default();
        loop {
            let ready = match self.wait() {
                Ok(ready) => ready,
                Err(_) => {
                    thread::sleep(patience.take());
                    continue;
                }
            };
            if ready.changed {
                self.keeper.ears().noticed();
                self.attend();
            }
            if self.fragments.is_some_and(|until| clock::now() >= until) {
                self.fragments = None;
                self.attend();
            }
            if (BUSY..BATCH).contains(&self.together) {
                thread::sleep(GATHER);
            }
            self.together = 0;
            self.exit.begin();
            if ready.raw {
                match self.receive_raw() {
                    Ok(()) => patience.renew(),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    // ICMPv6 errors about what we sent come back as errors of the socket: a path is another one now.
                    Err(error) => {
                        tracing::debug!(%error, "the tunnel socket reports");
                        self.keeper.look();
                        thread::sleep(patience.take());
                    }
                }
            }
            for n in 0..self.ears.len() {
                if ready.ears & 1 << n != 0 {
                    self.listen(n);
                }
            }
        }
    }

    fn wait(&mut self) -> nix::Result<Ready> {
        let time = match (self.used, self.fragments) {
            (false, None) => PollTimeout::NONE,
            _ => PollTimeout::from(u16::try_from(IDLE.as_millis()).unwrap_or(u16::MAX)),
        };
        let ears = self.keeper.ears();
        let sources = [ears.changed(), self.tunnel.as_fd()].into_iter().chain(self.ears.iter().map(|ear| ear.as_fd()));
        let mut sources: Vec<_> = sources.map(|source| PollFd::new(source, PollFlags::POLLIN)).collect();
        let count = poll(&mut sources, time)?;
        let is_ready = |source: &PollFd<'_>| source.revents().is_some_and(|events| !events.is_empty());
        let mut all = sources.iter().map(is_ready);
        let ready = Ready {
            changed: all.next().unwrap_or_default(),
            raw: all.next().unwrap_or_default(),
            ears: all.enumerate().fold(0, |set, (n, ready)| set | u64::from(ready) << n),
        };
        if count == 0 && std::mem::take(&mut self.used) {
            sys::release_pages(&mut self.payloads);
        }
        Ok(ready)
    }

    /// Listens with the ears there are now, and tells the raw socket to leave to them what they hear.
    fn attend(&mut self) {
        self.ears = self.keeper.ears().reader().get().iter().take(EARS).cloned().collect();
        let heard = self.ears.iter().map(|ear| ear.interface).filter(|_| self.fragments.is_none());
        if let Err(error) = self.tunnel.filter(&ear::all_but(heard)) {
            tracing::warn!("packets may come twice: the raw socket takes no filter: {error}");
        }
    }

    fn receive_raw(&mut self) -> io::Result<()> {
        let mut incoming = [Incoming::default(); MESSAGES];
        let (payloads, controls) = ((&mut self.payloads[..], SIZE), (&mut self.controls[..], CONTROL));
        let count = sys::receive_messages(self.tunnel.as_fd(), payloads, controls, &mut incoming)?;
        (self.used, self.together) = (true, self.together + count);
        let mut out = Coalescer::new(self.exit.joins_datagrams());
        let buffers = self.payloads.chunks_exact_mut(SIZE).zip(self.controls.chunks_exact(CONTROL));
        for (incoming, (payload, control)) in incoming.iter().zip(buffers).take(count) {
            let control = control.get(..incoming.control_length).unwrap_or_default();
            let packet = payload.get_mut(..incoming.length).filter(|_| !incoming.truncated);
            match (incoming.source, control::packet_info(control), packet) {
                (Some(source), Some((destination, _)), Some(packet)) => {
                    let outer = Outer { source, destination, traffic_class: control::traffic_class(control) };
                    self.exit.judge(outer, packet, None, &mut out);
                }
                _ => self.counters.count(Reason::BadHeader),
            }
        }
        self.exit.write(&out);
        Ok(())
    }

    fn listen(&mut self, n: usize) {
        let Some(ear) = self.ears.get(n) else { return };
        let mut incoming = [Incoming::default(); MESSAGES];
        let count = match sys::receive_messages(ear.as_fd(), (&mut self.payloads, SIZE), (&mut [], 0), &mut incoming) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => {
                tracing::debug!(%error, "an ear reports");
                return self.keeper.look();
            }
        };
        (self.used, self.together) = (true, self.together + count);
        let mut fragments = false;
        let deaf = self.fragments.is_some();
        let mut out = Coalescer::new(self.exit.joins_datagrams());
        for (incoming, payload) in incoming.iter().zip(self.payloads.chunks_exact_mut(SIZE)).take(count) {
            let heard = payload.get_mut(..incoming.length).filter(|_| !incoming.truncated);
            match heard.map_or(Err(Reason::BadHeader), take_apart) {
                Ok(Heard::Fragment) => fragments = true,
                // The raw socket has it, too.
                Ok(Heard::Packet { .. }) if deaf => {}
                Ok(Heard::Packet { outer, packet, offload }) => self.exit.judge(outer, packet, offload, &mut out),
                Err(reason) => self.counters.count(reason),
            }
        }
        self.exit.write(&out);
        if fragments {
            let begins = self.fragments.replace(clock::now() + FRAGMENTS).is_none();
            if begins {
                tracing::debug!("the tunnel's packets come in fragments: the kernel reassembles them");
                self.attend();
            }
        }
    }
}

/// What an ear heard.
enum Heard<'a> {
    Packet {
        outer: Outer,
        packet: &'a mut [u8],
        offload: Option<Offload>,
    },
    /// The beginning of a fragment.
    Fragment,
}

fn take_apart(octets: &mut [u8]) -> Result<Heard<'_>, Reason> {
    let (head, packet) = octets.split_at_mut_checked(FRAME).ok_or(Reason::BadHeader)?;
    if packet.get(6) == Some(&protocol::FRAGMENT) {
        return Ok(Heard::Fragment);
    }
    let tunnel::Encapsulated { outer, inner, .. } =
        tunnel::parse(packet).map_err(|_| Reason::BadHeader)?.ok_or(Reason::BadHeader)?;
    let skipped = u16::try_from(ethernet::HEADER_LENGTH + inner.start).map_err(|_| Reason::BadHeader)?;
    let offload = vnet::parse(head, skipped)?;
    let is_address = |address: Ipv6Addr| ipv6::is_unicast_routable(address);
    if !is_address(outer.source) || !is_address(outer.destination) {
        return Err(Reason::ForeignTunnelSource);
    }
    let outer = Outer { source: outer.source, destination: outer.destination, traffic_class: outer.traffic_class };
    Ok(Heard::Packet { outer, packet: packet.get_mut(inner).ok_or(Reason::BadHeader)?, offload })
}
