//! Plans for the kernel's state: complete, minimal, blind to alien objects, and never leaky on the way.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use kagemusha::ipsec::{
    Action, AssociationKey, AssociationLifetime, Class, Direction, Encryption, Esp, EspMode, Integrity, Mode,
    PolicyKey, SecretKey, SecurityAssociation, SecurityPolicy, Selector, TemplateProtocol, Transform, UpperLayer,
};
use kagemusha::kernel_state::{
    Bindings, Configuration, FAILSAFE_PRIORITY, Guest, HOME_ADDRESS_LINK, KernelState, LOCAL_TABLE, Link, LinkKind,
    PROTECTING_PRIORITY, Plan, ROUTE_PROTOCOL, Route, RouteKey, RouteKind, Rule, SINK_LINK, Site, Step, at_rest,
    compile, diff, owned,
};
use kagemusha::policy::{Protection, Reqids, Role};
use kagemusha::vocabulary::{GuestId, Prefix};
use proptest::prelude::*;

const MOBILITY: u8 = 135;
const UPDATE: u8 = 5;
const ACKNOWLEDGEMENT: u8 = 6;

fn home_agent() -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0x2000, 0, 0, 0, 0, 1)
}

fn home_address(guest: usize) -> Ipv6Addr {
    Ipv6Addr::from_bits(Ipv6Addr::new(0x2001, 0xdb8, 0x2000, 0, 0, 0, 0, 0x10).to_bits() + guest as u128)
}

fn care_of(number: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0x3000, 0, 0, 0, 0, number)
}

fn sa(source: Ipv6Addr, destination: Ipv6Addr, spi: u32, reqid: u32, key: u8) -> SecurityAssociation {
    SecurityAssociation {
        key: AssociationKey { source, destination, protocol: 50, spi },
        transform: Transform::Esp(Esp {
            mode: EspMode::Transport,
            reqid,
            encryption: (Encryption::AesCbc, SecretKey::new(vec![key; 16])),
            integrity: Some((Integrity::HmacSha256, SecretKey::new(vec![key; 32]))),
            replay_window: 0,
            extended_sequence_numbers: false,
            lifetime: AssociationLifetime::default(),
        }),
    }
}

/// Guests as `protected` says; all SAs with key octet `key` and SPIs from `spi`.
fn configuration(role: Role, protected: &[bool], key: u8, spi: u32) -> Configuration {
    let guest = |(index, protected): (usize, &bool)| {
        let (address, number) = (home_address(index), 2 * index as u32);
        let (to_home_agent, to_guest) = (number + 1, number + 2);
        let associations = vec![
            sa(address, home_agent(), spi + number, to_home_agent, key),
            sa(home_agent(), address, spi + number + 1, to_guest, key),
        ];
        let protection = if *protected {
            let classes = [(Class::HomeRegistration, Reqids { to_home_agent, to_guest })].into();
            Protection { classes, associations }
        } else {
            Protection::NONE
        };
        Guest { home_address: address, protection }
    };
    Configuration { role, home_agent: home_agent(), guests: protected.iter().enumerate().map(guest).collect() }
}

fn bindings(care_of_addresses: &[Option<u16>]) -> Bindings {
    let bound = |(id, number): (usize, &Option<u16>)| number.map(|n| (GuestId(id), care_of(n)));
    Bindings(care_of_addresses.iter().enumerate().filter_map(bound).collect())
}

fn site(uplink: Option<&str>, tunnel6_loaded: bool) -> Site {
    Site { uplink: uplink.map(str::to_owned), tunnel6_loaded }
}

// ---- a model of the kernel: what a step does ----

fn automatic_route(address: Ipv6Addr) -> Route {
    let key = RouteKey {
        table: LOCAL_TABLE,
        destination: Prefix::host(address),
        kind: RouteKind::Local,
        device: HOME_ADDRESS_LINK.to_owned(),
        metric: 0,
    };
    Route { key, preferred_source: None, protocol: 2 }
}

