//! The lab of Kagemusha: real kernels, real packets, real peers.
//!
//! ```text
//! outer ──► run ──► lanes ──► (running kernel, or a stock kernel in QEMU with init) ──► inner ──► scenarios ──► topology, captures
//!   └─ build, packages, tshark, table                            └─ demo
//! ```
// The lab lives in real time; the ban on clocks is for the product's pure layers.
#![allow(clippy::disallowed_methods)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod agent;
mod bench;
mod capture;
mod child;
mod classes;
mod craft;
mod demo;
mod dissect;
mod expect;
mod failure;
mod follow;
mod init;
mod inner;
mod job;
mod kernel;
mod lanes;
mod migration;
mod node;
mod oracle;
mod outer;
mod packages;
mod parts;
mod policy;
mod prelude;
mod probe;
mod process;
mod run;
mod scenario;
mod scenarios;
mod side;
#[allow(unsafe_code)]
mod sys;
mod table;
mod tiers;
mod topology;
mod umip;

/// The lab of Kagemusha: the cast of the original experiment in network namespaces, on real kernels.
#[derive(Parser)]
#[command(name = "cargo lab", bin_name = "cargo lab")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show the main job: a guest on a foreign host, reached at its home address, without and with IPsec.
    Demo {
        /// Show something else instead.
        what: Option<outer::Show>,
        #[command(flatten)]
        options: run::Options,
    },
    /// Run the unit tests (unless a filter is given), then the scenarios whose name contains FILTER.
    Test {
        /// Part of the names of the scenarios to run, or several with commas between them.
        filter: Option<String>,
        /// Leave the unit tests out.
        #[arg(long)]
        scenarios_only: bool,
        /// Run them so many times.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        repeat: u32,
        /// Run those in which data of guests goes through the tunnel, with this tier of the tunnel engine, and see by its counters that it carried.
        #[arg(long)]
        tier: Option<tiers::setting::Asked>,
        #[command(flatten)]
        options: run::Options,
    },
    /// List the scenarios.
    List,
    /// Tell whether the running kernel would do, without QEMU.
    Check,
    /// Measure.
    Bench {
        #[command(subcommand)]
        what: bench::What,
    },
    /// Every tier of the tunnel engine against the reference transform, octet for octet, on the running kernel.
    Tiers {
        /// Only these: portable, super-packet, ebpf.
        only: Vec<String>,
    },
    /// The inner side; started by the outer one.
    #[command(hide = true)]
    Inner {
        /// Directory of the run.
        directory: PathBuf,
    },
}

fn main() -> ExitCode {
    if init::is_init() {
        return init::main();
    }
    if migration::guest::is_init() {
        return migration::guest::main();
    }
    match Arguments::parse().command {
        Command::Demo { what, options } => outer::demo(what, &options),
        Command::Test { filter, scenarios_only, repeat, tier, options } => {
            let test = outer::TestOptions { filter: filter.as_deref(), scenarios_only, repeat, tier };
            outer::test(&test, &options)
        }
        Command::List => outer::list(),
        Command::Check => outer::check(),
        Command::Bench { what } => bench::main(what),
        Command::Tiers { only } => tiers::main(&only),
        Command::Inner { directory } => inner::main(&directory),
    }
}
