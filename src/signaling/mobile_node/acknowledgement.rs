//! Receiving binding acknowledgements (RFC 6275 §11.7.3).

use std::time::{Duration, Instant};

use super::output::{Binding, DiscardReason, Event, Outcome, StopReason};
use super::registration::{Context, Registration};
use super::state::State;
use crate::signaling::backoff::Backoff;
use crate::vocabulary::{Lifetime, SequenceNumber};
use crate::wire::mobility::{BindingAcknowledgement, MobilityOption, Status};

/// How far beyond the home agent's number the binding update that follows an adopted status 135 counts.
///
/// With a step of 1 the host that the guest has left would steal the binding back: its refreshes count up too, so after
/// one lost status 135 its next number would be newer than ours; and a number that both hosts have used cannot tell it
/// an echo of its own update from a takeover. With this distance the new host is out of the old one's reach for
/// hundreds of unanswered transmissions (hours), and any 135 that the old one gets is beyond what it has ever sent.
/// What remains is a new host that needs no 135 because its stored number happens to be one or two beyond the old one's.
pub const TAKEOVER_DISTANCE: u16 = 512;
/// A first registration that was sent more than once and accepted without a status 135 may have got just beyond the old
/// host's number. It is confirmed at once by a refresh this far ahead. Less than the takeover distance, so that a
/// confirmation under way is not mistaken for the next host's first number.
pub const CONFIRMATION_DISTANCE: u16 = 128;

/// Enough for three transmissions of a refresh before the binding ends (1, 2 and 4 s).
const REFRESH_MARGIN: Duration = Duration::from_secs(7);
/// The pause after a refusal that time does not heal.
const SLOW_RETRY: Duration = Duration::from_secs(60);

/// When to refresh a binding of `lifetime` that began at `since`: at 95 % of it, but with at least 7 s left for
/// retransmissions, and not before half of it (lifetimes of a few seconds).
fn refresh_at(since: Instant, lifetime: Duration) -> Instant {
    since + (lifetime - (lifetime / 20).max(REFRESH_MARGIN).min(lifetime / 2))
}

/// The pauses between attempts after a refusal. Also a permanent-looking one is tried again, slowly: home agents get
/// configured, and a guest that stays dark for ever because its home agent was started later helps no one.
///
/// | status | pause |
/// |---|---|
/// | 128 reason unspecified, 130 insufficient resources | 2 s, doubling to 32 s |
/// | 134 duplicate address detection failed: the guest's old host, or someone else, still answers at home | 1 s, doubling to 32 s |
/// | all others (129, 131, 132, 133, 139, unknown ones) | 60 s |
fn pauses_after(status: Status) -> Backoff {
    let longest = Duration::from_secs(32);
    match status {
        Status::REASON_UNSPECIFIED | Status::INSUFFICIENT_RESOURCES => Backoff::new(Duration::from_secs(2), longest),
        Status::DUPLICATE_ADDRESS_DETECTION_FAILED => Backoff::new(Duration::from_secs(1), longest),
        _ => Backoff::new(SLOW_RETRY, SLOW_RETRY),
    }
}

impl Registration {
    /// A binding acknowledgement from the home agent to the home address.
    pub(super) fn acknowledged(
        &mut self,
        acknowledgement: &BindingAcknowledgement,
        ctx: &mut Context<'_>,
    ) -> Result<(), DiscardReason> {
        let exchange = self.state.exchange().ok_or(DiscardReason::NothingOutstanding)?;
        let newest = exchange.newest().ok_or(DiscardReason::NothingOutstanding)?;
        if acknowledgement.status == Status::SEQUENCE_NUMBER_OUT_OF_WINDOW {
            return self.out_of_window(acknowledgement.sequence, newest, ctx);
        }
        let sent_at = exchange.sent_at(acknowledgement.sequence).ok_or(DiscardReason::SequenceMismatch)?;
        if acknowledgement.status.is_accepted() {
            ctx.counters.accepted += 1;
            self.accept(acknowledgement, sent_at, ctx)
        } else {
            ctx.counters.refused += 1;
            self.refuse(acknowledgement.status, ctx);
            Ok(())
        }
    }

    /// Status 135 carries the home agent's last accepted number instead of ours.
    fn out_of_window(
        &mut self,
        last_accepted: SequenceNumber,
        newest: SequenceNumber,
        ctx: &mut Context<'_>,
    ) -> Result<(), DiscardReason> {
        let beyond = last_accepted.is_newer_than(newest);
        let first = !self.accepted && (!self.state.is_deregistering() || self.is_returning());
        if first && (beyond || last_accepted == newest) {
            // The first registration of this host: whoever registered before us is the host that the guest came from.
            // A number equal to ours can also be the echo of a duplicate; half the distance is still beyond a
            // confirmation of the old host that is under way, and within the next host's reach.
            let distance = if beyond { TAKEOVER_DISTANCE } else { TAKEOVER_DISTANCE / 2 };
            self.sequence = SequenceNumber(last_accepted.0.wrapping_add(distance - 1));
            self.adopted = true;
            let first_timeout = self.first_timeout(ctx.now);
            if let Some(exchange) = self.state.exchange_mut() {
                exchange.hurry(first_timeout, ctx.now);
            }
            ctx.counters.refused += 1;
            self.event(Event::SequenceAdopted { last_accepted }, ctx);
            Ok(())
        } else if beyond {
            ctx.counters.refused += 1;
            self.stop(StopReason::TakenOver { last_accepted }, ctx);
            Ok(())
        } else {
            // The number is one of ours: the home agent has seen a duplicate, or an older update after a newer one.
            // What is outstanding is retransmitted with a newer number in any case.
            Err(DiscardReason::StaleOutOfWindow)
        }
    }

