//! A machine with a daemon on it: it looks at the kernel, makes a plan, takes it step by step, looks again; it can be killed between any two
//! steps, and then another one starts with what the disk and the kernel still have.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::Ipv6Addr;
use std::sync::Arc;

use kagemusha::ipsec::{AssociationKey, ReplayState, SecurityAssociation};
use kagemusha::kernel_state::{
    Bindings, Configuration, FAILSAFE_PRIORITY, KernelState, Plan, Site, Step, Tunnels, at_rest, compile, owned,
};
use kagemusha::policy::Role;

use crate::cast::protected_messages;
use crate::machine::{Machine, Starts};
use crate::path::{Dropped, Fate};
use crate::wire::{Message, Packet};

/// How a plan is made: `diff`, or what a test puts in its place to see it caught.
pub type Order = fn(&KernelState, &KernelState) -> Plan;

/// How the daemon treats the numbers of its outbound SAs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numbering {
    /// As it is: reserved on disk ahead of use, each time the kernel holds what it should, before anything is sent.
    Reserved,
    /// Only at the start and then when somebody comes by: what is made meanwhile has no reserve.
    ReservedAtStart,
    /// An SA that is made starts at 0.
    FromZero,
}

/// The rules of one life.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The order of plans.
    pub order: Order,
    /// What is wanted in the kernel: as it is compiled, or what a test puts in its place.
    pub wanted: fn(KernelState) -> KernelState,
    /// What of the observed state counts as the daemon's.
    pub owned: fn(&Configuration, &KernelState) -> KernelState,
    /// Numbers.
    pub numbering: Numbering,
    /// How far ahead of use numbers are reserved.
    pub reserve: u64,
    /// SAs in transport mode are made without a selector.
    pub unselective: bool,
}

/// What survives everything: how far the numbers of each SA can have come.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Disk {
    output: BTreeMap<AssociationKey, u64>,
    input: BTreeMap<AssociationKey, u64>,
}

impl Disk {
    /// As `daemon::sequences::Ledger::starts`.
    pub fn starts(&self, configuration: &Configuration) -> Starts {
        let start = |key: &AssociationKey| match is_outbound(configuration, key) {
            true => ReplayState { output: self.output.get(key).copied().unwrap_or(0), input: 0 },
            false => ReplayState { output: 0, input: self.input.get(key).copied().unwrap_or(0) },
        };
        keys(configuration).map(|key| (key, start(&key))).collect()
    }

    /// As `daemon::sequences::Ledger::reserve`.
    pub fn reserve(&mut self, configuration: &Configuration, observed: &Starts, starting: bool, ahead: u64) {
        for key in keys(configuration).filter(|key| is_outbound(configuration, key)) {
            let reserved = self.output.get(&key).copied().unwrap_or(0);
            let used = observed.get(&key).map_or(0, |state| state.output);
            if starting || reserved.saturating_sub(used) <= ahead / 2 {
                self.output.insert(key, reserved.max(used) + ahead);
            }
        }
    }

    /// As `daemon::sequences::Ledger::settle`.
    pub fn settle(&mut self, configuration: &Configuration, observed: &Starts) {
        for key in keys(configuration) {
            let Some(state) = observed.get(&key) else { continue };
            match is_outbound(configuration, &key) {
                true => self.output.insert(key, state.output),
                false => self.input.insert(key, state.input),
            };
        }
    }
}

fn keys(configuration: &Configuration) -> impl Iterator<Item = AssociationKey> {
    configuration.guests.iter().flat_map(|guest| guest.protection.associations()).map(|sa| sa.key)
}

/// The numbers of the kernel's SAs by the names of the policy file.
fn observed(machine: &Machine, tunnels: &Tunnels) -> Starts {
    machine.replay_states().into_iter().map(|(key, state)| (tunnels.name_at_rest(&key), state)).collect()
}

fn is_outbound(configuration: &Configuration, key: &AssociationKey) -> bool {
    (key.source == configuration.home_agent) == (configuration.role == Role::HomeAgent)
}

