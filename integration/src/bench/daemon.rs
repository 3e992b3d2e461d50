//! `cargo lab bench daemon`: a TCP stream through the tunnel each way, by each tier, in the daemons as they are, registered under ESP. Tiers take turns
//! in each round, for a machine is never alone for long. Frames are cut before they leave a host, as a network card does it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddrV6, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::bench::tunnel::stats::{Range, range};
use crate::expect::FIRST_REGISTRATION;
use crate::failure::{Failure, Outcome, While};
use crate::inner::tell;
use crate::job::Job;
use crate::node::Node;
use crate::prelude::policies;
use crate::scenario::Lab;
use crate::tiers::evidence;
use crate::tiers::setting::Setting;
use crate::topology::cast::{CORRESPONDENT, GUEST};

/// What the inner side is asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) rounds: usize,
    /// Of each stream.
    pub(crate) seconds: u64,
    pub(crate) tiers: Vec<Setting>,
}

/// A stream has found its pace after this time.
const WARM: Duration = Duration::from_millis(1500);
/// Nothing comes for so long only when the tunnel is broken.
const PATIENCE: Duration = Duration::from_secs(30);

/// One stream.
#[derive(Debug, Clone, Serialize)]
struct Sample {
    tier: &'static str,
    direction: &'static str,
    megabits: f64,
    /// Segments that the sender has sent again.
    again: u64,
}

/// The inner side.
pub(crate) fn run(job: &Job, plan: &Plan) -> Outcome {
    let base = job.directory.join("bench-daemon");
    let mut lab = Lab::new(&base, &Job { tier: plan.tiers.first().copied(), ..job.clone() }, None)?;
    lab.net.keep_captures_out()?;
    let mut samples = vec![];
    for round in 0..plan.rounds {
        for turn in 0..plan.tiers.len() {
            let Some(tier) = plan.tiers.get((turn + round) % plan.tiers.len()).copied() else { continue };
            lab.directory = base.join(format!("{}-{}", round + 1, tier.name()));
            std::fs::create_dir_all(&lab.directory)?;
            lab.use_tier(tier)?;
            let (found, carried) = one(&lab, tier, plan.seconds).during(|| tier.name().to_owned())?;
            for sample in &found {
                let Sample { tier, direction, megabits, again } = sample;
                tell(&format!("{tier:<12} {direction:<16} {megabits:7.1} Mb/s, {again:4} segments sent again"));
            }
            tell(&format!("    {carried}"));
            samples.extend(found);
        }
    }
    table(&samples);
    lab.finish()?;
    let file = job.directory.join("daemon.json");
    std::fs::write(&file, serde_json::to_vec_pretty(&samples)?).during(|| file.display().to_string())
}

fn one(lab: &Lab, tier: Setting, seconds: u64) -> Outcome<(Vec<Sample>, String)> {
    let net = &lab.net;
    let home_agent = lab.start_home_agent(policies::ESP_HOME_AGENT)?;
    let mobile_node = lab.start_mobile_node(&net.host, policies::ESP_HOST)?;
    lab.wait_for_router(&net.guest)?;
    lab.ping_until_answered(&net.cn, GUEST, FIRST_REGISTRATION)?;
    let mut samples = vec![];
    for (direction, from, to, address) in
        [("from the guest", &net.guest, &net.cn, CORRESPONDENT), ("to the guest", &net.cn, &net.guest, GUEST)]
    {
        let before = sent_again(from)?;
        let megabits = stream(from, to, address, Duration::from_secs(seconds))?;
        samples.push(Sample { tier: tier.name(), direction, megabits, again: sent_again(from)? - before });
    }
    lab.end([mobile_node, home_agent])?;
    Ok((samples, evidence::judge(tier, &lab.directory)?))
}

/// Megabits per second of a stream's payload, without its beginning.
fn stream(from: &Node, to: &Node, address: Ipv6Addr, time: Duration) -> Outcome<f64> {
    let listener = to.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)))??;
    let there = SocketAddrV6::new(address, listener.local_addr()?.port(), 0, 0).into();
    let mut near = from.run(move || TcpStream::connect_timeout(&there, PATIENCE))??;
    let (mut far, _) = listener.accept()?;
    near.set_write_timeout(Some(PATIENCE))?;
    far.set_read_timeout(Some(PATIENCE))?;
    let (stop, arrived) = (AtomicBool::new(false), AtomicU64::new(0));
    let (stop, arrived) = (&stop, &arrived);
    std::thread::scope(|scope| {
        let receiver = scope.spawn(move || -> Outcome {
            let mut buffer = vec![0; 1 << 17];
            loop {
                match far.read(&mut buffer)? {
                    0 => return Ok(()),
                    length => arrived.fetch_add(length as u64, Relaxed),
                };
            }
        });
        let sender = scope.spawn(move || -> Outcome {
            let buffer = vec![0x4b; 1 << 16];
            while !stop.load(Relaxed) {
                near.write_all(&buffer)?;
            }
            near.shutdown(Shutdown::Write)?;
            Ok(())
        });
        std::thread::sleep(WARM);
        let (began, first) = (Instant::now(), arrived.load(Relaxed));
        std::thread::sleep(time);
        let (octets, took) = (arrived.load(Relaxed) - first, began.elapsed());
        stop.store(true, Relaxed);
        for thread in [sender, receiver] {
            thread.join().map_err(|_| Failure::new("a thread of the stream panicked"))??;
        }
        Ok(octets as f64 * 8.0 / took.as_secs_f64() / 1e6)
    })
}

/// Segments that TCP has sent again in a node so far (`RetransSegs` of RFC 4022).
fn sent_again(node: &Node) -> Outcome<u64> {
    let text = node.read("/proc/thread-self/net/snmp")?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, numbers) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let found = names.split(' ').zip(numbers.split(' ')).find(|(name, _)| *name == "RetransSegs");
    let number = found.and_then(|(_, number)| number.parse().ok());
    number.ok_or_else(|| Failure::new("/proc/net/snmp has no RetransSegs"))
}

fn table(samples: &[Sample]) {
    let mut all: BTreeMap<(&str, &str), (Vec<f64>, u64)> = BTreeMap::new();
    for Sample { tier, direction, megabits, again } in samples {
        let entry = all.entry((direction, tier)).or_default();
        entry.0.push(*megabits);
        entry.1 += again;
    }
    tell("Mb/s: median (smallest to largest)");
    for ((direction, tier), (megabits, again)) in all {
        let Some(Range { median, smallest, largest }) = range(megabits) else { continue };
        let range = format!("{smallest:.1} to {largest:.1}");
        tell(&format!("{direction:<16} {tier:<12} {median:7.1} ({range}), {again} segments sent again"));
    }
}
