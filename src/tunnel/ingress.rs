//! From the guest into the tunnel (RFC 2473 §3.1).

use std::net::Ipv6Addr;
use std::time::Instant;

use super::inspect::{self, Inner};
use super::limit::ErrorLimits;
use super::offload::Offload;
use super::reason::Reason;
use super::table::{Carrier, Entry};
use super::{ecn, table};
use crate::ipsec::{Class, Toward};
use crate::vocabulary::GuestId;
use crate::wire::{icmpv6, ipv6};

/// Code of time exceeded: hop limit exceeded in transit (RFC 4443 §3.3).
const HOP_LIMIT_EXCEEDED: u8 = 0;

/// What to do with a packet that came to the entry of the tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ingress<'a> {
    /// Send it through the tunnel.
    Forward(Forward<'a>),
    /// Give it to the kernel, whose security policies put it into an ESP tunnel. The kernel forwards it: the hop limit and the path MTU are
    /// its to look at.
    ToKernel {
        /// The packet as it came, without padding of the link.
        packet: &'a [u8],
        /// What is left to do.
        offload: Option<Offload>,
    },
    /// Give an ICMPv6 error back to where the packet came from (the guest's port; the TUN of a home agent).
    Answer {
        /// The whole IPv6 packet, at most 1280 octets.
        packet: Vec<u8>,
        /// Why the packet was not carried.
        reason: Reason,
    },
    /// Nothing.
    Drop(Reason),
}

/// An inner packet with what its outer header says. Payload of a raw socket of protocol 41, or behind
/// [`crate::wire::tunnel::outer_header`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward<'a> {
    /// Whose packet.
    pub guest: GuestId,
    /// The inner packet, edited, without padding of the link.
    pub packet: &'a [u8],
    /// Outer source.
    pub source: Ipv6Addr,
    /// Outer destination.
    pub destination: Ipv6Addr,
    /// Outer traffic class: that of the inner packet (RFC 2473 §6.4, RFC 6040 §4.1).
    pub traffic_class: u8,
    /// Outer flow label: a hash of the inner flow, so that paths of equal cost are shared (RFC 6438 §3). Never 0;
    /// where the socket cannot set it, 0 is as good to the peer.
    pub flow_label: u32,
    /// What is left to do: a whole to be cut, or a checksum to be completed.
    pub offload: Option<Offload>,
}

/// Decides on a packet that came from the guest of `entry`, and edits it.
///
/// The caller has checked the frame's source MAC address (the classification of the pseudo home network does). The
/// hop limit is decremented, as a router does that forwards onto the virtual link (RFC 2473 §3.1, §6.3), so that the
/// tunnel is one hop whatever its length. `limits` holds back ICMPv6 errors, per guest.
pub fn process<'a>(entry: &Entry, packet: &'a mut [u8], limits: &mut ErrorLimits, now: Instant) -> Ingress<'a> {
    process_offloaded(entry, packet, None, limits, now)
}

/// The same for a packet of which something was left to do. It is judged as what it will be cut into.
pub fn process_offloaded<'a>(
    entry: &Entry,
    packet: &'a mut [u8],
    offload: Option<Offload>,
    limits: &mut ErrorLimits,
    now: Instant,
) -> Ingress<'a> {
    let (inner, offload) = match check(entry, packet).and_then(|inner| verified(inner, packet, offload)) {
        Ok(checked) => checked,
        Err(reason) => return Ingress::Drop(reason),
    };
    let Some(Carrier { care_of, home_agent }) = entry.carrier else { return Ingress::Drop(Reason::NotBound) };
    match entry.protected.class_of(&inner, packet, Toward::HomeAgent, entry.home_agent) {
        None => {}
        Some(Class::TunnelPayload) => {
            let whole: &'a [u8] = packet;
            return match whole.get(..inner.length) {
                Some(packet) => Ingress::ToKernel { packet, offload },
                None => Ingress::Drop(Reason::BadHeader),
            };
        }
        // Signaling is the host's, which sends it by sockets of its own.
        Some(_) => return Ingress::Drop(Reason::WantsEsp),
    }
    if inner.header.hop_limit <= 1 {
        let error = Error { reason: Reason::HopLimitExceeded, guest: entry.guest, source: entry.router, mtu: 0 };
        return error.answer(&inner, packet, limits, now);
    }
    let mtu = entry.mtu.max(ipv6::MINIMUM_MTU);
    if longest_piece(&inner, offload.as_ref()) > mtu {
        let error = Error { reason: Reason::PacketTooBig, guest: entry.guest, source: entry.router, mtu };
        return error.answer(&inner, packet, limits, now);
    }
    if let Some(hop_limit) = packet.get_mut(ipv6::offset::HOP_LIMIT) {
        *hop_limit = hop_limit.saturating_sub(1);
    }
    forward(entry.guest, &inner, packet, offload, (care_of, home_agent))
}

