//! All scenarios in several kernels beside each other: most of them wait for something most of the time.

use std::fs;
use std::path::Path;

use crate::failure::{Outcome, While};
use crate::job::{Job, Report, Task};
use crate::scenarios;

/// How many kernels.
const LANES: usize = 2;

/// A job of many scenarios in parts, each with a directory of its own; none for other jobs, and for what the user has named.
pub(crate) fn split(job: &Job) -> Outcome<Vec<Job>> {
    let Task::Scenarios(names) = &job.task else { return Ok(vec![]) };
    if job.named {
        return Ok(vec![]);
    }
    let lane = |number: usize| -> Outcome<Job> {
        let directory = job.directory.join(format!("lane-{}", number + 1));
        fs::create_dir(&directory).during(|| directory.display().to_string())?;
        // Neighbours in the list are alike, and take alike.
        let names = names.iter().skip(number).step_by(LANES).cloned().collect();
        let part = Job { directory, task: Task::Scenarios(names), ..job.clone() };
        part.write()?;
        Ok(part)
    };
    (0..LANES).map(lane).collect()
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
    all.results.sort_by_key(|result| scenarios::ALL.iter().position(|scenario| scenario.name == result.name));
    Ok(all)
}
