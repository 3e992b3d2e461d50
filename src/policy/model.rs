//! The policy as the rest of the house sees it: resolved, validated, keys read.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::time::Duration;

use crate::ipsec::{Class, SecurityAssociation, Toward};
use crate::vocabulary::{MacAddress, Prefix};

/// The side of the registration a policy file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The host that speaks Mobile IPv6 for its guests.
    MobileNode,
    /// The router of the home link that they register with.
    HomeAgent,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MobileNode => "mobile node",
            Self::HomeAgent => "home agent",
        })
    }
}

/// A whole policy file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Which side it is for.
    pub role: Role,
    /// The home agent and the home link.
    pub home_agent: HomeAgentPolicy,
    /// How the host reaches the home agent; everything open in the home-agent role.
    pub uplink: UplinkPolicy,
    /// The guests, in the order of the file; their position is their [`crate::vocabulary::GuestId`].
    pub guests: Vec<GuestPolicy>,
    /// What is allowed, and yet should be known to who runs it.
    pub warnings: Vec<Warning>,
}

/// The home agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HomeAgentPolicy {
    /// Its address, on the home link.
    pub address: Ipv6Addr,
    /// The prefix of the home link.
    pub home_link: Prefix,
    /// Home-agent role: the interface on the home link, always there. None in the mobile-node role.
    pub interface: Option<String>,
    /// Home-agent role: the longest lifetime granted; 4 s to 262140 s, a multiple of 4 s.
    pub maximum_lifetime: Duration,
    /// Home-agent role: whether duplicate address detection comes before the first registration of a home address
    /// (RFC 6275 §10.3.1).
    pub detect_duplicates: bool,
    /// Home-agent role: whether that first registration is accepted while duplicate address detection still goes on.
    pub optimistic_detection: bool,
    /// Key Management Mobility Capability, the K bit of binding updates (mobile node) and binding acknowledgements (home
    /// agent).
    pub key_management_mobility: bool,
}

/// `[uplink]`: where the care-of address comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UplinkPolicy {
    /// The interface; none: the one of the route to the home agent.
    pub interface: Option<String>,
    /// The care-of address; none: the preferred source address of that route.
    pub care_of_address: Option<Ipv6Addr>,
}

/// One guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestPolicy {
    /// Name, unique in the file: letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// Home address, on the home link.
    pub home_address: Ipv6Addr,
    /// Lifetime asked for in binding updates; 4 s to 262140 s, a multiple of 4 s.
    pub lifetime: Duration,
    /// What of its traffic is protected, and how.
    pub protection: Protection,
    /// Where the guest is on this host. Always there in the mobile-node role, never in the home-agent role.
    pub attachment: Option<Attachment>,
}

/// Where a guest is on this host and what it is shown (mobile-node role).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// The MAC address of the guest's network card.
    pub mac: MacAddress,
    /// Where its frames come from.
    pub port: Port,
    /// The router of the pseudo home network.
    pub router: RouterPolicy,
    /// From when on the host speaks for it.
    pub attach: AttachMode,
    /// The socket on which its hypervisor speaks QMP, an absolute path.
    pub qmp: Option<PathBuf>,
}

/// When a host begins to speak for a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AttachMode {
    /// From the start of the daemon on, whether the guest was seen or not.
    #[default]
    Always,
    /// Everything is prepared at the start, and the guest attached when it is seen.
    WhenSeen,
    /// By commands only.
    OnCommand,
}

/// Where a guest's frames come from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Port {
    /// A bridge that the guest's interface is a port of.
    Bridge(String),
    /// The host's end of this one guest's link.
    Tap(String),
}

impl Port {
    /// The name of the interface, whichever kind it is.
    pub fn interface(&self) -> &str {
        match self {
            Self::Bridge(name) | Self::Tap(name) => name,
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bridge(name) => write!(f, "bridge {name}"),
            Self::Tap(name) => write!(f, "tap {name}"),
        }
    }
}

