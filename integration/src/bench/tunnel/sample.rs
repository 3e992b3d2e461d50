//! One measurement of one path.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cpu::{self, Cpus, Moment};
use super::load::{self, Load};
use super::path::Path;
use super::variant::{Setting, Variant};
use crate::failure::{Outcome, While, ensure};

/// How long each part takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) warm_up: Duration,
    pub(super) tcp: Duration,
    pub(super) small: Duration,
    pub(super) round_trips: Duration,
}

/// What was measured.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) variant: Variant,
    pub(crate) setting: Setting,
    pub(crate) round: usize,
    /// One TCP stream: payload in Gb/s, and CPU seconds of the whole machine per 10⁹ octets.
    pub(crate) one_stream: Throughput,
    /// Eight of them.
    pub(crate) eight_streams: Throughput,
    /// Small packets that arrived, per second, and CPU seconds for 10⁶ of them.
    pub(crate) small_packets: f64,
    pub(crate) small_cpu: f64,
    /// Microseconds: to and fro, the slowest of a hundred, between one and the next.
    pub(crate) round_trip: f64,
    pub(crate) late_round_trip: f64,
    pub(crate) jitter: f64,
    /// Share of the CPUs that other programs had meanwhile: 1 is one whole CPU.
    pub(crate) foreign: f64,
}

/// See [`Sample`].
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Throughput {
    pub(crate) gigabits: f64,
    pub(crate) cpu_per_gigabyte: f64,
}

impl Path {
    /// Puts the ends on one CPU or on all.
    pub(super) fn pin(&self, cpus: Cpus) -> Outcome {
        self.ends.iter().try_for_each(|end| cpu::pin_process(end.id(), cpus))
    }

    /// Measures everything once.
    pub(super) fn measure(&self, setting: Setting, round: usize, times: &Times) -> Outcome<Sample> {
        let cpus = if setting.pinned { Cpus::One } else { Cpus::All };
        self.pin(cpus)?;
        let trips = load::round_trips(self, cpus, times.round_trips)?;
        let (one_stream, _) = self.throughput(load::tcp(self, 1, cpus)?, times.warm_up, times.tcp)?;
        let (eight_streams, spent_on_eight) = self.throughput(load::tcp(self, 8, cpus)?, times.warm_up, times.tcp)?;
        let (packets, spent) = window(load::small_packets(self, cpus)?, times.warm_up, times.small)?;
        ensure(packets > 0, || format!("{}: no small packet arrived", self.variant.name()))?;
        Ok(Sample {
            variant: self.variant,
            setting,
            round,
            one_stream,
            eight_streams,
            small_packets: packets as f64 / spent.seconds,
            small_cpu: spent.cpu / packets as f64 * 1e6,
            round_trip: trips.median,
            late_round_trip: trips.late,
            jitter: trips.jitter,
            foreign: (spent_on_eight.foreign + spent.foreign) / (spent_on_eight.seconds + spent.seconds),
        })
    }

    pub(super) fn throughput(
        &self,
        load: Load,
        warm_up: Duration,
        time: Duration,
    ) -> Outcome<(Throughput, cpu::Spent)> {
        let (octets, spent) = window(load, warm_up, time).during(|| format!("{}: TCP", self.variant.name()))?;
        ensure(octets > 0, || format!("{}: TCP carried nothing", self.variant.name()))?;
        let gigabits = octets as f64 * 8.0 / spent.seconds / 1e9;
        Ok((Throughput { gigabits, cpu_per_gigabyte: spent.cpu / octets as f64 * 1e9 }, spent))
    }
}

/// What arrives in a time, after another time of warming up.
pub(super) fn window(load: Load, warm_up: Duration, time: Duration) -> Outcome<(u64, cpu::Spent)> {
    std::thread::sleep(warm_up);
    let (begin, before) = (Moment::now()?, load.arrived());
    std::thread::sleep(time);
    let (after, end) = (load.arrived(), Moment::now()?);
    load.stop()?;
    Ok((after - before, end.since(&begin)))
}
