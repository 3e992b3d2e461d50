//! The mobile node role of RFC 6275, played by the host for each of its guests.
//!
//! One [`MobileNode`] holds a home registration per guest, each independent of the others. What this implementation
//! decides where the RFC leaves it open:
//!
//! * A binding update leaves only after the kernel state that protects it is in force ([`Output::Secure`], `applied`).
//! * An acknowledgement counts when it answers any transmission outstanding for the same care-of address and lifetime.
//! * A binding is refreshed at 95 % of its lifetime, earlier for short ones, so that three transmissions fit.
//! * Status 135 is adopted only until the first acceptance after `attach`, by a number well beyond the home agent's
//!   ([`TAKEOVER_DISTANCE`]). A first registration that had to be repeated and met no 135 is confirmed at once by a
//!   refresh with a number further on ([`CONFIRMATION_DISTANCE`]). Later, a 135 beyond our numbers means that another host has the guest: nothing is
//!   sent until the next `attach`.
//! * When the uplink goes, the data path carries nothing; when the care-of address changes directly to another, the
//!   binding of the old one is carried until the new one is acknowledged (an old uplink that still works keeps working,
//!   one that does not has nothing to lose).

mod acknowledgement;
mod exchange;
mod output;
mod registration;
mod state;
#[cfg(test)]
mod tests;

pub use acknowledgement::{CONFIRMATION_DISTANCE, TAKEOVER_DISTANCE};
pub use exchange::{INITIAL_BINDACK_TIMEOUT, INITIAL_BINDACK_TIMEOUT_FIRST_REGISTRATION, MAX_BINDACK_TIMEOUT};
pub use output::{Binding, Counters, DiscardReason, Event, GuestConfig, Outcome, Output, StopReason, View};
pub use registration::DEREGISTRATION_TRANSMISSIONS;

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv6Addr;
use std::time::Instant;

use crate::signaling::engine::{Generations, Timers};
use crate::vocabulary::{Generation, GuestId, Lifetime, SequenceNumber};
use crate::wire::mobility::Message;
use registration::{Context, Registration};

/// The signaling engine of the mobile node role.
#[derive(Debug, Default)]
pub struct MobileNode {
    guests: BTreeMap<GuestId, Registration>,
    by_home_address: BTreeMap<Ipv6Addr, GuestId>,
    outputs: VecDeque<Output>,
    generations: Generations,
    timers: Timers,
    counters: Counters,
}

impl MobileNode {
    /// An engine without guests.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a guest known, detached. A guest that is known already is left as it is.
    pub fn add_guest(&mut self, guest: GuestId, config: GuestConfig) {
        if !self.guests.contains_key(&guest) {
            self.by_home_address.insert(config.home_address, guest);
            self.guests.insert(guest, Registration::new(guest, config));
        }
    }

    /// Forgets a guest; what the kernel holds for it is asked away first.
    pub fn remove_guest(&mut self, guest: GuestId, now: Instant) {
        self.with(guest, now, |registration, ctx| registration.detach(ctx));
        if let Some(registration) = self.guests.remove(&guest) {
            self.by_home_address.remove(&registration.config.home_address);
            self.timers.set(guest, None);
        }
    }

    /// Other settings for a guest, from a changed policy: used from the next binding update on.
    pub fn configure_guest(&mut self, guest: GuestId, lifetime: Lifetime, key_management_mobility: bool) {
        if let Some(registration) = self.guests.get_mut(&guest) {
            registration.configure(lifetime, key_management_mobility);
        }
    }

    /// The guest is expected on this host: all that a binding update needs is brought into force, and none is sent. [`attach`](Self::attach)
    /// then sends it at once.
    pub fn prepare(&mut self, guest: GuestId, care_of: impl Into<Option<Ipv6Addr>>, now: Instant) {
        let care_of = care_of.into();
        self.with(guest, now, |registration, ctx| registration.prepare(care_of, ctx));
    }

    /// Another host has used sequence numbers up to this one: ours go on beyond it. Never backwards.
    pub fn continue_from(&mut self, guest: GuestId, sequence: SequenceNumber) {
        if let Some(registration) = self.guests.get_mut(&guest)
            && sequence.is_newer_than(registration.sequence)
        {
            registration.sequence = sequence;
        }
    }

    /// Refreshes a binding now, so that changed keys show what they are worth. A guest without one is left as it is.
    pub fn refresh(&mut self, guest: GuestId, now: Instant) {
        self.with(guest, now, |registration, _| registration.refresh(now));
    }

    /// Before [`attach`](Self::attach): lets the guest's binding updates go on from `clock`, which the caller takes to be beyond what other hosts
    /// have used. Numbers of this host a little ahead of it are kept.
    pub fn start_from(&mut self, guest: GuestId, clock: SequenceNumber) {
        if let Some(registration) = self.guests.get_mut(&guest) {
            registration.start_from(clock);
        }
    }

    /// The guest is on this host from now on. Without a care-of address registration begins when there is one.
    pub fn attach(&mut self, guest: GuestId, care_of: impl Into<Option<Ipv6Addr>>, now: Instant) {
        let care_of = care_of.into();
        self.with(guest, now, |registration, ctx| registration.attach(care_of, ctx));
    }

    /// The host's care-of address is another one now; `None`: there is no uplink. The same one again changes nothing.
    pub fn care_of_changed(&mut self, guest: GuestId, care_of: Option<Ipv6Addr>, now: Instant) {
        self.with(guest, now, |registration, ctx| registration.care_of_changed(care_of, ctx));
    }

