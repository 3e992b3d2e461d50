//! Sequence numbers across restarts: those of binding updates, and those of the ESP SAs that the daemon makes.
//!
//! An SA that is made again under the same key must not start again at 0: the peer's anti-replay window refuses what it has seen
//! (RFC 4303 §3.4.3), and a counter-mode cipher repeats its nonces. So the store holds, for every outbound SA, a number that no packet
//! has reached: it is raised ahead of use, in steps of [`RESERVE`], and set to what was really used when the daemon leaves in good order.
//! For an inbound SA it holds the highest number seen when the daemon left, so that what was received before stays a replay.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use super::store::{self, Record, Store};
use crate::ipsec::{AssociationKey, ReplayState};
use crate::policy::{Policy, Role};
use crate::vocabulary::SequenceNumber;

/// How far ahead of use outbound numbers are reserved. A signaling SA carries a packet every few minutes; a crash of the machine costs
/// this much of the 2^32 numbers of a key.
pub const RESERVE: u32 = 1 << 16;

/// Why sequence numbers cannot be given.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The 2^32 sequence numbers of a key are used up (RFC 4303 §3.3.3).
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
    /// Our own address in outbound SAs is the home address (mobile node) or this one (home agent).
    home_agent: Ipv6Addr,
    role: Role,
}

impl Ledger {
    /// Reads what the store has for the home addresses of `policy`.
    ///
    /// # Errors
    /// A record that cannot be read.
    pub fn open(store: Store, policy: &Policy) -> Result<Self, Error> {
        let mut records = BTreeMap::new();
        let mut associations = Vec::new();
        for guest in &policy.guests {
            records.insert(guest.home_address, store.load(guest.home_address)?);
            associations.extend(guest.protection.associations().iter().map(|sa| (guest.home_address, sa.key)));
        }
        Ok(Self { store, records, associations, home_agent: policy.home_agent.address, role: policy.role })
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
            let stored = |numbers: &BTreeMap<String, u32>| numbers.get(&name(key)).copied().unwrap_or(0);
            let state = if self.is_outbound(key) {
                ReplayState { output: stored(&record.output_sequence), input: 0 }
            } else {
                ReplayState { output: 0, input: stored(&record.input_sequence) }
            };
            Some((*key, state))
        };
        self.associations.iter().filter_map(start).collect()
    }

    /// Reserves numbers ahead of `observed` (and of [`Self::starts`]) where less than half of [`RESERVE`] is left.
    ///
    /// # Errors
    /// The store cannot be written, or the numbers of a key are used up.
    pub fn reserve(&mut self, observed: &BTreeMap<AssociationKey, ReplayState>, starting: bool) -> Result<(), Error> {
        for (home_address, key) in self.associations.clone() {
            if !self.is_outbound(&key) {
                continue;
            }
            let record = self.records.entry(home_address).or_default();
            let reserved = record.output_sequence.get(&name(&key)).copied().unwrap_or(0);
            let used = observed.get(&key).map_or(0, |state| state.output);
            if !starting && reserved.saturating_sub(used) > RESERVE / 2 {
                continue;
            }
            let next = reserved.max(used).checked_add(RESERVE);
            let next = next.ok_or_else(|| Error::UsedUp { home_address, spi: name(&key) })?;
            record.output_sequence.insert(name(&key), next);
            self.store.save(home_address, record)?;
        }
        Ok(())
    }

    /// Writes down what was really used, before the SAs are removed.
    ///
    /// # Errors
    /// The store cannot be written; the reservation of before holds then.
    pub fn settle(&mut self, observed: &BTreeMap<AssociationKey, ReplayState>) -> Result<(), Error> {
        for (home_address, key) in self.associations.clone() {
            let Some(state) = observed.get(&key) else { continue };
            let outbound = self.is_outbound(&key);
            let record = self.records.entry(home_address).or_default();
            let _ = match outbound {
                true => record.output_sequence.insert(name(&key), state.output),
                false => record.input_sequence.insert(name(&key), state.input),
            };
            self.store.save(home_address, record)?;
        }
        Ok(())
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

    fn output(ledger: &Ledger) -> u32 {
        ledger.starts().values().map(|state| state.output).max().unwrap()
    }

    fn observed(ledger: &Ledger, output: u32, input: u32) -> BTreeMap<AssociationKey, ReplayState> {
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
        let now = observed(&ledger, u32::MAX - 5, 0);
        assert!(matches!(ledger.reserve(&now, true), Err(Error::UsedUp { .. })));
    }

    #[test]
    fn binding_sequences_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let home: Ipv6Addr = "2001:db8:2000::10".parse().unwrap();
        ledger(directory.path(), Role::MobileNode).keep_binding_sequence(home, SequenceNumber(65535)).unwrap();
        assert_eq!(ledger(directory.path(), Role::MobileNode).binding_sequence(home), SequenceNumber(65535));
    }
}
