//! The few messages of the link, heard and said.

use std::net::Ipv6Addr;
use std::time::Duration;

use super::config::{Config, GuestConfig};
use super::reason::Reason;
use crate::vocabulary::MacAddress;
use crate::wire::ndisc::{Message, NeighborAdvertisement, NeighborOption, PrefixInformation, RouterAdvertisement};
use crate::wire::numbers::{icmpv6_type, protocol};
use crate::wire::{extension, icmpv6, ipv6};

/// A message of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Heard<'a> {
    /// Neighbor discovery, validated.
    Discovery(Message),
    /// The ICMPv6 message of an echo request, checksum verified.
    EchoRequest(icmpv6::Message<'a>),
    /// A multicast listener report or done.
    ListenerReport,
    /// Anything else.
    Other,
}

/// Reads a packet of the link.
///
/// # Errors
/// [`Reason::Malformed`]: it must be discarded silently (RFC 4861 §7.1.1).
pub(super) fn hear(packet: &[u8]) -> Result<(ipv6::Header, Heard<'_>), Reason> {
    let (header, chain, message) = extension::dissect(packet).map_err(|_| Reason::Malformed)?;
    // Fragments of neighbor discovery are ignored (RFC 6980 §5), and nothing else here is long enough to be fragmented.
    if chain.upper_layer != protocol::ICMPV6 || chain.fragment.is_some() {
        return Ok((header, Heard::Other));
    }
    let heard = match message.first().copied().ok_or(Reason::Malformed)? {
        discovery if Message::is_neighbor_discovery(discovery) => {
            Heard::Discovery(Message::parse(&header, message).map_err(|_| Reason::Malformed)?)
        }
        icmpv6_type::ECHO_REQUEST => {
            if !icmpv6::verify_checksum(message, header.source, header.destination) {
                return Err(Reason::Malformed);
            }
            Heard::EchoRequest(icmpv6::Message::parse(message).map_err(|_| Reason::Malformed)?)
        }
        icmpv6_type::MULTICAST_LISTENER_REPORT
        | icmpv6_type::MULTICAST_LISTENER_DONE
        | icmpv6_type::MULTICAST_LISTENER_REPORT_V2 => Heard::ListenerReport,
        _ => Heard::Other,
    };
    Ok((header, heard))
}

/// The link-local address formed from a MAC address (RFC 4862 §5.3).
pub(super) fn link_local(mac: MacAddress) -> Ipv6Addr {
    let identifier = u64::from_be_bytes(mac.interface_identifier());
    Ipv6Addr::from_bits(0xfe80 << 112 | u128::from(identifier))
}

/// The advertisement that says that `target` is at the constant MAC address.
///
/// The override flag is set, though RFC 4861 §7.2.8 would have proxies clear it: without it a guest that came with
/// neighbors of its home link in its cache ignores the new address (RFC 4861 §7.2.5) until unreachability detection
/// has given each of them up. Nobody else here could answer. A home agent sets it for the same reason
/// (RFC 6275 §10.4.1).
///
/// The router flag is set for link-local targets and the home agent: each may be a router from which the guest took
/// its default route at home, and a clear flag would make it remove that route (RFC 4861 §7.2.5).
pub(super) fn neighbor_advertisement(
    config: &Config,
    target: Ipv6Addr,
    destination: Ipv6Addr,
    solicited: bool,
) -> Vec<u8> {
    let advertisement = NeighborAdvertisement {
        router: target.is_unicast_link_local() || target == config.home_agent,
        solicited,
        override_cache: true,
        target,
        options: vec![NeighborOption::TargetLinkLayerAddress(config.router_mac)],
    };
    Message::NeighborAdvertisement(advertisement).emit(target, destination)
}

/// The advertisement of the router to one guest (RFC 4861 §4.2).
pub(super) fn router_advertisement(config: &Config, guest: &GuestConfig, destination: Ipv6Addr) -> Vec<u8> {
    let seconds = |duration: Duration| u32::try_from(duration.as_secs()).unwrap_or(u32::MAX);
    let lifetimes = &config.lifetimes;
    let prefix = PrefixInformation {
        prefix: config.home_link.address(),
        prefix_length: config.home_link.length(),
        on_link: true,
        autonomous: guest.autonomous,
        router_address: false,
        valid_lifetime: seconds(lifetimes.valid),
        preferred_lifetime: seconds(lifetimes.preferred.min(lifetimes.valid)),
    };
    let advertisement = RouterAdvertisement {
        hop_limit: 64,
        managed: false,
        other_configuration: false,
        home_agent: false,
        other_flags: 0,
        router_lifetime: u16::try_from(lifetimes.router.as_secs()).unwrap_or(u16::MAX),
        reachable_time: 0,
        retransmission_timer: 0,
        options: vec![
            NeighborOption::SourceLinkLayerAddress(config.router_mac),
            NeighborOption::Mtu(config.mtu.max(ipv6::MINIMUM_MTU as u32)),
            NeighborOption::PrefixInformation(prefix),
        ],
    };
    Message::RouterAdvertisement(advertisement).emit(config.router_link_local, destination)
}

/// The reply to an echo request; `None` for any other message.
pub(super) fn echo_reply(source: Ipv6Addr, destination: Ipv6Addr, request: &icmpv6::Message<'_>) -> Option<Vec<u8>> {
    let icmpv6::Message::EchoRequest { identifier, sequence, data } = *request else { return None };
    Some(icmpv6::Message::EchoReply { identifier, sequence, data }.emit_packet(source, destination))
}
