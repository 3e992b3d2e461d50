//! Traffic selectors (RFC 4301 §4.4.1.1).

use crate::vocabulary::Prefix;

/// The upper-layer part of a selector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UpperLayer {
    /// Any protocol.
    Any,
    /// One protocol by its number, any ports.
    Protocol(u8),
    /// Mobility headers (135) of one type; the kernel keeps the type in the selector's source port.
    MobilityHeader(u8),
    /// ICMPv6 (58) of one type.
    Icmpv6(u8),
}

/// Which packets a policy (or an SA) is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector {
    /// Source addresses.
    pub source: Prefix,
    /// Destination addresses.
    pub destination: Prefix,
    /// Protocol and type.
    pub upper_layer: UpperLayer,
}
