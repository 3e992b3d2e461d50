//! What the outer side asks of the inner side, and what comes back. Both travel as files in the directory of the run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::capture::Gather;
use crate::failure::{Outcome, While};
use crate::migration::image::Image;

/// Every line of the inner side that is for the user starts with this; anything else on its output is the kernel's.
pub(crate) const LINE: &str = "lab| ";

/// Such a line tells the outer side that a scenario of this name has ended and all its files are complete.
pub(crate) const COMPLETE: &str = "lab-complete| ";

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
    /// `cargo lab bench memory`.
    BenchMemory {
        /// The daemon that is looked at.
        program: PathBuf,
    },
    /// `cargo lab bench policy`.
    BenchPolicy(crate::bench::policy::Options),
}

/// What became of it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) kernel: String,
    pub(crate) results: Vec<ScenarioResult>,
}

/// What became of one scenario.
#[derive(Debug, Clone, Serialize, Deserialize)]
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

impl Report {
    pub(crate) fn read(directory: &Path) -> Outcome<Self> {
        read(&directory.join("report.json"))
    }

    pub(crate) fn write(&self, directory: &Path) -> Outcome {
        write(&directory.join("report.json"), self)
    }
}

fn read<T: for<'de> Deserialize<'de>>(file: &Path) -> Outcome<T> {
    let text = std::fs::read(file).during(|| file.display().to_string())?;
    serde_json::from_slice(&text).during(|| file.display().to_string())
}

fn write(file: &Path, value: &impl Serialize) -> Outcome {
    std::fs::write(file, serde_json::to_vec_pretty(value)?).during(|| file.display().to_string())
}
