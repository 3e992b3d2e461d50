//! A guest's packet through the whole data path, both ends of the tunnel in one process: port, classification, ingress, outer header,
//! home agent, and the way back. What one end sends the other must take, and nobody in between can put anything in.

#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

use std::net::Ipv6Addr;
use std::time::Instant;

use kagemusha::home_network::{Config, GuestConfig, PortGuests, PseudoHomeNetwork, Verdict, classify, config};
use kagemusha::tunnel::egress::{self, Egress};
use kagemusha::tunnel::ingress::{self, Ingress};
use kagemusha::tunnel::{
    Carrier, Counters, Entry, ErrorLimits, HomeAgentEntry, HomeAgentTable, Outer, Protected, Reason, Table, home_agent,
};
use kagemusha::vocabulary::{GuestId, MacAddress};
use kagemusha::wire::{ethernet, icmpv6, tunnel};
use proptest::prelude::*;

const HOME_AGENT: &str = "2001:db8:2000::1";
const CORRESPONDENT: &str = "2001:db8:2000::2";
const HOME: [&str; 2] = ["2001:db8:2000::10", "2001:db8:2000::11"];
const CARE_OF: [&str; 2] = ["2001:db8:3000::3", "2001:db8:4000::3"];

fn address(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

/// A host with one guest, bound.
struct Host {
    view: std::sync::Arc<PortGuests>,
    table: Table,
    mac: MacAddress,
    counters: Counters,
}

impl Host {
    fn new(n: usize, now: Instant) -> Self {
        let mac = MacAddress([0x52, 0x54, 0, 0, 0, 0x10 + n as u8]);
        let guest = GuestConfig::new(GuestId(n), address(HOME[n]), mac);
        let mut network = PseudoHomeNetwork::new(Config::new(
            "2001:db8:2000::/64".parse().unwrap(),
            address(HOME_AGENT),
            vec![guest],
        ));
        network.attached(GuestId(n), now);
        let entry = Entry {
            guest: GuestId(n),
            home_address: address(HOME[n]),
            home_agent: address(HOME_AGENT),
            mac,
            port: 0,
            carrier: Some(Carrier { care_of: address(CARE_OF[n]), home_agent: address(HOME_AGENT) }),
            arriving: None,
            mtu: 1460,
            link_mtu: 1500,
            router: config::ROUTER_LINK_LOCAL,
            protected: Protected::default(),
        };
        Self { view: network.guests(), table: Table::new([entry]), mac, counters: Counters::new() }
    }

    /// The tunnel packet that a frame of the guest becomes.
    fn send(&self, packet: &[u8], now: Instant) -> Option<Vec<u8>> {
        let destination = config::ROUTER_MAC;
        let mut frame = ethernet::Frame { destination, source: self.mac, ether_type: 0x86dd, payload: packet }.emit();
        let Verdict::Data { guest, packet } = classify(&frame, &self.view) else { return None };
        let entry = self.table.by_guest(guest)?;
        let result = ingress::process(entry, &mut frame[packet], &mut ErrorLimits::default(), now);
        self.counters.count_ingress(&result);
        encapsulated(&result)
    }

    /// The packet within the frame that the guest gets.
    fn receive(&self, tunnel_packet: &[u8]) -> Result<Vec<u8>, Reason> {
        let (outer, mut inner) = opened(tunnel_packet);
        let result = egress::process(&self.table, outer, &mut inner);
        self.counters.count_egress(&result);
        match result {
            Egress::Deliver(deliver) => {
                let header = deliver.to.ethernet_header(config::ROUTER_MAC);
                assert_eq!((&header[..6], &header[6..12]), (&self.mac.0[..], &config::ROUTER_MAC.0[..]));
                Ok(deliver.packet.to_vec())
            }
            Egress::Drop(reason) => Err(reason),
        }
    }
}

fn encapsulated(result: &Ingress<'_>) -> Option<Vec<u8>> {
    let Ingress::Forward(forward) = result else { return None };
    let (source, destination) = (forward.source, forward.destination);
    let class = forward.traffic_class;
    let header = tunnel::outer_header(source, destination, class, forward.flow_label, 64, forward.packet.len());
    Some([&header.octets(), forward.packet].concat())
}

fn opened(tunnel_packet: &[u8]) -> (Outer, Vec<u8>) {
    let parsed = tunnel::parse(tunnel_packet).unwrap().unwrap();
    let outer = Outer {
        source: parsed.outer.source,
        destination: parsed.outer.destination,
        traffic_class: parsed.outer.traffic_class,
    };
    (outer, tunnel_packet[parsed.inner].to_vec())
}

fn home_agent_table() -> HomeAgentTable {
    let entry = |n: usize| HomeAgentEntry {
        guest: GuestId(n),
        home_address: address(HOME[n]),
        care_of: Some(address(CARE_OF[n])),
        mtu: 1460,
        protected: Protected::default(),
    };
    HomeAgentTable::new(address(HOME_AGENT), 1500, [entry(0), entry(1)])
}

/// What the home agent's kernel gets on its TUN.
fn at_home(tunnel_packet: &[u8]) -> Result<Vec<u8>, Reason> {
    let (outer, mut inner) = opened(tunnel_packet);
    match home_agent::from_mobile_node(&home_agent_table(), outer, &mut inner) {
        Egress::Deliver(deliver) => Ok(deliver.packet.to_vec()),
        Egress::Drop(reason) => Err(reason),
    }
}

/// The tunnel packet that the home agent makes of what its kernel forwarded.
fn from_home(packet: &[u8], now: Instant) -> Option<Vec<u8>> {
    let mut packet = packet.to_vec();
    let result = home_agent::to_mobile_node(&home_agent_table(), &mut packet, &mut ErrorLimits::default(), now);
    encapsulated(&result)
}

fn echo(source: &str, destination: &str, data: &[u8]) -> Vec<u8> {
    let request = icmpv6::Message::EchoRequest { identifier: 1, sequence: 2, data };
    request.emit_packet(address(source), address(destination))
}

/// What a router on the way leaves of a packet.
fn forwarded(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet[7] -= 1;
    packet
}

#[test]
fn there_and_back() {
    let now = Instant::now();
    let host = Host::new(0, now);
    let request = echo(HOME[0], CORRESPONDENT, b"there");
    let on_the_wire = host.send(&request, now).unwrap();
    assert_eq!(on_the_wire.len(), request.len() + 40);
    assert_eq!(on_the_wire[8..24], address(CARE_OF[0]).octets());
    assert_eq!(at_home(&on_the_wire), Ok(forwarded(&request)));

    let answer = echo(CORRESPONDENT, HOME[0], b"back");
    let on_the_wire = from_home(&answer, now).unwrap();
    assert_eq!(on_the_wire[24..40], address(CARE_OF[0]).octets());
    assert_eq!(host.receive(&on_the_wire), Ok(answer));
    assert_eq!((host.counters.into_packets(), host.counters.out_packets()), (1, 1));
}

#[test]
fn two_guests_on_two_hosts_meet_by_way_of_the_home_agent() {
    let now = Instant::now();
    let hosts = [Host::new(0, now), Host::new(1, now)];
    let request = echo(HOME[0], HOME[1], b"hello");
    let at_home = at_home(&hosts[0].send(&request, now).unwrap()).unwrap();
    let on_the_wire = from_home(&forwarded(&at_home), now).unwrap();
    assert_eq!(hosts[1].receive(&on_the_wire), Ok(forwarded(&forwarded(&request))));
    // The packet for one host is nothing to the other.
    assert_eq!(hosts[0].receive(&on_the_wire), Err(Reason::UnknownHomeAddress));
}

#[test]
fn a_host_cannot_speak_for_the_guest_of_another() {
    let now = Instant::now();
    let stolen = Host::new(0, now).send(&echo(HOME[0], CORRESPONDENT, b""), now).unwrap();
    let mut elsewhere = stolen.clone();
    elsewhere[8..24].copy_from_slice(&address(CARE_OF[1]).octets());
    assert_eq!(at_home(&elsewhere), Err(Reason::ForeignTunnelSource));
    assert!(at_home(&stolen).is_ok());
}

proptest! {
    /// Whatever a guest sends with its own addresses, what host and home agent let through is what was sent, less one hop; and what one end
    /// lets through the other does too.
    #[test]
    fn nothing_is_changed_on_the_way(next in prop::sample::select(vec![0u8, 6, 17, 43, 44, 50, 58, 59, 60, 135]), hop_limit in 2u8..,
                                     class: u8, payload in proptest::collection::vec(any::<u8>(), 0..1600), to_agent: bool) {
        let now = Instant::now();
        let destination = if to_agent { HOME_AGENT } else { CORRESPONDENT };
        let header = kagemusha::wire::ipv6::Header {
            traffic_class: class, hop_limit,
            ..kagemusha::wire::ipv6::Header::new(address(HOME[0]), address(destination), next)
        };
        let packet = header.emit(&payload);
        let host = Host::new(0, now);
        if let Some(on_the_wire) = host.send(&packet, now) {
            prop_assert_eq!(at_home(&on_the_wire), Ok(forwarded(&packet)));
            prop_assert!(on_the_wire.len() <= 1500);
        }
        let back = kagemusha::wire::ipv6::Header { source: header.destination, destination: header.source, ..header }.emit(&payload);
        if let Some(on_the_wire) = from_home(&back, now) {
            prop_assert_eq!(host.receive(&on_the_wire), Ok(back));
        }
    }

    /// Forged outer addresses never get anything to the guest or to the home link.
    #[test]
    fn forged_outer_addresses(source: u128, destination: u128) {
        let now = Instant::now();
        let host = Host::new(0, now);
        let mut in_tunnel = from_home(&echo(CORRESPONDENT, HOME[0], b""), now).unwrap();
        in_tunnel[8..24].copy_from_slice(&source.to_be_bytes());
        prop_assert!(host.receive(&in_tunnel).is_err());
        let mut in_tunnel = from_home(&echo(CORRESPONDENT, HOME[0], b""), now).unwrap();
        in_tunnel[24..40].copy_from_slice(&destination.to_be_bytes());
        prop_assert!(host.receive(&in_tunnel).is_err());
        let mut in_tunnel = host.send(&echo(HOME[0], CORRESPONDENT, b""), now).unwrap();
        in_tunnel[8..24].copy_from_slice(&source.to_be_bytes());
        prop_assert!(at_home(&in_tunnel).is_err());
    }
}
