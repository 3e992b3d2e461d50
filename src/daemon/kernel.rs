//! The kernel's state as the event loops use it: reconciled, with sequence numbers that go on, and taken down in good order.
//!
//! A restart adopts what the kernel has: the bindings that an earlier run has left are read from it and compiled again, so that what is right
//! stays untouched, and what is not is put right, before anything can be sent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;
use std::time::Duration;

use super::netlink::{Expiry, xfrm};
use super::reconcile::{self, Failure, Reconciler};
use super::roster::Roster;
use super::sequences::Ledger;
use super::{Error, clock, floor, tunnel6_loaded};
use crate::ipsec::{AssociationKey, ReplayState, SecurityAssociation};
use crate::kernel_state::{self, Bindings, Configuration, KernelState, Site, Step};
use crate::policy::Role;
use crate::vocabulary::{Generation, GuestId};

/// The kernel's state of one role.
#[derive(Debug)]
pub struct Kernel {
    configuration: Configuration,
    /// The id of each guest of `configuration`.
    ids: Vec<GuestId>,
    reconciler: Reconciler,
    ledger: Ledger,
    adopted: Bindings,
    /// Guests as they were before the policy changed: their objects still count as ours, until all are gone.
    gone: Vec<kernel_state::Guest>,
    /// Whether the state for bindings was made before: what is missing then, somebody else has taken.
    in_force: bool,
    repairs: u64,
    generation: Generation,
    /// SAs whose lifetime has ended, as they were: their keys are not used again.
    ended: BTreeMap<AssociationKey, SecurityAssociation>,
    /// When the kernel said of an SA that it ends soon, since 1970.
    ending: BTreeMap<AssociationKey, Duration>,
}

impl Kernel {
    /// Puts the failsafe and the SAs into force, before anything can be sent, and goes on with what an earlier run has left.
    ///
    /// # Errors
    /// The kernel refuses, or the store does; nothing of ours stays in force then.
    pub async fn open(roster: &Roster, ledger: Ledger) -> Result<Self, Error> {
        let configuration = Configuration::from(roster.policy());
        let reconciler = Reconciler::new(configuration.clone())?;
        let mut kernel = Self {
            configuration,
            ids: roster.ids().to_vec(),
            reconciler,
            ledger,
            adopted: Bindings::default(),
            gone: Vec::new(),
            in_force: false,
            repairs: 0,
            generation: Generation::default(),
            ended: BTreeMap::new(),
            ending: BTreeMap::new(),
        };
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
        self.set_starts();
        self.ledger.reserve(&self.reconciler.replay_states()?, clock::wall_clock(), true)?;
        let adopted = kernel_state::adopted(&self.configuration, &self.reconciler.observe().await?);
        let site = Site { uplink: adopted.uplink, tunnel6_loaded: tunnel6_loaded() };
        // Without bindings a host has nothing to go on with; what a home agent has in force does not depend on them.
        let nothing = adopted.bindings.0.is_empty() && self.configuration.role == Role::MobileNode;
        let desired = if nothing {
            kernel_state::at_rest(&self.configuration)
        } else {
            kernel_state::compile(&self.configuration, &adopted.bindings, &site)
        };
        let report = self.reconciler.apply(&desired).await?;
        if !adopted.bindings.0.is_empty() {
            let (guests, steps) = (adopted.bindings.0.len(), report.steps.len());
            tracing::info!(
                guests,
                "goes on with what an earlier run has left in the kernel; {steps} steps put it right"
            );
        }
        let care_of = adopted.bindings.0.into_iter();
        self.adopted = Bindings(care_of.filter_map(|(id, care_of)| Some((*self.ids.get(id.0)?, care_of))).collect());
        // What is made again from now on has a predecessor in this run.
        self.set_starts();
        Ok(())
    }

    fn set_starts(&mut self) {
        self.reconciler.set_starts(self.ledger.starts(clock::wall_clock()));
    }

    fn give_back(&mut self) {
        let given = self.reconciler.replay_states().map_err(Error::from);
        if let Err(error) = given.and_then(|observed| Ok(self.ledger.give_back(&observed)?)) {
            tracing::warn!("{error}; the ESP sequence numbers that were reserved are lost");
        }
    }