fn check(entry: &table::Entry, packet: &[u8]) -> Result<Inner, Reason> {
    let inner = Inner::read(packet)?;
    if inner.header.source != entry.home_address {
        return Err(Reason::ForeignSource);
    }
    inspect::check_from_guest(&inner, packet, entry.home_agent)?;
    Ok(inner)
}

pub(super) fn verified(
    inner: Inner,
    packet: &[u8],
    offload: Option<Offload>,
) -> Result<(Inner, Option<Offload>), Reason> {
    let offload = offload.map(|offload| offload.verified(&inner, packet)).transpose()?;
    Ok((inner, offload))
}

/// Octets of the longest packet that will be sent.
pub(super) fn longest_piece(inner: &Inner, offload: Option<&Offload>) -> usize {
    offload.map_or(inner.length, |offload| offload.longest_piece(inner.length))
}

pub(super) fn forward<'a>(
    guest: GuestId,
    inner: &Inner,
    packet: &'a [u8],
    offload: Option<Offload>,
    (source, destination): (Ipv6Addr, Ipv6Addr),
) -> Ingress<'a> {
    let Some(packet) = packet.get(..inner.length) else { return Ingress::Drop(Reason::BadHeader) };
    let traffic_class = ecn::enter(inner.header.traffic_class);
    let flow_label = flow_label(&inner.header);
    Ingress::Forward(Forward { guest, packet, source, destination, traffic_class, flow_label, offload })
}

/// An ICMPv6 error that is due.
pub(super) struct Error {
    /// [`Reason::HopLimitExceeded`] or [`Reason::PacketTooBig`].
    pub(super) reason: Reason,
    /// Whose bucket it is taken from.
    pub(super) guest: GuestId,
    /// Source of the error.
    pub(super) source: Ipv6Addr,
    /// MTU told, in octets.
    pub(super) mtu: usize,
}

impl Error {
    pub(super) fn answer<'a>(
        &self,
        inner: &Inner,
        packet: &[u8],
        limits: &mut ErrorLimits,
        now: Instant,
    ) -> Ingress<'a> {
        if !inner.may_draw_error(packet) {
            return Ingress::Drop(Reason::ErrorAboutError);
        }
        if !limits.take(self.guest, now) {
            return Ingress::Drop(Reason::ErrorRateLimited);
        }
        let offending = packet.get(..inner.length).unwrap_or(packet);
        let destination = inner.header.source;
        let packet = match self.reason {
            Reason::PacketTooBig => {
                let mtu = u32::try_from(self.mtu).unwrap_or(u32::MAX);
                icmpv6::packet_too_big(self.source, destination, mtu, offending)
            }
            _ => icmpv6::time_exceeded(self.source, destination, HOP_LIMIT_EXCEEDED, offending),
        };
        Ingress::Answer { packet, reason: self.reason }
    }
}

