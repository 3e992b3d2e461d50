//! From configuration and bindings to the wanted kernel state.

use std::net::Ipv6Addr;

use super::configuration::{Bindings, Configuration, Guest, Site};
use super::object::{Address, Link, LinkKind, Route, RouteKey, RouteKind, Rule};
use super::{
    DEAD_END_TABLE, DELIVERY_RULE, DELIVERY_TABLE, ESP_TUNNEL_LINK, ESP_TUNNEL_TABLE, HOME_ADDRESS_LINK,
    HOME_AGENT_TUNNEL_LINK, KernelState, MAIN_TABLE, NATIVE_RULE, ROUTE_PROTOCOL, SINK_LINK, SOURCE_RULE, protect,
    protocol,
};
use crate::ipsec::{AssociationKey, Class, Direction, SecurityAssociation, Selector, Toward, Transform, UpperLayer};
use crate::policy::Role;
use crate::vocabulary::Prefix;

/// Metric of our routes in tables of our own: the kernel's default, given explicitly because it belongs to a route's name.
const METRIC: u32 = 1024;
/// Metric of the routes to bound guests on a home agent.
const GUEST_METRIC: u32 = 64;

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

/// What is in force from the start to the end of the daemon, whatever the bindings: the failsafe policies and the ESP SAs, and at a home
/// agent the policies in transport mode.
///
/// The daemon begins with it, before anything can be sent. To leave nothing at all, reconcile with `KernelState::default()`; where
/// the sequence numbers of an SA go on that is made again later is the daemon's to know (`daemon::sequences`).
pub fn at_rest(configuration: &Configuration) -> KernelState {
    let mut state = KernelState::default();
    for guest in &configuration.guests {
        protect::at_rest(&mut state, configuration, guest);
    }
    if configuration.role == Role::HomeAgent {
        let home_agent = Prefix::host(configuration.home_agent);
        // All mobility headers, and not binding updates alone: the kernel does not know types of what it receives.
        let received = UpperLayer::Protocol(protocol::MOBILITY);
        let acknowledgement = Class::HomeRegistration.upper_layer(Toward::Guest);
        let selector = |source, destination, upper_layer| Selector { source, destination, upper_layer };
        protect::block(&mut state, Direction::In, selector(Prefix::ANY, home_agent, received));
        protect::block(&mut state, Direction::Out, selector(home_agent, Prefix::ANY, acknowledgement));
        protect::not_read(&mut state, home_agent);
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
        let home_address = guest.home_address;
        let at_home = *care_of_address == home_address;
        if at_home {
            protect::at_home(state, configuration.home_agent, guest);
        } else {
            protect::route_optimization_states(state, home_address, configuration.home_agent, *care_of_address);
            protect::bound(state, configuration, guest, *care_of_address);
        }
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
        deliver_acknowledgements(state, guest, site);
        if !at_home {
            rules(state, guest, site);
        }
    }
}

fn rule(preference: u32, source: Prefix, destination: Prefix, table: u32) -> Rule {
    Rule { preference, source, destination, input: None, upper_layer: None, table, protocol: ROUTE_PROTOCOL }
}

/// Binding acknowledgements are for this host, all else to the home address is not.
fn deliver_acknowledgements(state: &mut KernelState, guest: &Guest, site: &Site) {
    let upper_layer = if guest.protection.is_none() { protocol::MOBILITY } else { protocol::ESP };
    deliver(state, guest, site, upper_layer);
}

fn deliver(state: &mut KernelState, guest: &Guest, site: &Site, upper_layer: u8) {
    if site.uplink.is_some() {
        let all = rule(DELIVERY_RULE, Prefix::ANY, Prefix::host(guest.home_address), DELIVERY_TABLE);
        state.rules.insert(Rule { input: site.uplink.clone(), upper_layer: Some(upper_layer), ..all });
    }
}

/// Where packets from and to a guest away from home go.
fn rules(state: &mut KernelState, guest: &Guest, site: &Site) {
    let host = Prefix::host(guest.home_address);
    let payload = guest.protection.has(Class::TunnelPayload);
    if payload {
        // What ESP let out of its tunnel, or the host says to the guest. In the clear, the policies refuse it.
        add_route(state, ESP_TUNNEL_TABLE, host, RouteKind::Unicast, ESP_TUNNEL_LINK, METRIC, None);
        state.rules.insert(rule(NATIVE_RULE, Prefix::ANY, host, ESP_TUNNEL_TABLE));
    }
    if [Class::ReturnRoutability, Class::TunnelMobilityHeaders].into_iter().any(|class| guest.protection.has(class)) {
        // Out of the tunnel they come from the same link.
        deliver(state, guest, site, protocol::MOBILITY);
    }
    if let (Some(_), false) = (&site.uplink, payload) {
        // A host that forwards would send them back where they came from. What a home agent sends with a type 2 routing
        // header is read off the uplink before it comes here.
        let all = rule(NATIVE_RULE, Prefix::ANY, host, DEAD_END_TABLE);
        state.rules.insert(Rule { input: site.uplink.clone(), ..all });
    }
    // The route of a packet is chosen before IPsec and, by its care-of address, once more after the Home Address option
    // was put in, or it was put into a tunnel. So the first choice may be the dummy link, and what no policy took dies there.
    state.rules.insert(rule(SOURCE_RULE, host, Prefix::ANY, DEAD_END_TABLE));
}

/// Home-agent role.
fn home_agent(state: &mut KernelState, configuration: &Configuration, bindings: &Bindings) {
    let any = Ipv6Addr::UNSPECIFIED;
    let key = AssociationKey { source: any, destination: any, protocol: protocol::DESTINATION_OPTIONS, spi: 0 };
    let transform = Transform::RouteOptimization { care_of_address: any, wildcard: true };
    state.associations.insert(key, SecurityAssociation { key, transform });
    let payload = |guest: &Guest| guest.protection.has(Class::TunnelPayload);
    if configuration.guests.iter().any(payload) {
        // From the start: what guests share must not depend on which of them are away.
        add_link(state, HOME_ADDRESS_LINK, LinkKind::Dummy, false);
    }
    for guest in configuration.guests.iter().filter(|guest| guest.protection.is_none()) {
        protect::unprotected_home_agent(state, configuration.home_agent, guest.home_address);
    }
    for (id, care_of_address) in &bindings.0 {
        let Some(guest) = configuration.guests.get(id.0) else { continue };
        protect::bound(state, configuration, guest, *care_of_address);
        let destination = Prefix::host(guest.home_address);
        let source = Some(configuration.home_agent);
        let device = if payload(guest) {
            // The kernel tunnels, whatever the link; what no policy took dies there.
            HOME_ADDRESS_LINK
        } else {
            HOME_AGENT_TUNNEL_LINK
        };
        add_route(state, MAIN_TABLE, destination, RouteKind::Unicast, device, GUEST_METRIC, source);
    }
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
