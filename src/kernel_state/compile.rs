//! From configuration and bindings to the wanted kernel state.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use super::object::{Address, Link, LinkKind, Route, RouteKey, RouteKind, Rule};
use super::{
    DEAD_END_TABLE, DELIVERY_RULE, DELIVERY_TABLE, FAILSAFE_PRIORITY, HOME_ADDRESS_LINK, HOME_AGENT_TUNNEL_LINK,
    KernelState, MAIN_TABLE, NATIVE_RULE, PROTECTING_PRIORITY, ROUTE_PROTOCOL, SINK_LINK, SOURCE_RULE, protocol,
};
use crate::ipsec::{
    Action, AssociationKey, Class, Direction, Level, Mode, PolicyKey, SecurityAssociation, SecurityPolicy, Selector,
    Template, TemplateProtocol, Transform, UpperLayer,
};
use crate::policy::{GuestPolicy, Policy, Protection, Role};
use crate::vocabulary::{GuestId, Prefix};

/// Mobility header type of a binding update (RFC 6275 §6.1.7).
const BINDING_UPDATE: u8 = 5;
/// Mobility header type of a binding acknowledgement (RFC 6275 §6.1.8).
const BINDING_ACKNOWLEDGEMENT: u8 = 6;
/// Metric of our routes in tables of our own: the kernel's default, given explicitly because it belongs to a route's name.
const METRIC: u32 = 1024;
/// Metric of the routes to bound guests on a home agent.
const GUEST_METRIC: u32 = 64;

/// What of a policy file concerns the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configuration {
    /// Our side.
    pub role: Role,
    /// Address of the home agent.
    pub home_agent: Ipv6Addr,
    /// The guests; a [`GuestId`] is an index in here.
    pub guests: Vec<Guest>,
}

/// What of a guest concerns the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// Its home address.
    pub home_address: Ipv6Addr,
    /// How its signaling is protected.
    pub protection: Protection,
}

impl From<&Policy> for Configuration {
    fn from(policy: &Policy) -> Self {
        let guest =
            |guest: &GuestPolicy| Guest { home_address: guest.home_address, protection: guest.protection.clone() };
        Self {
            role: policy.role,
            home_agent: policy.home_agent.address,
            guests: policy.guests.iter().map(guest).collect(),
        }
    }
}

/// Facts about this machine that the wanted state depends on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Site {
    /// Mobile-node role: name of the link to the foreign network.
    pub uplink: Option<String>,
    /// The kernel's own IPv6-in-IPv6 receiver is loaded (`/sys/module/tunnel6`): it answers tunnelled packets that no
    /// tunnel link takes with an ICMPv6 error, beside handing them to raw sockets. A sink link takes them.
    pub tunnel6_loaded: bool,
}

/// The care-of address to be secured, by guest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bindings(pub BTreeMap<GuestId, Ipv6Addr>);

/// The state that shall be in force.
pub fn compile(configuration: &Configuration, bindings: &Bindings, site: &Site) -> KernelState {
    let mut state = at_rest(configuration);
    match configuration.role {
        Role::MobileNode => mobile_node(&mut state, configuration, bindings, site),
        Role::HomeAgent => home_agent(&mut state, configuration, bindings),
    }
    if site.tunnel6_loaded {
        let (local, remote) = match configuration.role {
            Role::MobileNode => (Ipv6Addr::UNSPECIFIED, configuration.home_agent),
            Role::HomeAgent => (configuration.home_agent, Ipv6Addr::UNSPECIFIED),
        };
        add_link(&mut state, SINK_LINK, LinkKind::Ipv6InIpv6 { local, remote }, true);
    }
    state
}

