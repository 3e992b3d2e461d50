//! The home registration of one guest (RFC 6275 §11.7.1, §11.8).

use std::collections::VecDeque;
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use super::acknowledgement::{CONFIRMATION_DISTANCE, TAKEOVER_DISTANCE};
use super::exchange::{Exchange, INITIAL_BINDACK_TIMEOUT, INITIAL_BINDACK_TIMEOUT_FIRST_REGISTRATION};
use super::output::{Binding, Counters, Event, GuestConfig, Outcome, Output, StopReason, View};
use super::state::{Purpose, State};
use crate::signaling::backoff::Backoff;
use crate::signaling::engine::Generations;
use crate::vocabulary::{Generation, GuestId, Lifetime, SequenceNumber};
use crate::wire::mobility::{BindingUpdate, BindingUpdateFlags, Message, MobilityOption, Status};

/// Transmissions of a de-registration before it is given up: at 0, 1, 3 and 7 s, so that it ends after 15 s.
pub const DEREGISTRATION_TRANSMISSIONS: u32 = 4;
/// MAX_UPDATE_RATE (RFC 6275 §12): binding updates in one second.
const MAX_UPDATE_RATE: usize = 3;
/// First and longest pause after a failure to secure.
const SECURING_RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(32));
/// A hint (binding error, refresh request) is not protected, so it cannot make us send more often than this.
const HINT_INTERVAL: Duration = Duration::from_secs(5);

/// What an input is handled with.
pub(super) struct Context<'a> {
    pub now: Instant,
    pub outputs: &'a mut VecDeque<Output>,
    pub generations: &'a mut Generations,
    pub counters: &'a mut Counters,
}

/// The kernel state last asked for.
#[derive(Debug)]
struct Secured {
    care_of: Option<Ipv6Addr>,
    generation: Generation,
    failed: bool,
}

/// The registration of one guest.
#[derive(Debug)]
pub(super) struct Registration {
    pub id: GuestId,
    pub config: GuestConfig,
    pub state: State,
    /// The last sequence number used.
    pub sequence: SequenceNumber,
    /// Whether the home agent has accepted a binding update since `attach`. From then on a status 135 is not adopted.
    pub accepted: bool,
    /// Whether a status 135 has been adopted since `attach`.
    pub adopted: bool,
    /// Whether the next binding update confirms the first registration, see CONFIRMATION_DISTANCE.
    pub leap: bool,
    /// The last refusal and the pauses between attempts, until accepted.
    pub refusal: Option<(Status, Backoff)>,
    /// Until when the home agent has a binding of ours, whatever its care-of address.
    pub registered_until: Option<Instant>,
    /// Binding updates sent since `attach`.
    pub sent: u32,
    /// Whether the home agent may know of us: a binding update has left and no de-registration has ended since.
    known: bool,
    secured: Option<Secured>,
    told: Option<Binding>,
    recent: VecDeque<Instant>,
    last_hint: Option<Instant>,
}

impl Registration {
    pub(super) fn new(id: GuestId, mut config: GuestConfig) -> Self {
        config.lifetime = config.lifetime.max(Lifetime(1));
        let sequence = config.last_sequence;
        Self {
            id,
            config,
            state: State::Detached,
            sequence,
            accepted: false,
            adopted: false,
            leap: false,
            refusal: None,
            registered_until: None,
            sent: 0,
            known: false,
            secured: None,
            told: None,
            recent: VecDeque::new(),
            last_hint: None,
        }
    }

    /// The guest is on this host now.
    pub(super) fn attach(&mut self, care_of: Option<Ipv6Addr>, ctx: &mut Context<'_>) {
        let held = self.state.binding();
        self.arrive();
        match care_of {
            Some(care_of) => self.begin_securing(care_of, Purpose::Register, held, fresh_securing_backoff(), ctx),
            None => self.wait(ctx),
        }
    }

    /// The guest is on its home link, and so is this host: whatever binding there is, is deleted from there (RFC 6275 §11.5.5).
    pub(super) fn return_home(&mut self, ctx: &mut Context<'_>) {
        self.arrive();
        self.begin_securing(self.config.home_address, Purpose::Deregister, None, fresh_securing_backoff(), ctx);
    }

