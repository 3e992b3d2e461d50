//! Exponential back-off (RFC 6275 §11.8).

use std::time::Duration;

/// Waiting times that double from a first one up to a longest one and stay there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Backoff {
    following: Duration,
    longest: Duration,
}

impl Backoff {
    /// A back-off that starts with `first` and ends with `longest`.
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        Self { following: first.min(longest), longest }
    }

    /// The next waiting time.
    pub(crate) fn take(&mut self) -> Duration {
        let taken = self.following;
        self.following = taken.saturating_mul(2).min(self.longest);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_times_double_up_to_the_longest() {
        let mut backoff = Backoff::new(Duration::from_millis(1500), Duration::from_secs(32));
        let taken: Vec<u128> = (0..7).map(|_| backoff.take().as_millis()).collect();
        assert_eq!(taken, [1500, 3000, 6000, 12000, 24000, 32000, 32000]);
    }
}
