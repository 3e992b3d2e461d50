//! One inner side, wherever it runs: on the running kernel, or in a machine with what belongs beside it.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::failure::{Failure, Outcome, While};
use crate::follow::{End, Patience, SILENCE, follow};
use crate::init::UNUSABLE;
use crate::job::{Event, Job, Task};
use crate::kernel::accelerator::Accelerator;
use crate::kernel::image::Image;
use crate::kernel::joined::Joined;
use crate::kernel::last_words::last_words;
use crate::kernel::machine::{Boot, CONSOLE, CPUS, Machine};
use crate::lanes::Site;
use crate::migration::beside::Guests;
use crate::migration::image::GuestImage;
use crate::run::Place;

/// A booting machine has to say something after this time, also when others use the processors.
const BOOT: Duration = Duration::from_secs(120);

/// See the module.
pub(crate) struct Side<'a> {
    /// The lab's own program.
    pub(crate) lab: &'a Path,
    pub(crate) accelerator: Accelerator,
    /// What guests in QEMU boot.
    pub(crate) guest: Option<&'a GuestImage>,
    pub(crate) site: &'a Site,
    pub(crate) job: &'a Job,
    /// More words for the kernel's command line.
    pub(crate) append: &'a str,
    /// When everything has to be done.
    pub(crate) end: Instant,
}

/// What runs beside a machine, and ends with it.
#[derive(Default)]
struct Beside {
    guests: Option<Guests>,
    /// The machine that umip has for itself.
    other: Option<(Joined, Machine)>,
}

/// How an inner side that has not done its job has ended.
struct Ended {
    how: End,
    /// Whether its machine had come up.
    up: bool,
}