/// The router a guest sees on the pseudo home network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouterPolicy {
    /// Link-local address that router advertisements come from.
    pub link_local: Ipv6Addr,
    /// MAC address of the router and of every other on-link neighbour.
    pub mac: MacAddress,
    /// Whether the advertised prefix has the autonomous flag (RFC 4861 §4.6.2): the guest forms addresses from it.
    pub autonomous: bool,
}

impl RouterPolicy {
    /// `fe80::1`.
    pub const DEFAULT_LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    /// `02:4b:47:4d:53:01`: locally administered, and the same on every host, so that a guest that moves between two hosts
    /// keeps a valid neighbour cache.
    pub const DEFAULT_MAC: MacAddress = MacAddress([0x02, 0x4b, 0x47, 0x4d, 0x53, 0x01]);
}

impl Default for RouterPolicy {
    fn default() -> Self {
        Self { link_local: Self::DEFAULT_LINK_LOCAL, mac: Self::DEFAULT_MAC, autonomous: false }
    }
}

/// How the traffic between a guest and its home agent is protected: classes, and the SAs that serve them.
///
/// An SA serves the class and the direction that its reqid and its addresses say. Addresses are home address and home agent, for
/// tunnels too: the end at the home address moves to the care-of address with the binding.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Protection {
    /// The protected classes with the reqids of their SAs. Empty: nothing is protected; the file says so in words, and
    /// [`Policy::warnings`] repeats it.
    pub classes: BTreeMap<Class, Reqids>,
    /// The SAs, by class; of a class those to the home agent (a host has one, the home agent one for each host of the guest), then
    /// one to the guest.
    pub associations: Vec<SecurityAssociation>,
}

/// The reqids that tie the SAs of a class to its security policies, one for each direction. Neither is 0, and no two of a guest are
/// the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reqids {
    /// Of SAs from the home address to the home agent.
    pub to_home_agent: u32,
    /// Of SAs from the home agent to the home address.
    pub to_guest: u32,
}

impl Reqids {
    /// The one of a direction.
    pub fn toward(self, toward: Toward) -> u32 {
        match toward {
            Toward::HomeAgent => self.to_home_agent,
            Toward::Guest => self.to_guest,
        }
    }
}

impl Protection {
    /// No class at all.
    pub const NONE: Self = Self { classes: BTreeMap::new(), associations: Vec::new() };

    /// Whether nothing is protected.
    pub fn is_none(&self) -> bool {
        self.classes.is_empty()
    }

    /// Whether the class is among the protected ones.
    pub fn has(&self, class: Class) -> bool {
        self.classes.contains_key(&class)
    }

    /// The SAs; none when there is no protection.
    pub fn associations(&self) -> &[SecurityAssociation] {
        &self.associations
    }

    /// The class and the direction that an SA of this reqid serves.
    pub fn serves(&self, reqid: u32) -> Option<(Class, Toward)> {
        self.classes.iter().find_map(|(class, reqids)| {
            Toward::BOTH.into_iter().find(|toward| reqids.toward(*toward) == reqid).map(|toward| (*class, toward))
        })
    }

    /// The SAs of a class.
    pub fn associations_of(&self, class: Class) -> impl Iterator<Item = &SecurityAssociation> {
        let serves = move |sa: &&SecurityAssociation| {
            sa.reqid().and_then(|reqid| self.serves(reqid)).is_some_and(|(served, _)| served == class)
        };
        self.associations.iter().filter(serves)
    }
}

/// Something allowed that should be known. It points at its place in the file like an error does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// File name as it was given to the loader.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Key path, such as `guest.vm1.protect`.
    pub key: String,
    /// What is the matter.
    pub message: String,
    /// What to do about it.
    pub help: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}: {}; {}", self.file, self.line, self.column, self.key, self.message, self.help)
    }
}
