//! `cargo lab bench`: what is measured, on the machine's own kernel, in network namespaces. Numbers are ratios to something
//! measured in the same breath; nothing here is a test that time could fail.

pub(crate) mod tunnel;

use std::process::ExitCode;

use clap::Subcommand;

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
}

/// `cargo lab bench …`.
pub(crate) fn main(what: What) -> ExitCode {
    let outcome = match what {
        What::Tunnel(options) => tunnel::build_and_measure(&options),
        What::TunnelMeasure(options) => tunnel::measure(&options),
        What::TunnelEnd { specification } => tunnel::end::main(&specification),
    };
    outcome.unwrap_or_else(|failure| {
        eprintln!("cargo lab bench: {failure}");
        ExitCode::FAILURE
    })
}
