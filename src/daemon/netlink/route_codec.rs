//! Links, addresses, routes and rules to route netlink messages and back.

use std::net::{IpAddr, Ipv6Addr};

use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, CacheInfo};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoIpTunnel, InfoKind, LinkAttribute, LinkFlags, LinkInfo,
    LinkMessage,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};

use crate::kernel_state::{Address, Link, LinkKind, Route, RouteKey, RouteKind, Rule};
use crate::vocabulary::Prefix;

const FOREVER: u32 = u32::MAX;

/// A link with what route netlink calls it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct IndexedLink {
    pub(super) index: u32,
    pub(super) mtu: u32,
    pub(super) link: Link,
}

pub(super) fn parse_link(message: &LinkMessage) -> IndexedLink {
    let mut out = IndexedLink {
        index: message.header.index,
        mtu: 0,
        link: Link {
            name: String::new(),
            kind: LinkKind::Other("physical".to_owned()),
            up: message.header.flags.contains(LinkFlags::Up),
            // Without IPv6 settings there is no IPv6 on it.
            ipv6_disabled: true,
            generates_link_local: true,
        },
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => out.link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => out.mtu = *mtu,
            LinkAttribute::LinkInfo(infos) => out.link.kind = parse_kind(infos),
            LinkAttribute::AfSpecUnspec(families) => {
                for setting in families.iter().filter_map(inet6).flatten() {
                    match setting {
                        AfSpecInet6::DevConf(conf) => out.link.ipv6_disabled = conf.disable_ipv6 != 0,
                        AfSpecInet6::AddrGenMode(mode) => out.link.generates_link_local = *mode != In6AddrGenMode::None,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    out
}

fn inet6(family: &AfSpecUnspec) -> Option<&Vec<AfSpecInet6>> {
    match family {
        AfSpecUnspec::Inet6(settings) => Some(settings),
        _ => None,
    }
}

fn parse_kind(infos: &[LinkInfo]) -> LinkKind {
    let kind = infos.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    });
    let tunnel = infos.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::IpTunnel(settings)) => Some(settings),
        _ => None,
    });
    match (kind, tunnel) {
        (Some(InfoKind::Dummy), _) => LinkKind::Dummy,
        (Some(InfoKind::Ip6Tnl), Some(settings)) => {
            let (mut local, mut remote, mut mode) = (Ipv6Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED, 0);
            for setting in settings {
                match setting {
                    InfoIpTunnel::Local(IpAddr::V6(address)) => local = *address,
                    InfoIpTunnel::Remote(IpAddr::V6(address)) => remote = *address,
                    InfoIpTunnel::Protocol(protocol) => mode = i32::from(*protocol),
                    _ => {}
                }
            }
            if mode == libc::IPPROTO_IPV6 {
                LinkKind::Ipv6InIpv6 { local, remote }
            } else {
                LinkKind::Other("ip6tnl".to_owned())
            }
        }
        (Some(kind), _) => LinkKind::Other(kind.to_string()),
        (None, _) => LinkKind::Other("physical".to_owned()),
    }
}

/// The attribute that stops the kernel from making link-local addresses on a link.
pub(super) fn no_link_local() -> LinkAttribute {
    let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])])
}

/// A home address; `None` for other addresses (link-local, IPv4, other prefix lengths).
pub(super) fn parse_address(message: &AddressMessage) -> Option<Address> {
    let mut address = None;
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    let mut preferred = FOREVER;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Address(IpAddr::V6(a)) => address = Some(*a),
            AddressAttribute::Flags(f) => flags = *f,
            AddressAttribute::CacheInfo(cache) => preferred = cache.ifa_preferred,
            _ => {}
        }
    }
    let address = address.filter(|a| message.header.prefix_len == 128 && !a.is_unicast_link_local())?;
    Some(Address {
        address,
        home: flags.contains(AddressFlags::Homeaddress),
        no_duplicate_address_detection: flags.contains(AddressFlags::Nodad),
        no_prefix_route: flags.contains(AddressFlags::Noprefixroute),
        deprecated: preferred == 0,
    })
}