    fn accept(
        &mut self,
        acknowledgement: &BindingAcknowledgement,
        sent_at: Instant,
        ctx: &mut Context<'_>,
    ) -> Result<(), DiscardReason> {
        let Some(exchange) = self.state.exchange() else { return Err(DiscardReason::NothingOutstanding) };
        if exchange.lifetime.is_zero() {
            self.finish(Outcome::Acknowledged, ctx);
            return Ok(());
        }
        let (care_of, generation) = (exchange.care_of, exchange.generation);
        let lifetime = acknowledgement.lifetime.min(exchange.lifetime);
        let unconfirmed = !self.accepted && !self.adopted && self.sent > 1;
        self.accepted = true;
        if lifetime.is_zero() {
            self.refuse(acknowledgement.status, ctx);
            return Ok(());
        }
        // RFC 6275 §11.7.3 counts the lifetime from the sending of the update, so we are the first to think it over.
        let expires = sent_at + lifetime.as_duration();
        if expires <= ctx.now {
            return Err(DiscardReason::AlreadyExpired);
        }
        let binding = Binding { care_of, home_agent: self.config.home_agent, expires };
        let refresh_at = match refresh_advice(acknowledgement, lifetime) {
            Some(advice) => refresh_at(sent_at, lifetime.as_duration()).min(sent_at + advice),
            None => refresh_at(sent_at, lifetime.as_duration()),
        };
        let refresh_at = if unconfirmed { ctx.now } else { refresh_at };
        self.leap = unconfirmed;
        let refreshed = matches!(self.state, State::Refreshing { .. });
        self.refusal = None;
        self.registered_until = Some(expires);
        self.state = State::Bound { binding, generation, refresh_at };
        let event = if refreshed { Event::Refreshed { lifetime } } else { Event::Registered { care_of, lifetime } };
        self.event(event, ctx);
        if acknowledgement.status == Status::ACCEPTED_PREFIX_DISCOVERY_NECESSARY {
            self.event(Event::PrefixDiscoveryNecessary, ctx);
        }
        Ok(())
    }

    /// The update was refused; a binding that there was before stays until its lifetime ends.
    fn refuse(&mut self, status: Status, ctx: &mut Context<'_>) {
        let Some(exchange) = self.state.exchange() else { return };
        if exchange.lifetime.is_zero() {
            let outcome = match status {
                Status::NOT_HOME_AGENT_FOR_THIS_MOBILE_NODE => Outcome::NoBinding,
                status => Outcome::Refused(status),
            };
            self.finish(outcome, ctx);
            return;
        }
        let (care_of, generation, held) = (exchange.care_of, exchange.generation, self.state.binding());
        let mut pauses = match self.refusal.take() {
            Some((before, pauses)) if before == status => pauses,
            _ => pauses_after(status),
        };
        let retry_at = ctx.now + pauses.take();
        self.refusal = Some((status, pauses));
        self.state = State::Refused { care_of, generation, status, retry_at, held };
        self.event(Event::Refused { status, retry_at }, ctx);
    }
}

/// The refresh interval of the binding refresh advice option, where it is shorter than the lifetime, as it must be
/// (RFC 6275 §6.2.4).
fn refresh_advice(acknowledgement: &BindingAcknowledgement, lifetime: Lifetime) -> Option<Duration> {
    acknowledgement.options.iter().find_map(|option| match option {
        MobilityOption::BindingRefreshAdvice(units) if *units > 0 && Lifetime(*units) < lifetime => {
            Some(Lifetime(*units).as_duration())
        }
        _ => None,
    })
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "an Instant to count from")]
mod tests {
    use super::*;

    #[test]
    fn refresh_leaves_time_for_retransmissions_whatever_the_lifetime() {
        let start = Instant::now();
        for (lifetime, refresh) in [(4, 2), (8, 4), (16, 9), (60, 53), (600, 570), (65_535 * 4, 249_033)] {
            let at = refresh_at(start, Duration::from_secs(lifetime));
            assert_eq!(at.duration_since(start), Duration::from_secs(refresh), "{lifetime} s");
        }
    }

    #[test]
    fn only_refusals_that_time_heals_are_tried_again_soon() {
        for (status, first) in [(128, 2), (130, 2), (134, 1), (129, 60), (131, 60), (132, 60), (133, 60), (139, 60)] {
            assert_eq!(pauses_after(Status(status)).take(), Duration::from_secs(first), "status {status}");
        }
    }
}
