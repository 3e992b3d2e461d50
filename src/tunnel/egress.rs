//! Out of the tunnel to the guest (RFC 2473 §3.3).

use std::net::Ipv6Addr;

use super::ecn;
use super::inspect::{self, Inner};
use super::offload::{self, Offload};
use super::reason::Reason;
use super::table::{Entry, Table};
use crate::ipsec::{Class, Toward};
use crate::vocabulary::{GuestId, MacAddress};
use crate::wire::numbers::ether_type;
use crate::wire::{ethernet, ipv6};

/// What is known of the outer header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outer {
    /// Outer source: from `recvmsg`.
    pub source: Ipv6Addr,
    /// Outer destination: from `IPV6_PKTINFO`.
    pub destination: Ipv6Addr,
    /// Outer traffic class: from `IPV6_TCLASS`. Where it is not known, 0 says that no congestion was marked.
    pub traffic_class: u8,
}

/// What to do with a packet that came out of the tunnel; `T` says to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Egress<'a, T = Port> {
    /// Write it.
    Deliver(Deliver<'a, T>),
    /// Nothing.
    Drop(Reason),
}

/// A packet to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deliver<'a, T = Port> {
    /// To whom, or whose.
    pub to: T,
    /// The inner packet, edited.
    pub packet: &'a [u8],
    /// What the kernel must still do; goes through [`super::vnet`]. When this is `Some`, a packet without that header
    /// must not be written.
    pub offload: Option<Offload>,
}

/// Where a guest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// The guest.
    pub guest: GuestId,
    /// The index of its port.
    pub port: usize,
    /// Its MAC address: destination of the frame.
    pub mac: MacAddress,
}

impl Port {
    /// The Ethernet header of a frame to the guest; `router_mac` is the constant MAC address of the pseudo home
    /// network.
    pub fn ethernet_header(&self, router_mac: MacAddress) -> [u8; ethernet::HEADER_LENGTH] {
        ethernet::Frame { destination: self.mac, source: router_mac, ether_type: ether_type::IPV6, payload: &[] }
            .header()
    }
}

/// Decides on the payload of a tunnel packet, from the first octet of the inner header, and edits it.
///
/// The hop limit is left as it is. A router behind the exit would decrement it when it forwards (RFC 2473 §3.3 hands
/// the packet to the IPv6 layer), but this host stands for the mobile node itself, at which the tunnel ends
/// (RFC 6275 §11.3.3): exit point and destination are the same node, and that node does not decrement. So a packet
/// with hop limit 1 or 0 is delivered too.
pub fn process<'a>(table: &Table, outer: Outer, packet: &'a mut [u8]) -> Egress<'a> {
    process_offloaded(table, outer, packet, None)
}

/// The same for a packet that is known to be merged, or whose checksum is known to be partial: what a raw socket does not
/// tell and a packet socket does.
pub fn process_offloaded<'a>(
    table: &Table,
    outer: Outer,
    packet: &'a mut [u8],
    offload: Option<Offload>,
) -> Egress<'a> {
    match decide(table, outer, packet, offload) {
        Ok((to, length, offload)) => deliver(to, packet, length, offload),
        Err(reason) => Egress::Drop(reason),
    }
}

fn decide(
    table: &Table,
    outer: Outer,
    packet: &mut [u8],
    offload: Option<Offload>,
) -> Result<(Port, usize, Option<Offload>), Reason> {
    let inner = Inner::read(packet)?;
    let entry = table.by_home_address(inner.header.destination).ok_or(Reason::UnknownHomeAddress)?;
    entry.takes(outer.source, outer.destination)?;
    inspect::check_to_guest(&inner, packet, entry.home_agent)?;
    inspect::check_clear(entry.protected, &inner, packet, Toward::Guest, entry.home_agent)?;
    let offload = finish(&inner, outer.traffic_class, packet, offload, (entry.mtu, entry.link_mtu))?;
    Ok((Port { guest: entry.guest, port: entry.port, mac: entry.mac }, inner.length, offload))
}

/// Decides on a packet that the kernel's security policies let out of an ESP tunnel, or that this host itself says to a guest which has one.
///
/// The kernel has looked at the outer addresses, taken over congestion marks, and decremented the hop limit.
pub fn from_kernel<'a>(table: &Table, packet: &'a mut [u8], offload: Option<Offload>) -> Egress<'a> {
    match decide_from_kernel(table, packet, offload) {
        Ok((to, length, offload)) => deliver(to, packet, length, offload),
        Err(reason) => Egress::Drop(reason),
    }
}

