//! A change of a few guests, made by their objects alone, comes to the same as one that looks at everything.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use kagemusha::ipsec::{
    AssociationKey, Encryption, Integrity, PolicyKey, SecretKey, SecurityAssociation, Selector, Transform,
};
use kagemusha::kernel_state::{
    Bindings, Change, Configuration, Desired, Guest, KernelState, Ownership, Site, Step, compile, diff,
};
use kagemusha::policy::{Protection, Role};
use kagemusha::vocabulary::{GuestId, Prefix};
use proptest::prelude::*;

const GUESTS: usize = 5;

fn home_agent() -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0x2000, 0, 0, 0, 0, 1)
}

fn home_address(guest: usize) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0x2000, 0, 0, 0, 1, guest as u16)
}

fn care_of(number: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0x3000, 0, 0, 0, 0, number)
}

fn guest(index: usize, protected: bool) -> Guest {
    let (address, reqid) = (home_address(index), 2 * index as u32 + 1);
    let sa = |source, destination, spi, reqid| SecurityAssociation {
        key: AssociationKey { source, destination, protocol: 50, spi },
        transform: Transform::EspTransport {
            reqid,
            encryption: (Encryption::AesCbc, SecretKey::new(vec![index as u8; 16])),
            integrity: Some((Integrity::HmacSha256, SecretKey::new(vec![index as u8; 32]))),
            replay_window: 32,
        },
    };
    let associations =
        vec![sa(address, home_agent(), 1000 + reqid, reqid), sa(home_agent(), address, 1001 + reqid, reqid + 1)];
    let protection = match protected {
        true => Protection::HomeRegistration { reqid_to_home_agent: reqid, reqid_to_guest: reqid + 1, associations },
        false => Protection::None,
    };
    Guest { home_address: address, protection }
}

fn configuration(role: Role, protected: &[bool]) -> Configuration {
    let guests = protected.iter().enumerate().map(|(index, protected)| guest(index, *protected)).collect();
    Configuration { role, home_agent: home_agent(), guests }
}

fn bindings(places: &[Option<u16>]) -> Bindings {
    let bound = |(id, place): (usize, &Option<u16>)| place.map(|number| (GuestId(id), care_of(number)));
    Bindings(places.iter().enumerate().filter_map(bound).collect())
}

/// The kernel: what steps make of it.
fn take(state: &mut KernelState, steps: &[Step]) {
    for step in steps {
        match step.clone() {
            Step::AddPolicy(one) | Step::UpdatePolicy(one) => drop(state.policies.insert(one.key, one)),
            Step::RemovePolicy(key) => drop(state.policies.remove(&key)),
            Step::AddAssociation(one) | Step::UpdateAssociation(one) | Step::ReplaceAssociation(one) => {
                state.associations.insert(one.key, one);
            }
            Step::RemoveAssociation(key) => drop(state.associations.remove(&key)),
            Step::AddLink(link) | Step::UpdateLink(link) => drop(state.links.insert(link.name.clone(), link)),
            Step::RemoveLink(name) => drop(state.links.remove(&name)),
            Step::SetAddress(address) => drop(state.addresses.insert(address.address, address)),
            Step::RemoveAddress(address) => drop(state.addresses.remove(&address)),
            Step::AddRoute(route) => drop(state.routes.insert(route.key.clone(), route)),
            Step::RemoveRoute(key) => drop(state.routes.remove(&key)),
            Step::AddRule(rule) => drop(state.rules.insert(rule)),
            Step::RemoveRule(rule) => drop(state.rules.remove(&rule)),
        }
    }
}

/// What reading the objects of a change by their names finds.
fn read(kernel: &KernelState, change: &Change) -> KernelState {
    let mut found = KernelState::default();
    for state in [&change.before, &change.after] {
        for key in state.associations.keys() {
            found.associations.extend(kernel.associations.get(key).map(|sa| (*key, sa.clone())));
        }
        for key in state.policies.keys() {
            found.policies.extend(kernel.policies.get(key).map(|policy| (*key, policy.clone())));
        }
    }
    found
}