    /// Another host may have spoken for the guest until now.
    fn arrive(&mut self) {
        self.accepted = false;
        self.adopted = false;
        self.leap = false;
        self.sent = 0;
        self.refusal = None;
    }

    /// Whether the care-of address is the home address: the guest is at home.
    pub(super) fn is_returning(&self) -> bool {
        self.state.care_of() == Some(self.config.home_address)
    }

    /// The number of the clock, unless ours, if there is one, is a little ahead of it: after an adopted 135, or several updates in a moment.
    pub(super) fn start_from(&mut self, clock: SequenceNumber) {
        const NEAR: u16 = 8 * TAKEOVER_DISTANCE;
        if self.sequence == SequenceNumber(0) || self.sequence.0.wrapping_sub(clock.0) >= NEAR {
            self.sequence = clock;
        }
    }

    /// The guest is expected: everything but the binding update is made ready.
    pub(super) fn prepare(&mut self, care_of: Option<Ipv6Addr>, ctx: &mut Context<'_>) {
        self.leave_state();
        self.prepare_for(care_of, ctx);
    }

    fn prepare_for(&mut self, care_of: Option<Ipv6Addr>, ctx: &mut Context<'_>) {
        match care_of {
            Some(care_of) => self.begin_securing(care_of, Purpose::Prepare, None, fresh_securing_backoff(), ctx),
            None => {
                self.state = State::Prepared { care_of };
                self.secure(None, ctx);
            }
        }
    }

    /// Other settings, from a changed policy: used from the next binding update on.
    pub(super) fn configure(&mut self, lifetime: Lifetime, key_management_mobility: bool) {
        self.config.lifetime = lifetime.max(Lifetime(1));
        self.config.key_management_mobility = key_management_mobility;
    }

    /// A binding is refreshed at once, whatever its age.
    pub(super) fn refresh(&mut self, now: Instant) {
        if let State::Bound { refresh_at, .. } = &mut self.state {
            *refresh_at = now.min(*refresh_at);
        }
    }

    /// The host has moved, or lost its uplink.
    pub(super) fn care_of_changed(&mut self, care_of: Option<Ipv6Addr>, ctx: &mut Context<'_>) {
        let no_matter = matches!(self.state, State::Detached | State::Stopped { .. }) || self.is_returning();
        if no_matter || care_of == self.state.care_of() {
            return;
        }
        let purpose = self.state.purpose();
        match care_of {
            care_of if purpose == Purpose::Prepare => self.prepare_for(care_of, ctx),
            None if purpose == Purpose::Deregister => self.finish(Outcome::NoCareOfAddress, ctx),
            None => self.wait(ctx),
            Some(care_of) => {
                let held = self.state.binding();
                self.refusal = None;
                self.begin_securing(care_of, purpose, held, fresh_securing_backoff(), ctx);
            }
        }
    }

    /// The guest has left this host; its binding is another host's business.
    pub(super) fn detach(&mut self, ctx: &mut Context<'_>) {
        self.leave(State::Detached, ctx);
    }

    /// Deletes the binding at the home agent.
    pub(super) fn deregister(&mut self, ctx: &mut Context<'_>) {
        if self.state.is_deregistering() {
            return;
        }
        match &mut self.state {
            State::Stopped { .. } => self.event(Event::Deregistered(Outcome::TakenOver), ctx),
            _ if !self.known => self.finish(Outcome::NothingSent, ctx),
            State::Detached | State::Prepared { .. } | State::Waiting => self.finish(Outcome::NoCareOfAddress, ctx),
            State::Refused { held: None, .. } => self.finish(Outcome::NoBinding, ctx),
            State::Securing { purpose, .. } | State::SecuringFailed { purpose, .. } => *purpose = Purpose::Deregister,
            State::Registering { exchange: Exchange { care_of, generation, .. }, held }
            | State::Refused { care_of, generation, held, .. } => {
                let (care_of, generation, held) = (*care_of, *generation, *held);
                self.begin_exchange(care_of, generation, Purpose::Deregister, held, ctx.now);
            }
            State::Bound { binding, generation, .. }
            | State::Refreshing { binding, exchange: Exchange { generation, .. } } => {
                let (binding, generation) = (*binding, *generation);
                self.begin_exchange(binding.care_of, generation, Purpose::Deregister, Some(binding), ctx.now);
            }
            State::Deregistering { .. } => {}
        }
    }

