//! The binding cache entry of one home address (RFC 6275 §10.3.1, §10.3.2).

use std::collections::VecDeque;
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use super::binding_update::Request;
use super::output::{Binding, Config, Counters, DiscardReason, Event, Output, View};
use super::proxy;
use crate::signaling::engine::Generations;
use crate::vocabulary::{Generation, GuestId, Lifetime, MacAddress, SequenceNumber};
use crate::wire::mobility::{BindingAcknowledgement, Message, Status};

/// Duplicate address detection: one probe (DupAddrDetectTransmits, RFC 4862 §5.1), then RetransTimer of RFC 4861 §10.
pub const DETECTION_TIME: Duration = Duration::from_secs(1);
/// MAX_NEIGHBOR_ADVERTISEMENT (RFC 4861 §10), RetransTimer apart.
pub const ANNOUNCEMENTS: u32 = 3;
const ANNOUNCEMENT_INTERVAL: Duration = Duration::from_secs(1);
/// Lifetime granted while detection goes on beside the binding. The mobile node asks for more after half of it and so learns what became of it.
const PROBATION_LIFETIME: Lifetime = Lifetime(2);
/// Another user of the address is reported and answered this often at most.
const CONFLICT_INTERVAL: Duration = Duration::from_secs(10);

/// What an input is handled with.
pub(super) struct Context<'a> {
    pub now: Instant,
    pub config: &'a Config,
    pub outputs: &'a mut VecDeque<Output>,
    pub generations: &'a mut Generations,
    pub counters: &'a mut Counters,
    /// Bindings there are, those of entries in duplicate address detection included.
    pub bindings: usize,
}

/// The states of an entry.
///
/// ```text
///        update                   a second of silence              update: refresh or move
///  None ─────────► Detecting ───────────────────────► Bound ─────────────────────────────► Bound
///   ▲                 │ someone answers: 134             │ lifetime ends, or deletion
///   └─────────────────┴──────────────────────────────────┘
/// ```
///
/// With optimistic detection an update leads to `Bound` at once, on probation for the second that detection takes: the binding is granted for a
/// few seconds only. If someone answers, it ends, and the next update has to go by way of `Detecting`, which gives the mobile node its 134.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    None,
    Detecting { request: Request, ends: Instant },
    Bound { care_of: Ipv6Addr, expires: Instant, mobile_router: bool },
}

/// The announcements of a new binding on the home link (RFC 6275 §10.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Announcing {
    /// None are left.
    Done,
    /// Not before the kernel carries: it would forward what neighbours send us natively, to where the mobile node was, and redirect them there.
    WhenInForce,
    /// So many are left, the next one then.
    Next { left: u32, at: Instant },
}

/// The entry of one home address.
#[derive(Debug)]
pub(super) struct Entry {
    id: GuestId,
    home_address: Ipv6Addr,
    state: State,
    /// The last sequence number accepted. It outlives the binding, see the module's documentation.
    last_sequence: Option<SequenceNumber>,
    secured: Option<(Option<Ipv6Addr>, Generation)>,
    /// An acknowledgement that waits for its generation.
    waiting: Option<(Generation, Output)>,
    announcing: Announcing,
    last_conflict: Option<Instant>,
    /// Until when an optimistic binding may turn out to be a mistake.
    probation: Option<Instant>,
    /// An optimistic binding was a mistake: the next one is detected first.
    contested: bool,
    told: Option<Binding>,
}

impl Entry {
    /// `last_sequence` is what durable storage has.
    pub(super) fn new(id: GuestId, home_address: Ipv6Addr, last_sequence: Option<SequenceNumber>) -> Self {
        Self {
            id,
            home_address,
            state: State::None,
            last_sequence,
            secured: None,
            waiting: None,
            announcing: Announcing::Done,
            last_conflict: None,
            probation: None,
            contested: false,
            told: None,
        }
    }

    /// Whether it counts as a binding.
    pub(super) fn is_used(&self) -> bool {
        self.state != State::None
    }