/// Somebody takes an object of IPsec away, or alters it.
fn tamper(kernel: &mut KernelState, (policy, delete, index): (bool, bool, usize)) {
    if policy {
        let Some(key) = kernel.policies.keys().nth(index % kernel.policies.len().max(1)).copied() else { return };
        if delete {
            kernel.policies.remove(&key);
        } else {
            kernel.policies.entry(key).and_modify(|policy| policy.templates.clear());
        }
    } else {
        let count = kernel.associations.len().max(1);
        let Some(key) = kernel.associations.keys().nth(index % count).copied() else { return };
        let gone = kernel.associations.remove(&key);
        if let (false, Some(mut sa)) = (delete, gone) {
            match &mut sa.transform {
                Transform::EspTransport { encryption, .. } => encryption.1 = SecretKey::new(vec![0xff; 16]),
                Transform::RouteOptimization { care_of_address, .. } => *care_of_address = care_of(999),
            }
            kernel.associations.insert(key, sa);
        }
    }
}

fn names(state: &KernelState) -> (BTreeSet<AssociationKey>, BTreeSet<PolicyKey>) {
    (state.associations.keys().copied().collect(), state.policies.keys().copied().collect())
}

fn role() -> impl Strategy<Value = Role> {
    prop::sample::select(vec![Role::MobileNode, Role::HomeAgent])
}

fn places() -> impl Strategy<Value = Vec<Option<u16>>> {
    prop::collection::vec(prop::option::of(1..4u16), GUESTS)
}

proptest! {
    /// Moves one after the other, with tampering between them: after each, what the guests that moved need is in force, no object of
    /// another guest was touched, and the scan that comes later finds what was tampered with and nothing else.
    #[test]
    fn a_part_comes_to_the_same_as_the_whole(
        role in role(),
        protected in prop::collection::vec(any::<bool>(), GUESTS),
        first in places(),
        moves in prop::collection::vec((places(), prop::collection::btree_set(0..GUESTS, 0..3), prop::option::of((any::<bool>(), any::<bool>(), any::<usize>()))), 1..6),
        tunnel6_loaded in any::<bool>(),
    ) {
        let configuration = configuration(role, &protected);
        let ownership = Ownership::of(&configuration);
        let site = Site { uplink: Some("eth0".to_owned()), tunnel6_loaded };
        let mut desired = Desired::new(configuration.clone(), bindings(&first), site.clone());
        let mut kernel = desired.state().clone();
        for (places, asked, tampering) in moves {
            if let Some(tampering) = tampering {
                tamper(&mut kernel, tampering);
            }
            let bindings = bindings(&places);
            let asked: BTreeSet<_> = asked.into_iter().map(GuestId).collect();
            let mut guests = desired.differing(&bindings);
            guests.extend(&asked);
            let change = desired.rebind(&guests, &bindings);
            let whole = compile(&configuration, &bindings, &site);
            prop_assert_eq!(desired.state(), &whole);

            let plan = change.plan(&read(&kernel, &change));
            for step in &plan.steps {
                let concerned = ownership.concerned(step);
                prop_assert!(concerned.iter().all(|id| guests.contains(id)), "{step}");
            }
            take(&mut kernel, &plan.steps);
            prop_assert!(change.is_in_force(&read(&kernel, &change)));
            prop_assert!(change.plan(&read(&kernel, &change)).steps.iter().all(|step| matches!(
                step,
                Step::SetAddress(_) | Step::RemoveAddress(_) | Step::AddRoute(_) | Step::RemoveRoute(_) | Step::AddRule(_) | Step::RemoveRule(_)
            )), "IPsec is done");

            let scan = diff(&whole, &kernel);
            for step in &scan.steps {
                let concerned = ownership.concerned(step);
                prop_assert!(!concerned.iter().any(|id| guests.contains(id)), "left undone: {step}");
            }
            take(&mut kernel, &scan.steps);
            prop_assert_eq!(names(&kernel), names(&whole));
            prop_assert!(diff(&whole, &ownership.owned(kernel.clone())).is_empty());
        }
    }
}

/// An object under our name that is another's stays out of what counts as observed.
#[test]
fn a_policy_of_another_priority_is_not_ours() {
    let configuration = configuration(Role::HomeAgent, &[true]);
    let desired = Desired::new(configuration.clone(), Bindings::default(), Site::default());
    let ours = desired.state().policies.values().next().unwrap().clone();
    let mut alien = ours.clone();
    alien.key = PolicyKey { priority: 7, selector: Selector { source: Prefix::ANY, ..ours.key.selector }, ..ours.key };
    let mut observed = KernelState::default();
    observed.policies.extend([(alien.key, alien), (ours.key, ours.clone())]);
    let left = Ownership::of(&configuration).owned(observed);
    assert_eq!(left.policies.into_values().collect::<Vec<_>>(), [ours]);
}