pub(super) fn address(address: &Address, index: u32) -> AddressMessage {
    let mut message = address_name(address.address, index);
    let mut flags = AddressFlags::empty();
    flags.set(AddressFlags::Homeaddress, address.home);
    flags.set(AddressFlags::Nodad, address.no_duplicate_address_detection);
    flags.set(AddressFlags::Noprefixroute, address.no_prefix_route);
    let mut cache = CacheInfo::default();
    cache.ifa_preferred = if address.deprecated { 0 } else { FOREVER };
    cache.ifa_valid = FOREVER;
    message.attributes.extend([AddressAttribute::Flags(flags), AddressAttribute::CacheInfo(cache)]);
    message
}

pub(super) fn address_name(address: Ipv6Addr, index: u32) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet6;
    message.header.prefix_len = 128;
    message.header.index = index;
    message.attributes = vec![AddressAttribute::Local(address.into()), AddressAttribute::Address(address.into())];
    message
}

/// A route without gateway, as far as we speak it; `device` names links by index.
pub(super) fn parse_route(message: &RouteMessage, device: impl Fn(u32) -> Option<String>) -> Option<Route> {
    let kind = match message.header.kind {
        RouteType::Unicast => RouteKind::Unicast,
        RouteType::Local => RouteKind::Local,
        _ => return None,
    };
    let mut table = u32::from(message.header.table);
    let (mut destination, mut output, mut metric, mut preferred_source) = (Ipv6Addr::UNSPECIFIED, None, 0, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(t) => table = *t,
            RouteAttribute::Destination(RouteAddress::Inet6(a)) => destination = *a,
            RouteAttribute::Oif(index) => output = Some(*index),
            RouteAttribute::Priority(m) => metric = *m,
            RouteAttribute::PrefSource(RouteAddress::Inet6(a)) => preferred_source = Some(*a),
            RouteAttribute::Gateway(_) | RouteAttribute::MultiPath(_) | RouteAttribute::Source(_) => return None,
            _ => {}
        }
    }
    let destination = Prefix::of(destination, message.header.destination_prefix_length);
    let key = RouteKey { table, destination, kind, device: device(output?)?, metric };
    Some(Route { key, preferred_source, protocol: message.header.protocol.into() })
}

pub(super) fn route(key: &RouteKey, index: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.address_family = AddressFamily::Inet6;
    header.destination_prefix_length = key.destination.length();
    // Tables above 255 go into the attribute alone.
    header.table = u8::try_from(key.table).unwrap_or(0);
    header.kind = match key.kind {
        RouteKind::Unicast => RouteType::Unicast,
        RouteKind::Local => RouteType::Local,
    };
    header.scope = RouteScope::Universe;
    message.attributes =
        vec![RouteAttribute::Table(key.table), RouteAttribute::Oif(index), RouteAttribute::Priority(key.metric)];
    if key.destination.length() > 0 {
        message.attributes.push(RouteAttribute::Destination(key.destination.address().into()));
    }
    message
}

pub(super) fn new_route(route: &Route, index: u32) -> RouteMessage {
    let mut message = self::route(&route.key, index);
    message.header.protocol = RouteProtocol::from(route.protocol);
    if let Some(source) = route.preferred_source {
        message.attributes.push(RouteAttribute::PrefSource(source.into()));
    }
    message
}

/// A rule, when it is one that we could have made.
pub(super) fn parse_rule(message: &RuleMessage) -> Option<Rule> {
    let header = &message.header;
    let plain = header.action == RuleAction::ToTable && !header.flags.contains(RuleFlags::Invert) && header.tos == 0;
    if !plain {
        return None;
    }
    let (mut source, mut destination) = (Ipv6Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED);
    let mut rule = Rule {
        preference: 0,
        source: Prefix::ANY,
        destination: Prefix::ANY,
        input: None,
        upper_layer: None,
        table: u32::from(header.table),
        protocol: 0,
    };
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Source(IpAddr::V6(a)) => source = *a,
            RuleAttribute::Destination(IpAddr::V6(a)) => destination = *a,
            RuleAttribute::Iifname(name) => rule.input = Some(name.clone()),
            RuleAttribute::Priority(preference) => rule.preference = *preference,
            RuleAttribute::Table(table) => rule.table = *table,
            RuleAttribute::Protocol(protocol) => rule.protocol = (*protocol).into(),
            RuleAttribute::IpProtocol(protocol) => rule.upper_layer = u8::try_from(i32::from(*protocol)).ok(),
            // The kernel always reports it; this value says that it is not used.
            RuleAttribute::SuppressPrefixLen(u32::MAX) => {}
            RuleAttribute::FwMark(_)
            | RuleAttribute::FwMask(_)
            | RuleAttribute::Goto(_)
            | RuleAttribute::TunId(_)
            | RuleAttribute::SuppressIfGroup(_)
            | RuleAttribute::SuppressPrefixLen(_)
            | RuleAttribute::Oifname(_)
            | RuleAttribute::L3MDev(true)
            | RuleAttribute::UidRange(_)
            | RuleAttribute::SourcePortRange(_)
            | RuleAttribute::DestinationPortRange(_) => return None,
            _ => {}
        }
    }
    rule.source = Prefix::of(source, header.src_len);
    rule.destination = Prefix::of(destination, header.dst_len);
    Some(rule)
}

