//! `cargo lab bench memory`: resident memory of the daemon itself, as it would be installed: built for release and linked statically.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{Ipv6Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use serde::Serialize;

use crate::failure::{Failure, Outcome, While, ensure};
use crate::inner::tell;
use crate::job::{Job, Task};
use crate::migration::sites::{Site, Sites};
use crate::migration::stage::{Options, Stage};
use crate::outer;
use crate::scenario::Lab;
use crate::topology::cast::GUEST;

/// How many guests more the second daemon knows.
const MORE: u16 = 100;
/// Longer than the daemon keeps memory that it does not use.
const IDLE: Duration = Duration::from_secs(35);
/// How much the guest sends by TCP. The lab keeps all of it, on each link; `cargo lab bench tunnel` sends more.
const OCTETS: usize = 40_000_000;
const PORT: u16 = 5001;
/// The aims, in kB: with one guest, and for each further one.
const AIM: (u64, u64) = (1500, 32);

/// What is resident, in kB.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Resident {
    /// All of it.
    pub(crate) all: u64,
    /// Of its own.
    pub(crate) own: u64,
}

/// Builds the daemon and lets it be looked at.
pub(crate) fn build_and_measure(options: &crate::run::Options) -> Outcome<ExitCode> {
    let target = host_triple()?;
    println!("Building kagemusha for release, linked statically");
    let mut build = outer::cargo();
    build.args(["build", "--quiet", "--release", "--package", "kagemusha", "--bin", "kagemusha", "--target", &target]);
    // Not for build scripts and macros, which are programs and libraries of the host.
    build.env("RUSTFLAGS", "-C target-feature=+crt-static");
    ensure(build.status().during(|| "cargo build".into())?.success(), || "kagemusha does not build".into())?;
    let program = std::env::current_exe()?;
    let directory = program.parent().and_then(Path::parent);
    let directory = directory.ok_or_else(|| Failure::new("the lab's program has no directory"))?;
    let program = directory.join(target).join("release").join("kagemusha");
    outer::bench(Task::BenchMemory { program }, options)
}

/// The platform that the compiler builds for by itself.
fn host_triple() -> Outcome<String> {
    let output = Command::new("rustc").arg("-vV").output().during(|| "rustc".into())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.ok_or_else(|| Failure::new("rustc does not tell its platform"))?.to_owned())
}

/// The inner side.
pub(crate) fn run(job: &Job, program: PathBuf) -> Outcome {
    let job = Job { kagemusha: program, ..job.clone() };
    let (idle, after) = with_lab(&job, 1, one_guest)?;
    let many = with_lab(&job, 1 + MORE, |lab| on_stage(lab, 1 + MORE, |daemon| daemon()))?;
    let each = many.all.saturating_sub(idle.all) / u64::from(MORE);
    let mut text = String::new();
    let line = |resident: Resident| format!("{:5} kB resident, {:4} kB of them its own", resident.all, resident.own);
    let _ = writeln!(text, "One guest, bound, idle             {} (aim {} kB)", line(idle), AIM.0);
    let _ = writeln!(text, "The same after {:4} MB              {} (aim: no growth)", OCTETS / 1_000_000, line(after));
    let _ = writeln!(text, "{:3} guests, one of them bound      {}", 1 + MORE, line(many));
    let _ = writeln!(text, "Each further guest                 {each:5} kB (aim {} kB)", AIM.1);
    text.lines().for_each(tell);
    let file = job.directory.join("memory.json");
    let all = serde_json::json!({ "idle": idle, "after": after, "octets": OCTETS, "many": many, "each_kb": each });
    std::fs::write(&file, serde_json::to_vec_pretty(&all)?).during(|| file.display().to_string())
}

fn with_lab<T>(job: &Job, guests: u16, measure: impl FnOnce(&Lab) -> Outcome<T>) -> Outcome<T> {
    let mut lab = Lab::new(&job.directory.join(format!("bench-memory-{guests}")), job, None)?;
    let result = measure(&lab);
    lab.finish()?;
    result
}

/// Idle, and after a transfer.
fn one_guest(lab: &Lab) -> Outcome<(Resident, Resident)> {
    on_stage(lab, 1, |daemon| {
        let idle = daemon()?;
        transfer(lab).during(|| "a TCP transfer from the guest".into())?;
        std::thread::sleep(IDLE);
        Ok((idle, daemon()?))
    })
}

/// From the guest to the correspondent.
fn transfer(lab: &Lab) -> Outcome {
    let listener = lab.net.guest.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT)))??;
    let sender = std::thread::spawn(move || listener.accept()?.0.write_all(&vec![0x5a; OCTETS]));
    let mut stream = lab.net.cn.run(|| TcpStream::connect((GUEST, PORT)))??;
    let received = std::io::copy(&mut stream, &mut std::io::sink())?;
    sender.join().map_err(|_| Failure::new("the sender panicked"))??;
    ensure(received == OCTETS as u64, || format!("{received} octets came of {OCTETS}"))
}

/// With the first guest bound at site 1, whose daemon is looked at.
fn on_stage<T>(
    lab: &Lab,
    guests: u16,
    look: impl FnOnce(&mut dyn FnMut() -> Outcome<Resident>) -> Outcome<T>,
) -> Outcome<T> {
    let sites = Sites::build(lab)?;
    let mut stage = Stage::set(lab, &sites, &Options { guests, ..Options::default() })?;
    let _guest = stage.guest_at(Site::One)?;
    std::thread::sleep(IDLE);
    let found = look(&mut || stage.host(Site::One)?.resident())?;
    stage.end()?;
    Ok(found)
}
