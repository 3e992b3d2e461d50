//! Security associations as the kernel holds them: ESP, and the two route optimization states of Mobile IPv6.

use std::net::Ipv6Addr;

use super::{Encryption, Integrity, SecretKey};

/// What names an SA in the kernel: `(source, destination, protocol, SPI)`. For the route optimization states the SPI is 0 and
/// the source counts as well, so it is part of the key for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AssociationKey {
    /// Source address (home address or home agent).
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
    /// ESP in transport mode.
    EspTransport {
        /// Links the SA to policy templates.
        reqid: u32,
        /// Encryption algorithm and its key (for an AEAD: key and salt).
        encryption: (Encryption, SecretKey),
        /// Integrity algorithm and key; none with an AEAD.
        integrity: Option<(Integrity, SecretKey)>,
        /// Anti-replay window in packets; 0 accepts replays (RFC 4303 §3.4.3).
        replay_window: u32,
    },
    /// Route optimization: insert or accept a Home Address option (`protocol` 60) or type 2 routing header (43).
    RouteOptimization {
        /// The care-of address to put in or to expect.
        care_of_address: Ipv6Addr,
        /// `wildrecv`: accept any care-of address (home agent side, with unspecified addresses in the key).
        wildcard: bool,
    },
}

/// Where the sequence numbers of an ESP SA stand (RFC 4301 §4.4.2.1; `linux/xfrm.h`: `struct xfrm_replay_state`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReplayState {
    /// Last number sent.
    pub output: u32,
    /// Highest number received.
    pub input: u32,
}

/// A security association.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecurityAssociation {
    /// Its name.
    pub key: AssociationKey,
    /// What it does.
    pub transform: Transform,
}