    /// A guest that was left to its next host is de-registered after all.
    pub(super) fn release(&mut self, care_of: Option<Ipv6Addr>, ctx: &mut Context<'_>) {
        match care_of {
            _ if !matches!(self.state, State::Detached | State::Prepared { .. }) => self.deregister(ctx),
            None => self.finish(Outcome::NoCareOfAddress, ctx),
            Some(care_of) => {
                self.begin_securing(care_of, Purpose::Deregister, None, fresh_securing_backoff(), ctx);
            }
        }
    }

    /// The kernel refused `generation`.
    pub(super) fn securing_failed(&mut self, generation: Generation, ctx: &mut Context<'_>) {
        let Some(secured) = self.secured.as_mut().filter(|s| s.generation == generation) else { return };
        secured.failed = true;
        let Some(care_of) = self.state.care_of() else { return };
        let purpose = self.state.purpose();
        let held = self.state.binding();
        let mut backoff = match &self.state {
            State::Securing { backoff, .. } => backoff.clone(),
            _ => fresh_securing_backoff(),
        };
        let retry_at = ctx.now + backoff.take();
        self.state = State::SecuringFailed { care_of, purpose, held, backoff, retry_at };
        self.event(Event::SecuringFailed { retry_at }, ctx);
    }

    pub(super) fn no_longer_secured(&mut self, ctx: &mut Context<'_>) {
        if let Some(secured) = self.secured.as_ref().filter(|secured| !secured.failed) {
            self.securing_failed(secured.generation, ctx);
        }
    }

    /// Refreshes now, if bound and not too soon after the last hint. Whether it does.
    pub(super) fn hint(&mut self, now: Instant) -> bool {
        let too_soon = self.last_hint.is_some_and(|at| now < at + HINT_INTERVAL);
        match &mut self.state {
            State::Bound { refresh_at, .. } if !too_soon => {
                self.last_hint = Some(now);
                *refresh_at = now.min(*refresh_at);
                true
            }
            _ => false,
        }
    }

    /// Does all that is due, then tells the data path if what it carries has changed. Called after every input.
    pub(super) fn settle(&mut self, ctx: &mut Context<'_>) {
        while self.step(ctx) {}
        let binding = self.state.binding();
        if binding != self.told {
            self.told = binding;
            ctx.outputs.push_back(Output::Binding { guest: self.id, binding });
        }
    }

