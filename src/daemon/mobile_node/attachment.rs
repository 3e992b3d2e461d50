//! Guests come and go: signs of them and commands go to their [`Attachment`], and what that wants done to the engine, the guest's network and
//! the packet path.

use std::time::{Duration, Instant};

use super::Runner;
use crate::daemon::herald::Weight;
use crate::daemon::{clock, floor, statistics};
use crate::home_network::Sighting;
use crate::policy::{AttachMode, GuestPolicy};
use crate::signaling::Attachment;
use crate::signaling::attachment::{Action, Command, Sign, State};
use crate::signaling::mobile_node::{Event, GuestConfig, StopReason};
use crate::vocabulary::{GuestId, Lifetime};

impl Runner {
    /// Every guest of the policy begins as its policy wants it.
    pub(super) async fn begin(&mut self) {
        let now = clock::now();
        for guest in self.roster.ids().to_vec() {
            self.know(guest);
        }
        self.look_at_uplink(now).await;
        for guest in self.roster.ids().to_vec() {
            self.begin_guest(guest, now);
        }
    }

    /// Makes a guest known to the engine, silent.
    pub(super) fn know(&mut self, id: GuestId) {
        let Some(guest) = self.roster.get(id) else { return };
        let last_sequence = self.kernel.ledger().binding_sequence(guest.home_address);
        let home_agent = &self.roster.policy().home_agent;
        let config = GuestConfig {
            home_address: guest.home_address,
            home_agent: home_agent.address,
            lifetime: Lifetime::from_duration(guest.lifetime),
            last_sequence,
            key_management_mobility: home_agent.key_management_mobility,
        };
        self.engine.add_guest(id, config);
        self.attachments.insert(id, Attachment::new(mode(guest)));
    }

    pub(super) fn begin_guest(&mut self, guest: GuestId, now: Instant) {
        let action = self.attachments.get_mut(&guest).and_then(Attachment::start);
        self.act(guest, action, now);
        if action.is_none() {
            // What an earlier run has left for it has no one to ask for it.
            if self.bindings.0.remove(&guest).is_some() {
                self.attention.scan_within(Duration::ZERO, now);
            }
        }
    }

    /// Does what an attachment wants.
    pub(super) fn act(&mut self, guest: GuestId, action: Option<Action>, now: Instant) {
        let care_of = self.care_of_address();
        match action {
            None => return,
            Some(Action::Prepare) => {
                self.make_ready(guest, now);
                self.hide(guest);
            }
            Some(Action::Attach) => {
                if let Some(policy) = self.roster.get(guest) {
                    self.kernel.raise_to_clock(policy.home_address);
                    // A guest that is always here goes on where it was; one that comes has other hosts' numbers to be beyond.
                    if policy.attachment.as_ref().is_some_and(|attachment| attachment.attach != AttachMode::Always) {
                        let clock = floor::binding_sequence(clock::wall_clock(), policy.lifetime);
                        self.engine.start_from(guest, clock);
                    }
                }
                self.departed.remove(&guest);
                self.arrivals.entry(guest).or_insert(now);
                if self.is_at_home(guest) {
                    self.engine.return_home(guest, now);
                    self.home_link.hush(guest);
                } else {
                    self.engine.attach(guest, care_of, now);
                    self.networks.iter_mut().for_each(|network| network.attached(guest, now));
                }
            }
            Some(Action::Detach { ready }) => {
                if ready {
                    self.make_ready(guest, now);
                } else {
                    self.engine.detach(guest, now);
                }
                self.hide(guest);
                if self.is_at_home(guest) {
                    self.leaving_home.insert(guest);
                }
            }
        }
        self.tell_state(guest);
        self.stale = true;
    }

    /// Everything that its registration needs is brought into force, in silence.
    fn make_ready(&mut self, guest: GuestId, now: Instant) {
        self.engine.prepare(guest, self.care_of_address(), now);
        self.unreserved.insert(guest);
    }

