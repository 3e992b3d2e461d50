//! The home agent role of RFC 6275 for the home addresses of a policy.
//!
//! What this implementation decides where the RFC leaves it open, or beyond it:
//!
//! * **Sequence numbers outlive bindings.** RFC 6275 §9.5.1 accepts any number when there is no binding. Here the last
//!   number accepted is remembered, by the shell also beyond the life of the process, and an older one gets status 135 also then: otherwise a
//!   binding update that was overtaken by the de-registration, or a recorded one (SAs made by hand have no replay window
//!   by default), would bring the binding back. A mobile node must adopt 135 (RFC 6275 §11.7.3), so a new host, or one
//!   that has lost its number, pays one round trip.
//! * During duplicate address detection newer binding updates replace the one to be answered; copies are thrown away.
//! * H clear: thrown away, for a correspondent registration would need return routability. A clear: answered only if
//!   refused. R changed on a live binding: status 139. K is not a type of registration and may change.
//! * A care-of address that is itself a home address served here is refused with status 129: packets would circle.
//! * The binding, not its kernel state, decides about proxying and tunnelling; only the acknowledgement of success waits
//!   for the generation.

mod binding_cache;
mod binding_update;
mod output;
mod proxy;
#[cfg(test)]
mod tests;

pub use binding_cache::{ANNOUNCEMENTS, DETECTION_TIME};
pub use output::{Binding, Config, Counters, DiscardReason, Event, Output, Received, View};

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv6Addr;
use std::time::Instant;

use crate::signaling::engine::{Generations, Timers};
use crate::vocabulary::{Generation, GuestId, Lifetime, SequenceNumber};
use crate::wire::mobility::Status;
use binding_cache::{Context, Entry};
use binding_update::Request;
use proxy::Heard;

/// The signaling engine of the home agent role.
#[derive(Debug)]
pub struct HomeAgent {
    config: Config,
    entries: BTreeMap<GuestId, Entry>,
    by_home_address: BTreeMap<Ipv6Addr, GuestId>,
    outputs: VecDeque<Output>,
    generations: Generations,
    timers: Timers,
    counters: Counters,
    /// Entries that are used, kept up to date by `with`.
    bindings: usize,
}