    /// When [`settle`](Self::settle) has something to do, and what.
    pub(super) fn deadline(&self) -> Option<(Instant, &'static str)> {
        let expiry = self.state.binding().map(|b| (b.expires, "the binding's lifetime ends"));
        [self.state.timer(), expiry].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// One due thing; false when nothing is.
    fn step(&mut self, ctx: &mut Context<'_>) -> bool {
        let now = ctx.now;
        if self.state.binding().is_some_and(|b| b.expires <= now) {
            self.expire(ctx);
            return true;
        }
        match &self.state {
            State::Securing { care_of, generation, purpose, held, .. } if ctx.generations.is_applied(*generation) => {
                let (care_of, generation, purpose, held) = (*care_of, *generation, *purpose, *held);
                self.begin_exchange(care_of, generation, purpose, held, now);
                true
            }
            State::SecuringFailed { care_of, purpose, held, backoff, retry_at } if *retry_at <= now => {
                let (care_of, purpose, held, backoff) = (*care_of, *purpose, *held, backoff.clone());
                self.begin_securing(care_of, purpose, held, backoff, ctx);
                true
            }
            State::Bound { binding, generation, refresh_at } if *refresh_at <= now => {
                let (binding, generation) = (*binding, *generation);
                self.begin_exchange(binding.care_of, generation, Purpose::Register, Some(binding), now);
                true
            }
            State::Refused { care_of, generation, held, retry_at, .. } if *retry_at <= now => {
                let (care_of, generation, held) = (*care_of, *generation, *held);
                self.begin_exchange(care_of, generation, Purpose::Register, held, now);
                true
            }
            // From home it is sent until it is answered (RFC 6275 §11.8): until then the home agent keeps the guest's packets.
            State::Deregistering { exchange, .. }
                if exchange.next <= now
                    && exchange.attempts >= DEREGISTRATION_TRANSMISSIONS
                    && !self.is_returning() =>
            {
                self.finish(Outcome::Unanswered, ctx);
                true
            }
            _ if self.state.exchange().is_some_and(|exchange| exchange.next <= now) => {
                self.transmit(ctx);
                true
            }
            _ => false,
        }
    }

    /// The lifetime of the binding has ended; what is outstanding goes on, now as a registration.
    fn expire(&mut self, ctx: &mut Context<'_>) {
        let now = ctx.now;
        match &mut self.state {
            State::Bound { binding, generation, .. } => {
                let (care_of, generation) = (binding.care_of, *generation);
                self.begin_exchange(care_of, generation, Purpose::Register, None, now);
            }
            State::Refreshing { exchange, .. } => {
                self.state = State::Registering { exchange: exchange.clone(), held: None };
            }
            State::Securing { held, .. }
            | State::SecuringFailed { held, .. }
            | State::Registering { held, .. }
            | State::Deregistering { held, .. }
            | State::Refused { held, .. } => *held = None,
            State::Detached | State::Prepared { .. } | State::Waiting | State::Stopped { .. } => {}
        }
        self.event(Event::Expired, ctx);
    }

    fn begin_securing(
        &mut self,
        care_of: Ipv6Addr,
        purpose: Purpose,
        held: Option<Binding>,
        backoff: Backoff,
        ctx: &mut Context<'_>,
    ) {
        let generation = self.secure(Some(care_of), ctx);
        self.state = State::Securing { care_of, generation, purpose, held, backoff };
    }

    fn begin_exchange(
        &mut self,
        care_of: Ipv6Addr,
        generation: Generation,
        purpose: Purpose,
        held: Option<Binding>,
        now: Instant,
    ) {
        let (lifetime, first_timeout) = match purpose {
            Purpose::Register => (self.config.lifetime, self.first_timeout(now)),
            // It is never preceded by duplicate address detection.
            Purpose::Deregister => (Lifetime::ZERO, INITIAL_BINDACK_TIMEOUT),
            Purpose::Prepare => {
                self.state = State::Prepared { care_of: Some(care_of) };
                return;
            }
        };
        let exchange = Exchange::new(care_of, generation, lifetime, first_timeout, now);
        self.state = match (purpose, held) {
            (Purpose::Deregister, held) => State::Deregistering { exchange, held },
            (_, Some(binding)) if binding.care_of == care_of => State::Refreshing { binding, exchange },
            (_, held) => State::Registering { exchange, held },
        };
    }

    /// The first retransmission timer: longer while the home agent has no binding (RFC 6275 §11.8).
    pub(super) fn first_timeout(&self, now: Instant) -> Duration {
        if self.registered_until.is_some_and(|until| now < until) {
            INITIAL_BINDACK_TIMEOUT
        } else {
            INITIAL_BINDACK_TIMEOUT_FIRST_REGISTRATION
        }
    }

    /// Sends the outstanding binding update with the next sequence number, or puts it off for MAX_UPDATE_RATE.
    fn transmit(&mut self, ctx: &mut Context<'_>) {
        let now = ctx.now;
        let Some(exchange) = self.state.exchange_mut() else { return };
        if let Some(oldest) = self.recent.front().filter(|_| self.recent.len() >= MAX_UPDATE_RATE) {
            let allowed = *oldest + Duration::from_secs(1);
            if now < allowed {
                exchange.next = allowed;
                return;
            }
            self.recent.pop_front();
        }
        self.recent.push_back(now);
        let step = if std::mem::take(&mut self.leap) { CONFIRMATION_DISTANCE } else { 1 };
        self.sequence = SequenceNumber(self.sequence.0.wrapping_add(step));
        self.sent = self.sent.saturating_add(1);
        self.known = true;
        exchange.sent(self.sequence, now);
        let (attempts, after) = (exchange.attempts, exchange.generation);
        let update = BindingUpdate {
            sequence: self.sequence,
            flags: BindingUpdateFlags {
                acknowledge: true,
                home_registration: true,
                key_management_mobility: self.config.key_management_mobility,
                ..BindingUpdateFlags::default()
            },
            lifetime: exchange.lifetime,
            options: vec![MobilityOption::AlternateCareOfAddress(exchange.care_of)],
        };
        ctx.counters.binding_updates += 1;
        if attempts > 1 {
            ctx.counters.retransmissions += 1;
            self.event(Event::Retransmitted { attempts }, ctx);
        }
        ctx.outputs.push_back(Output::Transmit {
            after,
            guest: self.id,
            sequence: self.sequence,
            source: self.config.home_address,
            destination: self.config.home_agent,
            message: Message::BindingUpdate(update).emit(),
        });
    }

    fn wait(&mut self, ctx: &mut Context<'_>) {
        self.state = State::Waiting;
        self.secure(None, ctx);
        self.event(Event::WaitingForCareOfAddress, ctx);
    }

    /// De-registration has ended.
    pub(super) fn finish(&mut self, outcome: Outcome, ctx: &mut Context<'_>) {
        self.leave(State::Detached, ctx);
        self.event(Event::Deregistered(outcome), ctx);
    }

    /// Another host has the guest.
    pub(super) fn stop(&mut self, reason: StopReason, ctx: &mut Context<'_>) {
        let deregistering = self.state.is_deregistering();
        self.leave(State::Stopped { reason }, ctx);
        self.event(Event::Stopped(reason), ctx);
        if deregistering {
            self.event(Event::Deregistered(Outcome::TakenOver), ctx);
        }
    }

    fn leave(&mut self, state: State, ctx: &mut Context<'_>) {
        self.leave_state();
        self.state = state;
        self.secure(None, ctx);
    }

    /// What was known of the registration is the home agent's and another host's now.
    fn leave_state(&mut self) {
        self.known = false;
        self.registered_until = None;
        self.refusal = None;
    }

    /// Asks for the kernel state of `care_of`, unless that was the last thing asked for. The generation to wait for.
    fn secure(&mut self, care_of: Option<Ipv6Addr>, ctx: &mut Context<'_>) -> Generation {
        match &self.secured {
            Some(secured) if secured.care_of == care_of && !secured.failed => return secured.generation,
            None if care_of.is_none() => return ctx.generations.applied(),
            _ => {}
        }
        let generation = ctx.generations.allocate();
        self.secured = Some(Secured { care_of, generation, failed: false });
        ctx.outputs.push_back(Output::Secure { generation, guest: self.id, care_of });
        generation
    }

    pub(super) fn event(&self, event: Event, ctx: &mut Context<'_>) {
        ctx.outputs.push_back(Output::Event { guest: self.id, event });
    }

    pub(super) fn view(&self) -> View {
        View {
            home_address: self.config.home_address,
            home_agent: self.config.home_agent,
            state: self.state.name(),
            care_of: self.state.care_of(),
            sequence: self.sequence,
            binding: self.state.binding(),
            attempts: self.state.exchange().map_or(0, |exchange| exchange.attempts),
            refused: self.refusal.as_ref().map(|(status, _)| *status),
            stopped: match self.state {
                State::Stopped { reason } => Some(reason),
                _ => None,
            },
            next: self.deadline(),
        }
    }
}

fn fresh_securing_backoff() -> Backoff {
    Backoff::new(SECURING_RETRY.0, SECURING_RETRY.1)
}
