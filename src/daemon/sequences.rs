//! Sequence numbers across restarts and hosts: those of binding updates, and those of the ESP SAs that the daemon makes.
//!
//! An SA that is made again under the same key must not start again at 0: the peer's anti-replay window refuses what it has seen
//! (RFC 4303 §3.4.3), and a counter-mode cipher repeats its nonces. So the store holds, for every outbound SA, a number that no packet
//! has reached: it is raised ahead of use, in steps of [`RESERVE`], and set to what was really used when the daemon leaves in good order.
//! For an inbound SA it holds the highest number seen when the daemon left, so that what was received before stays a replay.
//! A signaling SA starts at the number of the [`floor`](super::floor) at least: another host may have used it before this one.
//!
//! Numbers of binding updates are reserved as well, a few at a time, so that the first update of a guest that has just arrived need not wait for
//! a disk.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::time::Duration;

use super::floor::floor;
use super::store::{self, Record, Store};
use crate::ipsec::{AssociationKey, ReplayState, SecurityAssociation};
use crate::policy::{GuestPolicy, Policy, Role};
use crate::vocabulary::SequenceNumber;

/// How far ahead of use the numbers of a signaling SA are reserved. It carries a packet every few minutes; a crash costs this much of the 2^32
/// numbers of a key, and 16 s of the floor.
pub const RESERVE: u64 = 256;
/// The same of an SA that carries more and has extended sequence numbers: the kernel sends by it without asking, and the daemon looks every
/// half minute. Half of it lasts that long at 17 million packets a second.
pub const LONG_RESERVE: u64 = 1 << 30;
/// ... and without extended ones: a crash costs a 256th of the numbers of a key, and half of it lasts half a minute at 280,000 packets a second.
pub const SHORT_RESERVE: u64 = 1 << 24;
/// How far ahead of use numbers of binding updates are reserved. Far less than what keeps two hosts apart
/// ([`crate::signaling::mobile_node::CONFIRMATION_DISTANCE`]).
pub const BINDING_RESERVE: u16 = 8;

/// Why sequence numbers cannot be given.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The 2^32 (extended: 2^64) sequence numbers of a key are used up (RFC 4303 §3.3.3).
    #[error("the sequence numbers of SA {spi} of {home_address} are used up: give both sides a new SPI and new keys")]
    UsedUp {
        /// Whose SA.
        home_address: Ipv6Addr,
        /// SPI as in the policy file.
        spi: String,
    },
}

/// An ESP SA whose numbers are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbered {
    /// Whose SA.
    pub home_address: Ipv6Addr,
    /// Its name.
    pub key: AssociationKey,
    /// Whether its numbers have 64 bits.
    pub extended: bool,
    /// Whether it carries signaling only, at the rate of signaling.
    pub signaling: bool,
}

impl Numbered {
    fn last(&self) -> u64 {
        if self.extended { u64::MAX } else { u32::MAX.into() }
    }

    fn reserve(&self) -> u64 {
        match (self.signaling, self.extended) {
            (true, _) => RESERVE,
            (false, true) => LONG_RESERVE,
            (false, false) => SHORT_RESERVE,
        }
    }

    fn floor(&self, wall_clock: Duration) -> u64 {
        if self.signaling { floor(wall_clock).into() } else { 0 }
    }
}

/// The numbers of every home address of a policy.
#[derive(Debug, Clone)]
pub struct Ledger {
    store: Store,
    records: BTreeMap<Ipv6Addr, Record>,
    /// The last number of a binding update really used, where it is behind what the record reserves.
    used: BTreeMap<Ipv6Addr, SequenceNumber>,
    /// Packets that may have left through the SAs of a home address since they were last observed.
    spent: BTreeMap<Ipv6Addr, u64>,
    /// The ESP SAs of the policy.
    associations: Vec<Numbered>,
    /// Our own address in outbound SAs is the home address (mobile node) or this one (home agent).
    home_agent: Ipv6Addr,
    role: Role,
    /// What was in the store for an outbound SA before it was reserved at the start.
    reserved_at_start: BTreeMap<AssociationKey, Option<u64>>,
}

