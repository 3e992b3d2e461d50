//! The cheap decision about a frame from a port: data, or for the network, or nothing.

use std::net::Ipv6Addr;
use std::ops::Range;

use super::guests::{PortGuest, PortGuests};
use super::reason::Reason;
use crate::vocabulary::GuestId;
use crate::wire::numbers::{ether_type, icmpv6_type, protocol};
use crate::wire::{ethernet, ipv6};

/// A service VLAN tag follows (IEEE 802.1ad).
const SERVICE_VLAN: u16 = 0x88a8;

/// What a frame is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// An IPv6 packet for the tunnel: from an attached guest's MAC and home address to a routable unicast address.
    /// The tunnel's ingress looks deeper into it.
    Data {
        /// Whose.
        guest: GuestId,
        /// Where the packet is in the frame, without padding of the link.
        packet: Range<usize>,
    },
    /// [`super::PseudoHomeNetwork::handle_frame`] must see it.
    ToNetwork,
    /// Nothing.
    Drop(Reason),
}

/// Decides what to do with a frame that a port gave. Every frame of a guest that is not attached goes to the network,
/// which thereby learns that the guest is here.
pub fn classify(frame: &[u8], guests: &PortGuests) -> Verdict {
    let parsed = match ethernet::Frame::parse(frame) {
        Ok(parsed) => parsed,
        Err(_) => return Verdict::Drop(Reason::Malformed),
    };
    let owners = guests.by_mac(parsed.source);
    let verdict = examine(&parsed, owners, guests).unwrap_or_else(Verdict::Drop);
    let carried =
        |owner: &PortGuest| owner.attached && matches!(verdict, Verdict::Data { guest, .. } if guest == owner.guest);
    if owners.iter().all(|owner| owner.attached) || owners.iter().any(carried) { verdict } else { Verdict::ToNetwork }
}

/// The rules, whether the guest is attached or not.
pub(super) fn examine(
    frame: &ethernet::Frame<'_>,
    owners: &[PortGuest],
    guests: &PortGuests,
) -> Result<Verdict, Reason> {
    if owners.is_empty() {
        return Err(Reason::UnknownMac);
    }
    match frame.ether_type {
        ether_type::IPV6 => {}
        ether_type::RARP => return Ok(Verdict::ToNetwork),
        ether_type::ARP => return Err(Reason::Arp),
        ether_type::IPV4 => return Err(Reason::Ipv4),
        ether_type::VLAN | SERVICE_VLAN => return Err(Reason::Vlan),
        _ => return Err(Reason::OtherProtocol),
    }
    // A bridge that does not know yet where a guest is floods its frames to every port, ours too.
    if guests.by_mac(frame.destination).iter().any(|guest| guest.attached) {
        return Err(Reason::ForSibling);
    }
    let (header, payload) = ipv6::Header::parse(frame.payload).map_err(|_| Reason::Malformed)?;
    let owner = owners.iter().find(|guest| guest.home_address == header.source);
    if owner.is_none() && !may_speak_on_link(header.source, guests) {
        return Err(Reason::ForeignSource);
    }
    if let Some(verdict) = link_traffic(&header, payload) {
        return verdict;
    }
    let Some(owner) = owner else { return Err(Reason::ForeignSource) };
    if frame.destination.is_multicast() {
        return Err(Reason::Multicast);
    }
    if !ipv6::is_unicast_routable(header.destination) {
        return Err(Reason::BadDestination);
    }
    let start = ethernet::HEADER_LENGTH;
    let packet = start..start + ipv6::HEADER_LENGTH + payload.len();
    Ok(Verdict::Data { guest: owner.guest, packet })
}

/// Sources other than home addresses, for what stays on the link: the unspecified address, and link-local ones but
/// the router's.
fn may_speak_on_link(source: Ipv6Addr, guests: &PortGuests) -> bool {
    source.is_unspecified() || (source.is_unicast_link_local() && source != guests.router())
}

/// The verdict on what stays on the link; `None` for the rest.
fn link_traffic(header: &ipv6::Header, payload: &[u8]) -> Option<Result<Verdict, Reason>> {
    let icmp = if header.next_header == protocol::ICMPV6 { payload.first().copied() } else { None };
    if let Some(icmpv6_type::ROUTER_SOLICITATION..=icmpv6_type::REDIRECT) = icmp {
        return Some(Ok(Verdict::ToNetwork));
    }
    if header.destination.is_multicast() {
        // Listener reports carry a router alert among hop-by-hop options (RFC 3810 §5).
        let report = header.next_header == protocol::HOP_BY_HOP_OPTIONS
            || matches!(
                icmp,
                Some(
                    icmpv6_type::MULTICAST_LISTENER_REPORT
                        | icmpv6_type::MULTICAST_LISTENER_DONE
                        | icmpv6_type::MULTICAST_LISTENER_REPORT_V2
                )
            );
        return Some(if report { Ok(Verdict::ToNetwork) } else { Err(Reason::Multicast) });
    }
    if header.destination.is_unicast_link_local() {
        let request = icmp == Some(icmpv6_type::ECHO_REQUEST);
        return Some(if request { Ok(Verdict::ToNetwork) } else { Err(Reason::LinkLocal) });
    }
    None
}
