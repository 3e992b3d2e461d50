//! Security policies and SAs of the protection classes, for both roles.
//!
//! The selectors and modes are umip's, so that each side understands the other. In transport mode they lie between home address and
//! home agent, and the SAs never move. In tunnel mode they lie between home address and anybody; the policies are there with the
//! binding, and the SAs, which at rest end at the home address, end at the care-of address then.
//!
//! What is *sent* from a socket has its type from the socket, and goes by policies of types. What is *received* or *forwarded* is selected by
//! what every kernel can tell of it, see [`received`]: no type of mobility headers, and of two classes that would want the same packets
//! the wider one decides.

use std::net::Ipv6Addr;

use super::configuration::{Configuration, Guest};
use super::{FAILSAFE_PRIORITY, KernelState, NEIGHBOR_DISCOVERY_PRIORITY, class_priority, protocol, received};
use crate::ipsec::{
    Action, AssociationKey, Class, Direction, EspMode, Level, Mode, PolicyKey, SecurityAssociation, SecurityPolicy,
    Selector, Template, TemplateProtocol, Toward, Transform, UpperLayer,
};
use crate::policy::{Reqids, Role};
use crate::vocabulary::Prefix;

/// IP protocol number of ICMPv6.
const ICMPV6: u8 = 58;
/// Types of neighbour solicitations and advertisements (RFC 4861 §4.3, §4.4).
const NEIGHBOR_DISCOVERY: [u8; 2] = [135, 136];

/// What is in force for a guest from the start of the daemon to its end: SAs, failsafe policies, and at a home agent the policies in
/// transport mode.
pub(super) fn at_rest(state: &mut KernelState, configuration: &Configuration, guest: &Guest) {
    state.associations.extend(associations(configuration, guest).map(|sa| (sa.key, sa)));
    let host = Prefix::host(guest.home_address);
    match configuration.role {
        Role::MobileNode => {
            let mobility = UpperLayer::Protocol(protocol::MOBILITY);
            failsafe(state, guest, Direction::Out, selector(host, Prefix::ANY, mobility));
            failsafe(state, guest, Direction::In, selector(Prefix::ANY, host, mobility));
            if !guest.protection.is_none() {
                not_read(state, host);
            }
            for class in guest.protection.classes.keys() {
                let layer = |toward| match class.upper_layer(toward) {
                    UpperLayer::MobilityHeader(_) => mobility,
                    // The host itself has no other ICMPv6 to say for a home address.
                    UpperLayer::Icmpv6(_) => UpperLayer::Protocol(ICMPV6),
                    other => other,
                };
                let to_home_agent = selector(host, Prefix::ANY, layer(Toward::HomeAgent));
                let to_guest = selector(Prefix::ANY, host, layer(Toward::Guest));
                failsafe(state, guest, Direction::Out, to_home_agent);
                failsafe(state, guest, Direction::In, to_guest);
                if class.is_tunnel() {
                    failsafe(state, guest, Direction::Forward, to_guest);
                }
            }
        }
        Role::HomeAgent => {
            for (class, reqids) in guest.protection.classes.iter().filter(|(class, _)| !class.is_tunnel()) {
                home_agent_transport(state, configuration.home_agent, guest, *class, *reqids);
                home_agent_failsafe(state, configuration.home_agent, guest, *class);
            }
        }
    }
}

fn associations(configuration: &Configuration, guest: &Guest) -> impl Iterator<Item = SecurityAssociation> {
    let protection = &guest.protection;
    protection.associations().iter().map(|sa| received::association(configuration.role, protection, sa))
}

/// What a guest needs beside when its care-of address is this one.
pub(super) fn bound(state: &mut KernelState, configuration: &Configuration, guest: &Guest, care_of_address: Ipv6Addr) {
    let home_agent = configuration.home_agent;
    for (class, reqids) in &guest.protection.classes {
        if class.is_tunnel() {
            tunnel(state, configuration, guest, care_of_address, *class, *reqids);
        } else if configuration.role == Role::MobileNode {
            mobile_node_transport(state, home_agent, guest, *class, Some(*reqids));
        }
    }
    if guest.protection.is_none() && configuration.role == Role::MobileNode {
        mobile_node_transport(state, home_agent, guest, Class::HomeRegistration, None);
    }
    for sa in associations(configuration, guest) {
        if let Some(moved) = at_care_of_address(&sa, home_agent, care_of_address) {
            state.associations.remove(&sa.key);
            state.associations.insert(moved.key, moved);
        }
    }
}

