//! The inner side: on a kernel that has everything, runs what the job says and writes the report.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use crate::agent::{self, Agent};
use crate::failure::{Failure, Kind, Outcome};
use crate::init;
use crate::job::{Event, Job, LINE, ScenarioResult, Task, Verdict};
use crate::scenario::{Lab, Peer, Scenario};
use crate::{bench, demo, lanes, migration, scenarios};

/// Runs the job in `directory`.
pub(crate) fn main(directory: &Path) -> ExitCode {
    match Job::read(directory).and_then(|job| run(&job)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            println!("{LINE}the lab failed: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(job: &Job) -> Outcome {
    match &job.task {
        Task::Demo => demo::run(job).into_iter().for_each(ended),
        Task::DemoMigration => migration::demo::run(job).into_iter().for_each(ended),
        Task::BenchMigration { moves, only } => bench::migration::run(job, *moves, only).into_iter().for_each(ended),
        Task::BenchMemory { program } => bench::memory::run(job, program.clone())?,
        Task::BenchPolicy(options) => bench::policy::run(job, options)?,
        Task::Agent => agent::serve()?,
        Task::Scenarios(names) => {
            let agent = if job.joined { Some(Arc::new(Agent::connect()?)) } else { None };
            for (index, name) in names.iter().enumerate() {
                if lanes::begin(job, name)? {
                    tell_event(&Event::Begun(name.clone()));
                    let scenario = scenarios::named(name).ok_or_else(|| Failure::new(format!("no scenario {name}")))?;
                    tell(&format!("[{}/{}] {name}: {}", index + 1, names.len(), scenario.title()));
                    run_scenario(job, scenario, agent.as_ref())?;
                }
            }
        }
    }
    tell_event(&Event::Done);
    Ok(())
}

fn run_scenario(job: &Job, scenario: &Scenario, agent: Option<&Arc<Agent>>) -> Outcome {
    let started = Instant::now();
    let verdict = match run_one(job, scenario, agent) {
        Verdict::TimedOut(why) if job.patient => once_more(job, scenario, agent, &why)?,
        verdict => verdict,
    };
    let (name, seconds) = (scenario.name, started.elapsed().as_secs_f64());
    match &verdict {
        Verdict::Passed => println!("{LINE}    {seconds:6.2} s  {name} passed"),
        Verdict::PassedLate(_) => println!("{LINE}    {seconds:6.2} s  {name} passed, THE SECOND TIME"),
        Verdict::TimedOut(why) | Verdict::Failed(why) => {
            tell_what_daemons_logged(&job.directory.join(name));
            why.lines().for_each(|line| println!("{LINE}    {line}"));
            println!("{LINE}    {seconds:6.2} s  {name} FAILED");
        }
        Verdict::Skipped(why) => println!("{LINE}    SKIP {name}: {why}"),
    }
    ended(ScenarioResult { name: name.to_owned(), verdict, seconds });
    Ok(())
}

/// Shows the user a line.
pub(crate) fn tell(line: &str) {
    println!("{LINE}{line}");
}

/// Lets the outer side have a result and the files of a scenario, which may still be in this kernel's memory only.
fn ended(result: ScenarioResult) {
    nix::unistd::sync();
    tell_event(&Event::Ended(result));
}

fn tell_event(event: &Event) {
    print!("{}", event.line());
}

/// The end of every log of a failed scenario, and of what the kernel of a guest in QEMU has said: it may have crashed.
fn tell_what_daemons_logged(directory: &Path) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    let is_told = |path: &Path| path.extension().is_some_and(|kind| kind == "log" || kind == "console");
    for path in entries.flatten().map(|entry| entry.path()).filter(|path| is_told(path)) {
        let text = std::fs::read(&path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        println!("{LINE}    --- {}", path.file_name().unwrap_or_default().to_string_lossy());
        lines.iter().skip(lines.len().saturating_sub(12)).for_each(|line| println!("{LINE}    {line}"));
    }
}

/// A second chance for what has failed for want of time: on a machine that does other things, too, it may have come a little later. What must
/// not be seen is another matter, and fails at once. It is told and counted, and files of the first attempt are kept.
fn once_more(job: &Job, scenario: &Scenario, agent: Option<&Arc<Agent>>, why: &str) -> Outcome<Verdict> {
    let directory = job.directory.join(scenario.name);
    tell_what_daemons_logged(&directory);
    why.lines().for_each(|line| println!("{LINE}    {line}"));
    println!("{LINE}    {} FAILED for want of time; ONCE MORE", scenario.name);
    std::fs::rename(&directory, job.directory.join(format!("{}.first", scenario.name)))?;
    Ok(match run_one(job, scenario, agent) {
        Verdict::Passed => Verdict::PassedLate(why.lines().next().unwrap_or_default().to_owned()),
        verdict => verdict,
    })
}

fn run_one(job: &Job, scenario: &Scenario, agent: Option<&Arc<Agent>>) -> Verdict {
    let umip = scenario.peer.umip_node();
    if umip.is_some() && job.mip6d.is_none() {
        return Verdict::Skipped("KAGEMUSHA_MIP6D is not set".into());
    }
    if scenario.peer == Peer::Qemu && job.image.is_none() {
        return Verdict::Skipped("it takes minutes: name it, as in `cargo lab test migration`".into());
    }
    let attempt = || -> Outcome {
        let directory = job.directory.join(scenario.name);
        if umip.is_some() && agent.is_none() {
            init::load(&["ip6_tunnel", "xfrm6_tunnel"])?;
        }
        let mut lab = Lab::new(&directory, job, umip.zip(agent))?;
        let result = (scenario.run)(&lab);
        let finished = lab.finish();
        result.and(finished)?;
        if scenario.well_formed { lab.checksums_must_be_good() } else { Ok(()) }
    };
    match catch_unwind(AssertUnwindSafe(attempt)) {
        Ok(Ok(())) => Verdict::Passed,
        Ok(Err(failure)) if failure.kind() == Kind::Timeout => Verdict::TimedOut(failure.to_string()),
        Ok(Err(failure)) => Verdict::Failed(failure.to_string()),
        Err(_) => Verdict::Failed("the scenario's own code panicked".into()),
    }
}
