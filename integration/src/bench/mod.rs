//! `cargo lab bench`: what is measured, in network namespaces. Numbers are ratios to something measured in the same breath; nothing here
//! is a test that time could fail.

pub(crate) mod daemon;
pub(crate) mod memory;
pub(crate) mod migration;
pub(crate) mod policy;
pub(crate) mod tunnel;

use std::process::ExitCode;

use clap::Subcommand;

use crate::job::Task;
use crate::outer;
use crate::tiers::setting::Asked;

/// What can be measured.
#[derive(Subcommand)]
pub(crate) enum What {
    /// The tunnel engine beside the kernel's own tunnels: throughput, CPU, small packets, latency, memory.
    Tunnel(tunnel::Options),
    /// The benchmark itself, in the program that was built for it.
    #[command(hide = true)]
    TunnelMeasure(tunnel::MeasureOptions),
    /// One end of a tunnel; ends with its standard input.
    #[command(hide = true)]
    TunnelEnd {
        /// What to start, as JSON.
        specification: String,
    },
    /// How long a guest is not reached when it moves, beside the round-trip time to its home agent.
    Migration {
        /// Moves of each kind.
        #[arg(long, default_value_t = 20)]
        moves: usize,
        /// Only the series whose name contains this, such as "0 ms: foreign".
        #[arg(long, default_value = "")]
        only: String,
        #[command(flatten)]
        options: crate::run::Options,
    },
    /// Resident memory of the daemon itself: with one guest, after a transfer, with a hundred guests more.
    Memory {
        #[command(flatten)]
        options: crate::run::Options,
    },
    /// A TCP stream each way through the daemons, by each tier of the tunnel engine, in the lab's kernel.
    Daemon {
        /// How often each tier has its turn.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Of each stream.
        #[arg(long, default_value_t = 5)]
        seconds: u64,
        /// By which tier.
        #[arg(long, default_value = "all")]
        tier: Asked,
        #[command(flatten)]
        options: crate::run::Options,
    },
    /// The reconciler beside `ip -batch` and `ip xfrm`: ten thousand guests, one guest, memory.
    Policy(policy::Options),
}

/// `cargo lab bench …`.
pub(crate) fn main(what: What) -> ExitCode {
    let outcome = match what {
        What::Tunnel(options) => tunnel::build_and_measure(&options),
        What::TunnelMeasure(options) => tunnel::measure(&options),
        What::TunnelEnd { specification } => tunnel::end::main(&specification),
        What::Migration { moves, only, options } => Ok(outer::bench_migration(moves, only, &options)),
        What::Daemon { rounds, seconds, tier, options } => {
            let tiers = tier.settings().to_owned();
            outer::bench(Task::BenchDaemon(daemon::Plan { rounds, seconds, tiers }), &options)
        }
        What::Memory { options } => memory::build_and_measure(&options),
        What::Policy(options) => policy::build_and_measure(&options),
    };
    outcome.unwrap_or_else(|failure| {
        eprintln!("cargo lab bench: {failure}");
        ExitCode::FAILURE
    })
}
