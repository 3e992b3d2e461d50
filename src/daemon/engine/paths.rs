//! The ways that tunnel packets leave this host by, as the transmitting threads read them: immutable, swapped as a whole.

use std::net::Ipv6Addr;

use socket2::SockAddr;

use crate::tunnel::inner_mtu;
use crate::vocabulary::MacAddress;
use crate::wire::ethernet;
use crate::wire::numbers::ether_type;

/// The two ends of a tunnel, as its outer header has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ends {
    /// Outer source.
    pub source: Ipv6Addr,
    /// Outer destination.
    pub destination: Ipv6Addr,
}

/// A neighbour on an Ethernet link that the kernel would hand packets to.
#[derive(Debug, Clone)]
pub struct NextHop {
    /// Interface index.
    pub interface: u32,
    /// The neighbour's address.
    pub address: Ipv6Addr,
    /// The Ethernet header of frames to it.
    pub header: [u8; ethernet::HEADER_LENGTH],
    /// The interface as an address of a packet socket.
    pub socket_address: SockAddr,
}

impl NextHop {
    /// Frames from `own` to `neighbour`.
    pub fn new(interface: u32, address: Ipv6Addr, own: MacAddress, neighbour: MacAddress) -> std::io::Result<Self> {
        let header =
            ethernet::Frame { destination: neighbour, source: own, ether_type: ether_type::IPV6, payload: &[] }
                .header();
        let socket_address = crate::daemon::sys::packet_address(interface, ether_type::IPV6)?;
        Ok(Self { interface, address, header, socket_address })
    }
}

/// The way of one tunnel.
#[derive(Debug, Clone)]
pub struct Path {
    /// Which tunnel.
    pub ends: Ends,
    /// Where frames go. `None`: only the kernel knows, and raw sockets are used.
    pub next_hop: Option<NextHop>,
    /// Path MTU in octets.
    pub mtu: u32,
    /// Whether the kernel encapsulates for this tunnel what is written to the TUN of the super-packet tier.
    pub encapsulates: bool,
}

impl Path {
    /// The longest inner packet, in octets.
    pub fn inner_mtu(&self) -> usize {
        inner_mtu(self.mtu as usize)
    }
}

/// All that is known.
#[derive(Debug, Clone, Default)]
pub struct Paths {
    /// By their ends.
    paths: Vec<Path>,
    /// This host's own addresses, in order: what the kernel routes never leaves for these.
    own: Vec<Ipv6Addr>,
}

impl Paths {
    /// A table.
    pub fn new(mut paths: Vec<Path>, mut own: Vec<Ipv6Addr>) -> Self {
        paths.sort_by_key(|path| path.ends);
        own.sort_unstable();
        Self { paths, own }
    }

    /// The way between these ends, when it was found out already.
    pub fn get(&self, ends: Ends) -> Option<&Path> {
        let position = self.paths.binary_search_by_key(&ends, |path| path.ends).ok()?;
        self.paths.get(position)
    }

    /// Every way.
    pub fn all(&self) -> &[Path] {
        &self.paths
    }

    /// Whether this is an address of this host.
    pub fn is_own(&self, address: Ipv6Addr) -> bool {
        self.own.binary_search(&address).is_ok()
    }
}