/// Takes one step, with the kernel's own habits; panics where the kernel would refuse.
#[allow(clippy::panic, reason = "that is how the model refuses")]
fn take(state: &mut KernelState, step: &Step) {
    match step {
        Step::AddPolicy(p) => {
            let taken = state.policies.keys().chain(&state.foreign_policies);
            let same = |k: &PolicyKey| (k.direction, k.selector) == (p.key.direction, p.key.selector);
            assert!(!taken.into_iter().any(same), "EEXIST: {step}");
            state.policies.insert(p.key, p.clone());
        }
        Step::UpdatePolicy(p) => {
            assert!(state.policies.remove(&p.key).is_some() || state.foreign_policies.remove(&p.key), "new: {step}");
            state.policies.insert(p.key, p.clone());
        }
        Step::RemovePolicy(key) => {
            assert!(state.policies.remove(key).is_some() || state.foreign_policies.remove(key), "ENOENT: {step}");
        }
        Step::AddAssociation(a) => {
            assert!(!state.foreign_associations.contains(&a.key), "EEXIST: {step}");
            assert!(state.associations.insert(a.key, a.clone()).is_none(), "EEXIST: {step}");
        }
        Step::UpdateAssociation(a) => {
            assert!(matches!(a.transform, Transform::RouteOptimization { .. }), "keys do not change in place: {step}");
            assert!(state.associations.insert(a.key, a.clone()).is_some(), "ESRCH: {step}");
        }
        Step::ReplaceAssociation(a) => {
            assert!(state.associations.remove(&a.key).is_some() || state.foreign_associations.remove(&a.key), "{step}");
            state.associations.insert(a.key, a.clone());
        }
        Step::RemoveAssociation(key) => {
            assert!(state.associations.remove(key).is_some() || state.foreign_associations.remove(key), "{step}");
        }
        Step::Migrate(m) => {
            let policy = state.policies.get_mut(&m.policy).unwrap_or_else(|| panic!("ENOENT: {step}"));
            let [template] = &mut policy.templates[..] else { panic!("ENODATA: {step}") };
            assert_eq!(
                (template.source, template.destination, template.reqid),
                (m.from.0, m.from.1, m.reqid),
                "{step}"
            );
            (template.source, template.destination) = m.to;
            let ends = |key: &AssociationKey| (key.source, key.destination);
            let served = |a: &&SecurityAssociation| (ends(&a.key), a.reqid()) == (m.from, Some(m.reqid));
            if let Some(mut a) = state.associations.values().find(served).cloned() {
                state.associations.remove(&a.key);
                (a.key.source, a.key.destination) = m.to;
                state.associations.insert(a.key, a);
            }
        }
        Step::MoveAssociation { from, to } => {
            assert!(state.associations.remove(from).is_some(), "ESRCH: {step}");
            assert!(state.associations.insert(to.key, to.clone()).is_none(), "EEXIST: {step}");
        }
        Step::AddLink(l) => assert!(state.links.insert(l.name.clone(), l.clone()).is_none(), "EEXIST: {step}"),
        Step::UpdateLink(l) => assert!(state.links.insert(l.name.clone(), l.clone()).is_some(), "ENODEV: {step}"),
        Step::RemoveLink(name) => {
            assert!(state.links.remove(name).is_some(), "ENODEV: {step}");
            state.routes.retain(|key, _| key.device != *name);
        }
        Step::SetAddress(a) => {
            assert!(state.links.contains_key(HOME_ADDRESS_LINK), "ENODEV: {step}");
            if state.addresses.insert(a.address, *a).is_none() {
                let route = automatic_route(a.address);
                state.routes.insert(route.key.clone(), route);
            }
        }
        Step::RemoveAddress(address) => {
            assert!(state.addresses.remove(address).is_some(), "EADDRNOTAVAIL: {step}");
            state.routes.remove(&automatic_route(*address).key);
        }
        Step::AddRoute(r) => {
            let there =
                state.links.contains_key(&r.key.device) || ["lo", "kage-ha", "kage-esp"].contains(&&*r.key.device);
            assert!(there, "ENODEV: {step}");
            assert!(state.routes.insert(r.key.clone(), r.clone()).is_none(), "EEXIST: {step}");
        }
        Step::RemoveRoute(key) => assert!(state.routes.remove(key).is_some(), "ESRCH: {step}"),
        Step::AddRule(r) => assert!(state.rules.insert(r.clone()), "EEXIST: {step}"),
        Step::RemoveRule(r) => assert!(state.rules.remove(r), "ENOENT: {step}"),
    }
}

