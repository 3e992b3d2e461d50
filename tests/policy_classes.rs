//! Every protection class in the kernel's state: both sides mirror each other, a move migrates tunnels, and on the way nothing
//! of a class leaves in the clear.

use std::net::Ipv6Addr;

use kagemusha::ipsec::{
    Action, AssociationKey, AssociationLifetime, Class, Direction, Encryption, Esp, EspMode, Integrity, PolicyKey,
    SecretKey, SecurityAssociation, SecurityPolicy, Selector, Template, TemplateProtocol, Toward, Transform,
    UpperLayer,
};
use kagemusha::kernel_state::{
    Bindings, Configuration, Guest, KernelState, Site, Step, at_rest, compile, diff, needs_another_name, owned,
};
use kagemusha::policy::{Protection, Reqids, Role};
use kagemusha::vocabulary::{GuestId, Prefix};
use proptest::prelude::*;

const fn address(subnet: u16, host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, subnet, 0, 0, 0, 0, host)
}

const HOME_AGENT: Ipv6Addr = address(0x2000, 1);
const CORRESPONDENT: Ipv6Addr = address(0x5000, 2);

/// Instead of the number of a care-of address: the guest returns home.
const AT_HOME: u16 = 0;

fn home_address(guest: usize) -> Ipv6Addr {
    address(0x2000, 0x10 + guest as u16)
}

fn guest(index: usize, classes: &[Class], hosts: u32) -> Guest {
    let mut protection = Protection::NONE;
    for class in classes {
        let number = (index * 100 + 10 * Class::ALL.iter().take_while(|one| *one != class).count()) as u32;
        let reqids = Reqids { to_home_agent: number + 1, to_guest: number + 2 };
        protection.classes.insert(*class, reqids);
        for toward in Toward::BOTH {
            for host in 0..if toward == Toward::HomeAgent { hosts } else { 1 } {
                let (source, destination, spi) = match toward {
                    Toward::HomeAgent => (home_address(index), HOME_AGENT, 1000 + number + host),
                    Toward::Guest => (HOME_AGENT, home_address(index), 5000 + number),
                };
                let octet = (spi % 251) as u8;
                protection.associations.push(SecurityAssociation {
                    key: AssociationKey { source, destination, protocol: 50, spi },
                    transform: Transform::Esp(Esp {
                        mode: class.mode(),
                        reqid: reqids.toward(toward),
                        encryption: (Encryption::AesCbc, SecretKey::new(vec![octet; 32])),
                        integrity: Some((Integrity::HmacSha256, SecretKey::new(vec![octet ^ 0xff; 32]))),
                        replay_window: 32,
                        extended_sequence_numbers: spi % 3 == 0,
                        lifetime: AssociationLifetime::default(),
                    }),
                });
            }
        }
    }
    Guest { home_address: home_address(index), protection }
}

/// What a policy file can say: registrations are protected, and not both classes for mobility headers in a tunnel.
fn classes() -> impl Strategy<Value = Vec<Class>> {
    prop::collection::vec(any::<bool>(), Class::ALL.len()).prop_map(|chosen| {
        let mut classes: Vec<Class> =
            Class::ALL.into_iter().zip(chosen).filter(|(_, yes)| *yes).map(|(c, _)| c).collect();
        if !classes.iter().any(|class| class.protects_registrations()) {
            classes.insert(0, Class::HomeRegistration);
        }
        if classes.contains(&Class::ReturnRoutability) {
            classes.retain(|class| *class != Class::TunnelMobilityHeaders);
        }
        classes
    })
}

fn configuration(role: Role, guests: &[Vec<Class>], hosts: u32) -> Configuration {
    let guests = guests.iter().enumerate().map(|(index, classes)| guest(index, classes, hosts)).collect();
    Configuration { role, home_agent: HOME_AGENT, guests }
}

fn bindings(care_of: &[Option<u16>]) -> Bindings {
    let place = |index, number| if number == AT_HOME { home_address(index) } else { address(0x3000, number) };
    let bound = |(index, number): (usize, &Option<u16>)| number.map(|n| (GuestId(index), place(index, n)));
    Bindings(care_of.iter().enumerate().filter_map(bound).collect())
}

