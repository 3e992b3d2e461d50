//! Several inner sides beside each other: most scenarios wait for something most of the time.
//!
//! A *site* is a kernel with the scenarios that run on it; a *lane* is one inner side after the other, each with what no other has begun. A
//! scenario with guests in QEMU beside the machine has an inner side of its own.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::failure::{Failure, Kind, Outcome, While};
use crate::job::{Event, Job, ScenarioResult, Task, Verdict};
use crate::kernel::image::Image;
use crate::run::Place;
use crate::scenario::Peer;
use crate::scenarios;
use crate::table::KernelReport;

/// How many inner sides at once.
const LANES: usize = 3;
/// ... of those that need two machines each.
const JOINED_LANES: usize = 2;
/// How many machines of one kernel may die in a run.
const DEATHS: usize = 3;

/// A kernel, and what runs on it.
pub(crate) struct Site {
    label: String,
    pub(crate) place: Place,
    /// The kernel of the machine that umip has for itself.
    pub(crate) peer: Option<Image>,
    /// Where the directories of its scenarios are in the end.
    pub(crate) directory: PathBuf,
    job: Job,
    begun: PathBuf,
    several: bool,
    found: Mutex<Found>,
}

/// What is to run where.
#[derive(Clone)]
pub(crate) struct Part {
    /// A name for a column and a directory.
    pub(crate) label: String,
    pub(crate) place: Place,
    pub(crate) peer: Option<Image>,
    /// The scenarios.
    pub(crate) names: Vec<String>,
}

#[derive(Default)]
struct Found {
    release: String,
    results: Vec<ScenarioResult>,
    deaths: usize,
    /// Inner sides that run, and those of them that have not begun anything yet.
    running: usize,
    starting: usize,
    /// Scenarios that an inner side of their own was made for.
    alone: Vec<String>,
}

/// What an inner side is for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Portion {
    /// All that no other has begun.
    Together,
    /// One scenario that needs guests beside its machine.
    Alone(String),
}

/// Runs a lane's job to its end.
type Inner<'a> = &'a (dyn Fn(&Site, &Job, &mut dyn FnMut(Event) -> Outcome) -> Outcome + Sync);

impl Site {
    /// `several`: there are other parts, too, and it has a directory of its own.
    pub(crate) fn new(job: &Job, part: Part, several: bool) -> Outcome<Self> {
        let Part { label, place, peer, names } = part;
        let directory = if several { job.directory.join(&label) } else { job.directory.clone() };
        let begun = directory.join("begun");
        fs::create_dir_all(&begun).during(|| begun.display().to_string())?;
        let mut job = Job { directory: directory.clone(), begun: Some(begun.clone()), ..job.clone() };
        job.joined = peer.is_some();
        if let Task::Scenarios(all) = &mut job.task {
            *all = names;
        }
        Ok(Self { label, place, peer, directory, job, begun, several, found: Mutex::default() })
    }

    /// What stands in front of the lines of an inner side.
    pub(crate) fn prefix(&self, job: &Job) -> String {
        let lane = job.directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match (self.several, lane.strip_prefix("lane-")) {
            (true, Some(lane)) => format!("{} {lane}| ", self.label),
            (true, None) => format!("{}| ", self.label),
            (false, Some(lane)) => format!("{lane}| "),
            (false, None) => String::new(),
        }
    }

    fn found(&self) -> std::sync::MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a scenario needs guests beside its machine, and may have them.
    fn is_alone(&self, name: &str) -> bool {
        self.job.named
            && matches!(self.place, Place::Machine(_))
            && scenarios::named(name).is_some_and(|scenario| scenario.peer == Peer::Qemu)
    }

    /// What one more inner side would have to do; one that begins with what others may begin, too, counts as starting.
    fn one_more(&self) -> Option<Portion> {
        let mut found = self.found();
        let Task::Scenarios(names) = &self.job.task else {
            let more = found.results.is_empty() && found.starting == 0;
            found.starting += usize::from(more);
            found.running += usize::from(more);
            return more.then_some(Portion::Together);
        };
        // They take longest.
        if let Some(name) = names.iter().find(|name| self.is_alone(name) && !found.alone.contains(name)) {
            found.alone.push(name.clone());
            found.running += 1;
            return Some(Portion::Alone(name.clone()));
        }
        let lanes = if self.peer.is_some() { JOINED_LANES } else { LANES };
        let left = names.iter().filter(|name| !self.is_alone(name) && !self.begun.join(name).exists()).count();
        let more = left > found.starting && found.running < lanes;
        found.starting += usize::from(more);
        found.running += usize::from(more);
        more.then_some(Portion::Together)
    }

