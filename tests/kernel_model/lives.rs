//! Random lives of a host and its home agent: any policies, any bindings, any leftovers, and then steps, kills, restarts, losses of power, moves,
//! damage by others and packets in any order. A failure prints its seed (proptest keeps it in `kernel_model.proptest-regressions`).

use kagemusha::ipsec::Class;
use kagemusha::kernel_state::{KernelState, compile};
use kagemusha::policy::Role;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use crate::cast::{bindings, configuration_of, site};
use crate::damage::{aliens, damage, union};
use crate::host::{Numbering, Rules, rules};
use crate::kernel::{KERNELS, Kernel};
use crate::mutants;
use crate::pair::{AGENT, HOST, Pair};

#[derive(Debug, Clone)]
enum Event {
    Start(usize),
    /// Nothing happens for so long that the daemon at this end is done.
    Rest(usize),
    Steps(usize, usize),
    Kill(usize),
    LosePower(usize),
    Leave(usize),
    Go(usize, Option<u16>),
    Tamper(usize, u8, usize),
    Register(usize),
    Acknowledge(usize),
    Reserve(usize),
}

fn event() -> impl Strategy<Value = Event> {
    let end = || HOST..=AGENT;
    prop_oneof![
        3 => end().prop_map(Event::Start),
        10 => end().prop_map(Event::Rest),
        6 => (end(), prop::sample::select(vec![1usize, 2, 5])).prop_map(|(end, count)| Event::Steps(end, count)),
        2 => end().prop_map(Event::Kill),
        1 => end().prop_map(Event::LosePower),
        1 => end().prop_map(Event::Leave),
        3 => (0..3usize, prop::option::weighted(0.8, 1..4u16)).prop_map(|(guest, place)| Event::Go(guest, place)),
        3 => (end(), 0..12u8, 0..24usize).prop_map(|(end, what, index)| Event::Tamper(end, what, index)),
        10 => (0..3usize).prop_map(Event::Register),
        6 => (0..3usize).prop_map(Event::Acknowledge),
        1 => end().prop_map(Event::Reserve),
    ]
}

type Beginning = (Vec<Vec<Class>>, Vec<Option<u16>>, [Leftover; 2], [Kernel; 2]);

/// What an earlier daemon left: protections, places, keys, SPIs, and what was damaged since. None: nothing.
type Leftover = Option<(Vec<Vec<Class>>, Vec<Option<u16>>, u8, u32, Vec<(u8, usize)>)>;

/// Registrations are protected, most often by their own class; and any other class, or nothing at all.
fn classes() -> impl Strategy<Value = Vec<Class>> {
    let others = prop::sample::subsequence(Class::ALL.to_vec(), 0..=4);
    let protected = (prop::bool::weighted(0.8), others).prop_map(|(registration, mut classes)| {
        if registration && !classes.contains(&Class::HomeRegistration) {
            classes.insert(0, Class::HomeRegistration);
        }
        // The policy check refuses these two together.
        if classes.contains(&Class::TunnelMobilityHeaders) {
            classes.retain(|class| *class != Class::ReturnRoutability);
        }
        if classes.iter().any(|class| class.protects_registrations()) { classes } else { vec![] }
    });
    prop_oneof![3 => Just(vec![Class::HomeRegistration]), 1 => Just(vec![]), 4 => protected]
}

fn leftover() -> impl Strategy<Value = Leftover> {
    prop::option::of((
        prop::collection::vec(classes(), 0..4),
        prop::collection::vec(prop::option::of(1..4u16), 0..4),
        1..3u8,
        prop::sample::select(vec![1000u32, 2000]),
        prop::collection::vec((0..12u8, 0..24usize), 0..3),
    ))
}

fn beginning() -> impl Strategy<Value = Beginning> {
    let guests = prop::collection::vec((classes(), prop::option::weighted(0.7, 1..4u16)), 1..4);
    let kernel = || prop::sample::select(KERNELS.to_vec());
    (guests, leftover(), leftover(), kernel(), kernel()).prop_map(|(guests, there, here, one, other)| {
        let (classes, places) = guests.into_iter().unzip();
        (classes, places, [there, here], [one, other])
    })
}

fn left_behind(role: Role, leftover: &Leftover) -> KernelState {
    let Some((classes, places, key, spi, wounds)) = leftover else { return aliens() };
    let configuration = configuration_of(role, classes, *key, *spi);
    let mut state = compile(&configuration, &bindings(places), &site(Some("eth1"), false));
    wounds.iter().for_each(|(what, index)| damage(&mut state, *what, *index));
    union(state, &aliens())
}

