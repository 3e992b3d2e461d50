//! What the outer side asks of the inner side, and what comes back. Both travel as files in the directory of the run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::capture::Gather;
use crate::failure::{Outcome, While};
use crate::migration::image::Image;

/// Every line of the inner side that is for the user starts with this; anything else on its output is the kernel's.
pub(crate) const LINE: &str = "lab| ";

/// Such a line is an [`Event`].
const EVENT: &str = "lab-event| ";

/// Such a line says that the machine lives.
pub(crate) const ALIVE: &str = "lab-alive|";

/// What is to be run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Job {
    /// Directory of the run: `job.json`, `report.json` and a directory for each scenario.
    pub(crate) directory: PathBuf,
    /// The program under test.
    pub(crate) kagemusha: PathBuf,
    /// The optional peer `mip6d` of `KAGEMUSHA_MIP6D`.
    pub(crate) mip6d: Option<PathBuf>,
    /// What the QEMU guest of the scenarios that have one boots.
    pub(crate) image: Option<Image>,
    /// Whether the user has asked for these scenarios by name.
    #[serde(default)]
    pub(crate) named: bool,
    /// Where lanes leave word of the scenarios that they have begun.
    #[serde(default)]
    pub(crate) begun: Option<PathBuf>,
    /// Whether umip runs in another machine, which is joined to this one.
    #[serde(default)]
    pub(crate) joined: bool,
    /// Whether a scenario that fails for want of time is run once more.
    #[serde(default)]
    pub(crate) patient: bool,
    /// Variables of the user's environment that are for the inner side: `KAGEMUSHA_…` and `RUST_BACKTRACE`.
    pub(crate) environment: BTreeMap<String, String>,
    pub(crate) task: Task,
}

/// See [`Job`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Task {
    Demo,
    /// `cargo lab demo migration`.
    DemoMigration,
    /// `cargo lab bench migration` with so many moves of each kind.
    BenchMigration {
        /// Of each kind.
        moves: usize,
        /// In the names of the series that are measured.
        only: String,
    },
    /// Names of scenarios, in order.
    Scenarios(Vec<String>),
    /// Does what a driver in another machine asks for.
    Agent,
    /// `cargo lab bench memory`.
    BenchMemory {
        /// The daemon that is looked at.
        program: PathBuf,
    },
    /// `cargo lab bench policy`.
    BenchPolicy(crate::bench::policy::Options),
}

/// What the inner side tells the outer one beside the lines for the user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Event {
    /// The machine has come up.
    Up {
        /// Its release.
        kernel: String,
    },
    /// A scenario begins.
    Begun(String),
    /// A scenario has ended, and all its files are complete.
    Ended(ScenarioResult),
    /// All of the job is done.
    Done,
}

impl Event {
    /// The line that tells it.
    pub(crate) fn line(&self) -> String {
        format!("{EVENT}{}\n", serde_json::to_string(self).unwrap_or_default())
    }

    /// What a line tells.
    pub(crate) fn of_line(line: &str) -> Option<Self> {
        serde_json::from_str(line.strip_prefix(EVENT)?).ok()
    }
}

/// What became of one scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ScenarioResult {
    pub(crate) name: String,
    pub(crate) verdict: Verdict,
    pub(crate) seconds: f64,
}

/// See [`ScenarioResult`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Verdict {
    Passed,
    /// At the second attempt; why not at the first.
    PassedLate(String),
    /// Something that was waited for has not come.
    TimedOut(String),
    Failed(String),
    Skipped(String),
}

impl Job {
    pub(crate) fn read(directory: &Path) -> Outcome<Self> {
        read(&directory.join("job.json"))
    }

    pub(crate) fn write(&self) -> Outcome {
        write(&self.directory.join("job.json"), self)
    }

    /// How its captures take what passes.
    pub(crate) fn gather(&self) -> Gather {
        match self.task {
            Task::BenchMigration { .. } => Gather::Measurement,
            _ => Gather::Scenario,
        }
    }
}

fn read<T: for<'de> Deserialize<'de>>(file: &Path) -> Outcome<T> {
    let text = std::fs::read(file).during(|| file.display().to_string())?;
    serde_json::from_slice(&text).during(|| file.display().to_string())
}

fn write(file: &Path, value: &impl Serialize) -> Outcome {
    std::fs::write(file, serde_json::to_vec_pretty(value)?).during(|| file.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_back_from_their_lines() {
        let result = ScenarioResult { name: "a".into(), verdict: Verdict::TimedOut("b\nc".into()), seconds: 1.5 };
        for event in [Event::Up { kernel: "6.1".into() }, Event::Begun("x".into()), Event::Ended(result), Event::Done] {
            let line = event.line();
            assert_eq!(line.matches('\n').count(), 1, "{line}");
            assert_eq!(Event::of_line(line.trim_end()), Some(event));
        }
        assert_eq!(Event::of_line("lab| text"), None);
    }
}
