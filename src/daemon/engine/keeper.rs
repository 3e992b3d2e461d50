//! The thread that keeps [`Paths`] true: it asks the kernel for routes, neighbours and path MTUs, again after every
//! notification, and opens an ear on each interface that tunnel packets come in by.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::Ipv6Addr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::accelerator::{Acceleration, WayOut, Ways};
use super::ear::Ears;
use super::paths::{Ends, NextHop, Path, Paths};
use super::super_packet::{self, SuperPackets};
use crate::daemon::netlink::query::{Changes, Query, Way};
use crate::daemon::netlink::xfrm;
use crate::daemon::netlink::xfrm_monitor::PolicyChanges;
use crate::daemon::shared::Shared;
use crate::daemon::{clock, raw_socket};
use crate::ipsec::{Selector, UpperLayer};
use crate::tunnel::Counters;
use crate::vocabulary::MacAddress;
use crate::wire::numbers::protocol;

/// Changes come in groups: the others that belong to one are waited for.
const SETTLING: Duration = Duration::from_millis(2);
/// How often neighbours in use are told to the kernel, and path MTUs looked at.
const TICK: Duration = Duration::from_secs(1);
/// A path with less than this fragments (RFC 2473 §7.1), which is the kernel's business.
const WHOLE_PATH_MTU: u32 = 1320;

/// A tunnel whose way is to be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wanted {
    /// Its ends.
    pub ends: Ends,
    /// Whose packets go into it here: of one home address (at a home agent), or whatever comes.
    pub home_address: Option<Ipv6Addr>,
}

/// The keeper's handle.
#[derive(Debug)]
pub struct Keeper {
    wanted: Mutex<Vec<Wanted>>,
    bell: UnixStream,
    paths: Arc<Shared<Paths>>,
    ears: Arc<Ears>,
    acceleration: Acceleration,
}

impl Keeper {
    /// Starts the thread.
    ///
    /// # Errors
    /// The error of the system calls.
    pub fn start(counters: Arc<Counters>, super_packets: Option<SuperPackets>) -> io::Result<Arc<Self>> {
        let (bell, heard) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        heard.set_nonblocking(true)?;
        let keeper = Arc::new(Self {
            wanted: Mutex::new(Vec::new()),
            bell,
            paths: Shared::new(Paths::default()),
            ears: Arc::new(Ears::new()?),
            acceleration: Acceleration::default(),
        });
        let mut look = Look {
            query: Query::open()?,
            changes: Changes::open()?,
            policies: PolicyChanges::open().ok(),
            protected: None,
            heard,
            counters,
            carried: 0,
            super_packets,
            protected_told: false,
            shown: String::new(),
        };
        let own = Arc::clone(&keeper);
        thread::Builder::new().name("paths".to_owned()).stack_size(super::STACK).spawn(move || look.run(&own))?;
        Ok(keeper)
    }

    /// Which tunnels there are from now on.
    pub fn want(&self, mut wanted: Vec<Wanted>) {
        wanted.sort_unstable();
        wanted.dedup();
        let mut current = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        if *current != wanted {
            *current = wanted;
            drop(current);
            self.look();
        }
    }

    /// Something has shown that the paths may be other ones.
    pub fn look(&self) {
        // A full bell rings already.
        let _ = (&self.bell).write(&[1]);
    }

    /// What is known.
    pub fn paths(&self) -> &Arc<Shared<Paths>> {
        &self.paths
    }

    /// What carries in front of the threads.
    pub fn acceleration(&self) -> &Acceleration {
        &self.acceleration
    }

    /// Where packets come in.
    pub fn ears(&self) -> &Arc<Ears> {
        &self.ears
    }
}

/// What the thread has for itself.
struct Look {
    query: Query,
    changes: Changes,
    /// None: the kernel has no IPsec.
    policies: Option<PolicyChanges>,
    /// What they say of tunnels, until one of them changes.
    protected: Option<Vec<Selector>>,
    heard: UnixStream,
    counters: Arc<Counters>,
    /// Packets carried when it was last looked.
    carried: u64,
    super_packets: Option<SuperPackets>,
    protected_told: bool,
    /// What the log was told last.
    shown: String,
}

/// What one look has found out already: most tunnels lead to the same few hosts, and leave by the same interface, to the same router.
#[derive(Debug, Default)]
struct Seen {
    /// Path MTU, and the way where there is one.
    tunnels: BTreeMap<Ends, (u32, Option<Way>)>,
    /// The MAC address of an interface, by its index; none where no frames can be sent.
    interfaces: BTreeMap<u32, Option<MacAddress>>,
    neighbours: BTreeMap<(u32, Ipv6Addr), Option<MacAddress>>,
    /// See [`super_packet::speaker`].
    speakers: BTreeMap<Ipv6Addr, Option<u32>>,
}

