//! Makes the kernel hold the wanted state: observe, compare, apply, and look again.

use std::collections::BTreeMap;
use std::time::Duration;

use super::netlink::{route, xfrm};
use crate::ipsec::{AssociationKey, ReplayState};
use crate::kernel_state::{Configuration, KernelState, Step, Tunnels, diff, owned};
use crate::vocabulary::GuestId;

/// Changes by others between our look and our step are answered by another round.
const ROUNDS: usize = 3;

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
    #[error("cannot {step}: {reason}{}", .hint.map_or_else(String::new, |hint| format!("; {hint}")))]
    Step {
        /// The step, without keys.
        step: String,
        /// What the kernel said.
        reason: String,
        /// What to do.
        hint: Option<&'static str>,
        /// Whether the kernel answered, so that other steps have a chance.
        answered: bool,
    },
    /// The state is still another one after all steps were acknowledged.
    #[error(
        "the kernel does not keep what it was given (does another program manage the same objects?); still to do: {0}"
    )]
    NotKept(String),
}

/// What was done.
#[derive(Debug, Default)]
pub struct Report {
    /// The steps, readable.
    pub steps: Vec<String>,
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
    xfrm: xfrm::Client,
    route: route::Client,
    /// Where the sequence numbers of SAs that are made have to go on.
    starts: BTreeMap<AssociationKey, ReplayState>,
    tunnels: Tunnels,
}

impl Reconciler {
    /// Opens the netlink clients; needs a tokio runtime.
    ///
    /// # Errors
    /// No sockets, or no XFRM in the kernel.
    pub fn new(configuration: Configuration) -> Result<Self, Error> {
        let xfrm = xfrm::Client::open().map_err(Error::OpenXfrm)?;
        let route = route::Client::open().map_err(Error::OpenRoute)?;
        let tunnels = Tunnels::new(&configuration);
        Ok(Self { configuration, xfrm, route, starts: BTreeMap::new(), tunnels })
    }

