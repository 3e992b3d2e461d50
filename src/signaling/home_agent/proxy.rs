//! The home agent's neighbour discovery on the home link for its mobile nodes (RFC 6275 §10.4.1): whole Ethernet frames.

use std::net::Ipv6Addr;

use super::output::Config;
use crate::vocabulary::MacAddress;
use crate::wire::ethernet::Frame;
use crate::wire::ipv6::{self, ALL_NODES, solicited_node_multicast};
use crate::wire::ndisc::{Message, NeighborAdvertisement, NeighborOption, NeighborSolicitation};
use crate::wire::numbers::{ether_type, protocol};

/// What a frame from the home link says about an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// Someone asks for the address.
    Solicitation { target: Ipv6Addr, source: Ipv6Addr, link_layer_address: MacAddress },
    /// Someone does duplicate address detection of the address (RFC 4862 §5.4.3).
    Probe { target: Ipv6Addr, link_layer_address: MacAddress },
    /// Someone says that the address is theirs.
    Advertisement { target: Ipv6Addr, link_layer_address: MacAddress },
}

/// Reads a frame; `None` for what is not a valid neighbour solicitation or advertisement of another node, for us.
pub(super) fn read(config: &Config, frame: &[u8]) -> Option<Heard> {
    let frame = Frame::parse(frame).ok()?;
    let for_us = frame.destination == config.link_layer_address || frame.destination.is_multicast();
    if frame.ether_type != ether_type::IPV6 || !for_us || frame.source == config.link_layer_address {
        return None;
    }
    let (header, payload) = ipv6::Header::parse(frame.payload).ok()?;
    if header.next_header != protocol::ICMPV6 {
        return None;
    }
    let message = Message::parse(&header, payload).ok()?;
    match &message {
        Message::NeighborSolicitation(NeighborSolicitation { target, .. }) if header.source.is_unspecified() => {
            Some(Heard::Probe { target: *target, link_layer_address: frame.source })
        }
        Message::NeighborSolicitation(NeighborSolicitation { target, .. }) => Some(Heard::Solicitation {
            target: *target,
            source: header.source,
            link_layer_address: message.source_link_layer_address().unwrap_or(frame.source),
        }),
        // The home host of a mobile node that has left, which says where it is to be found: here.
        Message::NeighborAdvertisement(_) if message.target_link_layer_address() == Some(config.link_layer_address) => {
            None
        }
        Message::NeighborAdvertisement(NeighborAdvertisement { target, .. }) => {
            Some(Heard::Advertisement { target: *target, link_layer_address: frame.source })
        }
        _ => None,
    }
}

/// The probe of duplicate address detection (RFC 4862 §5.4.2).
pub(super) fn probe(config: &Config, target: Ipv6Addr) -> Vec<u8> {
    let group = solicited_node_multicast(target);
    let message = Message::NeighborSolicitation(NeighborSolicitation { target, options: Vec::new() });
    frame(config, MacAddress::for_multicast(group), &message.emit(Ipv6Addr::UNSPECIFIED, group))
}

/// The unsolicited advertisement to all nodes that makes them send the mobile node's packets to the home agent.
pub(super) fn announcement(config: &Config, target: Ipv6Addr) -> Vec<u8> {
    let message = advertisement(config, target, false);
    frame(config, MacAddress::for_multicast(ALL_NODES), &message.emit(config.address, ALL_NODES))
}

/// The answer to a solicitation.
pub(super) fn answer(config: &Config, target: Ipv6Addr, source: Ipv6Addr, link_layer_address: MacAddress) -> Vec<u8> {
    frame(config, link_layer_address, &advertisement(config, target, true).emit(config.address, source))
}

/// R is 0: the mobile node is a host, and saying otherwise would make it a default router candidate. O is 1: it replaces
/// the mobile node's own link-layer address (RFC 6275 §10.4.1).
fn advertisement(config: &Config, target: Ipv6Addr, solicited: bool) -> Message {
    Message::NeighborAdvertisement(NeighborAdvertisement {
        router: false,
        solicited,
        override_cache: true,
        target,
        options: vec![NeighborOption::TargetLinkLayerAddress(config.link_layer_address)],
    })
}

fn frame(config: &Config, destination: MacAddress, packet: &[u8]) -> Vec<u8> {
    Frame { destination, source: config.link_layer_address, ether_type: ether_type::IPV6, payload: packet }.emit()
}
