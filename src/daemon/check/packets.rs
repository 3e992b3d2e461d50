//! The packets of the probes: how they are made, and known again.

use std::net::Ipv6Addr;

use super::exchange::Sighting;
use crate::tunnel::{Kind, Offload, Segments};
use crate::vocabulary::{Lifetime, MacAddress, SequenceNumber};
use crate::wire::extension::{self, HomeAddressOption, Type2RoutingHeader};
use crate::wire::mobility::{
    self, BindingAcknowledgement, BindingUpdate, BindingUpdateFlags, Message, MobilityOption, Status,
};
use crate::wire::numbers::protocol;
use crate::wire::{checksum, ethernet, ipv6};

/// Port "discard", where nobody answers.
const DISCARD: u16 = 9;
/// In every data packet, before its number.
const MARK: &[u8] = b"kagemusha check ";

/// Pieces of what is sent whole, and octets of data of each.
pub(super) const PIECES: usize = 3;
const PIECE: usize = 1000;
const TCP_HEADER: usize = 20;
const CHECKSUM_OF_TCP: u16 = 16;

/// The ends of a registration.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    pub(super) home_address: Ipv6Addr,
    pub(super) home_agent: Ipv6Addr,
    pub(super) care_of: Ipv6Addr,
}

/// A frame on the link of host and home agent.
pub(super) fn frame(source: MacAddress, destination: MacAddress, packet: &[u8]) -> Vec<u8> {
    let ether_type = crate::wire::numbers::ether_type::IPV6;
    ethernet::Frame { destination, source, ether_type, payload: packet }.emit()
}

/// A binding update in the clear, as a forger would send it.
pub(super) fn plain_update(ends: Ends, sequence: SequenceNumber) -> Vec<u8> {
    let flags = BindingUpdateFlags { acknowledge: true, home_registration: true, ..BindingUpdateFlags::default() };
    let options = vec![MobilityOption::AlternateCareOfAddress(ends.care_of)];
    let mut message = Message::BindingUpdate(BindingUpdate { sequence, flags, lifetime: Lifetime(10), options }).emit();
    mobility::fill_checksum(&mut message, ends.home_address, ends.home_agent);
    let option = HomeAddressOption { home_address: ends.home_address }.emit(protocol::MOBILITY);
    let header = ipv6::Header::new(ends.care_of, ends.home_agent, protocol::DESTINATION_OPTIONS);
    header.emit(&[&option[..], &message].concat())
}

/// A binding acknowledgement in the clear, as a forger would send it.
pub(super) fn plain_acknowledgement(ends: Ends, sequence: SequenceNumber) -> Vec<u8> {
    let acknowledgement = BindingAcknowledgement {
        status: Status(0),
        key_management_mobility: false,
        sequence,
        lifetime: Lifetime(10),
        options: vec![],
    };
    let mut message = Message::BindingAcknowledgement(acknowledgement).emit();
    mobility::fill_checksum(&mut message, ends.home_agent, ends.home_address);
    let header = Type2RoutingHeader::new(ends.home_address).emit(protocol::MOBILITY);
    let outer = ipv6::Header::new(ends.home_agent, ends.care_of, protocol::ROUTING);
    outer.emit(&[&header[..], &message].concat())
}

/// What a frame shows of a registration between these ends: of the binding update toward the home agent, or of the acknowledgement.
pub(super) fn sighted(frame: &[u8], ends: Ends, toward_home_agent: bool) -> Option<Sighting> {
    let frame = ethernet::Frame::parse(frame).ok()?;
    let (header, chain, _) = extension::dissect(frame.payload).ok()?;
    let signaling = [protocol::ESP, protocol::MOBILITY].contains(&chain.upper_layer);
    let guest = Some(ends.home_address);
    let (from_to, by_care_of_address) = match toward_home_agent {
        true => ((ends.care_of, ends.home_agent), chain.home_address == guest),
        false => {
            let routed = chain.type_2_routing_header.map(|routing| routing.address);
            ((ends.home_agent, ends.care_of), routed == guest)
        }
    };
    let natively = match toward_home_agent {
        true => header.source == ends.home_address && header.destination == ends.home_agent,
        false => header.source == ends.home_agent && header.destination == ends.home_address,
    };
    let between = (header.source, header.destination) == from_to;
    let found = signaling && (between && by_care_of_address || natively);
    found.then_some(Sighting { esp: chain.upper_layer == protocol::ESP, by_care_of_address })
}

