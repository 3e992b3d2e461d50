//! ESP sequence numbers from the wall clock: where an SA starts that other hosts have used before this one.
//!
//! Two hosts that hold the same to-home-agent SA share one counter, and the home agent's anti-replay window (RFC 4303 §3.4.3) refuses whatever
//! is not beyond the highest number it has seen. A host that takes a guest over without hearing from its predecessor therefore has to start
//! above anything that the predecessor can have used. The clock tells such a number: [`RATE`] numbers pass in each second since [`EPOCH`].
//!
//! * **Why this is above.** A host raises its counter to the clock when it attaches a guest, and then uses at most 3 numbers per second (the
//!   rate limit of RFC 6275 §12), in the mean one in some minutes, while the clock's number grows by 16. So from the attachment on a host
//!   falls behind the clock, and a host that attaches later starts above it.
//! * **How the predecessor learns it.** Its next binding update is a replay now, and nobody answers. So it raises its counter as well when it has to
//!   repeat one: that is heard, and answered by status 135 (RFC 6275 §11.7.3). After that the successor is behind, and repeats its next refresh
//!   once in its turn, in good time before its binding ends.
//! * **Clock skew.** The successor's clock may be behind the predecessor's by four fifths of the time that the guest was attached there. With
//!   clocks kept by NTP that is every stay of more than a moment. Where it is not enough, the home agent drops binding updates in silence,
//!   until the clock has passed: retransmissions use numbers of their own, but fewer than 16 in a second. `kagemusha sa export` and `import`
//!   do without a clock.
//! * **Crashes.** What is reserved ahead of use ([`super::sequences::RESERVE`]) and lost with a crash is 16 s of the clock.
//! * **32 bits** last until May 2034 ([`LIMIT`]); then the clock adds nothing, and hosts that share an SA need new keys, as they do long before.
//! * **Never backwards.** The clock only raises numbers. What the store has counts as well, whatever the clock says; and a store that was lost
//!   or restored from a backup repeats no number as long as the clock is right.
//! * **Signaling only.** An SA that carries data would outrun the clock. Its numbers belong to one host, see [`super::sequences`].

use std::time::Duration;

use crate::vocabulary::SequenceNumber;

/// Numbers in a second.
pub const RATE: u64 = 16;
/// Where the clock's numbers begin, in seconds since 1970: 2026-01-01.
pub const EPOCH: u64 = 1_767_225_600;
/// The last number the clock gives: it leaves 2^26 for use after that.
pub const LIMIT: u32 = u32::MAX - (1 << 26);

/// The number that the clock has come to. `wall_clock` is the time since 1970; before [`EPOCH`] it gives 0.
pub fn floor(wall_clock: Duration) -> u32 {
    let seconds = wall_clock.as_secs().saturating_sub(EPOCH);
    let fraction = if wall_clock.as_secs() < EPOCH { 0 } else { u64::from(wall_clock.subsec_millis()) * RATE / 1000 };
    let number = seconds.saturating_mul(RATE).saturating_add(fraction);
    u32::try_from(number).unwrap_or(LIMIT).min(LIMIT)
}

/// The sequence number of binding updates that the clock has come to, modulo 2^16: what a host attaches a guest with. It is beyond what other
/// hosts have used for the guest, and so spares the round trip of a status 135; where it is not, the home agent says so and all is as without a
/// clock.
///
/// As above, [`RATE`] numbers pass in a second, and a host that was left counts on from its own attachment, so that it stays behind. A
/// home agent takes a number as newer up to 32767 ahead of the last (RFC 6275 §9.5.1), and that may be as old as the binding: for `lifetime`s
/// beyond 17 minutes the numbers pass more slowly. All hosts of a guest have the same lifetime in their policies.
pub fn binding_sequence(wall_clock: Duration, lifetime: Duration) -> SequenceNumber {
    /// Half of what counts as newer, so that clocks and refreshes have room.
    const REACH: u64 = 1 << 14;
    let mut divisor = 1;
    while lifetime.as_secs() * RATE / divisor > REACH {
        divisor *= 2;
    }
    let ticks = u64::try_from(wall_clock.as_millis()).unwrap_or(u64::MAX) / 1000 * RATE
        + u64::from(wall_clock.subsec_millis()) * RATE / 1000;
    SequenceNumber(((ticks / divisor) & 0xffff) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_clock_is_beyond_what_a_binding_of_any_lifetime_was_made_with() {
        for lifetime in [4, 600, 1024, 1025, 3600, 86_400, 262_140] {
            let lifetime = Duration::from_secs(lifetime);
            let begin = Duration::from_secs(EPOCH + 12_345);
            let first = binding_sequence(begin, lifetime);
            let last = binding_sequence(begin + lifetime, lifetime);
            assert!(last.is_newer_than(first) || last == first, "{lifetime:?}: {first} {last}");
        }
    }

    #[test]
    fn it_begins_with_2026_and_ends_in_may_2034() {
        let at = |seconds| floor(Duration::from_secs(seconds));
        assert_eq!((at(0), at(EPOCH), at(EPOCH + 1)), (0, 0, 16));
        assert_eq!(floor(Duration::from_millis(EPOCH * 1000 + 500)), 8);
        const FIRST_OF_MAY: u64 = 2_030_054_400;
        const FIRST_OF_JUNE: u64 = 2_032_732_800;
        assert!(at(FIRST_OF_MAY) < LIMIT);
        assert_eq!((at(FIRST_OF_JUNE), at(u64::MAX)), (LIMIT, LIMIT));
    }

    proptest! {
        /// The old host attaches, and then refreshes all the time; a host that attaches seconds later is beyond it.
        #[test]
        fn a_successor_is_beyond_its_predecessor(
            start in EPOCH..EPOCH + 200_000_000,
            stay in 1u64..600,
            updates_in_ten_seconds in 0u64..=10,
        ) {
            let lifetime = Duration::from_secs(600);
            let first = binding_sequence(Duration::from_secs(start), lifetime);
            let used = 1 + stay * updates_in_ten_seconds / 10;
            let predecessor = SequenceNumber(first.0.wrapping_add(u16::try_from(used).unwrap()));
            let successor = binding_sequence(Duration::from_secs(start + stay), lifetime);
            prop_assert!(successor.next().is_newer_than(predecessor));
        }

        /// A host attaches, uses numbers at the highest rate, and is followed by another whose clock is behind by less than the stay: the
        /// successor's first number is beyond all of them.
        #[test]
        fn a_successor_starts_above_its_predecessor(
            start in EPOCH..EPOCH + 200_000_000,
            stay in 2u64..100_000,
            rate in 0u64..=3,
            behind in 0.0f64..0.8,
        ) {
            let predecessor = u64::from(floor(Duration::from_secs(start))) + stay * rate;
            let successor = Duration::from_secs(start + stay).saturating_sub(Duration::from_secs_f64(stay as f64 * behind));
            prop_assert!(u64::from(floor(successor)) + 1 > predecessor);
        }
    }
}