    /// The guest is carried no more: its next frame is a sign of it.
    fn hide(&mut self, guest: GuestId) {
        self.arrivals.remove(&guest);
        self.arriving.remove(&guest);
        self.networks.iter_mut().for_each(|network| network.detached(guest));
    }

    pub(super) fn tell_state(&mut self, guest: GuestId) {
        let Some(state) = self.attachments.get(&guest).map(Attachment::state) else { return };
        let (name, after) = (state.name(), self.since_arrival(guest));
        tracing::debug!(guest = self.name(guest), "attachment: {name}");
        self.herald.tell(self.roster.get(guest), name, &format!("the guest is {name}"), after);
    }

    /// How long ago the guest was seen, while it is not registered.
    pub(super) fn since_arrival(&self, guest: GuestId) -> Option<Duration> {
        let since = *self.arrivals.get(&guest)?;
        Some(clock::now().saturating_duration_since(since))
    }

    /// A guest was seen on its port.
    pub(super) fn sighted(&mut self, guest: GuestId, how: Sighting, now: Instant) {
        if self.leaving.is_some() || self.removing.contains(&guest) {
            return;
        }
        let Some(attachment) = self.attachments.get_mut(&guest) else { return };
        let (before, sign) =
            (attachment.state(), if how == Sighting::Frame { Sign::Frame } else { Sign::Announcement });
        let action = attachment.seen(sign, now);
        let by = match how {
            Sighting::Frame => "a frame of it",
            Sighting::Rarp => "its hypervisor's announcement after a migration",
            Sighting::UnsolicitedAdvertisement => "its own announcement",
        };
        if action.is_some() {
            self.arrivals.insert(guest, now);
        }
        // First what cannot wait.
        self.act(guest, action, now);
        let Some(policy) = self.roster.get(guest) else { return };
        let what = match (action, before) {
            (None, State::TakenOver { .. }) => {
                "another host speaks for it, so this is taken for an echo; `kagemusha attach` if it really is here"
            }
            (None, State::Departed | State::Absent) => "nothing is done; `kagemusha attach` if it is here to stay",
            (None, _) => "",
            (Some(_), _) if self.is_at_home(guest) => "it is at home, and de-registered from here",
            (Some(_), _) => "this host speaks for it now",
        };
        let text = format!("the guest is on its port, seen by {by}{}{what}", if what.is_empty() { "" } else { ": " });
        let weight = if action.is_some() { Weight::News } else { Weight::Detail };
        self.herald.announce(Some(policy), weight, "guest-seen", &text, None);
    }

    /// Somebody wants something of a guest. What was done, as a sentence.
    pub(super) fn command(&mut self, name: &str, command: Command, now: Instant) -> Result<String, String> {
        let known =
            || self.roster.guests().map(|(_, guest)| guest.name.as_str()).take(20).collect::<Vec<_>>().join(", ");
        let Some(guest) = self.roster.named(name) else {
            return Err(format!("no guest {name:?} in the policy; there are: {}", known()));
        };
        if self.leaving.is_some() {
            return Err("the daemon is ending".to_owned());
        }
        if self.removing.contains(&guest) {
            return Err(format!("the guest {name} was removed from the policy and is being de-registered"));
        }
        let Some(attachment) = self.attachments.get_mut(&guest) else { return Err(format!("{name} is not ready yet")) };
        let action = attachment.command(command, now);
        let state = attachment.state().name();
        if action == Some(Action::Attach) {
            self.arrivals.insert(guest, now);
        }
        self.act(guest, action, now);
        let text = match action {
            None => format!("{name} is {state} already"),
            Some(_) => format!("{name} is {state}"),
        };
        tracing::info!(guest = name, "by command: {text}");
        Ok(text)
    }

