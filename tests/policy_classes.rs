//! Every protection class in the kernel's state: both sides mirror each other, a move migrates tunnels, and on the way nothing
//! of a class leaves in the clear.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use kagemusha::ipsec::{
    Action, AssociationKey, AssociationLifetime, Class, Direction, Encryption, Esp, EspMode, Integrity, PolicyKey,
    SecretKey, SecurityAssociation, Selector, Template, TemplateProtocol, Toward, Transform, UpperLayer,
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

/// The ESP templates by direction and selector.
fn protected(state: &KernelState) -> BTreeMap<(Direction, Selector), Template> {
    let esp = |templates: &[Template]| templates.iter().copied().find(|one| one.protocol == TemplateProtocol::Esp);
    let policies = state.policies.values();
    policies.filter_map(|p| Some(((p.key.direction, p.key.selector), esp(&p.templates)?))).collect()
}

proptest! {
    /// What one side sends under ESP the other wants so, under the same SAs.
    #[test]
    fn the_two_sides_are_mirror_images(guests in prop::collection::vec(classes(), 1..4)) {
        let care_of: Vec<_> = (0..guests.len()).map(|_| Some(3)).collect();
        let [host, agent] = [Role::MobileNode, Role::HomeAgent].map(|role| wanted(&configuration(role, &guests, 1), &care_of));
        for (sender, receiver) in [(&host, &agent), (&agent, &host)] {
            let there = protected(receiver);
            for ((direction, selector), template) in protected(sender) {
                if direction != Direction::Out {
                    continue;
                }
                prop_assert_eq!(there.get(&(Direction::In, selector)), Some(&template), "{:?}", selector);
                if template.mode == EspMode::Tunnel.into() {
                    prop_assert_eq!(there.get(&(Direction::Forward, selector)), Some(&template), "{:?}", selector);
                }
                // An SA serves the template, and the same one there.
                let serves = |sa: &&SecurityAssociation| sa.reqid() == Some(template.reqid);
                let of = |state: &KernelState| state.associations.values().filter(serves).cloned().collect::<Vec<_>>();
                prop_assert_eq!(of(sender).len(), 1);
                prop_assert_eq!(of(sender), of(receiver));
                if template.mode == EspMode::Tunnel.into() {
                    let key = of(sender)[0].key;
                    prop_assert_eq!((key.source, key.destination), (template.source, template.destination));
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
        let (here, there) = (protected(&host), protected(&agent));
        let sent: Vec<_> = here.iter().filter(|((direction, _), _)| *direction == Direction::Out).collect();
        prop_assert_eq!(sent.len(), 1);
        for ((_, selector), template) in sent {
            prop_assert_eq!(there.get(&(Direction::In, *selector)), Some(template));
            let answer = there.iter().find(|((direction, back), esp)| {
                let ends = back.source == selector.destination && back.destination == selector.source;
                *direction == Direction::Out && ends && esp.reqid == template.reqid + 1
            });
            let Some(((_, back), answer)) = answer else { return Err(TestCaseError::fail("no answer")) };
            prop_assert_eq!(here.get(&(Direction::In, *back)), Some(answer));
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
    let packet = class.upper_layer(Toward::HomeAgent);
    let takes = |selector: &Selector| {
        let layer = match (selector.upper_layer, packet) {
            (UpperLayer::Any, _) => true,
            (UpperLayer::Protocol(135), UpperLayer::MobilityHeader(_)) => true,
            (UpperLayer::Protocol(58), UpperLayer::Icmpv6(_)) => true,
            (one, other) => one == other,
        };
        layer && selector.source.contains(guest.home_address) && selector.destination.contains(destination)
    };
    let out = state.policies.values().filter(|p| p.key.direction == Direction::Out && takes(&p.key.selector));
    out.min_by_key(|p| p.key.priority).is_none_or(|policy| {
        policy.action == Action::Allow && !policy.templates.iter().any(|one| one.protocol == TemplateProtocol::Esp)
    })
}

/// A move of one host: templates and SAs of tunnels migrate, and nothing of ESP is made, changed or removed.
#[test]
fn a_move_migrates_tunnels_in_place() {
    for role in [Role::MobileNode, Role::HomeAgent] {
        let classes = vec![vec![Class::HomeRegistration, Class::ReturnRoutability, Class::TunnelPayload]];
        let configuration = configuration(role, &classes, 1);
        let (before, after) = (wanted(&configuration, &[Some(3)]), wanted(&configuration, &[Some(4)]));
        let plan = diff(&after, &owned(&configuration, &before));
        let migrations = plan.steps.iter().filter(|step| matches!(step, Step::Migrate(_))).count();
        // Out, in and forward of each; those for what the kernel cannot read beside, and of those to send only at the home agent.
        assert_eq!(migrations, if role == Role::MobileNode { 8 } else { 9 });
        for step in &plan.steps {
            let esp = match step {
                Step::AddAssociation(a) | Step::UpdateAssociation(a) | Step::ReplaceAssociation(a) => {
                    a.key.protocol == 50
                }
                Step::RemoveAssociation(key) => key.protocol == 50,
                Step::MoveAssociation { .. } => true,
                _ => false,
            };
            assert!(!esp, "{step}");
        }
    }
}
