//! What others have in the kernel, and what they do to what is ours.

use kagemusha::ipsec::{Action, AssociationKey, Direction, PolicyKey, SecurityPolicy, Selector, UpperLayer};
use kagemusha::kernel_state::{
    HOME_ADDRESS_LINK, KernelState, Link, LinkKind, PROTECTING_PRIORITY, ROUTE_PROTOCOL, Route, RouteKey, RouteKind,
    Rule,
};
use kagemusha::vocabulary::Prefix;

use crate::cast::{UPDATE, care_of, home_address, home_agent, sa};
use crate::machine::automatic_route;

/// Objects of others, of every sort, some of them near to ours.
pub fn aliens() -> KernelState {
    let mut state = KernelState::default();
    let selector =
        |source, destination| Selector { source, destination, upper_layer: UpperLayer::MobilityHeader(UPDATE) };
    let key = PolicyKey {
        direction: Direction::Out,
        selector: selector(Prefix::host(care_of(3)), Prefix::ANY),
        priority: PROTECTING_PRIORITY - 1,
    };
    state.policies.insert(key, SecurityPolicy { key, action: Action::Allow, templates: vec![] });
    state.foreign_policies.insert(PolicyKey { direction: Direction::In, ..key });
    let other = sa(care_of(3), home_agent(), 5, 1, 9);
    state.associations.insert(other.key, other.clone());
    state.foreign_associations.insert(AssociationKey { spi: 6, ..other.key });
    let lo = RouteKey {
        table: 254,
        destination: Prefix::host(home_address(0)),
        kind: RouteKind::Unicast,
        device: "eth0".to_owned(),
        metric: 1,
    };
    state.routes.insert(lo.clone(), Route { key: lo, preferred_source: None, protocol: ROUTE_PROTOCOL - 1 });
    state.rules.insert(Rule {
        preference: 0x4b00,
        source: Prefix::ANY,
        destination: Prefix::ANY,
        input: None,
        upper_layer: None,
        table: 7,
        protocol: 0,
    });
    for name in ["eth0", "kage-ha", "kage-tap0"] {
        let kind = LinkKind::Other("tun".to_owned());
        let link = Link { name: name.to_owned(), kind, up: true, ipv6_disabled: false, generates_link_local: true };
        state.links.insert(name.to_owned(), link);
    }
    state
}

/// Both states in one.
pub fn union(mut a: KernelState, b: &KernelState) -> KernelState {
    a.associations.extend(b.associations.clone());
    a.policies.extend(b.policies.clone());
    a.links.extend(b.links.clone());
    a.addresses.extend(b.addresses.clone());
    a.routes.extend(b.routes.clone());
    a.rules.extend(b.rules.clone());
    a.foreign_associations.extend(&b.foreign_associations);
    a.foreign_policies.extend(&b.foreign_policies);
    a
}

/// Whether all of `part` is in `state`, unchanged.
pub fn holds_all(state: &KernelState, part: &KernelState) -> bool {
    part.associations.iter().all(|(key, one)| state.associations.get(key) == Some(one))
        && part.policies.iter().all(|(key, one)| state.policies.get(key) == Some(one))
        && part.links.iter().all(|(key, one)| state.links.get(key) == Some(one))
        && part.addresses.iter().all(|(key, one)| state.addresses.get(key) == Some(one))
        && part.routes.iter().all(|(key, one)| state.routes.get(key) == Some(one))
        && part.rules.is_subset(&state.rules)
        && part.foreign_associations.is_subset(&state.foreign_associations)
        && part.foreign_policies.is_subset(&state.foreign_policies)
}

/// Damage as others may do it: the n-th object is gone, is changed, or has contents that we do not speak.
pub fn damage(state: &mut KernelState, what: u8, index: usize) {
    fn nth<K: Clone>(keys: impl ExactSizeIterator<Item = K>, index: usize) -> Option<K> {
        let length = keys.len().max(1);
        let mut keys = keys;
        keys.nth(index % length)
    }
    match what {
        0 => drop(nth(state.associations.keys().copied(), index).and_then(|k| state.associations.remove(&k))),
        1 => drop(nth(state.policies.keys().copied(), index).and_then(|k| state.policies.remove(&k))),
        2 => drop(nth(state.rules.iter().cloned(), index).map(|r| state.rules.remove(&r))),
        3 => drop(nth(state.routes.keys().cloned(), index).and_then(|k| state.routes.remove(&k))),
        4 => {
            let gone = nth(state.addresses.keys().copied(), index);
            if let Some(address) = gone {
                state.addresses.remove(&address);
                state.routes.remove(&automatic_route(address).key);
            }
        }
        5 => {
            if let Some(key) = nth(state.associations.keys().copied(), index) {
                state.associations.remove(&key);
                state.foreign_associations.insert(key);
            }
        }
        6 => {
            if let Some(key) = nth(state.policies.keys().copied(), index) {
                state.policies.remove(&key);
                state.foreign_policies.insert(key);
            }
        }
        7 => state.policies.values_mut().skip(index % 4).take(1).for_each(|p| p.templates.clear()),
        8 => state.links.values_mut().skip(index % 2).take(1).for_each(|l| l.up = !l.up),
        9 => state.addresses.values_mut().skip(index % 2).take(1).for_each(|a| a.home = false),
        10 => {
            let back = state.addresses.keys().copied().map(automatic_route).collect::<Vec<_>>();
            state.routes.extend(back.into_iter().map(|r| (r.key.clone(), r)));
        }
        _ => {
            // The link is gone, and with it all that was on it.
            state.links.remove(HOME_ADDRESS_LINK);
            state.addresses.clear();
            state.routes.retain(|key, _| key.device != HOME_ADDRESS_LINK);
        }
    }
}
