//! What an earlier run has left, read as bindings, so that a restart goes on with it instead of building it anew.

use std::net::Ipv6Addr;

use super::configuration::{Bindings, Configuration};
use super::{DELIVERY_RULE, KernelState, protocol};
use crate::ipsec::{AssociationKey, Transform};
use crate::policy::Role;
use crate::vocabulary::GuestId;

/// What a kernel state was compiled from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Adopted {
    /// The care-of address secured for each guest.
    pub bindings: Bindings,
    /// The uplink that its rules name.
    pub uplink: Option<String>,
}

/// Reads from an observed state (only what is ours, see [`super::owned`]) which bindings it was made for. Compiling them again gives a state
/// that differs from the observed one only where somebody has changed it, or the configuration is another one.
///
/// A home agent remembers no bindings, and its tunnel link has gone with its process: it adopts what does not depend on bindings.
pub fn adopted(configuration: &Configuration, observed: &KernelState) -> Adopted {
    if configuration.role == Role::HomeAgent {
        return Adopted::default();
    }
    let care_of = |home_address: Ipv6Addr| {
        let key = AssociationKey {
            source: home_address,
            destination: configuration.home_agent,
            protocol: protocol::DESTINATION_OPTIONS,
            spi: 0,
        };
        match observed.associations.get(&key)?.transform {
            Transform::RouteOptimization { care_of_address, wildcard: false } => Some(care_of_address),
            _ => None,
        }
    };
    let guests = configuration.guests.iter().enumerate();
    let bindings = guests.filter_map(|(position, guest)| Some((GuestId(position), care_of(guest.home_address)?)));
    let uplink =
        observed.rules.iter().find(|rule| rule.preference == DELIVERY_RULE).and_then(|rule| rule.input.clone());
    Adopted { bindings: Bindings(bindings.collect()), uplink }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel_state::{Guest, Site, compile, diff};
    use crate::policy::Protection;

    fn configuration(role: Role, addresses: &[&str]) -> Configuration {
        let guest = |text: &&str| Guest { home_address: text.parse().unwrap(), protection: Protection::NONE };
        let guests = addresses.iter().map(guest).collect();
        Configuration { role, home_agent: "2001:db8::1".parse().unwrap(), guests }
    }

    #[test]
    fn a_restart_finds_nothing_to_do() {
        let configuration = configuration(Role::MobileNode, &["2001:db8::10", "2001:db8::11", "2001:db8::12"]);
        let [here, there]: [Ipv6Addr; 2] = ["2001:db8:3000::3", "2001:db8:4000::3"].map(|text| text.parse().unwrap());
        let bindings = Bindings([(GuestId(0), here), (GuestId(2), there)].into());
        let site = Site { uplink: Some("eth0".to_owned()), tunnel6_loaded: true };
        let left = compile(&configuration, &bindings, &site);
        let found = adopted(&configuration, &left);
        assert_eq!(found, Adopted { bindings, uplink: site.uplink.clone() });
        let again = compile(&configuration, &found.bindings, &Site { uplink: found.uplink, ..site });
        assert!(diff(&again, &left).is_empty());
    }

    #[test]
    fn a_return_home_that_was_under_way_begins_anew() {
        let one = configuration(Role::MobileNode, &["2001:db8::10"]);
        let bindings = Bindings([(GuestId(0), one.guests[0].home_address)].into());
        let left = compile(&one, &bindings, &Site { uplink: Some("br-home".to_owned()), tunnel6_loaded: false });
        assert_eq!(adopted(&one, &left).bindings, Bindings::default());
    }

    #[test]
    fn nothing_is_adopted_from_nothing_nor_for_others_nor_by_a_home_agent() {
        let one = configuration(Role::MobileNode, &["2001:db8::10"]);
        assert_eq!(adopted(&one, &KernelState::default()), Adopted::default());
        let bindings = Bindings([(GuestId(0), "2001:db8:3000::3".parse().unwrap())].into());
        let left = compile(&one, &bindings, &Site::default());
        let other = configuration(Role::MobileNode, &["2001:db8::99"]);
        assert_eq!(adopted(&other, &left).bindings, Bindings::default());
        let agent = configuration(Role::HomeAgent, &["2001:db8::10"]);
        assert_eq!(adopted(&agent, &compile(&agent, &bindings, &Site::default())), Adopted::default());
    }
}