fn after(state: &KernelState, plan: &Plan) -> KernelState {
    let mut state = state.clone();
    plan.steps.iter().for_each(|step| take(&mut state, step));
    state
}

// ---- a model of the SPD: what happens to a packet ----

#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Discarded,
    Esp,
    Clear,
}

fn lookup<'a>(
    state: &'a KernelState,
    direction: Direction,
    source: Ipv6Addr,
    destination: Ipv6Addr,
    kind: u8,
) -> Option<&'a SecurityPolicy> {
    let matching = |p: &&'a SecurityPolicy| {
        let selector = p.key.selector;
        let upper_layer = match selector.upper_layer {
            UpperLayer::Any => true,
            UpperLayer::Protocol(number) => number == MOBILITY,
            UpperLayer::MobilityHeader(number) => number == kind,
            UpperLayer::Icmpv6(_) => false,
        };
        p.key.direction == direction
            && selector.source.contains(source)
            && selector.destination.contains(destination)
            && upper_layer
    };
    state.policies.values().filter(matching).min_by_key(|p| p.key.priority)
}

/// A mobility header out of (or into) this host. No policy: RFC 4301 would discard, Linux lets it pass.
fn fate(state: &KernelState, direction: Direction, source: Ipv6Addr, destination: Ipv6Addr, kind: u8) -> Fate {
    match lookup(state, direction, source, destination, kind) {
        None => Fate::Clear,
        Some(policy) if policy.action == Action::Block => Fate::Discarded,
        Some(policy) if policy.templates.iter().any(|t| t.protocol == TemplateProtocol::Esp) => Fate::Esp,
        Some(_) => Fate::Clear,
    }
}

/// The protected messages of a configuration: `(direction, source, destination, type)`.
fn protected_messages(configuration: &Configuration) -> Vec<(Direction, Ipv6Addr, Ipv6Addr, u8)> {
    let protected = configuration.guests.iter().filter(|g| !g.protection.is_none());
    let (to_home_agent, to_guest) = match configuration.role {
        Role::MobileNode => (Direction::Out, Direction::In),
        Role::HomeAgent => (Direction::In, Direction::Out),
    };
    let both = |g: &Guest| {
        [
            (to_home_agent, g.home_address, configuration.home_agent, UPDATE),
            (to_guest, configuration.home_agent, g.home_address, ACKNOWLEDGEMENT),
        ]
    };
    protected.flat_map(both).collect()
}

fn leaks(state: &KernelState, messages: &[(Direction, Ipv6Addr, Ipv6Addr, u8)]) -> bool {
    messages.iter().any(|(direction, from, to, kind)| fate(state, *direction, *from, *to, *kind) == Fate::Clear)
}

/// No prefix of the plan leaks. From a state that leaks already, none does once the failsafe policies are there and the old
/// policies are updated or removed, which is what such a plan begins with.
fn assert_tight(configuration: &Configuration, observed: &KernelState, plan: &Plan) {
    let messages = protected_messages(configuration);
    let mut state = observed.clone();
    let mut guarded = !leaks(&state, &messages);
    for (index, step) in plan.steps.iter().enumerate() {
        let guard = matches!(step, Step::UpdatePolicy(_) | Step::RemovePolicy(_))
            || matches!(step, Step::AddPolicy(p) if p.key.priority == FAILSAFE_PRIORITY);
        guarded |= !guard;
        take(&mut state, step);
        assert!(!guarded || !leaks(&state, &messages), "leak after step {index} ({step}) of {:#?}", plan.steps);
    }
    assert!(!leaks(&state, &messages), "the wanted state leaks");
}

const ROLES: [Role; 2] = [Role::MobileNode, Role::HomeAgent];
const MASKS: [[bool; 2]; 4] = [[true, true], [true, false], [false, true], [false, false]];

