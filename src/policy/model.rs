//! The policy as the rest of the house sees it: resolved, validated, keys read.

use std::fmt;
use std::net::Ipv6Addr;
use std::time::Duration;

use crate::ipsec::SecurityAssociation;
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
    /// How its signaling is protected.
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

/// How the signaling of a guest is protected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Protection {
    /// Not at all; the file says so in words, and [`Policy::warnings`] repeats it.
    None,
    /// Binding updates and acknowledgements in ESP transport mode (RFC 3776 §3.1).
    HomeRegistration {
        /// Reqid of the SA from the home address to the home agent; not 0.
        reqid_to_home_agent: u32,
        /// Reqid of the SA from the home agent to the home address; not 0, and not the one above.
        reqid_to_guest: u32,
        /// The SAs: those to the home agent (a host has one, the home agent one for each host of the guest), then one to the
        /// guest. Addresses are home address and home agent, reqids those above.
        associations: Vec<SecurityAssociation>,
    },
}

impl Protection {
    /// The SAs; none when there is no protection.
    pub fn associations(&self) -> &[SecurityAssociation] {
        match self {
            Self::None => &[],
            Self::HomeRegistration { associations, .. } => associations,
        }
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