impl Side<'_> {
    /// Runs the job to its end; a failure if it has not come there.
    pub(crate) fn run(&self, heard: &mut dyn FnMut(Event) -> Outcome) -> Outcome {
        self.job.write()?;
        let (what, ended) = match &self.site.place {
            Place::Here => ("the lab's inner side".to_owned(), self.here(heard)?),
            Place::Machine(image) => {
                let mut ended = self.in_machine(image, heard)?;
                if let Some(Ended { how: End::Closed, up: false }) = &ended
                    && self.append.is_empty()
                    && self.has_spoken()
                {
                    // Emulated processors do not always see at once that the kernel changes its own code, which panics then: seen with 7.2, once in some
                    // dozens of starts. Whatever else it is comes again.
                    println!("{}It has died while booting: {}; once more", self.prefix(), self.last_words());
                    ended = self.in_machine(image, heard)?;
                }
                (format!("Linux {} in QEMU", image.release), ended)
            }
        };
        let Some(ended) = ended else { return Ok(()) };
        let directory = &self.job.directory;
        let advice = match ended.up {
            true => format!("see {}", directory.display()),
            false => {
                let other = if what.contains("6.12") { "6.1" } else { "6.12" };
                format!("try another (--kernel {other}), and see {}", directory.join(CONSOLE).display())
            }
        };
        Err(ended.how.failure(&what, &format!("{}; {advice}", self.last_words())))
    }

    fn prefix(&self) -> String {
        self.site.prefix(self.job)
    }

    /// Whether the kernel has begun to boot.
    fn has_spoken(&self) -> bool {
        fs::metadata(self.job.directory.join(CONSOLE)).is_ok_and(|console| console.len() > 0)
    }

    fn last_words(&self) -> String {
        let read = |name: &str| fs::read(self.job.directory.join(name)).unwrap_or_default();
        let (console, log) = (read(CONSOLE), read("lab.log"));
        let log = String::from_utf8_lossy(&log);
        if let Some(reason) = log.lines().find_map(|line| Some(line.split_once(UNUSABLE)?.1)) {
            return format!("{UNUSABLE}{reason}");
        }
        // What QEMU itself, or what starts it, has said among the lines of the lab.
        let theirs = |line: &&str| line.starts_with("qemu-system") || line.starts_with("setpriv");
        let qemu: String = log.lines().filter(theirs).map(|line| format!("{line}\n")).collect();
        last_words(&String::from_utf8_lossy(&console), &qemu)
    }

    /// Follows the lines of both streams. None: the job was done.
    fn follow(
        &self,
        streams: (Box<dyn std::io::Read + Send>, Box<dyn std::io::Read + Send>),
        patience: Patience,
        heard: &mut dyn FnMut(Event) -> Outcome,
    ) -> Outcome<(End, Option<Ended>)> {
        let (prefix, started) = (self.prefix(), Instant::now());
        let (mut done, mut up) = (false, false);
        let how = follow(streams, &prefix, &self.job.directory.join("lab.log"), patience, |event| {
            match &event {
                Event::Up { kernel } => {
                    println!("{prefix}Linux {kernel} is up after {:.1} s", started.elapsed().as_secs_f64());
                    up = true;
                }
                Event::Done => done = true,
                Event::Begun(_) | Event::Ended(_) => {}
            }
            heard(event)
        })?;
        let ended = (!done).then(|| Ended { how: how.clone(), up });
        Ok((how, ended))
    }

    fn here(&self, heard: &mut dyn FnMut(Event) -> Outcome) -> Outcome<Option<Ended>> {
        let mut command = Command::new(self.lab);
        command.arg("inner").arg(&self.job.directory).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().during(|| "starting the inner side".into())?;
        let (Some(output), Some(error)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(Failure::new("the inner side has no output"));
        };
        let start = self.end.saturating_duration_since(Instant::now());
        let patience = Patience { start, silence: None, end: self.end };
        let (how, ended) = self.follow((Box::new(output), Box::new(error)), patience, heard)?;
        if how != End::Closed {
            child.kill()?;
        }
        child.wait()?;
        Ok(ended)
    }

    fn in_machine(&self, image: &Image, heard: &mut dyn FnMut(Event) -> Outcome) -> Outcome<Option<Ended>> {
        let beside = self.beside()?;
        let mut devices = beside.guests.as_ref().map(Guests::devices).unwrap_or_default();
        devices.extend(beside.other.iter().flat_map(|(joined, _)| joined.here()));
        let name = self.accelerator.name();
        println!(
            "{}Booting Linux {} in QEMU ({name}, {CPUS} CPUs){}",
            self.prefix(),
            image.release,
            self.company(&beside)
        );
        let mut machine = self.machine(image, self.job, &devices, self.append)?;
        let (output, error) = machine.streams()?;
        let patience = Patience { start: BOOT, silence: Some(SILENCE), end: self.end };
        self.follow((Box::new(output), Box::new(error)), patience, heard).map(|(_, ended)| ended)
    }

    fn machine(&self, image: &Image, job: &Job, devices: &[std::ffi::OsString], append: &str) -> Outcome<Machine> {
        let (accelerator, lab, run, logs) = (self.accelerator, self.lab, &job.directory, &job.directory);
        Machine::boot(&Boot { image, accelerator, lab, run, logs, devices, append })
    }

    fn company(&self, beside: &Beside) -> String {
        match (&self.site.peer, &beside.guests) {
            (Some(peer), _) => format!(", umip on Linux {} beside it", peer.release),
            (None, Some(_)) => ", its guests beside it".to_owned(),
            (None, None) => String::new(),
        }
    }

    fn beside(&self) -> Outcome<Beside> {
        let other = self.site.peer.as_ref().map(|image| self.other_machine(image)).transpose()?;
        Ok(Beside { guests: self.guests()?, other })
    }

    /// Starts the guests that the scenario of a job wants beside its machine; their logs are among its files.
    fn guests(&self) -> Outcome<Option<Guests>> {
        match (self.guest, &self.job.task) {
            (Some(image), Task::Scenarios(names)) if self.job.guests => {
                let logs = self.job.directory.join(names.first().map(String::as_str).unwrap_or_default());
                Guests::start(image, self.accelerator, &logs).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// The machine that umip has for itself, with its agent.
    fn other_machine(&self, image: &Image) -> Outcome<(Joined, Machine)> {
        let directory = self.job.directory.join("umip");
        fs::create_dir_all(&directory).during(|| directory.display().to_string())?;
        let job = Job { directory, task: Task::Agent, ..self.job.clone() };
        job.write()?;
        let joined = Joined::new()?;
        let mut machine = self.machine(image, &job, &joined.there(), "")?;
        joined.wait()?;
        let (mut output, mut error) = machine.streams()?;
        let log = job.directory.join("lab.log");
        let mut log = fs::File::create(&log).during(|| log.display().to_string())?;
        let mut errors = log.try_clone()?;
        // What it says is for who looks for the reason of a failure; it must not stand still because nobody reads.
        std::thread::spawn(move || std::io::copy(&mut output, &mut log));
        std::thread::spawn(move || std::io::copy(&mut error, &mut errors));
        Ok((joined, machine))
    }
}
