//! What the scenarios look for on the wire, by its name in the RFCs.

use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::Duration;

use crate::capture::Observer;
use crate::dissect::{Layer, Packet, icmpv6};
use crate::failure::Outcome;
use crate::topology::cast::HOME_AGENT;

/// Long enough for an emulated machine beside others; whoever waits goes on as soon as it is there.
pub(crate) const SOON: Duration = Duration::from_secs(30);
/// The first registration has duplicate address detection in it, and a binding update may have to be repeated.
pub(crate) const FIRST_REGISTRATION: Duration = Duration::from_secs(60);
/// A time in which whatever could happen would have happened.
pub(crate) const QUIET: Duration = Duration::from_millis(1500);

/// A binding update of `home`, sent from `care_of`, that can be read, with A and H set, the Home Address option and the
/// Alternate Care-of Address option (RFC 6275 §11.7.1).
pub(crate) fn is_binding_update(packet: &Packet, care_of: Ipv6Addr, home: Ipv6Addr) -> bool {
    packet.is_from_to(care_of, HOME_AGENT)
        && packet.home_address() == Some(home)
        && packet.layers.iter().any(|layer| {
            matches!(layer, Layer::BindingUpdate { flags, alternate_care_of, lifetime, .. }
                if flags & 0xc000 == 0xc000 && (*alternate_care_of == Some(care_of) || *lifetime == 0))
        })
}

/// A binding acknowledgement for `home`, sent to `care_of` with a type 2 routing header, that can be read (RFC 6275 §9.5.4).
pub(crate) fn is_binding_acknowledgement(packet: &Packet, care_of: Ipv6Addr, home: Ipv6Addr) -> bool {
    packet.is_from_to(HOME_AGENT, care_of)
        && packet.home_address() == Some(home)
        && packet.binding_acknowledgement().is_some()
}

/// ESP of that SPI where the binding update of `home` from `care_of` would be.
pub(crate) fn is_protected_update(packet: &Packet, care_of: Ipv6Addr, home: Ipv6Addr, spi: u32) -> bool {
    packet.is_from_to(care_of, HOME_AGENT)
        && matches!(packet.layers.as_slice(),
            [Layer::Ipv6 { .. }, Layer::DestinationOptions { home_address }, Layer::Esp { spi: theirs, .. }]
                if *home_address == Some(home) && *theirs == spi)
}

/// ESP of that SPI where the binding acknowledgement for `home` at `care_of` would be.
pub(crate) fn is_protected_acknowledgement(packet: &Packet, care_of: Ipv6Addr, home: Ipv6Addr, spi: u32) -> bool {
    packet.is_from_to(HOME_AGENT, care_of)
        && matches!(packet.layers.as_slice(),
            [Layer::Ipv6 { .. }, Layer::Routing { kind: 2, segments_left: 1, home_address }, Layer::Esp { spi: theirs, .. }]
                if *home_address == Some(home) && *theirs == spi)
}

/// Waits for a readable binding update and an acknowledgement with that status, in this order: of the update, or of one that repeats it, for on a slow
/// machine it may have been sent again before the answer came. Returns the acknowledged sequence number and the granted lifetime in seconds.
pub(crate) fn registration(
    link: &mut Observer,
    care_of: Ipv6Addr,
    home: Ipv6Addr,
    status: u8,
    timeout: Duration,
) -> Outcome<(u16, u32)> {
    let update = link.must_see(&format!("a binding update of {home} from {care_of}"), timeout, |packet| {
        is_binding_update(packet, care_of, home)
    })?;
    let sequence = update.binding_update().map(|(sequence, _)| sequence).unwrap_or_default();
    let acknowledged = |packet: &Packet| {
        packet.binding_acknowledgement().is_some_and(|(theirs, echoed, _)| {
            // With status 135 the acknowledgement carries the last accepted number instead (RFC 6275 §9.5.1).
            theirs == status && (echoed == sequence || follows(echoed, sequence) || status == 135)
        })
    };
    let what = format!("the binding acknowledgement of #{sequence} with status {status} for {home} at {care_of}");
    let acknowledgement = link
        .must_see(&what, timeout, |packet| is_binding_acknowledgement(packet, care_of, home) && acknowledged(packet))?;
    let (_, echoed, lifetime) = acknowledgement.binding_acknowledgement().unwrap_or_default();
    Ok((if status == 135 { sequence } else { echoed }, u32::from(lifetime) * 4))
}

