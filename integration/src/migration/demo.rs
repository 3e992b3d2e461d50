//! `cargo lab demo migration`: a guest moves from site to site, and its correspondent's echo requests are drawn over time.

use std::time::{Duration, Instant};

use super::chart::Chart;
use super::journey::PING_INTERVAL;
use super::sites::{Site, Sites};
use super::stage::{Options, Stage, impair};
use super::traffic::{Pinger, now};
use crate::failure::{Outcome, While};
use crate::job::{Job, LINE, ScenarioResult, Verdict};
use crate::scenario::Lab;
use crate::topology::cast::GUEST;

/// Name of the demo, and of its directory.
const NAME: &str = "demo-migration";
/// How long the guest stays at each site.
const STAY: Duration = Duration::from_secs(4);
/// One way between the foreign sites' hosts and the core of the network.
const DISTANCES: [(Site, Duration); 2] =
    [(Site::One, Duration::from_millis(5)), (Site::Two, Duration::from_millis(15))];

/// Runs it and prints the chart.
pub(crate) fn run(job: &Job) -> Vec<ScenarioResult> {
    let started = Instant::now();
    let verdict = match show(job) {
        Ok(()) => Verdict::Passed,
        Err(failure) => Verdict::Failed(failure.to_string()),
    };
    vec![ScenarioResult { name: NAME.to_owned(), verdict, seconds: started.elapsed().as_secs_f64() }]
}

fn show(job: &Job) -> Outcome {
    let mut lab = Lab::new(&job.directory.join(NAME), job, None)?;
    let result = act(&lab);
    lab.finish()?;
    result
}

fn act(lab: &Lab) -> Outcome {
    let net = &lab.net;
    let sites = Sites::build(lab)?;
    let stage = Stage::set(lab, &sites, &Options::default())?;
    for (site, distance) in DISTANCES {
        impair(&net.core, if site == Site::One { "eth1" } else { "eth2" }, distance, 0)?;
        impair(sites.host(lab, site), "eth0", distance, 0)?;
        lab.step(&format!("{} is {} ms away from home, one way", site.name(), distance.as_millis()));
    }
    let _guest = stage.guest_at_home()?;
    lab.step(
        "the guest is at home, bridged, without Mobile IPv6; a correspondent there sends 100 echo requests a second",
    );
    let pinger = Pinger::start(&net.cn, &[GUEST], PING_INTERVAL)?;
    let mut stays = vec![(now(), Site::Home.name())];
    std::thread::sleep(STAY);
    for (from, to) in [(Site::Home, Site::One), (Site::One, Site::Two), (Site::Two, Site::Home)] {
        stays.push((stage.move_guest(from, to)?, to.name()));
        std::thread::sleep(STAY);
    }
    let probes = pinger.end(Duration::from_secs(1))?;
    let chart = Chart {
        title: "A guest moves between sites: round-trip time and loss of a correspondent's echo requests",
        probes: &probes,
        stays: &stays,
    };
    let file = lab.directory.join("migration.svg");
    std::fs::write(&file, chart.svg()).during(|| file.display().to_string())?;
    println!("{LINE}");
    chart.terminal(96, 12).lines().for_each(|line| println!("{LINE}{line}"));
    println!("{LINE}");
    println!("{LINE}The same as a picture: {}", file.display());
    stage.end()
}
