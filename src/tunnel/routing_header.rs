//! The home agent's own packets to the guest, which come beside the tunnel.

use std::net::Ipv6Addr;

use super::egress::{self, Egress, Port};
use super::inspect::{self, Inner};
use super::offload::Offload;
use super::reason::Reason;
use super::table::Table;
use crate::ipsec::Toward;
use crate::wire::extension::MOBILE_HEADER_LENGTH;
use crate::wire::ipv6;
use crate::wire::numbers::{protocol, routing_type};

/// Offset of the next header field in an IPv6 header.
const NEXT_HEADER: usize = 6;

/// Does to a packet taken off the wire what its destination does with a type 2 routing header (RFC 6275 §6.4): swaps the header's address
/// and the destination, and leaves no segment. False, and nothing done, for a packet whose first extension header is no such
/// header with one segment left, and for ESP and mobility headers behind it: those are the kernel's.
pub fn consume_type2_routing_header(packet: &mut [u8]) -> bool {
    const HEADER: usize = ipv6::HEADER_LENGTH;
    let Some(octets) = packet.get_mut(..HEADER + MOBILE_HEADER_LENGTH) else { return false };
    let (header, routing) = octets.split_at_mut(HEADER);
    let kernels = [protocol::ESP, protocol::MOBILITY].contains(&routing[0]);
    if header[NEXT_HEADER] != protocol::ROUTING || routing[1..4] != [2, routing_type::TYPE_2, 1] || kernels {
        return false;
    }
    header[24..HEADER].swap_with_slice(&mut routing[8..]);
    routing[3] = 0;
    true
}

/// Takes the type 2 routing header out of a packet that the home agent sent of its own to the guest.
///
/// A home agent may send its own data to a mobile node as a correspondent does, `IPv6(HA→CoA) | RH2(HoA) | …`, not in
/// the tunnel (RFC 6275 §9.3.2); umip does. The kernel of this host has processed the header when the packet is read
/// from a TUN: the destination is the home address, no segment is left, and the address in the header is the care-of
/// address. The upper-layer checksum was made over the final destination, the home address (RFC 8200 §8.1), so it
/// stays right. The packet delivered begins 24 octets further in `packet`.
///
/// Refused unless the source is the guest's home agent and the address in the header its current care-of address.
pub fn strip_type2_routing_header<'a>(table: &Table, packet: &'a mut [u8]) -> Egress<'a> {
    match strip(table, packet) {
        Ok((to, length, offload)) => {
            let packet: &'a [u8] = packet;
            egress::deliver(to, packet.get(MOBILE_HEADER_LENGTH..).unwrap_or_default(), length, offload)
        }
        Err(reason) => Egress::Drop(reason),
    }
}

fn strip(table: &Table, packet: &mut [u8]) -> Result<(Port, usize, Option<Offload>), Reason> {
    let with = Inner::read(packet)?;
    let entry = table.by_home_address(with.header.destination).ok_or(Reason::UnknownHomeAddress)?;
    let routing = with.chain.type_2_routing_header.filter(|routing| routing.segments_left == 0);
    let care_of = routing.map_or(Ipv6Addr::UNSPECIFIED, |routing| routing.address);
    entry.takes(with.header.source, care_of).map_err(|reason| match (reason, routing) {
        (Reason::ForeignTunnelDestination, None) => Reason::NoType2RoutingHeader,
        (reason, _) => reason,
    })?;
    cut(&with, packet).ok_or(Reason::BadHeader)?;
    let packet = packet.get_mut(MOBILE_HEADER_LENGTH..).ok_or(Reason::BadHeader)?;
    let inner = Inner::read(packet)?;
    inspect::check_to_guest(&inner, packet, entry.home_agent)?;
    inspect::check_clear(entry.protected, &inner, packet, Toward::Guest, entry.home_agent)?;
    let offload = egress::finish(&inner, 0, packet, None, (entry.mtu, entry.link_mtu))?;
    Ok((Port { guest: entry.guest, port: entry.port, mac: entry.mac }, inner.length, offload))
}

