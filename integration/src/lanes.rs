//! All scenarios in several kernels beside each other: most of them wait for something most of the time.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Outcome, While};
use crate::job::{Job, Report, Task};
use crate::scenarios;

/// How many kernels.
const LANES: usize = 3;

/// A job of many scenarios for each lane, which has a directory of its own and runs what no other has begun; none for other jobs, and for what
/// the user has named.
pub(crate) fn split(job: &Job) -> Outcome<Vec<Job>> {
    if job.named || !matches!(job.task, Task::Scenarios(_)) {
        return Ok(vec![]);
    }
    let directory = |name: &str| -> Outcome<PathBuf> {
        let directory = job.directory.join(name);
        fs::create_dir(&directory).during(|| directory.display().to_string())?;
        Ok(directory)
    };
    let begun = directory("begun")?;
    let lane = |number: usize| -> Outcome<Job> {
        let directory = directory(&format!("lane-{}", number + 1))?;
        let part = Job { directory, begun: Some(begun.clone()), ..job.clone() };
        part.write()?;
        Ok(part)
    };
    (0..LANES).map(lane).collect()
}

/// Whether the scenario is this lane's to run; no other runs it then. Of all that kernels can do to files of the machine they run on, making a
/// directory is what only one can succeed with.
pub(crate) fn begin(job: &Job, scenario: &str) -> Outcome<bool> {
    let Some(begun) = &job.begun else { return Ok(true) };
    let directory = begun.join(scenario);
    match fs::create_dir(&directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        result => result.during(|| directory.display().to_string()).map(|()| true),
    }
}

/// Moves the directory of a scenario that has ended, and of its first attempt, to where a run without lanes has it.
pub(crate) fn bring_home(job: &Job, lane: &Path, scenario: &str) -> Outcome {
    for name in [scenario.to_owned(), format!("{scenario}.first")] {
        let from = lane.join(&name);
        if from.exists() {
            fs::rename(&from, job.directory.join(&name)).during(|| from.display().to_string())?;
        }
    }
    Ok(())
}

/// What became of all parts, in the order of the list.
pub(crate) fn gather(lanes: &[Job]) -> Outcome<Report> {
    let mut all = Report::default();
    for lane in lanes {
        let part = Report::read(&lane.directory)
            .during(|| format!("a kernel left no report; see {}", lane.directory.join("console.log").display()))?;
        all.kernel = part.kernel;
        all.results.extend(part.results);
    }
    let Some(Job { task: Task::Scenarios(names), .. }) = lanes.first() else { return Ok(all) };
    if let Some(missing) = names.iter().find(|name| all.results.iter().all(|result| result.name != **name)) {
        return Err(Failure::new(format!("no kernel has run {missing}")));
    }
    all.results.sort_by_key(|result| scenarios::ALL.iter().position(|scenario| scenario.name == result.name));
    Ok(all)
}
