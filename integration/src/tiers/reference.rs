//! What must come out, by the pure transforms.

use std::time::Instant;

use kagemusha::home_network::config::{ROUTER_LINK_LOCAL, ROUTER_MAC};
use kagemusha::home_network::{PortGuest, PortGuests, Verdict, classify};
use kagemusha::tunnel::home_agent::{from_mobile_node, to_mobile_node};
use kagemusha::tunnel::ingress::{self, Forward};
use kagemusha::tunnel::{Egress, ErrorLimits, HomeAgentTable, Ingress, Outer, Table, egress};
use kagemusha::wire::{ethernet, ipv6, tunnel};

use super::tap::Mac;
use crate::bench::tunnel::end::{Role, Specification, bindings, guests};
use crate::bench::tunnel::variant::Engine;
use crate::failure::Outcome;

pub(super) const ROUTER: Mac = ROUTER_MAC.0;
/// Octets of an Ethernet header.
const LINK: usize = ethernet::HEADER_LENGTH;
const HOP_LIMIT: usize = 7;
/// The kernel's default for a raw socket, and what every tier sends.
const OUTER_HOP_LIMIT: u8 = 64;

/// The tables that the engines of a path were given.
pub(super) struct Reference {
    guests: Table,
    port: PortGuests,
    bindings: HomeAgentTable,
    limits: ErrorLimits,
}

/// Whether a frame is the one that is expected. Where a socket cannot set it, the outer flow label is 0.
pub(super) fn same(expected: &[u8], heard: &[u8]) -> bool {
    let tunnelled = expected.get(LINK + 6) == Some(&41);
    let mut unlabelled = expected.to_vec();
    if tunnelled && let Some([second, third, fourth]) = unlabelled.get_mut(LINK + 1..LINK + 4) {
        (*second, *third, *fourth) = (*second & 0xf0, 0, 0);
    }
    // On the underlay the MAC addresses are those of the link, and not of the transform.
    let skip = if tunnelled { 12 } else { 0 };
    expected.get(skip..) == heard.get(skip..) || tunnelled && unlabelled.get(skip..) == heard.get(skip..)
}

/// The same for the pieces of a whole in the super-packet tier, where the kernel encapsulates: its encapsulating route copies the inner flow label, and the inner hop
/// limit less one.
pub(super) fn same_piece(expected: &[u8], heard: &[u8]) -> bool {
    let (outer, inner) = (LINK, LINK + ipv6::HEADER_LENGTH);
    let mut by_route = expected.to_vec();
    if let (Some(label), Some(hop_limit)) = (expected.get(inner + 1..inner + 4), expected.get(inner + HOP_LIMIT))
        && let Some(header) = by_route.get_mut(outer..inner)
    {
        header[1] = header[1] & 0xf0 | label[0] & 0x0f;
        header[2..4].copy_from_slice(&label[1..]);
        header[HOP_LIMIT] = hop_limit.saturating_sub(1);
    }
    same(expected, heard) || by_route.get(12..) == heard.get(12..)
}

impl Reference {
    pub(super) fn new() -> Outcome<Self> {
        let specification = Specification { engine: Engine::Portable, role: Role::MobileNode, mtu: 1500, guests: 1 };
        let table = guests(specification)?;
        let on_port = table.entries().iter().map(|entry| PortGuest {
            guest: entry.guest,
            mac: entry.mac,
            home_address: entry.home_address,
            attached: true,
        });
        let port = PortGuests::new(ROUTER_LINK_LOCAL, on_port);
        let bindings = bindings(specification)?;
        Ok(Self { guests: table, port, bindings, limits: ErrorLimits::default() })
    }

    /// A frame of the guest: on the underlay.
    pub(super) fn guest_into_tunnel(&self, frame: &[u8]) -> Vec<Vec<u8>> {
        let mut frame = frame.to_vec();
        match self.decide(&mut frame, &mut ErrorLimits::default()) {
            Some(Ingress::Forward(forward)) => vec![underlay(&forward)],
            _ => vec![],
        }
    }

    /// A frame of the guest: what it is told.
    pub(super) fn answer_to_guest(&mut self, frame: &[u8]) -> Vec<Vec<u8>> {
        let mut frame = frame.to_vec();
        let mut limits = self.limits.clone();
        let answer = match self.decide(&mut frame, &mut limits) {
            Some(Ingress::Answer { packet, .. }) => Some(packet),
            _ => None,
        };
        self.limits = limits;
        let Some(entry) = self.guests.entries().first() else { return vec![] };
        let link = ethernet::Frame { destination: entry.mac, source: ROUTER_MAC, ether_type: 0x86dd, payload: &[] };
        answer.map(|packet| [&link.header()[..], &packet].concat()).into_iter().collect()
    }

    fn decide<'a>(&self, frame: &'a mut [u8], limits: &mut ErrorLimits) -> Option<Ingress<'a>> {
        let Verdict::Data { guest, packet } = classify(frame, &self.port) else { return None };
        let entry = self.guests.by_guest(guest)?;
        Some(ingress::process(entry, frame.get_mut(packet)?, limits, Instant::now()))
    }

    /// A tunnel packet of the home agent: on the guest's link.
    pub(super) fn tunnel_to_guest(&self, packet: &[u8]) -> Vec<Vec<u8>> {
        let Some((outer, mut inner)) = taken_apart(packet) else { return vec![] };
        match egress::process(&self.guests, outer, &mut inner) {
            Egress::Deliver(deliver) => {
                vec![[&deliver.to.ethernet_header(ROUTER_MAC)[..], deliver.packet].concat()]
            }
            Egress::Drop(_) => vec![],
        }
    }

    /// A packet on the home link: on the underlay. The kernel has forwarded it to the TUN.
    pub(super) fn home_link_into_tunnel(&self, packet: &[u8]) -> Vec<Vec<u8>> {
        let mut packet = forwarded(packet);
        match to_mobile_node(&self.bindings, &mut packet, &mut ErrorLimits::default(), Instant::now()) {
            Ingress::Forward(forward) => vec![underlay(&forward)],
            Ingress::Answer { .. } | Ingress::ToKernel { .. } | Ingress::Drop(_) => vec![],
        }
    }

    /// A tunnel packet of the guest's host: on the home link, where the kernel has forwarded it from the TUN.
    pub(super) fn tunnel_to_home_link(&self, packet: &[u8]) -> Vec<Vec<u8>> {
        let Some((outer, mut inner)) = taken_apart(packet) else { return vec![] };
        match from_mobile_node(&self.bindings, outer, &mut inner) {
            Egress::Deliver(deliver) => vec![forwarded(deliver.packet)],
            Egress::Drop(_) => vec![],
        }
    }
}

fn forwarded(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if let Some(hop_limit) = packet.get_mut(HOP_LIMIT) {
        *hop_limit = hop_limit.saturating_sub(1);
    }
    packet
}

fn underlay(forward: &Forward<'_>) -> Vec<u8> {
    let Forward { source, destination, traffic_class, flow_label, packet, .. } = forward;
    let length = packet.len();
    let header = tunnel::outer_header(*source, *destination, *traffic_class, *flow_label, OUTER_HOP_LIMIT, length);
    [&[0; 12][..], &[0x86, 0xdd], &header.emit(packet)].concat()
}

fn taken_apart(packet: &[u8]) -> Option<(Outer, Vec<u8>)> {
    let parsed = tunnel::parse(packet).ok()??;
    let ipv6::Header { source, destination, traffic_class, .. } = parsed.outer;
    Some((Outer { source, destination, traffic_class }, packet.get(parsed.inner)?.to_vec()))
}
