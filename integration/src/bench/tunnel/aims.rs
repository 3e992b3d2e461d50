//! What is aimed at, beside what was measured.

use super::report::Report;
use super::stats;
use super::variant::{Setting, Variant};

/// One aim.
pub(super) struct Aim {
    pub(super) what: String,
    pub(super) limit: Limit,
    /// `None`: not measured in this run.
    pub(super) measured: Option<f64>,
    pub(super) unit: &'static str,
}

/// On which side of a number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Limit {
    AtLeast(f64),
    AtMost(f64),
}

impl Aim {
    /// `None`: not measured.
    pub(super) fn met(&self) -> Option<bool> {
        self.measured.map(|measured| match self.limit {
            Limit::AtLeast(limit) => measured >= limit,
            Limit::AtMost(limit) => measured <= limit,
        })
    }
}

/// A tier with its aims: throughput and CPU per GB beside VXLAN, microseconds for a traversal of one end.
const TIERS: [(Variant, f64, f64, Option<f64>); 3] = [
    (Variant::Portable, 0.45, 2.5, Some(10.0)),
    (Variant::SuperPacket, 1.1, 1.0, Some(12.0)),
    (Variant::Ebpf, 1.4, 0.75, Some(1.0)),
];

/// All of them, in order.
pub(super) fn all(report: &Report) -> Vec<Aim> {
    let mut aims = vec![];
    let samples = &report.samples;
    for (variant, throughput, cpu, latency) in TIERS {
        let name = variant.name();
        let ratio = |of| stats::ratio(samples, Setting::MAIN, variant, Variant::Vxlan, of).map(|range| range.median);
        let mut aim = |what: String, limit, measured, unit| aims.push(Aim { what, limit, measured, unit });
        aim(format!("{name}: throughput ÷ VXLAN"), Limit::AtLeast(throughput), ratio(|s| s.one_stream.gigabits), "");
        aim(format!("{name}: CPU per GB ÷ VXLAN"), Limit::AtMost(cpu), ratio(|s| s.one_stream.cpu_per_gigabyte), "");
        aim(format!("{name}: small packets ÷ VXLAN"), Limit::AtLeast(2.0), ratio(|s| s.small_packets), "");
        if let Some(limit) = latency {
            // One way leads through both ends.
            let added = stats::added_latency(samples, Setting::MAIN, variant).map(|range| range.median / 2.0);
            aim(format!("{name}: added latency, a traversal of one end"), Limit::AtMost(limit), added, "µs");
        }
        aim(format!("{name}: jitter ÷ VXLAN"), Limit::AtMost(1.0), ratio(|s| s.jitter), "");
        let memory = report.memory.iter().find(|memory| memory.variant == variant);
        let idle = memory.map(|memory| (memory.idle.0 + memory.idle.1) as f64);
        aim(format!("{name}: resident memory, one guest, idle"), Limit::AtMost(1536.0), idle, "kB");
        let growth = memory.map(|memory| memory.after.0 as f64 - memory.idle.0 as f64);
        let carried = memory.map_or(0.0, |memory| memory.carried as f64 / 1e9);
        aim(format!("{name}: growth of its own memory after {carried:.1} GB"), Limit::AtMost(64.0), growth, "kB");
        let each = memory.map(|memory| memory.each_guest);
        aim(format!("{name}: each further guest"), Limit::AtMost(32.0), each, "kB");
    }
    aims
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_aim_is_met_from_its_side() {
        let aim = |limit, measured| Aim { what: String::new(), limit, measured, unit: "" };
        assert_eq!(aim(Limit::AtLeast(1.0), Some(1.0)).met(), Some(true));
        assert_eq!(aim(Limit::AtLeast(1.0), Some(0.9)).met(), Some(false));
        assert_eq!(aim(Limit::AtMost(1.0), Some(0.9)).met(), Some(true));
        assert_eq!(aim(Limit::AtMost(1.0), Some(1.1)).met(), Some(false));
        assert_eq!(aim(Limit::AtMost(1.0), None).met(), None);
    }
}
