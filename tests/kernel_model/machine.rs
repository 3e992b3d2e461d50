//! One machine as far as IPsec and routing go: what a step does to it, and what only the kernel knows: sequence numbers, replay windows,
//! and which SA is the newest.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::net::Ipv6Addr;

use kagemusha::ipsec::{
    AssociationKey, PolicyKey, ReplayState, SecurityAssociation, SecurityPolicy, Transform, UpperLayer,
};
use kagemusha::kernel_state::{
    HOME_ADDRESS_LINK, KernelState, LOCAL_TABLE, Migration, Plan, Route, RouteKey, RouteKind, Step, needs_another_name,
};
use kagemusha::vocabulary::Prefix;

use crate::fingerprint;
use crate::kernel::Kernel;
use crate::wire::{Message, Payload};

/// Where the numbers of SAs go on that are made.
pub type Starts = BTreeMap<AssociationKey, ReplayState>;

/// Why the kernel does not take a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// `EEXIST`
    Exists,
    /// `ENOENT`, `ESRCH`, `ENODEV`, `EADDRNOTAVAIL`
    Missing,
}

/// The numbers of an ESP SA (RFC 4303 §2.2, §3.4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Numbers {
    /// Last number sent.
    pub output: u64,
    /// Highest number received.
    pub input: u64,
    /// The numbers received below `input`: bit 0 is `input` itself.
    pub seen: u64,
}

impl Numbers {
    /// A set `input` counts as received with all before it, as `struct xfrm_replay_state` with a full bitmap does.
    fn start(at: ReplayState) -> Self {
        let seen = if at.input == 0 { 0 } else { u64::MAX };
        Self { output: at.output, input: at.input, seen }
    }

    /// Whether a received number is new; it is noted then.
    pub fn receive(&mut self, number: u64, window: u32) -> bool {
        if number == 0 {
            return false;
        }
        if number > self.input {
            let ahead = number - self.input;
            self.seen = if ahead < 64 { self.seen << ahead | 1 } else { 1 };
            self.input = number;
            return true;
        }
        let behind = self.input - number;
        if window == 0 {
            return true;
        }
        if behind >= u64::from(window.min(64)) || self.seen & (1 << behind) != 0 {
            return false;
        }
        self.seen |= 1 << behind;
        true
    }
}

/// The kernel of one machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Machine {
    /// Which kernel it is.
    pub kernel: Kernel,
    /// Whether SAs in transport mode were made for any packets at all, and not for those between their two ends.
    pub unselective: bool,
    /// What can be observed.
    pub state: KernelState,
    /// The ESP SAs, in `state.associations` and others', with their numbers.
    pub numbers: BTreeMap<AssociationKey, Numbers>,
    /// All SAs, the newest last: of two that serve, the kernel takes the newest.
    pub order: Vec<AssociationKey>,
    /// The machine's own addresses.
    pub own: BTreeSet<Ipv6Addr>,
}

impl Hash for Machine {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        fingerprint::kernel_state(&self.state, hasher);
        (self.kernel, &self.numbers, &self.order, &self.own).hash(hasher);
    }
}

/// The route that the kernel makes by itself for an address on our dummy link.
pub fn automatic_route(address: Ipv6Addr) -> Route {
    let key = RouteKey {
        table: LOCAL_TABLE,
        destination: Prefix::host(address),
        kind: RouteKind::Local,
        device: HOME_ADDRESS_LINK.to_owned(),
        metric: 0,
    };
    Route { key, preferred_source: None, protocol: 2 }
}

fn refuse(taken: bool, refusal: Refusal) -> Result<(), Refusal> {
    if taken { Ok(()) } else { Err(refusal) }
}

impl Machine {
    /// A machine in this state, its SAs as old as their order in it, all unused.
    pub fn new(state: KernelState, own: impl IntoIterator<Item = Ipv6Addr>) -> Self {
        let order: Vec<_> = state.associations.keys().chain(&state.foreign_associations).copied().collect();
        let numbers = order.iter().filter(|key| key.protocol == 50).map(|key| (*key, Numbers::default())).collect();
        let own = own.into_iter().collect();
        Self { kernel: Kernel::default(), unselective: false, state, numbers, order, own }
    }

    /// The same with another kernel.
    pub fn on(self, kernel: Kernel) -> Self {
        Self { kernel, ..self }
    }