/// Every state that two guests can be in: bound or not, protected or not, on one of two care-of addresses.
fn small_states(role: Role) -> Vec<(Configuration, KernelState)> {
    let places = [None, Some(3), Some(4)];
    let mut states = vec![];
    for mask in MASKS {
        for (key, spi) in [(1, 1000), (2, 1000), (1, 2000)] {
            let configuration = configuration(role, &mask, key, spi);
            states.push((configuration.clone(), at_rest(&configuration)));
            for (a, b) in places.iter().flat_map(|a| places.iter().map(move |b| (*a, *b))) {
                let state = compile(&configuration, &bindings(&[a, b]), &site(Some("eth0"), a == Some(3)));
                states.push((configuration.clone(), state));
            }
        }
    }
    states
}

/// Between any two of all small states: the plan is complete, is nothing when nothing is to do, and no prefix of it leaks.
#[test]
fn every_way_between_small_states_is_tight() {
    for role in ROLES {
        let states = small_states(role);
        for (_, from) in &states {
            for (configuration, to) in &states {
                let plan = diff(to, from);
                assert_tight(configuration, from, &plan);
                assert_eq!(after(from, &plan), *to);
            }
        }
    }
}

/// And from nothing, and to nothing, where the failsafe policies come first and go last.
#[test]
fn failsafe_policies_are_first_in_and_last_out() {
    let failsafe = |key: &PolicyKey| key.priority == FAILSAFE_PRIORITY;
    for role in ROLES {
        for (configuration, state) in small_states(role) {
            let up = diff(&state, &KernelState::default());
            assert_tight(&configuration, &KernelState::default(), &up);
            assert_eq!(after(&KernelState::default(), &up), state);
            let firsts = up.steps.iter().take_while(|s| matches!(s, Step::AddPolicy(p) if failsafe(&p.key))).count();
            assert_eq!(firsts, state.policies.keys().filter(|k| failsafe(k)).count());

            let down = diff(&KernelState::default(), &state);
            assert_eq!(after(&state, &down), KernelState::default());
            let lasts =
                down.steps.iter().rev().take_while(|s| matches!(s, Step::RemovePolicy(k) if failsafe(k))).count();
            assert_eq!(lasts, firsts);
            // Until the first failsafe policy goes, nothing protected passes in clear.
            let (mut passing, messages) = (state.clone(), protected_messages(&configuration));
            for step in &down.steps[..down.steps.len() - lasts] {
                take(&mut passing, step);
                assert!(!leaks(&passing, &messages), "{step}");
            }
        }
    }
}

/// The wanted state of a bound protected guest, in detail.
#[test]
fn a_protected_guest_away_from_home() {
    let configuration = configuration(Role::MobileNode, &[true], 1, 1000);
    let state = compile(&configuration, &bindings(&[Some(3)]), &site(Some("eth0"), true));
    let (guest, agent) = (home_address(0), home_agent());
    let order = |direction, from, to, kind| -> Vec<_> {
        let policy = lookup(&state, direction, from, to, kind).unwrap();
        policy.templates.iter().map(|t| (t.protocol, t.mode, t.reqid)).collect()
    };
    assert_eq!(
        order(Direction::Out, guest, agent, UPDATE),
        [
            (TemplateProtocol::Esp, Mode::Transport, 1),
            (TemplateProtocol::HomeAddressOption, Mode::RouteOptimization, 0)
        ]
    );
    assert_eq!(
        order(Direction::In, agent, guest, ACKNOWLEDGEMENT),
        [
            (TemplateProtocol::Esp, Mode::Transport, 2),
            (TemplateProtocol::Type2RoutingHeader, Mode::RouteOptimization, 0)
        ]
    );
    // All other mobility headers of the home address are refused, whoever is at the other end.
    let other = care_of(9);
    for kind in (0..=255).filter(|kind| *kind != UPDATE) {
        assert_eq!(fate(&state, Direction::Out, guest, agent, kind), Fate::Discarded, "{kind}");
    }
    assert_eq!(fate(&state, Direction::Out, guest, other, UPDATE), Fate::Discarded);
    assert_eq!(fate(&state, Direction::In, other, guest, ACKNOWLEDGEMENT), Fate::Discarded);
    // The host's own mobility is none of our business.
    assert_eq!(fate(&state, Direction::Out, care_of(3), agent, UPDATE), Fate::Clear);
    assert_eq!(state.links[SINK_LINK].kind, LinkKind::Ipv6InIpv6 { local: Ipv6Addr::UNSPECIFIED, remote: agent });
    assert!(state.links[SINK_LINK].ipv6_disabled);
    let address = state.addresses[&guest];
    assert!(address.home && address.no_duplicate_address_detection && address.no_prefix_route && address.deprecated);
}