    /// Says where the sequence numbers of ESP SAs go on that are made from now on; others start at 0.
    pub fn set_starts(&mut self, starts: BTreeMap<AssociationKey, ReplayState>) {
        self.starts = starts;
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

    /// What the kernel holds of ours.
    ///
    /// # Errors
    /// The tables cannot be read.
    pub async fn observe(&mut self) -> Result<KernelState, Error> {
        let mut state = self.xfrm.observe().map_err(Error::ObserveXfrm)?;
        self.route.observe(&mut state).await.map_err(Error::ObserveRoute)?;
        Ok(owned(&self.configuration, &state))
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
        let mut report = Report::default();
        for round in 0..ROUNDS {
            let plan = diff(desired, &self.observe().await?);
            report.failures.clear();
            if plan.is_empty() {
                return Ok(report);
            }
            if round > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            for step in &plan.steps {
                tracing::debug!(%step, "kernel state");
                match self.step(step).await {
                    Ok(()) => report.steps.push(step.to_string()),
                    Err(error @ Error::Step { answered: true, .. }) => report.failures.push(self.failure(step, error)),
                    Err(error) => return Err(error),
                }
            }
        }
        let left = diff(desired, &self.observe().await?);
        let mut failed = std::mem::take(&mut report.failures);
        for step in &left.steps {
            let name = step.to_string();
            report.failures.push(match failed.iter().position(|failure| failure.step == name) {
                Some(position) => failed.swap_remove(position),
                None => self.failure(step, Error::NotKept(name)),
            });
        }
        Ok(report)
    }

    fn failure(&self, step: &Step, error: Error) -> Failure {
        let guests = || self.configuration.guests.iter().enumerate();
        let concerned = guests().filter(|(_, guest)| step.concerns(guest.home_address));
        let mut concerned: Vec<_> = concerned.map(|(index, _)| GuestId(index)).collect();
        if concerned.is_empty() {
            concerned = guests().map(|(index, _)| GuestId(index)).collect();
        }
        Failure { step: step.to_string(), guests: concerned, error }
    }

    /// Takes one step; `kagemusha check` tries them one by one.
    pub(super) async fn step(&mut self, step: &Step) -> Result<(), Error> {
        let failed = |reason: String, hint, answered| Error::Step { step: step.to_string(), reason, hint, answered };
        let result = match step {
            Step::AddPolicy(policy) => self.xfrm.add_policy(policy),
            Step::UpdatePolicy(policy) => self.xfrm.update_policy(policy),
            Step::RemovePolicy(key) => self.xfrm.remove_policy(key),
            Step::AddAssociation(sa) => self.xfrm.add_association(sa, self.start(&sa.key)),
            Step::UpdateAssociation(sa) => self.xfrm.update_association(sa),
            Step::ReplaceAssociation(sa) => {
                let start = self.start(&sa.key);
                self.xfrm.remove_association(&sa.key).and_then(|()| self.xfrm.add_association(sa, start))
            }
            Step::RemoveAssociation(key) => self.xfrm.remove_association(key),
            Step::Migrate(migration) => self.xfrm.migrate(migration),
            Step::MoveAssociation { from, to } => self.xfrm.move_association(from, to),
            _ => {
                return self.route_step(step).await.map_err(|error| {
                    let answered = !matches!(error, route::Error::Late | route::Error::Open(_));
                    failed(error.to_string(), route_hint(step, &error), answered)
                });
            }
        };
        result.map_err(|error| {
            let answered = matches!(error, xfrm::Error::Refused(_));
            failed(error.to_string(), xfrm_hint(step, &error), answered)
        })
    }

    fn start(&self, key: &AssociationKey) -> ReplayState {
        self.starts.get(&self.tunnels.name_at_rest(key)).copied().unwrap_or_default()
    }

    async fn route_step(&self, step: &Step) -> Result<(), route::Error> {
        match step {
            Step::AddLink(link) => self.route.add_link(link).await,
            Step::UpdateLink(link) => self.route.update_link(link).await,
            Step::RemoveLink(name) => self.route.remove_link(name).await,
            Step::SetAddress(address) => self.route.set_address(address).await,
            Step::RemoveAddress(address) => self.route.remove_address(*address).await,
            Step::AddRoute(route) => self.route.add_route(route).await,
            Step::RemoveRoute(key) => self.route.remove_route(key).await,
            Step::AddRule(rule) => self.route.add_rule(rule).await,
            Step::RemoveRule(rule) => self.route.remove_rule(rule).await,
            Step::AddPolicy(_)
            | Step::UpdatePolicy(_)
            | Step::RemovePolicy(_)
            | Step::AddAssociation(_)
            | Step::UpdateAssociation(_)
            | Step::ReplaceAssociation(_)
            | Step::RemoveAssociation(_)
            | Step::Migrate(_)
            | Step::MoveAssociation { .. } => Ok(()),
        }
    }
}

fn xfrm_hint(step: &Step, error: &xfrm::Error) -> Option<&'static str> {
    let xfrm::Error::Refused(refusal) = error else { return None };
    match (refusal.errno, step) {
        (libc::EPERM, _) => Some("CAP_NET_ADMIN is needed"),
        (libc::EEXIST, Step::AddPolicy(_)) => {
            Some("another program has a policy with this selector: see `ip xfrm policy`")
        }
        (libc::ENOPROTOOPT, Step::Migrate(_)) => {
            Some("the kernel cannot move tunnels (CONFIG_XFRM_MIGRATE): run `kagemusha check`")
        }
        (libc::EEXIST, _) => Some("another program has an SA with this destination and SPI: see `ip xfrm state`"),
        (libc::ENOENT | libc::ENOSYS | libc::EPROTONOSUPPORT | libc::ESOCKTNOSUPPORT, _) => {
            Some("the kernel lacks a protocol or an algorithm (`modprobe -a esp6 mip6`): run `kagemusha check`")
        }
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