/// What a frame shows of a packet in a tunnel between these addresses, or of the bare one.
pub(super) fn tunnel_sighted(
    frame: &[u8],
    outer: (Ipv6Addr, Ipv6Addr),
    inner: (Ipv6Addr, Ipv6Addr),
) -> Option<Sighting> {
    let frame = ethernet::Frame::parse(frame).ok()?;
    let (header, chain, _) = extension::dissect(frame.payload).ok()?;
    let found = (header.source, header.destination);
    let esp = chain.upper_layer == protocol::ESP;
    let is_it = found == outer && (esp || chain.upper_layer == protocol::IPV6) || found == inner;
    is_it.then_some(Sighting { esp, by_care_of_address: found == outer })
}

/// The sequence number of a binding update or acknowledgement.
pub(super) fn sequence_of(message: &[u8]) -> Option<SequenceNumber> {
    match Message::parse(message).ok()? {
        Message::BindingUpdate(update) => Some(update.sequence),
        Message::BindingAcknowledgement(acknowledgement) => Some(acknowledgement.sequence),
        _ => None,
    }
}

/// A datagram with a number.
pub(super) fn datagram(source: Ipv6Addr, destination: Ipv6Addr, number: u16) -> Vec<u8> {
    let data = [MARK, &number.to_be_bytes()].concat();
    let length = u16::try_from(8 + data.len()).unwrap_or(0);
    let ports = [DISCARD, DISCARD, length, 0].map(u16::to_be_bytes);
    let mut payload = [ports.as_flattened(), &data].concat();
    checksum::fill(source, destination, protocol::UDP, &mut payload);
    ipv6::Header::new(source, destination, protocol::UDP).emit(&payload)
}

/// A TCP packet as a driver leaves it, of [`PIECES`] pieces, each with its own number from `number` on, and what is left to do.
pub(super) fn whole(source: Ipv6Addr, destination: Ipv6Addr, number: u16) -> (Vec<u8>, Offload) {
    let piece = |number: u16| {
        let mut data = [MARK, &number.to_be_bytes()].concat();
        data.resize(PIECE, 0);
        data
    };
    let data: Vec<u8> = (number..).take(PIECES).flat_map(piece).collect();
    let ports = [DISCARD, DISCARD].map(u16::to_be_bytes);
    let [high, low] =
        checksum::pseudo_header(source, destination, protocol::TCP, TCP_HEADER + data.len()).to_be_bytes();
    // Sequence and acknowledgement numbers, length of the header, ACK, window, and the sum that the rest is left of.
    let header = [0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 1, 0, high, low, 0, 0];
    let packet = ipv6::Header::new(source, destination, protocol::TCP);
    let packet = packet.emit(&[ports.as_flattened(), &header, &data].concat());
    let segments = Segments {
        kind: Kind::Tcp,
        size: PIECE as u16,
        header_length: (ipv6::HEADER_LENGTH + TCP_HEADER) as u16,
        congestion_window_reduced: false,
    };
    let checksum_start = ipv6::HEADER_LENGTH as u16;
    (packet, Offload { checksum_start, checksum_offset: CHECKSUM_OF_TCP, segments: Some(segments) })
}

/// Packets that an interface has received, of the text of `/proc/net/dev`.
pub(super) fn received_by(text: &str, link: &str) -> u64 {
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(link)?.strip_prefix(':'));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
}