/// At home or detached, a protected guest has its failsafe and its SAs, and nothing that sends.
#[test]
fn a_guest_without_care_of_address_is_silent() {
    let configuration = configuration(Role::MobileNode, &[true, false], 1, 1000);
    let state = compile(&configuration, &Bindings::default(), &site(Some("eth0"), false));
    for guest in 0..2 {
        assert_eq!(fate(&state, Direction::Out, home_address(guest), home_agent(), UPDATE), Fate::Discarded);
    }
    assert_eq!(state.associations.len(), 2);
    assert!(state.addresses.is_empty() && state.rules.is_empty());
}

/// A home agent takes updates from its guests only, each as configured.
#[test]
fn a_home_agent_takes_what_its_policies_say() {
    let configuration = configuration(Role::HomeAgent, &[true, false], 1, 1000);
    let state = compile(&configuration, &bindings(&[None, Some(3)]), &site(None, true));
    let incoming = |from| fate(&state, Direction::In, from, home_agent(), UPDATE);
    let outgoing = |to| fate(&state, Direction::Out, home_agent(), to, ACKNOWLEDGEMENT);
    assert_eq!((incoming(home_address(0)), outgoing(home_address(0))), (Fate::Esp, Fate::Esp));
    assert_eq!((incoming(home_address(1)), outgoing(home_address(1))), (Fate::Clear, Fate::Clear));
    assert_eq!((incoming(home_address(2)), outgoing(home_address(2))), (Fate::Discarded, Fate::Discarded));
    let routed: Vec<_> = state.routes.keys().map(|k| (k.destination, &*k.device)).collect();
    assert_eq!(routed, [(Prefix::host(home_address(1)), "kage-ha")]);
}