fn wanted(configuration: &Configuration, care_of: &[Option<u16>]) -> KernelState {
    let site = Site { uplink: Some("eth0".to_owned()), tunnel6_loaded: false };
    compile(configuration, &bindings(care_of), &site)
}

fn esp(templates: &[Template]) -> Option<Template> {
    templates.iter().copied().find(|one| one.protocol == TemplateProtocol::Esp)
}

/// What is sent under ESP, and by which template.
fn sent(state: &KernelState) -> Vec<(Selector, Template)> {
    let out = state.policies.values().filter(|policy| policy.key.direction == Direction::Out);
    out.filter_map(|policy| Some((policy.key.selector, esp(&policy.templates)?))).collect()
}

/// What a kernel may take received packets of this selector for: the type is known of ICMPv6 without an extension header in front, or from 6.7
/// on, and never of all mobility headers.
fn as_seen(selector: Selector) -> Vec<Selector> {
    let layers = match selector.upper_layer {
        UpperLayer::MobilityHeader(kind) => vec![UpperLayer::MobilityHeader(kind), UpperLayer::MobilityHeader(0)],
        UpperLayer::Icmpv6(kind) => vec![UpperLayer::Icmpv6(kind), UpperLayer::Icmpv6(58)],
        other => vec![other],
    };
    layers.into_iter().map(|upper_layer| Selector { upper_layer, ..selector }).collect()
}

/// The policy that decides on all packets of this selector.
fn decides(state: &KernelState, direction: Direction, seen: Selector) -> Option<&SecurityPolicy> {
    let takes = |selector: &Selector| {
        let layer = match (selector.upper_layer, seen.upper_layer) {
            (UpperLayer::Any, _) => true,
            (UpperLayer::Protocol(135), UpperLayer::MobilityHeader(_)) => true,
            (UpperLayer::Protocol(58), UpperLayer::Icmpv6(_)) => true,
            (one, other) => one == other,
        };
        layer && selector.source.covers(seen.source) && selector.destination.covers(seen.destination)
    };
    let policies = state.policies.values();
    let taking = policies.filter(|policy| policy.key.direction == direction && takes(&policy.key.selector));
    taking.min_by_key(|policy| policy.key.priority)
}

/// Every set of classes that a policy file can have.
fn every_set_of_classes() -> impl Iterator<Item = Vec<Class>> {
    let chosen = (1..1u32 << Class::ALL.len()).map(|bits| {
        Class::ALL.into_iter().enumerate().filter(|(at, _)| bits & (1 << at) != 0).map(|(_, class)| class).collect()
    });
    chosen.filter(|classes: &Vec<Class>| {
        let both = [Class::ReturnRoutability, Class::TunnelMobilityHeaders].iter().all(|class| classes.contains(class));
        classes.iter().any(|class| class.protects_registrations()) && !both
    })
}

/// What is received and forwarded is selected by what kernels know of it: since Linux 6.7 no type of mobility headers. And of it only what comes
/// under an SA of this very guest is taken: each policy asks for a reqid, and only SAs from this guest to its home agent, or back, have it.
#[test]
fn nothing_that_is_received_or_forwarded_depends_on_a_mobility_header_type() {
    for (classes, role) in
        every_set_of_classes().flat_map(|set| [Role::MobileNode, Role::HomeAgent].map(|role| (set.clone(), role)))
    {
        let configuration = configuration(role, &[classes.clone(), classes.clone()], 1);
        let toward = if role == Role::MobileNode { Toward::Guest } else { Toward::HomeAgent };
        for place in [None, Some(3), Some(AT_HOME)] {
            if role == Role::HomeAgent && place == Some(AT_HOME) {
                continue;
            }
            let state = wanted(&configuration, &[place, place]);
            for policy in state.policies.values() {
                let selector = policy.key.selector;
                let typed = matches!(selector.upper_layer, UpperLayer::MobilityHeader(_));
                // What a home agent puts into a tunnel it forwards.
                let forwarded = role == Role::HomeAgent && selector.source == Prefix::ANY;
                assert!(!typed || policy.key.direction == Direction::Out && !forwarded, "{classes:?} {policy:?}");
                let Some(template) = esp(&policy.templates).filter(|_| policy.key.direction != Direction::Out) else {
                    continue;
                };
                let guest = (0..2).find(|guest| {
                    let host = Prefix::host(home_address(*guest));
                    host == if toward == Toward::Guest { selector.destination } else { selector.source }
                });
                let guest = guest.unwrap_or_else(|| panic!("for whom? {policy:?}"));
                let serving = state.associations.values().filter(|sa| sa.reqid() == Some(template.reqid));
                for sa in serving {
                    let its = configuration.guests[guest].protection.associations.iter();
                    assert!(its.map(|sa| sa.key.spi).any(|spi| spi == sa.key.spi), "{classes:?} {policy:?} {sa:?}");
                }
            }
        }
    }
}