/// What a daemon is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Failsafe and SAs come into force; nothing can be sent yet.
    Starting,
    /// Bindings are in force, or on the way.
    Running,
    /// Everything goes.
    Leaving,
}

/// A running daemon. All of it is gone when it is killed.
#[derive(Debug, Clone)]
pub struct Daemon {
    configuration: Arc<Configuration>,
    tunnels: Arc<Tunnels>,
    wanted: fn(KernelState) -> KernelState,
    bindings: Bindings,
    site: Site,
    phase: Phase,
    starts: Starts,
    plan: Arc<Plan>,
    position: usize,
    /// What the plan was made from, as a number.
    made_from: u64,
    /// The last look at the kernel showed that nothing is to be done.
    pub in_force: bool,
    /// The generation of these bindings was acknowledged: the engine may send, now and again later.
    pub may_send: bool,
}

impl Hash for Daemon {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let starts = self.starts.iter().map(|(key, state)| (*key, state.output, state.input));
        starts.collect::<Vec<_>>().hash(hasher);
        let bindings: Vec<_> = self.bindings.0.iter().map(|(guest, care_of)| (guest.0, *care_of)).collect();
        (bindings, &self.site.uplink, self.site.tunnel6_loaded).hash(hasher);
        (self.phase, self.position, self.made_from, self.in_force, self.may_send).hash(hasher);
        self.configuration.guests.len().hash(hasher);
        keys(&self.configuration).for_each(|key| key.hash(hasher));
    }
}

impl PartialEq for Daemon {
    fn eq(&self, other: &Self) -> bool {
        let hash = |daemon: &Self| {
            let mut hasher = DefaultHasher::new();
            daemon.hash(&mut hasher);
            hasher.finish()
        };
        hash(self) == hash(other)
    }
}

impl Daemon {
    /// What the kernel shall hold.
    pub fn desired(&self) -> KernelState {
        (self.wanted)(match self.phase {
            Phase::Starting => at_rest(&self.configuration),
            Phase::Running => compile(&self.configuration, &self.bindings, &self.site),
            Phase::Leaving => KernelState::default(),
        })
    }

    /// What it is at.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The step that comes next.
    pub fn next_step(&self) -> Option<&Step> {
        self.plan.steps.get(self.position)
    }
}

/// A machine and its daemon.
#[derive(Debug, Clone, PartialEq, Hash)]
pub struct Host {
    /// The kernel.
    pub machine: Machine,
    /// The disk.
    pub disk: Disk,
    /// The daemon, when one runs.
    pub daemon: Option<Daemon>,
    /// From here on nothing protected may leave in the clear: the failsafe was there once, and was not taken down in good order.
    pub guarded: bool,
    /// The highest number of each ESP SA that was on the wire, by SPI and secret.
    highest: BTreeMap<(u32, Vec<u8>), u64>,
    /// An ESP packet had a number that was not above all before it.
    pub repeated: bool,
    /// Something protected was on the wire in the clear.
    pub leaked: bool,
    /// Somebody else changed something since the daemon looked last.
    pub stale: bool,
    /// Somebody else changed something since the kernel held what it should.
    pub wounded: bool,
    /// ESP packets since numbers were reserved last.
    unreserved: u64,
    /// A daemon was killed with a plan half done.
    pub killed_in_the_middle: bool,
    /// The kernel refused a move of a tunnel, and nobody else had changed anything.
    pub stuck: bool,
}

impl Host {
    /// A machine without a daemon.
    pub fn new(machine: Machine) -> Self {
        let (disk, highest) = (Disk::default(), BTreeMap::new());
        Self {
            machine,
            disk,
            daemon: None,
            guarded: false,
            highest,
            repeated: false,
            leaked: false,
            stale: false,
            wounded: false,
            unreserved: 0,
            killed_in_the_middle: false,
            stuck: false,
        }
    }

