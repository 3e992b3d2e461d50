//! Plans for the kernel's state: complete, minimal, blind to alien objects, and never leaky on the way.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use kagemusha::ipsec::{Direction, Mode, PolicyKey, TemplateProtocol};
use kagemusha::kernel_state::{
    Bindings, Configuration, FAILSAFE_PRIORITY, HOME_ADDRESS_LINK, KernelState, Link, LinkKind, Plan, SINK_LINK, Step,
    at_rest, compile, diff, owned,
};
use kagemusha::policy::Role;
use kagemusha::vocabulary::Prefix;
use proptest::prelude::*;

use crate::cast::{
    ACKNOWLEDGEMENT, ROLES, UPDATE, bindings, care_of, configuration, home_address, home_agent, mobility,
    protected_messages, sa, site,
};
use crate::damage::{aliens, damage, union};
use crate::machine::{Machine, Starts};
use crate::path::Fate;
use crate::wire::Message;

fn machine(state: &KernelState) -> Machine {
    Machine::new(state.clone(), [home_agent()])
}

fn after(state: &KernelState, plan: &Plan) -> KernelState {
    machine(state).after(plan).state
}

fn take(machine: &mut Machine, step: &Step) {
    machine.take(step, &Starts::new()).unwrap_or_else(|refusal| panic!("{refusal:?}: {step}"));
}

fn fate(state: &KernelState, direction: Direction, source: Ipv6Addr, destination: Ipv6Addr, kind: u8) -> Fate {
    machine(state).fate(direction, mobility(source, destination, kind))
}

fn leaks(machine: &Machine, messages: &[(Direction, Message)]) -> bool {
    messages.iter().any(|(direction, message)| machine.fate(*direction, *message) == Fate::Clear)
}

/// No prefix of the plan leaks. From a state that leaks already, none does once the failsafe policies are there and the old
/// policies are updated or removed, which is what such a plan begins with.
fn assert_tight(configuration: &Configuration, observed: &KernelState, plan: &Plan) {
    let messages = protected_messages(configuration, None);
    let mut state = machine(observed);
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
            let (mut passing, messages) = (machine(&state), protected_messages(&configuration, None));
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
        let machine = machine(&state);
        let policy = machine.policy(direction, mobility(from, to, kind)).unwrap();
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
