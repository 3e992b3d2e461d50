//! The outer side: builds the program under test, provides packages and a kernel, runs the inner side and tells what
//! became of it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::failure::{Failure, Outcome, While, ensure};
use crate::job::{COMPLETE, Job, LINE, Report, ScenarioResult, Task, Verdict};
use crate::migration::image;
use crate::oracle::{Opinion, Oracle};
use crate::scenario::Peer;
use crate::{lanes, packages, probe, scenarios, uml};

/// Options of the commands that run something.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Options {
    /// The kernel to run on.
    #[arg(long, value_enum, default_value_t = Kernel::Auto)]
    kernel: Kernel,
    /// End everything after so many seconds.
    #[arg(long, default_value_t = 1500)]
    timeout: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Kernel {
    /// The running one if it has all the lab needs, otherwise User-Mode Linux.
    #[default]
    Auto,
    /// The running one.
    Running,
    /// User-Mode Linux.
    Uml,
}

/// `cargo lab list`.
pub(crate) fn list() -> ExitCode {
    let width = scenarios::ALL.iter().map(|scenario| scenario.name.len()).max().unwrap_or_default();
    for scenario in scenarios::ALL {
        println!("{:width$}  {}", scenario.name, scenario.title());
    }
    ExitCode::SUCCESS
}

/// `cargo lab check`.
pub(crate) fn check() -> ExitCode {
    report_failure(|| {
        if let Err(code) = packages::provide(&[packages::IPROUTE2])? {
            return Ok(code);
        }
        let missing = probe::missing()?;
        if missing.is_empty() {
            println!("The running kernel has all the lab needs.");
            return Ok(ExitCode::SUCCESS);
        }
        println!("The running kernel lacks: {}. The lab runs in User-Mode Linux.", missing.join(", "));
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
        let run = match prepare(task, false, options)? {
            Ok(run) => run,
            Err(code) => return Ok(code),
        };
        let report = run.execute(options)?;
        for result in &report.results {
            if let Verdict::Failed(why) = &result.verdict {
                println!("{}: FAILED: {why}", result.name);
            }
        }
        Ok(verdict(&report))
    })
}

/// `cargo lab test`.
pub(crate) fn test(filter: Option<&str>, scenarios_only: bool, options: &Options) -> ExitCode {
    report_failure(|| {
        let chosen = scenarios::matching(filter);
        ensure(!chosen.is_empty(), || format!("no scenario's name contains {:?}", filter.unwrap_or_default()))?;
        let unit_tests = if scenarios_only || filter.is_some() { true } else { unit_tests()? };
        let names = chosen.iter().map(|scenario| scenario.name.to_owned()).collect();
        let run = match prepare(Task::Scenarios(names), filter.is_some(), options)? {
            Ok(run) => run,
            Err(code) => return Ok(code),
        };
        let report = run.execute(options)?;
        table(&report);
        if !unit_tests {
            println!("The unit tests failed; see above.");
        }
        Ok(if unit_tests { verdict(&report) } else { ExitCode::FAILURE })
    })
}

/// A benchmark whose inner side shows its results itself.
pub(crate) fn bench(task: Task, options: &Options) -> Outcome<ExitCode> {
    let run = match prepare(task, false, options)? {
        Ok(run) => run,
        Err(code) => return Ok(code),
    };
    run.run_inner(&run.job, "", options, &|_| {})?;
    // It is written at the end, when all went well.
    Report::read(&run.job.directory).during(|| "the benchmark has not ended; see above".into())?;
    Ok(ExitCode::SUCCESS)
}

fn report_failure(work: impl FnOnce() -> Outcome<ExitCode>) -> ExitCode {
    work().unwrap_or_else(|failure| {
        eprintln!("cargo lab: {failure}");
        ExitCode::FAILURE
    })
}

