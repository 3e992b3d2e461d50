//! A run: what it needs is built, downloaded and installed, then it is executed on one kernel or several.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;

use crate::failure::{Failure, Outcome, While, ensure};
use crate::job::{Event, Job, ScenarioResult, Task, Verdict};
use crate::kernel::accelerator::Accelerator;
use crate::kernel::choice::Choice;
use crate::kernel::image::Image;
use crate::kernel::machine::Scratch;
use crate::lanes::{self, Part, Site};
use crate::migration::image;
use crate::oracle::{Opinion, Oracle};
use crate::outer::{boots, cargo};
use crate::parts::{self, Wish};
use crate::scenario::Peer;
use crate::side::Side;
use crate::table::{self, KernelReport, TSHARK};
use crate::tiers::setting::Setting;
use crate::{packages, probe, scenarios};

/// Options of the commands that run something.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// The kernel to run on: running, 6.1, 6.12, newest, all, a Debian package (linux-image-…) or a file. Without it 6.12; scenarios with umip,
    /// when they are named, on all that people may have.
    #[arg(long)]
    pub(crate) kernel: Option<Choice>,
    /// The kernel of umip, in a machine of its own: 6.1, as people have it, or another one; "same" is the other side's own.
    #[arg(long, default_value = "6.1")]
    pub(crate) umip_kernel: String,
    /// End everything after so many seconds.
    #[arg(long, default_value_t = 3000, value_parser = clap::value_parser!(u64).range(1..=LONGEST))]
    pub(crate) timeout: u64,
    /// More words for the kernel's command line.
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    pub(crate) append: String,
}

impl Default for Options {
    fn default() -> Self {
        Self { kernel: None, umip_kernel: "6.1".into(), timeout: 3000, append: String::new() }
    }
}

/// A year, in seconds.
const LONGEST: u64 = 365 * 24 * 3600;

/// Where an inner side runs.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// On the running kernel.
    Here,
    /// In a machine of its own.
    Machine(Image),
}

/// A run that is ready to go.
pub(crate) struct Run {
    job: Job,
    /// The lab itself, by the name it had before the build, which may have put another file there.
    program: PathBuf,
    accelerator: Accelerator,
    /// What the guests of scenarios that have some in QEMU boot.
    guest: Option<image::GuestImage>,
    parts: Vec<Part>,
    /// Everything is run with each of these; none: with what the daemons choose.
    tiers: Vec<Setting>,
}

/// What every run needs.
const BASE: [&packages::Need; 6] = [
    &packages::IPROUTE2,
    &packages::PING,
    &packages::TSHARK,
    &packages::KMOD,
    &packages::RADVD,
    // For the eBPF tier of what is built.
    &packages::CLANG,
];

/// What a run in machines needs beside it.
const MACHINES: [&packages::Need; 5] =
    [&packages::QEMU, &packages::VIRTIOFS, &packages::BUSYBOX, &packages::XZ, &packages::ZSTD];

impl Run {
    /// Builds, installs, decides. `named`: the user has asked for these scenarios by name. `Ok(Err(code))`: the user has been told
    /// what to do first.
    pub(crate) fn prepare(task: Task, named: bool, options: &Options) -> Outcome<Result<Self, ExitCode>> {
        let program = std::env::current_exe()?;
        let bin = program.parent().ok_or_else(|| Failure::new("the lab's program has no directory"))?.to_owned();
        let target = bin.parent().unwrap_or(&bin).to_owned();
        ensure(["/run", "/var/lib", "/dev"].iter().all(|used| !target.starts_with(used)), || {
            format!("{}: the lab empties /run, /var/lib and /dev for its nodes; build somewhere else", target.display())
        })?;
        let mip6d = mip6d()?;
        let wishes = parts::wishes(&task, named, options, mip6d.is_some())?;
        let mut needs = BASE.to_vec();
        if wishes.iter().any(|wish| boots(&wish.kernel)) {
            ensure(cfg!(target_arch = "x86_64"), || {
                "the lab's machines are for x86-64; elsewhere use --kernel running".into()
            })?;
            needs.extend(MACHINES);
        }
        if let Err(code) = packages::provide(&needs)? {
            return Ok(Err(code));
        }
        ensure(nix::unistd::geteuid().is_root(), || {
            "it makes network namespaces and machines, and needs root: sudo --preserve-env=PATH,HOME cargo lab …".into()
        })?;
        Scratch::sweep();
        build(&bin)?;
        let lab = target.join("lab");
        let cache = lab.join("kernels");
        fs::create_dir_all(&cache).during(|| format!("{} must be writable", cache.display()))?;
        let parts = wishes.into_iter().map(|wish| part(wish, &cache)).collect::<Outcome<Vec<Part>>>()?;
        let accelerator = match parts.iter().find_map(|part| part.place.image()) {
            Some(image) => Accelerator::find(image, &program, &cache)?,
            None => Accelerator::Tcg,
        };
        let in_machines = parts.iter().any(|part| part.place.image().is_some());
        let guest = match wants_guest(&task, named) && in_machines {
            true => match packages::provide(&[&packages::BINUTILS])? {
                Err(code) => return Ok(Err(code)),
                Ok(()) => Some(image::provide(&cache, &program)?),
            },
            false => None,
        };
        let directory = new_run_directory(&lab)?;
        let (kagemusha, environment, patient) = (bin.join("kagemusha"), environment(), !named);
        let (begun, guests, joined, tier) = (None, false, false, None);
        let job = Job { directory, kagemusha, mip6d, guests, named, begun, joined, patient, tier, environment, task };
        Ok(Ok(Self { job, program, accelerator, guest, parts, tiers: vec![] }))
    }