fn decide_from_kernel(
    table: &Table,
    packet: &mut [u8],
    offload: Option<Offload>,
) -> Result<(Port, usize, Option<Offload>), Reason> {
    let inner = Inner::read(packet)?;
    let by_kernel = |entry: &&Entry| entry.protected.has(Class::TunnelPayload);
    let entry = table.by_home_address(inner.header.destination).filter(by_kernel).ok_or(Reason::UnknownHomeAddress)?;
    entry.carrier.or(entry.arriving).ok_or(Reason::NotBound)?;
    inspect::check_to_guest(&inner, packet, entry.home_agent)?;
    // The TUN says what is left to do: nothing has to be guessed from what a plain tunnel would take.
    let offload = finish(&inner, 0, packet, offload, (entry.link_mtu, entry.link_mtu))?;
    Ok((Port { guest: entry.guest, port: entry.port, mac: entry.mac }, inner.length, offload))
}

/// Congestion marks, then what the receive side left to do.
pub(super) fn finish(
    inner: &Inner,
    outer_traffic_class: u8,
    packet: &mut [u8],
    offload: Option<Offload>,
    (mtu, link_mtu): (usize, usize),
) -> Result<Option<Offload>, Reason> {
    let packet = packet.get_mut(..inner.length).ok_or(Reason::BadHeader)?;
    let class = ecn::leave(inner.header.traffic_class, outer_traffic_class).ok_or(Reason::CongestionNotEct)?;
    if class != inner.header.traffic_class
        && let [first, second, ..] = packet
    {
        *first = *first & 0xf0 | class >> 4;
        *second = *second & 0x0f | class << 4;
    }
    let (mtu, link_mtu) = (mtu.max(ipv6::MINIMUM_MTU), link_mtu.max(ipv6::MINIMUM_MTU));
    match offload {
        Some(offload) => {
            let offload = offload.verified(inner, packet)?;
            let fits = offload.longest_piece(packet.len()) <= link_mtu;
            if fits { Ok(Some(offload)) } else { Err(Reason::TooBigForLink) }
        }
        None => offload::detect(inner, packet, mtu, link_mtu),
    }
}