    /// A guest leaves for its home link, where no host speaks for it: it is de-registered from here (RFC 6275 §11.7.1: a lifetime of zero).
    pub(super) fn send_home(&mut self, name: &str, now: Instant) -> Result<String, String> {
        // Also one that was given up, but none that another host has.
        let left = |state: State| state.speaks() || state == State::Departed;
        let known = self.roster.named(name).filter(|guest| self.leaving.is_none() && !self.removing.contains(guest));
        let Some(guest) = known.filter(|guest| self.attachments.get(guest).is_some_and(|one| left(one.state()))) else {
            // Nothing to de-register, or what a detached guest is told holds here as well.
            return self.command(name, Command::Detach, now);
        };
        if let Some(policy) = self.roster.get(guest) {
            self.kernel.raise_to_clock(policy.home_address);
        }
        self.engine.release(guest, self.care_of_address(), now);
        self.stale = true;
        tracing::info!(guest = name, "by command: goes home, is being de-registered");
        Ok(format!("{name} is being de-registered"))
    }

    /// An event of the engine.
    pub(super) fn on_event(&mut self, guest: GuestId, event: Event, now: Instant) {
        let after = self.since_arrival(guest);
        let mut action = None;
        let came_home = matches!(event, Event::Deregistered(outcome) if self.came_home(guest, outcome, now));
        if let Some(attachment) = self.attachments.get_mut(&guest) {
            match event {
                Event::Registered { .. } | Event::Refreshed { .. } => attachment.registered(),
                Event::Expired => attachment.expired(),
                Event::Stopped(StopReason::TakenOver { last_accepted }) => {
                    action = attachment.taken_over(last_accepted, now);
                    self.hide(guest);
                }
                Event::Deregistered(_) if !came_home => action = attachment.deregistered(now),
                _ => {}
            }
        }
        match event {
            // Another host may have used the SA meanwhile: then the home agent's kernel refuses our numbers in silence, and its status 135 cannot
            // tell us. The event comes before the transmission.
            Event::Retransmitted { attempts } => {
                self.ask_the_kernel(guest, attempts);
                if let Some(home_address) = self.roster.get(guest).map(|guest| guest.home_address) {
                    self.kernel.raise_to_clock(home_address);
                }
            }
            Event::Registered { .. } => {
                self.unanswered.over(guest);
                self.arrivals.remove(&guest);
            }
            Event::Refreshed { .. } | Event::Refused { .. } | Event::SequenceAdopted { .. } | Event::Stopped(_) => {
                self.unanswered.over(guest);
            }
            Event::Deregistered(_) => {
                self.unanswered.over(guest);
                self.departed.insert(guest);
                self.hide(guest);
            }
            _ => {}
        }
        if let Some(policy) = self.roster.get(guest) {
            let weight = match event {
                Event::Discarded(_) => Weight::Detail,
                event => Weight::of(event.is_trouble()),
            };
            self.herald.announce(Some(policy), weight, event.name(), &event.describe(now), after);
        }
        // For the day it comes back.
        if action == Some(Action::Prepare) && self.leaving.is_none() && !self.removing.contains(&guest) {
            self.make_ready(guest, now);
        }
        match event {
            Event::Deregistered(_) => {
                self.stale = true;
                self.forget(guest, now);
            }
            Event::Stopped(_) => self.stale = true,
            _ => {}
        }
    }

    /// Nobody has answered a binding update for a while: the kernel may have dropped it, or its acknowledgement, in silence.
    fn ask_the_kernel(&mut self, guest: GuestId, transmission: u32) {
        if let Some(hint) = self.unanswered.again(guest, transmission, statistics::read().ok()) {
            self.herald.announce(self.roster.get(guest), Weight::Trouble, "unanswered", hint, None);
        }
    }

    /// The next binding updates need not wait for the disk.
    pub(super) fn reserve_sequences(&mut self) {
        for guest in std::mem::take(&mut self.unreserved) {
            let Some(home_address) = self.roster.get(guest).map(|guest| guest.home_address) else { continue };
            if let Err(error) = self.kernel.ledger().reserve_binding_sequences(home_address) {
                tracing::warn!(%home_address, "{error}; the next binding update waits for it");
            }
        }
    }
}

/// When a guest is attached.
pub(super) fn mode(guest: &GuestPolicy) -> AttachMode {
    guest.attachment.as_ref().map(|attachment| attachment.attach).unwrap_or_default()
}