    /// The same with each of these tiers.
    pub(crate) fn with_tiers(self, tiers: &[Setting]) -> Self {
        Self { tiers: tiers.to_owned(), ..self }
    }

    /// Each part, with each tier that was asked for.
    fn sites(&self) -> Outcome<Vec<Site>> {
        let tiers: Vec<Option<Setting>> = match self.tiers.as_slice() {
            [] => vec![None],
            tiers => tiers.iter().copied().map(Some).collect(),
        };
        let all = self.parts.iter().flat_map(|part| tiers.iter().map(move |tier| (part, *tier)));
        let several = self.parts.len() * tiers.len() > 1;
        let site = |(part, tier): (&Part, Option<Setting>)| {
            let label = tier.map_or_else(|| part.label.clone(), |tier| format!("{}-{}", part.label, tier.name()));
            Site::new(&Job { tier, ..self.job.clone() }, Part { label, ..part.clone() }, several)
        };
        all.map(site).collect()
    }

    /// Runs the job on every kernel, shows what it tells, and adds what tshark thinks of the captures.
    pub(crate) fn execute(&self, options: &Options) -> Outcome<Vec<KernelReport>> {
        println!("Everything of this run is kept in {}", self.job.directory.display());
        let oracle = Oracle::start(!self.tiers.is_empty());
        let sites = self.sites()?;
        let ended = |site: &Site, name: &str| {
            if scenarios::named(name).is_none_or(|scenario| scenario.well_formed) {
                oracle.ask(site.directory.join(name));
            }
        };
        let end = Instant::now() + Duration::from_secs(options.timeout);
        let inner = |site: &Site, lane: &Job, heard: &mut dyn FnMut(Event) -> Outcome| {
            self.side(site, lane, options, end).run(heard)
        };
        let (mut reports, all) = lanes::run(&sites, &inner, &ended, end);
        if all.is_err() && reports.iter().any(|report| !report.results.is_empty()) {
            table::show(&reports);
        }
        all?;
        if let Some(first) = reports.first_mut() {
            conclude(oracle, first);
        }
        Ok(reports)
    }

    /// A job without results, whose inner side shows what there is to show.
    pub(crate) fn execute_alone(&self, options: &Options) -> Outcome {
        println!("Everything of this run is kept in {}", self.job.directory.display());
        let part = self.parts.first().ok_or_else(|| Failure::new("there is no kernel to run on"))?;
        let site = Site::new(&self.job, part.clone(), false)?;
        let end = Instant::now() + Duration::from_secs(options.timeout);
        self.side(&site, &self.job, options, end).run(&mut |_| Ok(()))
    }

    fn side<'a>(&'a self, site: &'a Site, job: &'a Job, options: &'a Options, end: Instant) -> Side<'a> {
        Side {
            lab: &self.program,
            accelerator: self.accelerator,
            guest: self.guest.as_ref(),
            site,
            job,
            append: &options.append,
            end,
        }
    }
}

impl Place {
    pub(crate) fn image(&self) -> Option<&Image> {
        match self {
            Self::Here => None,
            Self::Machine(image) => Some(image),
        }
    }
}