    fn has_started(&self, starting: &mut bool) {
        if std::mem::take(starting) {
            self.found().starting -= 1;
        }
    }

    /// A job for one inner side, in a directory of its own.
    fn lane(&self, number: usize, portion: &Portion) -> Outcome<Job> {
        let Task::Scenarios(names) = &self.job.task else { return Ok(self.job.clone()) };
        let names = match portion {
            Portion::Alone(name) => vec![name.clone()],
            Portion::Together => names.iter().filter(|name| !self.is_alone(name)).cloned().collect(),
        };
        let free = (0..).map(|again| match again {
            0 => format!("lane-{number}"),
            again => format!("lane-{number}.{again}"),
        });
        let mut free = free.map(|name| self.directory.join(name)).filter(|directory| !directory.exists());
        let directory = free.next().ok_or_else(|| Failure::new("no name is left for a lane"))?;
        fs::create_dir(&directory).during(|| directory.display().to_string())?;
        let guests = matches!(portion, Portion::Alone(_));
        Ok(Job { directory, guests, task: Task::Scenarios(names), ..self.job.clone() })
    }

    fn must_be_complete(&self) -> Outcome {
        let Task::Scenarios(names) = &self.job.task else { return Ok(()) };
        let found = self.found();
        match names.iter().find(|name| found.results.iter().all(|result| result.name != **name)) {
            None => Ok(()),
            Some(missing) => Err(Failure::new(format!("{}: no machine has run {missing}", self.label))),
        }
    }

    /// What became of it, in the order of the list.
    fn report(&self) -> KernelReport {
        let mut found = self.found();
        if let Task::Scenarios(names) = &self.job.task {
            found.results.sort_by_key(|result| names.iter().position(|name| *name == result.name));
        }
        let (label, release) = (self.label.clone(), found.release.clone());
        KernelReport { label, release, results: std::mem::take(&mut found.results) }
    }
}

/// Runs all sites, as many inner sides at once as there are lanes; `ended` is told of each scenario whose files are complete. What became of it is
/// told also when it could not go on to its end.
pub(crate) fn run(
    sites: &[Site],
    inner: Inner<'_>,
    ended: &(dyn Fn(&Site, &str) + Sync),
    end: Instant,
) -> (Vec<KernelReport>, Outcome) {
    let all = std::thread::scope(|scope| {
        let lane =
            |number| scope.spawn(move || sites.iter().try_for_each(|site| work_off(site, number, inner, ended, end)));
        let running: Vec<_> = (1..=LANES).map(lane).collect();
        let panicked = |_| Err(Failure::new("a thread of the lab panicked"));
        // The first failure counts; the others are waited for.
        running.into_iter().map(|lane| lane.join().unwrap_or_else(panicked)).fold(Ok(()), Outcome::and)
    });
    let complete = sites.iter().try_for_each(Site::must_be_complete);
    (sites.iter().map(Site::report).collect(), all.and(complete))
}