    /// A binding update for this home address.
    pub(super) fn update(&mut self, request: Request, ctx: &mut Context<'_>) -> Result<(), DiscardReason> {
        if request.is_deletion() {
            return self.delete(request, ctx);
        }
        match &mut self.state {
            State::None => match self.last_sequence {
                Some(last) if !request.sequence.is_newer_than(last) => self.refuse_sequence(&request, last, ctx),
                _ if ctx.bindings >= ctx.config.maximum_bindings => {
                    self.refuse(&request, Status::INSUFFICIENT_RESOURCES, ctx);
                }
                _ if ctx.config.detect_duplicates => self.detect(request, ctx),
                _ => self.accept(&request, ctx),
            },
            State::Detecting { request: pending, .. } => {
                if request.sequence.is_newer_than(pending.sequence) {
                    // A retransmission, or the mobile node has moved meanwhile. Detection goes on; the answer is for
                    // the newest update.
                    *pending = request;
                    return Ok(());
                }
                if request.care_of == pending.care_of {
                    return Err(DiscardReason::DetectionUnderWay);
                }
                let last = pending.sequence;
                self.refuse_sequence(&request, last, ctx);
            }
            State::Bound { mobile_router, .. } => {
                let same_type = *mobile_router == request.mobile_router;
                match self.last_sequence {
                    Some(last) if !request.sequence.is_newer_than(last) => self.refuse_sequence(&request, last, ctx),
                    _ if !same_type => self.refuse(&request, Status::REGISTRATION_TYPE_CHANGE_DISALLOWED, ctx),
                    _ => self.accept(&request, ctx),
                }
            }
        }
        Ok(())
    }

    /// Begins duplicate address detection: before the binding, or beside it.
    fn detect(&mut self, request: Request, ctx: &mut Context<'_>) {
        ctx.outputs.push_back(Output::HomeLinkFrame(proxy::probe(ctx.config, self.home_address)));
        self.event(Event::DetectingDuplicates, ctx);
        let ends = ctx.now + DETECTION_TIME;
        if ctx.config.optimistic_detection && !self.contested {
            self.probation = Some(ends);
            self.accept(&request, ctx);
        } else {
            self.state = State::Detecting { request, ends };
        }
    }

    fn is_on_probation(&self, now: Instant) -> bool {
        self.probation.is_some_and(|ends| now < ends)
    }

    /// Deletion (RFC 6275 §10.3.2).
    fn delete(&mut self, request: Request, ctx: &mut Context<'_>) -> Result<(), DiscardReason> {
        let last = match &self.state {
            State::Detecting { request: pending, .. } => Some(pending.sequence),
            _ => self.last_sequence,
        };
        let newer = last.is_none_or(|last| request.sequence.is_newer_than(last));
        match (&self.state, last) {
            (State::Bound { .. }, Some(last)) if !newer => self.refuse_sequence(&request, last, ctx),
            (State::Bound { .. }, _) => {
                self.last_sequence = Some(request.sequence);
                // To a care-of address before the kernel state goes; to a mobile node at home after that, when its home
                // address is not routed into the tunnel any more.
                let at_home = request.reply_via.is_none();
                if request.acknowledge && !at_home {
                    self.answer(&request, Status::ACCEPTED, request.sequence, Lifetime::ZERO, ctx);
                }
                self.end(ctx);
                if request.acknowledge && at_home {
                    self.answer(&request, Status::ACCEPTED, request.sequence, Lifetime::ZERO, ctx);
                }
                self.event(Event::Deregistered, ctx);
            }
            (State::Detecting { .. }, _) if !newer => return Err(DiscardReason::DetectionUnderWay),
            (State::Detecting { .. } | State::None, _) => {
                // There is no binding, but an older update that is still on its way must not make one.
                if newer {
                    self.last_sequence = Some(request.sequence);
                }
                self.state = State::None;
                self.refuse(&request, Status::NOT_HOME_AGENT_FOR_THIS_MOBILE_NODE, ctx);
            }
        }
        Ok(())
    }

    /// A neighbour on the home link uses, or begins to use, the home address.
    pub(super) fn conflict(&mut self, probe: bool, link_layer_address: MacAddress, ctx: &mut Context<'_>) {
        match self.state {
            State::None => {}
            State::Detecting { request, .. } => {
                ctx.counters.conflicts += 1;
                self.state = State::None;
                self.event(Event::AddressConflict { link_layer_address }, ctx);
                self.refuse(&request, Status::DUPLICATE_ADDRESS_DETECTION_FAILED, ctx);
            }
            State::Bound { .. } if self.is_on_probation(ctx.now) => {
                ctx.counters.conflicts += 1;
                self.contested = true;
                self.event(Event::AddressConflict { link_layer_address }, ctx);
                self.end(ctx);
            }
            State::Bound { .. } => {
                ctx.counters.conflicts += 1;
                let quiet = self.last_conflict.is_some_and(|at| ctx.now < at + CONFLICT_INTERVAL);
                if !quiet {
                    self.last_conflict = Some(ctx.now);
                    self.event(Event::AddressConflict { link_layer_address }, ctx);
                }
                // A probe is always answered, or its sender takes the address; an advertisement has already misled the
                // neighbours, which is put right at a bounded rate.
                if probe || !quiet {
                    self.announce(ctx);
                }
            }
        }
    }

