//! The limit on ICMPv6 errors (RFC 4443 §2.4(f)).

use std::time::{Duration, Instant};

use crate::vocabulary::GuestId;

/// A token bucket: `burst` at once, then one per `interval`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenBucket {
    interval: Duration,
    burst: u32,
    tokens: u32,
    /// When the bucket was last known to be as full as `tokens` says.
    filled: Option<Instant>,
}

impl TokenBucket {
    /// A full bucket. An interval of zero limits nothing.
    pub fn new(burst: u32, interval: Duration) -> Self {
        Self { interval, burst, tokens: burst, filled: None }
    }

    /// Takes a token, if there is one at `now`. A `now` before an earlier one adds nothing.
    pub fn take(&mut self, now: Instant) -> bool {
        if self.interval.is_zero() {
            return true;
        }
        let filled = *self.filled.get_or_insert(now);
        let earned = now.saturating_duration_since(filled).as_nanos() / self.interval.as_nanos();
        let missing = u128::from(self.burst - self.tokens);
        if earned >= missing {
            self.tokens = self.burst;
            self.filled = Some(now);
        } else {
            let earned = earned as u32; // below `missing`, which is a u32
            self.tokens += earned;
            self.filled = Some(filled + self.interval * earned);
        }
        let granted = self.tokens > 0;
        self.tokens -= u32::from(granted);
        granted
    }
}

/// One bucket per guest, so that one guest's errors never use up another's.
#[derive(Debug, Clone)]
pub struct ErrorLimits {
    burst: u32,
    interval: Duration,
    buckets: Vec<TokenBucket>,
}

impl Default for ErrorLimits {
    /// Ten at once, then one per 10 ms: the example of RFC 4443 §2.4(f) for a small device is an average of 10 per
    /// second with bursts of 10; path MTU discovery of many connections at once, right after a move, wants more.
    fn default() -> Self {
        Self::new(10, Duration::from_millis(10))
    }
}

impl ErrorLimits {
    /// Buckets of `burst` tokens that earn one per `interval`.
    pub fn new(burst: u32, interval: Duration) -> Self {
        Self { burst, interval, buckets: Vec::new() }
    }

    /// Whether an error about a packet of this guest may be sent at `now`; takes a token if so. Guests are numbered
    /// densely from 0, and there is a bucket for each number up to the highest that came.
    pub fn take(&mut self, guest: GuestId, now: Instant) -> bool {
        if self.buckets.len() <= guest.0 {
            self.buckets.resize(guest.0.saturating_add(1), TokenBucket::new(self.burst, self.interval));
        }
        self.buckets.get_mut(guest.0).is_some_and(|bucket| bucket.take(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_burst_then_the_rate() {
        let start = crate::tunnel::inspect::tests::start();
        let mut bucket = TokenBucket::new(3, Duration::from_millis(100));
        let at = |bucket: &mut TokenBucket, ms| bucket.take(start + Duration::from_millis(ms));
        assert_eq!([at(&mut bucket, 0), at(&mut bucket, 0), at(&mut bucket, 1)], [true; 3]);
        assert!(!at(&mut bucket, 99));
        assert!(at(&mut bucket, 100));
        assert!(!at(&mut bucket, 199));
        assert!(at(&mut bucket, 200) && !at(&mut bucket, 200));
        assert_eq!([0; 4].map(|_| at(&mut bucket, 100_000)), [true, true, true, false]);
    }

    #[test]
    fn guests_do_not_share() {
        let start = crate::tunnel::inspect::tests::start();
        let mut limits = ErrorLimits::new(1, Duration::from_secs(1));
        assert!(limits.take(GuestId(5), start) && !limits.take(GuestId(5), start));
        assert!(limits.take(GuestId(0), start));
    }

    proptest! {
        /// Over any series of moments, no more are granted than burst and rate allow.
        #[test]
        fn never_more_than_allowed(gaps in proptest::collection::vec(0u64..50, 1..200), burst in 1u32..5) {
            let start = crate::tunnel::inspect::tests::start();
            let mut bucket = TokenBucket::new(burst, Duration::from_millis(20));
            let (mut granted, mut at) = (0, 0);
            for gap in gaps {
                at += gap;
                granted += u64::from(bucket.take(start + Duration::from_millis(at)));
                prop_assert!(granted <= u64::from(burst) + at / 20);
            }
        }
    }
}