/// Provides the kernels of a wish.
fn part(wish: Wish, cache: &Path) -> Outcome<Part> {
    let place = if boots(&wish.kernel) {
        Place::Machine(Image::provide(&wish.kernel, cache)?)
    } else {
        let missing = probe::missing().during(|| "the running kernel cannot be used".into())?;
        ensure(missing.is_empty(), || {
            format!(
                "the running kernel lacks {}; without --kernel running the lab boots one in QEMU",
                missing.join(", ")
            )
        })?;
        Place::Here
    };
    let peer = wish.umip.as_ref().map(|choice| Image::provide(choice, cache)).transpose()?;
    Ok(Part { label: wish.label(), place, peer, names: wish.names })
}

/// Its guest in QEMU makes a scenario slow: it has to be asked for.
fn wants_guest(task: &Task, named: bool) -> bool {
    let in_qemu = |name: &String| scenarios::named(name).is_some_and(|scenario| scenario.peer == Peer::Qemu);
    matches!(task, Task::Scenarios(names) if named && names.iter().any(in_qemu))
}

fn mip6d() -> Outcome<Option<PathBuf>> {
    let path = std::env::var_os("KAGEMUSHA_MIP6D").filter(|path| !path.is_empty()).map(PathBuf::from);
    let Some(path) = path else { return Ok(None) };
    let path = path.canonicalize().during(|| format!("KAGEMUSHA_MIP6D: {}", path.display()))?;
    let program = path.is_file() && nix::unistd::access(&path, nix::unistd::AccessFlags::X_OK).is_ok();
    ensure(program, || format!("KAGEMUSHA_MIP6D: {} is no program that can be executed", path.display()))?;
    Ok(Some(path))
}

/// Variables of the user's environment that are for the inner side.
fn environment() -> std::collections::BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| name.starts_with("KAGEMUSHA_") || name == "RUST_BACKTRACE")
        .collect()
}

/// Builds the program under test by the profile that the lab itself was built with.
fn build(bin: &Path) -> Outcome {
    println!("Building kagemusha");
    let mut command = cargo();
    // All of the workspace: `--package` alone would have other features of shared dependencies and build them again.
    command.args(["build", "--quiet", "--workspace", "--bins"]);
    if bin.file_name().is_some_and(|name| name == "release") {
        command.arg("--release");
    }
    ensure(command.status().during(|| "cargo build".into())?.success(), || "kagemusha does not build".into())
}

/// Makes `<lab>/run-<n>`, keeps the last runs, and points `<lab>/latest` to it.
fn new_run_directory(lab: &Path) -> Outcome<PathBuf> {
    const KEPT: usize = 8;
    let number = |entry: &fs::DirEntry| entry.file_name().to_str()?.strip_prefix("run-")?.parse::<u32>().ok();
    let mut runs: Vec<u32> = fs::read_dir(lab)?.flatten().filter_map(|entry| number(&entry)).collect();
    runs.sort_unstable();
    let next = runs.last().map_or(1, |last| last + 1);
    for old in runs.iter().rev().skip(KEPT - 1) {
        let old = lab.join(format!("run-{old}"));
        fs::remove_dir_all(&old).during(|| old.display().to_string())?;
    }
    let directory = lab.join(format!("run-{next}"));
    fs::create_dir(&directory).during(|| format!("{} must be writable", lab.display()))?;
    let latest = lab.join("latest");
    // It may not be there yet.
    let _ = fs::remove_file(&latest);
    std::os::unix::fs::symlink(format!("run-{next}"), &latest).during(|| latest.display().to_string())?;
    Ok(directory)
}

/// Adds what tshark thinks of the captures to the report.
fn conclude(oracle: Oracle, report: &mut KernelReport) {
    let started = Instant::now();
    // Its own failure is one result among others.
    let opinion = oracle.conclude().unwrap_or_else(|failure| Opinion {
        complaints: vec![format!("the captures could not be read: {failure}")],
        ..Opinion::default()
    });
    println!(
        "tshark has read {} captures with {} mobility headers, {} of them decrypted with good ICV and checksum",
        opinion.captures, opinion.mobility_headers, opinion.decrypted
    );
    opinion.complaints.iter().for_each(|complaint| println!("    {complaint}"));
    let registered = report.results.iter().any(|r| r.name == "register-esp" && r.verdict == Verdict::Passed);
    let verdict = match opinion.complaints.first() {
        Some(first) => Verdict::Failed(format!("{} complaints, the first: {first}", opinion.complaints.len())),
        None if registered && opinion.decrypted == 0 => Verdict::Failed("it has decrypted nothing".into()),
        None => Verdict::Passed,
    };
    let seconds = started.elapsed().as_secs_f64();
    report.results.push(ScenarioResult { name: TSHARK.into(), verdict, seconds });
}