    /// The numbers of the ESP SAs, as a dump gives them.
    pub fn replay_states(&self) -> Starts {
        let state = |numbers: &Numbers| ReplayState { output: numbers.output, input: numbers.input };
        self.numbers.iter().map(|(key, numbers)| (*key, state(numbers))).collect()
    }

    /// Takes one step, with the kernel's own habits.
    pub fn take(&mut self, step: &Step, starts: &Starts) -> Result<(), Refusal> {
        match step {
            Step::AddPolicy(policy) => self.add_policy(policy),
            Step::UpdatePolicy(policy) => {
                self.remove_policy(&policy.key)?;
                self.add_policy(policy)
            }
            Step::RemovePolicy(key) => self.remove_policy(key),
            Step::AddAssociation(sa) => self.add_association(sa, starts),
            Step::UpdateAssociation(sa) => {
                assert!(matches!(sa.transform, Transform::RouteOptimization { .. }), "no keys in place: {step}");
                let place = self.state.associations.get_mut(&sa.key).ok_or(Refusal::Missing)?;
                *place = sa.clone();
                Ok(())
            }
            Step::ReplaceAssociation(sa) => {
                self.remove_association(&sa.key)?;
                self.add_association(sa, starts)
            }
            Step::RemoveAssociation(key) => self.remove_association(key),
            Step::Migrate(migration) => self.migrate(migration),
            Step::MoveAssociation { from, to } => self.rename_association(from, to.clone()),
            _ => self.take_route_step(step),
        }
    }

    fn take_route_step(&mut self, step: &Step) -> Result<(), Refusal> {
        let state = &mut self.state;
        match step {
            Step::AddLink(link) => {
                refuse(!state.links.contains_key(&link.name), Refusal::Exists)?;
                state.links.insert(link.name.clone(), link.clone());
            }
            Step::UpdateLink(link) => {
                *state.links.get_mut(&link.name).ok_or(Refusal::Missing)? = link.clone();
            }
            Step::RemoveLink(name) => {
                refuse(state.links.remove(name).is_some(), Refusal::Missing)?;
                state.routes.retain(|key, _| key.device != *name);
                if name == HOME_ADDRESS_LINK {
                    state.addresses.clear();
                }
            }
            Step::SetAddress(address) => {
                refuse(state.links.contains_key(HOME_ADDRESS_LINK), Refusal::Missing)?;
                if state.addresses.insert(address.address, *address).is_none() {
                    let route = automatic_route(address.address);
                    state.routes.insert(route.key.clone(), route);
                }
            }
            Step::RemoveAddress(address) => {
                refuse(state.addresses.remove(address).is_some(), Refusal::Missing)?;
                state.routes.remove(&automatic_route(*address).key);
            }
            Step::AddRoute(route) => {
                let device = &*route.key.device;
                let there = state.links.contains_key(device) || ["lo", "kage-ha", "kage-esp"].contains(&device);
                refuse(there, Refusal::Missing)?;
                refuse(!state.routes.contains_key(&route.key), Refusal::Exists)?;
                state.routes.insert(route.key.clone(), route.clone());
            }
            Step::RemoveRoute(key) => refuse(state.routes.remove(key).is_some(), Refusal::Missing)?,
            Step::AddRule(rule) => refuse(state.rules.insert(rule.clone()), Refusal::Exists)?,
            Step::RemoveRule(rule) => refuse(state.rules.remove(rule), Refusal::Missing)?,
            _ => unreachable!("a step of XFRM: {step}"),
        }
        Ok(())
    }

    /// A selector has one policy in a direction, whatever its priority, but for failsafe policies with a user beside.
    pub fn add_policy(&mut self, policy: &SecurityPolicy) -> Result<(), Refusal> {
        let name = |key: &PolicyKey| (key.direction, key.selector, needs_another_name(key));
        let same = |key: &PolicyKey| name(key) == name(&policy.key);
        let taken = self.state.policies.keys().chain(&self.state.foreign_policies).any(same);
        refuse(!taken, Refusal::Exists)?;
        self.state.policies.insert(policy.key, policy.clone());
        Ok(())
    }

    /// Removes a policy.
    pub fn remove_policy(&mut self, key: &PolicyKey) -> Result<(), Refusal> {
        let there = self.state.policies.remove(key).is_some() || self.state.foreign_policies.remove(key);
        refuse(there, Refusal::Missing)
    }