/// Registrations in the clear at a home agent.
pub(super) fn unprotected_home_agent(state: &mut KernelState, home_agent: Ipv6Addr, home_address: Ipv6Addr) {
    let (guest, agent) = (Prefix::host(home_address), Prefix::host(home_agent));
    let class = Class::HomeRegistration;
    let option = route_optimization(TemplateProtocol::HomeAddressOption, Level::Use);
    for update in received::layers(class, Toward::HomeAgent) {
        allow(state, Direction::In, selector(guest, agent, update), class_priority(class), vec![option]);
    }
    let acknowledgement = class.upper_layer(Toward::Guest);
    allow(state, Direction::Out, selector(agent, guest, acknowledgement), class_priority(class), vec![]);
}

/// A tunnel's SA while the guest is at a care-of address; none for one in transport mode.
fn at_care_of_address(
    sa: &SecurityAssociation,
    home_agent: Ipv6Addr,
    care_of_address: Ipv6Addr,
) -> Option<SecurityAssociation> {
    if sa.transform.esp()?.mode != EspMode::Tunnel {
        return None;
    }
    let key = match sa.key.destination == home_agent {
        true => AssociationKey { source: care_of_address, ..sa.key },
        false => AssociationKey { destination: care_of_address, ..sa.key },
    };
    Some(SecurityAssociation { key, transform: sa.transform.clone() })
}

/// The two route optimization states of a guest away from home.
pub(super) fn route_optimization_states(
    state: &mut KernelState,
    home_address: Ipv6Addr,
    home_agent: Ipv6Addr,
    care_of_address: Ipv6Addr,
) {
    let transform = Transform::RouteOptimization { care_of_address, wildcard: false };
    for (source, destination, protocol) in
        [(home_address, home_agent, protocol::DESTINATION_OPTIONS), (home_agent, home_address, protocol::ROUTING)]
    {
        let key = AssociationKey { source, destination, protocol, spi: 0 };
        state.associations.insert(key, SecurityAssociation { key, transform: transform.clone() });
    }
}

/// Away from home, what the host sends to the home agent has a Home Address option, and what comes from there a type 2 routing header.
fn mobile_node_transport(
    state: &mut KernelState,
    home_agent: Ipv6Addr,
    guest: &Guest,
    class: Class,
    reqids: Option<Reqids>,
) {
    let option = Template {
        source: guest.home_address,
        destination: home_agent,
        ..route_optimization(TemplateProtocol::HomeAddressOption, Level::Required)
    };
    let routing_header = route_optimization(TemplateProtocol::Type2RoutingHeader, Level::Required);
    let with = |toward, last| reqids.map(|reqids| esp(reqids.toward(toward))).into_iter().chain([last]).collect();
    let (host, agent) = (Prefix::host(guest.home_address), Prefix::host(home_agent));
    let out = selector(host, agent, class.upper_layer(Toward::HomeAgent));
    allow(state, Direction::Out, out, class_priority(class), with(Toward::HomeAgent, option));
    if received::judge(&guest.protection, class) == class {
        for layer in received::layers(class, Toward::Guest) {
            let back = selector(agent, host, layer);
            allow(state, Direction::In, back, class_priority(class), with(Toward::Guest, routing_header));
        }
    }
}

/// On the home link a binding update has no Home Address option and its acknowledgement no type 2 routing header (RFC 6275 §11.5.5). Nothing but
/// registrations goes from there: the guest speaks for itself.
pub(super) fn at_home(state: &mut KernelState, home_agent: Ipv6Addr, guest: &Guest) {
    let classes = &guest.protection.classes;
    let class = classes.keys().copied().find(|class| class.protects_registrations()).unwrap_or(Class::HomeRegistration);
    let with = |class, toward| classes.get(&class).map(|reqids| esp(reqids.toward(toward))).into_iter().collect();
    let (host, agent) = (Prefix::host(guest.home_address), Prefix::host(home_agent));
    let out = selector(host, agent, class.upper_layer(Toward::HomeAgent));
    allow(state, Direction::Out, out, class_priority(class), with(class, Toward::HomeAgent));
    // Under the names that they have away from home: these become those.
    let class = received::judge(&guest.protection, class);
    for layer in received::layers(class, Toward::Guest) {
        allow(state, Direction::In, selector(agent, host, layer), class_priority(class), with(class, Toward::Guest));
    }
}

