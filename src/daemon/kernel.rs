//! The kernel's state as the event loops use it: reconciled, with sequence numbers that go on, and taken down in good order.

use super::reconcile::{Failure, Reconciler};
use super::sequences::Ledger;
use super::{Error, tunnel6_loaded};
use crate::kernel_state::{self, Bindings, Configuration, KernelState, Site};
use crate::policy::Policy;
use crate::vocabulary::{Generation, GuestId};

/// The kernel's state of one role.
#[derive(Debug)]
pub struct Kernel {
    configuration: Configuration,
    reconciler: Reconciler,
    ledger: Ledger,
    /// Whether the state for bindings was made before: what is missing then, somebody else has taken.
    in_force: bool,
}

impl Kernel {
    /// Puts the failsafe and the SAs into force, before anything can be sent.
    ///
    /// # Errors
    /// The kernel refuses, or the store does; nothing of ours stays in force then.
    pub async fn open(policy: &Policy, ledger: Ledger) -> Result<Self, Error> {
        let configuration = Configuration::from(policy);
        let reconciler = Reconciler::new(configuration.clone())?;
        let mut kernel = Self { configuration, reconciler, ledger, in_force: false };
        match kernel.start().await {
            Ok(()) => Ok(kernel),
            Err(error) => {
                kernel.give_back();
                kernel.leave().await;
                Err(error)
            }
        }
    }

    async fn start(&mut self) -> Result<(), Error> {
        self.reconciler.set_starts(self.ledger.starts());
        self.ledger.reserve(&self.reconciler.replay_states()?, true)?;
        self.reconciler.apply(&kernel_state::at_rest(&self.configuration)).await?;
        // What is made again from now on has a predecessor in this run.
        self.reconciler.set_starts(self.ledger.starts());
        Ok(())
    }

    fn give_back(&mut self) {
        let given = self.reconciler.replay_states().map_err(Error::from);
        if let Err(error) = given.and_then(|observed| Ok(self.ledger.give_back(&observed)?)) {
            tracing::warn!("{error}; the ESP sequence numbers that were reserved are lost");
        }
    }

    /// Makes the kernel hold what these bindings need, and says for which of the `asked` it does. What went wrong is in the log.
    pub async fn secure(
        &mut self,
        bindings: &Bindings,
        uplink: Option<&str>,
        asked: Vec<(GuestId, Generation)>,
    ) -> Secured {
        let site = Site { uplink: uplink.map(str::to_owned), tunnel6_loaded: tunnel6_loaded() };
        let guests = asked.iter().map(|(guest, _)| *guest).collect();
        match self.reconciler.bring(bindings, &site, &guests).await {
            Ok(report) => {
                if asked.is_empty() && self.in_force {
                    for step in &report.steps {
                        tracing::warn!("changed by others, put right: {step}");
                    }
                }
                for failure in &report.failures {
                    let guests = self.addresses(&failure.guests);
                    tracing::error!(home_addresses = %guests, "{}; nothing is sent that depends on it", failure.error);
                }
                self.in_force = true;
                Secured::new(asked, &report.failures)
            }
            Err(error) => {
                tracing::error!("{error}; nothing is sent that depends on it");
                Secured { failed: asked, applied: None, complete: false }
            }
        }
    }

    fn addresses(&self, guests: &[GuestId]) -> String {
        let addresses = guests.iter().filter_map(|id| self.configuration.guests.get(id.0));
        addresses.map(|guest| guest.home_address.to_string()).collect::<Vec<_>>().join(", ")
    }

    /// Keeps the reserve of sequence numbers ahead of use. What goes wrong is in the log: the reserve is large, and the next try is soon.
    pub fn reserve(&mut self) {
        let reserved = self.reconciler.replay_states().map_err(Error::from);
        if let Err(error) = reserved.and_then(|observed| Ok(self.ledger.reserve(&observed, false)?)) {
            tracing::error!("cannot reserve ESP sequence numbers: {error}");
        }
        self.reconciler.set_starts(self.ledger.starts());
    }

    /// The sequence numbers of binding updates.
    pub fn ledger(&mut self) -> &mut Ledger {
        &mut self.ledger
    }

    /// The reconciler's clients.
    pub fn reconciler(&self) -> &Reconciler {
        &self.reconciler
    }

    /// Takes everything of ours down again, the failsafe last, after writing down how far the sequence numbers came. What cannot be done
    /// keeps nothing else from being done. Whether all was.
    pub async fn leave(&mut self) -> bool {
        let observed = self.reconciler.replay_states().map_err(Error::from);
        let settled = observed.and_then(|observed| Ok(self.ledger.settle(&observed)?));
        if let Err(error) = &settled {
            tracing::error!("{error}; what was reserved of the ESP sequence numbers counts as used");
        }
        match self.reconciler.apply_what_goes(&KernelState::default()).await {
            Ok(report) => {
                for failure in &report.failures {
                    tracing::error!("stays behind: {}", failure.error);
                }
                settled.is_ok() && report.failures.is_empty()
            }
            Err(error) => {
                tracing::error!("{error}; what was made for the guests stays behind");
                false
            }
        }
    }
}

/// What became of the generations that were asked for.
#[derive(Debug, PartialEq, Eq)]
pub struct Secured {
    /// Not in force.
    pub failed: Vec<(GuestId, Generation)>,
    /// The newest one; with those before it in force for every guest that did not fail.
    pub applied: Option<Generation>,
    /// Whether the kernel holds all that it should, also of what was not asked for now.
    pub complete: bool,
}

impl Secured {
    fn new(asked: Vec<(GuestId, Generation)>, failures: &[Failure]) -> Self {
        let applied = asked.iter().map(|(_, generation)| *generation).max();
        let failed = |(guest, _): &(GuestId, Generation)| failures.iter().any(|failure| failure.guests.contains(guest));
        Self { failed: asked.into_iter().filter(failed).collect(), applied, complete: failures.is_empty() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::reconcile;

    #[test]
    fn the_failure_of_one_guest_leaves_the_others_alone() {
        let asked = vec![(GuestId(0), Generation(1)), (GuestId(1), Generation(2)), (GuestId(0), Generation(3))];
        let error = reconcile::Error::NotKept("policy".to_owned());
        let failure = Failure { step: "add policy".to_owned(), guests: vec![GuestId(0)], error };
        let secured = Secured::new(asked.clone(), &[failure]);
        assert_eq!(secured.failed, [(GuestId(0), Generation(1)), (GuestId(0), Generation(3))]);
        assert_eq!((secured.applied, secured.complete), (Some(Generation(3)), false));
        let all = Secured { failed: vec![], applied: Some(Generation(3)), complete: true };
        assert_eq!(Secured::new(asked, &[]), all);
    }
}
