//! What of an observed state is ours.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use super::compile::Configuration;
use super::object::LinkKind;
use super::tunnels::Tunnels;
use super::{
    DELIVERY_RULE, FAILSAFE_PRIORITY, HOME_ADDRESS_LINK, KernelState, LOCAL_TABLE, PROTECTING_PRIORITY, ROUTE_PROTOCOL,
    RULE_BAND_END, SINK_LINK, protocol,
};
use crate::ipsec::{AssociationKey, SecurityAssociation, Toward};
use crate::policy::Role;

/// The part of `observed` that is recognisably ours, also when an earlier run left it.
///
/// A link of our name but of another kind is not ours: making ours then fails with a message that says so.
pub fn owned(configuration: &Configuration, observed: &KernelState) -> KernelState {
    let ours = |priority| (PROTECTING_PRIORITY..=FAILSAFE_PRIORITY).contains(&priority);
    let mut state = observed.clone();
    state.policies.retain(|key, _| ours(key.priority));
    state.foreign_policies.retain(|key| ours(key.priority));
    state.links.retain(|name, link| match link.kind {
        LinkKind::Dummy => name == HOME_ADDRESS_LINK,
        LinkKind::Ipv6InIpv6 { .. } => name == SINK_LINK,
        LinkKind::Other(_) => false,
    });
    if !state.links.contains_key(HOME_ADDRESS_LINK) {
        state.addresses.clear();
    }
    state.routes.retain(|key, route| {
        route.protocol == ROUTE_PROTOCOL || (key.table == LOCAL_TABLE && key.device == HOME_ADDRESS_LINK)
    });
    state
        .rules
        .retain(|rule| rule.protocol == ROUTE_PROTOCOL && (DELIVERY_RULE..RULE_BAND_END).contains(&rule.preference));
    let named = named(configuration);
    state.associations.retain(|key, sa| named.contains(key) || associated(configuration, sa));
    // A tunnel is known by its SPI, wherever its binding has taken it.
    let tunnels = Tunnels::new(configuration);
    state.foreign_associations.retain(|key| named.contains(&tunnels.name_at_rest(key)));
    state
}

/// Keys under which only we may have an SA: those of the policy file and the route optimization states.
fn named(configuration: &Configuration) -> BTreeSet<AssociationKey> {
    let any = Ipv6Addr::UNSPECIFIED;
    let mut keys = BTreeSet::new();
    for guest in &configuration.guests {
        keys.extend(guest.protection.associations().iter().map(|a| a.key));
        let (guest, agent) = (guest.home_address, configuration.home_agent);
        for (source, destination, protocol) in
            [(guest, agent, protocol::DESTINATION_OPTIONS), (agent, guest, protocol::ROUTING)]
        {
            keys.insert(AssociationKey { source, destination, protocol, spi: 0 });
        }
    }
    if configuration.role == Role::HomeAgent {
        keys.insert(AssociationKey { source: any, destination: any, protocol: protocol::DESTINATION_OPTIONS, spi: 0 });
    }
    keys
}

/// Whether an ESP SA serves a configured protection by its addresses, mode and reqid: one that an earlier policy file made under
/// another SPI, to be removed, or a tunnel that an earlier binding took to another care-of address.
pub fn associated(configuration: &Configuration, sa: &SecurityAssociation) -> bool {
    let Some(esp) = sa.transform.esp() else { return false };
    configuration.guests.iter().any(|guest| {
        let Some((class, toward)) = guest.protection.serves(esp.reqid) else { return false };
        let (guest_end, home_agent_end) = match toward {
            Toward::HomeAgent => (sa.key.source, sa.key.destination),
            Toward::Guest => (sa.key.destination, sa.key.source),
        };
        class.mode() == esp.mode
            && home_agent_end == configuration.home_agent
            && (class.is_tunnel() || guest_end == guest.home_address)
    })
}
