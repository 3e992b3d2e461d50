//! Whose business a step is, so that a step that fails holds up nobody else.

use std::net::Ipv6Addr;

use super::plan::Step;
use crate::ipsec::{AssociationKey, PolicyKey};
use crate::vocabulary::Prefix;

impl Step {
    /// Whether the step is about an object of this home address. One about no home address at all (a link, the route of a table)
    /// concerns every guest.
    pub fn concerns(&self, home_address: Ipv6Addr) -> bool {
        let host = Prefix::host(home_address);
        let policy = |key: &PolicyKey| key.selector.source == host || key.selector.destination == host;
        let association = |key: &AssociationKey| key.source == home_address || key.destination == home_address;
        match self {
            Self::AddPolicy(wanted) | Self::UpdatePolicy(wanted) => policy(&wanted.key),
            Self::RemovePolicy(key) => policy(key),
            Self::AddAssociation(wanted) | Self::UpdateAssociation(wanted) | Self::ReplaceAssociation(wanted) => {
                association(&wanted.key)
            }
            Self::RemoveAssociation(key) => association(key),
            Self::Migrate(migration) => policy(&migration.policy),
            Self::MoveAssociation { from, to } => association(from) || association(&to.key),
            Self::AddLink(_) | Self::UpdateLink(_) | Self::RemoveLink(_) => false,
            Self::SetAddress(address) => address.address == home_address,
            Self::RemoveAddress(address) => *address == home_address,
            Self::AddRoute(route) => route.key.destination == host,
            Self::RemoveRoute(key) => key.destination == host,
            Self::AddRule(rule) | Self::RemoveRule(rule) => rule.source == host || rule.destination == host,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel_state::{Bindings, Configuration, Guest, KernelState, Site, compile, diff};
    use crate::policy::{Protection, Role};
    use crate::vocabulary::GuestId;

    #[test]
    fn the_steps_of_two_guests_are_told_apart() {
        let [first, second]: [Ipv6Addr; 2] = ["2001:db8::10", "2001:db8::11"].map(|text| text.parse().unwrap());
        for role in [Role::MobileNode, Role::HomeAgent] {
            let guests = [first, second].map(|home_address| Guest { home_address, protection: Protection::NONE });
            let configuration =
                Configuration { role, home_agent: "2001:db8::1".parse().unwrap(), guests: guests.to_vec() };
            let care_of: Ipv6Addr = "2001:db8:3000::3".parse().unwrap();
            let bindings = Bindings([(GuestId(0), care_of), (GuestId(1), care_of)].into());
            let site = Site { uplink: Some("eth0".to_owned()), tunnel6_loaded: true };
            let desired = compile(&configuration, &bindings, &site);
            let steps = diff(&desired, &KernelState::default()).steps;
            let of = |address| steps.iter().filter(|step| step.concerns(address)).count();
            assert!(of(first) > 2 && of(first) == of(second), "{role:?}");
            assert!(!steps.iter().any(|step| step.concerns(first) && step.concerns(second)));
            assert!(steps.iter().any(|step| !step.concerns(first) && !step.concerns(second)), "shared ones");
        }
    }
}