proptest! {
    /// What one side sends under ESP the other wants so, under the same SAs, whatever its kernel takes it for.
    #[test]
    fn the_two_sides_are_mirror_images(guests in prop::collection::vec(classes(), 1..4)) {
        let care_of: Vec<_> = (0..guests.len()).map(|_| Some(3)).collect();
        let [host, agent] = [Role::MobileNode, Role::HomeAgent].map(|role| wanted(&configuration(role, &guests, 1), &care_of));
        for (sender, receiver, to_guest) in [(&host, &agent, false), (&agent, &host, true)] {
            for (selector, template) in sent(sender) {
                // One SA serves the template, and it is the same there but for the reqid, which each side has for itself.
                let serves = |sa: &&SecurityAssociation| {
                    (sa.key.source == HOME_AGENT) == to_guest && sa.reqid() == Some(template.reqid)
                };
                let serving: Vec<_> = sender.associations.values().filter(serves).collect();
                prop_assert_eq!(serving.len(), 1, "{:?}", selector);
                let there = &receiver.associations[&serving[0].key];
                let directions: &[_] = match template.mode == EspMode::Tunnel.into() {
                    true => &[Direction::In, Direction::Forward],
                    false => &[Direction::In],
                };
                for (direction, seen) in directions.iter().flat_map(|one| as_seen(selector).into_iter().map(move |seen| (*one, seen))) {
                    let wanted = decides(receiver, direction, seen).and_then(|policy| esp(&policy.templates));
                    let Some(wanted) = wanted else { return Err(TestCaseError::fail(format!("{direction:?} {seen:?}"))) };
                    prop_assert_eq!(Some(wanted.reqid), there.reqid(), "{:?} {:?}", direction, seen);
                    prop_assert_eq!(wanted.mode, template.mode);
                    if template.mode == EspMode::Tunnel.into() {
                        prop_assert_eq!((wanted.source, wanted.destination), (there.key.source, there.key.destination));
                    }
                }
            }
        }
    }

    /// Whatever comes after what, the plan leads there; on the way and at the end nothing of a class leaves the host in the clear.
    #[test]
    fn no_class_leaves_in_clear_on_the_way(
        guests in prop::collection::vec(classes(), 1..3),
        moves in prop::collection::vec(prop::collection::vec(prop::option::of(prop_oneof![3u16..6, Just(AT_HOME)]), 2), 1..6),
        role in prop::sample::select(vec![Role::MobileNode, Role::HomeAgent]),
        hosts in 1u32..3,
    ) {
        let hosts = if role == Role::HomeAgent { hosts } else { 1 };
        let configuration = configuration(role, &guests, hosts);
        let mut state = KernelState::default();
        go(&mut state, &at_rest(&configuration), &configuration, false)?;
        for care_of in &moves {
            // A home agent has no such binding.
            let there = |number: &Option<u16>| number.filter(|n| role == Role::MobileNode || *n != AT_HOME);
            let care_of: Vec<_> = care_of.iter().map(there).collect();
            go(&mut state, &wanted(&configuration, &care_of), &configuration, true)?;
        }
    }

    /// On the home link the kernel puts in no Home Address option and wants no routing header; under ESP it is all the same.
    #[test]
    fn a_return_home_is_protected_like_a_registration(classes in classes()) {
        let guests = [classes];
        let host = wanted(&configuration(Role::MobileNode, &guests, 1), &[Some(AT_HOME)]);
        let agent = wanted(&configuration(Role::HomeAgent, &guests, 1), &[None]);
        prop_assert!(!leaves_in_clear(&host, &guest(0, &guests[0], 1), Class::HomeRegistration));
        prop_assert!(host.associations.values().all(|sa| sa.transform.esp().is_some()));
        prop_assert!(host.policies.values().all(|policy| policy.templates.iter().all(|one| one.protocol == TemplateProtocol::Esp)));
        prop_assert!(host.rules.iter().all(|rule| rule.source == Prefix::ANY), "it leaves natively");
        prop_assert_eq!(host.rules.len(), 1);
        let [(selector, template)] = sent(&host)[..] else { return Err(TestCaseError::fail("not one thing to send")) };
        let protection = guest(0, &guests[0], 1).protection;
        let Some((class, _)) = protection.serves(template.reqid) else { return Err(TestCaseError::fail("no class")) };
        let served = |state: &KernelState, toward: Toward| {
            let reqid = protection.classes[&class].toward(toward);
            let its = protection.associations.iter().find(|sa| sa.reqid() == Some(reqid));
            its.and_then(|sa| state.associations[&sa.key].reqid())
        };
        for seen in as_seen(selector) {
            let update = decides(&agent, Direction::In, seen).and_then(|policy| esp(&policy.templates));
            prop_assert_eq!(update.map(|esp| esp.reqid), served(&agent, Toward::HomeAgent));
        }
        let upper_layer = class.upper_layer(Toward::Guest);
        let back = Selector { source: selector.destination, destination: selector.source, upper_layer };
        let sent_back = decides(&agent, Direction::Out, back).and_then(|policy| esp(&policy.templates));
        prop_assert_eq!(sent_back.map(|esp| esp.reqid), served(&agent, Toward::Guest));
        for seen in as_seen(back) {
            let answer = decides(&host, Direction::In, seen).and_then(|policy| esp(&policy.templates));
            prop_assert_eq!(answer.map(|esp| esp.reqid), served(&host, Toward::Guest));
        }
    }
}

