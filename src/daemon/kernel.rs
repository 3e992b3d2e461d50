//! The kernel's state as the event loops use it: reconciled, with sequence numbers that go on, and taken down in good order.

use super::reconcile::Reconciler;
use super::sequences::Ledger;
use super::{Error, tunnel6_loaded};
use crate::kernel_state::{self, Bindings, Configuration, KernelState, Site};
use crate::policy::Policy;

/// The kernel's state of one role.
#[derive(Debug)]
pub struct Kernel {
    configuration: Configuration,
    reconciler: Reconciler,
    ledger: Ledger,
}

impl Kernel {
    /// Puts the failsafe and the SAs into force, before anything can be sent.
    ///
    /// # Errors
    /// The kernel refuses, or the store does; nothing of ours stays in force then.
    pub async fn open(policy: &Policy, ledger: Ledger) -> Result<Self, Error> {
        let configuration = Configuration::from(policy);
        let reconciler = Reconciler::new(configuration.clone())?;
        let mut kernel = Self { configuration, reconciler, ledger };
        match kernel.start().await {
            Ok(()) => Ok(kernel),
            Err(error) => {
                kernel.leave().await?;
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

    /// Makes the kernel hold what these bindings need. Gives the steps it took.
    ///
    /// # Errors
    /// The kernel refuses; nothing may be sent then that waited for it.
    pub async fn secure(&mut self, bindings: &Bindings, uplink: Option<&str>) -> Result<Vec<String>, Error> {
        let site = Site { uplink: uplink.map(str::to_owned), tunnel6_loaded: tunnel6_loaded() };
        let desired = kernel_state::compile(&self.configuration, bindings, &site);
        Ok(self.reconciler.apply(&desired).await?.steps)
    }

    /// Keeps the reserve of sequence numbers ahead of use.
    ///
    /// # Errors
    /// The SAs cannot be read, or the store not written.
    pub fn reserve(&mut self) -> Result<(), Error> {
        self.ledger.reserve(&self.reconciler.replay_states()?, false)?;
        self.reconciler.set_starts(self.ledger.starts());
        Ok(())
    }

    /// The sequence numbers of binding updates.
    pub fn ledger(&mut self) -> &mut Ledger {
        &mut self.ledger
    }

    /// The reconciler's clients.
    pub fn reconciler(&self) -> &Reconciler {
        &self.reconciler
    }

    /// Takes everything of ours down again, the failsafe last, after writing down how far the sequence numbers came.
    ///
    /// # Errors
    /// The kernel refuses, or the store does.
    pub async fn leave(&mut self) -> Result<(), Error> {
        self.ledger.settle(&self.reconciler.replay_states()?)?;
        self.reconciler.apply(&KernelState::default()).await?;
        Ok(())
    }
}
