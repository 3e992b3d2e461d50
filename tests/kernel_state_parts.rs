//! A change of a few guests, made by their objects alone, comes to the same as one that looks at everything.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use kagemusha::ipsec::{
    AssociationKey, AssociationLifetime, Class, Encryption, Esp, Integrity, PolicyKey, SecretKey, SecurityAssociation,
    Selector, Transform,
};
use kagemusha::kernel_state::{
    Bindings, Change, Configuration, Desired, Guest, KernelState, Migration, Ownership, Site, Step, compile, diff,
};
use kagemusha::policy::{Protection, Reqids, Role};
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

/// What is protected of a guest, by a number.
fn classes(kind: usize) -> &'static [Class] {
    match kind {
        0 => &[],
        1 => &[Class::HomeRegistration],
        2 => &[Class::HomeRegistration, Class::MobilePrefixDiscovery, Class::ReturnRoutability],
        _ => &[Class::HomeRegistration, Class::TunnelPayload],
    }
}

fn guest(index: usize, kind: usize) -> Guest {
    let home_address = home_address(index);
    let mut protection = Protection::NONE;
    for (number, class) in classes(kind).iter().enumerate() {
        let first = 100 * index as u32 + 2 * number as u32 + 1;
        let reqids = Reqids { to_home_agent: first, to_guest: first + 1 };
        protection.classes.insert(*class, reqids);
        for (source, destination, reqid) in
            [(home_address, home_agent(), first), (home_agent(), home_address, first + 1)]
        {
            protection.associations.push(SecurityAssociation {
                key: AssociationKey { source, destination, protocol: 50, spi: 1000 + reqid },
                transform: Transform::Esp(Esp {
                    mode: class.mode(),
                    reqid,
                    encryption: (Encryption::AesCbc, SecretKey::new(vec![index as u8; 16])),
                    integrity: Some((Integrity::HmacSha256, SecretKey::new(vec![index as u8; 32]))),
                    replay_window: 32,
                    extended_sequence_numbers: false,
                    lifetime: AssociationLifetime::default(),
                }),
            });
        }
    }
    Guest { home_address, protection }
}

fn configuration(role: Role, kinds: &[usize]) -> Configuration {
    let guests = kinds.iter().enumerate().map(|(index, kind)| guest(index, *kind)).collect();
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
            Step::MoveAssociation { from, to } => {
                state.associations.remove(&from);
                state.associations.insert(to.key, to);
            }
            Step::Migrate(migration) => migrate(state, &migration),
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

/// The kernel gives the template other ends, and takes one SA along.
fn migrate(state: &mut KernelState, migration: &Migration) {
    let (source, destination) = migration.to;
    if let Some(policy) = state.policies.get_mut(&migration.policy) {
        policy.templates.iter_mut().for_each(|one| (one.source, one.destination) = (source, destination));
    }
    let serves = |sa: &&SecurityAssociation| {
        sa.reqid() == Some(migration.reqid) && (sa.key.source, sa.key.destination) == migration.from
    };
    if let Some(key) = state.associations.values().find(serves).map(|sa| sa.key)
        && let Some(mut sa) = state.associations.remove(&key)
    {
        sa.key = AssociationKey { source, destination, ..key };
        state.associations.insert(sa.key, sa);
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
                Transform::Esp(esp) => esp.encryption.1 = SecretKey::new(vec![0xff; 16]),
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
        kinds in prop::collection::vec(0..4usize, GUESTS),
        first in places(),
        moves in prop::collection::vec((places(), prop::collection::btree_set(0..GUESTS, 0..3), prop::option::of((any::<bool>(), any::<bool>(), any::<usize>()))), 1..6),
        tunnel6_loaded in any::<bool>(),
    ) {
        let configuration = configuration(role, &kinds);
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
    let configuration = configuration(Role::HomeAgent, &[1]);
    let desired = Desired::new(configuration.clone(), Bindings::default(), Site::default());
    let ours = desired.state().policies.values().next().unwrap().clone();
    let mut alien = ours.clone();
    alien.key = PolicyKey { priority: 7, selector: Selector { source: Prefix::ANY, ..ours.key.selector }, ..ours.key };
    let mut observed = KernelState::default();
    observed.policies.extend([(alien.key, alien), (ours.key, ours.clone())]);
    let left = Ownership::of(&configuration).owned(observed);
    assert_eq!(left.policies.into_values().collect::<Vec<_>>(), [ours]);
}