/// Takes a plan step by step.
fn go(
    state: &mut KernelState,
    wanted: &KernelState,
    configuration: &Configuration,
    checked: bool,
) -> Result<(), TestCaseError> {
    let plan = diff(wanted, &owned(configuration, state));
    for step in &plan.steps {
        take(state, step);
        if checked && configuration.role == Role::MobileNode {
            for guest in &configuration.guests {
                for class in guest.protection.classes.keys() {
                    prop_assert!(!leaves_in_clear(state, guest, *class), "{class} after: {step}");
                }
            }
        }
    }
    prop_assert_eq!(&state.associations, &wanted.associations);
    prop_assert_eq!(&state.policies, &wanted.policies);
    Ok(())
}

/// What the kernel does with a step that is about IPsec; it refuses by a panic.
fn take(state: &mut KernelState, step: &Step) {
    match step {
        Step::AddPolicy(p) => {
            let name = |key: &PolicyKey| (key.direction, key.selector, needs_another_name(key));
            assert!(!state.policies.keys().any(|key| name(key) == name(&p.key)), "EEXIST: {step}");
            state.policies.insert(p.key, p.clone());
        }
        Step::UpdatePolicy(p) => assert!(state.policies.insert(p.key, p.clone()).is_some(), "ENOENT: {step}"),
        Step::RemovePolicy(key) => assert!(state.policies.remove(key).is_some(), "ENOENT: {step}"),
        Step::AddAssociation(a) => assert!(state.associations.insert(a.key, a.clone()).is_none(), "EEXIST: {step}"),
        Step::UpdateAssociation(a) | Step::ReplaceAssociation(a) => {
            assert!(state.associations.insert(a.key, a.clone()).is_some(), "ESRCH: {step}");
        }
        Step::RemoveAssociation(key) => assert!(state.associations.remove(key).is_some(), "ESRCH: {step}"),
        Step::MoveAssociation { from, to } => {
            assert!(state.associations.remove(from).is_some(), "ESRCH: {step}");
            assert!(state.associations.insert(to.key, to.clone()).is_none(), "EEXIST: {step}");
        }
        Step::Migrate(m) => {
            assert!(state.policies.contains_key(&m.policy), "ENOENT: {step}");
            let template = state.policies.get_mut(&m.policy).and_then(|policy| policy.templates.first_mut());
            let Some(template) = template else { unreachable!("ENODATA: {step}") };
            assert_eq!((template.source, template.destination), m.from, "ENODATA: {step}");
            (template.source, template.destination) = m.to;
            let served =
                |a: &&SecurityAssociation| (a.key.source, a.key.destination) == m.from && a.reqid() == Some(m.reqid);
            if let Some(mut a) = state.associations.values().find(served).cloned() {
                state.associations.remove(&a.key);
                (a.key.source, a.key.destination) = m.to;
                assert!(state.associations.insert(a.key, a).is_none(), "EEXIST: {step}");
            }
        }
        _ => {}
    }
}