    /// Answers a solicitation if there is a binding.
    pub(super) fn solicited(&self, source: Ipv6Addr, link_layer_address: MacAddress, ctx: &mut Context<'_>) {
        if matches!(self.state, State::Bound { .. }) {
            ctx.counters.solicitations_answered += 1;
            let frame = proxy::answer(ctx.config, self.home_address, source, link_layer_address);
            ctx.outputs.push_back(Output::HomeLinkFrame(frame));
        }
    }

    /// The kernel refused `generation`: a binding that cannot be protected is none. The mobile node will try again.
    pub(super) fn securing_failed(&mut self, generation: Generation, ctx: &mut Context<'_>) {
        if self.secured.is_none_or(|(_, secured)| secured != generation) {
            return;
        }
        self.secured = None;
        self.waiting = None;
        if matches!(self.state, State::Bound { .. }) {
            self.state = State::None;
            self.announcing = Announcing::Done;
        }
        self.event(Event::SecuringFailed, ctx);
    }

    /// Does all that is due, then tells the data path if what it carries has changed. Called after every input.
    pub(super) fn settle(&mut self, ctx: &mut Context<'_>) {
        match self.state {
            State::Detecting { request, ends } if ends <= ctx.now => {
                self.contested = false;
                self.accept(&request, ctx);
            }
            State::Bound { expires, .. } if expires <= ctx.now => {
                ctx.counters.expired += 1;
                self.end(ctx);
                self.event(Event::Expired, ctx);
            }
            _ => {}
        }
        self.announce_when_due(ctx);
        let binding = self.binding();
        if binding != self.told {
            self.told = binding;
            ctx.outputs.push_back(Output::Binding { guest: self.id, binding });
        }
        if let Some((_, transmit)) = self.waiting.take_if(|(after, _)| ctx.generations.is_applied(*after)) {
            ctx.outputs.push_back(transmit);
        }
    }

