//! `cargo lab demo`: the main job, shown packet by packet, first without and then with IPsec.

use std::net::Ipv6Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::capture::Observer;
use crate::dissect::{Packet, icmpv6};
use crate::expect::{FIRST_REGISTRATION, SOON, echo_from_guest, echo_to_guest, protected_registration, registration};
use crate::failure::Outcome;
use crate::job::{Job, LINE, ScenarioResult, Verdict};
use crate::node::Node;
use crate::scenario::Lab;
use crate::topology::cast::{CARE_OF, CARE_OF_AFTER_MOVE, CORRESPONDENT, GUEST, HOME_AGENT};
use crate::topology::{FOREIGN, FOREIGN2, HOME};

const TOPOLOGY: &str = "
    home link                                                 foreign networks
    2001:db8:2000::/64                                        2001:db8:3000::/64
                                                   ┌─────────────────────────────── host ::3
  correspondent ::2 ──┐                            │                                 │ kagemusha ── guest
                      ├── home agent ::1 ── core ──┤                                 │ moves        2001:db8:2000::10
  the guest's place ╌╌┘   kagemusha home-agent     │                                 ▼
                                                   └─────────────────────────────── host ::3
                                                              2001:db8:4000::/64
";

const SPIS: (u32, u32) = (0x3e8, 0x3e9);

/// The two halves of the demo.
struct Half {
    name: &'static str,
    directory: &'static str,
    protected: bool,
    host: &'static str,
    home_agent: &'static str,
}

const HALVES: [Half; 2] = [
    Half {
        name: "without IPsec",
        directory: "demo-without-ipsec",
        protected: false,
        host: include_str!("../../policies/ha-unprotected.toml"),
        home_agent: include_str!("../../policies/home-agent-unprotected.toml"),
    },
    Half {
        name: "with IPsec",
        directory: "demo-with-ipsec",
        protected: true,
        host: include_str!("../../policies/ha.toml"),
        home_agent: include_str!("../../policies/home-agent.toml"),
    },
];

/// What was to be seen, and whether it was.
type Checklist = Vec<(&'static str, Outcome)>;

/// Runs both halves and prints the summary.
pub(crate) fn run(job: &Job) -> Vec<ScenarioResult> {
    say(TOPOLOGY);
    let mut results = Vec::new();
    let mut lists = Vec::new();
    for half in &HALVES {
        say(&format!("\n=== A guest away from home, {} ===", half.name));
        let started = Instant::now();
        let mut list = Checklist::new();
        if let Err(failure) = show(job, half, &mut list) {
            list.push(("everything else", Err(failure)));
        }
        let failed = list.iter().filter(|(_, outcome)| outcome.is_err()).count();
        let verdict =
            if failed == 0 { Verdict::Passed } else { Verdict::Failed(format!("{failed} things were not seen")) };
        results.push(ScenarioResult {
            name: half.directory.to_owned(),
            verdict,
            seconds: started.elapsed().as_secs_f64(),
        });
        lists.push(list);
    }
    summary(&lists);
    results
}

fn say(text: &str) {
    text.lines().for_each(|line| println!("{LINE}{line}"));
}

fn summary(lists: &[Checklist]) {
    say("\n=== Summary ===");
    for (half, list) in HALVES.iter().zip(lists) {
        say(&format!("\n{}", half.name));
        for (what, outcome) in list {
            match outcome {
                Ok(()) => say(&format!("  seen      {what}")),
                Err(failure) => say(&format!("  NOT SEEN  {what}\n{failure}")),
            }
        }
    }
}

fn show(job: &Job, half: &Half, list: &mut Checklist) -> Outcome {
    let mut lab = Lab::new(&job.directory.join(half.directory), job, None)?;
    let timeline = Timeline(Mutex::new(vec![lab.watch(FOREIGN)?, lab.watch(FOREIGN2)?, lab.watch(HOME)?]));
    let stop = AtomicBool::new(false);
    let outcome = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                timeline.print();
                std::thread::sleep(Duration::from_millis(30));
            }
        });
        let outcome = act(&lab, half, &timeline, list);
        stop.store(true, Ordering::Relaxed);
        outcome
    });
    lab.finish()?;
    outcome
}

/// Prints what is of interest on the links, as it comes.
struct Timeline(Mutex<Vec<Observer>>);

impl Timeline {
    /// What has come since the last time, in the order of its time.
    fn print(&self) {
        let mut observers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut packets: Vec<_> = observers.iter_mut().flat_map(Observer::take).filter(|p| is_of_interest(p)).collect();
        packets.sort_by_key(|packet| packet.time);
        packets.iter().for_each(|packet| println!("{LINE}{packet}"));
    }

    /// A headline, below everything that came before it.
    fn headline(&self, text: &str) {
        // What the last ping has caused may still be on its way through the capture.
        std::thread::sleep(Duration::from_millis(100));
        self.print();
        say(&format!("\n-- {text}"));
    }
}