    /// A daemon starts: `daemon::kernel::Kernel::open`, up to its first step.
    pub fn start(&mut self, configuration: &Arc<Configuration>, bindings: Bindings, site: Site, rules: &Rules) {
        let starts = self.disk.starts(configuration);
        let observed = observed(&self.machine, &Tunnels::new(configuration));
        self.disk.reserve(configuration, &observed, true, rules.reserve);
        self.unreserved = 0;
        let daemon = Daemon {
            configuration: Arc::clone(configuration),
            tunnels: Arc::new(Tunnels::new(configuration)),
            wanted: rules.wanted,
            bindings,
            site,
            phase: Phase::Starting,
            starts: if rules.numbering == Numbering::FromZero { Starts::new() } else { starts },
            plan: Arc::default(),
            position: 0,
            made_from: 0,
            in_force: false,
            may_send: false,
        };
        self.guarded |= !self.would_leak(configuration);
        self.daemon = Some(daemon);
        self.look(rules);
    }

    /// The daemon is killed.
    pub fn crash(&mut self) {
        let half_done = self.daemon.as_ref().is_some_and(|daemon| daemon.position > 0 && daemon.next_step().is_some());
        self.killed_in_the_middle |= half_done;
        self.daemon = None;
    }

    /// Power is lost: only the disk remains, and until a daemon starts nothing is protected.
    pub fn reboot(&mut self, to: KernelState) {
        let Machine { kernel, unselective, .. } = self.machine;
        let fresh = Machine::new(to, self.machine.own.iter().copied()).on(kernel);
        self.machine = Machine { unselective, ..fresh };
        self.daemon = None;
        (self.guarded, self.stale, self.wounded) = (false, false, false);
    }

    /// Other bindings, or another uplink.
    pub fn move_to(&mut self, bindings: Bindings, site: Site, rules: &Rules) {
        let Some(daemon) = &mut self.daemon else { return };
        (daemon.bindings, daemon.site) = (bindings, site);
        if daemon.phase == Phase::Running {
            daemon.may_send = false;
            self.look(rules);
        }
    }

    /// The end in good order begins: `daemon::kernel::Kernel::leave`.
    pub fn leave(&mut self, rules: &Rules) {
        let Some(daemon) = &mut self.daemon else { return };
        self.disk.settle(&daemon.configuration, &observed(&self.machine, &daemon.tunnels));
        (daemon.phase, daemon.may_send) = (Phase::Leaving, false);
        self.look(rules);
    }

    /// The daemon looks at the kernel and makes a plan.
    pub fn look(&mut self, rules: &Rules) {
        let Some(daemon) = &mut self.daemon else { return };
        self.stale = false;
        let observed = (rules.owned)(&daemon.configuration, &self.machine.state);
        let plan = (rules.order)(&daemon.desired(), &observed);
        let mut hasher = DefaultHasher::new();
        crate::fingerprint::kernel_state(&observed, &mut hasher);
        (daemon.made_from, daemon.position) = (hasher.finish(), 0);
        daemon.in_force = plan.is_empty();
        if plan.is_empty() {
            // Of one empty plan there is nothing to remember.
            daemon.made_from = 0;
            self.reached(rules);
        } else {
            daemon.plan = Arc::new(plan);
        }
    }

    /// The kernel holds what it should.
    fn reached(&mut self, rules: &Rules) {
        let Some(daemon) = &mut self.daemon else { return };
        daemon.plan = Arc::default();
        let numbered = rules.numbering != Numbering::FromZero;
        match daemon.phase {
            Phase::Starting => {
                daemon.phase = Phase::Running;
                if numbered {
                    daemon.starts = self.disk.starts(&daemon.configuration);
                }
                self.look(rules);
            }
            Phase::Running => {
                daemon.may_send = true;
                self.wounded = false;
                if rules.numbering == Numbering::Reserved {
                    self.reserve(rules);
                }
            }
            Phase::Leaving => self.daemon = None,
        }
    }

    /// Numbers are reserved ahead of use.
    pub fn reserve(&mut self, rules: &Rules) {
        let Some(daemon) = &mut self.daemon else { return };
        self.unreserved = 0;
        if rules.numbering != Numbering::FromZero {
            let observed = observed(&self.machine, &daemon.tunnels);
            self.disk.reserve(&daemon.configuration, &observed, false, rules.reserve);
            daemon.starts = self.disk.starts(&daemon.configuration);
        }
    }