/// One inner side after the other, until nothing of the site is left that was not begun.
fn work_off(
    site: &Site,
    number: usize,
    inner: Inner<'_>,
    ended: &(dyn Fn(&Site, &str) + Sync),
    end: Instant,
) -> Outcome {
    while let Some(portion) = site.one_more() {
        let job = site.lane(number, &portion)?;
        let (mut current, mut worked, mut starting) = (None, false, portion == Portion::Together);
        let result = inner(site, &job, &mut |event| {
            match event {
                Event::Up { kernel } => site.found().release = kernel,
                Event::Begun(name) => {
                    site.has_started(&mut starting);
                    current = Some(name);
                }
                Event::Ended(result) => {
                    worked = true;
                    current = None;
                    bring_home(site, &job.directory, &result.name)?;
                    if !matches!(result.verdict, Verdict::Skipped(_)) {
                        ended(site, &result.name);
                    }
                    site.found().results.push(result);
                }
                Event::Done => {}
            }
            Ok(())
        });
        site.has_started(&mut starting);
        site.found().running -= 1;
        let Err(failure) = result else {
            // Whatever was left of what they had in common is done.
            if portion == Portion::Together {
                return Ok(());
            }
            continue;
        };
        // The scenario that a machine has died of is one failure, and the others go on in a new one.
        let Some(name) = current else { return Err(failure) };
        println!("{}{name}: {failure}", site.prefix(&job));
        bring_home(site, &job.directory, &name)?;
        let why = failure.to_string();
        let verdict = if failure.kind() == Kind::Timeout { Verdict::TimedOut(why) } else { Verdict::Failed(why) };
        let mut found = site.found();
        found.results.push(ScenarioResult { name, verdict, seconds: 0.0 });
        found.deaths += 1;
        let give_up = found.deaths >= DEATHS || !worked && found.deaths > 1 || Instant::now() > end;
        drop(found);
        if give_up {
            return Err(failure);
        }
    }
    Ok(())
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
fn bring_home(site: &Site, lane: &Path, scenario: &str) -> Outcome {
    for name in [scenario.to_owned(), format!("{scenario}.first")] {
        let (from, to) = (lane.join(&name), site.directory.join(&name));
        if from != to && from.exists() {
            fs::rename(&from, &to).during(|| from.display().to_string())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::image::Image;

    fn site(name: &str, named: bool, place: Place) -> Site {
        let directory = std::env::temp_dir().join(format!("kagemusha-lab-lanes-{name}-{}", std::process::id()));
        let names = ["register-esp", "migration-qemu-precopy", "refresh"];
        let job = Job {
            directory,
            kagemusha: "kagemusha".into(),
            mip6d: None,
            guests: false,
            named,
            begun: None,
            joined: false,
            tier: None,
            patient: false,
            environment: Default::default(),
            task: Task::Scenarios(names.map(str::to_owned).to_vec()),
        };
        let Task::Scenarios(names) = job.task.clone() else { unreachable!() };
        let part = Part { label: "6.12".into(), place, peer: None, names };
        Site::new(&job, part, false).unwrap()
    }

    fn machine() -> Place {
        Place::Machine(Image { release: "6.12".into(), kernel: "kernel".into(), modules: None, initramfs: None })
    }

    fn names(job: &Job) -> Vec<&str> {
        let Task::Scenarios(names) = &job.task else { return vec![] };
        names.iter().map(String::as_str).collect()
    }

    #[test]
    fn a_scenario_with_guests_has_a_machine_of_its_own() {
        let site = site("alone", true, machine());
        let first = site.one_more().unwrap();
        assert_eq!(first, Portion::Alone("migration-qemu-precopy".into()));
        let alone = site.lane(1, &first).unwrap();
        assert_eq!((names(&alone), alone.guests), (vec!["migration-qemu-precopy"], true));
        let together = site.lane(2, &Portion::Together).unwrap();
        assert_eq!((names(&together), together.guests), (vec!["register-esp", "refresh"], false));
        // Two are left, so that two inner sides have something to do.
        assert_eq!([site.one_more(), site.one_more(), site.one_more()].map(|more| more.is_some()), [true, true, false]);
        assert!(site.must_be_complete().is_err());
        fs::remove_dir_all(&site.directory).unwrap();
    }

    #[test]
    fn what_is_no_scenario_is_done_once() {
        let mut site = site("demo", false, machine());
        site.job.task = Task::Demo;
        let done = Mutex::new(0);
        let inner = |_: &Site, _: &Job, heard: &mut dyn FnMut(Event) -> Outcome| {
            *done.lock().unwrap() += 1;
            let (name, verdict) = ("demo-with-ipsec".to_owned(), Verdict::Passed);
            heard(Event::Ended(ScenarioResult { name, verdict, seconds: 1.0 }))
        };
        let sites = [site];
        let end = Instant::now() + std::time::Duration::from_secs(60);
        let (reports, outcome) = run(&sites, &inner, &|_, _| {}, end);
        fs::remove_dir_all(&sites[0].directory).unwrap();
        outcome.unwrap();
        assert_eq!((reports[0].results.len(), *done.lock().unwrap()), (1, 1));
    }

    #[test]
    fn where_there_are_no_guests_it_is_one_of_the_others_and_says_so() {
        for (name, named, place) in [("here", true, Place::Here), ("unnamed", false, machine())] {
            let site = site(name, named, place);
            assert_eq!(site.one_more(), Some(Portion::Together));
            let job = site.lane(1, &Portion::Together).unwrap();
            assert_eq!((names(&job).len(), job.guests), (3, false));
            fs::remove_dir_all(&site.directory).unwrap();
        }
    }
}