    /// When [`settle`](Self::settle) has something to do, and what.
    pub(super) fn deadline(&self) -> Option<(Instant, &'static str)> {
        let own = match self.state {
            State::None => None,
            State::Detecting { ends, .. } => Some((ends, "duplicate address detection ends")),
            State::Bound { expires, .. } => Some((expires, "the binding's lifetime ends")),
        };
        let announcing = match self.announcing {
            Announcing::Next { at, .. } => Some((at, "advertise the home address again")),
            Announcing::Done | Announcing::WhenInForce => None,
        };
        [own, announcing].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    pub(super) fn view(&self) -> View {
        let (state, care_of) = match &self.state {
            State::None => ("none", None),
            State::Detecting { request, .. } => ("detecting", Some(request.care_of)),
            State::Bound { care_of, .. } => ("bound", Some(*care_of)),
        };
        View {
            home_address: self.home_address,
            state,
            care_of,
            sequence: self.last_sequence,
            expires: self.binding().map(|binding| binding.expires),
            next: self.deadline(),
        }
    }

    fn binding(&self) -> Option<Binding> {
        match self.state {
            State::Bound { care_of, expires, .. } => {
                Some(Binding { home_address: self.home_address, care_of, expires })
            }
            _ => None,
        }
    }

    /// Makes, moves or refreshes the binding (RFC 6275 §10.3.1). A move takes effect at once.
    fn accept(&mut self, request: &Request, ctx: &mut Context<'_>) {
        let mut longest = Lifetime::from_duration(ctx.config.maximum_lifetime).max(Lifetime(1));
        if self.is_on_probation(ctx.now) {
            longest = longest.min(PROBATION_LIFETIME);
        }
        let lifetime = request.lifetime.min(longest);
        let before = self.binding().map(|binding| binding.care_of);
        self.last_sequence = Some(request.sequence);
        self.state = State::Bound {
            care_of: request.care_of,
            expires: ctx.now + lifetime.as_duration(),
            mobile_router: request.mobile_router,
        };
        self.secure(Some(request.care_of), ctx);
        self.event(
            match before {
                None => Event::Registered { care_of: request.care_of, lifetime },
                Some(from) if from != request.care_of => Event::Moved { from, to: request.care_of, lifetime },
                Some(_) => Event::Refreshed { lifetime },
            },
            ctx,
        );
        if before.is_none() {
            self.announcing = Announcing::WhenInForce;
        }
        if request.acknowledge {
            self.answer(request, Status::ACCEPTED, request.sequence, lifetime, ctx);
        }
    }

    /// The home address is served no more.
    pub(super) fn remove(&mut self, ctx: &mut Context<'_>) {
        self.end(ctx);
    }

    /// The binding ends: no interception, no kernel state.
    fn end(&mut self, ctx: &mut Context<'_>) {
        self.state = State::None;
        self.announcing = Announcing::Done;
        self.waiting = None;
        self.probation = None;
        self.secure(None, ctx);
    }

    fn announce(&self, ctx: &mut Context<'_>) {
        ctx.outputs.push_back(Output::HomeLinkFrame(proxy::announcement(ctx.config, self.home_address)));
    }

    fn announce_when_due(&mut self, ctx: &mut Context<'_>) {
        let in_force = || self.secured.is_some_and(|(_, generation)| ctx.generations.is_applied(generation));
        let left = match self.announcing {
            Announcing::WhenInForce if in_force() => ANNOUNCEMENTS,
            Announcing::Next { left, at } if at <= ctx.now => left,
            _ => return,
        };
        self.announce(ctx);
        self.announcing = match left {
            0 | 1 => Announcing::Done,
            left => Announcing::Next { left: left - 1, at: ctx.now + ANNOUNCEMENT_INTERVAL },
        };
    }

    fn refuse_sequence(&mut self, request: &Request, last: SequenceNumber, ctx: &mut Context<'_>) {
        self.refused(request, Status::SEQUENCE_NUMBER_OUT_OF_WINDOW, last, ctx);
    }

    /// Refuses; also used for reasons found outside of the entry.
    pub(super) fn refuse(&mut self, request: &Request, status: Status, ctx: &mut Context<'_>) {
        self.refused(request, status, request.sequence, ctx);
    }

    fn refused(&mut self, request: &Request, status: Status, sequence: SequenceNumber, ctx: &mut Context<'_>) {
        self.event(Event::Refused { status, sequence: request.sequence, from: request.reply_via }, ctx);
        self.answer(request, status, sequence, Lifetime::ZERO, ctx);
    }

    /// Answers; an acceptance waits until the kernel state of its binding is in force, an answer to a mobile node at home
    /// until that of its former binding has gone.
    fn answer(
        &mut self,
        request: &Request,
        status: Status,
        sequence: SequenceNumber,
        lifetime: Lifetime,
        ctx: &mut Context<'_>,
    ) {
        let fence = match self.secured {
            Some((_, generation)) if !lifetime.is_zero() || request.reply_via.is_none() => generation,
            _ => ctx.generations.applied(),
        };
        let transmit = acknowledgement(request, status, sequence, lifetime, fence, ctx.counters);
        if ctx.generations.is_applied(fence) {
            ctx.outputs.push_back(transmit);
        } else {
            self.waiting = Some((fence, transmit));
        }
    }

    fn secure(&mut self, care_of: Option<Ipv6Addr>, ctx: &mut Context<'_>) {
        if self.secured.map_or(care_of.is_none(), |(secured, _)| secured == care_of) {
            return;
        }
        let generation = ctx.generations.allocate();
        self.secured = Some((care_of, generation));
        ctx.outputs.push_back(Output::Secure { generation, guest: self.id, care_of });
    }

    pub(super) fn event(&self, event: Event, ctx: &mut Context<'_>) {
        ctx.outputs.push_back(Output::Event { guest: self.id, event });
    }
}

/// A binding acknowledgement to where the request came from (RFC 6275 §9.5.4). K says that security associations survive a movement, so it is
/// for acceptances (RFC 6275 §6.1.8, §10.3.1): here they always do, since neither their addresses nor their keys follow the care-of address.
pub(super) fn acknowledgement(
    request: &Request,
    status: Status,
    sequence: SequenceNumber,
    lifetime: Lifetime,
    after: Generation,
    counters: &mut Counters,
) -> Output {
    *counters.answered.entry(status.0).or_default() += 1;
    let message = Message::BindingAcknowledgement(BindingAcknowledgement {
        status,
        key_management_mobility: request.key_management_mobility && status.is_accepted(),
        sequence,
        lifetime,
        options: Vec::new(),
    });
    Output::Transmit {
        after,
        home_address: request.home_address,
        accepted: status.is_accepted().then_some(request.sequence),
        via_care_of: request.reply_via,
        message: message.emit(),
    }
}
