//! The objects of route netlink, reduced to what we make of them.

use std::net::Ipv6Addr;

use crate::vocabulary::Prefix;

/// A link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: LinkKind,
    /// Administratively up (`IFF_UP`).
    pub up: bool,
    /// IPv6 is disabled on it (`net.ipv6.conf.<name>.disable_ipv6`).
    pub ipv6_disabled: bool,
    /// The kernel gives it a link-local address by itself (`IFLA_INET6_ADDR_GEN_MODE` is not none).
    pub generates_link_local: bool,
}

/// Kinds of links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkKind {
    /// `dummy`.
    Dummy,
    /// `ip6tnl` in mode `ip6ip6`. The most specific pair of addresses wins; unspecified is any.
    Ipv6InIpv6 {
        /// Our end.
        local: Ipv6Addr,
        /// The other end.
        remote: Ipv6Addr,
    },
    /// Another kind, by its name; observed only.
    Other(String),
}

/// A home address on our dummy link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The address, with prefix length 128.
    pub address: Ipv6Addr,
    /// `IFA_F_HOMEADDRESS`: lets a type 2 routing header with it in.
    pub home: bool,
    /// `IFA_F_NODAD`: the guest owns it and would defend it.
    pub no_duplicate_address_detection: bool,
    /// `IFA_F_NOPREFIXROUTE`.
    pub no_prefix_route: bool,
    /// Preferred lifetime zero, so that the host does not choose it as a source (RFC 6724 §5, rules 3 and 4).
    pub deprecated: bool,
}

/// Types of routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteKind {
    /// `RTN_UNICAST`.
    Unicast,
    /// `RTN_LOCAL`.
    Local,
}

/// What names a route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteKey {
    /// Routing table.
    pub table: u32,
    /// Destination.
    pub destination: Prefix,
    /// Type.
    pub kind: RouteKind,
    /// Name of the output link.
    pub device: String,
    /// Metric; the lower number wins.
    pub metric: u32,
}

/// A route without gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Its name.
    pub key: RouteKey,
    /// Source for the host's own packets.
    pub preferred_source: Option<Ipv6Addr>,
    /// Who made it: [`super::ROUTE_PROTOCOL`], or 2 for the kernel itself (`RTPROT_KERNEL`).
    pub protocol: u8,
}

/// A policy routing rule that looks up a table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// Preference; the lower number is asked first.
    pub preference: u32,
    /// Source.
    pub source: Prefix,
    /// Destination.
    pub destination: Prefix,
    /// Name of the input link, or any.
    pub input: Option<String>,
    /// Upper-layer protocol behind the extension headers, or any.
    pub upper_layer: Option<u8>,
    /// Table to look up.
    pub table: u32,
    /// `FRA_PROTOCOL`: who made it.
    pub protocol: u8,
}
