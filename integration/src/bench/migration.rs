//! `cargo lab bench migration`: how long a guest is not reached when it moves.
//!
//! The guest is a namespace: its cable is replugged and it announces itself. What lies between the two is the pause that a hypervisor makes, and is
//! none of ours. A correspondent on the home link sends echo requests; the gap reaches from the first that is lost to the next that is answered,
//! without that pause. It cannot be shorter than the round-trip time between home agent and host, for the old path carries until the binding
//! update has arrived, and the new one from then on.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::capture::Observer;
use crate::expect::{FIRST_REGISTRATION, SOON, is_protected_acknowledgement, is_protected_update};
use crate::failure::{Failure, Outcome, While, ensure};
use crate::job::{Job, LINE, ScenarioResult, Verdict};
use crate::migration::sites::{Site, Sites};
use crate::migration::stage::{Options, Stage, VM1, arrival, care_of, impair};
use crate::migration::traffic::{Pinger, longest_gap, now};
use crate::process::wait_until;
use crate::scenario::Lab;
use crate::topology::SEGMENT;
use crate::topology::cast::{GUEST, HOME_AGENT};

/// From one echo request to the next: the resolution of a gap.
const INTERVAL: Duration = Duration::from_millis(4);
/// What is allowed beside the round trip.
const ALLOWANCE: Duration = Duration::from_millis(5);
/// Duplicate address detection of the home agent (RFC 4862 §5.1).
const DETECTION: Duration = Duration::from_secs(1);
/// Between two moves: the rate of binding updates is limited (RFC 6275 §12).
const REST: Duration = Duration::from_millis(600);

/// How long it stays at home: a host takes what it hears of a guest for an echo up to 2 s after it was told that the guest has left.
const AT_HOME: Duration = Duration::from_millis(2200);

/// What lies between the home agent and each foreign host.
#[derive(Debug, Clone, Copy)]
struct Path {
    name: &'static str,
    /// One way.
    delay: Duration,
    loss_percent: u32,
}

const PATHS: [Path; 4] = [
    Path { name: "0 ms", delay: Duration::ZERO, loss_percent: 0 },
    Path { name: "20 ms", delay: Duration::from_millis(20), loss_percent: 0 },
    Path { name: "100 ms", delay: Duration::from_millis(100), loss_percent: 0 },
    Path { name: "20 ms, 1 % loss", delay: Duration::from_millis(20), loss_percent: 1 },
];

/// A kind of move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    ForeignToForeign,
    HomeToForeign,
    HomeToForeignOptimistic,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::ForeignToForeign => "foreign → foreign",
            Self::HomeToForeign => "home → foreign",
            Self::HomeToForeignOptimistic => "home → foreign, optimistic",
        }
    }

    fn detection(self) -> Duration {
        if self == Self::HomeToForeign { DETECTION } else { Duration::ZERO }
    }
}

/// One move, measured.
#[derive(Debug, Clone, Copy, Serialize)]
struct Move {
    /// From the first lost echo request to the next answered one, without `pause`; in microseconds like all others here.
    gap: u64,
    /// From the unplugging to the announcement.
    pause: u64,
    /// From the announcement on the guest's wire to the binding update on the foreign link.
    announcement_to_update: u64,
    /// From the last binding update to its acknowledgement, there.
    update_to_acknowledgement: u64,
    /// From the move to the first echo request on the guest's wire.
    move_to_first_packet: u64,
    /// Binding updates sent: more than one when one was lost.
    updates: usize,
}

/// All moves of a kind on a path.
#[derive(Debug, Serialize)]
struct Series {
    path: &'static str,
    kind: &'static str,
    /// Median round-trip time between home agent and host.
    round_trip: u64,
    detection: u64,
    moves: Vec<Move>,
}