impl Ledger {
    /// Reads what the store has for the home addresses of `policy`.
    ///
    /// # Errors
    /// A record that cannot be read.
    pub fn open(store: Store, policy: &Policy) -> Result<Self, Error> {
        let mut ledger = Self {
            store,
            records: BTreeMap::new(),
            used: BTreeMap::new(),
            spent: BTreeMap::new(),
            associations: Vec::new(),
            home_agent: policy.home_agent.address,
            role: policy.role,
            reserved_at_start: BTreeMap::new(),
        };
        ledger.follow(policy)?;
        Ok(ledger)
    }

    /// Goes on with another policy. What is known of home addresses that stay is kept.
    ///
    /// # Errors
    /// A record that cannot be read; nothing has changed then.
    pub fn follow(&mut self, policy: &Policy) -> Result<(), Error> {
        let mut records = BTreeMap::new();
        for guest in &policy.guests {
            let record = match self.records.get(&guest.home_address) {
                Some(record) => record.clone(),
                None => self.store.load(guest.home_address)?,
            };
            records.insert(guest.home_address, record);
        }
        self.associations = policy.guests.iter().flat_map(numbered).collect();
        self.used.retain(|address, _| records.contains_key(address));
        self.spent.retain(|address, _| records.contains_key(address));
        self.records = records;
        Ok(())
    }

    /// The last sequence number of a binding update for this home address: none beyond it was used.
    pub fn binding_sequence(&self, home_address: Ipv6Addr) -> SequenceNumber {
        SequenceNumber(self.records.get(&home_address).map_or(0, |record| record.last_sequence))
    }

    /// The last sequence number of a binding update that was accepted; none where none ever was.
    pub fn accepted_sequence(&self, home_address: Ipv6Addr) -> Option<SequenceNumber> {
        self.records.get(&home_address)?.accepted_sequence.map(SequenceNumber)
    }

    /// The last sequence number of a binding update that was really used.
    pub fn used_binding_sequence(&self, home_address: Ipv6Addr) -> SequenceNumber {
        self.used.get(&home_address).copied().unwrap_or_else(|| self.binding_sequence(home_address))
    }

    /// Keeps a sequence number; when this returns, no restart uses it again. One that was reserved needs no disk.
    ///
    /// # Errors
    /// The store cannot be written; the number must not be used then.
    pub fn keep_binding_sequence(&mut self, home_address: Ipv6Addr, sequence: SequenceNumber) -> Result<(), Error> {
        let reserved = self.binding_sequence(home_address);
        let behind = self.used.contains_key(&home_address) && !sequence.is_newer_than(reserved);
        if !behind {
            self.write_binding_sequence(home_address, sequence)?;
        }
        self.used.insert(home_address, sequence);
        Ok(())
    }

