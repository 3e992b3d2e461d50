//! Questions about the way of a packet, asked by the threads of the tunnel engine: blocking, with a time limit, one at a time.

use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::vocabulary::MacAddress;

/// The kernel answers while `send` runs; the limit is for the day it does not.
const TIME_LIMIT_SECONDS: i64 = 2;
/// The kernel fills dumps up to the size of the reader's buffer.
const BUFFER: usize = 32 * 1024;
/// The table of the addresses of this host.
const LOCAL_TABLE: u8 = 255;

/// Where packets from one address to another go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// Interface index.
    pub interface: u32,
    /// The neighbour they are handed to: a router, or the destination itself.
    pub next_hop: Ipv6Addr,
    /// The source that the kernel would choose by itself.
    pub preferred_source: Option<Ipv6Addr>,
}

/// A global address of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// Index of the interface that has it.
    pub interface: u32,
    /// The address.
    pub address: Ipv6Addr,
    /// Others are preferred (RFC 4862 §5.5.4).
    pub deprecated: bool,
    /// It is not known to be unique.
    pub tentative: bool,
    /// It is a home address (RFC 6275 §3.1).
    pub home: bool,
}

/// A client in the network namespace of the thread that opened it.
pub struct Query {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for Query {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Query").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

impl Query {
    /// Opens a socket.
    ///
    /// # Errors
    /// The error of the system calls.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_ext_ack(true)?;
        let limit = TimeVal::seconds(TIME_LIMIT_SECONDS);
        setsockopt(&socket, sockopt::ReceiveTimeout, &limit)?;
        setsockopt(&socket, sockopt::SendTimeout, &limit)?;
        Ok(Self { socket, sequence: 0, buffer: vec![0; BUFFER] })
    }