/// A move is two updates in place and the rules of the new uplink; the ESP SAs stay.
#[test]
fn a_move_touches_no_esp_sa() {
    let configuration = configuration(Role::MobileNode, &[true], 1, 1000);
    let from = compile(&configuration, &bindings(&[Some(3)]), &site(Some("eth0"), false));
    let to = compile(&configuration, &bindings(&[Some(4)]), &site(Some("eth1"), false));
    let plan: Vec<_> = diff(&to, &from).steps.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(plan.join("\n"), @r"
    remove rule 0x4b00 from ::/0 to 2001:db8:2000::10/128 iif eth0 ipproto 50 lookup 19271
    remove rule 0x4b02 from ::/0 to 2001:db8:2000::10/128 iif eth0 lookup 19272
    add rule 0x4b00 from ::/0 to 2001:db8:2000::10/128 iif eth1 ipproto 50 lookup 19271
    add rule 0x4b02 from ::/0 to 2001:db8:2000::10/128 iif eth1 lookup 19272
    update type 2 routing header state 2001:db8:2000::1 → 2001:db8:2000::10 care-of address 2001:db8:3000::4
    update Home Address option state 2001:db8:2000::10 → 2001:db8:2000::1 care-of address 2001:db8:3000::4
    ");
}

/// Other keys under the same SPI are a replacement; no key is in any text.
#[test]
fn other_keys_are_a_replacement_and_no_text_has_them() {
    let build = |key| {
        let configuration = configuration(Role::MobileNode, &[true], key, 1000);
        compile(&configuration, &bindings(&[Some(3)]), &site(Some("eth0"), false))
    };
    let plan = diff(&build(0xa5), &build(0x5a));
    assert_eq!(plan.steps.len(), 2);
    assert!(plan.steps.iter().all(|s| matches!(s, Step::ReplaceAssociation(_))));
    let text = format!("{plan:?}{}", plan.steps.iter().map(ToString::to_string).collect::<String>());
    for octet in ["a5, ", "165, ", "a5a5", "0xa5"] {
        assert!(!text.contains(octet), "{octet} in {text}");
    }
}

/// SAs of an earlier policy file serve no one any more: known by addresses and reqid.
#[test]
fn an_sa_left_behind_under_another_spi_goes() {
    let configuration = configuration(Role::MobileNode, &[true], 1, 1000);
    let wanted = at_rest(&configuration);
    let mut observed = wanted.clone();
    let old = sa(home_address(0), home_agent(), 77, 1, 1);
    let alien = sa(home_address(0), home_agent(), 78, 99, 1);
    observed.associations.extend([(old.key, old.clone()), (alien.key, alien)]);
    assert_eq!(diff(&wanted, &owned(&configuration, &observed)).steps, [Step::RemoveAssociation(old.key)]);
}

/// A link of our name that is not of our kind is not ours: it is neither changed nor removed, and adding ours fails.
#[test]
fn a_link_that_only_has_our_name_is_not_ours() {
    let configuration = configuration(Role::MobileNode, &[true], 1, 1000);
    let wanted = compile(&configuration, &Bindings::default(), &site(None, false));
    let mut observed = KernelState::default();
    let name = HOME_ADDRESS_LINK.to_owned();
    let kind = LinkKind::Other("bridge".to_owned());
    let alien = Link { name: name.clone(), kind, up: true, ipv6_disabled: false, generates_link_local: true };
    observed.links.insert(name, alien);
    let plan = diff(&wanted, &owned(&configuration, &observed));
    assert!(plan.steps.iter().any(|s| matches!(s, Step::AddLink(_))));
    assert!(!plan.steps.iter().any(|s| matches!(s, Step::UpdateLink(_) | Step::RemoveLink(_))));
}

/// Objects of others, of every sort, some of them near to ours.
fn aliens() -> KernelState {
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

fn union(mut a: KernelState, b: &KernelState) -> KernelState {
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

/// Damage as others may do it: the n-th object is gone, is changed, or has contents that we do not speak.
fn damage(state: &mut KernelState, what: u8, index: usize) {
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

type Case = (bool, Vec<bool>, Vec<Option<u16>>, bool, bool, u8, u32);

fn case() -> impl Strategy<Value = Case> {
    (
        any::<bool>(),
        prop::collection::vec(any::<bool>(), 0..4),
        prop::collection::vec(prop::option::of(1..4u16), 0..4),
        any::<bool>(),
        any::<bool>(),
        1..3u8,
        prop::sample::select(vec![1000u32, 2000]),
    )
}

fn build((_, mask, places, tunnel6, uplink, key, spi): &Case, role: Role) -> (Configuration, KernelState) {
    let configuration = configuration(role, mask, *key, *spi);
    let state = compile(&configuration, &bindings(places), &site(uplink.then_some("eth0"), *tunnel6));
    (configuration, state)
}

proptest! {
    /// From any damaged state of ours among alien objects to any other: reached in one plan, aliens untouched, nothing left to
    /// do, nothing leaked on the way.
    #[test]
    fn a_plan_reaches_what_is_wanted(from in case(), to in case(), wounds in prop::collection::vec((0..12u8, 0..16usize), 0..4)) {
        let role = if to.0 { Role::MobileNode } else { Role::HomeAgent };
        let (_, mut observed) = build(&from, role);
        wounds.iter().for_each(|(what, index)| damage(&mut observed, *what, *index));
        let (configuration, wanted) = build(&to, role);
        let observed = union(observed, &aliens());

        let ours = owned(&configuration, &observed);
        let plan = diff(&wanted, &ours);
        assert_tight(&configuration, &ours, &plan);
        let reached = after(&observed, &plan);
        let ours = owned(&configuration, &reached);
        prop_assert_eq!(&ours, &wanted);
        prop_assert!(diff(&wanted, &ours).is_empty());

        let untouched = union(reached.clone(), &aliens());
        prop_assert_eq!(untouched, reached, "an alien object was touched");
        let touched: BTreeSet<_> = plan.steps.iter().map(ToString::to_string).collect();
        prop_assert_eq!(touched.len(), plan.steps.len(), "a step twice");
    }
}
