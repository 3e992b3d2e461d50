//! Sequence numbers across restarts: those of binding updates, and those of the ESP SAs that the daemon makes.
//!
//! An SA that is made again under the same key must not start again at 0: the peer's anti-replay window refuses what it has seen
//! (RFC 4303 §3.4.3), and a counter-mode cipher repeats its nonces. So the store holds, for every outbound SA, a number that no packet
//! has reached: it is raised ahead of use, in steps of [`RESERVE`], and set to what was really used when the daemon leaves in good order.
//! For an inbound SA it holds the highest number seen when the daemon left, so that what was received before stays a replay.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;

use super::store::{self, Record, Store};
use crate::ipsec::{AssociationKey, ReplayState, SecurityAssociation};
use crate::policy::{Policy, Role};
use crate::vocabulary::SequenceNumber;

/// How far ahead of use outbound numbers are reserved. A signaling SA carries a packet every few minutes; a crash of the machine costs
/// this much of the 2^32 numbers of a key.
pub const RESERVE: u64 = 1 << 16;

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

/// The numbers of every home address of a policy.
#[derive(Debug)]
pub struct Ledger {
    store: Store,
    records: BTreeMap<Ipv6Addr, Record>,
    /// The ESP SAs of the policy with their home address.
    associations: Vec<(Ipv6Addr, AssociationKey)>,
    /// Those with 64-bit numbers.
    extended: BTreeSet<AssociationKey>,
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
        let mut records = BTreeMap::new();
        let mut associations = Vec::new();
        let mut extended = BTreeSet::new();
        for guest in &policy.guests {
            records.insert(guest.home_address, store.load(guest.home_address)?);
            associations.extend(guest.protection.associations().iter().map(|sa| (guest.home_address, sa.key)));
            let long = |sa: &&SecurityAssociation| sa.transform.esp().is_some_and(|esp| esp.extended_sequence_numbers);
            extended.extend(guest.protection.associations().iter().filter(long).map(|sa| sa.key));
        }
        let (home_agent, role) = (policy.home_agent.address, policy.role);
        Ok(Self { store, records, associations, extended, home_agent, role, reserved_at_start: BTreeMap::new() })
    }

    /// The last sequence number of a binding update for this home address.
    pub fn binding_sequence(&self, home_address: Ipv6Addr) -> SequenceNumber {
        SequenceNumber(self.records.get(&home_address).map_or(0, |record| record.last_sequence))
    }

    /// Keeps a sequence number; when this returns, no restart uses it again.
    ///
    /// # Errors
    /// The store cannot be written; the number must not be used then.
    pub fn keep_binding_sequence(&mut self, home_address: Ipv6Addr, sequence: SequenceNumber) -> Result<(), Error> {
        let record = self.records.entry(home_address).or_default();
        record.last_sequence = sequence.0;
        Ok(self.store.save(home_address, record)?)
    }

    fn is_outbound(&self, key: &AssociationKey) -> bool {
        (key.source == self.home_agent) == (self.role == Role::HomeAgent)
    }

    /// Where SAs that are made now have to go on.
    pub fn starts(&self) -> BTreeMap<AssociationKey, ReplayState> {
        let start = |(home_address, key): &(Ipv6Addr, AssociationKey)| {
            let record = self.records.get(home_address)?;
            let stored = |numbers: &BTreeMap<String, u64>| numbers.get(&name(key)).copied().unwrap_or(0);
            let state = if self.is_outbound(key) {
                ReplayState { output: stored(&record.output_sequence), input: 0 }
            } else {
                ReplayState { output: 0, input: stored(&record.input_sequence) }
            };
            Some((*key, state))
        };
        self.associations.iter().filter_map(start).collect()
    }

    /// Reserves numbers ahead of `observed` (and of [`Self::starts`]) where less than half of [`RESERVE`] is left. What fails for one home
    /// address holds up no other.
    ///
    /// # Errors
    /// The store cannot be written, or the numbers of a key are used up: the first of these.
    pub fn reserve(&mut self, observed: &BTreeMap<AssociationKey, ReplayState>, starting: bool) -> Result<(), Error> {
        let mut result = Ok(());
        for (home_address, key) in self.associations.clone() {
            if !self.is_outbound(&key) {
                continue;
            }
            let stored = self.records.get(&home_address).and_then(|record| record.output_sequence.get(&name(&key)));
            let reserved = stored.copied();
            let used = observed.get(&key).map_or(0, |state| state.output);
            if !starting && reserved.unwrap_or(0).saturating_sub(used) > RESERVE / 2 {
                continue;
            }
            let last = if self.extended.contains(&key) { u64::MAX } else { u32::MAX.into() };
            let next = reserved.unwrap_or(0).max(used).checked_add(RESERVE);
            let kept = match next.filter(|next| *next <= last) {
                Some(next) => self.keep_output(home_address, key, Some(next)),
                None => Err(Error::UsedUp { home_address, spi: name(&key) }),
            };
            match kept {
                Ok(()) if starting => drop(self.reserved_at_start.insert(key, reserved)),
                Ok(()) => {}
                Err(error) => result = result.and(Err(error)),
            }
        }
        result
    }

    /// Takes back what [`Self::reserve`] reserved at the start, for SAs that the kernel does not hold. Only before anything was sent, when
    /// the daemon cannot start: otherwise one that is started again and again would use up its keys.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn give_back(&mut self, observed: &BTreeMap<AssociationKey, ReplayState>) -> Result<(), Error> {
        for (home_address, key) in self.associations.clone() {
            if let Some(before) = self.reserved_at_start.remove(&key)
                && !observed.contains_key(&key)
            {
                self.keep_output(home_address, key, before)?;
            }
        }
        Ok(())
    }

    /// Writes the number of an outbound SA; when that fails, the one before is still what this ledger goes by.
    fn keep_output(&mut self, home_address: Ipv6Addr, key: AssociationKey, number: Option<u64>) -> Result<(), Error> {
        let record = self.records.entry(home_address).or_default();
        let mut changed = record.clone();
        let _ = match number {
            Some(number) => changed.output_sequence.insert(name(&key), number),
            None => changed.output_sequence.remove(&name(&key)),
        };
        self.store.save(home_address, &changed)?;
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
            for (_, key) in self.associations.iter().filter(|(address, _)| address == home_address) {
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

/// An SA's name in the store.
fn name(key: &AssociationKey) -> String {
    format!("{:#x}", key.spi)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{KeyError, KeySource, load_home_agent, load_mobile_node};

    struct SomeKeys;

    impl KeySource for SomeKeys {
        fn read_key(&self, path: &std::path::Path) -> Result<crate::ipsec::SecretKey, KeyError> {
            let seed = path.to_string_lossy().bytes().fold(0u8, u8::wrapping_add);
            Ok(crate::ipsec::SecretKey::new(vec![seed; 32]))
        }
    }

    fn ledger(directory: &std::path::Path, role: Role) -> Ledger {
        let policy = match role {
            Role::MobileNode => load_mobile_node("ha.toml", include_str!("../../policies/ha.toml"), &SomeKeys),
            Role::HomeAgent => {
                load_home_agent("home-agent.toml", include_str!("../../policies/home-agent.toml"), &SomeKeys)
            }
        };
        Ledger::open(Store::open(directory).unwrap(), &policy.unwrap()).unwrap()
    }

    fn output(ledger: &Ledger) -> u64 {
        ledger.starts().values().map(|state| state.output).max().unwrap()
    }

    fn observed(ledger: &Ledger, output: u64, input: u64) -> BTreeMap<AssociationKey, ReplayState> {
        ledger.starts().keys().map(|key| (*key, ReplayState { output, input })).collect()
    }

    #[test]
    fn after_a_crash_numbers_start_above_all_that_can_have_been_used() {
        for role in [Role::MobileNode, Role::HomeAgent] {
            let directory = tempfile::tempdir().unwrap();
            let mut first = ledger(directory.path(), role);
            assert_eq!(output(&first), 0);
            first.reserve(&BTreeMap::new(), true).unwrap();
            // While it runs, the reservation goes ahead of what is used.
            for used in [5, RESERVE / 2 - 1, RESERVE, 3 * RESERVE] {
                let now = observed(&first, used, 0);
                first.reserve(&now, false).unwrap();
                let crashed = ledger(directory.path(), role);
                assert!(output(&crashed) > used, "{role:?} {used}");
            }
        }
    }

    #[test]
    fn leaving_in_good_order_wastes_nothing_and_keeps_the_window() {
        let directory = tempfile::tempdir().unwrap();
        let mut first = ledger(directory.path(), Role::MobileNode);
        first.reserve(&BTreeMap::new(), true).unwrap();
        let now = observed(&first, 7, 9);
        first.settle(&now).unwrap();
        let second = ledger(directory.path(), Role::MobileNode);
        let states: Vec<_> = second.starts().into_values().collect();
        assert!(states.contains(&ReplayState { output: 7, input: 0 }), "{states:?}");
        assert!(states.contains(&ReplayState { output: 0, input: 9 }), "{states:?}");
    }

    #[test]
    fn a_key_that_is_used_up_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let mut ledger = ledger(directory.path(), Role::MobileNode);
        let now = observed(&ledger, u64::from(u32::MAX) - 5, 0);
        assert!(matches!(ledger.reserve(&now, true), Err(Error::UsedUp { .. })));
    }

    #[test]
    fn a_daemon_that_cannot_start_uses_up_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let mut first = ledger(directory.path(), Role::MobileNode);
        first.reserve(&BTreeMap::new(), true).unwrap();
        first.give_back(&BTreeMap::new()).unwrap();
        let mut second = ledger(directory.path(), Role::MobileNode);
        assert_eq!(output(&second), 0);
        // What the kernel holds may have been used.
        second.reserve(&BTreeMap::new(), true).unwrap();
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
        assert!(matches!(ledger.reserve(&BTreeMap::new(), false), Err(Error::Store(_))));
        assert_eq!(output(&ledger), 0);
        std::fs::rename(directory.path().join("gone"), &state).unwrap();
        ledger.reserve(&BTreeMap::new(), false).unwrap();
        assert_eq!(output(&ledger), RESERVE);
    }

    #[test]
    fn binding_sequences_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let home: Ipv6Addr = "2001:db8:2000::10".parse().unwrap();
        ledger(directory.path(), Role::MobileNode).keep_binding_sequence(home, SequenceNumber(65535)).unwrap();
        assert_eq!(ledger(directory.path(), Role::MobileNode).binding_sequence(home), SequenceNumber(65535));
    }
}
