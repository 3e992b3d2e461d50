//! Values of RFC 4301 to XFRM netlink messages and back.
//!
//! The message types of netlink-packet-xfrm index their input unchecked, so only its structures with a length check are
//! used for parsing, one attribute at a time. What the kernel reports is not always what was asked: an authentication
//! algorithm comes back both with and without its truncation, a replay window above 32 in another attribute.

mod association;
mod expiry;
mod migrate;
mod policy;
mod replay;
#[cfg(test)]
mod tests;

use std::net::Ipv6Addr;

use netlink_packet_xfrm as nl;

pub(super) use association::{
    ObservedAssociation, add_association, delete_association, get_association, parse_association, put_association, wipe,
};
pub use expiry::{Expiry, parse_expiry};
pub(super) use migrate::migrate;
pub(super) use policy::{ObservedPolicy, delete_policy, parse_policy, put_policy};
pub(super) use replay::{attribute as replay_attribute, parse_replay_state};

use crate::ipsec::{AssociationKey, PolicyKey, Selector, UpperLayer};
use crate::kernel_state::needs_another_name;
use crate::vocabulary::Prefix;

/// `user` in the selectors of failsafe policies that need another name.
const FAILSAFE_USER: u32 = 0x4b;

fn address(address: Ipv6Addr) -> nl::Address {
    nl::Address::from_ipv6(&address)
}

/// The name of an association in a message.
fn association_key(info: &nl::UserSaInfo) -> AssociationKey {
    AssociationKey {
        source: info.saddr.to_ipv6(),
        destination: info.id.daddr.to_ipv6(),
        protocol: info.id.proto,
        spi: info.id.spi,
    }
}

fn selector(selector: &Selector) -> nl::Selector {
    let mut out = nl::Selector {
        daddr: address(selector.destination.address()),
        saddr: address(selector.source.address()),
        family: nl::AF_INET6,
        prefixlen_d: selector.destination.length(),
        prefixlen_s: selector.source.length(),
        ..Default::default()
    };
    match selector.upper_layer {
        UpperLayer::Any => {}
        UpperLayer::Protocol(number) => out.proto = number,
        UpperLayer::MobilityHeader(kind) => {
            (out.proto, out.sport, out.sport_mask) = (nl::IPPROTO_MH, u16::from(kind), u16::MAX);
        }
        UpperLayer::Icmpv6(kind) => {
            (out.proto, out.sport, out.sport_mask) = (nl::IPPROTO_ICMPV6, u16::from(kind), u16::MAX);
        }
    }
    out
}

/// The selector of a policy. Where a failsafe policy is for the packets of a protecting one ([`needs_another_name`]), it is told from that one by
/// the user of its selector, which counts for the name and not for the packets (`__xfrm6_selector_match` of `net/xfrm/xfrm_policy.c`).
fn policy_selector(key: &PolicyKey) -> nl::Selector {
    let user = if needs_another_name(key) { FAILSAFE_USER } else { 0 };
    nl::Selector { user, ..selector(&key.selector) }
}

fn parse_selector(selector: &nl::Selector) -> Option<Selector> {
    if selector.family != nl::AF_INET6 || selector.dport_mask != 0 || selector.ifindex != 0 {
        return None;
    }
    let upper_layer = match (selector.proto, selector.sport_mask, u8::try_from(selector.sport)) {
        (0, 0, _) => UpperLayer::Any,
        (number, 0, _) => UpperLayer::Protocol(number),
        (nl::IPPROTO_MH, u16::MAX, Ok(kind)) => UpperLayer::MobilityHeader(kind),
        (nl::IPPROTO_ICMPV6, u16::MAX, Ok(kind)) => UpperLayer::Icmpv6(kind),
        _ => return None,
    };
    Some(Selector {
        source: Prefix::of(selector.saddr.to_ipv6(), selector.prefixlen_s),
        destination: Prefix::of(selector.daddr.to_ipv6(), selector.prefixlen_d),
        upper_layer,
    })
}
