//! What the packet path counts.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::egress::Egress;
use super::ingress::{Forward, Ingress};
use super::reason::Reason;

/// Counters of one guest, or of one daemon. Shared between threads; each number is exact, a set of them is not a
/// snapshot.
#[derive(Debug)]
pub struct Counters {
    into_packets: AtomicU64,
    into_octets: AtomicU64,
    out_packets: AtomicU64,
    out_octets: AtomicU64,
    answers: AtomicU64,
    left_whole: AtomicU64,
    cut: AtomicU64,
    reasons: [AtomicU64; Reason::COUNT],
}

impl Default for Counters {
    fn default() -> Self {
        Self::new()
    }
}

impl Counters {
    /// All zero.
    pub const fn new() -> Self {
        Self {
            into_packets: AtomicU64::new(0),
            into_octets: AtomicU64::new(0),
            out_packets: AtomicU64::new(0),
            out_octets: AtomicU64::new(0),
            answers: AtomicU64::new(0),
            left_whole: AtomicU64::new(0),
            cut: AtomicU64::new(0),
            reasons: [const { AtomicU64::new(0) }; Reason::COUNT],
        }
    }

    /// Counts what became of a packet on its way into the tunnel.
    pub fn count_ingress(&self, ingress: &Ingress<'_>) {
        match ingress {
            Ingress::Forward(Forward { packet, .. }) | Ingress::ToKernel { packet, .. } => {
                self.into_packets.fetch_add(1, Relaxed);
                self.into_octets.fetch_add(packet.len() as u64, Relaxed);
            }
            Ingress::Answer { reason, .. } => {
                self.answers.fetch_add(1, Relaxed);
                self.count(*reason);
            }
            Ingress::Drop(reason) => self.count(*reason),
        }
    }

    /// Counts what became of a packet on its way out of the tunnel.
    pub fn count_egress<T>(&self, egress: &Egress<'_, T>) {
        match egress {
            Egress::Deliver(deliver) => {
                self.out_packets.fetch_add(1, Relaxed);
                self.out_octets.fetch_add(deliver.packet.len() as u64, Relaxed);
            }
            Egress::Drop(reason) => self.count(*reason),
        }
    }

    /// Counts a packet longer than the path takes that was handed to the kernel as it is, which encapsulates and cuts it.
    pub fn count_left_whole(&self) {
        self.left_whole.fetch_add(1, Relaxed);
    }

    /// Counts such a packet that was cut here.
    pub fn count_cut(&self) {
        self.cut.fetch_add(1, Relaxed);
    }

    /// Counts one packet not carried.
    pub fn count(&self, reason: Reason) {
        if let Some(counter) = self.reasons.get(reason.index()) {
            counter.fetch_add(1, Relaxed);
        }
    }

    /// Packets not carried for this reason.
    pub fn get(&self, reason: Reason) -> u64 {
        self.reasons.get(reason.index()).map_or(0, |counter| counter.load(Relaxed))
    }

    /// Packets sent into the tunnel.
    pub fn into_packets(&self) -> u64 {
        self.into_packets.load(Relaxed)
    }

    /// Octets of inner packets sent into the tunnel.
    pub fn into_octets(&self) -> u64 {
        self.into_octets.load(Relaxed)
    }

    /// Packets delivered out of the tunnel; a merged one counts once.
    pub fn out_packets(&self) -> u64 {
        self.out_packets.load(Relaxed)
    }

    /// Octets of inner packets delivered out of the tunnel.
    pub fn out_octets(&self) -> u64 {
        self.out_octets.load(Relaxed)
    }

    /// ICMPv6 errors given back.
    pub fn answers(&self) -> u64 {
        self.answers.load(Relaxed)
    }

    /// Of the packets sent into the tunnel, those that the kernel cut.
    pub fn left_whole(&self) -> u64 {
        self.left_whole.load(Relaxed)
    }

    /// Of the packets sent into the tunnel, those that were cut here.
    pub fn cut(&self) -> u64 {
        self.cut.load(Relaxed)
    }

    /// Every number with its stable name: packets and octets, then one per reason.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let totals = [
            ("into-tunnel-packets", self.into_packets()),
            ("into-tunnel-octets", self.into_octets()),
            ("out-of-tunnel-packets", self.out_packets()),
            ("out-of-tunnel-octets", self.out_octets()),
            ("icmp-errors", self.answers()),
            ("left-whole-for-the-kernel", self.left_whole()),
            ("cut-in-userland", self.cut()),
        ];
        totals.into_iter().chain(Reason::ALL.iter().map(|reason| (reason.name(), self.get(*reason))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_number() {
        let counters = Counters::new();
        for (n, reason) in Reason::ALL.iter().enumerate() {
            for _ in 0..=n {
                counters.count_ingress(&Ingress::Drop(*reason));
            }
        }
        for (n, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(counters.get(*reason), n as u64 + 1, "{reason}");
        }
        assert_eq!(counters.all().count(), 7 + Reason::COUNT);
    }
}
