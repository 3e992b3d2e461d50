//! What the wanted state is made of: configuration, bindings, and facts about the machine.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use crate::ipsec::{AssociationKey, SecurityAssociation};
use crate::policy::{GuestPolicy, Policy, Protection, Role};
use crate::vocabulary::GuestId;

/// What of a policy file concerns the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configuration {
    /// Our side.
    pub role: Role,
    /// Address of the home agent.
    pub home_agent: Ipv6Addr,
    /// The guests; a [`GuestId`] is an index in here.
    pub guests: Vec<Guest>,
}

/// What of a guest concerns the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// Its home address.
    pub home_address: Ipv6Addr,
    /// How its signaling is protected.
    pub protection: Protection,
}

impl Configuration {
    /// The ESP SAs of all guests.
    pub fn associations(&self) -> impl Iterator<Item = &SecurityAssociation> {
        self.guests.iter().flat_map(|guest| guest.protection.associations())
    }

    /// The ESP SA of this name.
    pub fn association(&self, key: &AssociationKey) -> Option<&SecurityAssociation> {
        self.associations().find(|sa| sa.key == *key)
    }
}

impl From<&Policy> for Configuration {
    fn from(policy: &Policy) -> Self {
        let guest =
            |guest: &GuestPolicy| Guest { home_address: guest.home_address, protection: guest.protection.clone() };
        Self {
            role: policy.role,
            home_agent: policy.home_agent.address,
            guests: policy.guests.iter().map(guest).collect(),
        }
    }
}

/// Facts about this machine that the wanted state depends on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Site {
    /// Mobile-node role: name of the link to the foreign network.
    pub uplink: Option<String>,
    /// The kernel's own IPv6-in-IPv6 receiver is loaded (`/sys/module/tunnel6`): it answers tunnelled packets that no
    /// tunnel link takes with an ICMPv6 error, beside handing them to raw sockets. A sink link takes them.
    pub tunnel6_loaded: bool,
}

/// The care-of address to be secured, by guest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bindings(pub BTreeMap<GuestId, Ipv6Addr>);
