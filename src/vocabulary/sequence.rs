//! Binding update sequence numbers.

use std::fmt;

/// The sequence number of a binding update, compared modulo 2^16 (RFC 6275 §9.5.1).
///
/// Deliberately not `Ord`: a circular order has no minimum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SequenceNumber(pub u16);

impl SequenceNumber {
    /// The number that follows.
    pub fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }

    /// Whether `self` comes after `last`. RFC 6275 §9.5.1 counts `last` and the 32768 numbers before it as not newer,
    /// and the 32767 others as newer.
    pub fn is_newer_than(self, last: Self) -> bool {
        let ahead = self.0.wrapping_sub(last.0);
        ahead != 0 && ahead < 0x8000
    }
}

impl fmt::Display for SequenceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 6275 §9.5.1: after 15, 0 to 15 and 32783 to 65535 are not newer, and the rest are.
    #[test]
    fn the_example_of_the_rfc() {
        let last = SequenceNumber(15);
        for newer in [16, 17, 32782] {
            assert!(SequenceNumber(newer).is_newer_than(last), "{newer}");
        }
        for older in [0, 14, 15, 32783, 65535] {
            assert!(!SequenceNumber(older).is_newer_than(last), "{older}");
        }
        assert!(SequenceNumber(0).is_newer_than(SequenceNumber(65535)));
    }
}
