//! Sequence numbers of 64 bits and wide replay windows, with packets.

use kagemusha::ipsec::{Class, Toward};

use super::{ARRIVES, Bench, QUIET};
use crate::failure::{Outcome, ensure};
use crate::scenario::Lab;
use crate::topology::{FOREIGN, TRANSIT};

/// So far below 2^32 sequence numbers begin.
const BELOW: u64 = 6;
/// Packets in one direction across 2^32.
const ACROSS: u32 = 12;
/// How much later than the others a packet comes: too late for a window of 32, not for one of 1024.
const LATE: usize = 600;

impl<'lab> Bench<'lab> {
    /// Both kernels with SAs of 64-bit sequence numbers that have come to shortly below 2^32, and replay windows of 1024 packets.
    pub(crate) fn shortly_below_32_bits(lab: &'lab Lab, class: Class) -> Outcome<Self> {
        Self::beginning_at(lab, class, "esn = true\nreplay_window = 1024\n", (1 << 32) - 1000 - BELOW)
    }

    /// Packets go on to be accepted when the 32 bits on the wire begin again, and those from before are not taken for new ones.
    pub(crate) fn crosses_32_bits(&self) -> Outcome {
        for toward in Toward::BOTH {
            self.lab.step(&format!("{toward}: across 2^32"));
            let link = if toward == Toward::HomeAgent { TRANSIT } else { FOREIGN };
            let before = self.right_passes(toward, link)?;
            let (cookie, first) = (self.cookie.get().to_be_bytes(), before.esp_sequence().unwrap_or_default());
            ensure(first.checked_add(ACROSS).is_none(), || format!("{toward}: began at {first:#x}, too far away"))?;
            for n in 1..=ACROSS {
                let next = self.right_passes(toward, FOREIGN)?.esp_sequence().unwrap_or_default();
                ensure(next == first.wrapping_add(n), || {
                    format!("{toward}: after {first:#x}, as number {n}: {next:#x}")
                })?;
            }
            let receiver = self.receiver(toward)?;
            self.inject(toward, vec![before.frame.clone()])?;
            ensure(!receiver.gets(cookie, QUIET)?, || {
                format!("{toward}: what was recorded before was accepted again")
            })?;
        }
        Ok(())
    }

    /// A packet that comes late, but within the window, is accepted, and once only.
    pub(crate) fn late_within_the_window(&self, toward: Toward) -> Outcome {
        self.lab.step(&format!("{toward}: {LATE} packets late"));
        let (cookie, frame) = self.held_up(toward)?;
        for _ in 0..LATE {
            self.send(toward)?;
        }
        self.right_passes(toward, FOREIGN)?;
        // Not earlier: so many would fill its buffer.
        let receiver = self.receiver(toward)?;
        self.inject(toward, vec![frame.clone()])?;
        ensure(receiver.gets(cookie, ARRIVES)?, || format!("{toward}: a late packet was not accepted"))?;
        self.inject(toward, vec![frame])?;
        ensure(!receiver.gets(cookie, QUIET)?, || format!("{toward}: the late packet was accepted twice"))
    }
}