pub(super) fn deliver<T>(to: T, packet: &[u8], length: usize, offload: Option<Offload>) -> Egress<'_, T> {
    match packet.get(..length) {
        Some(packet) => Egress::Deliver(Deliver { to, packet, offload }),
        None => Egress::Drop(Reason::BadHeader),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::inspect::tests::{echo, icmp, packet};
    use crate::tunnel::protected::Protected;
    use crate::tunnel::table::Carrier;
    use crate::tunnel::table::tests::{address, entry};
    use proptest::prelude::*;

    #[test]
    fn a_tunnel_that_was_asked_for_delivers() {
        let home_agent = address("2001:db8:2000::1");
        let asked = Carrier { care_of: address("2001:db8:4000::3"), home_agent };
        let home = entry(GUEST).home_address;
        for carrier in [None, entry(GUEST).carrier] {
            let table = Table::new([Entry { carrier, arriving: Some(asked), ..entry(GUEST) }]);
            let outer = |destination| Outer { source: home_agent, destination, traffic_class: 0 };
            let run = |outer| match process(&table, outer, &mut echo(correspondent(), home, 100)) {
                Egress::Deliver(_) => Ok(()),
                Egress::Drop(reason) => Err(reason),
            };
            assert_eq!(run(outer(asked.care_of)), Ok(()));
            assert_eq!(run(outer(address("2001:db8:4000::4"))), Err(Reason::ForeignTunnelDestination));
            let foreign = Outer { source: correspondent(), ..outer(asked.care_of) };
            assert_eq!(run(foreign), Err(Reason::ForeignTunnelSource));
        }
    }

    const GUEST: u8 = 0x10;

    fn outer() -> Outer {
        Outer { source: address("2001:db8:2000::1"), destination: address("2001:db8:3000::3"), traffic_class: 0 }
    }

    fn table() -> Table {
        Table::new([entry(GUEST), entry(0x11), Entry { carrier: None, ..entry(0x12) }])
    }

    fn run(outer: Outer, packet: &mut [u8]) -> Result<GuestId, Reason> {
        match process(&table(), outer, packet) {
            Egress::Deliver(deliver) => Ok(deliver.to.guest),
            Egress::Drop(reason) => Err(reason),
        }
    }

    fn correspondent() -> Ipv6Addr {
        address("2001:db8:2000::2")
    }

    #[test]
    fn a_packet_reaches_its_guest_as_it_was() {
        for hop_limit in [0, 1, 64] {
            let mut packet = echo(correspondent(), entry(0x11).home_address, 100);
            packet[7] = hop_limit;
            let original = packet.clone();
            packet.extend([0; 6]);
            let table = table();
            let Egress::Deliver(deliver) = process(&table, outer(), &mut packet) else { panic!("dropped") };
            assert_eq!(deliver.packet, original);
            assert_eq!(deliver.to, Port { guest: GuestId(0x11), port: 0, mac: entry(0x11).mac });
            assert_eq!(deliver.offload, None);
            let header = deliver.to.ethernet_header("02:4b:47:4d:53:01".parse().unwrap());
            assert_eq!(header, [0x52, 0x54, 0, 0, 0, 0x11, 2, 0x4b, 0x47, 0x4d, 0x53, 1, 0x86, 0xdd]);
        }
    }

    #[test]
    fn outer_addresses_are_those_of_the_binding() {
        let home = entry(GUEST).home_address;
        let mut request = echo(correspondent(), home, 100);
        let foreign = Outer { source: address("2001:db8:2000::2"), ..outer() };
        assert_eq!(run(foreign, &mut request), Err(Reason::ForeignTunnelSource));
        let old = Outer { destination: address("2001:db8:4000::3"), ..outer() };
        assert_eq!(run(old, &mut request), Err(Reason::ForeignTunnelDestination));
        assert_eq!(run(outer(), &mut echo(correspondent(), entry(0x12).home_address, 100)), Err(Reason::NotBound));
        let unknown = entry(0x13).home_address;
        assert_eq!(run(outer(), &mut echo(correspondent(), unknown, 100)), Err(Reason::UnknownHomeAddress));
        assert_eq!(run(outer(), &mut request), Ok(GuestId(0x10)));
    }

    #[test]
    fn what_wants_esp_does_not_come_in_the_clear() {
        let of = |class| Entry { protected: [class].into_iter().collect(), ..entry(GUEST) };
        let (home, agent) = (entry(GUEST).home_address, entry(GUEST).home_agent);
        let tables = [of(Class::TunnelPayload), of(Class::Icmpv6)].map(|entry| Table::new([entry]));
        for (table, source) in [(&tables[0], correspondent()), (&tables[1], agent)] {
            let refused = process(table, outer(), &mut echo(source, home, 100)) == Egress::Drop(Reason::WantsEsp);
            assert!(refused, "from {source}");
        }
        let mut from_elsewhere = echo(correspondent(), home, 100);
        assert!(matches!(process(&tables[1], outer(), &mut from_elsewhere), Egress::Deliver(_)));
    }

    #[test]
    fn the_kernel_speaks_for_guests_of_its_esp_tunnels_alone() {
        let payload: Protected = [Class::TunnelPayload].into_iter().collect();
        let unbound = Entry { carrier: None, protected: payload, ..entry(0x12) };
        let table = Table::new([Entry { protected: payload, ..entry(GUEST) }, entry(0x11), unbound]);
        let original = echo(correspondent(), entry(GUEST).home_address, 100);
        let mut octets = original.clone();
        let Egress::Deliver(deliver) = from_kernel(&table, &mut octets, None) else { panic!("dropped") };
        assert_eq!((deliver.packet, deliver.to.guest), (&original[..], GuestId(GUEST.into())));
        let drop = |to| {
            from_kernel(&table, &mut echo(correspondent(), to, 100), None) == Egress::Drop(Reason::UnknownHomeAddress)
        };
        assert!(drop(entry(0x11).home_address) && drop(entry(0x13).home_address));
        let mut late = echo(correspondent(), entry(0x12).home_address, 100);
        assert_eq!(from_kernel(&table, &mut late, None), Egress::Drop(Reason::NotBound));
        let mut forged = packet(entry(GUEST).home_agent, entry(GUEST).home_address, 135, &[59, 1, 6, 0, 0, 0, 0, 0]);
        assert_eq!(from_kernel(&table, &mut forged, None), Egress::Drop(Reason::MobilityHeaderFromHomeAgent));
    }

    #[test]
    fn inner_sources() {
        let home = entry(GUEST).home_address;
        for bad in ["fe80::1", "ff02::1", "::", "::1", "::ffff:192.0.2.1"] {
            assert_eq!(run(outer(), &mut echo(address(bad), home, 100)), Err(Reason::BadSource), "{bad}");
        }
        assert_eq!(run(outer(), &mut echo(home, home, 100)), Err(Reason::SpoofedSource));
        // Another guest of ours speaks by way of the home agent too.
        assert_eq!(run(outer(), &mut echo(entry(0x11).home_address, home, 100)), Ok(GuestId(0x10)));
    }

    #[test]
    fn neighbor_discovery_and_forged_signaling_do_not_come_in() {
        let (home, agent) = (entry(GUEST).home_address, entry(GUEST).home_agent);
        for icmp_type in 133..=137 {
            let mut advertisement = icmp(correspondent(), home, icmp_type, 64);
            assert_eq!(run(outer(), &mut advertisement), Err(Reason::NeighborDiscovery));
        }
        let acknowledgement = [59, 1, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let mut forged = packet(agent, home, 135, &acknowledgement);
        assert_eq!(run(outer(), &mut forged), Err(Reason::MobilityHeaderFromHomeAgent));
        assert_eq!(run(outer(), &mut packet(correspondent(), home, 135, &acknowledgement)), Ok(GuestId(0x10)));
    }

    #[test]
    fn congestion_on_the_way_is_told() {
        let home = entry(GUEST).home_address;
        let marked = Outer { traffic_class: 3, ..outer() };
        assert_eq!(run(marked, &mut echo(correspondent(), home, 100)), Err(Reason::CongestionNotEct));
        let mut capable = echo(correspondent(), home, 100);
        capable[..2].copy_from_slice(&[0x6b, 0xa5]); // DSCP 46, ECT(0), flow label from 5
        assert_eq!(run(marked, &mut capable), Ok(GuestId(0x10)));
        assert_eq!(capable[..2], [0x6b, 0xb5]);
    }

    #[test]
    fn too_long_for_the_link() {
        let home = entry(GUEST).home_address;
        assert_eq!(run(outer(), &mut echo(correspondent(), home, 1500)), Ok(GuestId(0x10)));
        assert_eq!(run(outer(), &mut echo(correspondent(), home, 1501)), Err(Reason::TooBigForLink));
    }

    proptest! {
        /// Any octets from anyone: no panic, and nothing is delivered but from the home agent to a bound home address.
        #[test]
        fn only_the_home_agent_delivers(mut packet in proptest::collection::vec(any::<u8>(), 0..200), whole: bool, ours: bool,
                                        next in prop::sample::select(vec![0u8, 6, 17, 43, 44, 58, 59, 60, 135]),
                                        source in prop::sample::select(vec!["2001:db8:2000::1", "2001:db8:2000::2", "::"]),
                                        destination in prop::sample::select(vec!["2001:db8:3000::3", "2001:db8:3000::4"])) {
            if whole && packet.len() >= 40 {
                let length = (packet.len() - 40) as u16;
                packet[0] = 0x60 | packet[0] & 0xf;
                packet[4..6].copy_from_slice(&length.to_be_bytes());
                packet[6] = next;
                if ours { packet[24..40].copy_from_slice(&entry(GUEST).home_address.octets()); }
            }
            let outer = Outer { source: address(source), destination: address(destination), traffic_class: 0 };
            let table = table();
            if let Egress::Deliver(deliver) = process(&table, outer, &mut packet) {
                prop_assert_eq!((outer.source, outer.destination), (self::outer().source, self::outer().destination));
                let home = Ipv6Addr::from(<[u8; 16]>::try_from(&deliver.packet[24..40]).unwrap());
                let entry = table.by_home_address(home).unwrap();
                prop_assert!(entry.carrier.is_some() && entry.guest == deliver.to.guest);
                prop_assert!(deliver.packet[8..24] != deliver.packet[24..40]);
            }
        }
    }
}
