//! The SAs of tunnels under both of their names: at rest they end at the home address, with a binding at the care-of address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;

use super::configuration::Configuration;
use crate::ipsec::{AssociationKey, Class, Toward};

/// Finds the SA of the policy file for one that the kernel holds.
#[derive(Debug, Clone, Default)]
pub struct Tunnels {
    home_agent: Option<Ipv6Addr>,
    home_addresses: BTreeSet<Ipv6Addr>,
    /// Unique in a policy file.
    by_spi: BTreeMap<(Toward, u32), AssociationKey>,
}

impl Tunnels {
    /// Those of a configuration.
    pub fn new(configuration: &Configuration) -> Self {
        let mut by_spi = BTreeMap::new();
        for guest in &configuration.guests {
            for class in guest.protection.classes.keys().copied().filter(|class| Class::is_tunnel(*class)) {
                for sa in guest.protection.associations_of(class) {
                    let toward =
                        if sa.key.destination == configuration.home_agent { Toward::HomeAgent } else { Toward::Guest };
                    by_spi.insert((toward, sa.key.spi), sa.key);
                }
            }
        }
        let home_addresses = configuration.guests.iter().map(|guest| guest.home_address).collect();
        Self { home_agent: Some(configuration.home_agent), home_addresses, by_spi }
    }

    /// The name in the policy file of an SA that the kernel holds. One that is no tunnel has one name only.
    pub fn name_at_rest(&self, key: &AssociationKey) -> AssociationKey {
        let (toward, home_agent, guest) = match Some(key.destination) == self.home_agent {
            true => (Toward::HomeAgent, key.destination, key.source),
            false => (Toward::Guest, key.source, key.destination),
        };
        // An SA in transport mode to another home address may have the same SPI.
        let moved = Some(home_agent) == self.home_agent && !self.home_addresses.contains(&guest);
        let at_rest = self.by_spi.get(&(toward, key.spi)).filter(|at_rest| moved && at_rest.protocol == key.protocol);
        at_rest.copied().unwrap_or(*key)
    }
}
