//! Every life of a small size, not a sample of them: each order of plan steps, kills, restarts, losses of power, moves, changes by others and
//! binding updates that there is within a budget.
//!
//! The states form no cycle (every action uses up a part of the budget or of a plan), so what holds at each end holds "eventually". It is asked
//! at the ends, because the checker's own `eventually` overlooks paths that join.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::Duration;

use kagemusha::ipsec::{AssociationKey, Class, Direction, PolicyKey, SecurityPolicy, UpperLayer};
use kagemusha::kernel_state::{
    Bindings, Configuration, FAILSAFE_PRIORITY, KernelState, PROTECTING_PRIORITY, Rule, Site, compile,
};
use kagemusha::policy::Role;
use kagemusha::vocabulary::Prefix;
use stateright::{Checker, HasDiscoveries, Model, Property};

use crate::cast::{
    ACKNOWLEDGEMENT, ROLES, UPDATE, acknowledgement, bindings, care_of, configuration_of, home_agent, site, update,
};
use crate::damage::{aliens, holds_all, union};
use crate::host::{Host, Numbering, Order, Phase, Rules, rules};
use crate::kernel::{KERNELS, Kernel};
use crate::machine::Machine;
use crate::mutants;
use crate::wire::Packet;

/// How much of what happens besides the daemon's own steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Budget {
    kills: u8,
    power_losses: u8,
    moves: u8,
    changes: u8,
    sends: u8,
    ends: u8,
}

/// What somebody else deletes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Victim {
    Policy(PolicyKey),
    Association(AssociationKey),
    Rule(Rule),
    Address(Ipv6Addr),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Action {
    Step,
    Look,
    Kill,
    Start,
    PowerLoss,
    Move(Option<u16>),
    Delete(Victim),
    /// All templates of all policies go.
    Empty,
    Send,
    End,
}

#[derive(Debug, Clone, PartialEq, Hash)]
struct World {
    host: Host,
    left: Budget,
    place: Option<u16>,
}

/// One exploration.
#[derive(Clone)]
struct Exploration {
    configuration: Arc<Configuration>,
    beginnings: Vec<KernelState>,
    aliens: KernelState,
    rules: Rules,
    kernel: Kernel,
    /// What the other side says to a guest at each of the two places.
    said: [(u16, Packet); 2],
    budget: Budget,
    /// Others change contents instead of deleting.
    contents: bool,
}

const CLEAR: &str = "nothing protected leaves in the clear";
const REPEATED: &str = "the numbers of an SA only rise";
const ALIENS: &str = "what others own is untouched";
const REACHED: &str = "in the end the kernel holds what it should";
const SENT: &str = "an update leaves in ESP";
const HEARD: &str = "what the other side says is heard when the kernel holds what it should";
const MOVED: &str = "the kernel moves the tunnels that it is told to move";
const RESTARTED: &str = "a daemon is killed in the middle of a plan, and one that follows gets everything in force";

/// What a version that selected by type has left of this state: beside each policy for all mobility headers that are received or forwarded one by
/// type, or in its place.
fn by_type_as_well(mut state: KernelState) -> KernelState {
    let received = |policy: &&SecurityPolicy| {
        let PolicyKey { direction, selector, priority } = policy.key;
        let headers = selector.upper_layer == UpperLayer::Protocol(135);
        direction != Direction::Out && headers && priority != FAILSAFE_PRIORITY
    };
    let all: Vec<_> = state.policies.values().filter(received).cloned().collect();
    for untyped in all {
        let to_home_agent = untyped.key.selector.source != Prefix::host(home_agent());
        let kind = match (untyped.key.priority == PROTECTING_PRIORITY, to_home_agent) {
            (true, true) => UPDATE,
            (true, false) => ACKNOWLEDGEMENT,
            _ => 3,
        };
        if kind == ACKNOWLEDGEMENT {
            state.policies.remove(&untyped.key);
        }
        let mut typed = untyped;
        typed.key.selector.upper_layer = UpperLayer::MobilityHeader(kind);
        state.policies.insert(typed.key, typed);
    }
    state
}