    /// The daemon takes the next step of its plan, and looks again when that was the last. A step that the kernel refuses holds up no other.
    pub fn step(&mut self, rules: &Rules) {
        let Some(daemon) = &mut self.daemon else { return };
        let (plan, configuration) = (Arc::clone(&daemon.plan), Arc::clone(&daemon.configuration));
        let Some(step) = plan.steps.get(daemon.position) else { return self.look(rules) };
        // A plan begins with what guards: after that, and after each daemon before this one, nothing gets out.
        self.guarded |= !is_guard(step);
        self.guarded &= !(daemon.phase == Phase::Leaving && is_failsafe_removal(step));
        daemon.position += 1;
        let last = daemon.position == plan.steps.len();
        let start = |sa: &SecurityAssociation| daemon.starts.get(&daemon.tunnels.name_at_rest(&sa.key)).copied();
        let starts = match step {
            Step::AddAssociation(sa) | Step::ReplaceAssociation(sa) => start(sa).map(|state| (sa.key, state)),
            _ => None,
        };
        let refused = self.machine.take(step, &starts.into_iter().collect()).is_err();
        self.stuck |= refused && matches!(step, Step::Migrate(_)) && !self.stale && !self.wounded;
        self.guarded |= daemon.phase != Phase::Leaving && !self.would_leak(&configuration);
        if last {
            self.look(rules);
        }
    }

    /// Somebody else changes something.
    pub fn tamper(&mut self, change: impl FnOnce(&mut Machine)) {
        change(&mut self.machine);
        (self.stale, self.wounded) = (true, true);
    }

    /// Whether anything left in ESP.
    pub fn has_sent(&self) -> bool {
        !self.highest.is_empty()
    }

    /// Whether the policies would let a protected message out, or in, in the clear.
    pub fn would_leak(&self, configuration: &Configuration) -> bool {
        let daemon = self.daemon.as_ref().filter(|daemon| daemon.in_force);
        let running = daemon.filter(|daemon| daemon.phase == Phase::Running);
        let messages = protected_messages(configuration, running.map(|daemon| &daemon.bindings));
        messages.into_iter().any(|(direction, message)| self.machine.fate(direction, message) == Fate::Clear)
    }

    /// Numbers are reserved by the clock, so often that no SA comes near the end of its reserve in between.
    pub fn keep_ahead(&mut self, rules: &Rules) {
        if self.unreserved >= rules.reserve / 2 {
            self.reserve(rules);
        }
    }

    /// A message is sent from this machine. What was on the wire is noted.
    pub fn send(&mut self, message: Message, via: Option<Ipv6Addr>, protected: bool) -> Result<Packet, Dropped> {
        let packet = self.machine.send(message, via)?;
        match packet.esp() {
            None => self.leaked |= protected,
            Some((spi, sequence, secret)) => {
                self.unreserved += 1;
                let before = self.highest.insert((spi, secret.to_vec()), sequence);
                self.repeated |= before.is_some_and(|before| before >= sequence);
            }
        }
        Ok(packet)
    }
}

/// What a plan may begin with while an old state still leaks.
fn is_guard(step: &Step) -> bool {
    match step {
        Step::UpdatePolicy(_) | Step::RemovePolicy(_) => true,
        Step::AddPolicy(policy) => policy.key.priority == FAILSAFE_PRIORITY,
        _ => false,
    }
}

fn is_failsafe_removal(step: &Step) -> bool {
    matches!(step, Step::RemovePolicy(key) if key.priority == FAILSAFE_PRIORITY)
}

/// The product's own rules.
pub fn rules() -> Rules {
    Rules {
        order: kagemusha::kernel_state::diff,
        wanted: |wanted| wanted,
        owned,
        numbering: Numbering::Reserved,
        reserve: 4,
        unselective: false,
    }
}
