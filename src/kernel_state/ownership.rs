//! What of an observed state is ours, and whose.

use std::collections::{HashMap, HashSet};
use std::net::Ipv6Addr;

use super::compile::Configuration;
use super::object::LinkKind;
use super::{
    DELIVERY_RULE, FAILSAFE_PRIORITY, HOME_ADDRESS_LINK, KernelState, LOCAL_TABLE, PROTECTING_PRIORITY, ROUTE_PROTOCOL,
    RULE_BAND_END, SINK_LINK, Step, protocol,
};
use crate::ipsec::{AssociationKey, SecurityAssociation, Transform};
use crate::policy::{Protection, Role};
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
    /// Source, destination and reqid of the ESP SAs that serve a configured protection.
    served: HashSet<(Ipv6Addr, Ipv6Addr, u32)>,
    guests: HashMap<Ipv6Addr, GuestId>,
}

impl Ownership {
    /// The index of a configuration.
    pub fn of(configuration: &Configuration) -> Self {
        let guests = configuration.guests.iter().enumerate().map(|(id, guest)| (guest.home_address, GuestId(id)));
        Self { named: named(configuration), served: served(configuration), guests: guests.collect() }
    }

    /// The part of `observed` that is recognisably ours, also when an earlier run left it.
    ///
    /// A link of our name but of another kind is not ours: making ours then fails with a message that says so.
    pub fn owned(&self, observed: KernelState) -> KernelState {
        let ours = |priority| priority == PROTECTING_PRIORITY || priority == FAILSAFE_PRIORITY;
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
        state.foreign_associations.retain(|key| self.named.contains(key));
        state
    }

    /// Whether an ESP SA serves a configured protection by its addresses and reqid: one that an earlier policy file made under
    /// another SPI, to be removed.
    fn serves(&self, sa: &SecurityAssociation) -> bool {
        let Transform::EspTransport { reqid, .. } = sa.transform else { return false };
        self.served.contains(&(sa.key.source, sa.key.destination, reqid))
    }

    /// The guests whose object a step is about; none for what concerns every guest.
    pub fn concerned(&self, step: &Step) -> Vec<GuestId> {
        let mut found: Vec<_> = step.hosts().filter_map(|address| self.guests.get(&address).copied()).collect();
        found.dedup();
        found
    }
}

fn named(configuration: &Configuration) -> HashSet<AssociationKey> {
    let any = Ipv6Addr::UNSPECIFIED;
    let mut keys = HashSet::new();
    for guest in &configuration.guests {
        if let Protection::HomeRegistration { associations, .. } = &guest.protection {
            keys.extend(associations.iter().map(|a| a.key));
        }
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

fn served(configuration: &Configuration) -> HashSet<(Ipv6Addr, Ipv6Addr, u32)> {
    let mut ends = HashSet::new();
    for guest in &configuration.guests {
        if let Protection::HomeRegistration { reqid_to_home_agent, reqid_to_guest, .. } = guest.protection {
            ends.insert((guest.home_address, configuration.home_agent, reqid_to_home_agent));
            ends.insert((configuration.home_agent, guest.home_address, reqid_to_guest));
        }
    }
    ends
}
