//! The eBPF tier: the programs of `src/bpf/tunnel.c` carry what is ordinary, the threads of the packet path the rest.
//!
//! The programs hang on links of their own (TCX, Linux 6.6), which go when this value or its process goes, however it ends.
//! A table is told to them as entries of one map: a hand-over is one update of one entry.

mod programs;

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use super::engine::Accelerator;
use super::engine::accelerator::{GuestPort, WayOut, Ways};
use super::engine::paths::Ends;
use crate::tunnel::accelerated::{self, Carried, ENTRY_LENGTH, Place, Side};
use crate::tunnel::{HomeAgentTable, Table};
use crate::vocabulary::MacAddress;
use programs::Programs;

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

/// Where what comes out of the tunnel goes.
#[derive(Debug, Clone, Copy)]
struct Port {
    index: u32,
    side: Side,
    router_mac: MacAddress,
}

impl Port {
    fn place(self, way: &WayOut, slot: u32) -> Place {
        let WayOut { interface: uplink, neighbour: router, inner_mtu: mtu } = *way;
        Place { uplink, router, mtu, port: self.index, side: self.side, router_mac: self.router_mac, slot }
    }
}

/// The loaded programs with what they were told.
#[derive(Debug)]
pub struct Ebpf {
    role: Role,
    ports: Vec<Port>,
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
        let mut new = Self::load(Role::MobileNode, guests)?;
        for port in ports {
            let tap = index_of(port.tap)?;
            new.programs.attach_where_it_sends(new.role.into_tunnel(), tap)?;
            let (index, side) = match port.own {
                Some(own) => (index_of(own)?, Side::Sent),
                None => (tap, Side::Received),
            };
            if side == Side::Sent {
                new.programs.attach_to_guest(new.role.into_tunnel(), index)?;
            }
            new.ports.push(Port { index, side, router_mac: port.router_mac });
        }
        Ok(new)
    }

    /// At a home agent with this TUN.
    ///
    /// # Errors
    /// As [`Ebpf::mobile_node`].
    pub fn home_agent(tun: &str, guests: usize) -> Result<Self, Error> {
        let mut new = Self::load(Role::HomeAgent, guests)?;
        let index = index_of(tun)?;
        new.programs.attach_where_it_sends(new.role.into_tunnel(), index)?;
        new.ports.push(Port { index, side: Side::Received, router_mac: MacAddress([0; 6]) });
        Ok(new)
    }

    fn load(role: Role, guests: usize) -> Result<Self, Error> {
        let programs = Programs::load([role.into_tunnel(), role.out_of_tunnel()], guests)?;
        Ok(Self { role, ports: Vec::new(), programs, slots: BTreeMap::new(), told: BTreeMap::new() })
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

    fn guests_changed(&mut self, table: &Table, ways: &Ways) {
        let mut wanted = BTreeMap::new();
        for entry in table.entries() {
            let (Some(carrier), Some(port)) = (entry.carrier, self.ports.get(entry.port).copied()) else { continue };
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
            let (Some(care_of), Some(port)) = (entry.care_of, self.ports.first().copied()) else { continue };
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
