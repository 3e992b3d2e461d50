//! The eBPF tier: the programs of `src/bpf/tunnel.c` carry what is ordinary, the threads of the packet path the rest.
//!
//! The programs hang on links of their own (TCX, Linux 6.6), which go when this value or its process goes, however it ends.
//! A table is told to them as entries of one map: a hand-over is one update of one entry.

mod programs;

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use aya::programs::tc::TcAttachType;

use super::engine::Accelerator;
use super::engine::accelerator::{GuestPort, WayOut, Ways};
use super::engine::paths::Ends;
use crate::tunnel::accelerated::{self, Carried, ENTRY_LENGTH, Place, Side};
use crate::tunnel::{HomeAgentTable, Table};
use crate::vocabulary::MacAddress;
use programs::{Hook, Programs};

/// Why the tier is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Built without.
    #[error("{0}")]
    NotBuilt(&'static str),
    /// A kernel without TCX.
    #[error("the kernel is older than Linux 6.6: programs could outlive the daemon")]
    Kernel,
    /// The kernel or its policy refuses.
    #[error("the kernel refuses {what}: {why}")]
    Refused {
        /// What.
        what: String,
        /// The chain of errors, in words.
        why: String,
    },
    /// No such interface.
    #[error("the interface {0} is not there")]
    Missing(String),
}

/// Which end of the tunnel, and so which programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    MobileNode,
    HomeAgent,
}

impl Role {
    /// Where the TAP or TUN sends.
    fn into_tunnel(self) -> &'static str {
        match self {
            Self::MobileNode => "guest_to_tunnel",
            Self::HomeAgent => "node_to_tunnel",
        }
    }

    /// Where an uplink receives.
    fn out_of_tunnel(self) -> &'static str {
        match self {
            Self::MobileNode => "tunnel_to_guest",
            Self::HomeAgent => "tunnel_to_node",
        }
    }
}

/// Where what comes out of the tunnel goes, and what goes into it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Port {
    /// Index of our TAP or TUN.
    tap: u32,
    /// That of the guest's own tap, see [`GuestPort::own`].
    own: Option<u32>,
    router_mac: MacAddress,
}

impl Port {
    fn find(port: &GuestPort<'_>) -> Result<Self, Error> {
        let own = port.own.map(index_of).transpose()?;
        Ok(Self { tap: index_of(port.tap)?, own, router_mac: port.router_mac })
    }

    fn place(self, way: &WayOut, slot: u32) -> Place {
        let WayOut { interface: uplink, neighbour: router, inner_mtu: mtu } = *way;
        let (port, side) = self.own.map_or((self.tap, Side::Received), |own| (own, Side::Sent));
        Place { uplink, router, mtu, port, side, router_mac: self.router_mac, slot }
    }
}

/// The loaded programs with what they were told.
#[derive(Debug)]
pub struct Ebpf {
    role: Role,
    /// By port number, with where programs hang for it; none where they cannot.
    ports: Vec<Option<(Port, Vec<Hook>)>>,
    programs: Programs,
    /// Places among the counters; a guest keeps its own as long as this lives.
    slots: BTreeMap<Ipv6Addr, u32>,
    /// What the map holds.
    told: BTreeMap<Ipv6Addr, [u8; ENTRY_LENGTH]>,
}

