//! What the kernel shall hold, as values: security associations, security policies, links, addresses, routes, rules.
//!
//! [`compile()`] says what is wanted, [`owned`] what of the observed state is ours, [`diff`] how to get from one to the
//! other in an order that never lets a protected binding update leave in clear. Applying it is the shell's work.
//!
//! The SAs and SPs are those that RFC 3776 §3 wants for each class of traffic, selected as RFC 4301 §4.4.1 says; the Home Address option and the type 2 routing
//! header (RFC 6275 §6.3, §6.4) are put in and taken off by the kernel by templates of the same policies.
//!
//! What is ours is recognisable, so that a restart finds it and an alien object is never touched:
//! policies by their priority band, routes by their protocol, rules by preference band and protocol, links by name and
//! kind, addresses by being on our dummy link, security associations by the policy file. One daemon per network
//! namespace: two would take each other's objects for leftovers.

mod adoption;
mod compile;
mod concern;
mod configuration;
mod desired;
mod display;
mod object;
mod ownership;
mod plan;
mod protect;
mod received;
mod shadow;
mod tunnels;

pub use adoption::{Adopted, adopted};
pub use compile::{at_rest, compile};
pub use configuration::{Bindings, Configuration, Guest, Site};
pub use desired::{Change, Desired};
pub use object::{Address, Link, LinkKind, Route, RouteKey, RouteKind, Rule};
pub use ownership::{Ownership, owned};
pub use plan::{Migration, Plan, Step, diff};
pub use protect::needs_another_name;
pub use shadow::{Shadow, before_ours, shadows};
pub use tunnels::Tunnels;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;

use crate::ipsec::{AssociationKey, Class, PolicyKey, SecurityAssociation, SecurityPolicy};

/// Priority of the policies that protect registrations, the first of our band; the lower number wins.
pub const PROTECTING_PRIORITY: u32 = 0x4b10;
/// Priority of the policies of a home agent that let neighbour discovery through where all ICMPv6 is protected.
pub const NEIGHBOR_DISCOVERY_PRIORITY: u32 = 0x4b13;
/// Priority of the failsafe policies that block what no protecting policy took.
pub const FAILSAFE_PRIORITY: u32 = 0x4b20;
/// `rtm_protocol` of our routes and `FRA_PROTOCOL` of our rules (`linux/rtnetlink.h` leaves the number free).
pub const ROUTE_PROTOCOL: u8 = 0x4b;
/// Preference of the rule that delivers binding acknowledgements locally.
pub const DELIVERY_RULE: u32 = 0x4b00;
/// Preference of the rule that keeps packets with a home address as source off the native interfaces.
pub const SOURCE_RULE: u32 = 0x4b01;
/// Preference of the rule that ends packets to a home address that come in natively and are no acknowledgements.
pub const NATIVE_RULE: u32 = 0x4b02;
/// Rule preferences from [`DELIVERY_RULE`] up to this one, exclusive, are ours.
pub const RULE_BAND_END: u32 = 0x4b10;
/// Routing table with the local routes of home addresses.
pub const DELIVERY_TABLE: u32 = 0x4b47;
/// Routing table of packets that must not be routed natively: all of it leads into our dummy link.
pub const DEAD_END_TABLE: u32 = 0x4b48;
/// Routing table of guests whose data go through the kernel's ESP tunnels: their home addresses are behind [`ESP_TUNNEL_LINK`].
pub const ESP_TUNNEL_TABLE: u32 = 0x4b49;
/// The kernel's table `local`.
pub const LOCAL_TABLE: u32 = 255;
/// The kernel's table `main`.
pub const MAIN_TABLE: u32 = 254;
/// Our dummy link: it holds the home addresses.
pub const HOME_ADDRESS_LINK: &str = "kage0";
/// Our sink for the kernel's own copy of IPv6-in-IPv6 packets.
pub const SINK_LINK: &str = "kage-sink";
/// The TUN link of the mobile-node role through which the data of guests go into the kernel's ESP tunnels and come back; the daemon
/// makes it, we only point routes at it.
pub const ESP_TUNNEL_LINK: &str = "kage-esp";
/// The TUN link of the home-agent role; the daemon makes it, we only point routes at it.
pub const HOME_AGENT_TUNNEL_LINK: &str = "kage-ha";

/// Priority of the policies of a class, by its precedence.
pub const fn class_priority(class: Class) -> u32 {
    match class {
        Class::HomeRegistration => PROTECTING_PRIORITY,
        Class::MobilePrefixDiscovery => 0x4b11,
        Class::MobilityHeaders => 0x4b12,
        Class::Icmpv6 => 0x4b14,
        Class::Any => 0x4b15,
        Class::ReturnRoutability => 0x4b16,
        Class::TunnelMobilityHeaders => 0x4b17,
        Class::TunnelPayload => 0x4b18,
    }
}

/// IP protocol numbers (IANA "Protocol Numbers").
pub(crate) mod protocol {
    /// Type 2 routing header, under the number of routing headers.
    pub(crate) const ROUTING: u8 = 43;
    pub(crate) const FRAGMENT: u8 = 44;
    pub(crate) const ESP: u8 = 50;
    /// Home Address option, under the number of destination options.
    pub(crate) const DESTINATION_OPTIONS: u8 = 60;
    pub(crate) const MOBILITY: u8 = 135;
}

/// A state of the kernel, as far as we care: wanted or observed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KernelState {
    /// SAD: ESP and route optimization states.
    pub associations: BTreeMap<AssociationKey, SecurityAssociation>,
    /// SPD, MAIN type.
    pub policies: BTreeMap<PolicyKey, SecurityPolicy>,
    /// Links by name.
    pub links: BTreeMap<String, Link>,
    /// Addresses on [`HOME_ADDRESS_LINK`].
    pub addresses: BTreeMap<Ipv6Addr, Address>,
    /// Routes of [`ROUTE_PROTOCOL`], and the ones the kernel makes by itself for our addresses (never wanted).
    pub routes: BTreeMap<RouteKey, Route>,
    /// Rules in our band.
    pub rules: BTreeSet<Rule>,
    /// Observed only: associations under a name that we could use, with contents we do not speak (another algorithm, a
    /// mark, ...). They differ from anything wanted.
    pub foreign_associations: BTreeSet<AssociationKey>,
    /// Observed only: policies with contents we do not speak.
    pub foreign_policies: BTreeSet<PolicyKey>,
}