/// A flow label of 20 bits, not 0, from the addresses and the flow label of the inner packet (RFC 6438 §3).
fn flow_label(inner: &ipv6::Header) -> u32 {
    let mix = |hash: u64, word: u64| (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    let hash = [inner.source, inner.destination]
        .iter()
        .flat_map(|address| [(address.to_bits() >> 64) as u64, address.to_bits() as u64])
        .chain([u64::from(inner.flow_label)])
        .fold(0, mix);
    ((hash ^ hash >> 20 ^ hash >> 40) as u32 & 0x000f_ffff).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::inspect::tests::{echo, icmp, packet, start};
    use crate::tunnel::table::tests::{address, entry};
    use crate::wire::checksum;
    use crate::wire::numbers::protocol;
    use proptest::prelude::*;

    fn run(entry: &Entry, packet: &mut [u8]) -> Result<(usize, u8), Reason> {
        match process(entry, packet, &mut ErrorLimits::default(), start()) {
            Ingress::Forward(forward) => Ok((forward.packet.len(), forward.packet[7])),
            Ingress::Answer { reason, .. } | Ingress::Drop(reason) => Err(reason),
            Ingress::ToKernel { .. } => panic!("given to the kernel"),
        }
    }

    fn correspondent() -> Ipv6Addr {
        address("2001:db8:2000::2")
    }

    #[test]
    fn a_packet_goes_from_the_care_of_address_to_the_home_agent() {
        let entry = entry(0x10);
        let mut packet = echo(entry.home_address, correspondent(), 100);
        packet[1] |= 0x20; // traffic class 0x02: ECT(0)
        let mut expected = packet.clone();
        expected[7] = 63;
        packet.extend([0; 5]); // padding of the link
        let Ingress::Forward(forward) = process(&entry, &mut packet, &mut ErrorLimits::default(), start()) else {
            panic!("not forwarded")
        };
        assert_eq!(forward.packet, expected);
        assert_eq!((forward.source, forward.destination), (address("2001:db8:3000::3"), address("2001:db8:2000::1")));
        assert_eq!(forward.traffic_class, 2);
        assert!((1..=0xfffff).contains(&forward.flow_label));
    }

    #[test]
    fn flows_differ_in_their_label() {
        let label = |text: &str| flow_label(&ipv6::Header::new(address("2001:db8:2000::10"), address(text), 6));
        assert_ne!(label("2001:db8::1"), label("2001:db8::2"));
        assert_eq!(label("2001:db8::1"), label("2001:db8::1"));
    }

    #[test]
    fn without_a_binding_nothing_leaves() {
        let entry = Entry { carrier: None, ..entry(0x10) };
        assert_eq!(run(&entry, &mut echo(entry.home_address, correspondent(), 100)), Err(Reason::NotBound));
    }

    #[test]
    fn addresses() {
        let entry = entry(0x10);
        let home = entry.home_address;
        let cases = [
            (address("2001:db8:2000::11"), correspondent(), Reason::ForeignSource),
            (address("fe80::10"), correspondent(), Reason::ForeignSource),
            (address("::"), correspondent(), Reason::ForeignSource),
            (home, address("fe80::1"), Reason::LinkScope),
            (home, address("ff02::1"), Reason::MulticastDestination),
            (home, address("ff0e::1"), Reason::MulticastDestination),
            (home, address("::1"), Reason::BadDestination),
            (home, home, Reason::ToItself),
        ];
        for (source, destination, reason) in cases {
            assert_eq!(run(&entry, &mut echo(source, destination, 100)), Err(reason), "{source} {destination}");
        }
    }

    #[test]
    fn neighbor_discovery_stays_on_its_link() {
        let entry = entry(0x10);
        for icmp_type in 130..=140 {
            let expected = if (133..=137).contains(&icmp_type) { Err(Reason::NeighborDiscovery) } else { Ok((64, 63)) };
            assert_eq!(run(&entry, &mut icmp(entry.home_address, correspondent(), icmp_type, 64)), expected);
        }
    }

    #[test]
    fn data_for_an_esp_tunnel_is_the_kernels_as_it_came() {
        let entry = Entry { protected: [Class::TunnelPayload].into_iter().collect(), ..entry(0x10) };
        // However long, and with whatever hop limit: the kernel answers.
        for (length, hop_limit) in [(100, 64), (1500, 64), (100, 1)] {
            let mut packet = echo(entry.home_address, correspondent(), length);
            packet[7] = hop_limit;
            let original = packet.clone();
            packet.extend([0; 5]);
            let limits = &mut ErrorLimits::default();
            let Ingress::ToKernel { packet, offload } = process(&entry, &mut packet, limits, start()) else {
                panic!("not given to the kernel")
            };
            assert_eq!((packet, offload), (&original[..], None));
        }
        let foreign = &mut echo(correspondent(), entry.home_agent, 100);
        assert_eq!(run(&entry, foreign), Err(Reason::ForeignSource));
        let unbound = Entry { carrier: None, ..entry };
        assert_eq!(run(&unbound, &mut echo(unbound.home_address, correspondent(), 100)), Err(Reason::NotBound));
    }

    #[test]
    fn what_wants_esp_and_is_the_hosts_to_send_does_not_go_in_the_clear() {
        let entry = Entry { protected: [Class::Icmpv6].into_iter().collect(), ..entry(0x10) };
        assert_eq!(run(&entry, &mut echo(entry.home_address, entry.home_agent, 100)), Err(Reason::WantsEsp));
        assert_eq!(run(&entry, &mut echo(entry.home_address, correspondent(), 100)), Ok((100, 63)));
    }

    #[test]
    fn a_guest_cannot_forge_signaling() {
        let entry = entry(0x10);
        let (home, agent) = (entry.home_address, entry.home_agent);
        let option = |next| crate::wire::extension::HomeAddressOption { home_address: home }.emit(next).to_vec();
        let routing = crate::wire::extension::Type2RoutingHeader::new(home).emit(59).to_vec();
        let pad = |next: u8| vec![next, 0, 1, 4, 0, 0, 0, 0];
        let fragment = |next: u8, word: u16| [&[next, 0][..], &word.to_be_bytes(), &[0, 0, 0, 9]].concat();
        let update = vec![59, 0, 5, 0, 0, 0, 0, 1];
        let cases = [
            (protocol::MOBILITY, update.clone(), Reason::MobilityHeaderToHomeAgent),
            (60, [pad(135), update.clone()].concat(), Reason::MobilityHeaderToHomeAgent),
            (0, [pad(60), pad(135), update.clone()].concat(), Reason::MobilityHeaderToHomeAgent),
            (44, [fragment(135, 0), update.clone()].concat(), Reason::MobilityHeaderToHomeAgent),
            (44, [fragment(135, 8), update.clone()].concat(), Reason::MobilityHeaderToHomeAgent),
            (44, [fragment(60, 1), pad(135), update.clone()].concat(), Reason::MobilityHeaderToHomeAgent),
            (44, [fragment(60, 1), vec![135, 0]].concat(), Reason::BadHeader),
            (60, [option(135), update.clone()].concat(), Reason::HomeAddressOption),
            (60, option(59), Reason::HomeAddressOption),
            (43, routing, Reason::Type2RoutingHeader),
            (60, vec![59, 9, 0, 0], Reason::BadHeader),
        ];
        for (next, payload, reason) in cases {
            assert_eq!(run(&entry, &mut packet(home, agent, next, &payload)), Err(reason), "{next} {payload:?}");
        }
        // To others than its home agent a guest may speak the mobility protocol.
        assert_eq!(run(&entry, &mut packet(home, correspondent(), 135, &update)), Ok((48, 63)));
        // Not bound now, but its signaling is the host's all the same.
        let unbound = Entry { carrier: None, ..entry.clone() };
        assert_eq!(run(&unbound, &mut packet(home, agent, 135, &update)), Err(Reason::MobilityHeaderToHomeAgent));
    }

    #[test]
    fn the_hop_limit_ends_here() {
        let entry = entry(0x10);
        for (hop_limit, expected) in [(0, None), (1, None), (2, Some(1)), (255, Some(254))] {
            let mut packet = echo(entry.home_address, correspondent(), 100);
            packet[7] = hop_limit;
            let original = packet.clone();
            match (process(&entry, &mut packet, &mut ErrorLimits::default(), start()), expected) {
                (Ingress::Forward(forward), Some(left)) => assert_eq!(forward.packet[7], left),
                (Ingress::Answer { packet, reason: Reason::HopLimitExceeded }, None) => {
                    check_error(&packet, 3, &original);
                }
                (other, _) => panic!("{hop_limit}: {other:?}"),
            }
        }
    }

    /// An error of this type to the guest: checksum, length, and what it quotes.
    fn check_error(error: &[u8], icmp_type: u8, original: &[u8]) {
        let (header, message) = ipv6::Header::parse(error).unwrap();
        assert!(error.len() <= 1280, "{}", error.len());
        assert_eq!((header.source, header.next_header), (address("fe80::1"), protocol::ICMPV6));
        assert_eq!(header.destination.octets(), original[8..24]);
        assert!(checksum::verify(header.source, header.destination, protocol::ICMPV6, message));
        assert_eq!(message[..2], [icmp_type, 0]);
        let quoted = &message[8..];
        assert_eq!(quoted, &original[..original.len().min(1280 - 48)]);
    }

    #[test]
    fn too_big_is_told_with_the_mtu_of_the_tunnel() {
        let entry = Entry { mtu: 1452, ..entry(0x10) };
        assert_eq!(run(&entry, &mut echo(entry.home_address, correspondent(), 1452)), Ok((1452, 63)));
        let mut packet = echo(entry.home_address, correspondent(), 1453);
        let original = packet.clone();
        let Ingress::Answer { packet, reason } = process(&entry, &mut packet, &mut ErrorLimits::default(), start())
        else {
            panic!("no answer")
        };
        assert_eq!(reason, Reason::PacketTooBig);
        check_error(&packet, 2, &original);
        assert_eq!(packet[44..48], 1452u32.to_be_bytes());
    }

    #[test]
    fn what_every_link_takes_always_goes() {
        let entry = Entry { mtu: 500, ..entry(0x10) };
        assert_eq!(run(&entry, &mut echo(entry.home_address, correspondent(), 1280)), Ok((1280, 63)));
        assert_eq!(run(&entry, &mut echo(entry.home_address, correspondent(), 1281)), Err(Reason::PacketTooBig));
    }

    #[test]
    fn errors_are_limited_and_never_about_errors() {
        let entry = entry(0x10);
        let mut limits = ErrorLimits::default();
        let now = start();
        let outcomes: Vec<_> = (0..12)
            .map(|_| match process(&entry, &mut echo(entry.home_address, correspondent(), 1500), &mut limits, now) {
                Ingress::Answer { .. } => None,
                Ingress::Drop(reason) => Some(reason),
                other => panic!("forwarded: {other:?}"),
            })
            .collect();
        assert_eq!(outcomes, [vec![None; 10], vec![Some(Reason::ErrorRateLimited); 2]].concat());
        for icmp_type in [1, 2, 3, 4, 100, 127] {
            let mut packet = icmp(entry.home_address, correspondent(), icmp_type, 100);
            packet[7] = 1;
            assert_eq!(run(&entry, &mut packet), Err(Reason::ErrorAboutError), "{icmp_type}");
        }
    }

    proptest! {
        /// Any octets: no panic, and what is forwarded is from the guest's home address and within the MTU.
        #[test]
        fn only_the_home_address_passes(mut packet in proptest::collection::vec(any::<u8>(), 0..200),
                                        shape in 0u8..4, next in prop::sample::select(vec![0u8, 6, 17, 43, 44, 58, 59, 60, 135])) {
            let entry = entry(0x10);
            if shape > 0 && packet.len() >= 40 {
                let length = (packet.len() - 40) as u16;
                packet[0] = 0x60;
                packet[4..6].copy_from_slice(&length.to_be_bytes());
                packet[6] = next;
                if shape > 1 { packet[8..24].copy_from_slice(&entry.home_address.octets()); }
                if shape > 2 { packet[24..40].copy_from_slice(&entry.home_agent.octets()); }
            }
            let before = packet.clone();
            match process(&entry, &mut packet, &mut ErrorLimits::default(), start()) {
                Ingress::Forward(forward) => {
                    prop_assert_eq!(&forward.packet[8..24], &entry.home_address.octets()[..]);
                    prop_assert!(forward.packet.len() <= entry.mtu);
                    prop_assert_eq!(forward.packet[7] + 1, before[7]);
                    prop_assert!(forward.packet[6] != 135 || forward.packet[24..40] != entry.home_agent.octets());
                }
                Ingress::Answer { packet, .. } => {
                    prop_assert!(packet.len() <= 1280);
                    prop_assert_eq!(&packet[24..40], &entry.home_address.octets()[..]);
                }
                Ingress::Drop(_) => {}
                Ingress::ToKernel { .. } => prop_assert!(false, "given to the kernel"),
            }
        }

        /// However a source differs from the home address, it is dropped.
        #[test]
        fn spoofed_sources_are_dropped(flip in 1u128.., length in 48usize..1600) {
            let entry = entry(0x10);
            let source = Ipv6Addr::from_bits(entry.home_address.to_bits() ^ flip);
            prop_assert_eq!(run(&entry, &mut echo(source, correspondent(), length)), Err(Reason::ForeignSource));
        }
    }
}
