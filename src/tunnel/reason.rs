//! Why a packet was not carried.

use std::fmt;

macro_rules! reasons {
    ($($(#[$doc:meta])+ $variant:ident = $name:literal,)+) => {
        /// Why a packet was not carried. The names of [`Reason::name`] are stable: metrics use them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason {
            $($(#[$doc])+ $variant,)+
        }

        impl Reason {
            /// Every reason, in the order of its index.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The stable name in kebab case.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

reasons! {
    /// The guest has no binding now: there is no tunnel.
    NotBound = "not-bound",
    /// Not IPv6, shorter than its length field says, or a chain of extension headers that cannot be walked.
    BadHeader = "bad-header",
    /// Into the tunnel: the source is not the guest's home address.
    ForeignSource = "foreign-source",
    /// The source cannot be that of a packet out of the tunnel: multicast, link-local, loopback, unspecified,
    /// IPv4-mapped.
    BadSource = "bad-source",
    /// Out of the tunnel: the source is the guest's own home address.
    SpoofedSource = "spoofed-source",
    /// No guest has this home address.
    UnknownHomeAddress = "unknown-home-address",
    /// A guest's packet to itself.
    ToItself = "to-itself",
    /// The destination is multicast: group membership is not carried over the tunnel.
    MulticastDestination = "multicast-destination",
    /// The destination is link-local: such packets never leave the link (RFC 4291 §2.5.6).
    LinkScope = "link-scope",
    /// The destination is loopback, unspecified or IPv4-mapped.
    BadDestination = "bad-destination",
    /// Neighbor discovery (ICMPv6 types 133 to 137): it belongs to one link.
    NeighborDiscovery = "neighbor-discovery",
    /// A mobility header from a guest to the home agent: signaling is the host's.
    MobilityHeaderToHomeAgent = "mobility-header-to-home-agent",
    /// A mobility header of the home agent within the tunnel: acknowledgements come beside it, to the host.
    MobilityHeaderFromHomeAgent = "mobility-header-from-home-agent",
    /// A Home Address option in a guest's packet: it would speak for a binding.
    HomeAddressOption = "home-address-option",
    /// A type 2 routing header where none may be.
    Type2RoutingHeader = "type2-routing-header",
    /// The hop limit ends here (RFC 4443 §3.3).
    HopLimitExceeded = "hop-limit-exceeded",
    /// Longer than the tunnel takes (RFC 4443 §3.2).
    PacketTooBig = "packet-too-big",
    /// An ICMPv6 error was due and is withheld: too many were sent already (RFC 4443 §2.4(f)).
    ErrorRateLimited = "error-rate-limited",
    /// An ICMPv6 error was due about a packet that must not draw one (RFC 4443 §2.4(e)).
    ErrorAboutError = "error-about-error",
    /// A tunnel packet whose outer source is not the other end of this binding.
    ForeignTunnelSource = "foreign-tunnel-source",
    /// A tunnel packet whose outer destination is not this end of this binding.
    ForeignTunnelDestination = "foreign-tunnel-destination",
    /// Out of the tunnel, longer than the guest's link takes, and not a merged TCP packet.
    TooBigForLink = "too-big-for-link",
    /// A merged packet whose checksum is neither whole nor that of its pseudo-header.
    BadChecksum = "bad-checksum",
    /// Congestion was marked on the way in the tunnel for a packet that cannot say so (RFC 6040 §4.2).
    CongestionNotEct = "congestion-not-ect",
    /// A packet of the home agent beside the tunnel without the type 2 routing header of this binding.
    NoType2RoutingHeader = "no-type2-routing-header",
    /// A class of protection wants it under ESP, and it is not: in the clear it is not carried.
    WantsEsp = "wants-esp",
    /// What the driver or the kernel says is left to do does not fit the packet.
    BadOffload = "bad-offload",
    /// Kept for the end of a hand-over, and too long or too many.
    NotHeld = "not-held",
    /// The kernel refused to send or deliver it: no route, no room in a queue, a link that is down.
    SendFailed = "send-failed",
}

impl Reason {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// Its position in [`Reason::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_distinct_kebab_case() {
        let names: HashSet<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), Reason::COUNT);
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), index);
            assert!(
                reason.name().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'),
                "{reason}"
            );
        }
    }
}
