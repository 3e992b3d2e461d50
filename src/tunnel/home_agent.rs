//! The same tunnel from the other end: a home agent between a TUN of its own and the care-of addresses.
//!
//! The routes of the home agent's kernel lead to the TUN what is for a bound home address, and the kernel forwards
//! what is written there. So it is the kernel that decrements hop limits, on both ways, and neither function here
//! does.

use std::net::Ipv6Addr;
use std::time::Instant;

use super::egress::{self, Egress, Outer};
use super::ingress::{self, Ingress};
use super::inspect::{self, Inner};
use super::limit::ErrorLimits;
use super::offload::Offload;
use super::protected::Protected;
use super::reason::Reason;
use crate::ipsec::Toward;
use crate::vocabulary::GuestId;
use crate::wire::ipv6;

/// A guest in the binding cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HomeAgentEntry {
    /// The guest.
    pub guest: GuestId,
    /// Its home address.
    pub home_address: Ipv6Addr,
    /// Where it is now; `None`: at home or nowhere.
    pub care_of: Option<Ipv6Addr>,
    /// The largest inner packet towards it in octets ([`super::inner_mtu`]); taken as 1280 when lower.
    pub mtu: usize,
    /// What of its packets goes under ESP only.
    pub protected: Protected,
}

/// The bindings of a home agent. Immutable; swapped as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HomeAgentTable {
    home_agent: Ipv6Addr,
    link_mtu: usize,
    entries: Vec<HomeAgentEntry>,
}

impl HomeAgentTable {
    /// A table. `home_agent` is the address at which tunnels end and from which errors are sent, `link_mtu` the MTU
    /// of the home link in octets, to which merged packets are cut.
    pub fn new(home_agent: Ipv6Addr, link_mtu: usize, entries: impl IntoIterator<Item = HomeAgentEntry>) -> Self {
        let mut entries: Vec<_> = entries.into_iter().collect();
        entries.sort_by_key(|entry| entry.home_address);
        entries.dedup_by_key(|entry| entry.home_address);
        Self { home_agent, link_mtu, entries }
    }

    /// The address at which tunnels end.
    pub fn home_agent(&self) -> Ipv6Addr {
        self.home_agent
    }

    /// MTU of the home link in octets.
    pub fn link_mtu(&self) -> usize {
        self.link_mtu
    }

    /// The guest with this home address.
    pub fn by_home_address(&self, home_address: Ipv6Addr) -> Option<&HomeAgentEntry> {
        let position = self.entries.binary_search_by_key(&home_address, |entry| entry.home_address).ok()?;
        self.entries.get(position)
    }

    /// A table of one guest of this one, whose path takes inner packets of `mtu` octets only.
    pub fn narrowed(&self, guest: GuestId, mtu: usize) -> Self {
        let of_guest = self.entries.iter().filter(|entry| entry.guest == guest);
        let entries = of_guest.map(|entry| HomeAgentEntry { mtu: mtu.min(entry.mtu), ..*entry }).collect();
        Self { entries, ..*self }
    }

    /// All guests, by home address.
    pub fn entries(&self) -> &[HomeAgentEntry] {
        &self.entries
    }
}

/// Decides on a packet read from the TUN: through the tunnel to the care-of address (RFC 6275 §10.4.2), or an ICMPv6
/// error to its source, to be written to the TUN.
pub fn to_mobile_node<'a>(
    table: &HomeAgentTable,
    packet: &'a mut [u8],
    limits: &mut ErrorLimits,
    now: Instant,
) -> Ingress<'a> {
    to_mobile_node_offloaded(table, packet, None, limits, now)
}

/// The same for a packet of which something was left to do. It is judged as what it will be cut into.
pub fn to_mobile_node_offloaded<'a>(
    table: &HomeAgentTable,
    packet: &'a mut [u8],
    offload: Option<Offload>,
    limits: &mut ErrorLimits,
    now: Instant,
) -> Ingress<'a> {
    let (inner, offload) = match Inner::read(packet).and_then(|inner| ingress::verified(inner, packet, offload)) {
        Ok(checked) => checked,
        Err(reason) => return Ingress::Drop(reason),
    };
    if let Err(reason) = inspect::check_destination(inner.header.destination) {
        return Ingress::Drop(reason);
    }
    let Some(entry) = table.by_home_address(inner.header.destination) else {
        return Ingress::Drop(Reason::UnknownHomeAddress);
    };
    let Some(care_of) = entry.care_of else { return Ingress::Drop(Reason::NotBound) };
    let allowed = inspect::check_to_guest(&inner, packet, table.home_agent)
        .and_then(|()| inspect::check_clear(entry.protected, &inner, packet, Toward::Guest, table.home_agent));
    if let Err(reason) = allowed {
        return Ingress::Drop(reason);
    }
    let mtu = entry.mtu.max(ipv6::MINIMUM_MTU);
    if ingress::longest_piece(&inner, offload.as_ref()) > mtu {
        let reason = Reason::PacketTooBig;
        let error = ingress::Error { reason, guest: entry.guest, source: table.home_agent, mtu };
        return error.answer(&inner, packet, limits, now);
    }
    ingress::forward(entry.guest, &inner, packet, offload, (table.home_agent, care_of))
}

