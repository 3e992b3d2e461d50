//! `cargo lab bench tunnel`: the tunnel engine beside the kernel's own tunnels.
//!
//! The same four nodes for each variant ([`path`]), the same load ([`load`]), one after the other in rounds, so that a disturbance
//! meets all of them; every number is then divided by that of kernel VXLAN in the same round ([`stats`]).

mod aims;
mod content;
mod correctness;
mod cpu;
pub(crate) mod end;
mod hostile;
mod load;
mod memory;
mod naive;
pub(crate) mod path;
mod process;
mod report;
mod sample;
mod shaped;
pub(crate) mod stats;
mod svg;
mod table;
pub(crate) mod variant;

use std::fs;
use std::path::{Path as FilePath, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use clap::Args;

use crate::failure::{Failure, Outcome, While, ensure};
use crate::{outer, packages};
use path::{KernelTunnel, Path};
use report::Report;
use sample::{Sample, Times};
use variant::{Mode, Setting, Variant};

/// Options of `cargo lab bench tunnel`.
#[derive(Args)]
pub(crate) struct Options {
    /// Less than 90 seconds: the main setting, and a glance at the others.
    #[arg(long)]
    quick: bool,
    /// Only these variants, such as `vxlan,portable`; without `vxlan` there are no ratios.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Measures nothing: TCP and UDP through each tier over an underlay that loses and reorders; every octet is compared.
    #[arg(long)]
    correctness: bool,
    /// How many octets of TCP the correctness takes, in each tier.
    #[arg(long, default_value_t = 1_000_000_000)]
    octets: u64,
}

/// Options of the program that measures.
#[derive(Args)]
pub(crate) struct MeasureOptions {
    #[command(flatten)]
    options: Options,
    /// Where the results go.
    #[arg(long)]
    directory: PathBuf,
}

/// Builds the lab as it is to be measured, and lets that measure.
pub(crate) fn build_and_measure(options: &Options) -> Outcome<ExitCode> {
    if let Err(code) = packages::provide(&[&packages::IPROUTE2, &packages::CLANG, &packages::KMOD])? {
        return Ok(code);
    }
    println!("Building for release, with the eBPF tier");
    let status = outer::cargo()
        .args(["build", "--release", "--quiet", "--package", "kagemusha-lab", "--features", "ebpf"])
        .status();
    ensure(status.during(|| "cargo build".into())?.success(), || "the lab does not build for release".into())?;
    let program = std::env::current_exe()?;
    let target = program.parent().and_then(FilePath::parent);
    let target = target.ok_or_else(|| Failure::new("the lab's program has no directory"))?;
    // Within its session; see `cpu::before_others` for the rest.
    let mut measure = Command::new("nice");
    measure.args(["-n", "-10"]).arg(target.join("release").join("kagemusha-lab"));
    measure.args(["bench", "tunnel-measure", "--directory"]).arg(target.join("lab").join("bench"));
    if options.quick {
        measure.arg("--quick");
    }
    if !options.only.is_empty() {
        measure.args(["--only", &options.only.join(",")]);
    }
    if options.correctness {
        measure.args(["--correctness", "--octets", &options.octets.to_string()]);
    }
    let status = measure.status().during(|| "the program that measures".into())?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// How much is measured.
struct Plan {
    /// Rounds of the main setting, and of each other one.
    main_rounds: usize,
    other_rounds: usize,
    others: Vec<Setting>,
    times: Times,
    /// In the other settings.
    other_times: Times,
    /// The last round of a setting begins before this.
    enough: Duration,
    shaped: shaped::Plan,
    memory: memory::Plan,
}

impl Plan {
    fn new(quick: bool) -> Self {
        let milliseconds = Duration::from_millis;
        let others = Setting::all().into_iter().filter(|setting| *setting != Setting::MAIN);
        let short = Times {
            warm_up: milliseconds(80),
            tcp: milliseconds(300),
            small: milliseconds(200),
            round_trips: milliseconds(150),
        };
        if quick {
            return Self {
                main_rounds: 3,
                other_rounds: 1,
                others: vec![Setting { pinned: false, ..Setting::MAIN }],
                times: short,
                other_times: short,
                enough: Duration::from_secs(60),
                shaped: shaped::Plan { time: milliseconds(1200), rounds: 1 },
                memory: memory::Plan { octets: 10_000_000_000, at_most: milliseconds(1500), guests: 1000 },
            };
        }
        Self {
            main_rounds: 5,
            other_rounds: 3,
            others: others.collect(),
            times: Times {
                warm_up: milliseconds(150),
                tcp: milliseconds(450),
                small: milliseconds(300),
                round_trips: milliseconds(200),
            },
            other_times: short,
            enough: Duration::from_secs(440),
            shaped: shaped::Plan { time: Duration::from_secs(3), rounds: 3 },
            memory: memory::Plan { octets: 10_000_000_000, at_most: Duration::from_secs(15), guests: 1000 },
        }
    }
}

/// Measures, tells and writes.
pub(crate) fn measure(options: &MeasureOptions) -> Outcome<ExitCode> {
    let begin = Instant::now();
    cpu::before_others()?;
    let plan = Plan::new(options.options.quick);
    let kernel_tunnel = path::kernel_tunnel()?;
    let variants = choose(&options.options.only, kernel_tunnel)?;
    if options.options.correctness {
        let good = correctness::measure(&variants, options.options.octets)?;
        return Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let mut report = Report::new(kernel_tunnel)?;
    let variants = standing(variants, kernel_tunnel, &mut report);
    ensure(!variants.is_empty(), || "no variant can be measured; see above".into())?;

    println!("The setting of the aims: {}", Setting::MAIN.describe());
    let mut other: Vec<Setting> = plan.others.clone();
    let with_main = |setting: &Setting| (setting.mode, setting.mtu) == (Setting::MAIN.mode, Setting::MAIN.mtu);
    for (mode, mtu) in [(Mode::Wire, 1500), (Mode::Virtual, 1500), (Mode::Wire, 9000), (Mode::Virtual, 9000)] {
        let settings: Vec<Setting> =
            other.extract_if(.., |setting| (setting.mode, setting.mtu) == (mode, mtu)).collect();
        let main = settings.iter().all(with_main) && (mode, mtu) == (Setting::MAIN.mode, Setting::MAIN.mtu);
        if settings.is_empty() && !main {
            continue;
        }
        let paths = variants.iter().map(|variant| Path::build(*variant, mode, mtu, kernel_tunnel));
        let mut paths = paths.collect::<Outcome<Vec<Path>>>()?;
        if main {
            rounds(&paths, Setting::MAIN, plan.main_rounds, &plan.times, &mut report, begin + plan.enough)?;
        }
        for setting in settings {
            rounds(&paths, setting, plan.other_rounds, &plan.other_times, &mut report, begin + plan.enough)?;
        }
        report.counters(&mut paths, &format!("{mode:?}, {mtu} octets"))?;
    }
    report.shaped = shaped::measure(&variants, kernel_tunnel, &plan.shaped)?;
    report.memory = memory::measure(&variants, &plan.memory)?;
    report.seconds = begin.elapsed().as_secs_f64();
    print!("{}", table::whole(&report));
    write(&report, &options.directory)?;
    Ok(ExitCode::SUCCESS)
}

fn choose(names: &[String], kernel_tunnel: Option<KernelTunnel>) -> Outcome<Vec<Variant>> {
    for name in names {
        ensure(Variant::ALL.iter().any(|variant| variant.name() == name), || {
            let known: Vec<_> = Variant::ALL.iter().map(|variant| variant.name()).collect();
            format!("{name:?} is none of {}", known.join(", "))
        })?;
    }
    let chosen = Variant::ALL.into_iter().filter(|variant| {
        let named = names.is_empty() || names.iter().any(|name| name == variant.name());
        let there = *variant != Variant::KernelTunnel || kernel_tunnel.is_some();
        if named && !there {
            println!("SKIP kernel-tunnel: this kernel has neither ip6tnl nor seg6");
        }
        named && there
    });
    Ok(chosen.collect())
}

/// Those that can be built on this kernel; the others are told loudly.
fn standing(variants: Vec<Variant>, kernel_tunnel: Option<KernelTunnel>, report: &mut Report) -> Vec<Variant> {
    let stands = |variant: &Variant| match Path::build(*variant, Mode::Wire, 1500, kernel_tunnel) {
        Ok(path) => {
            if let Some(description) = path.description() {
                println!("{}: {description}", variant.name());
                report.descriptions.insert(*variant, description.to_owned());
            }
            true
        }
        Err(failure) => {
            println!("SKIP {}: {failure}", variant.name());
            report.skipped.insert(*variant, failure.to_string());
            false
        }
    };
    variants.into_iter().filter(stands).collect()
}

fn rounds(
    paths: &[Path],
    setting: Setting,
    count: usize,
    times: &Times,
    report: &mut Report,
    enough: Instant,
) -> Outcome {
    for round in 0..count {
        if Instant::now() > enough {
            println!("{}: only {round} of {count} rounds, for the time is over", setting.describe());
            break;
        }
        println!("{}: round {} of {count}", setting.describe(), round + 1);
        // Another order in each round: nobody is always the one after the heaviest.
        for n in 0..paths.len() {
            let path = &paths[(n + round) % paths.len()];
            match path.measure(setting, round, times) {
                Ok(sample) => report.samples.push(sample),
                Err(failure) => {
                    println!("FAILED {}: {failure}", path.variant.name());
                    report.failures.push(format!("{} ({}): {failure}", path.variant.name(), setting.describe()));
                }
            }
        }
    }
    Ok(())
}

fn write(report: &Report, directory: &FilePath) -> Outcome {
    fs::create_dir_all(directory).during(|| directory.display().to_string())?;
    for (name, text) in [
        ("tunnel.json", serde_json::to_string_pretty(report)?),
        ("tunnel.svg", svg::draw(report)),
        ("tunnel.txt", table::whole(report)),
    ] {
        let file = directory.join(name);
        fs::write(&file, text).during(|| file.display().to_string())?;
        println!("{}", file.display());
    }
    Ok(())
}

/// Keeps the name in one place for those that look at samples only.
type Samples = [Sample];
