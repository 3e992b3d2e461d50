//! Sequence numbers on their way from one host to the next: `kagemusha sa export` and `import`.
//!
//! What is imported is judged as a whole before anything is changed: every guest and SA must be known here, and no number may go backwards.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use super::Error;
use super::control_socket::protocol::{AssociationSequence, GuestSequences, Reply, SEQUENCES_VERSION, Sequences};
use super::kernel::Kernel;
use super::roster::Roster;
use super::sequences::Numbered;
use crate::ipsec::{AssociationKey, ReplayState};
use crate::vocabulary::SequenceNumber;

/// IP protocol number of ESP.
const ESP: u8 = 50;

/// Why sequence numbers were not taken over. Nothing was.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refusal {
    /// Another format.
    #[error("these sequence numbers have the format {0}, this program knows {SEQUENCES_VERSION}")]
    Version(u32),
    /// Of another home agent.
    #[error("these sequence numbers are of the home agent {0}, this host's is another one")]
    HomeAgent(Ipv6Addr),
    /// A guest that is not in the policy.
    #[error("the guest {0} is not in this host's policy")]
    Guest(Ipv6Addr),
    /// An SA that is not in the policy.
    #[error("the SA {spi:#x} from {source_address} to {destination} is not in this host's policy")]
    Association {
        /// SPI.
        spi: u32,
        /// Source.
        source_address: Ipv6Addr,
        /// Destination.
        destination: Ipv6Addr,
    },
    /// A number that goes backwards.
    #[error("{what} would go back from {here} to {there}: these are older than what this host has")]
    Backwards {
        /// Of what.
        what: String,
        /// The number here.
        here: u64,
        /// The number that came.
        there: u64,
    },
}

/// How far one host has come.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    /// The home agent.
    pub home_agent: Option<Ipv6Addr>,
    /// The last binding update of each home address.
    pub binding_updates: BTreeMap<Ipv6Addr, SequenceNumber>,
    /// The SAs of the policy: whose, whether packets leave by it, and how far it has come.
    pub associations: BTreeMap<AssociationKey, (Ipv6Addr, bool, ReplayState)>,
}

impl Standing {
    /// Reads the standing of this host.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn of(kernel: &mut Kernel, home_agent: Ipv6Addr, guests: &[Ipv6Addr]) -> Result<Self, Error> {
        let positions = kernel.positions()?;
        let ledger = kernel.ledger();
        let last = |guest| ledger.accepted_sequence(guest).unwrap_or_else(|| ledger.used_binding_sequence(guest));
        let known = ledger.associations().iter().filter(|sa| guests.contains(&sa.home_address));
        let association = |sa: &Numbered| {
            let (_, outbound) = ledger.find(&sa.key)?;
            Some((sa.key, (sa.home_address, outbound, *positions.get(&sa.key)?)))
        };
        Ok(Self {
            home_agent: Some(home_agent),
            binding_updates: guests.iter().map(|guest| (*guest, last(*guest))).collect(),
            associations: known.filter_map(association).collect(),
        })
    }

    /// The answer to who asks for the standing of the guests of these names, or of all.
    pub fn export_of(kernel: &mut Kernel, roster: &Roster, names: &[String]) -> Reply {
        let addresses = match roster.home_addresses(names) {
            Ok(addresses) => addresses,
            Err(unknown) => return Reply::Error(unknown),
        };
        match Self::of(kernel, roster.policy().home_agent.address, &addresses) {
            Ok(standing) => Reply::Sequences(standing.export()),
            Err(error) => Reply::Error(error.to_string()),
        }
    }

    /// As it is handed over.
    pub fn export(&self) -> Sequences {
        let guests = self.binding_updates.iter().map(|(home_address, sequence)| GuestSequences {
            home_address: *home_address,
            binding_update: sequence.0,
            associations: self
                .associations
                .iter()
                .filter(|(_, (owner, _, _))| owner == home_address)
                .map(|(key, (_, outbound, state))| AssociationSequence {
                    source: key.source,
                    destination: key.destination,
                    spi: key.spi,
                    sequence: if *outbound { state.output } else { state.input },
                })
                .collect(),
        });
        Sequences { version: SEQUENCES_VERSION, home_agent: self.home_agent, guests: guests.collect() }
    }

    /// What of `sequences` is to be taken over: all of it, or nothing.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn judge(&self, sequences: &Sequences) -> Result<Import, Refusal> {
        if sequences.version != SEQUENCES_VERSION {
            return Err(Refusal::Version(sequences.version));
        }
        if let Some(other) = sequences.home_agent.filter(|other| Some(*other) != self.home_agent) {
            return Err(Refusal::HomeAgent(other));
        }
        let mut import = Import::default();
        for guest in &sequences.guests {
            let here = *self.binding_updates.get(&guest.home_address).ok_or(Refusal::Guest(guest.home_address))?;
            let there = SequenceNumber(guest.binding_update);
            if there != here && !there.is_newer_than(here) {
                let what = format!("the number of binding updates of {}", guest.home_address);
                return Err(Refusal::Backwards { what, here: here.0.into(), there: there.0.into() });
            }
            import.binding_updates.insert(guest.home_address, there);
            for association in &guest.associations {
                let AssociationSequence { source, destination, spi, sequence } = *association;
                let key = AssociationKey { source, destination, protocol: ESP, spi };
                let known = self.associations.get(&key).filter(|(owner, _, _)| *owner == guest.home_address);
                let Some((owner, outbound, here)) = known.copied() else {
                    return Err(Refusal::Association { spi, source_address: source, destination });
                };
                let number = if outbound { here.output } else { here.input };
                if sequence < number {
                    let what = format!("the sequence number of SA {spi:#x} of {owner}");
                    return Err(Refusal::Backwards { what, here: number, there: sequence });
                }
                let state = match outbound {
                    true => ReplayState { output: sequence, ..here },
                    false => ReplayState { input: sequence, ..here },
                };
                import.associations.insert(key, state);
            }
        }
        Ok(import)
    }
}

