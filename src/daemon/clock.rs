//! The one place that reads the clock.

use std::time::{Duration, Instant, SystemTime};

/// Monotonic time now.
#[allow(clippy::disallowed_methods)]
pub fn now() -> Instant {
    Instant::now()
}

/// The time since 1970 by the wall clock, for what other hosts and people understand.
#[allow(clippy::disallowed_methods)]
pub fn wall_clock() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}