    /// Keeps the number of a binding update that was accepted; it survives the end of this process, and a crash of the machine a little later.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn keep_accepted_sequence(&mut self, home_address: Ipv6Addr, sequence: SequenceNumber) -> Result<(), Error> {
        let record = self.records.entry(home_address).or_default();
        let changed = Record { accepted_sequence: Some(sequence.0), ..record.clone() };
        self.store.save_soon(home_address, &changed)?;
        *record = changed;
        Ok(())
    }

    fn write_binding_sequence(&mut self, home_address: Ipv6Addr, sequence: SequenceNumber) -> Result<(), Error> {
        let record = self.records.entry(home_address).or_default();
        let changed = Record { last_sequence: sequence.0, ..record.clone() };
        self.store.save(home_address, &changed)?;
        *record = changed;
        Ok(())
    }

    /// Reserves numbers for the next binding updates of a home address, so that they can leave at once.
    ///
    /// # Errors
    /// The store cannot be written; the next update tries again.
    pub fn reserve_binding_sequences(&mut self, home_address: Ipv6Addr) -> Result<(), Error> {
        let used = self.used_binding_sequence(home_address);
        let left = self.binding_sequence(home_address).0.wrapping_sub(used.0);
        if left < BINDING_RESERVE / 2 {
            self.used.insert(home_address, used);
            let reserved = SequenceNumber(used.0.wrapping_add(BINDING_RESERVE));
            self.write_binding_sequence(home_address, reserved)?;
        }
        Ok(())
    }

    fn is_outbound(&self, key: &AssociationKey) -> bool {
        (key.source == self.home_agent) == (self.role == Role::HomeAgent)
    }

    /// The outbound signaling SAs of a home address.
    pub fn outbound(&self, home_address: Ipv6Addr) -> Vec<AssociationKey> {
        let of_it = |sa: &&Numbered| sa.home_address == home_address && sa.signaling && self.is_outbound(&sa.key);
        self.associations.iter().filter(of_it).map(|sa| sa.key).collect()
    }

    /// An SA of the policy, and whether packets leave by it; none for one that the policy does not have.
    pub fn find(&self, key: &AssociationKey) -> Option<(Numbered, bool)> {
        let found = self.associations.iter().find(|known| known.key == *key)?;
        Some((*found, self.is_outbound(key)))
    }

    /// The ESP SAs of the policy.
    pub fn associations(&self) -> &[Numbered] {
        &self.associations
    }

    fn reserved(&self, sa: &Numbered) -> Option<u64> {
        self.records.get(&sa.home_address).and_then(|record| record.output_sequence.get(&name(&sa.key))).copied()
    }

    /// Where SAs that are made now have to go on.
    pub fn starts(&self, wall_clock: Duration) -> BTreeMap<AssociationKey, ReplayState> {
        let start = |sa: &Numbered| {
            let record = self.records.get(&sa.home_address)?;
            let state = if self.is_outbound(&sa.key) {
                ReplayState { output: self.reserved(sa).unwrap_or(0).max(sa.floor(wall_clock)), input: 0 }
            } else {
                ReplayState { output: 0, input: record.input_sequence.get(&name(&sa.key)).copied().unwrap_or(0) }
            };
            Some((sa.key, state))
        };
        self.associations.iter().filter_map(start).collect()
    }

    /// Reserves numbers ahead of `observed` (and of [`Self::starts`]) where less than half of [`RESERVE`] is left. What fails for one home
    /// address holds up no other.
    ///
    /// # Errors
    /// The store cannot be written, or the numbers of a key are used up: the first of these.
    pub fn reserve(
        &mut self,
        observed: &BTreeMap<AssociationKey, ReplayState>,
        wall_clock: Duration,
        starting: bool,
    ) -> Result<(), Error> {
        let mut result = Ok(());
        for sa in self.associations.clone() {
            if !self.is_outbound(&sa.key) {
                continue;
            }
            let reserved = self.reserved(&sa);
            let used = observed.get(&sa.key).map_or(0, |state| state.output);
            if !starting && reserved.unwrap_or(0).saturating_sub(used) > sa.reserve() / 2 {
                continue;
            }
            // An SA that is still to be made starts at the floor.
            let floor = if observed.contains_key(&sa.key) { 0 } else { sa.floor(wall_clock) };
            let kept = self.reserve_beyond(&sa, reserved.unwrap_or(0).max(used).max(floor), Store::save);
            match kept {
                Ok(()) if starting => drop(self.reserved_at_start.insert(sa.key, reserved)),
                Ok(()) => {}
                Err(error) => result = result.and(Err(error)),
            }
        }
        self.spent.clear();
        result
    }

    fn reserve_beyond(
        &mut self,
        sa: &Numbered,
        number: u64,
        save: fn(&Store, Ipv6Addr, &Record) -> Result<(), store::Error>,
    ) -> Result<(), Error> {
        let next = number.checked_add(sa.reserve()).filter(|next| *next <= sa.last());
        let next = next.ok_or_else(|| Error::UsedUp { home_address: sa.home_address, spi: name(&sa.key) })?;
        self.keep_output(sa.home_address, sa.key, Some(next), save)
    }

    /// A packet is about to leave through the signaling SAs of a home address: makes sure that its number is reserved.
    ///
    /// # Errors
    /// As [`Self::reserve`]; the packet must not leave then.
    pub fn spend(&mut self, home_address: Ipv6Addr) -> Result<(), Error> {
        let spent = self.spent.get(&home_address).copied().unwrap_or(0) + 1;
        if spent < RESERVE / 2 {
            self.spent.insert(home_address, spent);
            return Ok(());
        }
        for key in self.outbound(home_address) {
            if let Some((sa, _)) = self.find(&key) {
                self.reserve_beyond(&sa, self.reserved(&sa).unwrap_or(0), Store::save)?;
            }
        }
        self.spent.insert(home_address, 1);
        Ok(())
    }

    /// An outbound SA is to be raised to `number`, which another host may have come to: makes sure that those after it are reserved. This
    /// survives the end of the process; a crash of the machine takes longer than the clock needs to pass these numbers.
    ///
    /// # Errors
    /// As [`Self::reserve`]; the SA must stay as it is then.
    pub fn raise(&mut self, sa: &Numbered, number: u64) -> Result<(), Error> {
        if self.reserved(sa).unwrap_or(0).saturating_sub(number) > sa.reserve() / 2 {
            return Ok(());
        }
        self.reserve_beyond(sa, number, Store::save_soon)
    }

    /// What another host says of an inbound SA: what it has seen up to `number` stays a replay here, also after a restart.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn keep_input(&mut self, home_address: Ipv6Addr, key: AssociationKey, number: u64) -> Result<(), Error> {
        let record = self.records.entry(home_address).or_default();
        let mut changed = record.clone();
        changed.input_sequence.insert(name(&key), number);
        self.store.save(home_address, &changed)?;
        *record = changed;
        Ok(())
    }

    /// Takes back what [`Self::reserve`] reserved at the start, for SAs that the kernel does not hold. Only before anything was sent, when
    /// the daemon cannot start: otherwise one that is started again and again would use up its keys.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn give_back(&mut self, observed: &BTreeMap<AssociationKey, ReplayState>) -> Result<(), Error> {
        for sa in self.associations.clone() {
            if let Some(before) = self.reserved_at_start.remove(&sa.key)
                && !observed.contains_key(&sa.key)
            {
                self.keep_output(sa.home_address, sa.key, before, Store::save)?;
            }
        }
        Ok(())
    }

    /// Writes the number of an outbound SA; when that fails, the one before is still what this ledger goes by.
    fn keep_output(
        &mut self,
        home_address: Ipv6Addr,
        key: AssociationKey,
        number: Option<u64>,
        save: fn(&Store, Ipv6Addr, &Record) -> Result<(), store::Error>,
    ) -> Result<(), Error> {
        let record = self.records.entry(home_address).or_default();
        let mut changed = record.clone();
        let _ = match number {
            Some(number) => changed.output_sequence.insert(name(&key), number),
            None => changed.output_sequence.remove(&name(&key)),
        };
        save(&self.store, home_address, &changed)?;
        *record = changed;
        Ok(())
    }

    /// Writes down what was really used, before the SAs are removed.
    ///
    /// # Errors
    /// The store cannot be written for some home address; the reservation of before holds there.
    pub fn settle(&mut self, observed: &BTreeMap<AssociationKey, ReplayState>) -> Result<(), Error> {
        let mut result = Ok(());
        for (home_address, record) in &mut self.records {
            let mut changed = record.clone();
            if let Some(used) = self.used.get(home_address) {
                changed.last_sequence = used.0;
            }
            for Numbered { key, .. } in self.associations.iter().filter(|sa| sa.home_address == *home_address) {
                let Some(state) = observed.get(key) else { continue };
                // Written out, since `is_outbound` would borrow all of `self`.
                let outbound = (key.source == self.home_agent) == (self.role == Role::HomeAgent);
                let _ = match outbound {
                    true => changed.output_sequence.insert(name(key), state.output),
                    false => changed.input_sequence.insert(name(key), state.input),
                };
            }
            if changed == *record {
                continue;
            }
            match self.store.save(*home_address, &changed) {
                Ok(()) => *record = changed,
                Err(error) => result = result.and(Err(error.into())),
            }
        }
        result
    }
}