/// What is in force from the start to the end of the daemon, whatever the bindings: the failsafe policies and the ESP SAs.
///
/// The daemon begins with it, before anything can be sent. To leave nothing at all, reconcile with `KernelState::default()`; where
/// the sequence numbers of an SA go on that is made again later is the daemon's to know (`daemon::sequences`).
pub fn at_rest(configuration: &Configuration) -> KernelState {
    let mut state = KernelState::default();
    let home_agent = Prefix::host(configuration.home_agent);
    for guest in &configuration.guests {
        state.associations.extend(guest.protection.associations().iter().map(|a| (a.key, a.clone())));
        if configuration.role == Role::MobileNode {
            let home_address = Prefix::host(guest.home_address);
            let mobility = UpperLayer::Protocol(protocol::MOBILITY);
            add_policy(&mut state, failsafe(Direction::Out, home_address, Prefix::ANY, mobility));
            add_policy(&mut state, failsafe(Direction::In, Prefix::ANY, home_address, mobility));
        }
    }
    if configuration.role == Role::HomeAgent {
        let (update, acknowledgement) =
            (UpperLayer::MobilityHeader(BINDING_UPDATE), UpperLayer::MobilityHeader(BINDING_ACKNOWLEDGEMENT));
        add_policy(&mut state, failsafe(Direction::In, Prefix::ANY, home_agent, update));
        add_policy(&mut state, failsafe(Direction::Out, home_agent, Prefix::ANY, acknowledgement));
    }
    state
}

/// Mobile-node role. Binding errors (type 7) need no policy: a home agent sends them to the source of the offending packet,
/// which is the care-of address (RFC 6275 §9.3.3), and to the home address the failsafe refuses them.
fn mobile_node(state: &mut KernelState, configuration: &Configuration, bindings: &Bindings, site: &Site) {
    add_link(state, HOME_ADDRESS_LINK, LinkKind::Dummy, false);
    add_route(state, DEAD_END_TABLE, Prefix::ANY, RouteKind::Unicast, HOME_ADDRESS_LINK, METRIC, None);
    for (id, care_of_address) in &bindings.0 {
        let Some(guest) = configuration.guests.get(id.0) else { continue };
        let (home_address, home_agent) = (guest.home_address, configuration.home_agent);
        secure(state, guest, home_agent, *care_of_address);
        state.addresses.insert(
            home_address,
            Address {
                address: home_address,
                home: true,
                no_duplicate_address_detection: true,
                no_prefix_route: true,
                deprecated: true,
            },
        );
        let host = Prefix::host(home_address);
        add_route(state, DELIVERY_TABLE, host, RouteKind::Local, "lo", METRIC, None);
        let upper_layer = if guest.protection.is_none() { protocol::MOBILITY } else { protocol::ESP };
        let rule = |preference, source, destination, input, upper_layer, table| Rule {
            preference,
            source,
            destination,
            input,
            upper_layer,
            table,
            protocol: ROUTE_PROTOCOL,
        };
        if let Some(uplink) = &site.uplink {
            let input = || Some(uplink.clone());
            let any = Prefix::ANY;
            state.rules.insert(rule(DELIVERY_RULE, any, host, input(), Some(upper_layer), DELIVERY_TABLE));
            // A host that forwards would send them back where they came from. What a home agent sends with a type 2 routing
            // header is read off the uplink before it comes here.
            state.rules.insert(rule(NATIVE_RULE, any, host, input(), None, DEAD_END_TABLE));
        }
        // The route of a packet is chosen before IPsec and, by its care-of address, once more after the Home Address option
        // was put in. So the first choice may be the dummy link, and what no policy gave that option dies there.
        state.rules.insert(rule(SOURCE_RULE, host, Prefix::ANY, None, None, DEAD_END_TABLE));
    }
}

/// The two route optimization states and the two protecting policies of a guest away from home.
fn secure(state: &mut KernelState, guest: &Guest, home_agent: Ipv6Addr, care_of_address: Ipv6Addr) {
    let home_address = guest.home_address;
    let transform = Transform::RouteOptimization { care_of_address, wildcard: false };
    for (source, destination, protocol) in
        [(home_address, home_agent, protocol::DESTINATION_OPTIONS), (home_agent, home_address, protocol::ROUTING)]
    {
        let key = AssociationKey { source, destination, protocol, spi: 0 };
        state.associations.insert(key, SecurityAssociation { key, transform: transform.clone() });
    }
    let option = Template {
        source: home_address,
        destination: home_agent,
        ..route_optimization(TemplateProtocol::HomeAddressOption, Level::Required)
    };
    let routing_header = route_optimization(TemplateProtocol::Type2RoutingHeader, Level::Required);
    let (to_home_agent, to_guest) = match guest.protection.classes.get(&Class::HomeRegistration) {
        None => (vec![option], vec![routing_header]),
        Some(reqids) => (vec![esp(reqids.to_home_agent), option], vec![esp(reqids.to_guest), routing_header]),
    };
    let (home_address, home_agent) = (Prefix::host(home_address), Prefix::host(home_agent));
    add_policy(state, allow(Direction::Out, home_address, home_agent, BINDING_UPDATE, to_home_agent));
    add_policy(state, allow(Direction::In, home_agent, home_address, BINDING_ACKNOWLEDGEMENT, to_guest));
}