pub(super) fn rule(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = AddressFamily::Inet6;
    message.header.action = RuleAction::ToTable;
    message.header.table = u8::try_from(rule.table).unwrap_or(0);
    message.attributes = vec![
        RuleAttribute::Priority(rule.preference),
        RuleAttribute::Table(rule.table),
        RuleAttribute::Protocol(RouteProtocol::from(rule.protocol)),
    ];
    if rule.source.length() > 0 {
        message.header.src_len = rule.source.length();
        message.attributes.push(RuleAttribute::Source(rule.source.address().into()));
    }
    if rule.destination.length() > 0 {
        message.header.dst_len = rule.destination.length();
        message.attributes.push(RuleAttribute::Destination(rule.destination.address().into()));
    }
    if let Some(input) = &rule.input {
        message.attributes.push(RuleAttribute::Iifname(input.clone()));
    }
    if let Some(number) = rule.upper_layer {
        message.attributes.push(RuleAttribute::IpProtocol(i32::from(number).into()));
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUEST: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x2000, 0, 0, 0, 0, 0x10);

    #[test]
    fn addresses_come_back() {
        for bits in 0..16 {
            let flag = |n: u8| bits & (1 << n) != 0;
            let wanted = Address {
                address: GUEST,
                home: flag(0),
                no_duplicate_address_detection: flag(1),
                no_prefix_route: flag(2),
                deprecated: flag(3),
            };
            assert_eq!(parse_address(&address(&wanted, 7)), Some(wanted));
        }
        assert_eq!(parse_address(&address_name(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1), 7)), None);
    }

    #[test]
    fn routes_come_back() {
        for (kind, table, destination, preferred_source) in [
            (RouteKind::Local, 0x4b47, Prefix::host(GUEST), None),
            (RouteKind::Unicast, 0x4b48, Prefix::ANY, None),
            (RouteKind::Unicast, 254, Prefix::host(GUEST), Some(GUEST)),
        ] {
            let key = RouteKey { table, destination, kind, device: "kage0".to_owned(), metric: 64 };
            let wanted = Route { key, preferred_source, protocol: 0x4b };
            let name = |index| (index == 7).then(|| "kage0".to_owned());
            let mut message = new_route(&wanted, 7);
            assert_eq!(parse_route(&message, name), Some(wanted));
            message.attributes.push(RouteAttribute::Gateway(GUEST.into()));
            assert_eq!(parse_route(&message, name), None, "a route with a gateway is not one of ours");
        }
    }

    #[test]
    fn rules_come_back() {
        for (input, upper_layer) in [(None, None), (Some("eth0".to_owned()), Some(50)), (None, Some(135))] {
            let wanted = Rule {
                preference: 0x4b00,
                source: Prefix::ANY,
                destination: Prefix::host(GUEST),
                input,
                upper_layer,
                table: 0x4b47,
                protocol: 0x4b,
            };
            let mut message = rule(&wanted);
            message.attributes.push(RuleAttribute::SuppressPrefixLen(u32::MAX));
            assert_eq!(parse_rule(&message), Some(wanted));
            message.attributes.push(RuleAttribute::FwMark(1));
            assert_eq!(parse_rule(&message), None, "a rule with a mark is not one of ours");
        }
    }
}