/// Decides on the payload of a tunnel packet from a mobile node (RFC 6275 §10.4.5): outer source the care-of address
/// of the binding whose home address is the inner source. What is delivered is written to the TUN.
pub fn from_mobile_node<'a>(table: &HomeAgentTable, outer: Outer, packet: &'a mut [u8]) -> Egress<'a, GuestId> {
    from_mobile_node_offloaded(table, outer, packet, None)
}

/// The same for a packet that is known to be merged, or whose checksum is known to be partial.
pub fn from_mobile_node_offloaded<'a>(
    table: &HomeAgentTable,
    outer: Outer,
    packet: &'a mut [u8],
    offload: Option<Offload>,
) -> Egress<'a, GuestId> {
    match decide(table, outer, packet, offload) {
        Ok((guest, length, offload)) => egress::deliver(guest, packet, length, offload),
        Err(reason) => Egress::Drop(reason),
    }
}

fn decide(
    table: &HomeAgentTable,
    outer: Outer,
    packet: &mut [u8],
    offload: Option<Offload>,
) -> Result<(GuestId, usize, Option<Offload>), Reason> {
    let inner = Inner::read(packet)?;
    let entry = table.by_home_address(inner.header.source).ok_or(Reason::UnknownHomeAddress)?;
    if outer.source != entry.care_of.ok_or(Reason::NotBound)? {
        return Err(Reason::ForeignTunnelSource);
    }
    if outer.destination != table.home_agent {
        return Err(Reason::ForeignTunnelDestination);
    }
    inspect::check_from_guest(&inner, packet, table.home_agent)?;
    inspect::check_clear(entry.protected, &inner, packet, Toward::HomeAgent, table.home_agent)?;
    let offload = egress::finish(&inner, outer.traffic_class, packet, offload, (entry.mtu, table.link_mtu))?;
    Ok((entry.guest, inner.length, offload))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::inspect::tests::{echo, icmp, packet, start};
    use crate::tunnel::table::tests::address;
    use crate::wire::checksum;
    use proptest::prelude::*;

    fn home(n: u8) -> Ipv6Addr {
        address(&format!("2001:db8:2000::{n:x}"))
    }

    fn table() -> HomeAgentTable {
        let entry = |n: u8, care_of: Option<&str>| HomeAgentEntry {
            guest: GuestId(usize::from(n)),
            home_address: home(n),
            care_of: care_of.map(address),
            mtu: 1460,
            protected: Protected::default(),
        };
        let in_esp = [crate::ipsec::Class::TunnelPayload].into_iter().collect();
        let in_esp = HomeAgentEntry { protected: in_esp, ..entry(0x14, Some("2001:db8:3000::3")) };
        let away = [entry(0x10, Some("2001:db8:3000::3")), entry(0x11, Some("2001:db8:4000::3"))];
        let entries = away.into_iter().chain([entry(0x12, None), in_esp]);
        HomeAgentTable::new(home(1), 1500, entries)
    }

    fn to(packet: &mut [u8]) -> Result<(Ipv6Addr, u8), Reason> {
        match to_mobile_node(&table(), packet, &mut ErrorLimits::default(), start()) {
            Ingress::Forward(forward) => Ok((forward.destination, forward.packet[7])),
            Ingress::Answer { reason, .. } | Ingress::Drop(reason) => Err(reason),
            Ingress::ToKernel { .. } => panic!("given to the kernel"),
        }
    }

    fn from(source: &str, packet: &mut [u8]) -> Result<GuestId, Reason> {
        let outer = Outer { source: address(source), destination: home(1), traffic_class: 0 };
        match from_mobile_node(&table(), outer, packet) {
            Egress::Deliver(deliver) => Ok(deliver.to),
            Egress::Drop(reason) => Err(reason),
        }
    }

    #[test]
    fn to_the_care_of_address_with_the_hop_limit_the_kernel_left() {
        assert_eq!(to(&mut echo(home(2), home(0x10), 100)), Ok((address("2001:db8:3000::3"), 64)));
        assert_eq!(to(&mut echo(home(1), home(0x11), 100)), Ok((address("2001:db8:4000::3"), 64)));
        assert_eq!(to(&mut echo(home(2), home(0x12), 100)), Err(Reason::NotBound));
        assert_eq!(to(&mut echo(home(2), home(0x13), 100)), Err(Reason::UnknownHomeAddress));
        assert_eq!(to(&mut echo(home(2), address("fe80::10"), 100)), Err(Reason::LinkScope));
        assert_eq!(to(&mut echo(address("fe80::2"), home(0x10), 100)), Err(Reason::BadSource));
        assert_eq!(to(&mut echo(home(0x10), home(0x10), 100)), Err(Reason::SpoofedSource));
        assert_eq!(to(&mut icmp(home(2), home(0x10), 135, 64)), Err(Reason::NeighborDiscovery));
        let acknowledgement = [59, 0, 6, 0, 0, 0, 0, 0];
        let mut in_the_clear = packet(home(1), home(0x10), 135, &acknowledgement);
        assert_eq!(to(&mut in_the_clear), Err(Reason::MobilityHeaderFromHomeAgent));
    }

    #[test]
    fn data_of_an_esp_tunnel_does_not_pass_in_the_clear() {
        assert_eq!(to(&mut echo(home(2), home(0x14), 100)), Err(Reason::WantsEsp));
        assert_eq!(from("2001:db8:3000::3", &mut echo(home(0x14), home(2), 100)), Err(Reason::WantsEsp));
    }

    #[test]
    fn too_big_is_told_from_the_home_agents_address() {
        let mut packet = echo(home(2), home(0x10), 1461);
        let Ingress::Answer { packet, reason } =
            to_mobile_node(&table(), &mut packet, &mut ErrorLimits::default(), start())
        else {
            panic!("no answer")
        };
        assert_eq!((reason, packet.len()), (Reason::PacketTooBig, 1280));
        let (header, message) = ipv6::Header::parse(&packet).unwrap();
        assert_eq!((header.source, header.destination), (home(1), home(2)));
        assert!(checksum::verify(header.source, header.destination, 58, message));
        assert_eq!(message[4..8], 1460u32.to_be_bytes());
    }

    #[test]
    fn from_the_care_of_address_of_the_source() {
        assert_eq!(from("2001:db8:3000::3", &mut echo(home(0x10), home(2), 100)), Ok(GuestId(0x10)));
        assert_eq!(from("2001:db8:3000::3", &mut echo(home(0x10), home(0x11), 100)), Ok(GuestId(0x10)));
        // One guest's host cannot speak for another guest.
        let other = from("2001:db8:3000::3", &mut echo(home(0x11), home(2), 100));
        assert_eq!(other, Err(Reason::ForeignTunnelSource));
        let absent = from("2001:db8:3000::3", &mut echo(home(0x12), home(2), 100));
        assert_eq!(absent, Err(Reason::NotBound));
        assert_eq!(from("2001:db8:3000::3", &mut echo(home(2), home(1), 100)), Err(Reason::UnknownHomeAddress));
        assert_eq!(from("2001:db8:3000::3", &mut echo(home(0x10), address("fe80::1"), 100)), Err(Reason::LinkScope));
        let all_nodes = from("2001:db8:3000::3", &mut echo(home(0x10), address("ff02::1"), 100));
        assert_eq!(all_nodes, Err(Reason::MulticastDestination));
        let advertisement = from("2001:db8:3000::3", &mut icmp(home(0x10), home(2), 136, 64));
        assert_eq!(advertisement, Err(Reason::NeighborDiscovery));
        let update = [59, 0, 5, 0, 0, 0, 0, 0];
        let in_the_clear = from("2001:db8:3000::3", &mut packet(home(0x10), home(1), 135, &update));
        assert_eq!(in_the_clear, Err(Reason::MobilityHeaderToHomeAgent));
        let elsewhere = Outer { source: address("2001:db8:3000::3"), destination: home(2), traffic_class: 0 };
        let mut request = echo(home(0x10), home(2), 100);
        let dropped = from_mobile_node(&table(), elsewhere, &mut request);
        assert_eq!(dropped, Egress::Drop(Reason::ForeignTunnelDestination));
    }

    proptest! {
        #[test]
        fn any_octets(mut packet in proptest::collection::vec(any::<u8>(), 0..200), source: u128) {
            if packet.len() >= 40 {
                let length = (packet.len() - 40) as u16;
                packet[0] = 0x60;
                packet[4..6].copy_from_slice(&length.to_be_bytes());
            }
            let outer = Outer { source: Ipv6Addr::from_bits(source), destination: home(1), traffic_class: 0 };
            let mut own = packet.clone();
            if own.len() >= 40 { own[8..24].copy_from_slice(&home(0x10).octets()); }
            let delivered = matches!(from_mobile_node(&table(), outer, &mut own), Egress::Deliver(_));
            prop_assert!(!delivered, "from {}", outer.source);
            let _ = to_mobile_node(&table(), &mut packet, &mut ErrorLimits::default(), start());
        }
    }
}