/// Measures every series whose name contains `only`, and prints the table.
pub(crate) fn run(job: &Job, moves: usize, only: &str) -> Vec<ScenarioResult> {
    let mut results = Vec::new();
    let mut all = Vec::new();
    for path in PATHS {
        for kind in [Kind::ForeignToForeign, Kind::HomeToForeign, Kind::HomeToForeignOptimistic] {
            let series = format!("{}: {}", path.name, kind.name());
            if !series.contains(only) {
                continue;
            }
            let started = Instant::now();
            let name = format!("bench-{}-{}", path.name, kind.name()).replace([' ', ',', '%', '→'], "-");
            println!("{LINE}{series}, {moves} moves");
            let verdict = match measure(job, &name, path, kind, moves) {
                Ok(series) => {
                    println!("{LINE}    {}", series.line());
                    all.push(series);
                    Verdict::Passed
                }
                Err(failure) => {
                    println!("{LINE}    {failure}");
                    Verdict::Failed(failure.to_string())
                }
            };
            results.push(ScenarioResult { name, verdict, seconds: started.elapsed().as_secs_f64() });
        }
    }
    println!("{LINE}");
    table(&all).lines().for_each(|line| println!("{LINE}{line}"));
    let file = job.directory.join("migration.json");
    let written = serde_json::to_vec_pretty(&all)
        .map_err(|error| Failure::new(error.to_string()))
        .and_then(|text| std::fs::write(&file, text).during(|| file.display().to_string()));
    match written {
        Ok(()) => println!("{LINE}Every move: {}", file.display()),
        Err(failure) => println!("{LINE}{failure}"),
    }
    results
}

fn measure(job: &Job, name: &str, path: Path, kind: Kind, moves: usize) -> Outcome<Series> {
    let mut lab = Lab::new(&job.directory.join(name), job, None)?;
    let result = measure_in(&lab, path, kind, moves);
    lab.finish()?;
    result
}

fn measure_in(lab: &Lab, path: Path, kind: Kind, moves: usize) -> Outcome<Series> {
    let net = &lab.net;
    let sites = Sites::build(lab)?;
    let home_agent = if kind == Kind::HomeToForeignOptimistic { "optimistic_detection = true" } else { "" };
    let stage = Stage::set(lab, &sites, &Options { home_agent, ..Options::default() })?;
    let start = if kind == Kind::ForeignToForeign { Site::One } else { Site::Home };
    let _guest = if start == Site::Home { stage.guest_at_home()? } else { stage.guest_at(start)? };
    if !path.delay.is_zero() || path.loss_percent > 0 {
        for (node, interface) in [(&net.core, "eth1"), (&net.core, "eth2"), (&net.host, "eth0"), (&net.host2, "eth0")] {
            impair(node, interface, path.delay, path.loss_percent)?;
        }
    }
    let round_trip = round_trip(lab)?;
    let pinger = Pinger::start(&net.cn, &[GUEST], INTERVAL)?;
    let mut measured = Vec::new();
    let mut here = start;
    for _ in 0..moves {
        let target = if here == Site::One { Site::Two } else { Site::One };
        measured.push(one_move(lab, &stage, &sites, (here, target), &pinger)?);
        here = target;
        if start == Site::Home {
            stage.move_guest(here, Site::Home)?;
            here = Site::Home;
            std::thread::sleep(AT_HOME);
        }
    }
    pinger.end(Duration::from_millis(500))?;
    stage.end()?;
    Ok(Series {
        path: path.name,
        kind: kind.name(),
        round_trip: micros(round_trip),
        detection: micros(kind.detection()),
        moves: measured,
    })
}

/// The median round-trip time between the home agent and the foreign hosts. From then on their routers know them, as they would any host.
fn round_trip(lab: &Lab) -> Outcome<Duration> {
    let hosts = [Site::One, Site::Two].map(care_of);
    let pinger = Pinger::start(&lab.net.ha, &hosts, Duration::from_millis(20))?;
    std::thread::sleep(Duration::from_secs(1));
    let probes = pinger.end(Duration::from_millis(500))?;
    let all: Vec<Duration> = probes.iter().filter_map(|probe| probe.round_trip).collect();
    ensure(!all.is_empty(), || "the home agent does not reach the host".into())?;
    Ok(median(all))
}

