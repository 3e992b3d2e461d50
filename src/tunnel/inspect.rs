//! What both directions ask of an inner packet.

use std::net::Ipv6Addr;

use super::protected::Protected;
use super::reason::Reason;
use crate::ipsec::Toward;
use crate::wire::numbers::{icmpv6_type, protocol};
use crate::wire::{extension, ipv6};

/// Where a mobility header has its type (RFC 6275 §6.1.1).
const MOBILITY_TYPE: usize = 2;

/// An inner packet, walked up to its upper layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inner {
    /// Its IPv6 header.
    pub header: ipv6::Header,
    /// What follows the header; offsets count from the end of the IPv6 header.
    pub chain: extension::Chain,
    /// Octets of the packet, header and payload, without what may follow.
    pub length: usize,
}

impl Inner {
    /// Reads a packet. Octets behind its payload length are not looked at.
    ///
    /// # Errors
    /// [`Reason::BadHeader`].
    pub fn read(packet: &[u8]) -> Result<Self, Reason> {
        let (header, chain, _) = extension::dissect(packet).map_err(|_| Reason::BadHeader)?;
        let length = ipv6::HEADER_LENGTH + usize::from(header.payload_length);
        Ok(Self { header, chain, length })
    }

    /// Where the upper layer begins in the packet.
    pub fn upper_layer_offset(&self) -> usize {
        ipv6::HEADER_LENGTH + self.chain.offset
    }

    /// The ICMPv6 type, where this packet has an ICMPv6 header with at least a type.
    pub fn icmpv6_type(&self, packet: &[u8]) -> Option<u8> {
        if self.chain.upper_layer != protocol::ICMPV6 || !self.chain.has_upper_layer_header() {
            return None;
        }
        packet.get(..self.length)?.get(self.upper_layer_offset()).copied()
    }

    /// The type of mobility header, where this packet has one with at least a type.
    pub fn mobility_type(&self, packet: &[u8]) -> Option<u8> {
        if self.chain.upper_layer != protocol::MOBILITY || !self.chain.has_upper_layer_header() {
            return None;
        }
        packet.get(..self.length)?.get(self.upper_layer_offset() + MOBILITY_TYPE).copied()
    }

    /// Whether this is neighbor discovery (RFC 4861 §4), which belongs to one link.
    pub fn is_neighbor_discovery(&self, packet: &[u8]) -> bool {
        matches!(self.icmpv6_type(packet), Some(icmpv6_type::ROUTER_SOLICITATION..=icmpv6_type::REDIRECT))
    }

    /// Whether an ICMPv6 error about this packet is allowed (RFC 4443 §2.4(e)): never about an ICMPv6 error or a
    /// redirect, nor to a source that is not one node. Multicast destinations are not carried anyway.
    pub fn may_draw_error(&self, packet: &[u8]) -> bool {
        let error = self.icmpv6_type(packet).is_some_and(|t| t < 128 || t == icmpv6_type::REDIRECT);
        !error && check_source(self.header.source).is_ok()
    }
}

/// Whether packets to `destination` may cross a tunnel.
///
/// # Errors
/// [`Reason::MulticastDestination`], [`Reason::LinkScope`], [`Reason::BadDestination`].
pub fn check_destination(destination: Ipv6Addr) -> Result<(), Reason> {
    if destination.is_multicast() {
        Err(Reason::MulticastDestination)
    } else if destination.is_unicast_link_local() {
        Err(Reason::LinkScope)
    } else if ipv6::is_unicast_routable(destination) {
        Ok(())
    } else {
        Err(Reason::BadDestination)
    }
}

/// Whether packets from `source` may cross a tunnel.
///
/// # Errors
/// [`Reason::BadSource`].
pub fn check_source(source: Ipv6Addr) -> Result<(), Reason> {
    if ipv6::is_unicast_routable(source) { Ok(()) } else { Err(Reason::BadSource) }
}