impl HomeAgent {
    /// A home agent that serves nobody yet.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            entries: BTreeMap::new(),
            by_home_address: BTreeMap::new(),
            outputs: VecDeque::new(),
            generations: Generations::default(),
            timers: Timers::default(),
            counters: Counters::default(),
            bindings: 0,
        }
    }

    /// Serves a home address from now on. `last_sequence` is the last sequence number accepted for it, from durable storage; `None`: any
    /// number is accepted. A guest that is known already is left as it is.
    pub fn add_guest(&mut self, guest: GuestId, home_address: Ipv6Addr, last_sequence: Option<SequenceNumber>) {
        if !self.entries.contains_key(&guest) {
            self.by_home_address.insert(home_address, guest);
            self.entries.insert(guest, Entry::new(guest, home_address, last_sequence));
        }
    }

    /// Serves a home address no more: its binding ends, without a word to anybody.
    pub fn remove_guest(&mut self, guest: GuestId, now: Instant) {
        self.with(guest, now, |entry, ctx| entry.remove(ctx));
        if self.entries.remove(&guest).is_some() {
            self.by_home_address.retain(|_, id| *id != guest);
            self.timers.set(guest, None);
        }
    }

    /// Other settings, from a changed policy. Bindings that there are keep their lifetime.
    pub fn configure(&mut self, config: Config) {
        self.config = config;
    }

    /// Every generation up to this one is in force.
    pub fn applied(&mut self, generation: Generation, now: Instant) {
        self.generations.apply(generation);
        let guests: Vec<GuestId> = self.entries.keys().copied().collect();
        for guest in guests {
            self.with(guest, now, |_, _| {});
        }
    }

    /// The kernel state of `generation` could not be brought into force.
    pub fn securing_failed(&mut self, guest: GuestId, generation: Generation, now: Instant) {
        self.with(guest, now, |entry, ctx| entry.securing_failed(generation, ctx));
    }

    /// A mobility header that came to the home agent.
    pub fn handle_binding_update(&mut self, received: Received, message: &[u8], now: Instant) {
        let guest = self.by_home_address.get(&received.source).copied();
        let request = match binding_update::read(&self.config, received, message) {
            Ok(request) => request,
            Err(reason) => return self.discard(guest, reason),
        };
        let Some(guest) = guest else { return self.refuse_unknown(&request) };
        let circular = !request.is_deletion() && self.by_home_address.contains_key(&request.care_of);
        let mut result = Ok(());
        self.with(guest, now, |entry, ctx| {
            if circular {
                entry.refuse(&request, Status::ADMINISTRATIVELY_PROHIBITED, ctx);
            } else {
                result = entry.update(request, ctx);
            }
        });
        if let Err(reason) = result {
            self.discard(Some(guest), reason);
        }
    }

    /// A frame heard on the home link. Everything but neighbour solicitations and advertisements for a home address
    /// served here is ignored.
    pub fn handle_home_link_frame(&mut self, frame: &[u8], now: Instant) {
        let Some(heard) = proxy::read(&self.config, frame) else { return };
        let (Heard::Solicitation { target, .. } | Heard::Probe { target, .. } | Heard::Advertisement { target, .. }) =
            heard;
        let Some(guest) = self.by_home_address.get(&target).copied() else { return };
        self.with(guest, now, |entry, ctx| match heard {
            Heard::Solicitation { source, link_layer_address, .. } => entry.solicited(source, link_layer_address, ctx),
            Heard::Probe { link_layer_address, .. } => entry.conflict(true, link_layer_address, ctx),
            Heard::Advertisement { link_layer_address, .. } => entry.conflict(false, link_layer_address, ctx),
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

    /// A binding cache entry as it is to be shown.
    pub fn state(&self, guest: GuestId) -> Option<View> {
        self.entries.get(&guest).map(Entry::view)
    }

    /// What was counted since the start.
    pub fn counters(&self) -> Counters {
        self.counters.clone()
    }

    /// A home address that is not served: status 132 outside of the home subnet, otherwise 133 (RFC 6275 §10.3.1).
    fn refuse_unknown(&mut self, request: &Request) {
        let status = if self.config.home_link.contains(request.home_address) {
            Status::NOT_HOME_AGENT_FOR_THIS_MOBILE_NODE
        } else {
            Status::NOT_HOME_SUBNET
        };
        let after = self.generations.applied();
        self.outputs.push_back(binding_cache::acknowledgement(
            request,
            status,
            request.sequence,
            Lifetime::ZERO,
            after,
            &mut self.counters,
        ));
    }

    fn discard(&mut self, guest: Option<GuestId>, reason: DiscardReason) {
        *self.counters.discarded.entry(reason).or_default() += 1;
        if let Some(guest) = guest {
            self.outputs.push_back(Output::Event { guest, event: Event::Discarded(reason) });
        }
    }

    /// Lets `input` work on an entry, then settles it.
    fn with(&mut self, guest: GuestId, now: Instant, input: impl FnOnce(&mut Entry, &mut Context<'_>)) {
        let Some(entry) = self.entries.get_mut(&guest) else { return };
        let mut ctx = Context {
            now,
            config: &self.config,
            outputs: &mut self.outputs,
            generations: &mut self.generations,
            counters: &mut self.counters,
            bindings: self.bindings,
        };
        let others = self.bindings - usize::from(entry.is_used());
        input(entry, &mut ctx);
        entry.settle(&mut ctx);
        self.bindings = others + usize::from(entry.is_used());
        self.timers.set(guest, entry.deadline());
    }
}
