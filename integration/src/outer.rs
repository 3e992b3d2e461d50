//! The outer side: what the commands of the lab do on the machine itself.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use clap::ValueEnum;

use crate::failure::{Outcome, While, ensure};
use crate::job::{Task, Verdict};
use crate::kernel::choice::Choice;
use crate::run::{Options, Run};
use crate::table::{self, KernelReport};
use crate::tiers::setting::{self, Asked};
use crate::{packages, probe, scenarios};

/// `cargo lab list`.
pub(crate) fn list() -> ExitCode {
    let width = scenarios::ALL.iter().map(|scenario| scenario.name.len()).max().unwrap_or_default();
    for scenario in scenarios::ALL {
        let mark = if scenarios::is_core(scenario.name) { '*' } else { ' ' };
        println!("{:width$} {mark} {}", scenario.name, scenario.title());
    }
    println!("* on every kernel of `cargo lab test --kernel all`");
    ExitCode::SUCCESS
}

/// `cargo lab check`.
pub(crate) fn check() -> ExitCode {
    report_failure(|| {
        if let Err(code) = packages::provide(&[&packages::IPROUTE2])? {
            return Ok(code);
        }
        let missing = probe::missing()?;
        if missing.is_empty() {
            println!("The running kernel has all the lab needs: --kernel running needs no QEMU.");
            return Ok(ExitCode::SUCCESS);
        }
        println!("The running kernel lacks: {}. The lab boots one in QEMU.", missing.join(", "));
        Ok(ExitCode::FAILURE)
    })
}

/// What `cargo lab demo` can show besides the main job.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Show {
    /// A guest that moves between sites: its round-trip time and losses over time.
    Migration,
}

/// `cargo lab demo`.
pub(crate) fn demo(what: Option<Show>, options: &Options) -> ExitCode {
    run_and_report(if what == Some(Show::Migration) { Task::DemoMigration } else { Task::Demo }, options)
}

/// `cargo lab bench migration`.
pub(crate) fn bench_migration(moves: usize, only: String, options: &Options) -> ExitCode {
    run_and_report(Task::BenchMigration { moves, only }, options)
}

fn run_and_report(task: Task, options: &Options) -> ExitCode {
    report_failure(|| {
        let run = match Run::prepare(task, false, options)? {
            Ok(run) => run,
            Err(code) => return Ok(code),
        };
        let reports = run.execute(options)?;
        for result in reports.iter().flat_map(|report| &report.results) {
            if let Verdict::Failed(why) | Verdict::TimedOut(why) = &result.verdict {
                println!("{}: FAILED: {why}", result.name);
            }
        }
        Ok(verdict(&reports))
    })
}

/// What `cargo lab test` is asked for.
pub(crate) struct TestOptions<'a> {
    pub(crate) filter: Option<&'a str>,
    pub(crate) scenarios_only: bool,
    /// The scenarios of the tiers, with each of these tiers.
    pub(crate) tier: Option<Asked>,
    /// How often.
    pub(crate) repeat: u32,
}

/// `cargo lab test`.
pub(crate) fn test(test: &TestOptions<'_>, options: &Options) -> ExitCode {
    report_failure(|| {
        let tiers = test.tier.map_or(&[][..], Asked::settings);
        let mut chosen = scenarios::matching(test.filter);
        if test.tier.is_some() {
            chosen.retain(|scenario| setting::SCENARIOS.contains(&scenario.name));
        }
        ensure(!chosen.is_empty(), || format!("no scenario's name contains {:?}", test.filter.unwrap_or_default()))?;
        let names: Vec<String> = chosen.iter().map(|scenario| scenario.name.to_owned()).collect();
        // First what takes no time when it goes wrong.
        let prepare = || Run::prepare(Task::Scenarios(names.clone()), test.filter.is_some(), options);
        let mut prepared = match prepare()? {
            Ok(run) => Some(run),
            Err(code) => return Ok(code),
        };
        let unit_tests =
            if test.scenarios_only || test.filter.is_some() || test.tier.is_some() { true } else { unit_tests()? };
        let mut code = ExitCode::SUCCESS;
        for round in 1..=test.repeat {
            if test.repeat > 1 {
                println!("Round {round} of {}", test.repeat);
            }
            let run = match prepared.take().map_or_else(prepare, |run| Ok(Ok(run)))? {
                Ok(run) => run,
                Err(code) => return Ok(code),
            };
            let reports = run.with_tiers(tiers).execute(options)?;
            table::show(&reports);
            if verdict(&reports) != ExitCode::SUCCESS {
                code = ExitCode::FAILURE;
            }
        }
        if !unit_tests {
            println!("The unit tests failed; see above.");
        }
        Ok(if unit_tests { code } else { ExitCode::FAILURE })
    })
}

/// A benchmark whose inner side shows its results itself.
pub(crate) fn bench(task: Task, options: &Options) -> Outcome<ExitCode> {
    let run = match Run::prepare(task, false, options)? {
        Ok(run) => run,
        Err(code) => return Ok(code),
    };
    run.execute_alone(options)?;
    Ok(ExitCode::SUCCESS)
}

fn report_failure(work: impl FnOnce() -> Outcome<ExitCode>) -> ExitCode {
    work().unwrap_or_else(|failure| {
        eprintln!("cargo lab: {failure}");
        ExitCode::FAILURE
    })
}

/// A run that has tested nothing is a failure.
fn verdict(reports: &[KernelReport]) -> ExitCode {
    let all = || reports.iter().flat_map(|report| &report.results);
    let failed = all().any(|result| matches!(result.verdict, Verdict::Failed(_) | Verdict::TimedOut(_)));
    let ran = all().filter(|result| result.name != table::TSHARK);
    if failed {
        ExitCode::FAILURE
    } else if ran.filter(|result| !matches!(result.verdict, Verdict::Skipped(_))).count() == 0 {
        println!("Nothing was tested: that is a failure.");
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// Cargo, as the user called it.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // What `cargo run` told about this package is not for the build scripts of others: they would run again.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command.current_dir(workspace());
    command
}

fn workspace() -> PathBuf {
    let package =
        std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    package.parent().map_or_else(|| package.clone(), Path::to_owned)
}

/// Whether the unit tests pass; what they print goes to the user.
fn unit_tests() -> Outcome<bool> {
    let nextest = cargo().args(["nextest", "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let arguments: &[&str] = if nextest.is_ok_and(|status| status.success()) {
        &["nextest", "run", "--workspace"]
    } else {
        &["test", "--workspace"]
    };
    println!("cargo {}", arguments.join(" "));
    Ok(cargo().args(arguments).status().during(|| "cargo".into())?.success())
}

/// Whether the choice needs a machine.
pub(crate) fn boots(choice: &Choice) -> bool {
    *choice != Choice::Running
}
