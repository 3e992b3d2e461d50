//! Resident memory of the process at the guest's host.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::cpu::Cpus;
use super::end::{Role, Specification};
use super::load;
use super::path::Path;
use super::process::EndProcess;
use super::variant::{Mode, Variant};
use crate::failure::Outcome;
use crate::node::Node;

/// Longer than an engine keeps buffers that it does not use.
const IDLE: Duration = Duration::from_millis(2500);

/// How much is measured.
pub(super) struct Plan {
    /// Octets to carry before memory is looked at again.
    pub(super) octets: u64,
    /// And the longest time for that.
    pub(super) at_most: Duration,
    /// How many guests more are put into a table.
    pub(super) guests: usize,
}

/// What was found, in kB.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Memory {
    pub(super) variant: Variant,
    /// One guest, nothing carried yet: of its own, and of files (program and libraries).
    pub(super) idle: (u64, u64),
    /// The same after `carried` octets.
    pub(super) after: (u64, u64),
    pub(super) carried: u64,
    /// For each further guest.
    pub(super) each_guest: f64,
}

pub(super) fn measure(variants: &[Variant], plan: &Plan) -> Outcome<Vec<Memory>> {
    let mut all = vec![];
    for variant in variants {
        let Some(engine) = variant.engine() else { continue };
        println!("Memory: {}", variant.name());
        // In the mode that takes the largest buffers, and carries the most.
        let path = Path::build(*variant, Mode::Virtual, 1500, None)?;
        let Some(end) = path.ends.first() else { continue };
        let idle = end.memory()?;
        path.pin(Cpus::All)?;
        let begin = Instant::now();
        let load = load::tcp(&path, 1, Cpus::All)?;
        while load.arrived() < plan.octets && begin.elapsed() < plan.at_most {
            std::thread::sleep(Duration::from_millis(20));
        }
        let carried = load.arrived();
        load.stop()?;
        // Buffers that are not used are given back.
        std::thread::sleep(IDLE);
        let after = end.memory()?;
        let of = |guests: usize| -> Outcome<u64> {
            let node = Node::new("host")?;
            node.ip("link set lo up")?;
            let specification = Specification { engine, role: Role::MobileNode, mtu: 1500, guests };
            let end = EndProcess::start(&node, &specification)?;
            let (own, shared) = end.memory()?;
            Ok(own + shared)
        };
        let each_guest = if *variant == Variant::Naive {
            0.0
        } else {
            (of(1 + plan.guests)? as f64 - of(1)? as f64).max(0.0) / plan.guests as f64
        };
        all.push(Memory { variant: *variant, idle, after, carried, each_guest });
    }
    Ok(all)
}
