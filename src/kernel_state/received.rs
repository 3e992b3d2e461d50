//! What the kernel makes of packets that it receives or forwards, when it looks for the policy that decides on them.
//!
//! A policy may name the type of a mobility header or of an ICMPv6 message. What a socket *sends* the kernel knows by its type. What it
//! *receives* or *forwards* it reads (`__xfrm_decode_session` of `net/xfrm/xfrm_policy.c`), in one of two ways:
//!
//! | kernel | mobility headers | ICMPv6 |
//! |---|---|---|
//! | up to 6.6 | the type only behind exactly one extension header; otherwise any type, or 0 | the type only without an extension header; behind some, the next header that the first one names |
//! | from 6.7 on | no type: every one counts as type 0 | the type, whatever stands before it; 0 behind a fragment header that came with a whole packet |
//!
//! (Since 6.7 the generic flow dissector reads them, which knows no mobility headers; all measured on 6.1, 6.12 and 7.2.) So no policy for what is
//! received or forwarded names a type of mobility headers: it is for all of them. Where a guest has two classes that would then want the
//! same packets, each under SAs of its own, the wider one decides for both, and the SAs of the narrower one count as its own: see [`judge`].
//!
//! From 6.7 on, even the protocol is not always read: not behind a fragment header that one more extension header follows, nor (6.12; 7.2 takes no
//! such packets) behind some fifteen extension headers. Such a message is delivered all the same, and policies for its protocol do not see it. It counts as one of that extension
//! header's: see [`UNREAD`].

use super::protocol;
use crate::ipsec::{Class, SecurityAssociation, Toward, Transform, UpperLayer};
use crate::policy::{Protection, Role};

/// IP protocol number of ICMPv6.
const ICMPV6: u8 = 58;

/// The direction that a side receives.
pub(super) fn toward(role: Role) -> Toward {
    match role {
        Role::MobileNode => Toward::Guest,
        Role::HomeAgent => Toward::HomeAgent,
    }
}

/// What policies have to name so that received or forwarded packets of a class meet them on every kernel.
pub(super) fn layers(class: Class, toward: Toward) -> Vec<UpperLayer> {
    match class.upper_layer(toward) {
        UpperLayer::MobilityHeader(_) => vec![UpperLayer::Protocol(protocol::MOBILITY)],
        // Behind the one extension header of a guest away from home, up to 6.6: the next header that it names.
        layer @ UpperLayer::Icmpv6(_) => vec![layer, UpperLayer::Icmpv6(ICMPV6)],
        other => vec![other],
    }
}

/// What ICMPv6 messages are taken for when the kernel does not find their type: up to 6.6, when more than one extension header stands before them, for
/// another one that hosts take off; from 6.7 on, when a fragment header does, for type 0. No ICMPv6 message has such a type.
pub(super) const MISREAD: [UpperLayer; 4] = [
    UpperLayer::Icmpv6(0),
    UpperLayer::Icmpv6(protocol::ROUTING),
    UpperLayer::Icmpv6(protocol::FRAGMENT),
    UpperLayer::Icmpv6(protocol::DESTINATION_OPTIONS),
];

/// What messages of any protocol are taken for when the kernel stops reading among their extension headers. Nobody sends such ones but to get by
/// policies.
pub(super) const UNREAD: [UpperLayer; 2] =
    [UpperLayer::Protocol(protocol::ROUTING), UpperLayer::Protocol(protocol::DESTINATION_OPTIONS)];

/// The class whose policies decide on received packets of this one.
///
/// A class by types (`home-registration`) cannot be told from one for the whole protocol (`mobility-headers`, `any`) in what is received: the
/// kernel holds one policy for both, which can ask for one reqid only. To ask for none would let in the SAs of others. So the wider one decides,
/// and in the SAD the narrower one's SAs for receiving have its reqid ([`association`]). What comes in is still under ESP by an SA of
/// this guest and this home agent, for nothing else has that reqid; only *which* of the guest's SAs it was the kernel does not ask. What is sent, it tells
/// by type: each class under its own SA, as the other side expects.
///
/// In tunnels the narrower one decides on its own, and all mobility headers that come out of one have to be under its SAs: those of data let in
/// none.
pub(super) fn judge(protection: &Protection, class: Class) -> Class {
    let wider: &[Class] = match class {
        Class::HomeRegistration => &[Class::MobilityHeaders, Class::Any],
        Class::MobilePrefixDiscovery => &[Class::Icmpv6, Class::Any],
        _ => &[],
    };
    wider.iter().copied().find(|wider| protection.has(*wider)).unwrap_or(class)
}

/// An SA of the policy file as the kernel shall hold it: one for receiving has the reqid of the class that decides.
pub(super) fn association(role: Role, protection: &Protection, sa: &SecurityAssociation) -> SecurityAssociation {
    let mut sa = sa.clone();
    if let Transform::Esp(esp) = &mut sa.transform
        && let Some((class, toward)) = protection.serves(esp.reqid)
        && toward == self::toward(role)
        && let Some(reqids) = protection.classes.get(&judge(protection, class))
    {
        esp.reqid = reqids.toward(toward);
    }
    sa
}
