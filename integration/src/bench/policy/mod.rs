//! `cargo lab bench policy`: the reconciler of kernel state, with as many guests as a large site has, beside iproute2 doing the same.
//!
//! Both work on the same kernel, in the same namespace, one after the other in each round: what the machine does beside concerns both.

mod ip;
mod measure;
mod table;

use std::path::Path;
use std::process::{Command, ExitCode};

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::failure::{Outcome, While, ensure};
use crate::job::{Job, Task};
use crate::outer;

/// Options of the command.
#[derive(Debug, Clone, Args, Serialize, Deserialize)]
#[group(id = "bench_policy")]
pub(crate) struct Options {
    /// How many guests.
    #[arg(long, default_value_t = 10_000)]
    guests: usize,
    /// How many rounds, of which the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// 1,000 guests, one round.
    #[arg(long)]
    quick: bool,
    /// Measure the program as it is, without building it with optimisation first.
    #[arg(long)]
    as_built: bool,
    #[command(flatten)]
    #[serde(skip)]
    run: crate::run::Options,
}

impl Options {
    fn guests(&self) -> usize {
        if self.quick { 1_000 } else { self.guests }
    }

    fn rounds(&self) -> usize {
        if self.quick { 1 } else { self.rounds.max(1) }
    }
}

/// Builds this very program with optimisation and lets it measure.
pub(crate) fn build_and_measure(options: &Options) -> Outcome<ExitCode> {
    ensure((1..=60_000).contains(&options.guests()), || "guests: from 1 to 60000".into())?;
    if !cfg!(debug_assertions) || options.as_built {
        return outer::bench(Task::BenchPolicy(options.clone()), &options.run);
    }
    println!("Building with optimisation …");
    let mut build = outer::cargo();
    build.args(["build", "--quiet", "--release", "--workspace", "--bins"]);
    ensure(build.status().during(|| "cargo build".into())?.success(), || "the lab does not build".into())?;
    let program = std::env::current_exe()?;
    let optimised = program
        .parent()
        .and_then(Path::parent)
        .map(|target| target.join("release").join(program.file_name().unwrap_or_default()))
        .unwrap_or_default();
    let status = Command::new(&optimised).args(std::env::args_os().skip(1)).status();
    let status = status.during(|| optimised.display().to_string())?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The inner side.
pub(crate) fn run(job: &Job, options: &Options) -> Outcome {
    let profile = if cfg!(debug_assertions) { "development" } else { "release" };
    let guests = options.guests();
    let kernel = nix::sys::utsname::uname()?.release().to_string_lossy().into_owned();
    crate::inner::tell(&format!("kernel {kernel}, {guests} guests, {} rounds, {profile} build", options.rounds()));
    let mut results = vec![];
    for role in measure::ROLES {
        results.push(measure::measure(role, guests, options.rounds())?);
    }
    table::tell(&results);
    let file = job.directory.join("bench-policy.json");
    let whole = serde_json::json!({ "kernel": kernel, "profile": profile, "guests": guests, "roles": results });
    std::fs::write(&file, serde_json::to_vec_pretty(&whole)?).during(|| file.display().to_string())?;
    crate::inner::tell(&format!("The samples are in {}", file.display()));
    Ok(())
}