/// Whether these octets hold the datagram with this number.
pub(super) fn holds(octets: &[u8], number: u16) -> bool {
    let wanted = [MARK, &number.to_be_bytes()].concat();
    octets.windows(wanted.len()).any(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDS: Ends = Ends {
        home_address: Ipv6Addr::new(0x2001, 0xdb8, 0x2000, 0, 0, 0, 0, 0x10),
        home_agent: Ipv6Addr::new(0x2001, 0xdb8, 0x2000, 0, 0, 0, 0, 1),
        care_of: Ipv6Addr::new(0x2001, 0xdb8, 0x3000, 0, 0, 0, 0, 3),
    };
    const MACS: [MacAddress; 2] = [MacAddress([2, 0, 0, 0, 0, 1]), MacAddress([2, 0, 0, 0, 0, 2])];

    /// Forged messages must be good in all but their protection: otherwise it is not that which is tried.
    #[test]
    fn forged_messages_are_well_formed() {
        for (packet, update) in
            [(plain_update(ENDS, SequenceNumber(7)), true), (plain_acknowledgement(ENDS, SequenceNumber(7)), false)]
        {
            let (header, chain, message) = extension::dissect(&packet).unwrap();
            let (source, destination) = chain.checksum_addresses(&header);
            assert!(mobility::verify_checksum(message, source, destination));
            assert_eq!(sequence_of(message), Some(SequenceNumber(7)));
            let frame = frame(MACS[0], MACS[1], &packet);
            let seen = Some(Sighting { esp: false, by_care_of_address: true });
            assert_eq!((sighted(&frame, ENDS, update), sighted(&frame, ENDS, !update)), (seen, None));
            let other = Ends { home_address: Ipv6Addr::LOCALHOST, ..ENDS };
            assert_eq!(sighted(&frame, other, update), None);
        }
    }

    #[test]
    fn native_messages_and_esp_are_told_apart() {
        let native = ipv6::Header::new(ENDS.home_address, ENDS.home_agent, protocol::ESP).emit(&[0; 32]);
        let seen = Some(Sighting { esp: true, by_care_of_address: false });
        assert_eq!(sighted(&frame(MACS[0], MACS[1], &native), ENDS, true), seen);
        let others = ipv6::Header::new(ENDS.care_of, ENDS.home_agent, protocol::ESP).emit(&[0; 32]);
        assert_eq!(sighted(&frame(MACS[0], MACS[1], &others), ENDS, true), None, "that of a tunnel");
    }

    #[test]
    fn every_piece_of_a_whole_has_its_number() {
        let (packet, offload) = whole(ENDS.home_address, ENDS.home_agent, 7);
        let segments = offload.segments.unwrap();
        let pieces: Vec<_> = packet[usize::from(segments.header_length)..].chunks(usize::from(segments.size)).collect();
        assert_eq!(pieces.len(), PIECES);
        assert!(pieces.iter().zip(7..).all(|(piece, number)| holds(piece, number) && !holds(piece, number + 1)));
    }

    #[test]
    fn what_an_interface_has_received() {
        let text = "Inter-|   Receive |  Transmit\n face |bytes    packets\nkage-super:  99  12 0 0\n    lo: 1 2 3\n";
        assert_eq!([received_by(text, "kage-super"), received_by(text, "lo"), received_by(text, "kage")], [12, 2, 0]);
    }

    #[test]
    fn a_datagram_is_known_by_its_number_and_a_tunnel_by_its_ends() {
        let inner = (ENDS.home_address, Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9));
        let datagram = datagram(inner.0, inner.1, 3);
        assert!(holds(&datagram, 3) && !holds(&datagram, 4));
        let outer = (ENDS.care_of, ENDS.home_agent);
        let under_esp = ipv6::Header::new(outer.0, outer.1, protocol::ESP).emit(&[0; 32]);
        let see = |packet: &[u8]| tunnel_sighted(&frame(MACS[0], MACS[1], packet), outer, inner);
        assert_eq!(see(&under_esp), Some(Sighting { esp: true, by_care_of_address: true }));
        assert_eq!(see(&datagram), Some(Sighting { esp: false, by_care_of_address: false }));
        let solicitation = ipv6::Header::new(outer.0, outer.1, 58).emit(&[135; 24]);
        assert_eq!(see(&solicitation), None);
    }
}
