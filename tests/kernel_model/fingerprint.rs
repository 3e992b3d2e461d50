//! Hashes of kernel states, for the explorer to know where it was. Keys count, so the product's types, which never give theirs away, do not
//! do this themselves.

use std::hash::{Hash, Hasher};

use kagemusha::ipsec::{Esp, SecurityAssociation, SecurityPolicy, Transform};
use kagemusha::kernel_state::{Address, KernelState, Link, LinkKind, Route};

/// Every part of the state.
pub fn kernel_state(state: &KernelState, hasher: &mut impl Hasher) {
    let KernelState { associations, policies, links, addresses, routes, rules, foreign_associations, foreign_policies } =
        state;
    let lengths = [associations.len(), policies.len(), links.len(), addresses.len(), routes.len()];
    lengths.hash(hasher);
    associations.values().for_each(|one| association(one, hasher));
    policies.values().for_each(|one| policy(one, hasher));
    links.values().for_each(|one| link(one, hasher));
    addresses.values().for_each(|one| address(one, hasher));
    for Route { key, preferred_source, protocol } in routes.values() {
        (key, preferred_source, protocol).hash(hasher);
    }
    (rules, foreign_associations, foreign_policies).hash(hasher);
}

fn association(sa: &SecurityAssociation, hasher: &mut impl Hasher) {
    let SecurityAssociation { key, transform } = sa;
    key.hash(hasher);
    match transform {
        Transform::Esp(esp) => {
            let Esp { mode, reqid, encryption, integrity, replay_window, extended_sequence_numbers, lifetime } = esp;
            (mode, reqid, replay_window, extended_sequence_numbers).hash(hasher);
            for limits in [lifetime.soft, lifetime.hard] {
                (limits.bytes, limits.packets, limits.seconds).hash(hasher);
            }
            (encryption.0, encryption.1.expose()).hash(hasher);
            integrity.as_ref().map(|(algorithm, key)| (algorithm, key.expose())).hash(hasher);
        }
        Transform::RouteOptimization { care_of_address, wildcard } => (care_of_address, wildcard).hash(hasher),
    }
}

fn policy(SecurityPolicy { key, action, templates }: &SecurityPolicy, hasher: &mut impl Hasher) {
    (key, action, templates).hash(hasher);
}

fn link(Link { name, kind, up, ipv6_disabled, generates_link_local }: &Link, hasher: &mut impl Hasher) {
    (name, up, ipv6_disabled, generates_link_local).hash(hasher);
    match kind {
        LinkKind::Dummy => 0.hash(hasher),
        LinkKind::Ipv6InIpv6 { local, remote } => (1, local, remote).hash(hasher),
        LinkKind::Other(name) => (2, name).hash(hasher),
    }
}

fn address(address: &Address, hasher: &mut impl Hasher) {
    let Address { address, home, no_duplicate_address_detection, no_prefix_route, deprecated } = address;
    (address, home, no_duplicate_address_detection, no_prefix_route, deprecated).hash(hasher);
}