/// Rules on a packet that leaves the guest, which is not trusted: it must not speak for the host's signaling.
///
/// # Errors
/// The first rule broken.
pub fn check_from_guest(inner: &Inner, packet: &[u8], home_agent: Ipv6Addr) -> Result<(), Reason> {
    check_destination(inner.header.destination)?;
    if inner.header.destination == inner.header.source {
        return Err(Reason::ToItself);
    }
    if inner.chain.home_address.is_some() {
        return Err(Reason::HomeAddressOption);
    }
    if inner.chain.type_2_routing_header.is_some() {
        return Err(Reason::Type2RoutingHeader);
    }
    // Of a fragmented packet each fragment tells what its first header is; a chain that goes on behind is whole in
    // the first fragment (RFC 7112 §5), where it was walked, so without that one the others come to nothing.
    if inner.chain.upper_layer == protocol::MOBILITY && inner.header.destination == home_agent {
        return Err(Reason::MobilityHeaderToHomeAgent);
    }
    if inner.is_neighbor_discovery(packet) {
        return Err(Reason::NeighborDiscovery);
    }
    Ok(())
}

/// Whether a packet may be in a tunnel without ESP, on its way `toward`.
///
/// # Errors
/// [`Reason::WantsEsp`].
pub(super) fn check_clear(
    protected: Protected,
    inner: &Inner,
    packet: &[u8],
    toward: Toward,
    home_agent: Ipv6Addr,
) -> Result<(), Reason> {
    match protected.class_of(inner, packet, toward, home_agent) {
        Some(_) => Err(Reason::WantsEsp),
        None => Ok(()),
    }
}

/// Rules on a packet for the guest.
///
/// # Errors
/// The first rule broken.
pub fn check_to_guest(inner: &Inner, packet: &[u8], home_agent: Ipv6Addr) -> Result<(), Reason> {
    check_source(inner.header.source)?;
    if inner.header.source == inner.header.destination {
        return Err(Reason::SpoofedSource);
    }
    // A binding acknowledgement comes to the host, under ESP and beside the tunnel. In here it would be a forgery.
    if inner.chain.upper_layer == protocol::MOBILITY && inner.header.source == home_agent {
        return Err(Reason::MobilityHeaderFromHomeAgent);
    }
    if inner.is_neighbor_discovery(packet) {
        return Err(Reason::NeighborDiscovery);
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::tunnel::table::tests::address;
    use crate::wire::checksum;
    use std::time::Instant;

    /// The moment at which a simulated time line begins.
    #[allow(clippy::disallowed_methods)] // tests only add to it
    pub(in crate::tunnel) fn start() -> Instant {
        Instant::now()
    }

    /// An echo request of `length` octets in all (at least 48).
    pub(in crate::tunnel) fn echo(source: Ipv6Addr, destination: Ipv6Addr, length: usize) -> Vec<u8> {
        icmp(source, destination, 128, length)
    }

    pub(in crate::tunnel) fn icmp(source: Ipv6Addr, destination: Ipv6Addr, icmp_type: u8, length: usize) -> Vec<u8> {
        let mut message: Vec<u8> = (0..length - 40).map(|n| n as u8).collect();
        message[0] = icmp_type;
        assert!(checksum::fill(source, destination, protocol::ICMPV6, &mut message));
        ipv6::Header::new(source, destination, protocol::ICMPV6).emit(&message)
    }

    /// A packet with these octets behind its header.
    pub(in crate::tunnel) fn packet(source: Ipv6Addr, destination: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
        ipv6::Header::new(source, destination, next).emit(payload)
    }

    #[test]
    fn scopes() {
        let check = |text: &str| check_destination(address(text));
        assert_eq!(check("2001:db8::2"), Ok(()));
        assert_eq!(check("fd00::2"), Ok(()));
        assert_eq!(check("ff0e::1"), Err(Reason::MulticastDestination));
        assert_eq!(check("fe80::1"), Err(Reason::LinkScope));
        for bad in ["::", "::1", "::ffff:192.0.2.1"] {
            assert_eq!(check(bad), Err(Reason::BadDestination), "{bad}");
            assert_eq!(check_source(address(bad)), Err(Reason::BadSource), "{bad}");
        }
    }
}
