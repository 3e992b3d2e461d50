//! The original's table: a link of 100 Mb/s, and three rows: throughput and CPU, round trip and jitter, memory; against a
//! namespace that does what a NEMO mobile router does (RFC 3963 §5.2): the kernel forwards and tunnels.

use std::time::Duration;

use serde::Serialize;

use super::cpu::Cpus;
use super::load;
use super::path::{KernelTunnel, Path};
use super::stats::range;
use super::variant::{Mode, Variant};
use crate::failure::Outcome;

/// In the words of `tc`.
const RATE: &str = "100mbit";

/// How much is measured.
pub(super) struct Plan {
    pub(super) time: Duration,
    pub(super) rounds: usize,
}

/// One column of that table: medians.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Shaped {
    pub(super) variant: Variant,
    /// Payload of one TCP stream, Mb/s.
    pub(super) megabits: f64,
    /// CPU seconds of the whole machine per second meanwhile, in percent of one CPU.
    pub(super) cpu_percent: f64,
    /// Microseconds, on an idle link.
    pub(super) round_trip: f64,
    pub(super) jitter: f64,
    /// Resident memory in kB of the process at the guest's host; `None`: it is the kernel.
    pub(super) memory: Option<u64>,
}

/// Empty, with a line that says why, where the kernel cannot shape.
pub(super) fn measure(variants: &[Variant], kernel_tunnel: Option<KernelTunnel>, plan: &Plan) -> Outcome<Vec<Shaped>> {
    let variants = variants.iter().filter(|variant| ![Variant::Plain, Variant::Vxlan].contains(variant));
    let mut paths = vec![];
    for variant in variants {
        let path = Path::build(*variant, Mode::Wire, 1500, kernel_tunnel)?;
        if let Err(failure) = path.shape(RATE) {
            println!("SKIP the link of 100 Mb/s: {failure}");
            return Ok(vec![]);
        }
        paths.push(path);
    }
    println!("A link of 100 Mb/s (tbf)");
    let mut columns: Vec<Vec<Shaped>> = vec![vec![]; paths.len()];
    for _ in 0..plan.rounds {
        for (path, column) in paths.iter().zip(&mut columns) {
            column.push(once(path, plan)?);
        }
    }
    Ok(columns.iter().filter_map(|column| medians(column)).collect())
}

fn once(path: &Path, plan: &Plan) -> Outcome<Shaped> {
    path.pin(Cpus::All)?;
    let trips = load::round_trips(path, Cpus::All, plan.time / 4)?;
    let (carried, _) = path.throughput(load::tcp(path, 1, Cpus::All)?, plan.time / 4, plan.time)?;
    let memory = path.ends.first().map(|end| end.memory()).transpose()?.map(|(own, shared)| own + shared);
    Ok(Shaped {
        variant: path.variant,
        megabits: carried.gigabits * 1e3,
        cpu_percent: carried.cpu_per_gigabyte * carried.gigabits / 8.0 * 100.0,
        round_trip: trips.median,
        jitter: trips.jitter,
        memory,
    })
}

fn medians(column: &[Shaped]) -> Option<Shaped> {
    let median = |of: fn(&Shaped) -> f64| range(column.iter().map(of)).map(|range| range.median);
    let last = column.last()?;
    Some(Shaped {
        variant: last.variant,
        megabits: median(|s| s.megabits)?,
        cpu_percent: median(|s| s.cpu_percent)?,
        round_trip: median(|s| s.round_trip)?,
        jitter: median(|s| s.jitter)?,
        memory: last.memory,
    })
}