/// Registration, data, and how the home agent stands in for the guest at home.
fn is_of_interest(packet: &Packet) -> bool {
    let echo = packet.is_icmpv6(icmpv6::ECHO_REQUEST) || packet.is_icmpv6(icmpv6::ECHO_REPLY);
    let discovery = packet.is_icmpv6(icmpv6::NEIGHBOR_SOLICITATION) || packet.is_icmpv6(icmpv6::NEIGHBOR_ADVERTISEMENT);
    packet.spi().is_some() || packet.has_mobility_header() || echo || (discovery && packet.has_target(GUEST))
}

fn act(lab: &Lab, half: &Half, timeline: &Timeline, list: &mut Checklist) -> Outcome {
    let net = &lab.net;
    let (mut foreign, mut foreign2) = (lab.watch(FOREIGN)?, lab.watch(FOREIGN2)?);
    let registered = |link: &mut Observer, care_of: Ipv6Addr, timeout: Duration| match half.protected {
        true => protected_registration(link, care_of, GUEST, SPIS, timeout),
        false => registration(link, care_of, GUEST, 0, timeout).map(|_| ()),
    };

    timeline.headline("The host registers the guest's home address: binding update, binding acknowledgement");
    let home_agent = lab.start_home_agent(half.home_agent)?;
    let mobile_node = lab.start_mobile_node(&net.host, half.host)?;
    list.push(("registration: BU, BA", registered(&mut foreign, CARE_OF, FIRST_REGISTRATION)));
    list.push(("the guest finds its router", lab.wait_for_router(&net.guest)));

    timeline.headline("Guest and correspondent, guest and home agent: echo requests and replies in the tunnel");
    exchange(lab, &mut foreign, CARE_OF, list);

    timeline.headline("Security associations and policies in force on the host");
    let associations = net.host.command("ip", &["-d", "xfrm", "state", "list", "nokeys"])?;
    let policies = net.host.command("ip", &["-d", "xfrm", "policy"])?;
    say(&brief(&associations));
    say(&brief(&policies));
    if half.protected {
        let both = ["0x000003e8", "0x000003e9"].iter().all(|spi| associations.contains(spi));
        list.push(("both security associations are in force", crate::failure::ensure(both, || associations.clone())));
    }

    timeline.headline("The host moves to 2001:db8:4000::/64");
    net.move_host()?;
    list.push((
        "after the move: BU, BA by the new care-of address",
        registered(&mut foreign2, CARE_OF_AFTER_MOVE, SOON),
    ));
    exchange(lab, &mut foreign2, CARE_OF_AFTER_MOVE, list);

    timeline.headline("The host de-registers");
    list.push(("the host's daemon ends and cleans up", lab.end([mobile_node])));
    list.push(("de-registration: BU, BA", registered(&mut foreign2, CARE_OF_AFTER_MOVE, SOON)));
    list.push(("the guest is not reached any more", lab.ping_unanswered(&net.cn, GUEST)));
    list.push(("the home agent's daemon ends and cleans up", lab.end([home_agent])));
    if half.protected {
        list.push(("no mobility header in the clear, on any link", lab.no_readable_mobility_header()));
    }
    Ok(())
}

/// The four pings, and what they must look like in the tunnel.
fn exchange(lab: &Lab, link: &mut Observer, care_of: Ipv6Addr, list: &mut Checklist) {
    let net = &lab.net;
    let moved = care_of != CARE_OF;
    let mut one = |node: &Node, to: Ipv6Addr, what: [&'static str; 2]| {
        let (from_guest, peer) = if to == GUEST {
            (false, if node.name() == "ha" { HOME_AGENT } else { CORRESPONDENT })
        } else {
            (true, to)
        };
        let outcome = lab.ping(node, to).and_then(|()| {
            let seen = if from_guest { echo_from_guest } else { echo_to_guest };
            seen(link, care_of, GUEST, peer).map(|_| ())
        });
        list.push((what[usize::from(moved)], outcome));
    };
    one(&net.guest, CORRESPONDENT, ["guest → correspondent → guest", "after the move: guest → correspondent → guest"]);
    one(
        &net.cn,
        GUEST,
        ["correspondent → guest → correspondent", "after the move: correspondent → guest → correspondent"],
    );
    one(&net.guest, HOME_AGENT, ["guest → home agent → guest", "after the move: guest → home agent → guest"]);
    one(&net.ha, GUEST, ["home agent → guest → home agent", "after the move: home agent → guest → home agent"]);
}

/// What matters of a dump of the kernel's IPsec state: no lifetimes, no statistics.
fn brief(dump: &str) -> String {
    let noise = [
        "lifetime",
        "limit:",
        "expire",
        "stats:",
        "replay-window 0 replay",
        "(bytes)",
        "add 20",
        "anti-replay",
        "lastused",
    ];
    let lines = dump.lines().filter(|line| !noise.iter().any(|noise| line.contains(noise)));
    let lines: Vec<String> = lines.map(|line| format!("   {}", line.replace('\t', "    "))).collect();
    if lines.is_empty() { "   none".into() } else { lines.join("\n") }
}
