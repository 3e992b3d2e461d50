//! The few small values that every layer speaks of. No I/O, no dependencies on other layers.

mod lifetime;
mod link;
mod sequence;

pub use lifetime::Lifetime;
pub use link::{MacAddress, ParseVocabularyError, Prefix};
pub use sequence::SequenceNumber;

use std::fmt;

/// A guest of this daemon: its position in the policy file, from 0. Stable for the life of one loaded policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestId(pub usize);

impl fmt::Display for GuestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "guest#{}", self.0)
    }
}

/// A generation of kernel state. What the signaling engine wants sent carries the generation that must be in force
/// first; generations only grow, and `Applied(n)` covers every one up to `n`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Generation(pub u64);

impl Generation {
    /// The generation after this one.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "generation {}", self.0)
    }
}