impl Ebpf {
    /// At the host of guests: `ports` by port number. Room for the counters of twice as many guests as `guests`.
    ///
    /// # Errors
    /// See [`Error`]; needs `CAP_BPF` and `CAP_NET_ADMIN`, or root.
    pub fn mobile_node(ports: &[GuestPort<'_>], guests: usize) -> Result<Self, Error> {
        let mut new = Self::load(Role::MobileNode, guests, ports.len())?;
        for (number, port) in ports.iter().enumerate() {
            new.open(number, Port::find(port)?)?;
        }
        Ok(new)
    }

    /// At a home agent with this TUN.
    ///
    /// # Errors
    /// As [`Ebpf::mobile_node`].
    pub fn home_agent(tun: &str, guests: usize) -> Result<Self, Error> {
        let mut new = Self::load(Role::HomeAgent, guests, 1)?;
        new.open(0, Port { tap: index_of(tun)?, own: None, router_mac: MacAddress([0; 6]) })?;
        Ok(new)
    }

    fn load(role: Role, guests: usize, ports: usize) -> Result<Self, Error> {
        let programs = Programs::load([role.into_tunnel(), role.out_of_tunnel()], guests)?;
        let ports = (0..ports).map(|_| None).collect();
        Ok(Self { role, ports, programs, slots: BTreeMap::new(), told: BTreeMap::new() })
    }

    /// Hangs the program where packets for the tunnel come from.
    fn open(&mut self, number: usize, port: Port) -> Result<(), Error> {
        let name = self.role.into_tunnel();
        let mut hooks = vec![self.programs.attach(name, port.tap, TcAttachType::Egress)?];
        if let Some(own) = port.own {
            match self.programs.attach(name, own, TcAttachType::Ingress) {
                Ok(hook) => hooks.push(hook),
                Err(error) => {
                    hooks.into_iter().for_each(|hook| self.programs.detach(hook));
                    return Err(error);
                }
            }
        }
        if let Some(place) = self.ports.get_mut(number) {
            *place = Some((port, hooks));
        }
        Ok(())
    }

    /// Takes it off again; whether it was there.
    fn close(&mut self, number: usize) -> bool {
        let closed = self.ports.get_mut(number).and_then(Option::take);
        let was_open = closed.is_some();
        closed.into_iter().flat_map(|(_, hooks)| hooks).for_each(|hook| self.programs.detach(hook));
        was_open
    }

    fn port(&self, number: usize) -> Option<Port> {
        Some(self.ports.get(number)?.as_ref()?.0)
    }

    fn slot(&mut self, home_address: Ipv6Addr) -> u32 {
        let next = u32::try_from(self.slots.len() + 1).unwrap_or(u32::MAX);
        *self.slots.entry(home_address).or_insert(next)
    }

    /// Makes the map hold exactly these entries, each with its uplink, and the programs hang on exactly these uplinks.
    fn tell(&mut self, wanted: BTreeMap<Ipv6Addr, (u32, [u8; ENTRY_LENGTH])>) {
        // First what must not be carried any more.
        let gone: Vec<Ipv6Addr> =
            self.told.keys().filter(|home_address| !wanted.contains_key(home_address)).copied().collect();
        for home_address in gone {
            self.programs.forget(home_address);
            self.told.remove(&home_address);
        }
        for (home_address, (uplink, entry)) in &wanted {
            // An entry told again is wanted even when nothing changed: the programs narrow its MTU by themselves.
            let told = self
                .programs
                .attach_where_it_receives(self.role.out_of_tunnel(), *uplink)
                .and_then(|()| self.programs.tell(*home_address, entry));
            match told {
                Ok(()) => {
                    self.told.insert(*home_address, *entry);
                }
                Err(error) => {
                    tracing::warn!(%home_address, %error, "this guest's packets go through userland");
                    self.programs.forget(*home_address);
                    self.told.remove(home_address);
                }
            }
        }
        self.programs.detach_all_but(&wanted.values().map(|(uplink, _)| *uplink).collect::<Vec<_>>());
    }
}

impl Accelerator for Ebpf {
    fn description(&self) -> String {
        "ebpf: programs at the port and at the uplink carry what is ordinary".to_owned()
    }

    fn ports_changed(&mut self, ports: &[GuestPort<'_>]) -> bool {
        let (mut changed, known) = (false, self.ports.len());
        self.ports.resize_with(ports.len().max(known), || None);
        for (number, wanted) in ports.iter().enumerate() {
            let found = Port::find(wanted);
            if self.port(number).is_some_and(|port| found.as_ref().is_ok_and(|found| *found == port)) {
                continue;
            }
            let is_news = self.close(number) || number >= known;
            let opened = found.and_then(|port| self.open(number, port));
            changed |= is_news || opened.is_ok();
            // Tried again with every look, and told once.
            if let (Err(error), true) = (opened, is_news) {
                tracing::warn!(tap = wanted.tap, %error, "guests of this port go through userland");
            }
        }
        changed
    }

    fn guests_changed(&mut self, table: &Table, ways: &Ways) {
        let mut wanted = BTreeMap::new();
        for entry in table.entries() {
            let (Some(carrier), Some(port)) = (entry.carrier, self.port(entry.port)) else { continue };
            let ends = Ends { source: carrier.care_of, destination: carrier.home_agent };
            let Some(way) = ways.get(&ends) else { continue };
            let slot = self.slot(entry.home_address);
            let place = port.place(way, slot);
            if let Some(octets) = accelerated::guest(entry, place) {
                wanted.insert(entry.home_address, (way.interface, octets));
            }
        }
        self.tell(wanted);
    }

    fn bindings_changed(&mut self, table: &HomeAgentTable, ways: &Ways) {
        let mut wanted = BTreeMap::new();
        for entry in table.entries() {
            let (Some(care_of), Some(port)) = (entry.care_of, self.port(0)) else { continue };
            let ends = Ends { source: table.home_agent(), destination: care_of };
            let Some(way) = ways.get(&ends) else { continue };
            let slot = self.slot(entry.home_address);
            let place = port.place(way, slot);
            if let Some(octets) = accelerated::binding(table, entry, place) {
                wanted.insert(entry.home_address, (way.interface, octets));
            }
        }
        self.tell(wanted);
    }

    fn carried(&self) -> Vec<(Option<Ipv6Addr>, Carried)> {
        let slots = self.slots.iter().map(|(home_address, slot)| (Some(*home_address), *slot));
        std::iter::once((None, 0)).chain(slots).map(|(whose, slot)| (whose, self.programs.counters(slot))).collect()
    }
}

fn index_of(interface: &str) -> Result<u32, Error> {
    nix::net::if_::if_nametoindex(interface).map_err(|_| Error::Missing(interface.to_owned()))
}