    /// A destination has one ESP SA of an SPI; a route optimization state is named by both its addresses.
    pub fn add_association(&mut self, sa: &SecurityAssociation, starts: &Starts) -> Result<(), Refusal> {
        let esp = sa.key.protocol == 50;
        let same = |key: &AssociationKey| {
            (key.destination, key.protocol, key.spi) == (sa.key.destination, sa.key.protocol, sa.key.spi)
                && (esp || key.source == sa.key.source)
        };
        let taken = self.state.associations.keys().chain(&self.state.foreign_associations).any(same);
        refuse(!taken, Refusal::Exists)?;
        self.state.associations.insert(sa.key, sa.clone());
        self.order.push(sa.key);
        if esp {
            self.numbers.insert(sa.key, Numbers::start(starts.get(&sa.key).copied().unwrap_or_default()));
        }
        Ok(())
    }

    /// Removes an SA, and what it knew of its numbers.
    pub fn remove_association(&mut self, key: &AssociationKey) -> Result<(), Refusal> {
        let there = self.state.associations.remove(key).is_some() || self.state.foreign_associations.remove(key);
        refuse(there, Refusal::Missing)?;
        self.numbers.remove(key);
        self.order.retain(|other| other != key);
        Ok(())
    }

    /// The policy that `XFRM_MSG_MIGRATE` is about: the one of this name, or the one that decides on a packet from and to the addresses of the
    /// selector, whose type is 0.
    fn policy_that_migrates(&self, named: &PolicyKey) -> Option<PolicyKey> {
        let by_name = self.state.policies.contains_key(named).then_some(*named);
        if self.kernel != Kernel::From612 {
            return by_name;
        }
        let payload = match named.selector.upper_layer {
            UpperLayer::Any => Payload::Unknown,
            UpperLayer::MobilityHeader(_) | UpperLayer::Protocol(135) => Payload::Mobility(0),
            UpperLayer::Icmpv6(_) | UpperLayer::Protocol(58) => Payload::Icmpv6(0),
            UpperLayer::Protocol(_) => Payload::Data,
        };
        let (source, destination) = (named.selector.source.address(), named.selector.destination.address());
        self.policy(named.direction, Message { source, destination, payload }).map(|policy| policy.key)
    }

    /// `XFRM_MSG_MIGRATE`: the template of a policy and one SA that serves it get other ends, and the SA keeps its numbers.
    fn migrate(&mut self, migration: &Migration) -> Result<(), Refusal> {
        let found = self.policy_that_migrates(&migration.policy).ok_or(Refusal::Missing)?;
        let policy = self.state.policies.get_mut(&found).ok_or(Refusal::Missing)?;
        let [template] = &mut policy.templates[..] else { return Err(Refusal::Missing) };
        let ends = (template.source, template.destination, template.reqid);
        refuse(ends == (migration.from.0, migration.from.1, migration.reqid), Refusal::Missing)?;
        (template.source, template.destination) = migration.to;
        let served = |sa: &&SecurityAssociation| {
            ((sa.key.source, sa.key.destination), sa.reqid()) == (migration.from, Some(migration.reqid))
        };
        let Some(mut sa) = self.state.associations.values().find(served).cloned() else { return Ok(()) };
        let from = sa.key;
        (sa.key.source, sa.key.destination) = migration.to;
        self.rename_association(&from, sa)
    }

    /// An SA goes on under another name.
    fn rename_association(&mut self, from: &AssociationKey, to: SecurityAssociation) -> Result<(), Refusal> {
        let numbers = self.numbers.get(from).copied().ok_or(Refusal::Missing)?;
        self.remove_association(from)?;
        let key = to.key;
        self.add_association(&to, &Starts::new())?;
        self.numbers.insert(key, numbers);
        Ok(())
    }

    /// After `state` was changed from outside: numbers and ages of SAs that are gone go, too.
    pub fn forget_what_is_gone(&mut self) {
        let state = &self.state;
        let there =
            |key: &AssociationKey| state.associations.contains_key(key) || state.foreign_associations.contains(key);
        self.numbers.retain(|key, _| there(key));
        self.order.retain(there);
    }

    /// The machine after a whole plan; panics where the kernel would refuse.
    pub fn after(&self, plan: &Plan) -> Self {
        let mut machine = self.clone();
        for step in &plan.steps {
            machine.take(step, &Starts::new()).unwrap_or_else(|refusal| panic!("{refusal:?}: {step}"));
        }
        machine
    }
}
