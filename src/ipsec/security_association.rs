//! Security associations as the kernel holds them: ESP, and the two route optimization states of Mobile IPv6.

use std::net::Ipv6Addr;

use super::{Encryption, EspMode, Integrity, SecretKey};

/// What names an SA in the kernel: `(source, destination, protocol, SPI)`. For the route optimization states the SPI is 0 and
/// the source counts as well, so it is part of the key for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AssociationKey {
    /// Source address (home address or home agent; care-of address for a tunnel).
    pub source: Ipv6Addr,
    /// Destination address.
    pub destination: Ipv6Addr,
    /// IP protocol number: 50 ESP, 60 Home Address option (`hao`), 43 type 2 routing header (`route2`).
    pub protocol: u8,
    /// SPI in host order; 0 for route optimization states.
    pub spi: u32,
}

/// What the SA does to a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transform {
    /// ESP.
    Esp(Esp),
    /// Route optimization: insert or accept a Home Address option (`protocol` 60) or type 2 routing header (43).
    RouteOptimization {
        /// The care-of address to put in or to expect.
        care_of_address: Ipv6Addr,
        /// `wildrecv`: accept any care-of address (home agent side, with unspecified addresses in the key).
        wildcard: bool,
    },
}

impl Transform {
    /// The parameters of ESP; none for a route optimization state.
    pub fn esp(&self) -> Option<&Esp> {
        match self {
            Self::Esp(esp) => Some(esp),
            Self::RouteOptimization { .. } => None,
        }
    }
}

/// Parameters of an ESP SA (RFC 4301 §4.4.2.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Esp {
    /// Transport or tunnel.
    pub mode: EspMode,
    /// Links the SA to policy templates.
    pub reqid: u32,
    /// Encryption algorithm and its key (for an AEAD: key and salt).
    pub encryption: (Encryption, SecretKey),
    /// Integrity algorithm and key; none with an AEAD.
    pub integrity: Option<(Integrity, SecretKey)>,
    /// Anti-replay window in packets, at most [`Esp::WIDEST_WINDOW`]; 0 accepts replays (RFC 4303 §3.4.3), and is not possible with
    /// extended sequence numbers.
    pub replay_window: u32,
    /// Sequence numbers of 64 bits, of which 32 are sent (RFC 4303 §2.2.1).
    pub extended_sequence_numbers: bool,
    /// When it ends.
    pub lifetime: AssociationLifetime,
}

impl Esp {
    /// The widest replay window in packets (`XFRMA_REPLAY_ESN_MAX` of `linux/xfrm.h`).
    pub const WIDEST_WINDOW: u32 = 4096;
}

/// When an SA ends (RFC 4301 §4.4.2.1; `struct xfrm_lifetime_cfg` of `linux/xfrm.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AssociationLifetime {
    /// When the kernel says that it ends soon.
    pub soft: Limits,
    /// When the kernel removes it.
    pub hard: Limits,
}

impl AssociationLifetime {
    /// Whether it never ends.
    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }
}

/// Limits of which the first that is reached counts; none: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Octets, from 1 to 2^64 - 2.
    pub bytes: Option<u64>,
    /// Packets, from 1 to 2^64 - 2.
    pub packets: Option<u64>,
    /// Seconds since it was made, from 1.
    pub seconds: Option<u64>,
}

/// Where the sequence numbers of an ESP SA stand (RFC 4301 §4.4.2.1; `linux/xfrm.h`: `struct xfrm_replay_state`,
/// `struct xfrm_replay_state_esn`). Below 2^32 unless they are extended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReplayState {
    /// Last number sent.
    pub output: u64,
    /// Highest number received.
    pub input: u64,
}

/// A security association.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecurityAssociation {
    /// Its name.
    pub key: AssociationKey,
    /// What it does.
    pub transform: Transform,
}

impl SecurityAssociation {
    /// The reqid of an ESP SA; none for a route optimization state.
    pub fn reqid(&self) -> Option<u32> {
        self.transform.esp().map(|esp| esp.reqid)
    }
}
