//! One side's configuration, whatever form it was read from.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::Source;
use crate::ipsec::{Class, Esp, EspMode, SecurityAssociation};
use crate::policy::{KeyPaths, Policy, Reqids, Role, Warning};
use crate::vocabulary::Prefix;

/// A place in a file.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) source: Arc<Source>,
    pub(super) span: Range<usize>,
}

/// Mode of a security association.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// Transport mode.
    Transport,
    /// Tunnel mode.
    Tunnel,
    /// Another one, by its name.
    Other(String),
}

impl Mode {
    pub(super) fn from_name(name: &str) -> Self {
        match name {
            "transport" => Self::Transport,
            "tunnel" => Self::Tunnel,
            other => Self::Other(other.chars().filter(|c| c.is_ascii_alphanumeric()).take(16).collect()),
        }
    }

    /// The one that a policy of ours can hold; none for another one.
    pub(super) fn known(&self) -> Option<EspMode> {
        match self {
            Self::Transport => Some(EspMode::Transport),
            Self::Tunnel => Some(EspMode::Tunnel),
            Self::Other(_) => None,
        }
    }

    pub(super) fn name(&self) -> &str {
        match self {
            Self::Transport => "transport",
            Self::Tunnel => "tunnel",
            Self::Other(name) => name,
        }
    }
}

/// An ESP security association.
#[derive(Clone)]
pub struct Found {
    /// Addresses, SPI, reqid, algorithms with their keys, replay window; always ESP.
    pub association: SecurityAssociation,
    /// Its mode; that of `association` when that has a word for it.
    pub mode: Mode,
    /// The host that alone encrypts with it, when the policy names one.
    pub host: Option<String>,
    pub(super) place: Option<Place>,
}

impl Found {
    /// Its parameters.
    pub(super) fn esp(&self) -> Option<&Esp> {
        self.association.transform.esp()
    }
}

/// A home address that registers with a home agent.
#[derive(Clone)]
pub struct Registration {
    /// The home agent.
    pub home_agent: Ipv6Addr,
    /// The home address.
    pub home_address: Ipv6Addr,
    /// The home link.
    pub home_link: Prefix,
    /// Name of the guest, when it has one.
    pub name: Option<String>,
    /// The protected classes and the reqids of their policies; none: the signaling goes in the clear.
    pub classes: BTreeMap<Class, Reqids>,
    pub(super) place: Option<Place>,
}

/// All that is known of one side.
#[derive(Clone, Default)]
pub struct Side {
    /// The files it was read from.
    pub files: Vec<String>,
    /// Its role, when the files tell.
    pub role: Option<Role>,
    /// Interface of the home link.
    pub interface: Option<String>,
    /// Longest lifetime that the home agent grants.
    pub maximum_lifetime: Option<Duration>,
    /// Lifetime that the mobile node asks for.
    pub lifetime: Option<Duration>,
    /// The K bit, when the files tell.
    pub key_management_mobility: Option<bool>,
    /// Who registers.
    pub registrations: Vec<Registration>,
    /// The ESP security associations.
    pub associations: Vec<Found>,
    /// What was read and not taken, and what should be known.
    pub notes: Vec<Warning>,
    /// Pairs of home address and home agent that a kernel has Mobile IPv6 state for.
    pub(super) hints: Vec<(Ipv6Addr, Ipv6Addr)>,
    pub(super) sources: Vec<Arc<Source>>,
}

impl Side {
    /// What our own policy says; `paths` are those of [`crate::policy::load_with_key_paths`].
    pub fn of_policy(file_name: &str, policy: &Policy, paths: &[KeyPaths]) -> Self {
        let mut side = Self {
            files: vec![file_name.to_owned()],
            role: Some(policy.role),
            key_management_mobility: Some(policy.home_agent.key_management_mobility),
            ..Self::default()
        };
        for guest in &policy.guests {
            side.registrations.push(Registration {
                home_agent: policy.home_agent.address,
                home_address: guest.home_address,
                home_link: policy.home_agent.home_link,
                name: Some(guest.name.clone()),
                classes: guest.protection.classes.clone(),
                place: None,
            });
            side.associations.extend(guest.protection.associations().iter().map(|association| Found {
                association: association.clone(),
                mode: association.transform.esp().map_or(Mode::Transport, |esp| Mode::from_name(esp.mode.name())),
                host: paths.iter().find(|paths| paths.association == association.key).and_then(|p| p.host.clone()),
                place: None,
            }));
        }
        side
    }

    /// Adds what another file of the same side says; what is there already stays.
    pub fn merge(&mut self, other: Self) {
        self.files.extend(other.files);
        self.role = self.role.or(other.role);
        self.interface = self.interface.take().or(other.interface);
        self.maximum_lifetime = self.maximum_lifetime.or(other.maximum_lifetime);
        self.lifetime = self.lifetime.or(other.lifetime);
        self.key_management_mobility = self.key_management_mobility.or(other.key_management_mobility);
        self.registrations.extend(other.registrations);
        self.associations.extend(other.associations);
        self.notes.extend(other.notes);
        self.hints.extend(other.hints);
        self.sources.extend(other.sources);
    }
}