/// What is taken over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Import {
    /// The last binding update of each home address.
    pub binding_updates: BTreeMap<Ipv6Addr, SequenceNumber>,
    /// Where the SAs go on.
    pub associations: BTreeMap<AssociationKey, ReplayState>,
}

impl Import {
    /// Takes it over.
    ///
    /// # Errors
    /// The kernel or the store refuses; what was done until then stays, which no number is the worse for.
    pub fn apply(&self, kernel: &mut Kernel) -> Result<(), Error> {
        for (home_address, sequence) in &self.binding_updates {
            kernel.ledger().keep_binding_sequence(*home_address, *sequence)?;
        }
        self.associations.iter().try_for_each(|(key, state)| kernel.import(key, *state))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address(end: u16) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, end)
    }

    fn standing(update: u16, output: u64, input: u64) -> Standing {
        let (agent, guest) = (address(1), address(0x10));
        let key = |source, destination, spi| AssociationKey { source, destination, protocol: ESP, spi };
        let state = ReplayState { output, input };
        Standing {
            home_agent: Some(agent),
            binding_updates: [(guest, SequenceNumber(update))].into(),
            associations: [
                (key(guest, agent, 0x3e8), (guest, true, ReplayState { input: 0, ..state })),
                (key(agent, guest, 0x3e9), (guest, false, ReplayState { output: 0, ..state })),
            ]
            .into(),
        }
    }

    #[test]
    fn what_one_host_exports_the_next_one_goes_on_with() {
        let exported = standing(70, 900, 400).export();
        let import = standing(3, 100, 0).judge(&exported).unwrap();
        assert_eq!(import.binding_updates[&address(0x10)], SequenceNumber(70));
        let states: Vec<_> = import.associations.values().copied().collect();
        assert_eq!(states, [ReplayState { output: 0, input: 400 }, ReplayState { output: 900, input: 0 }]);
        let text = serde_json::to_string(&exported).unwrap();
        assert_eq!(serde_json::from_str::<Sequences>(&text).unwrap(), exported);
    }

    #[test]
    fn what_is_unknown_or_of_others_is_refused() {
        let good = standing(70, 900, 400).export();
        let here = standing(3, 100, 0);
        let refused = |change: fn(&mut Sequences)| {
            let mut changed = good.clone();
            change(&mut changed);
            here.judge(&changed).unwrap_err()
        };
        assert_eq!(refused(|s| s.version = 2), Refusal::Version(2));
        assert_eq!(refused(|s| s.home_agent = Some(address(2))), Refusal::HomeAgent(address(2)));
        assert_eq!(refused(|s| s.guests[0].home_address = address(0x11)), Refusal::Guest(address(0x11)));
        assert!(matches!(refused(|s| s.guests[0].associations[0].spi = 1), Refusal::Association { spi: 1, .. }));
        assert!(matches!(refused(|s| s.guests[0].associations[1].sequence = 99), Refusal::Backwards { here: 100, .. }));
        assert!(serde_json::from_str::<Sequences>(r#"{"version":1,"guests":[],"key":"00"}"#).is_err());
    }

    proptest! {
        /// Whatever two hosts have come to: what is imported is beyond what was here, or refused as a whole.
        #[test]
        fn no_number_goes_backwards(a in any::<(u16, u64, u64)>(), b in any::<(u16, u64, u64)>()) {
            let here = standing(a.0, a.1, a.2);
            let backwards = SequenceNumber(a.0).is_newer_than(SequenceNumber(b.0)) || a.0.wrapping_sub(b.0) == 0x8000 || b.1 < a.1 || b.2 < a.2;
            match here.judge(&standing(b.0, b.1, b.2).export()) {
                Ok(import) => {
                    prop_assert!(!backwards);
                    for (key, state) in import.associations {
                        let (_, _, before) = here.associations[&key];
                        prop_assert!(state.output >= before.output && state.input >= before.input);
                    }
                }
                Err(_) => prop_assert!(backwards),
            }
        }
    }
}