/// Lives it; gives the numbers of messages that arrived.
fn live(rules: Rules, beginning: &Beginning, events: &[Event]) -> Result<[u32; 2], String> {
    let (classes, places, [there, here], [one, other]) = beginning;
    let before = [(*one, left_behind(Role::MobileNode, there)), (*other, left_behind(Role::HomeAgent, here))];
    let mut pair = Pair::new(rules, classes, places.clone(), before);
    for (number, event) in events.iter().enumerate() {
        match event {
            Event::Start(end) => pair.start(*end),
            Event::Rest(end) => {
                pair.start(*end);
                pair.steps(*end, 500);
            }
            Event::Steps(end, count) => pair.steps(*end, *count),
            Event::Kill(end) => pair.kill(*end),
            Event::LosePower(end) => pair.lose_power(*end),
            Event::Leave(end) => pair.leave(*end),
            Event::Go(guest, place) => pair.go(*guest, *place),
            Event::Tamper(end, what, index) => pair.tamper(*end, *what, *index),
            Event::Register(guest) => pair.register(*guest),
            Event::Acknowledge(guest) => pair.acknowledge(*guest),
            Event::Reserve(end) => pair.reserve(*end),
        }
        pair.is_sound().map_err(|wrong| format!("{wrong} after event {number}, {event:?}"))?;
    }
    pair.settle()?;
    pair.mirror()?;
    Ok(pair.received)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 700, ..ProptestConfig::default() })]

    #[test]
    fn any_life_of_a_host_and_its_home_agent(beginning in beginning(), events in prop::collection::vec(event(), 0..60)) {
        if let Err(wrong) = live(rules(), &beginning, &events) {
            return Err(TestCaseError::fail(wrong));
        }
    }
}

/// Lives as random as those above, from a seed that is always the same.
fn some_lives(count: usize) -> Vec<(Beginning, Vec<Event>)> {
    let mut runner = TestRunner::deterministic();
    let lives = (beginning(), prop::collection::vec(event(), 0..60));
    (0..count).map(|_| lives.new_tree(&mut runner).unwrap().current()).collect()
}

/// What the explorer finds by looking everywhere, random lives stumble upon.
#[test]
fn random_lives_go_wrong_when_a_rule_is_broken() {
    let lives = some_lives(700);
    let mut lived = lives.iter().map(|(beginning, events)| live(rules(), beginning, events));
    assert_eq!(lived.find(Result::is_err), None);
    let broken = [
        (Rules { order: mutants::failsafe_goes_first, ..rules() }, "in the clear"),
        (Rules { order: mutants::failsafe_comes_last, ..rules() }, "in the clear"),
        (Rules { order: mutants::no_failsafe, ..rules() }, "in the clear"),
        (Rules { order: mutants::emptied_before_it_goes, ..rules() }, "in the clear"),
        (Rules { order: mutants::no_rules, ..rules() }, "not as it should be"),
        (Rules { wanted: mutants::inbound_by_type, ..rules() }, "is refused"),
        (Rules { wanted: mutants::unread_is_let_in, ..rules() }, "in in the clear"),
        (Rules { order: mutants::moves_by_type, ..rules() }, "does not move"),
        (Rules { unselective: true, ..rules() }, "should be refused"),
        (Rules { numbering: Numbering::FromZero, ..rules() }, "used again"),
        (Rules { owned: |_, observed| observed.clone(), ..rules() }, "what others own was touched"),
    ];
    for (number, (rules, expected)) in broken.into_iter().enumerate() {
        let wrong = |(beginning, events): &(Beginning, Vec<Event>)| live(rules.clone(), beginning, events).err();
        let found = lives.iter().filter_map(wrong).any(|wrong| wrong.contains(expected));
        assert!(found, "mutant {number}: no life goes wrong with: {expected}");
    }
}

/// The lives are no dull ones: most see messages arrive at both ends.
#[test]
fn random_lives_are_full_of_messages() {
    let mut arrived = [0, 0];
    for (beginning, events) in some_lives(300) {
        let received = live(rules(), &beginning, &events).unwrap();
        (0..2).for_each(|end| arrived[end] += received[end]);
    }
    println!("in 300 lives {} updates and {} acknowledgements arrived", arrived[AGENT], arrived[HOST]);
    assert!(arrived[AGENT] > 100 && arrived[HOST] > 30, "{arrived:?}");
}