/// A kernel in which only others have something, one that an earlier policy with other keys has left bound, and one that an older version of the
/// daemon has.
fn beginnings(role: Role, earlier: &[Vec<Class>]) -> Vec<KernelState> {
    let configuration = configuration_of(role, earlier, 2, 2000);
    let bound = compile(&configuration, &bindings(&vec![Some(4); earlier.len()]), &site(Some("eth1"), true));
    let configuration = configuration_of(role, earlier, 1, 1000);
    let older = compile(&configuration, &bindings(&vec![Some(4); earlier.len()]), &site(Some("eth1"), true));
    vec![aliens(), union(bound, &aliens()), union(by_type_as_well(older), &aliens())]
}

/// A message of the other side, away from home, under a number that nobody has seen.
fn said(configuration: &Configuration, peer: &Configuration, place: u16) -> Packet {
    let state = compile(peer, &bindings(&[Some(place)]), &site(Some("eth0"), false));
    let mut machine = match peer.role {
        Role::MobileNode => Machine::new(state, [care_of(place)]),
        Role::HomeAgent => Machine::new(state, [home_agent()]),
    };
    machine.numbers.values_mut().for_each(|numbers| numbers.output = 1_000_000);
    let sent = match configuration.role {
        Role::MobileNode => machine.send(acknowledgement(0), Some(care_of(place))),
        Role::HomeAgent => machine.send(update(0), None),
    };
    sent.unwrap_or_else(|why| panic!("{}: the other side cannot say anything: {why:?}", peer.role))
}

impl Exploration {
    fn new(role: Role, budget: Budget) -> Self {
        let one = vec![Class::HomeRegistration];
        let beginnings = beginnings(role, &[one.clone(), one.clone()]);
        Self { beginnings, ..Self::of(role, &[one], budget) }
    }

    /// Guests with these classes.
    fn of(role: Role, classes: &[Vec<Class>], budget: Budget) -> Self {
        let beginnings = beginnings(role, classes);
        let configuration = Arc::new(configuration_of(role, classes, 1, 1000));
        let other = if role == Role::MobileNode { Role::HomeAgent } else { Role::MobileNode };
        let peer = configuration_of(other, classes, 1, 1000);
        let said = [3, 4].map(|place| (place, said(&configuration, &peer, place)));
        let (kernel, contents) = (Kernel::default(), false);
        Self { configuration, beginnings, aliens: aliens(), rules: rules(), kernel, said, budget, contents }
    }

    fn on(self, kernel: Kernel) -> Self {
        Self { kernel, ..self }
    }

    fn bound(&self, place: Option<u16>) -> (Bindings, Site) {
        let uplink = if self.configuration.role == Role::MobileNode { Some("eth0") } else { None };
        let places = vec![place; self.configuration.guests.len()];
        (bindings(&places), site(uplink, false))
    }

    fn victims(&self, state: &KernelState) -> Vec<Action> {
        if self.contents {
            return vec![Action::Empty];
        }
        let ours = (self.rules.owned)(&self.configuration, state);
        let policies = ours.policies.keys().copied().map(Victim::Policy);
        let associations = ours.associations.keys().copied().map(Victim::Association);
        let rules = ours.rules.iter().cloned().map(Victim::Rule);
        let all = policies.chain(associations).chain(rules).chain(ours.addresses.keys().copied().map(Victim::Address));
        all.map(Action::Delete).collect()
    }

    fn run(self) -> impl Checker<Self> {
        let threads = std::thread::available_parallelism().map_or(1, |count| count.get().min(2));
        self.checker().threads(threads).timeout(Duration::from_secs(300)).spawn_bfs().join()
    }

    /// Explores until the property is found broken; gives the way there.
    fn finds(self, property: &'static str) -> Vec<String> {
        let wanted = HasDiscoveries::AnyOf([property].into());
        let checker = self.checker().finish_when(wanted).spawn_bfs().join();
        let path = checker.discovery(property);
        let path = path.unwrap_or_else(|| panic!("{} states, and all is well", checker.unique_state_count()));
        path.into_actions().iter().map(|action| format!("{action:?}")).collect()
    }

    /// Explores all, on each kind of kernel, and sees to it that all properties hold.
    fn holds(self, name: &str) {
        for kernel in KERNELS {
            self.clone().on(kernel).holds_there(&format!("{kernel:?}, {name}"));
        }
    }

    fn holds_there(self, name: &str) {
        let checker = self.run();
        println!(
            "{name}: {} states, {} ways between them, at most {} actions long",
            checker.unique_state_count(),
            checker.state_count(),
            checker.max_depth()
        );
        assert!(checker.is_done());
        checker.assert_properties();
    }
}

