//! The one place that reads the clock.

use std::time::Instant;

/// Monotonic time now.
#[allow(clippy::disallowed_methods)]
pub fn now() -> Instant {
    Instant::now()
}