    /// The bindings that an earlier run has left, until they are asked for otherwise.
    pub fn adopted(&self) -> &Bindings {
        &self.adopted
    }

    /// How many steps have put right what others had changed.
    pub fn repairs(&self) -> u64 {
        self.repairs
    }

    /// The newest generation in force.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Goes on with other guests. Takes effect with the next [`Self::secure`]: until then what belongs to guests that are gone counts as ours.
    ///
    /// # Errors
    /// The store cannot be read, or numbers cannot be reserved; the guests of before are in force then.
    pub fn follow(&mut self, roster: &Roster) -> Result<(), Error> {
        let observed = self.reconciler.replay_states()?;
        let before = self.ledger.clone();
        let followed = self.ledger.follow(roster.policy());
        let followed = followed.and_then(|()| self.ledger.reserve(&observed, clock::wall_clock(), false));
        if let Err(error) = followed {
            self.ledger = before;
            return Err(error.into());
        }
        self.set_starts();
        let configuration = Configuration::from(roster.policy());
        // Guests that are gone stand behind those that there are: their objects are recognised as ours, and wanted no more.
        let there: BTreeMap<_, _> = configuration.guests.iter().map(|guest| (guest.home_address, guest)).collect();
        let stays = |guest: &kernel_state::Guest| there.get(&guest.home_address) == Some(&guest);
        self.gone.extend(self.configuration.guests.iter().filter(|guest| !stays(guest)).cloned());
        let mut recognised = configuration.clone();
        recognised.guests.extend(self.gone.iter().cloned());
        self.reconciler.set_configuration(recognised);
        self.configuration = configuration;
        self.ids = roster.ids().to_vec();
        let as_before = |sa: &SecurityAssociation| self.configuration.associations().any(|configured| configured == sa);
        let renewed: Vec<_> = self.ended.values().filter(|sa| !as_before(sa)).map(|sa| sa.key).collect();
        self.ended.retain(|key, _| !renewed.contains(key));
        self.ending.clear();
        self.in_force = false;
        Ok(())
    }

    /// Makes the kernel hold what these bindings need, and says for which of the `asked` it does. What went wrong is in the log.
    pub async fn secure(
        &mut self,
        bindings: &Bindings,
        uplink: Option<&str>,
        asked: Vec<(GuestId, Generation)>,
    ) -> Secured {
        let site = Site { uplink: uplink.map(str::to_owned), tunnel6_loaded: tunnel6_loaded() };
        let position = |id: &GuestId| self.ids.binary_search(id).ok().map(GuestId);
        let wanted = bindings.0.iter().filter_map(|(id, care_of)| Some((position(id)?, *care_of)));
        let wanted = Bindings(wanted.collect());
        let guests = asked.iter().filter_map(|(id, _)| position(id)).collect();
        match self.bring(&wanted, &site, &guests).await {
            Ok(report) => {
                // An SA that was made again stands where the reserve ends: numbers beyond it must be on disk before a packet has one.
                if report.steps.iter().any(Step::makes_association)
                    && let Err(error) = self.try_reserve()
                {
                    tracing::error!(
                        "cannot reserve ESP sequence numbers: {error}; nothing is sent that depends on them"
                    );
                    return Secured::nothing(asked);
                }
                let mut repaired: Vec<String> = Vec::new();
                if asked.is_empty() && self.in_force {
                    repaired = report.steps.iter().filter(|step| !step.is_late()).map(ToString::to_string).collect();
                    for step in &repaired {
                        tracing::warn!("changed by others, put right: {step}");
                    }
                    self.repairs += repaired.len() as u64;
                }
                for failure in &report.failures {
                    let guests = self.addresses(&failure.guests);
                    tracing::error!(home_addresses = %guests, "{}; nothing is sent that depends on it", failure.error);
                }
                if !self.gone.is_empty() && report.failures.is_empty() {
                    self.gone.clear();
                    self.reconciler.set_configuration(self.configuration.clone());
                }
                self.in_force = true;
                let failures = report.failures.into_iter().map(|failure| self.with_ids(failure)).collect::<Vec<_>>();
                let secured = Secured { repaired, ..Secured::new(asked, &failures) };
                self.generation = secured.applied.unwrap_or(self.generation).max(self.generation);
                secured
            }
            Err(error) => {
                tracing::error!("{error}; nothing is sent that depends on it");
                Secured::nothing(asked)
            }
        }
    }