/// Home-agent role. The type 2 routing header of an acknowledgement is ancillary data of the daemon's socket, not a state.
fn home_agent(state: &mut KernelState, configuration: &Configuration, bindings: &Bindings) {
    let any = Ipv6Addr::UNSPECIFIED;
    let key = AssociationKey { source: any, destination: any, protocol: protocol::DESTINATION_OPTIONS, spi: 0 };
    let transform = Transform::RouteOptimization { care_of_address: any, wildcard: true };
    state.associations.insert(key, SecurityAssociation { key, transform });
    let home_agent = Prefix::host(configuration.home_agent);
    for guest in &configuration.guests {
        let home_address = Prefix::host(guest.home_address);
        // Level use: a de-registration sent from home has no Home Address option (RFC 6275 §11.5.5).
        let option = route_optimization(TemplateProtocol::HomeAddressOption, Level::Use);
        let (from_guest, to_guest) = match guest.protection.classes.get(&Class::HomeRegistration) {
            None => (vec![option], vec![]),
            Some(reqids) => (vec![esp(reqids.to_home_agent), option], vec![esp(reqids.to_guest)]),
        };
        add_policy(state, allow(Direction::In, home_address, home_agent, BINDING_UPDATE, from_guest));
        add_policy(state, allow(Direction::Out, home_agent, home_address, BINDING_ACKNOWLEDGEMENT, to_guest));
    }
    for id in bindings.0.keys() {
        let Some(guest) = configuration.guests.get(id.0) else { continue };
        let destination = Prefix::host(guest.home_address);
        let source = Some(configuration.home_agent);
        add_route(state, MAIN_TABLE, destination, RouteKind::Unicast, HOME_AGENT_TUNNEL_LINK, GUEST_METRIC, source);
    }
}

fn esp(reqid: u32) -> Template {
    Template {
        source: Ipv6Addr::UNSPECIFIED,
        destination: Ipv6Addr::UNSPECIFIED,
        protocol: TemplateProtocol::Esp,
        mode: Mode::Transport,
        reqid,
        level: Level::Required,
    }
}

fn route_optimization(protocol: TemplateProtocol, level: Level) -> Template {
    Template {
        source: Ipv6Addr::UNSPECIFIED,
        destination: Ipv6Addr::UNSPECIFIED,
        protocol,
        mode: Mode::RouteOptimization,
        reqid: 0,
        level,
    }
}

fn failsafe(direction: Direction, source: Prefix, destination: Prefix, upper_layer: UpperLayer) -> SecurityPolicy {
    let selector = Selector { source, destination, upper_layer };
    let key = PolicyKey { direction, selector, priority: FAILSAFE_PRIORITY };
    SecurityPolicy { key, action: Action::Block, templates: vec![] }
}

fn allow(
    direction: Direction,
    source: Prefix,
    destination: Prefix,
    kind: u8,
    templates: Vec<Template>,
) -> SecurityPolicy {
    let selector = Selector { source, destination, upper_layer: UpperLayer::MobilityHeader(kind) };
    let key = PolicyKey { direction, selector, priority: PROTECTING_PRIORITY };
    SecurityPolicy { key, action: Action::Allow, templates }
}

fn add_policy(state: &mut KernelState, policy: SecurityPolicy) {
    state.policies.insert(policy.key, policy);
}

fn add_link(state: &mut KernelState, name: &str, kind: LinkKind, ipv6_disabled: bool) {
    let name = name.to_owned();
    state.links.insert(name.clone(), Link { name, kind, up: true, ipv6_disabled, generates_link_local: false });
}

fn add_route(
    state: &mut KernelState,
    table: u32,
    destination: Prefix,
    kind: RouteKind,
    device: &str,
    metric: u32,
    preferred_source: Option<Ipv6Addr>,
) {
    let key = RouteKey { table, destination, kind, device: device.to_owned(), metric };
    state.routes.insert(key.clone(), Route { key, preferred_source, protocol: ROUTE_PROTOCOL });
}
