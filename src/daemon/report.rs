//! Counters written to the log, at the end and on SIGUSR1, and shown to who asks for the status; SAs as they are shown.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::time::Duration;

use crate::daemon::control_socket::protocol::Association;
use crate::daemon::engine::core::Core;
use crate::home_network;
use crate::ipsec::{AssociationKey, AssociationLifetime, ReplayState};
use crate::policy::{GuestPolicy, Policy, Role};
use crate::tunnel::accelerated::Carried;
use crate::tunnel::{Counters, Reason};
use crate::vocabulary::GuestId;

/// Counters by name.
pub type Named = BTreeMap<String, u64>;

/// Packets longer than a path takes that were handed to the kernel whole: the super-packet tier's own.
pub const LEFT_WHOLE: &str = "tunnel: packets left whole for the kernel";
/// Such packets that the threads have cut.
pub const CUT: &str = "tunnel: packets cut in userland";

/// Adds counters that are not zero to others.
pub fn add(to: &mut Named, more: Named) {
    for (name, count) in more.into_iter().filter(|(_, count)| *count > 0) {
        *to.entry(name).or_default() += count;
    }
}

/// The tunnel's counters that are not zero: those of the threads, and what an accelerator has done in front of them.
pub fn tunnel_counters(core: &Core) -> Named {
    let mut named = of_threads(&core.tally.all);
    add(&mut named, all_in_kernel(core));
    named
}

/// The same for each of these guests.
pub fn guest_counters(core: &Core, guests: impl Iterator<Item = (GuestId, Ipv6Addr)>) -> BTreeMap<GuestId, Named> {
    let carried = core.keeper.acceleration().carried();
    let mut accelerated: BTreeMap<_, _> =
        carried.iter().map(|(whose, carried)| (*whose, in_kernel(std::iter::once(carried)))).collect();
    let of_guest = |(id, home_address)| {
        let mut named = core.tally.guest(id).map(of_threads).unwrap_or_default();
        add(&mut named, accelerated.remove(&Some(home_address)).unwrap_or_default());
        (id, named)
    };
    guests.map(of_guest).collect()
}

fn of_threads(counters: &Counters) -> Named {
    let mut named = Named::new();
    let carried = [
        ("tunnel: packets in", counters.into_packets()),
        ("tunnel: octets in", counters.into_octets()),
        ("tunnel: packets out", counters.out_packets()),
        ("tunnel: octets out", counters.out_octets()),
        (LEFT_WHOLE, counters.left_whole()),
        (CUT, counters.cut()),
    ];
    add(&mut named, carried.map(|(name, count)| (name.to_owned(), count)).into());
    let reasons = Reason::ALL.iter().map(|reason| (format!("tunnel: not carried: {reason}"), counters.get(*reason)));
    add(&mut named, reasons.collect());
    named
}

/// What an accelerator has counted, of all guests together.
fn all_in_kernel(core: &Core) -> Named {
    in_kernel(core.keeper.acceleration().carried().iter().map(|(_, carried)| carried))
}

/// What an accelerator has counted.
fn in_kernel<'a>(carried: impl Iterator<Item = &'a Carried>) -> Named {
    let mut named = Named::new();
    for carried in carried {
        add(&mut named, carried.all().map(|(name, count)| (format!("tunnel, in the kernel: {name}"), count)).collect());
    }
    named
}

/// The counters of a port that are not zero.
pub fn frame_counters(counters: &home_network::Counters) -> Named {
    let mut named = Named::new();
    let all = home_network::Reason::ALL.iter();
    add(&mut named, all.map(|reason| (format!("port: not carried: {reason}"), counters.get(*reason))).collect());
    named
}

/// The ESP SAs of a guest, without their keys.
pub fn associations(
    guest: &GuestPolicy,
    policy: &Policy,
    positions: &BTreeMap<AssociationKey, ReplayState>,
    ending: &BTreeMap<AssociationKey, Duration>,
) -> Vec<Association> {
    let show = |sa: &crate::ipsec::SecurityAssociation| {
        let esp = sa.transform.esp()?;
        let from_us = (sa.key.source == policy.home_agent.address) == (policy.role == Role::HomeAgent);
        let integrity =
            esp.integrity.as_ref().map_or(String::new(), |(integrity, _)| format!(", {}", integrity.name()));
        let position = positions.get(&sa.key);
        Some(Association {
            direction: if from_us { "out" } else { "in" }.to_owned(),
            spi: sa.key.spi,
            reqid: esp.reqid,
            algorithms: format!("{}{integrity}", esp.encryption.0.name()),
            sequence: position.map(|state| if from_us { state.output } else { state.input }),
            lifetime: lifetime(&esp.lifetime),
            ends_soon: ending.get(&sa.key).map(|at| u64::try_from(at.as_millis()).unwrap_or(u64::MAX)),
        })
    };
    guest.protection.associations().iter().filter_map(show).collect()
}

/// The hard limits of an SA in words.
fn lifetime(lifetime: &AssociationLifetime) -> Option<String> {
    let hard = &lifetime.hard;
    let limits = [(hard.seconds, "s"), (hard.packets, "packets"), (hard.bytes, "octets")];
    let limits: Vec<_> = limits.iter().filter_map(|(limit, unit)| Some(format!("{} {unit}", (*limit)?))).collect();
    (!limits.is_empty()).then(|| limits.join(" or "))
}

/// Writes the tunnel's counters that are not zero to the log.
pub fn tunnel(core: &Core) {
    let counters = &core.tally.all;
    for (name, count) in all_in_kernel(core) {
        tracing::info!(count, "counters: {name}");
    }
    tracing::info!(
        into_packets = counters.into_packets(),
        into_octets = counters.into_octets(),
        out_packets = counters.out_packets(),
        out_octets = counters.out_octets(),
        left_whole = counters.left_whole(),
        cut = counters.cut(),
        "counters: tunnel"
    );
    for reason in Reason::ALL.iter().copied().filter(|reason| counters.get(*reason) > 0) {
        tracing::info!(packets = counters.get(reason), "counters: tunnel not carried: {reason}");
    }
}

/// Writes the counters of frames that never became data to the log.
pub fn frames(counters: &home_network::Counters) {
    for reason in home_network::Reason::ALL.iter().copied().filter(|reason| counters.get(*reason) > 0) {
        tracing::info!(frames = counters.get(reason), "counters: port not carried: {reason}");
    }
}
