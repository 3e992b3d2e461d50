//! The wanted state, kept up to date guest by guest: what one guest's binding changes is found without looking at the others.
//!
//! A state is the union of the states of its guests, for each compiled alone ([`super::compile()`] of a configuration with only that guest):
//! the shared objects (a link, the failsafe of a home agent) are in each of them.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use super::compile::compile;
use super::configuration::{Bindings, Configuration, Site};
use super::{KernelState, Plan, diff};
use crate::vocabulary::GuestId;

/// What shall be in force for a configuration, its bindings and this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    configuration: Configuration,
    bindings: Bindings,
    site: Site,
    state: KernelState,
}

/// What the guests that changed had, and shall have: their objects and the shared ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Wanted until now.
    pub before: KernelState,
    /// Wanted from now on.
    pub after: KernelState,
}

impl Desired {
    /// All of it, compiled.
    pub fn new(configuration: Configuration, bindings: Bindings, site: Site) -> Self {
        let state = compile(&configuration, &bindings, &site);
        Self { configuration, bindings, site, state }
    }

    /// The state that shall be in force.
    pub fn state(&self) -> &KernelState {
        &self.state
    }

    /// What the machine was like when it was compiled.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// The guests whose care-of address differs from the one in `bindings`.
    pub fn differing(&self, bindings: &Bindings) -> BTreeSet<GuestId> {
        let other = |ours: &Bindings, theirs: &Bindings| -> Vec<GuestId> {
            let differs = |(id, care_of): &(&GuestId, &Ipv6Addr)| theirs.0.get(id) != Some(care_of);
            ours.0.iter().filter(differs).map(|(id, _)| *id).collect()
        };
        other(&self.bindings, bindings).into_iter().chain(other(bindings, &self.bindings)).collect()
    }

    /// Takes over what `bindings` says of these guests, and gives what that changes.
    pub fn rebind(&mut self, guests: &BTreeSet<GuestId>, bindings: &Bindings) -> Change {
        let before = self.part(guests);
        for id in guests {
            match bindings.0.get(id) {
                Some(care_of) => self.bindings.0.insert(*id, *care_of),
                None => self.bindings.0.remove(id),
            };
        }
        let after = self.part(guests);
        self.state.replace(&before, &after);
        Change { before, after }
    }

    /// The state of these guests alone.
    fn part(&self, guests: &BTreeSet<GuestId>) -> KernelState {
        let chosen = || guests.iter().filter_map(|id| Some((id, self.configuration.guests.get(id.0)?)));
        let configuration = Configuration {
            role: self.configuration.role,
            home_agent: self.configuration.home_agent,
            guests: chosen().map(|(_, guest)| guest.clone()).collect(),
        };
        let bound = chosen().enumerate().filter_map(|(new, (id, _))| Some((GuestId(new), *self.bindings.0.get(id)?)));
        compile(&configuration, &Bindings(bound.collect()), &self.site)
    }
}

impl Change {
    /// The plan for these guests, when associations and policies are as in `ipsec` and the rest is as it was wanted before.
    pub fn plan(&self, ipsec: &KernelState) -> Plan {
        diff(&self.after, &ipsec.with_routing_of(&self.before))
    }

    /// Whether the associations and policies of these guests are as they shall be.
    pub fn is_in_force(&self, ipsec: &KernelState) -> bool {
        diff(&self.after, &ipsec.with_routing_of(&self.after)).is_empty()
    }
}

impl KernelState {
    /// These associations and policies with the links, addresses, routes and rules of another state.
    fn with_routing_of(&self, other: &Self) -> Self {
        Self {
            links: other.links.clone(),
            addresses: other.addresses.clone(),
            routes: other.routes.clone(),
            rules: other.rules.clone(),
            ..self.clone()
        }
    }

    /// Takes the objects of `before` out and puts those of `after` in.
    fn replace(&mut self, before: &Self, after: &Self) {
        self.associations.remove_all(&before.associations);
        self.policies.remove_all(&before.policies);
        self.links.remove_all(&before.links);
        self.addresses.remove_all(&before.addresses);
        self.routes.remove_all(&before.routes);
        for rule in &before.rules {
            self.rules.remove(rule);
        }
        let after = after.clone();
        self.associations.extend(after.associations);
        self.policies.extend(after.policies);
        self.links.extend(after.links);
        self.addresses.extend(after.addresses);
        self.routes.extend(after.routes);
        self.rules.extend(after.rules);
    }
}

/// Removal of the keys of another map, in a time that depends on that one only.
trait RemoveAll {
    fn remove_all(&mut self, other: &Self);
}

impl<K: Ord, V> RemoveAll for std::collections::BTreeMap<K, V> {
    fn remove_all(&mut self, other: &Self) {
        for key in other.keys() {
            self.remove(key);
        }
    }
}
