//! In what kernels differ: the types of packets that they receive or forward, and how they look for the policy of a tunnel that moves. Both
//! measured on 6.1, 6.12 and 7.2.

use std::collections::BTreeSet;

use kagemusha::ipsec::UpperLayer;

use crate::wire::Payload;

/// A kind of kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Kernel {
    /// Up to 6.6: the type is where it would be behind the usual extension headers (`decode_session6` of `net/ipv6/xfrm6_policy.c`), and
    /// `XFRM_MSG_MIGRATE` finds a policy by its name.
    UpTo66,
    /// From 6.7 on: the flow dissector knows types of ICMPv6, and none of mobility headers.
    From67,
    /// From 6.12 on: `XFRM_MSG_MIGRATE`, too, finds the policy that decides on a packet without a type (`xfrm_migrate_policy_find`).
    #[default]
    From612,
}

/// All of them.
pub const KERNELS: [Kernel; 3] = [Kernel::UpTo66, Kernel::From67, Kernel::From612];

impl Kernel {
    /// What the SPD is asked for when this payload came in behind these extension headers.
    pub fn seen(self, payload: Payload, headers: &[u8]) -> Payload {
        match (self, payload, headers) {
            (Self::UpTo66, Payload::Mobility(kind), [_]) => Payload::Mobility(kind),
            // It reads behind the message, or within another header.
            (Self::UpTo66, Payload::Mobility(_), _) => Payload::Mobility(0),
            (Self::UpTo66, Payload::Icmpv6(_), [_]) => Payload::Icmpv6(58),
            (Self::UpTo66, Payload::Icmpv6(_), [_, second, ..]) => Payload::Icmpv6(*second),
            (Self::From67 | Self::From612, Payload::Mobility(_), _) => Payload::Mobility(0),
            _ => payload,
        }
    }

    /// All that it may be asked for, whatever whoever sends it puts before or behind the payload. `named` are the types that policies name.
    pub fn may_see(self, payload: Payload, named: impl Iterator<Item = UpperLayer>) -> BTreeSet<Payload> {
        let headers: [&[u8]; 7] = [&[], &[60], &[43], &[60, 60], &[60, 43], &[60, 44], &[43, 60]];
        let mut seen: BTreeSet<_> = headers.into_iter().map(|headers| self.seen(payload, headers)).collect();
        match (self, payload) {
            (Self::UpTo66, Payload::Mobility(_)) => seen.extend(named.filter_map(|layer| match layer {
                UpperLayer::MobilityHeader(kind) => Some(Payload::Mobility(kind)),
                _ => None,
            })),
            // Behind a fragment header that came with a whole packet.
            (Self::From67 | Self::From612, Payload::Icmpv6(_)) => {
                seen.insert(Payload::Icmpv6(0));
            }
            _ => {}
        }
        seen
    }

    /// What else it may take a received message for, when it stops reading among the extension headers.
    pub fn stops_at(self) -> &'static [Payload] {
        match self {
            Self::UpTo66 => &[],
            Self::From67 | Self::From612 => &[Payload::Extension(43), Payload::Extension(60)],
        }
    }
}