/// Unlinks the header from the chain and moves what is before it over it. `None` when the packet is not as its chain
/// says.
fn cut(inner: &Inner, packet: &mut [u8]) -> Option<()> {
    let octet = |at: usize| packet.get(at).copied();
    let position = inner.chain.headers.iter().position(|header| {
        let start = ipv6::HEADER_LENGTH + header.range.start;
        header.header_type == protocol::ROUTING && octet(start + 2) == Some(routing_type::TYPE_2)
    })?;
    let header = inner.chain.headers.get(position)?;
    if header.range.len() != MOBILE_HEADER_LENGTH {
        return None;
    }
    let start = ipv6::HEADER_LENGTH + header.range.start;
    let next_header = octet(start)?;
    let link = match position.checked_sub(1) {
        Some(before) => ipv6::HEADER_LENGTH + inner.chain.headers.get(before)?.range.start,
        None => NEXT_HEADER,
    };
    *packet.get_mut(link)? = next_header;
    let length = inner.header.payload_length.checked_sub(MOBILE_HEADER_LENGTH as u16)?;
    packet.get_mut(4..6)?.copy_from_slice(&length.to_be_bytes());
    packet.copy_within(..start, MOBILE_HEADER_LENGTH);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::inspect::tests::echo;
    use crate::tunnel::table::Entry;
    use crate::tunnel::table::tests::{address, entry};
    use crate::vocabulary::GuestId;
    use crate::wire::extension::Type2RoutingHeader;
    use proptest::prelude::*;

    fn table() -> Table {
        Table::new([entry(0x10), Entry { carrier: None, ..entry(0x11) }])
    }

    /// The plain packet, and the same with these headers before its ICMPv6 message.
    fn pair(source: &str, before: &[u8], care_of: &str, segments_left: u8, after: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let plain = echo(address(source), entry(0x10).home_address, 120);
        let routing = Type2RoutingHeader { address: address(care_of), segments_left };
        let first =
            |headers: &[u8], otherwise| if headers.is_empty() { otherwise } else { protocol::DESTINATION_OPTIONS };
        let (header, message) = ipv6::Header::parse(&plain).unwrap();
        let rest = [after, message].concat();
        let without = [before, &rest].concat();
        let with = [before, &routing.emit(first(after, protocol::ICMPV6)), &rest].concat();
        let mut with = ipv6::Header { next_header: first(before, protocol::ROUTING), ..header }.emit(&with);
        if !before.is_empty() {
            with[40] = protocol::ROUTING;
        }
        let mut plain =
            ipv6::Header { next_header: first(before, first(after, protocol::ICMPV6)), ..header }.emit(&without);
        if !before.is_empty() {
            plain[40] = first(after, protocol::ICMPV6);
        }
        (plain, with)
    }

    #[test]
    fn the_plain_packet_comes_out() {
        let padding = [protocol::ICMPV6, 0, 1, 4, 0, 0, 0, 0];
        for (before, after) in
            [(&[][..], &[][..]), (&padding[..], &[][..]), (&[][..], &padding[..]), (&padding[..], &padding[..])]
        {
            let (plain, mut with) = pair("2001:db8:2000::1", before, "2001:db8:3000::3", 0, after);
            assert_eq!(with.len(), plain.len() + 24);
            with.extend([0; 3]);
            let table = table();
            let Egress::Deliver(deliver) = strip_type2_routing_header(&table, &mut with) else { panic!("dropped") };
            assert_eq!(deliver.packet, plain);
            assert_eq!((deliver.to.guest, deliver.offload), (GuestId(0x10), None));
        }
    }

    #[test]
    fn what_was_on_the_wire_becomes_what_the_kernel_would_make_of_it() {
        let (plain, swapped) = pair("2001:db8:2000::1", &[], "2001:db8:3000::3", 0, &[]);
        let mut wire = swapped.clone();
        wire[24..40].copy_from_slice(&swapped[48..64]);
        wire[48..64].copy_from_slice(&swapped[24..40]);
        wire[43] = 1;
        let on_the_wire = wire.clone();
        assert!(consume_type2_routing_header(&mut wire));
        assert_eq!(wire, swapped);
        let table = table();
        let Egress::Deliver(deliver) = strip_type2_routing_header(&table, &mut wire) else { panic!("dropped") };
        assert_eq!(deliver.packet, plain);
        // Nothing is done to a consumed header, another routing type, or what the kernel itself takes.
        for (at, value) in [(43, 0), (42, 4), (41, 4), (6, 60), (40, protocol::ESP), (40, protocol::MOBILITY)] {
            let mut other = on_the_wire.clone();
            other[at] = value;
            let before = other.clone();
            assert!(!consume_type2_routing_header(&mut other), "octet {at} = {value}");
            assert_eq!(other, before);
        }
        assert!(!consume_type2_routing_header(&mut on_the_wire[..63].to_vec()));
    }

    #[test]
    fn only_the_home_agent_to_the_current_care_of_address() {
        let cases = [
            ("2001:db8:2000::2", "2001:db8:3000::3", 0, Reason::ForeignTunnelSource),
            ("2001:db8:2000::1", "2001:db8:4000::3", 0, Reason::ForeignTunnelDestination),
            ("2001:db8:2000::1", "2001:db8:3000::3", 1, Reason::NoType2RoutingHeader),
        ];
        for (source, care_of, segments_left, reason) in cases {
            let (_, mut with) = pair(source, &[], care_of, segments_left, &[]);
            assert_eq!(strip_type2_routing_header(&table(), &mut with), Egress::Drop(reason));
        }
        let mut without = echo(entry(0x10).home_agent, entry(0x10).home_address, 100);
        assert_eq!(strip_type2_routing_header(&table(), &mut without), Egress::Drop(Reason::NoType2RoutingHeader));
        let mut unbound = echo(entry(0x10).home_agent, entry(0x11).home_address, 100);
        assert_eq!(strip_type2_routing_header(&table(), &mut unbound), Egress::Drop(Reason::NotBound));
    }

    proptest! {
        #[test]
        fn any_octets(mut packet in proptest::collection::vec(any::<u8>(), 40..200), next in prop::sample::select(vec![0u8, 43, 44, 60])) {
            let length = (packet.len() - 40) as u16;
            packet[0] = 0x60;
            packet[4..6].copy_from_slice(&length.to_be_bytes());
            packet[6] = next;
            packet[8..24].copy_from_slice(&entry(0x10).home_agent.octets());
            packet[24..40].copy_from_slice(&entry(0x10).home_address.octets());
            let before = packet.len();
            if let Egress::Deliver(deliver) = strip_type2_routing_header(&table(), &mut packet) {
                prop_assert_eq!(deliver.packet.len(), before - 24);
            }
        }
    }
}
