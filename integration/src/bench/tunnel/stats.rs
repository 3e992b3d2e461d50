//! From samples to ratios.

use super::Samples;
use super::sample::Sample;
use super::variant::{Setting, Variant};

/// Median, smallest and largest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Range {
    pub(crate) median: f64,
    pub(crate) smallest: f64,
    pub(crate) largest: f64,
}

/// `None` of nothing.
pub(crate) fn range(values: impl IntoIterator<Item = f64>) -> Option<Range> {
    let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    let (smallest, largest) = (*values.first()?, *values.last()?);
    let middle = values.len() / 2;
    let median = if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
    Some(Range { median, smallest, largest })
}

/// What can be divided.
pub(super) type Quantity = fn(&Sample) -> f64;

/// The quantity of `variant` divided by that of `base` in the same round, over all rounds that have both.
pub(super) fn ratio(
    samples: &Samples,
    setting: Setting,
    variant: Variant,
    base: Variant,
    of: Quantity,
) -> Option<Range> {
    range(pairs(samples, setting, variant, base).map(|(sample, base)| of(sample) / of(base)))
}

/// Microseconds that one way through the tunnel (both ends) takes longer than plain routing in the same round.
pub(super) fn added_latency(samples: &Samples, setting: Setting, variant: Variant) -> Option<Range> {
    let pairs = pairs(samples, setting, variant, Variant::Plain);
    range(pairs.map(|(sample, plain)| (sample.round_trip - plain.round_trip) / 2.0))
}

/// The quantity itself.
pub(super) fn absolute(samples: &Samples, setting: Setting, variant: Variant, of: Quantity) -> Option<Range> {
    range(of_variant(samples, setting, variant).map(of))
}

fn of_variant(samples: &Samples, setting: Setting, variant: Variant) -> impl Iterator<Item = &Sample> {
    samples.iter().filter(move |sample| sample.variant == variant && sample.setting == setting)
}

fn pairs(
    samples: &Samples,
    setting: Setting,
    variant: Variant,
    base: Variant,
) -> impl Iterator<Item = (&Sample, &Sample)> {
    of_variant(samples, setting, variant).filter_map(move |sample| {
        let base = of_variant(samples, setting, base).find(|base| base.round == sample.round)?;
        Some((sample, base))
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::bench::tunnel::sample::Throughput;

    pub(in crate::bench::tunnel) fn sample(variant: Variant, round: usize, gigabits: f64) -> Sample {
        let one_stream = Throughput { gigabits, cpu_per_gigabyte: 1.0 / gigabits };
        Sample {
            variant,
            setting: Setting::MAIN,
            round,
            one_stream,
            eight_streams: one_stream,
            small_packets: gigabits * 1e5,
            small_cpu: 1.0,
            round_trip: 100.0 / gigabits,
            late_round_trip: 200.0,
            jitter: 1.0,
            foreign: 0.0,
        }
    }

    #[test]
    fn the_middle_of_a_range() {
        assert_eq!(range([]), None);
        let of = |values: &[f64]| range(values.iter().copied()).unwrap();
        assert_eq!(of(&[3.0, 1.0, 2.0]), Range { median: 2.0, smallest: 1.0, largest: 3.0 });
        assert_eq!(of(&[4.0, 1.0]).median, 2.5);
        assert_eq!(range([f64::NAN]), None);
    }

    #[test]
    fn ratios_are_of_one_round() {
        let samples = [
            sample(Variant::Vxlan, 0, 10.0),
            sample(Variant::Portable, 0, 5.0),
            sample(Variant::Vxlan, 1, 1.0),
            sample(Variant::Portable, 1, 0.6),
            // No VXLAN in this round.
            sample(Variant::Portable, 2, 100.0),
        ];
        let ratio =
            ratio(&samples, Setting::MAIN, Variant::Portable, Variant::Vxlan, |s| s.one_stream.gigabits).unwrap();
        assert_eq!((ratio.smallest, ratio.largest), (0.5, 0.6));
    }

    #[test]
    fn latency_is_half_of_what_a_round_trip_takes_longer() {
        let samples = [sample(Variant::Plain, 0, 10.0), sample(Variant::Ebpf, 0, 5.0)];
        assert_eq!(added_latency(&samples, Setting::MAIN, Variant::Ebpf).unwrap().median, 5.0);
    }
}