impl Model for Exploration {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let begin = |state: &KernelState| {
            let own = match self.configuration.role {
                Role::MobileNode => vec![care_of(3), care_of(4)],
                Role::HomeAgent => vec![home_agent()],
            };
            let mut host = Host::new(Machine::new(state.clone(), own).on(self.kernel));
            let (bindings, site) = self.bound(Some(3));
            host.start(&self.configuration, bindings, site, &self.rules);
            World { host, left: self.budget, place: Some(3) }
        };
        self.beginnings.iter().map(begin).collect()
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        let (host, left) = (&world.host, world.left);
        if left.power_losses > 0 {
            actions.push(Action::PowerLoss);
        }
        if left.changes > 0 && !host.wounded {
            actions.extend(self.victims(&host.machine.state));
        }
        let Some(daemon) = &host.daemon else {
            actions.push(Action::Start);
            return;
        };
        if daemon.next_step().is_some() {
            actions.push(Action::Step);
        } else if host.stale {
            actions.push(Action::Look);
        }
        if left.kills > 0 {
            actions.push(Action::Kill);
        }
        if left.moves > 0 && daemon.phase() == Phase::Running {
            actions.extend([None, Some(3), Some(4)].into_iter().filter(|to| *to != world.place).map(Action::Move));
        }
        if left.sends > 0 && daemon.may_send && world.place.is_some() {
            actions.push(Action::Send);
        }
        if left.ends > 0 && daemon.phase() == Phase::Running {
            actions.push(Action::End);
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        let (host, left) = (&mut next.host, &mut next.left);
        match action {
            Action::Step => host.step(&self.rules),
            Action::Look => host.look(&self.rules),
            Action::Kill => {
                left.kills -= 1;
                host.crash();
            }
            Action::PowerLoss => {
                left.power_losses -= 1;
                host.reboot(self.aliens.clone());
            }
            Action::Start => {
                let (bindings, site) = self.bound(next.place);
                host.start(&self.configuration, bindings, site, &self.rules);
            }
            Action::Move(to) => {
                left.moves -= 1;
                next.place = to;
                let (bindings, site) = self.bound(to);
                host.move_to(bindings, site, &self.rules);
            }
            Action::Delete(victim) => {
                left.changes -= 1;
                host.tamper(|machine| delete(machine, &victim));
            }
            Action::Empty => {
                left.changes -= 1;
                host.tamper(|machine| machine.state.policies.values_mut().for_each(|policy| policy.templates.clear()));
            }
            Action::Send => {
                left.sends -= 1;
                let _ = match self.configuration.role {
                    Role::MobileNode => host.send(update(0), None, true),
                    Role::HomeAgent => host.send(acknowledgement(0), next.place.map(care_of), true),
                };
            }
            Action::End => {
                left.ends -= 1;
                host.leave(&self.rules);
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(CLEAR, |model: &Self, world: &World| {
                let host = &world.host;
                !host.leaked && (host.wounded || !host.guarded || !host.would_leak(&model.configuration))
            }),
            Property::always(REPEATED, |_, world: &World| !world.host.repeated),
            Property::always(ALIENS, |model: &Self, world: &World| holds_all(&world.host.machine.state, &model.aliens)),
            Property::always(MOVED, |_, world: &World| !world.host.stuck),
            Property::always(HEARD, |model: &Self, world: &World| !model.in_force(world) || model.hears(world)),
            Property::always(REACHED, |model: &Self, world: &World| {
                let mut actions = vec![];
                model.actions(world, &mut actions);
                !actions.is_empty() || model.in_force(world)
            }),
            Property::eventually("the kernel comes to hold what it should", |model: &Self, world: &World| {
                model.in_force(world)
            }),
        ];
        // An exploration in which nothing happens shows nothing.
        if self.budget.sends > 0 {
            properties.push(Property::sometimes(SENT, |_, world: &World| world.host.has_sent()));
        }
        if self.budget.kills > 0 {
            properties.push(Property::sometimes(RESTARTED, |model: &Self, world: &World| {
                world.host.killed_in_the_middle && model.in_force(world)
            }));
        }
        properties
    }
}

impl Exploration {
    fn in_force(&self, world: &World) -> bool {
        let Some(daemon) = &world.host.daemon else { return false };
        let observed = (self.rules.owned)(&self.configuration, &world.host.machine.state);
        daemon.phase() == Phase::Running && observed == daemon.desired()
    }
}

impl Exploration {
    /// Whether the daemon, where it is, gets what the other side says to it there.
    fn hears(&self, world: &World) -> bool {
        let mut said = self.said.iter().filter(|(place, _)| Some(*place) == world.place);
        said.all(|(_, packet)| world.host.machine.clone().receive(packet).is_ok())
    }
}

fn delete(machine: &mut Machine, victim: &Victim) {
    let state = &mut machine.state;
    match victim {
        Victim::Policy(key) => drop(machine.remove_policy(key)),
        Victim::Association(key) => drop(machine.remove_association(key)),
        Victim::Rule(rule) => drop(state.rules.remove(rule)),
        Victim::Address(address) => {
            state.addresses.remove(address);
            state.routes.remove(&crate::machine::automatic_route(*address).key);
        }
    }
}

/// Kills in the middle of every plan, twice, and moves.
#[test]
fn every_order_of_steps_kills_and_moves() {
    for role in ROLES {
        let budget = Budget { kills: 2, moves: 2, sends: 1, ..Budget::default() };
        Exploration::new(role, budget).holds(&format!("{role}: two kills, two moves, a packet"));
    }
}

/// One object after another is deleted at every moment, also while a daemon is dead, and numbers go on.
#[test]
fn every_deletion_by_others_at_every_moment() {
    for role in ROLES {
        let budget = Budget { kills: 1, changes: 1, moves: 1, sends: 2, ..Budget::default() };
        Exploration::new(role, budget).holds(&format!("{role}: a deletion, a kill, a move, two packets"));
        let budget = Budget { changes: 2, power_losses: 1, sends: 3, ..Budget::default() };
        Exploration::new(role, budget).holds(&format!("{role}: two deletions, a loss of power, three packets"));
    }
}

/// An end in good order, a kill in the middle of it, a loss of power, and another daemon after it.
#[test]
fn every_end_and_what_comes_after_it() {
    for role in ROLES {
        let budget = Budget { kills: 1, ends: 1, power_losses: 1, sends: 2, moves: 1, ..Budget::default() };
        Exploration::new(role, budget).holds(&format!("{role}: an end, a kill, a loss of power, a move, two packets"));
    }
}

/// Each class of protection beside that of registrations, in a kernel that an earlier policy with other keys has left bound, and in an empty one.
#[test]
fn every_order_of_each_class() {
    for (role, class) in ROLES.into_iter().flat_map(|role| Class::ALL.map(|class| (role, class))) {
        let classes = [[Class::HomeRegistration, class].into_iter().collect::<BTreeSet<_>>().into_iter().collect()];
        let budgets = [
            ("a kill, a move, a packet", Budget { kills: 1, moves: 1, sends: 1, ..Budget::default() }),
            ("two moves, a packet", Budget { moves: 2, sends: 1, ..Budget::default() }),
            ("a deletion, a packet", Budget { changes: 1, sends: 1, ..Budget::default() }),
        ];
        for (words, budget) in budgets {
            let exploration = Exploration::of(role, &classes, budget);
            exploration.holds(&format!("{role}, {class}: {words}"));
        }
    }
}

/// A guest that is protected beside one that is not.
#[test]
fn every_order_of_two_guests() {
    for role in ROLES {
        let budget = Budget { kills: 1, moves: 2, sends: 1, ..Budget::default() };
        let one = vec![Class::HomeRegistration];
        let beginnings = beginnings(role, &[one.clone(), one.clone()]);
        Exploration { beginnings, ..Exploration::of(role, &[one, vec![]], budget) }
            .holds(&format!("{role}, two guests: a kill, two moves, a packet"));
    }
}

// ---- and the explorer finds what is wrong ----

fn with(order: Order, budget: Budget) -> Exploration {
    let mut exploration = Exploration::new(Role::MobileNode, budget);
    exploration.rules.order = order;
    exploration
}

#[test]
fn the_model_finds_a_failsafe_that_goes_first() {
    let budget = Budget { moves: 1, ends: 1, ..Budget::default() };
    let way = with(mutants::failsafe_goes_first, budget).finds(CLEAR);
    assert!(way.contains(&"End".to_owned()), "{way:?}");
}

#[test]
fn the_model_finds_a_failsafe_that_comes_last() {
    with(mutants::failsafe_comes_last, Budget::default()).finds(CLEAR);
}

#[test]
fn the_model_finds_a_failsafe_that_is_missing() {
    let budget = Budget { moves: 1, ..Budget::default() };
    with(mutants::no_failsafe, budget).finds(CLEAR);
    with(mutants::no_failsafe, budget).finds(REACHED);
}

#[test]
fn the_model_finds_a_policy_that_is_emptied_before_it_goes() {
    let budget = Budget { moves: 1, ..Budget::default() };
    with(mutants::emptied_before_it_goes, budget).finds(CLEAR);
}

#[test]
fn the_model_finds_an_sa_that_starts_at_zero() {
    let budget = Budget { changes: 1, sends: 2, ..Budget::default() };
    let mut exploration = Exploration::new(Role::MobileNode, budget);
    exploration.rules.numbering = Numbering::FromZero;
    let way = exploration.finds(REPEATED);
    assert_eq!(way.iter().filter(|action| *action == "Send").count(), 2, "{way:?}");
}

#[test]
fn the_model_finds_numbers_that_are_used_before_they_are_reserved() {
    let budget = Budget { changes: 2, sends: 2, ..Budget::default() };
    let mut exploration = Exploration::new(Role::MobileNode, budget);
    exploration.rules.numbering = Numbering::ReservedAtStart;
    exploration.finds(REPEATED);
}

#[test]
fn the_model_finds_a_daemon_that_takes_all_for_its_own() {
    let mut exploration = Exploration::new(Role::MobileNode, Budget::default());
    exploration.rules.owned = |_, observed| observed.clone();
    exploration.finds(ALIENS);
}

#[test]
fn the_model_finds_a_plan_that_forgets_the_rules() {
    with(mutants::no_rules, Budget::default()).finds(REACHED);
}

/// What the daemon receives it takes on every kernel, because it asks for no type of it.
#[test]
fn the_model_finds_an_inbound_policy_by_type() {
    for role in ROLES {
        let by_type = |kernel| {
            let mut exploration = Exploration::new(role, Budget::default()).on(kernel);
            exploration.rules.wanted = mutants::inbound_by_type;
            exploration
        };
        by_type(Kernel::From67).finds(HEARD);
        by_type(Kernel::From612).finds(HEARD);
        // Older ones know the type of a message that looks as it should.
        by_type(Kernel::UpTo66).holds_there(&format!("{role}: inbound policies by type"));
    }
}

/// Since Linux 6.7 a message behind many extension headers is no mobility header to the SPD, and gets to the socket all the same.
#[test]
fn the_model_finds_that_what_is_not_read_is_let_in() {
    for role in ROLES {
        let let_in = |kernel| {
            let mut exploration = Exploration::new(role, Budget::default()).on(kernel);
            exploration.rules.wanted = mutants::unread_is_let_in;
            exploration
        };
        let_in(Kernel::From67).finds(CLEAR);
        let_in(Kernel::From612).finds(CLEAR);
        let_in(Kernel::UpTo66).holds_there(&format!("{role}: what is not read is let in"));
    }
}

#[test]
fn the_model_finds_a_tunnel_that_is_to_move_by_type() {
    let budget = Budget { moves: 1, ..Budget::default() };
    let by_type = |kernel| {
        let classes = [vec![Class::HomeRegistration, Class::ReturnRoutability]];
        let mut exploration = Exploration::of(Role::MobileNode, &classes, budget).on(kernel);
        exploration.rules.order = mutants::moves_by_type;
        exploration
    };
    by_type(Kernel::From612).finds(MOVED);
    by_type(Kernel::From67).holds_there("tunnels that move by type");
}

/// Who empties policies on a host gets no update out in the clear: what has no Home Address option is routed into the dummy link.
#[test]
fn updates_of_emptied_policies_end_in_the_dummy_link() {
    let budget = Budget { kills: 1, changes: 1, sends: 2, ..Budget::default() };
    let exploration = Exploration { contents: true, ..Exploration::new(Role::MobileNode, budget) };
    exploration.holds("mobile node: emptied policies, a kill, two packets");
}

/// A limit, and no mutant: on a home agent such an acknowledgement leaves, until the daemon has looked again.
#[test]
fn the_model_finds_that_acknowledgements_of_emptied_policies_leave_until_they_are_repaired() {
    let budget = Budget { changes: 1, sends: 1, ..Budget::default() };
    let exploration = Exploration { contents: true, ..Exploration::new(Role::HomeAgent, budget) };
    let way = exploration.finds(CLEAR);
    assert!(way.contains(&"Empty".to_owned()) && way.contains(&"Send".to_owned()), "{way:?}");
}