    /// Guests that are gone, and SAs that have ended, are among what counts as ours and is not wanted: then everything is looked at.
    async fn bring(
        &mut self,
        bindings: &Bindings,
        site: &Site,
        asked: &BTreeSet<GuestId>,
    ) -> Result<reconcile::Report, reconcile::Error> {
        if self.gone.is_empty() && self.ended.is_empty() {
            return self.reconciler.bring(bindings, site, asked).await;
        }
        let mut desired = kernel_state::compile(&self.configuration, bindings, site);
        desired.associations.retain(|key, _| !self.ended.contains_key(key));
        self.reconciler.apply_what_goes(&desired).await
    }

    /// A failure names guests by their position in the configuration.
    fn with_ids(&self, failure: Failure) -> Failure {
        let guests = failure.guests.iter().filter_map(|position| self.ids.get(position.0).copied()).collect();
        Failure { guests, ..failure }
    }

    fn addresses(&self, guests: &[GuestId]) -> String {
        let addresses = guests.iter().filter_map(|id| self.configuration.guests.get(id.0));
        addresses.map(|guest| guest.home_address.to_string()).collect::<Vec<_>>().join(", ")
    }

    /// The lifetime of an SA has ended, or ends soon. Whose it is, and what to do, as a sentence; none for an SA that is not ours. One that has
    /// ended is not made again with the same keys (RFC 4301 §4.4.2.1) until the policy has others, or the daemon starts anew.
    pub fn expired(&mut self, expiry: Expiry) -> Option<(Ipv6Addr, String)> {
        let (sa, _) = self.ledger.find(&expiry.association)?;
        let spi = sa.key.spi;
        let todo = "give both sides a new SPI and new keys, and `kagemusha reload` them, the home agent first";
        if !expiry.hard {
            self.ending.insert(sa.key, clock::wall_clock());
            return Some((sa.home_address, format!("the SA {spi:#x} ends soon by its lifetime: {todo}")));
        }
        self.ending.remove(&sa.key);
        let ended = self.configuration.association(&sa.key)?.clone();
        self.ended.insert(sa.key, ended);
        Some((
            sa.home_address,
            format!("the SA {spi:#x} has ended by its lifetime, and nothing passes by it any more: {todo}"),
        ))
    }

    /// When the kernel said of an SA that it ends soon, since 1970.
    pub fn ending(&self) -> &BTreeMap<AssociationKey, Duration> {
        &self.ending
    }

    /// A guest is attached here, and may have been on another host with the same SAs before: its outbound SAs go on at the clock's number at
    /// least, see [`floor`]. What goes wrong is in the log; an SA that is not there is made at that number.
    pub fn raise_to_clock(&mut self, home_address: Ipv6Addr) {
        let floor = floor::floor(clock::wall_clock()).into();
        for key in self.ledger.outbound(home_address) {
            if let Err(error) = self.raise(&key, floor) {
                let spi = format_args!("{:#x}", key.spi);
                tracing::warn!(%home_address, spi, "sequence numbers not raised: {error}");
            }
        }
    }

    /// Lets an outbound SA go on from `number`, if that is more than it has come to.
    fn raise(&mut self, key: &AssociationKey, number: u64) -> Result<(), Error> {
        let Some((sa, _)) = self.ledger.find(key) else { return Ok(()) };
        let there = self.reconciler.xfrm().replay_state(key).map_err(refused)?;
        if there.is_some_and(|state| state.output >= number) {
            return Ok(());
        }
        self.ledger.raise(&sa, number)?;
        match there {
            Some(state) => self.set_position(key, ReplayState { output: number, ..state }),
            // It is made where the ledger says.
            None => {
                self.set_starts();
                Ok(())
            }
        }
    }

    fn set_position(&mut self, key: &AssociationKey, state: ReplayState) -> Result<(), Error> {
        let Some(esp) = self.configuration.association(key).and_then(|sa| sa.transform.esp()) else { return Ok(()) };
        self.reconciler.xfrm().set_replay_state(key, esp, state).map_err(refused)
    }