fn verdict(report: &Report) -> ExitCode {
    let failed = |verdict: &Verdict| matches!(verdict, Verdict::Failed(_));
    if report.results.is_empty() || report.results.iter().any(|result| failed(&result.verdict)) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn table(report: &Report) {
    println!();
    let width = report.results.iter().map(|result| result.name.len()).max().unwrap_or_default();
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for result in &report.results {
        let (text, why) = match &result.verdict {
            Verdict::Passed => ("passed", ""),
            Verdict::PassedLate(why) => ("2ND", why.as_str()),
            Verdict::Failed(why) => ("FAILED", why.lines().next().unwrap_or_default()),
            Verdict::Skipped(why) => ("SKIP", why.as_str()),
        };
        match result.verdict {
            Verdict::Passed | Verdict::PassedLate(_) => passed += 1,
            Verdict::Failed(_) => failed += 1,
            Verdict::Skipped(_) => skipped += 1,
        }
        println!("{:width$}  {text:<6}  {:7.2} s  {why}", result.name, result.seconds);
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
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

/// What every run needs.
const BASE: [packages::Need; 5] =
    [packages::IPROUTE2, packages::PING, packages::TSHARK, packages::KMOD, packages::RADVD];

/// A run that is ready to go.
struct Run {
    job: Job,
    /// The lab itself, by the name it had before the build, which may have put another file there.
    program: PathBuf,
    on_uml: bool,
}

/// Builds, installs, decides. `named`: the user has asked for these scenarios by name. `Ok(Err(code))`: the user has been told what to do first.
fn prepare(task: Task, named: bool, options: &Options) -> Outcome<Result<Run, ExitCode>> {
    let program = std::env::current_exe()?;
    let bin = program.parent().ok_or_else(|| Failure::new("the lab's program has no directory"))?;
    let target = bin.parent().unwrap_or(bin);
    ensure(!target.starts_with("/run") && !target.starts_with("/var/lib") && !target.starts_with("/dev"), || {
        format!("{}: the lab empties /run, /var/lib and /dev for its nodes; build somewhere else", target.display())
    })?;
    build(bin)?;
    if let Err(code) = packages::provide(&BASE)? {
        return Ok(Err(code));
    }
    let mip6d = std::env::var_os("KAGEMUSHA_MIP6D").filter(|path| !path.is_empty()).map(PathBuf::from);
    let mip6d =
        mip6d.map(|path| path.canonicalize().during(|| format!("KAGEMUSHA_MIP6D: {}", path.display()))).transpose()?;
    if let Some(path) = &mip6d {
        ensure(path.is_file(), || format!("KAGEMUSHA_MIP6D: {} is no file", path.display()))?;
    }
    let on_uml = match options.kernel {
        Kernel::Uml => true,
        Kernel::Running => false,
        Kernel::Auto => match probe::missing() {
            Ok(missing) if missing.is_empty() => false,
            Ok(missing) => {
                println!("The running kernel lacks {}: using User-Mode Linux.", missing.join(", "));
                true
            }
            Err(failure) => {
                println!("The running kernel cannot be used ({failure}): using User-Mode Linux.");
                true
            }
        },
    };
    if on_uml && let Err(code) = packages::provide(&[packages::UML])? {
        return Ok(Err(code));
    }
    // Its guest in QEMU makes a scenario slow: it has to be asked for.
    let in_qemu = |name: &String| scenarios::named(name).is_some_and(|scenario| scenario.peer == Peer::Qemu);
    let wants_guest = matches!(&task, Task::Scenarios(names) if named && names.iter().any(in_qemu));
    let image = if wants_guest {
        if let Err(code) = packages::provide(&[packages::QEMU, packages::XZ, packages::BINUTILS])? {
            return Ok(Err(code));
        }
        Some(image::provide(&target.join("lab").join("guest"), &program)?)
    } else {
        None
    };
    let directory = new_run_directory(&target.join("lab"))?;
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| name.starts_with("KAGEMUSHA_") || name == "RUST_BACKTRACE")
        .collect();
    let job = Job { directory, kagemusha: bin.join("kagemusha"), mip6d, image, named, begun: None, environment, task };
    job.write()?;
    Ok(Ok(Run { job, program, on_uml }))
}

/// Builds the program under test by the profile that the lab itself was built with.
fn build(bin: &Path) -> Outcome {
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
    fs::create_dir_all(lab).during(|| lab.display().to_string())?;
    let number = |entry: &fs::DirEntry| entry.file_name().to_str()?.strip_prefix("run-")?.parse::<u32>().ok();
    let mut runs: Vec<u32> = fs::read_dir(lab)?.flatten().filter_map(|entry| number(&entry)).collect();
    runs.sort_unstable();
    let next = runs.last().map_or(1, |last| last + 1);
    for old in runs.iter().rev().skip(KEPT - 1) {
        let old = lab.join(format!("run-{old}"));
        fs::remove_dir_all(&old).during(|| old.display().to_string())?;
    }
    let directory = lab.join(format!("run-{next}"));
    fs::create_dir(&directory).during(|| directory.display().to_string())?;
    let latest = lab.join("latest");
    // It may not be there yet.
    let _ = fs::remove_file(&latest);
    std::os::unix::fs::symlink(format!("run-{next}"), &latest).during(|| latest.display().to_string())?;
    Ok(directory)
}

impl Run {
    /// Starts the inner side, shows its lines, and reads its report.
    fn execute(&self, options: &Options) -> Outcome<Report> {
        let directory = &self.job.directory;
        let lanes = if self.on_uml { lanes::split(&self.job)? } else { vec![] };
        let oracle = Oracle::start();
        let complete = |lane: &Job, name: &str| {
            if let Err(failure) = lanes::bring_home(&self.job, &lane.directory, name) {
                println!("{failure}");
            }
            if scenarios::named(name).is_none_or(|scenario| scenario.well_formed) {
                oracle.ask(directory.join(name));
            }
        };
        let report = if lanes.is_empty() {
            self.run_inner(&self.job, "", options, &|name| complete(&self.job, name))
                .and_then(|()| Report::read(directory))
        } else {
            self.run_lanes(&lanes, options, &complete).and_then(|()| lanes::gather(&lanes))
        };
        if report.is_err() {
            let unfinished = Report::read(directory).or_else(|_| lanes::gather(&lanes));
            unfinished.iter().for_each(table);
        }
        let mut report = report?;
        Self::conclude(oracle, &mut report);
        Ok(report)
    }

    /// Starts an inner side for each lane, all at once.
    fn run_lanes(&self, lanes: &[Job], options: &Options, complete: &(dyn Fn(&Job, &str) + Sync)) -> Outcome {
        std::thread::scope(|scope| {
            let run = |(number, job)| {
                let prefix = format!("{}| ", number + 1);
                scope.spawn(move || self.run_inner(job, &prefix, options, &|name| complete(job, name)))
            };
            let running: Vec<_> = lanes.iter().enumerate().map(run).collect();
            let panicked = |_| Err(Failure::new("a thread of the lab panicked"));
            running.into_iter().try_for_each(|lane| lane.join().unwrap_or_else(panicked))
        })
    }

    /// Starts the inner side for a job and shows its lines, with `prefix` in front.
    fn run_inner(&self, job: &Job, prefix: &str, options: &Options, complete: &dyn Fn(&str)) -> Outcome {
        println!("{prefix}Everything of this run is kept in {}", job.directory.display());
        let name = job.directory.file_name().unwrap_or_default().to_string_lossy();
        let scratch = std::env::temp_dir().join(format!("kagemusha-lab-{}-{name}", std::process::id()));
        fs::create_dir(&scratch).during(|| scratch.display().to_string())?;
        let timeout = Duration::from_secs(options.timeout);
        let console = job.directory.join("console.log");
        let result = self
            .start(&job.directory, &scratch)
            .and_then(|child| follow(child, prefix, &console, timeout, complete))
            .during(|| format!("see {}", console.display()));
        fs::remove_dir_all(&scratch).during(|| scratch.display().to_string())?;
        result
    }

    /// Adds what tshark thinks of the captures to the report.
    fn conclude(oracle: Oracle, report: &mut Report) {
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
        report.results.push(ScenarioResult { name: "captures-by-tshark".into(), verdict, seconds });
    }

    fn start(&self, directory: &Path, scratch: &Path) -> Outcome<Child> {
        let mut command = if self.on_uml {
            let program = uml::program().ok_or_else(|| Failure::new("linux.uml or its modules are missing"))?;
            uml::command(program, &self.program, directory, scratch)?
        } else {
            let mut command = Command::new(&self.program);
            command.arg("inner").arg(directory).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            command
        };
        command.spawn().during(|| format!("starting {}", command.get_program().to_string_lossy()))
    }
}

/// Shows the lines of the inner side as they come, keeps all its output, and ends it when the time is over.
fn follow(mut child: Child, prefix: &str, console: &Path, timeout: Duration, complete: &dyn Fn(&str)) -> Outcome {
    let deadline = Instant::now() + timeout;
    let (lines, receiver) = mpsc::channel::<Vec<u8>>();
    let streams: [Option<Box<dyn Read + Send>>; 2] = [
        child.stdout.take().map(|stream| Box::new(stream) as Box<dyn Read + Send>),
        child.stderr.take().map(|stream| Box::new(stream) as Box<dyn Read + Send>),
    ];
    for stream in streams.into_iter().flatten() {
        let lines = lines.clone();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stream);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                if lines.send(std::mem::take(&mut line)).is_err() {
                    break;
                }
            }
        });
    }
    drop(lines);
    let mut log = fs::File::create(console).during(|| console.display().to_string())?;
    loop {
        match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                log.write_all(&line)?;
                let text = String::from_utf8_lossy(&line);
                if let Some(name) = text.trim_end().strip_prefix(COMPLETE) {
                    complete(name);
                }
                // An empty line has lost the space at its end.
                if let Some(text) = text.trim_end().strip_prefix(LINE.trim_end()) {
                    // Whoever reads may have seen enough; the run goes on and has its exit code.
                    let _ = writeln!(std::io::stdout(), "{prefix}{}", text.strip_prefix(' ').unwrap_or(text));
                }
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                end(&mut child)?;
                return Err(Failure::new(format!("ended after {} s", timeout.as_secs())));
            }
        }
    }
    child.wait()?;
    Ok(())
}

/// User-Mode Linux ends its own helpers on SIGTERM; SIGKILL is for the case that it does not.
fn end(child: &mut Child) -> Outcome {
    let pid = i32::try_from(child.id()).during(|| "process id".into())?;
    kill(Pid::from_raw(pid), Signal::SIGTERM)?;
    let deadline = Instant::now() + Duration::from_secs(3);
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