/// The type 2 routing header of an acknowledgement is ancillary data of the daemon's socket, not a state.
fn home_agent_transport(state: &mut KernelState, home_agent: Ipv6Addr, guest: &Guest, class: Class, reqids: Reqids) {
    let (host, agent) = (Prefix::host(guest.home_address), Prefix::host(home_agent));
    // Level use: a de-registration sent from home has no Home Address option (RFC 6275 §11.5.5).
    let option = route_optimization(TemplateProtocol::HomeAddressOption, Level::Use);
    if received::judge(&guest.protection, class) == class {
        for layer in received::layers(class, Toward::HomeAgent) {
            let from_guest = selector(host, agent, layer);
            allow(state, Direction::In, from_guest, class_priority(class), vec![esp(reqids.to_home_agent), option]);
        }
    }
    let to_guest = selector(agent, host, class.upper_layer(Toward::Guest));
    allow(state, Direction::Out, to_guest, class_priority(class), vec![esp(reqids.to_guest)]);
    if matches!(class, Class::Icmpv6 | Class::Any) {
        // Neighbours on the home link, when the guest is at home, cannot do without (RFC 4301 §5, RFC 4861 §11.2).
        for kind in NEIGHBOR_DISCOVERY.map(UpperLayer::Icmpv6) {
            allow(state, Direction::In, selector(host, agent, kind), NEIGHBOR_DISCOVERY_PRIORITY, vec![]);
            allow(state, Direction::Out, selector(agent, host, kind), NEIGHBOR_DISCOVERY_PRIORITY, vec![]);
        }
    }
}

/// Behind the policies of [`home_agent_transport`]. Those of registrations are for all guests, see [`super::at_rest`].
fn home_agent_failsafe(state: &mut KernelState, home_agent: Ipv6Addr, guest: &Guest, class: Class) {
    let (host, agent) = (Prefix::host(guest.home_address), Prefix::host(home_agent));
    let [to_home_agent, to_guest] = Toward::BOTH.map(|toward| class.upper_layer(toward));
    match class {
        Class::MobilePrefixDiscovery => {
            let layers = received::layers(class, Toward::HomeAgent);
            for layer in layers.into_iter().chain(received::MISREAD) {
                failsafe(state, guest, Direction::In, selector(host, Prefix::ANY, layer));
            }
            failsafe(state, guest, Direction::Out, selector(Prefix::ANY, host, to_guest));
        }
        // From and to the home agent alone: what it forwards to a guest at home is another matter.
        Class::MobilityHeaders | Class::Icmpv6 | Class::Any => {
            block(state, Direction::In, selector(host, agent, to_home_agent));
            block(state, Direction::Out, selector(agent, host, to_guest));
        }
        Class::HomeRegistration | Class::ReturnRoutability | Class::TunnelMobilityHeaders | Class::TunnelPayload => {}
    }
}

