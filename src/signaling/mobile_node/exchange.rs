//! One binding update and its retransmissions, until it is acknowledged: the outstanding entry of the binding update
//! list (RFC 6275 §11.1).

use std::collections::VecDeque;
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use crate::signaling::backoff::Backoff;
use crate::vocabulary::{Generation, Lifetime, SequenceNumber};

/// INITIAL_BINDACK_TIMEOUT (RFC 6275 §12).
pub const INITIAL_BINDACK_TIMEOUT: Duration = Duration::from_secs(1);
/// InitialBindackTimeoutFirstReg (RFC 6275 §13): while there is no binding the home agent first does duplicate
/// address detection, which takes a second.
pub const INITIAL_BINDACK_TIMEOUT_FIRST_REGISTRATION: Duration = Duration::from_millis(1500);
/// MAX_BINDACK_TIMEOUT (RFC 6275 §12). Retransmission goes on at this rate without end (RFC 6275 §11.8).
pub const MAX_BINDACK_TIMEOUT: Duration = Duration::from_secs(32);

/// Transmissions that are remembered. Older ones are not acknowledged any more: at the final rate this is minutes ago.
const REMEMBERED: usize = 16;

/// A binding update that is being sent until it is acknowledged.
///
/// Every retransmission has a new sequence number (RFC 6275 §11.8), and an acknowledgement counts when it answers *any*
/// transmission of the same care-of address and lifetime: a home agent busy with duplicate address detection may
/// ignore retransmissions and answer the first sequence number when it is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Exchange {
    /// The care-of address that is registered (or de-registered).
    pub care_of: Ipv6Addr,
    /// The generation of kernel state that it needs.
    pub generation: Generation,
    /// The lifetime asked for; zero for de-registration.
    pub lifetime: Lifetime,
    /// When the next transmission is due.
    pub next: Instant,
    /// Transmissions so far.
    pub attempts: u32,
    outstanding: VecDeque<(SequenceNumber, Instant)>,
    backoff: Backoff,
}

impl Exchange {
    /// An exchange whose first transmission is due at once. `first_timeout` is the first retransmission timer.
    pub(super) fn new(
        care_of: Ipv6Addr,
        generation: Generation,
        lifetime: Lifetime,
        first_timeout: Duration,
        now: Instant,
    ) -> Self {
        let backoff = Backoff::new(first_timeout, MAX_BINDACK_TIMEOUT);
        Self { care_of, generation, lifetime, next: now, attempts: 0, outstanding: VecDeque::new(), backoff }
    }

    /// A transmission with `sequence` leaves now.
    pub(super) fn sent(&mut self, sequence: SequenceNumber, now: Instant) {
        if self.outstanding.len() == REMEMBERED {
            self.outstanding.pop_front();
        }
        self.outstanding.push_back((sequence, now));
        self.attempts = self.attempts.saturating_add(1);
        self.next = now + self.backoff.take();
    }

    /// Sends again at once with a fresh back-off.
    pub(super) fn hurry(&mut self, first_timeout: Duration, now: Instant) {
        self.next = now;
        self.backoff = Backoff::new(first_timeout, MAX_BINDACK_TIMEOUT);
    }

    /// When the transmission with `sequence` left, if it is outstanding.
    pub(super) fn sent_at(&self, sequence: SequenceNumber) -> Option<Instant> {
        self.outstanding.iter().find(|(s, _)| *s == sequence).map(|(_, at)| *at)
    }

    /// The newest sequence number outstanding.
    pub(super) fn newest(&self) -> Option<SequenceNumber> {
        self.outstanding.back().map(|(sequence, _)| *sequence)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "an Instant to count from")]
mod tests {
    use super::*;

    #[test]
    fn old_transmissions_are_forgotten() {
        let now = Instant::now();
        let mut exchange = Exchange::new(Ipv6Addr::LOCALHOST, Generation(1), Lifetime(1), INITIAL_BINDACK_TIMEOUT, now);
        for n in 1..=20 {
            exchange.sent(SequenceNumber(n), now);
        }
        assert_eq!(exchange.sent_at(SequenceNumber(4)), None);
        assert_eq!(exchange.sent_at(SequenceNumber(5)), Some(now));
        assert_eq!(exchange.newest(), Some(SequenceNumber(20)));
        assert_eq!(exchange.attempts, 20);
    }
}
