//! What of an observed state is ours, and whose.

use std::collections::{HashMap, HashSet};
use std::net::Ipv6Addr;

use super::configuration::Configuration;
use super::object::LinkKind;
use super::{
    DELIVERY_RULE, FAILSAFE_PRIORITY, HOME_ADDRESS_LINK, KernelState, LOCAL_TABLE, PROTECTING_PRIORITY, ROUTE_PROTOCOL,
    RULE_BAND_END, SINK_LINK, Step, Tunnels, protocol,
};
use crate::ipsec::{AssociationKey, EspMode, SecurityAssociation, Toward};
use crate::policy::Role;
use crate::vocabulary::GuestId;

/// The part of `observed` that is recognisably ours, also when an earlier run left it.
///
/// For one question; who has many makes an [`Ownership`].
pub fn owned(configuration: &Configuration, observed: &KernelState) -> KernelState {
    Ownership::of(configuration).owned(observed.clone())
}

/// Who owns what by a configuration, indexed: each object is looked up, however many guests there are.
#[derive(Debug, Clone)]
pub struct Ownership {
    /// Keys under which only we may have an SA: those of the policy file and the route optimization states.
    named: HashSet<AssociationKey>,
    /// What ESP SAs that serve a configured protection are like.
    served: HashSet<Served>,
    home_agent: Ipv6Addr,
    guests: HashMap<Ipv6Addr, GuestId>,
    tunnels: Tunnels,
}

/// An SA by its service: reqid and mode, the way it goes, and the guest's end, which is anywhere when it is a tunnel.
type Served = (u32, EspMode, Toward, Option<Ipv6Addr>);

impl Ownership {
    /// The index of a configuration.
    pub fn of(configuration: &Configuration) -> Self {
        let guests = configuration.guests.iter().enumerate().map(|(id, guest)| (guest.home_address, GuestId(id)));
        Self {
            named: named(configuration),
            served: served(configuration),
            home_agent: configuration.home_agent,
            guests: guests.collect(),
            tunnels: Tunnels::new(configuration),
        }
    }

    /// The part of `observed` that is recognisably ours, also when an earlier run left it.
    ///
    /// A link of our name but of another kind is not ours: making ours then fails with a message that says so.
    pub fn owned(&self, observed: KernelState) -> KernelState {
        let ours = |priority| (PROTECTING_PRIORITY..=FAILSAFE_PRIORITY).contains(&priority);
        let mut state = observed;
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
        state.rules.retain(|rule| {
            rule.protocol == ROUTE_PROTOCOL && (DELIVERY_RULE..RULE_BAND_END).contains(&rule.preference)
        });
        state.associations.retain(|key, sa| self.named.contains(key) || self.serves(sa));
        // A tunnel is known by its SPI, wherever its binding has taken it.
        state.foreign_associations.retain(|key| self.named.contains(&self.tunnels.name_at_rest(key)));
        state
    }

    /// Whether an ESP SA serves a configured protection by its addresses, mode and reqid: one that an earlier policy file made under
    /// another SPI, to be removed, or a tunnel that an earlier binding took to another care-of address.
    fn serves(&self, sa: &SecurityAssociation) -> bool {
        let Some(esp) = sa.transform.esp() else { return false };
        let ends = [
            (sa.key.destination, sa.key.source, Toward::HomeAgent),
            (sa.key.source, sa.key.destination, Toward::Guest),
        ];
        ends.into_iter().any(|(home_agent_end, guest_end, toward)| {
            let guest_end = (esp.mode != EspMode::Tunnel).then_some(guest_end);
            home_agent_end == self.home_agent && self.served.contains(&(esp.reqid, esp.mode, toward, guest_end))
        })
    }

    /// The guests whose object a step is about; none for what concerns every guest.
    pub fn concerned(&self, step: &Step) -> Vec<GuestId> {
        // A tunnel that ends at a care-of address is somebody's all the same.
        let at_rest = step.association().map(|key| self.tunnels.name_at_rest(key));
        let ends = at_rest.into_iter().flat_map(|key| [key.source, key.destination]);
        let addresses = step.hosts().chain(ends);
        let mut found: Vec<_> = addresses.filter_map(|address| self.guests.get(&address).copied()).collect();
        found.sort_unstable();
        found.dedup();
        found
    }
}

fn named(configuration: &Configuration) -> HashSet<AssociationKey> {
    let any = Ipv6Addr::UNSPECIFIED;
    let mut keys = HashSet::new();
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

fn served(configuration: &Configuration) -> HashSet<Served> {
    let mut served = HashSet::new();
    for guest in &configuration.guests {
        for (class, reqids) in &guest.protection.classes {
            let end = (!class.is_tunnel()).then_some(guest.home_address);
            served.extend(Toward::BOTH.map(|toward| (reqids.toward(toward), class.mode(), toward, end)));
        }
    }
    served
}
