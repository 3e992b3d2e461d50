//! `cargo lab bench`: what is measured, in network namespaces. Numbers are ratios to something measured in the same breath; nothing here
//! is a test that time could fail.

pub(crate) mod policy;

use std::process::ExitCode;

use clap::Subcommand;

/// What can be measured.
#[derive(Subcommand)]
pub(crate) enum What {
    /// The reconciler beside `ip -batch` and `ip xfrm`: ten thousand guests, one guest, memory.
    Policy(policy::Options),
}

/// `cargo lab bench …`.
pub(crate) fn main(what: What) -> ExitCode {
    let outcome = match what {
        What::Policy(options) => policy::build_and_measure(&options),
    };
    outcome.unwrap_or_else(|failure| {
        eprintln!("cargo lab bench: {failure}");
        ExitCode::FAILURE
    })
}
