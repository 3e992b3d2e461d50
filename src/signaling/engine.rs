//! What both engines share: generations of kernel state, and the index of timers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crate::vocabulary::{Generation, GuestId};

/// Gives out generations and knows which are in force.
#[derive(Debug, Default)]
pub(crate) struct Generations {
    newest: Generation,
    applied: Generation,
}

impl Generations {
    /// A generation that no one has seen before.
    pub(crate) fn allocate(&mut self) -> Generation {
        self.newest = self.newest.next();
        self.newest
    }

    /// Every generation up to `generation` is in force. One that was never given out counts as the newest one.
    pub(crate) fn apply(&mut self, generation: Generation) {
        self.applied = self.applied.max(generation.min(self.newest));
    }

    /// Whether `generation` is in force.
    pub(crate) fn is_applied(&self, generation: Generation) -> bool {
        generation <= self.applied
    }

    /// The newest generation in force.
    pub(crate) fn applied(&self) -> Generation {
        self.applied
    }
}

/// One deadline per guest, the earliest first.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    queue: BTreeSet<(Instant, GuestId)>,
    deadlines: BTreeMap<GuestId, (Instant, &'static str)>,
}

impl Timers {
    /// Sets or clears the deadline of `guest`.
    pub(crate) fn set(&mut self, guest: GuestId, deadline: Option<(Instant, &'static str)>) {
        if let Some((old, _)) = self.deadlines.remove(&guest) {
            self.queue.remove(&(old, guest));
        }
        if let Some((at, why)) = deadline {
            self.queue.insert((at, guest));
            self.deadlines.insert(guest, (at, why));
        }
    }

    /// The earliest deadline and what it is for.
    pub(crate) fn earliest(&self) -> Option<(Instant, &'static str)> {
        let (_, guest) = self.queue.first()?;
        self.deadlines.get(guest).copied()
    }

    /// The guests whose deadline is not after `now`.
    pub(crate) fn due(&self, now: Instant) -> Vec<GuestId> {
        self.queue.iter().take_while(|(at, _)| *at <= now).map(|(_, guest)| *guest).collect()
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "an Instant to count from")]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_generation_never_given_out_does_not_open_the_fence_for_later_ones() {
        let mut generations = Generations::default();
        generations.apply(Generation(99));
        let first = generations.allocate();
        assert!(!generations.is_applied(first));
        generations.apply(first);
        assert!(generations.is_applied(first));
    }

    #[test]
    fn the_earliest_deadline_wins_and_is_replaced() {
        let start = Instant::now();
        let after = |s| start + Duration::from_secs(s);
        let mut timers = Timers::default();
        timers.set(GuestId(1), Some((after(5), "five")));
        timers.set(GuestId(2), Some((after(3), "three")));
        assert_eq!(timers.earliest(), Some((after(3), "three")));
        assert_eq!(timers.due(after(5)), [GuestId(2), GuestId(1)]);
        timers.set(GuestId(2), None);
        assert_eq!(timers.earliest(), Some((after(5), "five")));
        assert!(timers.due(after(4)).is_empty());
    }
}
