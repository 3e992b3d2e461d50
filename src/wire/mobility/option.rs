//! Mobility options (RFC 6275 §6.2).

use std::net::Ipv6Addr;

/// A mobility option other than padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MobilityOption {
    /// Type 2: refresh interval in units of 4 seconds (RFC 6275 §6.2.4).
    BindingRefreshAdvice(u16),
    /// Type 3 (RFC 6275 §6.2.5).
    AlternateCareOfAddress(Ipv6Addr),
    /// Type 4 (RFC 6275 §6.2.6).
    NonceIndices {
        /// Home nonce index.
        home: u16,
        /// Care-of nonce index.
        care_of: u16,
    },
    /// Type 5 (RFC 6275 §6.2.7).
    BindingAuthorizationData(Vec<u8>),
    /// Anything else, skipped by the receiver (RFC 6275 §6.2.1).
    Unknown {
        /// Option type.
        option_type: u8,
        /// Option data, at most 255 octets.
        data: Vec<u8>,
    },
}