    /// Where the sequence numbers of the policy's SAs stand, with their home address and whether packets leave by them.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn positions(&mut self) -> Result<BTreeMap<AssociationKey, ReplayState>, Error> {
        Ok(self.reconciler.replay_states()?)
    }

    /// Takes over how far another host has come with an SA. Never backwards: the caller has looked at [`Self::positions`].
    ///
    /// # Errors
    /// The kernel refuses, or the store does.
    pub fn import(&mut self, key: &AssociationKey, state: ReplayState) -> Result<(), Error> {
        let Some((sa, outbound)) = self.ledger.find(key) else { return Ok(()) };
        if outbound {
            return self.raise(key, state.output);
        }
        self.ledger.keep_input(sa.home_address, *key, state.input)?;
        match self.reconciler.xfrm().replay_state(key).map_err(refused)? {
            Some(there) if state.input > there.input => {
                self.set_position(key, ReplayState { input: state.input, ..there })
            }
            _ => Ok(()),
        }
    }

    /// Keeps the reserve of sequence numbers ahead of use. What goes wrong is in the log: the reserve is large, and the next try is soon.
    pub fn reserve(&mut self) {
        if let Err(error) = self.try_reserve() {
            tracing::error!("cannot reserve ESP sequence numbers: {error}");
        }
    }

    fn try_reserve(&mut self) -> Result<(), Error> {
        let observed = self.reconciler.replay_states()?;
        let reserved = self.ledger.reserve(&observed, clock::wall_clock(), false);
        self.set_starts();
        Ok(reserved?)
    }

    /// The sequence numbers of binding updates.
    pub fn ledger(&mut self) -> &mut Ledger {
        &mut self.ledger
    }

    /// The route client.
    pub fn route(&self) -> &super::netlink::route::Client {
        self.reconciler.route()
    }

    /// By which our own changes are known in notifications.
    pub fn ports(&self) -> super::netlink::monitor::Ports {
        self.reconciler.ports()
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

fn refused(error: xfrm::Error) -> Error {
    reconcile::Error::ObserveXfrm(error).into()
}

/// What became of the generations that were asked for.
#[derive(Debug, PartialEq, Eq)]
pub struct Secured {
    /// Not in force.
    pub failed: Vec<(GuestId, Generation)>,
    /// Guests that did not ask, and for whom something is not in force any more.
    pub unsecured: Vec<GuestId>,
    /// The newest one; with those before it in force for every guest that did not fail.
    pub applied: Option<Generation>,
    /// Whether the kernel holds all that it should, also of what was not asked for now.
    pub complete: bool,
    /// What others had changed and was put right, readable.
    pub repaired: Vec<String>,
}

impl Secured {
    /// Nothing is known to be in force that was asked for.
    fn nothing(asked: Vec<(GuestId, Generation)>) -> Self {
        Self { failed: asked, unsecured: Vec::new(), applied: None, complete: false, repaired: Vec::new() }
    }

    fn new(asked: Vec<(GuestId, Generation)>, failures: &[Failure]) -> Self {
        let applied = asked.iter().map(|(_, generation)| *generation).max();
        let failed = |(guest, _): &(GuestId, Generation)| failures.iter().any(|failure| failure.guests.contains(guest));
        let concerned: BTreeSet<_> = failures.iter().flat_map(|failure| failure.guests.iter().copied()).collect();
        let has_asked = |guest: &GuestId| asked.iter().any(|(asking, _)| asking == guest);
        Self {
            unsecured: concerned.into_iter().filter(|guest| !has_asked(guest)).collect(),
            failed: asked.into_iter().filter(failed).collect(),
            applied,
            complete: failures.is_empty(),
            repaired: Vec::new(),
        }
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
        let failure = Failure { step: "add policy".to_owned(), guests: vec![GuestId(0), GuestId(7)], error };
        let secured = Secured::new(asked.clone(), &[failure]);
        assert_eq!(secured.failed, [(GuestId(0), Generation(1)), (GuestId(0), Generation(3))]);
        assert_eq!((secured.applied, secured.complete), (Some(Generation(3)), false));
        assert_eq!(secured.unsecured, [GuestId(7)]);
        let all = Secured {
            failed: vec![],
            unsecured: vec![],
            applied: Some(Generation(3)),
            complete: true,
            repaired: vec![],
        };
        assert_eq!(Secured::new(asked, &[]), all);
    }
}