/// Whether the SPD lets a packet of the class out without ESP.
fn leaves_in_clear(state: &KernelState, guest: &Guest, class: Class) -> bool {
    let destination = if class.is_tunnel() { CORRESPONDENT } else { HOME_AGENT };
    let (source, destination) = (Prefix::host(guest.home_address), Prefix::host(destination));
    let packet = Selector { source, destination, upper_layer: class.upper_layer(Toward::HomeAgent) };
    decides(state, Direction::Out, packet)
        .is_none_or(|policy| policy.action == Action::Allow && esp(&policy.templates).is_none())
}

/// A move of one host: templates and SAs of tunnels migrate, and nothing of ESP is made, changed or removed; but for what a host sends by type,
/// which no kernel since 6.12 moves: its policy is updated, and then its SA goes on under another name.
#[test]
fn a_move_migrates_tunnels_in_place() {
    for role in [Role::MobileNode, Role::HomeAgent] {
        let classes = vec![vec![Class::HomeRegistration, Class::ReturnRoutability, Class::TunnelPayload]];
        let configuration = configuration(role, &classes, 1);
        let (before, after) = (wanted(&configuration, &[Some(3)]), wanted(&configuration, &[Some(4)]));
        let plan = diff(&after, &owned(&configuration, &before));
        let migrations = plan.steps.iter().filter(|step| matches!(step, Step::Migrate(_))).count();
        // Out, in and forward of each, but for what a host sends by type.
        assert_eq!(migrations, if role == Role::MobileNode { 5 } else { 6 });
        let by_type: Vec<_> =
            plan.steps.iter().filter(|step| !matches!(step, Step::Migrate(_)) && step.is_ipsec()).collect();
        match (role, &by_type[..]) {
            (Role::MobileNode, [Step::UpdatePolicy(policy), Step::MoveAssociation { from, to }, rest @ ..]) => {
                assert_eq!(policy.key.selector.upper_layer, UpperLayer::MobilityHeader(1));
                let ends = |key: &AssociationKey| (key.source, key.destination, key.spi);
                let spi = 1000 + 10 * 5;
                assert_eq!(ends(from), (address(0x3000, 3), HOME_AGENT, spi));
                assert_eq!(ends(&to.key), (address(0x3000, 4), HOME_AGENT, spi));
                assert!(rest.iter().all(|step| matches!(step, Step::UpdateAssociation(_))), "{rest:?}");
            }
            (Role::HomeAgent, []) => {}
            (_, others) => panic!("{others:?}"),
        }
        for step in &plan.steps {
            let esp = match step {
                Step::AddAssociation(a) | Step::UpdateAssociation(a) | Step::ReplaceAssociation(a) => {
                    a.key.protocol == 50
                }
                Step::RemoveAssociation(key) => key.protocol == 50,
                _ => false,
            };
            assert!(!esp, "{step}");
        }
    }
}