    /// The way from `source` to `destination`; `None` when there is none that leaves this host.
    ///
    /// # Errors
    /// The error of the system calls or the kernel's.
    pub fn way(&mut self, source: Option<Ipv6Addr>, destination: Ipv6Addr) -> io::Result<Option<Way>> {
        let mut question = RouteMessage::default();
        question.header.address_family = AddressFamily::Inet6;
        question.header.destination_prefix_length = 128;
        question.attributes.push(RouteAttribute::Destination(destination.into()));
        if let Some(source) = source {
            question.header.source_prefix_length = 128;
            question.attributes.push(RouteAttribute::Source(source.into()));
        }
        let mut found = None;
        let asked = self.ask(RouteNetlinkMessage::GetRoute(question), 0, |answer| {
            if let RouteNetlinkMessage::NewRoute(route) = answer {
                found = Some(route);
            }
        });
        match asked {
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENETUNREACH | libc::EHOSTUNREACH)) => Ok(None),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EACCES | libc::EINVAL)) => Ok(None),
            Err(error) => Err(error),
            Ok(()) => Ok(found.and_then(|route| read_way(&route, destination))),
        }
    }

    /// The link-layer address of a neighbour, when the kernel knows one that it would send to.
    ///
    /// # Errors
    /// The error of the system calls or the kernel's.
    pub fn neighbour(&mut self, interface: u32, address: Ipv6Addr) -> io::Result<Option<MacAddress>> {
        let mut found = None;
        let asked = self.ask(RouteNetlinkMessage::GetNeighbour(neighbour(interface, address)), 0, |answer| {
            if let RouteNetlinkMessage::NewNeighbour(message) = answer {
                found = read_neighbour(&message);
            }
        });
        match asked {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            asked => asked.map(|()| found),
        }
    }

    /// Tells the kernel that a neighbour is in use (`NTF_USE`), so that it finds out where it is, and whether it is still there: it does
    /// not see what packet sockets send.
    ///
    /// # Errors
    /// The error of the system calls or the kernel's.
    pub fn use_neighbour(&mut self, interface: u32, address: Ipv6Addr) -> io::Result<()> {
        let mut message = neighbour(interface, address);
        message.header.flags = NeighbourFlags::Use;
        self.ask(RouteNetlinkMessage::NewNeighbour(message), NLM_F_ACK | NLM_F_CREATE, |_| {})
    }

    /// The address of an interface, when it speaks Ethernet and is up.
    ///
    /// # Errors
    /// The error of the system calls or the kernel's; `ENODEV` when it is not there.
    pub fn mac_address(&mut self, index: u32) -> io::Result<Option<MacAddress>> {
        let mut question = LinkMessage::default();
        question.header.index = index;
        let mut found = None;
        self.ask(RouteNetlinkMessage::GetLink(question), 0, |answer| {
            if let RouteNetlinkMessage::NewLink(link) = answer {
                found = read_mac(&link);
            }
        })?;
        Ok(found)
    }

    /// The destinations that are this host's own, in order.
    ///
    /// # Errors
    /// The error of the system calls or the kernel's.
    pub fn own_addresses(&mut self) -> io::Result<Vec<Ipv6Addr>> {
        let mut question = RouteMessage::default();
        question.header.address_family = AddressFamily::Inet6;
        question.header.table = LOCAL_TABLE;
        let mut found = Vec::new();
        self.ask(RouteNetlinkMessage::GetRoute(question), NLM_F_DUMP, |answer| {
            if let RouteNetlinkMessage::NewRoute(route) = answer
                && route.header.table == LOCAL_TABLE
            {
                found.extend(route.attributes.iter().find_map(|attribute| match attribute {
                    RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(*address),
                    _ => None,
                }));
            }
        })?;
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// The global addresses of all interfaces, as far as the choice of a source looks at them.
    ///
    /// # Errors
    /// The error of the system calls or the kernel's.
    pub fn sources(&mut self) -> io::Result<Vec<Source>> {
        let mut question = AddressMessage::default();
        question.header.family = AddressFamily::Inet6;
        let mut found = Vec::new();
        self.ask(RouteNetlinkMessage::GetAddress(question), NLM_F_DUMP, |answer| {
            if let RouteNetlinkMessage::NewAddress(message) = answer {
                found.extend(read_source(&message));
            }
        })?;
        Ok(found)
    }

    /// The destinations of a table's routes, with their prefix lengths.
    ///
    /// # Errors
    /// The error of the system calls or the kernel's.
    pub fn routes_of_table(&mut self, table: u32) -> io::Result<Vec<(Ipv6Addr, u8)>> {
        let mut question = RouteMessage::default();
        question.header.address_family = AddressFamily::Inet6;
        let mut found = Vec::new();
        self.ask(RouteNetlinkMessage::GetRoute(question), NLM_F_DUMP, |answer| {
            if let RouteNetlinkMessage::NewRoute(route) = answer
                && route.attributes.contains(&RouteAttribute::Table(table))
            {
                let to = route.attributes.iter().find_map(|attribute| match attribute {
                    RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(*address),
                    _ => None,
                });
                found.push((to.unwrap_or(Ipv6Addr::UNSPECIFIED), route.header.destination_prefix_length));
            }
        })?;
        Ok(found)
    }

    /// Sets an interface up, with an MTU in octets.
    ///
    /// # Errors
    /// The error of the system calls or the kernel's.
    pub fn bring_up(&mut self, interface: &str, mtu: u32) -> io::Result<()> {
        let mut up = LinkMessage::default();
        up.header.index = nix::net::if_::if_nametoindex(interface).map_err(io::Error::from)?;
        up.header.flags = LinkFlags::Up;
        up.header.change_mask = LinkFlags::Up;
        up.attributes.push(LinkAttribute::Mtu(mtu));
        self.ask(RouteNetlinkMessage::SetLink(up), NLM_F_ACK, |_| {})
    }

    /// Makes a change: a route or a rule, new or in the place of an old one.
    ///
    /// # Errors
    /// The error of the system calls or the kernel's.
    pub fn put(&mut self, message: RouteNetlinkMessage) -> io::Result<()> {
        let replace = if matches!(message, RouteNetlinkMessage::NewRoute(_)) { NLM_F_REPLACE } else { 0 };
        self.ask(message, NLM_F_ACK | NLM_F_CREATE | replace, |_| {})
    }

    /// Removes a route or a rule.
    ///
    /// # Errors
    /// The error of the system calls or the kernel's.
    pub fn remove(&mut self, message: RouteNetlinkMessage) -> io::Result<()> {
        self.ask(message, NLM_F_ACK, |_| {})
    }

    /// Asks, and hands on every answer.
    fn ask(
        &mut self,
        question: RouteNetlinkMessage,
        flags: u16,
        mut each: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(question);
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut octets = vec![0; message.buffer_len()];
        message.serialize(&mut octets);
        self.socket.send(&octets, 0)?;
        let many = flags & (NLM_F_ACK | NLM_F_DUMP) != 0;
        loop {
            let length = self.socket.recv(&mut self.buffer.as_mut_slice(), 0)?;
            if read(self.buffer.get(..length).unwrap_or_default(), self.sequence, many, &mut each)? {
                return Ok(());
            }
        }
    }
}

