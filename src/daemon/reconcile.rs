//! Makes the kernel hold the wanted state: observe, compare, apply, and look again. For all of it, or for a few guests by their objects alone.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::discriminant;
use std::time::Duration;

use futures::{StreamExt, stream};

use super::netlink::monitor::Ports;
use super::netlink::xfrm::Change;
use super::netlink::{Refusal, route, xfrm};
use crate::ipsec::{AssociationKey, PolicyKey, ReplayState};
use crate::kernel_state::{
    self, Bindings, Configuration, Desired, KernelState, Ownership, Shadow, Site, Step, Tunnels, diff,
};
use crate::vocabulary::GuestId;

/// Changes by others between our look and our step are answered by another round.
const ROUNDS: usize = 3;
/// Requests about routes that are on the way at the same time.
const PIPELINED: usize = 64;
/// A change of more guests than this part of all of them is made by looking at everything: dumps cost less for each object.
const MANY: usize = 8;

/// Errors of the reconciler. After one, nothing may be sent that waited for the state.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// XFRM tables cannot be read.
    #[error("cannot read the security associations and policies: {0}")]
    ObserveXfrm(#[source] xfrm::Error),
    /// Links, addresses, routes or rules cannot be read.
    #[error("cannot read the links, addresses, routes and rules: {0}")]
    ObserveRoute(#[source] route::Error),
    /// The clients cannot be opened.
    #[error("{0}")]
    OpenXfrm(#[source] xfrm::Error),
    /// The clients cannot be opened.
    #[error("{0}")]
    OpenRoute(#[source] route::Error),
    /// A step failed.
    #[error("cannot {step}: {reason}{}", .hint.as_ref().map_or_else(String::new, |hint| format!("; {hint}")))]
    Step {
        /// The step, without keys.
        step: String,
        /// What the kernel said.
        reason: String,
        /// What to do.
        hint: Option<String>,
        /// Whether the kernel answered, so that other steps have a chance.
        answered: bool,
    },
    /// A policy of another program takes packets that ours protect.
    #[error("{0}")]
    Shadowed(Shadow),
    /// The state is still another one after all steps were acknowledged.
    #[error(
        "the kernel does not keep what it was given (does another program manage the same objects?); still to do: {0}"
    )]
    NotKept(String),
}

/// What was done.
#[derive(Debug, Default)]
pub struct Report {
    /// The steps that were taken.
    pub steps: Vec<Step>,
    /// What could not be done.
    pub failures: Vec<Failure>,
}

/// A step that could not be taken.
#[derive(Debug)]
pub struct Failure {
    /// The step, readable.
    pub step: String,
    /// Whose state is incomplete without it.
    pub guests: Vec<GuestId>,
    /// Why.
    pub error: Error,
}

/// Reconciles the namespace in which it was opened.
#[derive(Debug)]
pub struct Reconciler {
    configuration: Configuration,
    ownership: Ownership,
    xfrm: xfrm::Client,
    route: route::Client,
    /// Where the sequence numbers of SAs that are made have to go on.
    starts: BTreeMap<AssociationKey, ReplayState>,
    tunnels: Tunnels,
    /// What is in force, as it was read back, for all guests but the unsettled ones.
    in_force: Option<Desired>,
    unsettled: BTreeSet<GuestId>,
}

impl Reconciler {
    /// Opens the netlink clients; needs a tokio runtime.
    ///
    /// # Errors
    /// No sockets, or no XFRM in the kernel.
    pub fn new(configuration: Configuration) -> Result<Self, Error> {
        let xfrm = xfrm::Client::open().map_err(Error::OpenXfrm)?;
        let route = route::Client::open().map_err(Error::OpenRoute)?;
        let (ownership, tunnels) = (Ownership::of(&configuration), Tunnels::new(&configuration));
        let (starts, in_force, unsettled) = Default::default();
        Ok(Self { configuration, ownership, xfrm, route, starts, tunnels, in_force, unsettled })
    }

    /// Goes on with another configuration. What only the one before owned has to be gone: apply what is wanted by the new one to the union of
    /// both first, or take it down.
    pub fn set_configuration(&mut self, configuration: Configuration) {
        self.ownership = Ownership::of(&configuration);
        self.tunnels = Tunnels::new(&configuration);
        self.configuration = configuration;
        self.forget();
    }

    /// Says where the sequence numbers of ESP SAs go on that are made from now on; others start at 0.
    pub fn set_starts(&mut self, starts: BTreeMap<AssociationKey, ReplayState>) {
        self.starts = starts;
    }

    /// The XFRM client, for single SAs.
    pub fn xfrm(&mut self) -> &mut xfrm::Client {
        &mut self.xfrm
    }

    /// Where the sequence numbers of the kernel's ESP SAs stand, by the names of the policy file.
    ///
    /// # Errors
    /// The table cannot be read.
    pub fn replay_states(&mut self) -> Result<BTreeMap<AssociationKey, ReplayState>, Error> {
        let states = self.xfrm.replay_states().map_err(Error::ObserveXfrm)?;
        Ok(states.into_iter().map(|(key, state)| (self.tunnels.name_at_rest(&key), state)).collect())
    }

    /// The route client, for finding the uplink.
    pub fn route(&self) -> &route::Client {
        &self.route
    }

    /// By which our own changes are known in notifications.
    pub fn ports(&self) -> Ports {
        Ports { xfrm: self.xfrm.port(), route: self.route.port() }
    }

    /// What the kernel holds of ours.
    ///
    /// # Errors
    /// The tables cannot be read.
    pub async fn observe(&mut self) -> Result<KernelState, Error> {
        Ok(self.look().await?.0)
    }

    /// What the kernel holds of ours, and the policies of others that come before ours.
    async fn look(&mut self) -> Result<(KernelState, Vec<PolicyKey>), Error> {
        let mut state = self.xfrm.observe().map_err(Error::ObserveXfrm)?;
        self.route.observe(&mut state).await.map_err(Error::ObserveRoute)?;
        let theirs = kernel_state::before_ours(&state);
        Ok((self.ownership.owned(state), theirs))
    }

    /// Makes the kernel hold what these bindings need. When it returns `Ok`, that was read back, and is in force for every guest that no
    /// failure names.
    ///
    /// With guests that asked, only their objects are read, changed and read again: their associations and policies by name, while of links,
    /// addresses, routes and rules the kernel's acknowledgement counts. Whatever is not as expected there is answered by looking at
    /// everything, and so is the question of nobody: a scan.
    ///
    /// # Errors
    /// The tables cannot be read, or the kernel does not answer.
    pub async fn bring(
        &mut self,
        bindings: &Bindings,
        site: &Site,
        asked: &BTreeSet<GuestId>,
    ) -> Result<Report, Error> {
        let in_force = self.in_force.take();
        let desired = match in_force {
            Some(mut desired) if desired.site() == site => {
                let mut guests = desired.differing(bindings);
                guests.extend(asked);
                let few = guests.len() <= self.configuration.guests.len().div_ceil(MANY);
                let change = desired.rebind(&guests, bindings);
                if !asked.is_empty() && few && self.unsettled.is_disjoint(&guests) {
                    let report = self.bring_guests(&change).await?;
                    if let Some(report) = report {
                        self.in_force = Some(desired);
                        return Ok(report);
                    }
                }
                desired
            }
            _ => Desired::new(self.configuration.clone(), bindings.clone(), site.clone()),
        };
        let report = self.apply_what_goes(desired.state()).await?;
        let failed = || report.failures.iter();
        // What fails for everybody is no state to go on from.
        if failed().all(|failure| failure.guests.len() < self.configuration.guests.len()) {
            self.unsettled = failed().flat_map(|failure| failure.guests.iter().copied()).collect();
            self.in_force = Some(desired);
        }
        Ok(report)
    }

    /// None when something is not as it was to be expected.
    async fn bring_guests(&mut self, change: &kernel_state::Change) -> Result<Option<Report>, Error> {
        let mut report = Report::default();
        let observed = self.read(change)?;
        self.take(change.plan(&observed).steps, &mut report).await?;
        let kept = report.failures.is_empty() && change.is_in_force(&self.read(change)?);
        Ok(kept.then_some(report))
    }

    fn read(&mut self, change: &kernel_state::Change) -> Result<KernelState, Error> {
        let found = self.xfrm.read(&[&change.before, &change.after]).map_err(Error::ObserveXfrm)?;
        Ok(self.ownership.owned(found))
    }

    /// The next [`Self::bring`] looks at everything.
    fn forget(&mut self) {
        self.in_force = None;
        self.unsettled.clear();
    }

    /// Makes the kernel hold `desired`. When it returns `Ok` the state was read back and is in force.
    ///
    /// # Errors
    /// The first step that failed; the others were taken where that was possible, and their order makes that safe. Try again later.
    pub async fn apply(&mut self, desired: &KernelState) -> Result<Report, Error> {
        let mut report = self.apply_what_goes(desired).await?;
        if report.failures.is_empty() { Ok(report) } else { Err(report.failures.swap_remove(0).error) }
    }

    /// Makes the kernel hold of `desired` what it can: a step that is refused holds up no other. When it returns `Ok`, the state was read
    /// back, and is in force for every guest that no failure names.
    ///
    /// # Errors
    /// The tables cannot be read, or the kernel does not answer.
    pub async fn apply_what_goes(&mut self, desired: &KernelState) -> Result<Report, Error> {
        self.forget();
        let mut report = Report::default();
        for round in 0..ROUNDS {
            let (observed, theirs) = self.look().await?;
            let plan = diff(desired, &observed);
            report.failures.clear();
            if plan.is_empty() {
                self.find_shadows(desired, &theirs, &mut report);
                return Ok(report);
            }
            if round > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            self.take(plan.steps, &mut report).await?;
        }
        let (observed, theirs) = self.look().await?;
        let left = diff(desired, &observed);
        let mut failed: BTreeMap<_, _> =
            std::mem::take(&mut report.failures).into_iter().map(|failure| (failure.step.clone(), failure)).collect();
        for step in &left.steps {
            let name = step.to_string();
            report.failures.push(match failed.remove(&name) {
                Some(failure) => failure,
                None => self.failure(step, Error::NotKept(name)),
            });
        }
        self.find_shadows(desired, &theirs, &mut report);
        Ok(report)
    }

    /// A policy of others that comes before ours is a failure of the guests that it takes packets of; told once for each guest.
    fn find_shadows(&self, desired: &KernelState, theirs: &[PolicyKey], report: &mut Report) {
        let mut told = BTreeSet::new();
        for shadow in kernel_state::shadows(desired, theirs) {
            let guests = self.concerned(&Step::RemovePolicy(shadow.ours));
            if told.insert((guests.clone(), shadow.theirs)) {
                report.failures.push(Failure { step: shadow.to_string(), guests, error: Error::Shadowed(shadow) });
            }
        }
    }

    fn failure(&self, step: &Step, error: Error) -> Failure {
        Failure { step: step.to_string(), guests: self.concerned(step), error }
    }

    /// The guests that a step is about; all of them when it is about none.
    fn concerned(&self, step: &Step) -> Vec<GuestId> {
        let guests = self.ownership.concerned(step);
        if guests.is_empty() { (0..self.configuration.guests.len()).map(GuestId).collect() } else { guests }
    }

    /// Takes one step; `kagemusha check` tries them one by one.
    pub(super) async fn step(&mut self, step: &Step) -> Result<(), Error> {
        let mut report = Report::default();
        self.take(vec![step.clone()], &mut report).await?;
        report.failures.pop().map_or(Ok(()), |failure| Err(failure.error))
    }

    /// Takes steps in their order, many of them together.
    async fn take(&mut self, steps: Vec<Step>, report: &mut Report) -> Result<(), Error> {
        let mut results = Vec::with_capacity(steps.len());
        for run in steps.chunk_by(together) {
            run.iter().for_each(|step| tracing::debug!(%step, "kernel state"));
            if run.first().is_some_and(Step::is_ipsec) {
                results.extend(self.ipsec(run)?);
            } else {
                let requests = stream::iter(run).map(|step| self.routing(step));
                results.extend(requests.buffered(PIPELINED).collect::<Vec<_>>().await);
            }
        }
        for (step, result) in steps.into_iter().zip(results) {
            match result {
                Ok(()) => report.steps.push(step),
                Err(error @ Error::Step { answered: true, .. }) => report.failures.push(self.failure(&step, error)),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Changes associations and policies.
    fn ipsec(&mut self, steps: &[Step]) -> Result<Vec<Result<(), Error>>, Error> {
        let (mut changes, mut ends) = (Vec::with_capacity(steps.len()), Vec::with_capacity(steps.len()));
        for step in steps {
            match step {
                Step::AddPolicy(policy) => changes.push(Change::AddPolicy(policy)),
                Step::UpdatePolicy(policy) => changes.push(Change::UpdatePolicy(policy)),
                Step::RemovePolicy(key) => changes.push(Change::RemovePolicy(key)),
                Step::AddAssociation(sa) => changes.push(Change::AddAssociation(sa, self.start(&sa.key))),
                Step::UpdateAssociation(sa) => changes.push(Change::UpdateAssociation(sa)),
                Step::ReplaceAssociation(sa) => {
                    let again = Change::AddAssociation(sa, self.start(&sa.key));
                    changes.extend([Change::RemoveAssociation(&sa.key), again]);
                }
                Step::RemoveAssociation(key) => changes.push(Change::RemoveAssociation(key)),
                Step::Migrate(migration) => changes.push(Change::Migrate(migration)),
                Step::MoveAssociation { from, to } => {
                    // Alone, so that nothing comes between looking and moving.
                    let replay = self.xfrm.replay_state(from).map_err(|error| unanswered(step, &error))?;
                    let again = Change::AddAssociation(to, replay.unwrap_or_default());
                    changes.extend([Change::RemoveAssociation(from), again]);
                }
                _ => {}
            }
            ends.push(changes.len());
        }
        let refusals = match self.xfrm.change(&changes) {
            Ok(refusals) => refusals,
            // Which of them were taken is not known; the first stands for all.
            Err(error) => return steps.first().map_or(Ok(vec![]), |step| Err(unanswered(step, &error))),
        };
        let mut results = Vec::with_capacity(steps.len());
        let mut begin = 0;
        for (step, end) in steps.iter().zip(ends) {
            let of_step =
                changes.get(begin..end).unwrap_or_default().iter().zip(refusals.get(begin..end).unwrap_or_default());
            let refused = of_step.into_iter().find_map(|(change, refusal)| Some((*change, refusal.as_ref()?)));
            results.push(match refused {
                None => Ok(()),
                Some((change, refusal)) => Err(self.refused(step, change, refusal)),
            });
            begin = end;
        }
        Ok(results)
    }

    fn refused(&mut self, step: &Step, change: Change<'_>, refusal: &Refusal) -> Error {
        let holder = match refusal.errno {
            // Who is in the way now may have come since; that it cannot be read is no news beside the refusal.
            libc::EEXIST => self.xfrm.holder(change).ok().flatten(),
            _ => None,
        };
        let hint = xfrm_hint(step, refusal, holder);
        Error::Step { step: step.to_string(), reason: refusal.to_string(), hint, answered: true }
    }

    fn start(&self, key: &AssociationKey) -> ReplayState {
        self.starts.get(&self.tunnels.name_at_rest(key)).copied().unwrap_or_default()
    }

    /// Changes links, addresses, routes and rules.
    async fn routing(&self, step: &Step) -> Result<(), Error> {
        let result = match step {
            Step::AddLink(link) => self.route.add_link(link).await,
            Step::UpdateLink(link) => self.route.update_link(link).await,
            Step::RemoveLink(name) => self.route.remove_link(name).await,
            Step::SetAddress(address) => self.route.set_address(address).await,
            Step::RemoveAddress(address) => self.route.remove_address(*address).await,
            Step::AddRoute(route) => self.route.add_route(route).await,
            Step::RemoveRoute(key) => self.route.remove_route(key).await,
            Step::AddRule(rule) => self.route.add_rule(rule).await,
            Step::RemoveRule(rule) => self.route.remove_rule(rule).await,
            // Those of IPsec, see `ipsec`.
            _ => Ok(()),
        };
        result.map_err(|error| Error::Step {
            step: step.to_string(),
            reason: error.to_string(),
            hint: route_hint(step, &error).map(str::to_owned),
            answered: !matches!(error, route::Error::Late | route::Error::Open(_)),
        })
    }
}

fn unanswered(step: &Step, error: &xfrm::Error) -> Error {
    Error::Step { step: step.to_string(), reason: error.to_string(), hint: None, answered: false }
}

/// Whether two steps that follow each other go out together: those of IPsec, which the kernel takes in their order, and those of one kind for
/// which the order does not matter.
fn together(one: &Step, next: &Step) -> bool {
    let unordered = matches!(one, Step::AddRoute(_) | Step::RemoveRoute(_) | Step::AddRule(_) | Step::RemoveRule(_));
    let alone = |step| matches!(step, &Step::MoveAssociation { .. });
    let ipsec = one.is_ipsec() && next.is_ipsec() && !alone(one) && !alone(next);
    ipsec || unordered && discriminant(one) == discriminant(next)
}

fn xfrm_hint(step: &Step, refusal: &Refusal, holder: Option<String>) -> Option<String> {
    let program = |what: &str, command: &str| match &holder {
        Some(holder) => format!("another program has {what}: {holder} (see `ip xfrm {command}`)"),
        None => format!("another program had {what}, and it has gone: see `ip xfrm {command}`"),
    };
    match (refusal.errno, step) {
        (libc::EPERM, _) => Some("CAP_NET_ADMIN is needed".to_owned()),
        (libc::EEXIST, Step::AddPolicy(_)) => Some(program("a policy with this selector", "policy")),
        (libc::ENOPROTOOPT, Step::Migrate(_)) => {
            Some("the kernel cannot move tunnels (CONFIG_XFRM_MIGRATE): run `kagemusha check`".to_owned())
        }
        (libc::EEXIST, _) => Some(program("an SA with this destination and SPI", "state")),
        (libc::ENOENT | libc::ENOSYS | libc::EPROTONOSUPPORT | libc::ESOCKTNOSUPPORT, _) => Some(
            "the kernel lacks a protocol or an algorithm (`modprobe -a esp6 mip6`): run `kagemusha check`".to_owned(),
        ),
        _ => None,
    }
}

fn route_hint(step: &Step, error: &route::Error) -> Option<&'static str> {
    let route::Error::Refused(refusal) = error else { return None };
    match (refusal.errno, step) {
        (libc::EPERM, _) => Some("CAP_NET_ADMIN is needed"),
        (libc::EEXIST, Step::AddLink(_)) => Some("a link of that name but of another kind is there: rename it"),
        (libc::EOPNOTSUPP, Step::AddLink(_)) => Some("the kernel has no such kind of link: run `kagemusha check`"),
        (libc::ENETDOWN, _) => Some("its link is down; `lo` must be up, too"),
        (libc::EACCES, Step::SetAddress(_)) => Some("IPv6 is disabled: see sysctl net.ipv6.conf.all.disable_ipv6"),
        _ => None,
    }
}
