//! Protection classes: what of the traffic between a mobile node and its home agent IPsec protects, and how (RFC 3776 §3,
//! RFC 4877 §5).

use std::fmt;

use super::{EspMode, UpperLayer};

/// ICMPv6 type of a mobile prefix solicitation (RFC 6275 §6.7).
const MOBILE_PREFIX_SOLICITATION: u8 = 146;
/// ICMPv6 type of a mobile prefix advertisement (RFC 6275 §6.8).
const MOBILE_PREFIX_ADVERTISEMENT: u8 = 147;
/// IP protocol number of ICMPv6.
const ICMPV6: u8 = 58;
/// IP protocol number of mobility headers.
const MOBILITY: u8 = 135;

/// Where packets go: the directions of a registration, which are the same in the words of both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Toward {
    /// From the home address to the home agent, or through it.
    HomeAgent,
    /// From the home agent, or through it, to the home address.
    Guest,
}

impl Toward {
    /// Both, that to the home agent first.
    pub const BOTH: [Self; 2] = [Self::HomeAgent, Self::Guest];

    /// The name in policy files.
    pub fn name(self) -> &'static str {
        match self {
            Self::HomeAgent => "to-home-agent",
            Self::Guest => "to-guest",
        }
    }
}

impl fmt::Display for Toward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A protection class. The order is that of precedence: where two take the same packet, the earlier one protects it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Binding updates and acknowledgements, in transport mode (RFC 3776 §3.1, RFC 4877 §5.2.1).
    HomeRegistration,
    /// Mobile prefix solicitations and advertisements, in transport mode (RFC 3776 §3.3).
    MobilePrefixDiscovery,
    /// All mobility headers between home address and home agent, in transport mode.
    MobilityHeaders,
    /// All ICMPv6 between home address and home agent, in transport mode.
    Icmpv6,
    /// Everything between home address and home agent, in transport mode.
    Any,
    /// Home test init and home test messages through the home agent, in tunnel mode (RFC 3776 §3.2).
    ReturnRoutability,
    /// All mobility headers through the home agent, in tunnel mode.
    TunnelMobilityHeaders,
    /// Everything through the home agent, in tunnel mode (RFC 3776 §3.4).
    TunnelPayload,
}

impl Class {
    /// Every class, in the order of precedence.
    pub const ALL: [Self; 8] = [
        Self::HomeRegistration,
        Self::MobilePrefixDiscovery,
        Self::MobilityHeaders,
        Self::Icmpv6,
        Self::Any,
        Self::ReturnRoutability,
        Self::TunnelMobilityHeaders,
        Self::TunnelPayload,
    ];

    /// The name in policy files.
    pub fn name(self) -> &'static str {
        match self {
            Self::HomeRegistration => "home-registration",
            Self::MobilePrefixDiscovery => "mobile-prefix-discovery",
            Self::MobilityHeaders => "mobility-headers",
            Self::Icmpv6 => "icmpv6",
            Self::Any => "any",
            Self::ReturnRoutability => "return-routability",
            Self::TunnelMobilityHeaders => "tunnel-mobility-headers",
            Self::TunnelPayload => "tunnel-payload",
        }
    }

    /// The class of a name in a policy file.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.name() == name)
    }

    /// What umip calls it in `IPsecPolicy` lines.
    pub fn umip_name(self) -> &'static str {
        match self {
            Self::HomeRegistration => "HomeRegBinding",
            Self::MobilePrefixDiscovery => "MobPfxDisc",
            Self::MobilityHeaders => "Mh",
            Self::Icmpv6 => "ICMP",
            Self::Any => "any",
            Self::ReturnRoutability => "TunnelHomeTesting",
            Self::TunnelMobilityHeaders => "TunnelMh",
            Self::TunnelPayload => "TunnelPayload",
        }
    }

    /// The class of a name in an `IPsecPolicy` line.
    pub fn from_umip_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.umip_name() == name)
    }

    /// What its packets are, in words.
    pub fn traffic(self) -> &'static str {
        match self {
            Self::HomeRegistration => "binding updates and acknowledgements",
            Self::MobilePrefixDiscovery => "mobile prefix discovery",
            Self::MobilityHeaders => "all mobility headers",
            Self::Icmpv6 => "all ICMPv6",
            Self::Any => "everything between home address and home agent",
            Self::ReturnRoutability => "return routability in the tunnel",
            Self::TunnelMobilityHeaders => "mobility headers in the tunnel",
            Self::TunnelPayload => "the guest's data in an ESP tunnel",
        }
    }

    /// The mode of its SAs.
    pub fn mode(self) -> EspMode {
        match self {
            Self::HomeRegistration | Self::MobilePrefixDiscovery | Self::MobilityHeaders | Self::Icmpv6 | Self::Any => {
                EspMode::Transport
            }
            Self::ReturnRoutability | Self::TunnelMobilityHeaders | Self::TunnelPayload => EspMode::Tunnel,
        }
    }

    /// Whether it is in tunnel mode: between the home address and anybody, with the care-of address as the end of the tunnel.
    pub fn is_tunnel(self) -> bool {
        self.mode() == EspMode::Tunnel
    }

    /// Protocol and type of its packets of one direction.
    pub fn upper_layer(self, toward: Toward) -> UpperLayer {
        match (self, toward) {
            (Self::HomeRegistration, Toward::HomeAgent) => UpperLayer::MobilityHeader(5),
            (Self::HomeRegistration, Toward::Guest) => UpperLayer::MobilityHeader(6),
            (Self::MobilePrefixDiscovery, Toward::HomeAgent) => UpperLayer::Icmpv6(MOBILE_PREFIX_SOLICITATION),
            (Self::MobilePrefixDiscovery, Toward::Guest) => UpperLayer::Icmpv6(MOBILE_PREFIX_ADVERTISEMENT),
            (Self::Icmpv6, _) => UpperLayer::Protocol(ICMPV6),
            (Self::MobilityHeaders | Self::TunnelMobilityHeaders, _) => UpperLayer::Protocol(MOBILITY),
            (Self::ReturnRoutability, Toward::HomeAgent) => UpperLayer::MobilityHeader(1),
            (Self::ReturnRoutability, Toward::Guest) => UpperLayer::MobilityHeader(3),
            (Self::Any | Self::TunnelPayload, _) => UpperLayer::Any,
        }
    }

    /// Whether binding updates and acknowledgements are among its packets.
    pub fn protects_registrations(self) -> bool {
        matches!(self, Self::HomeRegistration | Self::MobilityHeaders | Self::Any)
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_come_back() {
        for class in Class::ALL {
            assert_eq!(Class::from_name(class.name()), Some(class));
            assert_eq!(Class::from_umip_name(class.umip_name()), Some(class));
        }
        assert!(Class::ALL.is_sorted());
    }
}
