//! Packets of a guest that are kept while a hand-over leaves it without a tunnel, and sent in order when there is one again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::vocabulary::GuestId;

/// What is kept at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Packets of one guest.
    pub packets: usize,
    /// Octets of one guest.
    pub octets: usize,
    /// How long from the first packet on; then the hand-over is taken as failed, and everything is given up.
    pub time: Duration,
}

impl Default for Bounds {
    /// 64 packets, 128 KiB, 2 s: a registration with one retransmission.
    fn default() -> Self {
        Self { packets: 64, octets: 128 << 10, time: Duration::from_secs(2) }
    }
}

#[derive(Debug)]
struct Held<P> {
    guest: GuestId,
    since: Instant,
    /// Whether the time is over: what comes is not kept any more.
    over: bool,
    octets: usize,
    packets: VecDeque<P>,
}

/// The queues of the guests of one port. `P` is a packet with all that is needed to send it.
#[derive(Debug)]
pub struct HoldQueue<P> {
    bounds: Bounds,
    held: Vec<Held<P>>,
}

impl<P> HoldQueue<P> {
    /// Empty queues.
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, held: Vec::new() }
    }

    /// Keeps a packet of `octets` of a guest; gives it back when it cannot be kept.
    ///
    /// # Errors
    /// The packet.
    pub fn push(&mut self, guest: GuestId, packet: P, octets: usize, now: Instant) -> Result<(), P> {
        let position = match self.held.iter().position(|held| held.guest == guest) {
            Some(position) => position,
            None => {
                self.held.push(Held { guest, since: now, over: false, octets: 0, packets: VecDeque::new() });
                self.held.len() - 1
            }
        };
        let bounds = self.bounds;
        match self.held.get_mut(position) {
            Some(held)
                if !held.over && held.packets.len() < bounds.packets && held.octets + octets <= bounds.octets =>
            {
                held.octets += octets;
                held.packets.push_back(packet);
                Ok(())
            }
            _ => Err(packet),
        }
    }

    /// The packets of a guest that has a tunnel again, in the order they came; its time begins anew.
    pub fn release(&mut self, guest: GuestId) -> VecDeque<P> {
        match self.held.iter().position(|held| held.guest == guest) {
            Some(position) => self.held.swap_remove(position).packets,
            None => VecDeque::new(),
        }
    }

    /// Gives up what was kept for too long, and says how many packets each guest has lost by it.
    pub fn expire(&mut self, now: Instant) -> Vec<(GuestId, usize)> {
        let time = self.bounds.time;
        let late = self.held.iter_mut().filter(|held| !held.over && now.saturating_duration_since(held.since) >= time);
        late.map(|held| {
            (held.over, held.octets) = (true, 0);
            (held.guest, std::mem::take(&mut held.packets).len())
        })
        .collect()
    }

    /// Whether a guest waits for a tunnel: its queue must be looked at.
    pub fn is_waiting(&self) -> bool {
        self.held.iter().any(|held| !held.over)
    }

    /// The guests with a queue, also one whose time is over.
    pub fn guests(&self) -> impl Iterator<Item = GuestId> + '_ {
        self.held.iter().map(|held| held.guest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { packets: 3, octets: 100, time: Duration::from_secs(1) };

    #[test]
    fn what_is_held_comes_out_in_order_and_within_bounds() {
        let start = crate::tunnel::inspect::tests::start();
        let mut queue = HoldQueue::new(BOUNDS);
        let (one, other) = (GuestId(1), GuestId(2));
        for n in 0..3 {
            assert_eq!(queue.push(one, n, 30, start), Ok(()));
        }
        assert_eq!(queue.push(one, 3, 1, start), Err(3), "a fourth packet");
        assert_eq!(queue.push(other, 4, 101, start), Err(4), "too many octets");
        assert_eq!(queue.push(other, 5, 100, start), Ok(()));
        assert!(queue.is_waiting());
        assert_eq!(queue.release(one), [0, 1, 2]);
        assert!(queue.release(one).is_empty());
        assert_eq!(queue.release(other), [5]);
        assert!(!queue.is_waiting());
    }

    #[test]
    fn time_is_bounded_from_the_first_packet_on() {
        let start = crate::tunnel::inspect::tests::start();
        let at = |ms| start + Duration::from_millis(ms);
        let mut queue = HoldQueue::new(BOUNDS);
        let guest = GuestId(0);
        assert_eq!(queue.push(guest, 1, 1, at(0)), Ok(()));
        assert_eq!(queue.push(guest, 2, 1, at(900)), Ok(()));
        assert_eq!(queue.expire(at(999)), []);
        assert_eq!(queue.expire(at(1000)), [(guest, 2)]);
        assert_eq!(queue.push(guest, 3, 1, at(1001)), Err(3), "until there was a tunnel again");
        assert!(!queue.is_waiting() && queue.guests().eq([guest]));
        assert!(queue.release(guest).is_empty());
        assert_eq!(queue.push(guest, 4, 1, at(1002)), Ok(()));
    }
}
