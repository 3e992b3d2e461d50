//! Binding lifetimes in the unit of the wire.

use std::fmt;
use std::time::Duration;

/// A lifetime as binding updates and acknowledgements carry it: 16 bits in units of 4 seconds (RFC 6275 §6.1.7).
/// Zero asks for the binding to be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lifetime(pub u16);

impl Lifetime {
    /// Delete the binding.
    pub const ZERO: Self = Self(0);
    /// Seconds in one unit.
    pub const UNIT_SECONDS: u64 = 4;

    /// The longest lifetime not above `duration`; durations beyond 65535 units are cut to that.
    pub fn from_duration(duration: Duration) -> Self {
        Self(u16::try_from(duration.as_secs() / Self::UNIT_SECONDS).unwrap_or(u16::MAX))
    }

    /// The duration this lifetime stands for.
    pub fn as_duration(self) -> Duration {
        Duration::from_secs(u64::from(self.0) * Self::UNIT_SECONDS)
    }

    /// Whether this lifetime asks for deletion.
    pub fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Lifetime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s", self.as_duration().as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_four_seconds_rounded_down() {
        assert_eq!(Lifetime::from_duration(Duration::from_secs(603)), Lifetime(150));
        assert_eq!(Lifetime(150).as_duration(), Duration::from_secs(600));
        assert_eq!(Lifetime::from_duration(Duration::from_secs(3)), Lifetime::ZERO);
        assert_eq!(Lifetime::from_duration(Duration::from_secs(u64::MAX)), Lifetime(u16::MAX));
    }
}