    /// The guest is not on this host any more. Nothing is sent: the binding is the new host's.
    pub fn detach(&mut self, guest: GuestId, now: Instant) {
        self.with(guest, now, |registration, ctx| registration.detach(ctx));
    }

    /// Deletes the guest's binding at the home agent. Ends with [`Event::Deregistered`], after 15 s at the latest once
    /// the kernel state is in force.
    pub fn deregister(&mut self, guest: GuestId, now: Instant) {
        self.with(guest, now, |registration, ctx| registration.deregister(ctx));
    }

    /// As [`deregister`](Self::deregister), also for a guest that this host does not speak for any more, when no other host does either.
    pub fn release(&mut self, guest: GuestId, care_of: impl Into<Option<Ipv6Addr>>, now: Instant) {
        let care_of = care_of.into();
        self.with(guest, now, |registration, ctx| registration.release(care_of, ctx));
    }

    /// The guest is on its home link, and so is this host: its binding, whichever host has made it, is deleted from there (RFC 6275 §11.5.5), with its
    /// home address for a care-of address. Ends with [`Event::Deregistered`].
    pub fn return_home(&mut self, guest: GuestId, now: Instant) {
        self.with(guest, now, |registration, ctx| registration.return_home(ctx));
    }

    /// Every generation up to this one is in force.
    pub fn applied(&mut self, generation: Generation, now: Instant) {
        self.generations.apply(generation);
        let waiting: Vec<GuestId> = self
            .guests
            .iter()
            .filter(|(_, registration)| matches!(registration.state, state::State::Securing { .. }))
            .map(|(id, _)| *id)
            .collect();
        for guest in waiting {
            self.with(guest, now, |_, _| {});
        }
    }

    /// The kernel state of `generation` could not be brought into force.
    pub fn securing_failed(&mut self, guest: GuestId, generation: Generation, now: Instant) {
        self.with(guest, now, |registration, ctx| registration.securing_failed(generation, ctx));
    }

    /// What was in force for a guest is so no more, whatever its generation: nothing is sent until it is again.
    pub fn no_longer_secured(&mut self, guest: GuestId, now: Instant) {
        self.with(guest, now, |registration, ctx| registration.no_longer_secured(ctx));
    }

    /// A mobility header from `source` to `home_address` (both after the type 2 routing header and ESP).
    pub fn handle_message(&mut self, source: Ipv6Addr, home_address: Ipv6Addr, message: &[u8], now: Instant) {
        let Some(guest) = self.by_home_address.get(&home_address).copied() else {
            *self.counters.discarded.entry(DiscardReason::UnknownHomeAddress).or_default() += 1;
            return;
        };
        self.with(guest, now, |registration, ctx| {
            if let Err(reason) = receive(registration, source, message, ctx) {
                *ctx.counters.discarded.entry(reason).or_default() += 1;
                registration.event(Event::Discarded(reason), ctx);
            }
        });
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        for guest in self.timers.due(now) {
            self.with(guest, now, |_, _| {});
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout), and what for.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.timers.earliest()
    }

    /// The next thing to do; `None` when all is done.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// A guest's registration as it is to be shown.
    pub fn state(&self, guest: GuestId) -> Option<View> {
        self.guests.get(&guest).map(Registration::view)
    }

    /// What was counted since the start.
    pub fn counters(&self) -> Counters {
        self.counters.clone()
    }

    /// Lets `input` work on a guest, then settles it. A guest that is not known is ignored.
    fn with(&mut self, guest: GuestId, now: Instant, input: impl FnOnce(&mut Registration, &mut Context<'_>)) {
        let Some(registration) = self.guests.get_mut(&guest) else { return };
        let mut ctx = Context {
            now,
            outputs: &mut self.outputs,
            generations: &mut self.generations,
            counters: &mut self.counters,
        };
        input(registration, &mut ctx);
        registration.settle(&mut ctx);
        self.timers.set(guest, registration.deadline());
    }
}

fn receive(
    registration: &mut Registration,
    source: Ipv6Addr,
    message: &[u8],
    ctx: &mut Context<'_>,
) -> Result<(), DiscardReason> {
    if source != registration.config.home_agent {
        return Err(DiscardReason::NotFromHomeAgent);
    }
    match Message::parse(message).map_err(|_| DiscardReason::Malformed)? {
        Message::BindingAcknowledgement(acknowledgement) => registration.acknowledged(&acknowledgement, ctx),
        Message::BindingRefreshRequest => {
            if !registration.hint(ctx.now) {
                return Err(DiscardReason::UnneededHint);
            }
            registration.event(Event::RefreshRequested, ctx);
            Ok(())
        }
        Message::BindingError(error) => {
            let about_us = error.home_address == registration.config.home_address;
            if !about_us && !error.home_address.is_unspecified() {
                return Err(DiscardReason::OtherHomeAddress);
            }
            if error.status == 1 && !registration.hint(ctx.now) {
                return Err(DiscardReason::UnneededHint);
            }
            registration.event(Event::BindingError { status: error.status }, ctx);
            Ok(())
        }
        Message::BindingUpdate(_) | Message::ReturnRoutability { .. } => Err(DiscardReason::UnexpectedMessage),
        Message::Unknown { .. } => Err(DiscardReason::UnknownType),
    }
}