fn tunnel(
    state: &mut KernelState,
    configuration: &Configuration,
    guest: &Guest,
    care_of_address: Ipv6Addr,
    class: Class,
    reqids: Reqids,
) {
    let (host, home_agent) = (Prefix::host(guest.home_address), configuration.home_agent);
    let to_home_agent = selector(host, Prefix::ANY, class.upper_layer(Toward::HomeAgent));
    let to_guest = selector(Prefix::ANY, host, class.upper_layer(Toward::Guest));
    let out = esp_tunnel(care_of_address, home_agent, reqids.to_home_agent);
    let back = esp_tunnel(home_agent, care_of_address, reqids.to_guest);
    let (sent, received) = match configuration.role {
        Role::MobileNode => ((to_home_agent, out), (to_guest, back)),
        Role::HomeAgent => ((to_guest, back), (to_home_agent, out)),
    };
    let priority = class_priority(class);
    // The host's own sockets tell the type; a home agent forwards.
    let layers = match configuration.role {
        Role::MobileNode => vec![sent.0.upper_layer],
        Role::HomeAgent => received::layers(class, Toward::Guest),
    };
    for upper_layer in layers {
        allow(state, Direction::Out, Selector { upper_layer, ..sent.0 }, priority, vec![sent.1]);
    }
    let layers = received::layers(class, received::toward(configuration.role));
    let judged_by_itself = received::judge(&guest.protection, class) == class;
    for upper_layer in layers.iter().copied().filter(|_| judged_by_itself) {
        for direction in [Direction::In, Direction::Forward] {
            allow(state, direction, Selector { upper_layer, ..received.0 }, priority, vec![received.1]);
        }
    }
    if configuration.role == Role::HomeAgent {
        // Only now: without a binding the guest is at home, and nothing of it goes through a tunnel.
        for upper_layer in layers {
            failsafe(state, guest, Direction::Out, Selector { upper_layer, ..sent.0 });
            failsafe(state, guest, Direction::In, Selector { upper_layer, ..received.0 });
            failsafe(state, guest, Direction::Forward, Selector { upper_layer, ..received.0 });
        }
    }
}

pub(super) fn route_optimization(protocol: TemplateProtocol, level: Level) -> Template {
    Template {
        source: Ipv6Addr::UNSPECIFIED,
        destination: Ipv6Addr::UNSPECIFIED,
        protocol,
        mode: Mode::RouteOptimization,
        reqid: 0,
        level,
    }
}

fn esp(reqid: u32) -> Template {
    Template { mode: Mode::Transport, ..esp_tunnel(Ipv6Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED, reqid) }
}

fn esp_tunnel(source: Ipv6Addr, destination: Ipv6Addr, reqid: u32) -> Template {
    let (protocol, mode, level) = (TemplateProtocol::Esp, Mode::Tunnel, Level::Required);
    Template { source, destination, protocol, mode, reqid, level }
}

fn selector(source: Prefix, destination: Prefix, upper_layer: UpperLayer) -> Selector {
    Selector { source, destination, upper_layer }
}

fn allow(state: &mut KernelState, direction: Direction, selector: Selector, priority: u32, templates: Vec<Template>) {
    let key = PolicyKey { direction, selector, priority };
    state.policies.insert(key, SecurityPolicy { key, action: Action::Allow, templates });
}

/// What no protecting policy takes is blocked. Where a tunnel of the guest has the very same selector, which the kernel holds only once
/// in a direction, two policies say it for the two halves of all addresses.
fn failsafe(state: &mut KernelState, guest: &Guest, direction: Direction, selector: Selector) {
    let same = |class: &Class| {
        let mut layers = Toward::BOTH.into_iter().flat_map(|toward| received::layers(*class, toward));
        class.is_tunnel() && layers.any(|layer| layer == selector.upper_layer)
    };
    let taken = guest.protection.classes.keys().any(same);
    let halves = |prefix: Prefix| match prefix == Prefix::ANY && taken {
        true => vec![Prefix::of(Ipv6Addr::UNSPECIFIED, 1), Prefix::of(Ipv6Addr::from_bits(1 << 127), 1)],
        false => vec![prefix],
    };
    for source in halves(selector.source) {
        for destination in halves(selector.destination) {
            block(state, direction, Selector { source, destination, ..selector });
        }
    }
}

/// Whether a failsafe policy is for the very packets of a protecting one, between the same two hosts: the kernel names policies by direction and
/// selector alone, so such a one needs another name.
pub fn needs_another_name(key: &PolicyKey) -> bool {
    let hosts = [key.selector.source, key.selector.destination];
    key.priority == FAILSAFE_PRIORITY && hosts.iter().all(|prefix| prefix.length() == 128)
}

/// Discards what is for this host and no policy would see as what it is.
pub(super) fn not_read(state: &mut KernelState, host: Prefix) {
    for layer in received::UNREAD {
        block(state, Direction::In, selector(Prefix::ANY, host, layer));
    }
}

/// A failsafe policy.
pub(super) fn block(state: &mut KernelState, direction: Direction, selector: Selector) {
    let key = PolicyKey { direction, selector, priority: FAILSAFE_PRIORITY };
    state.policies.insert(key, SecurityPolicy { key, action: Action::Block, templates: vec![] });
}
