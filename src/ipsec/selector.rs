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

impl UpperLayer {
    /// Whether some packets are for both.
    pub fn overlaps(self, other: Self) -> bool {
        let protocol = |layer| match layer {
            Self::Any => None,
            Self::Protocol(number) => Some(number),
            Self::MobilityHeader(_) => Some(135),
            Self::Icmpv6(_) => Some(58),
        };
        let typed = |layer| matches!(layer, Self::MobilityHeader(_) | Self::Icmpv6(_));
        match (protocol(self), protocol(other)) {
            (Some(one), Some(two)) => one == two && (self == other || !typed(self) || !typed(other)),
            _ => true,
        }
    }
}

impl Selector {
    /// Whether some packets are for both.
    pub fn overlaps(&self, other: &Self) -> bool {
        let meet = |one: Prefix, two: Prefix| one.covers(two) || two.covers(one);
        meet(self.source, other.source)
            && meet(self.destination, other.destination)
            && self.upper_layer.overlaps(other.upper_layer)
    }
}
