//! The network in between, and the shells' work of bringing kernel state into force: things that happen later.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use kagemusha::vocabulary::{Generation, GuestId};

use super::Random;

/// Something that happens later.
#[derive(Debug, Clone)]
pub enum Happening {
    /// A mobility header arrives at the home agent, from a care-of address.
    ToHomeAgent { care_of: Ipv6Addr, message: Vec<u8> },
    /// A mobility header arrives at whoever has the care-of address.
    ToCareOf { care_of: Ipv6Addr, message: Vec<u8> },
    /// A frame arrives on the home link.
    OnHomeLink(Vec<u8>),
    /// A host's kernel state is in force, or refused.
    HostSecured { host: usize, life: u32, guest: GuestId, generation: Generation, failed: bool },
    /// The home agent's kernel state is in force, or refused.
    HomeAgentSecured { life: u32, guest: GuestId, generation: Generation, failed: bool },
}

/// A network with its vices in percent.
#[derive(Debug)]
pub struct Network {
    pub loss: u64,
    pub duplication: u64,
    pub slowest: Duration,
    pub fastest: Duration,
    pub securing_failures: u64,
    /// Milliseconds that the kernel takes, exclusively; 0: none.
    pub slowest_securing: u64,
    /// How often someone answers the home agent's probes.
    pub answered_at_home: u64,
    random: Random,
    later: BTreeMap<(Instant, u64), Happening>,
    counter: u64,
}

impl Network {
    pub fn new(mut random: Random) -> Self {
        Self {
            loss: random.below(41),
            duplication: random.below(20),
            slowest: Duration::from_millis(1 + random.below(2_500)),
            fastest: Duration::from_millis(1),
            securing_failures: random.below(20),
            slowest_securing: 50,
            answered_at_home: random.below(30),
            random,
            later: BTreeMap::new(),
            counter: 0,
        }
    }

    /// From now on everything takes `milliseconds` and nothing goes wrong.
    pub fn perfect(&mut self, milliseconds: u64) {
        self.loss = 0;
        self.duplication = 0;
        self.securing_failures = 0;
        self.slowest_securing = 0;
        self.answered_at_home = 0;
        self.slowest = Duration::from_millis(milliseconds);
        self.fastest = self.slowest;
    }

    /// Sends a message: it may be lost, repeated, late, and overtaken.
    pub fn send(&mut self, happening: Happening, now: Instant) {
        let copies = if self.random.chance(self.duplication) { 1 + self.random.below(3) } else { 1 };
        for _ in 0..copies {
            if !self.random.chance(self.loss) {
                let spread = self.slowest.saturating_sub(self.fastest).as_millis() as u64;
                let delay = self.fastest + Duration::from_millis(self.random.below(spread + 1));
                self.at(now + delay, happening.clone());
            }
        }
    }

    /// What the kernel says to a generation.
    pub fn securing_fails(&mut self) -> bool {
        self.random.chance(self.securing_failures)
    }

    pub fn is_answered_at_home(&mut self) -> bool {
        self.random.chance(self.answered_at_home)
    }

    pub fn at(&mut self, when: Instant, happening: Happening) {
        self.counter += 1;
        self.later.insert((when, self.counter), happening);
    }

    pub fn next(&self) -> Option<Instant> {
        self.later.first_key_value().map(|((when, _), _)| *when)
    }

    pub fn take_due(&mut self, now: Instant) -> Option<Happening> {
        let entry = self.later.first_entry().filter(|entry| entry.key().0 <= now)?;
        Some(entry.remove())
    }
}