fn numbered(guest: &GuestPolicy) -> Vec<Numbered> {
    let of = |sa: &SecurityAssociation| {
        let esp = sa.transform.esp()?;
        let signaling = guest.protection.serves(esp.reqid).is_some_and(|(class, _)| class.is_signaling());
        let (home_address, extended) = (guest.home_address, esp.extended_sequence_numbers);
        Some(Numbered { home_address, key: sa.key, extended, signaling })
    };
    guest.protection.associations().iter().filter_map(of).collect()
}

/// An SA's name in the store.
fn name(key: &AssociationKey) -> String {
    format!("{:#x}", key.spi)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::SomeKeys;
    use crate::policy::{load_home_agent, load_mobile_node};

    fn ledger(directory: &std::path::Path, role: Role) -> Ledger {
        let policy = match role {
            Role::MobileNode => load_mobile_node("ha.toml", include_str!("../../policies/ha.toml"), &SomeKeys),
            Role::HomeAgent => {
                load_home_agent("home-agent.toml", include_str!("../../policies/home-agent.toml"), &SomeKeys)
            }
        };
        Ledger::open(Store::open(directory).unwrap(), &policy.unwrap()).unwrap()
    }

    /// A time before the floor rises.
    const EARLY: Duration = Duration::ZERO;

    fn output(ledger: &Ledger) -> u64 {
        ledger.starts(EARLY).values().map(|state| state.output).max().unwrap()
    }

    fn observed(ledger: &Ledger, output: u64, input: u64) -> BTreeMap<AssociationKey, ReplayState> {
        ledger.starts(EARLY).keys().map(|key| (*key, ReplayState { output, input })).collect()
    }

    #[test]
    fn after_a_crash_numbers_start_above_all_that_can_have_been_used() {
        for role in [Role::MobileNode, Role::HomeAgent] {
            let directory = tempfile::tempdir().unwrap();
            let mut first = ledger(directory.path(), role);
            assert_eq!(output(&first), 0);
            first.reserve(&BTreeMap::new(), EARLY, true).unwrap();
            // While it runs, the reservation goes ahead of what is used.
            for used in [5, RESERVE / 2 - 1, RESERVE, 3 * RESERVE] {
                let now = observed(&first, used, 0);
                first.reserve(&now, EARLY, false).unwrap();
                let crashed = ledger(directory.path(), role);
                assert!(output(&crashed) > used, "{role:?} {used}");
            }
        }
    }

    #[test]
    fn leaving_in_good_order_wastes_nothing_and_keeps_the_window() {
        let directory = tempfile::tempdir().unwrap();
        let mut first = ledger(directory.path(), Role::MobileNode);
        first.reserve(&BTreeMap::new(), EARLY, true).unwrap();
        let now = observed(&first, 7, 9);
        first.settle(&now).unwrap();
        let second = ledger(directory.path(), Role::MobileNode);
        let states: Vec<_> = second.starts(EARLY).into_values().collect();
        assert!(states.contains(&ReplayState { output: 7, input: 0 }), "{states:?}");
        assert!(states.contains(&ReplayState { output: 0, input: 9 }), "{states:?}");
    }

    #[test]
    fn a_key_that_is_used_up_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let mut ledger = ledger(directory.path(), Role::MobileNode);
        let now = observed(&ledger, u64::from(u32::MAX) - 5, 0);
        assert!(matches!(ledger.reserve(&now, EARLY, true), Err(Error::UsedUp { .. })));
    }

    #[test]
    fn a_daemon_that_cannot_start_uses_up_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let mut first = ledger(directory.path(), Role::MobileNode);
        first.reserve(&BTreeMap::new(), EARLY, true).unwrap();
        first.give_back(&BTreeMap::new()).unwrap();
        let mut second = ledger(directory.path(), Role::MobileNode);
        assert_eq!(output(&second), 0);
        // What the kernel holds may have been used.
        second.reserve(&BTreeMap::new(), EARLY, true).unwrap();
        let now = observed(&second, 3, 0);
        second.give_back(&now).unwrap();
        assert_eq!(output(&ledger(directory.path(), Role::MobileNode)), RESERVE);
    }

    #[test]
    fn a_store_that_cannot_be_written_is_tried_again_and_nothing_is_used_meanwhile() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        let mut ledger = ledger(&state, Role::MobileNode);
        std::fs::rename(&state, directory.path().join("gone")).unwrap();
        assert!(matches!(ledger.reserve(&BTreeMap::new(), EARLY, false), Err(Error::Store(_))));
        assert_eq!(output(&ledger), 0);
        std::fs::rename(directory.path().join("gone"), &state).unwrap();
        ledger.reserve(&BTreeMap::new(), EARLY, false).unwrap();
        assert_eq!(output(&ledger), RESERVE);
    }

    #[test]
    fn binding_sequences_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let home: Ipv6Addr = "2001:db8:2000::10".parse().unwrap();
        ledger(directory.path(), Role::MobileNode).keep_binding_sequence(home, SequenceNumber(65535)).unwrap();
        assert_eq!(ledger(directory.path(), Role::MobileNode).binding_sequence(home), SequenceNumber(65535));
    }

    fn home() -> Ipv6Addr {
        "2001:db8:2000::10".parse().unwrap()
    }

    #[test]
    fn reserved_binding_sequences_need_no_disk_and_are_given_back() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        let mut first = ledger(&state, Role::MobileNode);
        first.keep_binding_sequence(home(), SequenceNumber(65_530)).unwrap();
        first.reserve_binding_sequences(home()).unwrap();
        assert_eq!(ledger(&state, Role::MobileNode).binding_sequence(home()), SequenceNumber(2), "after a crash");
        let gone = directory.path().join("gone");
        std::fs::rename(&state, &gone).unwrap();
        for number in [65_531, 65_535, 0, 2] {
            first.keep_binding_sequence(home(), SequenceNumber(number)).unwrap();
        }
        assert!(first.keep_binding_sequence(home(), SequenceNumber(3)).is_err(), "beyond the reserve");
        std::fs::rename(&gone, &state).unwrap();
        first.settle(&BTreeMap::new()).unwrap();
        assert_eq!(ledger(&state, Role::MobileNode).binding_sequence(home()), SequenceNumber(2));
        first.keep_binding_sequence(home(), SequenceNumber(600)).unwrap();
        assert_eq!(ledger(&state, Role::MobileNode).binding_sequence(home()), SequenceNumber(600), "an adopted one");
    }

    #[test]
    fn a_home_agent_remembers_what_it_has_accepted_and_only_that() {
        let directory = tempfile::tempdir().unwrap();
        let mut first = ledger(directory.path(), Role::HomeAgent);
        first.reserve(&BTreeMap::new(), EARLY, true).unwrap();
        assert_eq!(ledger(directory.path(), Role::HomeAgent).accepted_sequence(home()), None, "nothing was accepted");
        first.keep_accepted_sequence(home(), SequenceNumber(0)).unwrap();
        let second = ledger(directory.path(), Role::HomeAgent);
        assert_eq!(second.accepted_sequence(home()), Some(SequenceNumber(0)));
    }

    #[test]
    fn packets_between_two_observations_stay_within_the_reserve() {
        for role in [Role::MobileNode, Role::HomeAgent] {
            let directory = tempfile::tempdir().unwrap();
            let mut first = ledger(directory.path(), role);
            first.reserve(&BTreeMap::new(), EARLY, true).unwrap();
            for used in 1..5 * RESERVE {
                first.spend(home()).unwrap();
                if used % 50 == 0 {
                    assert!(output(&ledger(directory.path(), role)) > used, "{role:?} {used}");
                }
            }
        }
    }

    #[test]
    fn a_host_that_knows_nothing_starts_at_the_clock_and_one_that_knows_more_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let late = Duration::from_secs(crate::daemon::floor::EPOCH + 1_000);
        let highest = |ledger: &Ledger| ledger.starts(late).values().map(|state| state.output).max().unwrap();
        let mut first = ledger(directory.path(), Role::MobileNode);
        assert_eq!(highest(&first), 16_000);
        first.reserve(&BTreeMap::new(), late, true).unwrap();
        assert_eq!(highest(&ledger(directory.path(), Role::MobileNode)), 16_000 + RESERVE, "after a crash");
        let now = observed(&first, 50_000, 0);
        first.settle(&now).unwrap();
        assert_eq!(highest(&ledger(directory.path(), Role::MobileNode)), 50_000, "the clock was put back");
    }

    #[test]
    fn a_raised_number_is_reserved_before_it_is_used() {
        let directory = tempfile::tempdir().unwrap();
        let mut first = ledger(directory.path(), Role::MobileNode);
        first.reserve(&BTreeMap::new(), EARLY, true).unwrap();
        let [key] = first.outbound(home())[..] else { panic!() };
        let (sa, outbound) = first.find(&key).unwrap();
        assert!(outbound && sa.signaling && sa.home_address == home());
        first.raise(&sa, 16_000).unwrap();
        assert_eq!(output(&ledger(directory.path(), Role::MobileNode)), 16_000 + RESERVE);
        assert_eq!(first.find(&AssociationKey { spi: 1, ..key }), None);
    }
}