/// Reads the messages of a datagram. Whether the answer is complete.
fn read(mut octets: &[u8], sequence: u32, many: bool, each: &mut impl FnMut(RouteNetlinkMessage)) -> io::Result<bool> {
    let malformed =
        |error: netlink_packet_core::DecodeError| io::Error::new(io::ErrorKind::InvalidData, error.to_string());
    while !octets.is_empty() {
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(octets).map_err(malformed)?;
        let length = (message.header.length as usize).next_multiple_of(4).max(16);
        octets = octets.get(length..).unwrap_or_default();
        if message.header.sequence_number != sequence {
            continue;
        }
        match message.payload {
            NetlinkPayload::Done(_) => return Ok(true),
            NetlinkPayload::Error(error) if error.code.is_none() => return Ok(true),
            NetlinkPayload::Error(error) => return Err(io::Error::from_raw_os_error(error.raw_code().abs())),
            NetlinkPayload::InnerMessage(message) => {
                each(message);
                if !many {
                    return Ok(true);
                }
            }
            _ => {}
        }
    }
    Ok(false)
}

fn read_way(route: &RouteMessage, destination: Ipv6Addr) -> Option<Way> {
    if route.header.kind != RouteType::Unicast {
        return None;
    }
    let (mut interface, mut next_hop, mut preferred_source) = (None, destination, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet6(gateway)) => next_hop = *gateway,
            RouteAttribute::PrefSource(RouteAddress::Inet6(source)) => preferred_source = Some(*source),
            // Something else puts a header in front: only the kernel's own output does that.
            RouteAttribute::EncapType(_) | RouteAttribute::Via(_) => return None,
            _ => {}
        }
    }
    Some(Way { interface: interface?, next_hop, preferred_source })
}

fn read_source(message: &AddressMessage) -> Option<Source> {
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    let mut address = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Address(IpAddr::V6(found)) => address = Some(*found),
            AddressAttribute::Flags(found) => flags |= *found,
            _ => {}
        }
    }
    (message.header.scope == AddressScope::Universe).then_some(())?;
    Some(Source {
        interface: message.header.index,
        address: address?,
        deprecated: flags.contains(AddressFlags::Deprecated),
        tentative: flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed),
        home: flags.contains(AddressFlags::Homeaddress),
    })
}

fn neighbour(interface: u32, address: Ipv6Addr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet6;
    message.header.ifindex = interface;
    message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)));
    message
}

pub(super) fn read_neighbour(message: &NeighbourMessage) -> Option<MacAddress> {
    let usable = matches!(
        message.header.state,
        NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
    );
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(octets) => <[u8; 6]>::try_from(octets.as_slice()).ok(),
        _ => None,
    });
    mac.map(MacAddress).filter(|_| usable)
}

fn read_mac(link: &LinkMessage) -> Option<MacAddress> {
    let flags = link.header.flags;
    let usable = link.header.link_layer_type == LinkLayerType::Ether
        && flags.contains(LinkFlags::Up)
        && !flags.contains(LinkFlags::Noarp)
        && !flags.contains(LinkFlags::Loopback);
    let mac = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(octets) => <[u8; 6]>::try_from(octets.as_slice()).ok(),
        _ => None,
    });
    mac.map(MacAddress).filter(|_| usable)
}

/// Notifications about anything that may change the way of a packet. What they say is not read: whoever is told looks again.
pub struct Changes(Socket);

impl std::fmt::Debug for Changes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Changes")
    }
}

impl Changes {
    /// Watches the network namespace of the calling thread.
    ///
    /// # Errors
    /// The error of the system calls.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        let groups = [
            libc::RTNLGRP_LINK,
            libc::RTNLGRP_NEIGH,
            libc::RTNLGRP_IPV6_IFADDR,
            libc::RTNLGRP_IPV6_ROUTE,
            libc::RTNLGRP_IPV6_RULE,
        ];
        for group in groups {
            socket.add_membership(group)?;
        }
        socket.set_non_blocking(true)?;
        Ok(Self(socket))
    }

    /// Takes what came. What did not fit is lost, and an error tells so: that is a change as well.
    pub fn drain(&self) {
        let mut octets = [0; 1024];
        // Bounded, so that a flood of changes does not keep the reader here.
        for _ in 0..1024 {
            match self.0.recv(&mut octets.as_mut_slice(), libc::MSG_TRUNC) {
                Err(error) if error.raw_os_error() != Some(libc::ENOBUFS) => return,
                _ => {}
            }
        }
    }
}

impl AsFd for Changes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