fn one_move(lab: &Lab, stage: &Stage<'_>, sites: &Sites, (from, to): (Site, Site), pinger: &Pinger) -> Outcome<Move> {
    let (link, mut segment) = (stage.watch(to)?, lab.watch(SEGMENT)?);
    let moment = sites.move_guest(lab, from, to)?;
    arrival(&mut link.clone(), to, VM1, FIRST_REGISTRATION)?;
    let announced = segment.must_see("the announcement", SOON, |packet| packet.is_reverse_arp())?.time;
    let first = segment.must_see("an echo request for the guest", SOON, |packet| {
        packet.time > moment
            && packet.is_icmpv6(crate::dissect::icmpv6::ECHO_REQUEST)
            && packet.addresses().any(|(_, to)| to == GUEST)
    })?;
    // Not by a program of its own: on an emulated machine starting one takes longer than all that is measured.
    wait_until("echo requests are answered again", FIRST_REGISTRATION, || {
        std::thread::sleep(REST / 10);
        Ok(pinger.probes().iter().any(|probe| probe.sent > first.time && probe.round_trip.is_some()))
    })?;
    std::thread::sleep(REST);
    let gap = longest_gap(&pinger.probes(), moment.saturating_sub(REST), now());
    let (updates, acknowledged) = exchange(link, to)?;
    let (first_update, last_update) = updates
        .first()
        .zip(updates.iter().rfind(|time| **time <= acknowledged))
        .ok_or_else(|| Failure::new("no binding update was seen"))?;
    let pause = announced.saturating_sub(moment);
    Ok(Move {
        gap: micros(gap.saturating_sub(pause)),
        pause: micros(pause),
        announcement_to_update: micros(first_update.saturating_sub(announced)),
        update_to_acknowledgement: micros(acknowledged.saturating_sub(*last_update)),
        move_to_first_packet: micros(first.time.saturating_sub(moment)),
        updates: updates.iter().filter(|time| **time <= acknowledged).count(),
    })
}

/// When the binding updates of a move were on the foreign link, and when the first acknowledgement.
fn exchange(mut link: Observer, site: Site) -> Outcome<(Vec<Duration>, Duration)> {
    let packets = link.take();
    let care_of = care_of(site);
    let updates = packets
        .iter()
        .filter(|packet| is_protected_update(packet, care_of, GUEST, VM1.spi_to_home_agent(site)))
        .map(|packet| packet.time)
        .collect();
    let acknowledged =
        packets.iter().find(|packet| is_protected_acknowledgement(packet, care_of, GUEST, VM1.spi_to_guest()));
    let acknowledged =
        acknowledged.ok_or_else(|| Failure::new(format!("no acknowledgement of {HOME_AGENT} was seen")))?;
    Ok((updates, acknowledged.time))
}

impl Series {
    fn gaps(&self) -> Vec<Duration> {
        self.moves.iter().map(|one| Duration::from_micros(one.gap)).collect()
    }

    fn bound(&self) -> Duration {
        Duration::from_micros(self.round_trip + self.detection) + ALLOWANCE
    }

    fn line(&self) -> String {
        let gaps = self.gaps();
        let (middle, longest) = (median(gaps.clone()), gaps.iter().max().copied().unwrap_or_default());
        let within = gaps.iter().filter(|gap| **gap <= self.bound()).count();
        let repeated = self.moves.iter().filter(|one| one.updates > 1).count();
        let updates = median(self.moves.iter().map(|one| Duration::from_micros(one.announcement_to_update)).collect());
        let mut line = format!(
            "{:16} {:27} RTT {:>6} │ gap: median {:>7}, maximum {:>7} │ aim {:>7}: {within:>2} of {} │ announcement to BU {:>6}",
            self.path,
            self.kind,
            milliseconds(Duration::from_micros(self.round_trip)),
            milliseconds(middle),
            milliseconds(longest),
            milliseconds(self.bound()),
            gaps.len(),
            milliseconds(updates)
        );
        if repeated > 0 {
            let _ = write!(line, " │ {repeated} with a BU or BA lost");
        }
        line
    }
}

fn table(all: &[Series]) -> String {
    let mut text = format!(
        "The gap in echo requests (resolution {} ms) when a guest moves, in ms; aim: round-trip time to the home agent + {} ms, and what \
         duplicate address detection takes.\n",
        INTERVAL.as_millis(),
        ALLOWANCE.as_millis()
    );
    all.iter().for_each(|series| {
        let _ = writeln!(text, "{}", series.line());
    });
    text
}

fn median(mut all: Vec<Duration>) -> Duration {
    all.sort_unstable();
    all.get(all.len() / 2).copied().unwrap_or_default()
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1000.0)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_counts_what_is_within_the_aim() {
        let one = |gap, updates| Move {
            gap,
            pause: 1_000,
            announcement_to_update: 400,
            update_to_acknowledgement: 41_000,
            move_to_first_packet: 42_000,
            updates,
        };
        let moves = vec![one(42_000, 1), one(44_000, 1), one(1_044_000, 2)];
        let series = Series { path: "20 ms", kind: "foreign → foreign", round_trip: 40_000, detection: 0, moves };
        let line = series.line();
        assert!(line.contains("median    44.0, maximum  1044.0") && line.contains("aim    45.0:  2 of 3"), "{line}");
        assert!(line.contains("1 with a BU or BA lost"), "{line}");
    }
}
