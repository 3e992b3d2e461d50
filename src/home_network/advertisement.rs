//! When router advertisements are due.

use std::time::{Duration, Instant};

/// From the first unsolicited advertisement to the second, and from that to the third. RFC 4861 §6.2.4 wants the
/// first three at most 16 s apart and never closer than 3 s. There is one guest to each schedule, so nothing has to
/// be spread by chance.
const INITIAL: [Duration; 2] = [Duration::from_secs(4), Duration::from_secs(16)];

/// The shortest time between two unsolicited advertisements (`MIN_DELAY_BETWEEN_RAS`, RFC 4861 §10).
const MINIMUM_INTERVAL: Duration = Duration::from_secs(3);

/// The schedule of one guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// The guest is not attached: only solicitations are answered.
    Silent,
    /// The next one is due at `next`; `sent` of the first ones have gone.
    Advertising {
        /// When.
        next: Instant,
        /// How many have gone, up to three.
        sent: usize,
    },
}

impl Schedule {
    /// The schedule of a guest that came just now: the first one is due at once.
    pub fn start(now: Instant) -> Self {
        Self::Advertising { next: now, sent: 0 }
    }

    /// When the next one is due.
    pub fn next(&self) -> Option<Instant> {
        match self {
            Self::Silent => None,
            Self::Advertising { next, .. } => Some(*next),
        }
    }

    /// Whether one is due at `now`; the one after it is then scheduled, `interval` after `now` or sooner.
    pub fn take(&mut self, now: Instant, interval: Duration) -> bool {
        let Self::Advertising { next, sent } = self else { return false };
        if now < *next {
            return false;
        }
        let interval = interval.max(MINIMUM_INTERVAL);
        *next = now + INITIAL.get(*sent).copied().unwrap_or(interval).min(interval);
        *sent = (*sent + 1).min(INITIAL.len() + 1);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::home_network::tests::start;

    #[test]
    fn the_first_ones_are_faster() {
        let begin = start();
        let interval = Duration::from_secs(200);
        let mut schedule = Schedule::start(begin);
        let mut due = Vec::new();
        for _ in 0..5 {
            let next = schedule.next().unwrap();
            assert!(!schedule.take(next - Duration::from_millis(1), interval) || next == begin);
            assert!(schedule.take(next, interval));
            due.push((next - begin).as_secs());
        }
        assert_eq!(due, [0, 4, 20, 220, 420]);
    }

    #[test]
    fn never_more_often_than_every_three_seconds() {
        let begin = start();
        let mut schedule = Schedule::start(begin);
        assert!(schedule.take(begin, Duration::ZERO));
        assert_eq!(schedule.next(), Some(begin + MINIMUM_INTERVAL));
        assert!(!Schedule::Silent.take(begin, Duration::ZERO));
    }
}
