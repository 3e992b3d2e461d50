//! When an event loop looks again at what the kernel holds: soon after others have changed something, and now and then anyway.

use std::time::{Duration, Instant};

use super::netlink::monitor::Change;

/// Everything is looked at this often, even when no notification came.
const SCAN_INTERVAL: Duration = Duration::from_secs(30);
/// ... and this long after the kernel refused something.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// When the next look is due. A *scan* looks at everything; a *look* at IPsec alone, which cannot wait as long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attention {
    next_scan: Instant,
    /// When the last look ended.
    looked: Instant,
    next_look: Option<Instant>,
}

impl Attention {
    /// A loop that begins now.
    pub fn new(now: Instant) -> Self {
        Self { next_scan: now + SCAN_INTERVAL, looked: now, next_look: None }
    }

    /// Others have changed something. Whoever goes on changing does not keep us looking all the time.
    pub fn changed(&mut self, change: Change, now: Instant) {
        match change {
            Change::Routing => self.scan_within(change.look_within(), now),
            Change::Ipsec => self.next_look = Some(now.max(self.looked + change.look_within())),
        }
    }

    /// A scan is due after `time` at the latest.
    pub fn scan_within(&mut self, time: Duration, now: Instant) {
        self.next_scan = self.next_scan.min(now + time);
    }

    /// The kernel has refused something.
    pub fn refused(&mut self, now: Instant) {
        self.scan_within(RETRY_INTERVAL, now);
    }

    /// When something is due next.
    pub fn deadline(&self) -> Instant {
        self.next_look.map_or(self.next_scan, |at| at.min(self.next_scan))
    }

    /// Whether a look is due. It is taken as done; [`Self::looked`] says when it ended.
    pub fn take_look(&mut self, now: Instant) -> bool {
        self.next_look.take_if(|at| *at <= now).is_some()
    }

    /// The look has ended.
    pub fn looked(&mut self, now: Instant) {
        self.looked = now;
    }

    /// Whether a scan is due. It is taken as done.
    pub fn take_scan(&mut self, now: Instant) -> bool {
        let due = now >= self.next_scan;
        if due {
            self.next_scan = now + SCAN_INTERVAL;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_looked_at_soon_and_never_all_the_time() {
        let start = crate::daemon::clock::now();
        let mut attention = Attention::new(start);
        let milliseconds = Duration::from_millis;
        assert_eq!(attention.deadline(), start + SCAN_INTERVAL);
        attention.changed(Change::Ipsec, start + milliseconds(100));
        assert_eq!(attention.deadline(), start + milliseconds(100), "at once after a quiet time");
        assert!(attention.take_look(start + milliseconds(100)));
        attention.looked(start + milliseconds(105));
        attention.changed(Change::Ipsec, start + milliseconds(106));
        assert!(!attention.take_look(start + milliseconds(110)), "a little after the last look");
        assert!(attention.take_look(start + milliseconds(125)) && !attention.take_look(start + milliseconds(126)));
    }

    #[test]
    fn scans_come_earlier_when_asked_for_and_again_by_themselves() {
        let start = crate::daemon::clock::now();
        let mut attention = Attention::new(start);
        attention.changed(Change::Routing, start);
        attention.refused(start);
        assert_eq!(attention.deadline(), start + Change::Routing.look_within());
        assert!(attention.take_scan(start + Duration::from_secs(2)));
        assert_eq!(attention.deadline(), start + Duration::from_secs(2) + SCAN_INTERVAL);
    }
}
