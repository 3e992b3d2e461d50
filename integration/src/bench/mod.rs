//! `cargo lab bench`: what is measured. Numbers are ratios to something measured in the same breath; nothing here is a test that time could fail.

pub(crate) mod migration;

use std::process::ExitCode;

use clap::Subcommand;

use crate::outer;

/// What can be measured.
#[derive(Subcommand)]
pub(crate) enum What {
    /// How long a guest is not reached when it moves, beside the round-trip time to its home agent.
    Migration {
        /// Moves of each kind.
        #[arg(long, default_value_t = 20)]
        moves: usize,
        #[command(flatten)]
        options: outer::Options,
    },
}

/// `cargo lab bench …`.
pub(crate) fn main(what: What) -> ExitCode {
    match what {
        What::Migration { moves, options } => outer::bench_migration(moves, &options),
    }
}