/// Whether a host's sequence number may come after another one: it counts up by one with each transmission, and confirms a first registration that it had to
/// repeat by an update 128 further on.
pub(crate) fn follows(number: u16, last: u16) -> bool {
    const CONFIRMATION: u16 = 128;
    const TRANSMISSIONS: u16 = 8;
    (1..=CONFIRMATION + TRANSMISSIONS).contains(&number.wrapping_sub(last))
}

/// Whether a sequence number is newer than another, modulo 2¹⁶ (RFC 6275 §9.5.1).
pub(crate) fn is_newer(number: u16, last: u16) -> bool {
    (1..0x8000).contains(&number.wrapping_sub(last))
}

/// Waits for ESP of SPI `spis.0` from `care_of` and ESP of SPI `spis.1` back, in this order.
pub(crate) fn protected_registration(
    link: &mut Observer,
    care_of: Ipv6Addr,
    home: Ipv6Addr,
    spis: (u32, u32),
    timeout: Duration,
) -> Outcome {
    let what = format!("ESP {:#x} with the Home Address option {home} from {care_of}", spis.0);
    link.must_see(&what, timeout, |packet| is_protected_update(packet, care_of, home, spis.0))?;
    let what = format!("ESP {:#x} with the type 2 routing header {home} to {care_of}", spis.1);
    link.must_see(&what, timeout, |packet| is_protected_acknowledgement(packet, care_of, home, spis.1))?;
    Ok(())
}

/// Waits for an echo request from `guest` to `correspondent` in the tunnel from `care_of`, and for its reply in the tunnel.
pub(crate) fn echo_from_guest(
    link: &mut Observer,
    care_of: Ipv6Addr,
    guest: Ipv6Addr,
    correspondent: Ipv6Addr,
) -> Outcome<Arc<Packet>> {
    let to_home_agent = (care_of, HOME_AGENT);
    let request =
        link.must_see(&format!("{care_of} > home agent: {guest} > {correspondent}: echo request"), SOON, |packet| {
            packet.tunnelled(to_home_agent, (guest, correspondent)) && packet.is_icmpv6(icmpv6::ECHO_REQUEST)
        })?;
    link.must_see(&format!("home agent > {care_of}: {correspondent} > {guest}: echo reply"), SOON, |packet| {
        packet.tunnelled((HOME_AGENT, care_of), (correspondent, guest)) && packet.is_icmpv6(icmpv6::ECHO_REPLY)
    })?;
    Ok(request)
}

/// Waits for an echo request from `correspondent` to `guest` in the tunnel to `care_of`, and for its reply in the tunnel.
pub(crate) fn echo_to_guest(
    link: &mut Observer,
    care_of: Ipv6Addr,
    guest: Ipv6Addr,
    correspondent: Ipv6Addr,
) -> Outcome<Arc<Packet>> {
    let request =
        link.must_see(&format!("home agent > {care_of}: {correspondent} > {guest}: echo request"), SOON, |packet| {
            packet.tunnelled((HOME_AGENT, care_of), (correspondent, guest)) && packet.is_icmpv6(icmpv6::ECHO_REQUEST)
        })?;
    link.must_see(&format!("{care_of} > home agent: {guest} > {correspondent}: echo reply"), SOON, |packet| {
        packet.tunnelled((care_of, HOME_AGENT), (guest, correspondent)) && packet.is_icmpv6(icmpv6::ECHO_REPLY)
    })?;
    Ok(request)
}

/// The flags of a neighbour advertisement about `target`: router, solicited, override (RFC 4861 §4.4).
pub(crate) fn advertisement_flags(packet: &Packet, target: Ipv6Addr) -> Option<(bool, bool, bool)> {
    match packet.layers.last() {
        Some(Layer::Icmpv6 { kind: icmpv6::NEIGHBOR_ADVERTISEMENT, rest, target: theirs, .. })
            if *theirs == Some(target) =>
        {
            Some((rest >> 31 & 1 == 1, rest >> 30 & 1 == 1, rest >> 29 & 1 == 1))
        }
        _ => None,
    }
}

/// Fails if any of the captures holds a mobility header that can be read.
pub(crate) fn no_readable_mobility_header(captures: impl Iterator<Item = Observer>) -> Outcome {
    for capture in captures {
        capture.must_not_have_seen("a mobility header in the clear", Packet::has_mobility_header)?;
    }
    Ok(())
}