impl Look {
    fn run(&mut self, keeper: &Keeper) {
        let mut next_tick: Instant = clock::now() + TICK;
        loop {
            let changed = self.wait(next_tick.saturating_duration_since(clock::now()));
            if changed {
                thread::sleep(SETTLING);
                self.drain();
                self.renew(keeper);
            } else if clock::now() >= next_tick {
                next_tick = clock::now() + TICK;
                // Without traffic nothing expires that matters.
                if self.keep_neighbours(&keeper.paths.current()) {
                    self.renew(keeper);
                }
            }
        }
    }

    /// Waits for a change; whether there was one.
    fn wait(&self, time: Duration) -> bool {
        let mut sources: Vec<PollFd<'_>> = [self.changes.as_fd(), self.heard.as_fd()]
            .into_iter()
            .chain(self.policies.as_ref().map(|policies| policies.as_fd()))
            .map(|source: BorrowedFd<'_>| PollFd::new(source, PollFlags::POLLIN))
            .collect();
        let milliseconds = u16::try_from(time.as_millis()).unwrap_or(u16::MAX).saturating_add(1);
        match poll(&mut sources, PollTimeout::from(milliseconds)) {
            Ok(count) => count > 0,
            Err(_) => {
                thread::sleep(SETTLING);
                false
            }
        }
    }

    fn drain(&mut self) {
        self.changes.drain();
        if self.policies.as_ref().is_some_and(PolicyChanges::drain) {
            self.protected = None;
        }
        let mut octets = [0; 64];
        while matches!((&self.heard).read(&mut octets), Ok(length) if length > 0) {}
    }

    /// The kernel does not see what packet sockets send; it is told that its neighbours are in use while they are. Whether there
    /// was anything sent since the last time.
    fn keep_neighbours(&mut self, paths: &Paths) -> bool {
        let carried = self.counters.into_packets();
        if std::mem::replace(&mut self.carried, carried) == carried {
            return false;
        }
        let mut told: Vec<(u32, Ipv6Addr)> = Vec::new();
        for hop in paths.all().iter().filter_map(|path| path.next_hop.as_ref()) {
            if !told.contains(&(hop.interface, hop.address)) {
                told.push((hop.interface, hop.address));
                // One that is gone is noticed by the look that follows.
                let _ = self.query.use_neighbour(hop.interface, hop.address);
            }
        }
        true
    }

    /// Looks at everything and publishes it.
    fn renew(&mut self, keeper: &Keeper) {
        let wanted = keeper.wanted.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let protected = self.protected();
        let (mut seen, mut ways) = (Seen::default(), Ways::new());
        let paths: Vec<Path> = wanted
            .iter()
            .map(|wanted| {
                let direct = !protected.iter().any(|selector| covers(selector, wanted.ends));
                let (path, way) = self.path(wanted, direct, &mut seen);
                ways.extend(way.filter(|_| path.mtu >= WHOLE_PATH_MTU).map(|(interface, neighbour)| {
                    (path.ends, WayOut { interface, neighbour, inner_mtu: path.inner_mtu() })
                }));
                path
            })
            .collect();
        let own = match &mut self.super_packets {
            Some(super_packets) => {
                super_packets.forget_all_but(&mut self.query, &wanted);
                self.query.own_addresses().unwrap_or_default()
            }
            None => Vec::new(),
        };
        self.tell(&paths, wanted.iter().any(|wanted| protected.iter().any(|s| covers(s, wanted.ends))));
        keeper.paths.replace(Paths::new(paths, own));
        let interfaces = seen.interfaces.into_iter().filter_map(|(index, mac)| mac.map(|_| index));
        keeper.ears.listen(&interfaces.collect::<Vec<_>>());
        keeper.acceleration.ways_changed(ways);
    }

    /// The way of a tunnel, and the interface and neighbour it leaves by when frames can be sent there.
    fn path(&mut self, wanted: &Wanted, direct: bool, seen: &mut Seen) -> (Path, Option<(u32, Ipv6Addr)>) {
        let query = &mut self.query;
        let (mtu, way) = *seen.tunnels.entry(wanted.ends).or_insert_with_key(|Ends { source, destination }| {
            let mtu = raw_socket::path_mtu(*source, *destination).unwrap_or(u32::MAX);
            let way = if direct { query.way(Some(*source), *destination).ok().flatten() } else { None };
            (mtu, way)
        });
        let mut path = Path { ends: wanted.ends, next_hop: None, mtu, encapsulates: false };
        let Some(way) = way else { return (path, None) };
        let own =
            *seen.interfaces.entry(way.interface).or_insert_with(|| query.mac_address(way.interface).ok().flatten());
        let Some(own) = own else { return (path, None) };
        if mtu < WHOLE_PATH_MTU {
            return (path, Some((way.interface, way.next_hop)));
        }
        let neighbour = *seen.neighbours.entry((way.interface, way.next_hop)).or_insert_with(|| {
            let known = query.neighbour(way.interface, way.next_hop).ok().flatten();
            if known.is_none() {
                // The kernel asks for it now, so that no binding update or packet has to wait; its answer makes us look again.
                let _ = query.use_neighbour(way.interface, way.next_hop);
            }
            known
        });
        if let Some(neighbour) = neighbour {
            path.next_hop = NextHop::new(way.interface, way.next_hop, own, neighbour).ok();
        }
        if let Some(super_packets) = &mut self.super_packets {
            let speaker = *seen.speakers.entry(wanted.ends.source).or_insert_with_key(|source| {
                let sources = query.sources().unwrap_or_default();
                super_packet::speaker(*source, &sources)
            });
            path.encapsulates = super_packets.route(query, wanted, way.interface, speaker);
        }
        (path, Some((way.interface, way.next_hop)))
    }

    /// The selectors of policies of IPsec that may be about tunnels, whose packets packet sockets would carry past them. When they cannot be
    /// read, that counts for all tunnels, until the next look.
    fn protected(&mut self) -> Vec<Selector> {
        if self.policies.is_none() {
            return Vec::new();
        }
        if let Some(known) = &self.protected {
            return known.clone();
        }
        match xfrm::Client::open().and_then(|mut client| client.policy_keys()) {
            Ok(keys) => {
                let selectors: Vec<_> = keys.into_iter().map(|key| key.selector).filter(is_about_tunnels).collect();
                self.protected = Some(selectors.clone());
                selectors
            }
            Err(xfrm::Error::Open(_)) => Vec::new(),
            Err(error) => {
                tracing::debug!("security policies cannot be read, so the kernel is asked with every packet: {error}");
                let any = crate::vocabulary::Prefix::ANY;
                vec![Selector { source: any, destination: any, upper_layer: UpperLayer::Any }]
            }
        }
    }

    fn tell(&mut self, paths: &[Path], protected: bool) {
        if std::mem::replace(&mut self.protected_told, protected) != protected && protected {
            tracing::info!(
                "a security policy covers the tunnel: its packets go through the kernel's IPsec, by raw sockets"
            );
        }
        let count = |what: fn(&Path) -> bool| paths.iter().filter(|path| what(path)).count();
        let shown = format!(
            "tunnels: {}, straight to a known neighbour: {}, encapsulated by the kernel: {}",
            paths.len(),
            count(|path| path.next_hop.is_some()),
            count(|path| path.encapsulates)
        );
        if shown != self.shown {
            tracing::debug!("{shown}");
            self.shown = shown;
        }
    }
}

/// Whether a policy may be about packets of tunnels, by their protocol. Those of signaling, of which there may be thousands, are not.
fn is_about_tunnels(selector: &Selector) -> bool {
    match selector.upper_layer {
        UpperLayer::Any => true,
        UpperLayer::Protocol(number) => number == protocol::IPV6,
        UpperLayer::MobilityHeader(_) | UpperLayer::Icmpv6(_) => false,
    }
}

/// Whether a policy may be about the packets of a tunnel, in either direction.
fn covers(selector: &Selector, ends: Ends) -> bool {
    let between = |one, other| selector.source.contains(one) && selector.destination.contains(other);
    is_about_tunnels(selector) && (between(ends.source, ends.destination) || between(ends.destination, ends.source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_about_the_tunnel_are_noticed() {
        let ends =
            Ends { source: "2001:db8:3000::3".parse().unwrap(), destination: "2001:db8:2000::1".parse().unwrap() };
        let selector = |source: &str, destination: &str, upper_layer| Selector {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            upper_layer,
        };
        assert!(covers(&selector("::/0", "::/0", UpperLayer::Any), ends));
        assert!(covers(&selector("2001:db8:3000::3/128", "2001:db8:2000::/64", UpperLayer::Protocol(41)), ends));
        assert!(covers(&selector("2001:db8:2000::1/128", "::/0", UpperLayer::Protocol(41)), ends), "the way back");
        assert!(!covers(&selector("::/0", "::/0", UpperLayer::Protocol(6)), ends));
        assert!(!covers(&selector("::/0", "::/0", UpperLayer::MobilityHeader(5)), ends));
        assert!(!covers(&selector("2001:db8:2000::10/128", "2001:db8:2000::1/128", UpperLayer::Any), ends));
    }
}
