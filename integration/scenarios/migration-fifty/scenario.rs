//! See `README.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;

use crate::migration::crowd::Crowd;
use crate::migration::sites::{Site, Sites};
use crate::migration::stage::{Options, Stage, arrival};
use crate::migration::traffic::{Pinger, Probe, now};
use crate::prelude::*;

pub(crate) const SCENARIO: Scenario =
    Scenario { name: "migration-fifty", readme: include_str!("README.md"), peer: Peer::None, well_formed: true, run };

const GUESTS: u16 = 50;
/// Between two moves.
const PACE: Duration = Duration::from_millis(40);
/// What is under way to the old host when the guest moves is lost, too, and its reply on the way back: for as long at least.
const AROUND: Duration = Duration::from_millis(250);

/// When a guest was moved, and when it was registered at its new host.
struct Move {
    begun: Duration,
    brought: Duration,
    bound: Duration,
}

fn run(lab: &Lab) -> Outcome {
    let sites = Sites::build(lab)?;
    let stage = Stage::set(lab, &sites, &Options { guests: GUESTS, ..Options::default() })?;
    lab.step("the hosts are ready");
    let crowd = Crowd::gather(lab, GUESTS)?;
    lab.step("the guests are there");
    all_at_once(lab, &stage, &crowd, Site::One)?;
    let addresses: Vec<_> = crowd.guests().map(|(guest, _)| guest.home_address()).collect();
    all_answer(lab, &addresses)?;

    lab.step("one by one from site 1 to site 2, while all are asked for echoes");
    let pinger = Pinger::start(&lab.net.cn, &addresses, Duration::from_millis(2))?;
    let mut link = stage.watch(Site::Two)?;
    let mut moves = BTreeMap::new();
    for (guest, _) in crowd.guests() {
        let moment = now();
        crowd.bring(guest, Site::Two)?;
        let brought = now();
        arrival(&mut link, Site::Two, guest, FIRST_REGISTRATION)?;
        moves.insert(usize::from(guest.0), Move { begun: moment, brought, bound: now() });
        std::thread::sleep(PACE);
    }
    let longest = moves.values().map(|one: &Move| one.bound - one.begun).max().unwrap_or_default();
    let probes = pinger.end(Duration::from_secs(1))?;
    let lost: Vec<_> = probes.iter().filter(|probe| probe.round_trip.is_none()).collect();
    // The lab's one processor holds packets up: what was answered shows how long they may have been under way.
    let slowest = probes.iter().filter_map(|probe| probe.round_trip).max().unwrap_or_default();
    let around = AROUND.max(slowest);
    // A guest's own loss: after its move, or just before, and until it is answered for the first time at its new host.
    let own = |probe: &Probe| {
        moves.get(&probe.guest).is_some_and(|Move { begun, brought, .. }| {
            // What was sent before it was at its new host may have been answered at the old one.
            let answered =
                |other: &Probe| other.guest == probe.guest && other.round_trip.is_some() && other.sent > *brought;
            probe.sent + around >= *begun && !probes.iter().any(|other| answered(other) && other.sent < probe.sent)
        })
    };
    let disturbed = lost.iter().filter(|probe| !own(probe)).count();
    lab.step(&format!(
        "the slowest was bound after {} ms, the slowest reply took {} ms; of {} echo requests {} were lost, {disturbed} of them for a guest that \
         did not move then",
        longest.as_millis(),
        slowest.as_millis(),
        probes.len(),
        lost.len()
    ));
    ensure(disturbed == 0, || {
        format!("{disturbed} echo requests for guests that did not move were not answered within a second")
    })?;

    all_at_once(lab, &stage, &crowd, Site::One)?;
    all_answer(lab, &addresses)?;
    stage.end()
}

fn all_at_once(lab: &Lab, stage: &Stage<'_>, crowd: &Crowd<'_>, site: Site) -> Outcome {
    let mut link = stage.watch(site)?;
    let begin = now();
    crowd.guests().try_for_each(|(guest, _)| crowd.bring(guest, site))?;
    let moved = now();
    let bound = crowd.all_bound(&mut link, site, FIRST_REGISTRATION)?;
    let last = bound.values().max().copied().unwrap_or_default();
    lab.step(&format!(
        "all at once at {}: moved within {} ms, the last one bound after {} ms",
        site.name(),
        (moved - begin).as_millis(),
        last.saturating_sub(begin).as_millis()
    ));
    Ok(())
}

/// Waits until each of them has answered an echo request.
fn all_answer(lab: &Lab, addresses: &[Ipv6Addr]) -> Outcome {
    let pinger = Pinger::start(&lab.net.cn, addresses, Duration::from_millis(5))?;
    wait_until("all guests answer", SOON, || {
        let answered = pinger.probes().into_iter().filter(|probe| probe.round_trip.is_some());
        Ok(answered.map(|probe| probe.guest).collect::<BTreeSet<_>>().len() == addresses.len())
    })?;
    pinger.end(Duration::ZERO).map(|_| ())
}
