//! `cargo lab tiers`: every tier of the tunnel engine against the pure reference transform, octet for octet, on the running kernel.
//!
//! Frames are put on a link as they are, and what comes out on the other side is compared with what `kagemusha::tunnel` says:
//! what it carries must come exactly so, what it drops must not come at all. Four ways: into and out of the tunnel at the host of the
//! guest, and at the home agent.

mod cases;
pub(crate) mod evidence;
pub(crate) mod exchange;
mod reference;
pub(crate) mod setting;
mod tap;
mod wholes;

use std::process::ExitCode;
use std::time::Duration;

use kagemusha::home_network::config::ROUTER_LINK_LOCAL;

use crate::bench::tunnel::path::{CARE_OF, CORRESPONDENT, GUEST, HOME_AGENT, Path};
use crate::bench::tunnel::variant::{Mode, Variant};
use crate::failure::{Failure, Outcome, ensure};
use crate::node::Node;
use crate::{packages, sys};
use cases::Case;
use reference::{Reference, same, same_piece};
use tap::{Listener, mac_of, send};

/// `cargo lab tiers`: all that this build has, or those named.
pub(crate) fn main(only: &[String]) -> ExitCode {
    match run(only) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("cargo lab tiers: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(only: &[String]) -> Outcome<bool> {
    if packages::provide(&[&packages::IPROUTE2, &packages::PING])?.is_err() {
        return Ok(false);
    }
    let tiers = [Variant::Portable, Variant::SuperPacket, Variant::Ebpf];
    let mut good = true;
    for tier in tiers.into_iter().filter(|tier| only.is_empty() || only.iter().any(|name| name == tier.name())) {
        if tier == Variant::Ebpf && cfg!(not(feature = "ebpf")) {
            println!(
                "SKIP ebpf: built without the feature ebpf (cargo run --package kagemusha-lab --features ebpf -- tiers)"
            );
            continue;
        }
        let mut path = Path::build(tier, Mode::Wire, 1500, None)?;
        let pieces_as = if tier == Variant::SuperPacket { same_piece } else { same };
        println!("{}: {}", tier.name(), path.description().unwrap_or_default());
        let mut results = vec![
            ("guest into tunnel", guest_into_tunnel(&path)),
            ("tunnel to guest", tunnel_to_guest(&path)),
            ("home link into tunnel", home_link_into_tunnel(&path)),
            ("tunnel to home link", tunnel_to_home_link(&path)),
            ("guest's wholes into tunnel", wholes_of_guest(&path, pieces_as)),
            ("home link's wholes into tunnel", wholes_on_home_link(&path, pieces_as)),
        ];
        if tier == Variant::SuperPacket {
            results.push(("wholes of a home agent elsewhere", wholes_of_home_agent_elsewhere(&mut path)));
        }
        results.push(("guest that is started again", guest_comes_again(&mut path)));
        for (way, result) in results {
            match result {
                Ok(count) => println!("  {way:<30} passed: {count} packets"),
                Err(failure) => {
                    good = false;
                    println!("  {way:<30} FAILED: {failure}");
                }
            }
        }
        for end in &mut path.ends {
            println!("  {}", end.counters()?);
        }
    }
    Ok(good)
}

/// Of the home agent's interface to the host, where the home agent's address is elsewhere.
const UPLINK_ADDRESS: &str = "2001:db8:3000::99";

/// Whether a frame is the one that is expected.
type Same = fn(&[u8], &[u8]) -> bool;

/// Sends every frame, and compares what each listener heard with what it must have heard.
fn compare(
    cases: &[Case],
    sent: impl Fn(&Case) -> Outcome,
    listeners: Vec<(Listener, Vec<Vec<Vec<u8>>>)>,
    same: Same,
) -> Outcome<usize> {
    for case in cases {
        sent(case)?;
    }
    let mut wrong = vec![];
    for (listener, expected) in listeners {
        let heard = listener.until_quiet(cases.len(), expected.iter().map(Vec::len).sum())?;
        for ((case, expected), heard) in cases.iter().zip(&expected).zip(&heard) {
            if expected.len() != heard.len() || !expected.iter().zip(heard).all(|(e, h)| same(e, h)) {
                let show =
                    |frames: &[Vec<u8>]| frames.iter().map(|frame| tap::show(frame)).collect::<Vec<_>>().join(", ");
                wrong.push(format!("\n    {}: expected [{}], heard [{}]", case.name, show(expected), show(heard)));
            }
        }
    }
    ensure(wrong.is_empty(), || format!("{} of {} packets:{}", wrong.len(), cases.len(), wrong.concat()))?;
    Ok(cases.len())
}

fn guest_into_tunnel(path: &Path) -> Outcome<usize> {
    // Larger than the tunnel takes can be sent then.
    path.guest.ip("link set eth0 mtu 1500")?;
    path.host.ip("link set g0 mtu 1500\nlink set br0 mtu 1500\nlink set kgtap0 mtu 1500")?;
    let reference = Reference::new()?;
    let cases = cases::frames_of_guest()?;
    let outgoing = cases.iter().map(|case| reference.guest_into_tunnel(&case.octets)).collect();
    let mut reference = Reference::new()?;
    let answers = cases.iter().map(|case| reference.answer_to_guest(&case.octets)).collect();
    let underlay = Listener::start(&path.home_agent, "u0", mac_of(&path.host, "u0")?, "outside")?;
    let link = Listener::start(&path.guest, "eth0", reference::ROUTER, "guest's link")?.only_from(ROUTER_LINK_LOCAL);
    compare(&cases, |case| send(&path.guest, "eth0", &case.octets), vec![(underlay, outgoing), (link, answers)], same)
}

fn tunnel_to_guest(path: &Path) -> Outcome<usize> {
    let reference = Reference::new()?;
    let cases = cases::tunnel_packets_to_guest()?;
    let expected = cases.iter().map(|case| reference.tunnel_to_guest(&case.octets)).collect();
    let link = Listener::start(&path.guest, "eth0", reference::ROUTER, "guest's link")?;
    let ethernet = tap::link_header(mac_of(&path.host, "u0")?, mac_of(&path.home_agent, "u0")?);
    let sent = |case: &Case| send(&path.home_agent, "u0", &[&ethernet[..], &case.octets].concat());
    compare(&cases, sent, vec![(link, expected)], same)
}

/// Its interface has another index then, which a tier must not go on sending to, and which it has to serve as the first one.
fn guest_comes_again(path: &mut Path) -> Outcome<usize> {
    let before = carried_by_programs(path)?;
    path.renew_guest_link(1500)?;
    let count = guest_into_tunnel(path)? + tunnel_to_guest(path)?;
    let after = carried_by_programs(path)?;
    ensure(path.variant != Variant::Ebpf || before.0 < after.0 && before.1 < after.1, || {
        format!(
            "the programs have carried {before:?} before and {after:?} afterwards, packets into and out of the tunnel"
        )
    })?;
    Ok(count)
}

/// Packets of the guest into and out of the tunnel, that no thread has seen.
fn carried_by_programs(path: &mut Path) -> Outcome<(u64, u64)> {
    let Some(host) = path.ends.first_mut() else { return Ok((0, 0)) };
    let counters = host.counters()?;
    let carried = counters.split("; ").find_map(|part| part.strip_prefix(&format!("in the kernel for {GUEST}: ")));
    let number = |name: &str| {
        let words = carried.unwrap_or_default().split_whitespace();
        words.filter_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok()).next().unwrap_or(0)
    };
    Ok((number("into-tunnel-packets"), number("out-of-tunnel-packets")))
}

fn home_link_into_tunnel(path: &Path) -> Outcome<usize> {
    let reference = Reference::new()?;
    let cases = cases::packets_to_guest()?;
    let expected = cases.iter().map(|case| reference.home_link_into_tunnel(&case.octets)).collect();
    let underlay = Listener::start(&path.host, "u0", mac_of(&path.home_agent, "u0")?, "outside")?;
    let ethernet = tap::link_header(mac_of(&path.home_agent, "h0")?, mac_of(&path.correspondent, "eth0")?);
    let sent = |case: &Case| send(&path.correspondent, "eth0", &[&ethernet[..], &case.octets].concat());
    compare(&cases, sent, vec![(underlay, expected)], same)
}

fn tunnel_to_home_link(path: &Path) -> Outcome<usize> {
    // The home agent knows its neighbour.
    path.home_agent.command("ping", &["-6", "-c", "1", "-W", "2", CORRESPONDENT])?;
    let reference = Reference::new()?;
    let cases = cases::tunnel_packets_of_guest()?;
    let correspondent = mac_of(&path.correspondent, "eth0")?;
    let home_agent = mac_of(&path.home_agent, "h0")?;
    let ethernet = tap::link_header(correspondent, home_agent);
    let framed = |packets: Vec<Vec<u8>>| -> Vec<Vec<u8>> {
        packets.into_iter().map(|packet| [&ethernet[..], &packet].concat()).collect()
    };
    let expected = cases.iter().map(|case| framed(reference.tunnel_to_home_link(&case.octets))).collect();
    let link = Listener::start(&path.correspondent, "eth0", home_agent, "home link")?;
    let outer = tap::link_header(mac_of(&path.home_agent, "u0")?, mac_of(&path.host, "u0")?);
    let sent = |case: &Case| send(&path.host, "u0", &[&outer[..], &case.octets].concat());
    compare(&cases, sent, vec![(link, expected)], same)
}

/// What a guest's driver leaves whole, of up to 64 KiB: its pieces leave, each as if the guest had sent it.
fn wholes_of_guest(path: &Path, same: Same) -> Outcome<usize> {
    let reference = Reference::new()?;
    let link = tap::link_header(reference::ROUTER, mac_of(&path.guest, "eth0")?);
    let way = Way { from: (&path.guest, "eth0", link.clone()), to: &path.home_agent, far: &path.host, same };
    way.carries(wholes::between(address(GUEST)?, address(CORRESPONDENT)?), |piece| {
        reference.guest_into_tunnel(&[&link[..], piece].concat())
    })
}

/// The same from the home link.
fn wholes_on_home_link(path: &Path, same: Same) -> Outcome<usize> {
    let reference = Reference::new()?;
    let link = tap::link_header(mac_of(&path.home_agent, "h0")?, mac_of(&path.correspondent, "eth0")?);
    let way = Way { from: (&path.correspondent, "eth0", link), to: &path.host, far: &path.home_agent, same };
    way.carries(wholes::between(address(CORRESPONDENT)?, address(GUEST)?), |piece| {
        reference.home_link_into_tunnel(piece)
    })
}

/// The home agent's address is that of another link than its uplink's, as a rule. Also then wholes are left to the kernel, with the right outer source.
fn wholes_of_home_agent_elsewhere(path: &mut Path) -> Outcome<usize> {
    path.home_agent.ip(&format!(
        "link add dev home type veth peer name nobody\nlink set nobody up\nlink set home up\naddr del {HOME_AGENT}/64 dev u0\naddr add {UPLINK_ADDRESS}/64 dev u0 nodad\n\
         addr add {HOME_AGENT}/128 dev home nodad"
    ))?;
    path.host.ip(&format!("route add {HOME_AGENT}/128 via {UPLINK_ADDRESS} dev u0"))?;
    // Both look for the way anew, and ask each other.
    path.home_agent.command("ping", &["-6", "-c", "1", "-W", "5", "-I", HOME_AGENT, CARE_OF])?;
    std::thread::sleep(Duration::from_secs(2));
    let before = left_whole(path)?;
    let count = wholes_on_home_link(path, same_piece)?;
    let left = left_whole(path)? - before;
    ensure(left == count as u64, || format!("of {count} packets {left} were left whole for the kernel"))?;
    Ok(count)
}

/// Packets that the home agent has left whole for the kernel so far.
fn left_whole(path: &mut Path) -> Outcome<u64> {
    let home_agent = path.ends.last_mut().ok_or_else(|| Failure::new("there is no engine"))?;
    let counters = home_agent.counters()?;
    let number = counters.split_whitespace().find_map(|word| word.strip_prefix("left-whole-for-the-kernel="));
    Ok(number.and_then(|number| number.parse().ok()).unwrap_or_default())
}

/// A way that wholes go.
struct Way<'a> {
    /// Where they are sent: node, interface, and the link-layer header.
    from: (&'a Node, &'a str, Vec<u8>),
    /// Where the tunnel's packets are heard, and who has sent them.
    to: &'a Node,
    far: &'a Node,
    same: Same,
}

impl Way<'_> {
    fn carries(
        &self,
        wholes: Vec<(String, Vec<u8>, wholes::Whole)>,
        expected: impl Fn(&[u8]) -> Vec<Vec<u8>>,
    ) -> Outcome<usize> {
        let (node, interface, link) = &self.from;
        // What is heard shall be what a wire would carry: cut and with whole checksums, and not what the receiver has merged again.
        self.far.run(|| sys::complete_checksums("u0"))??;
        self.to.run(|| sys::set_receive_offload("u0", false))??;
        let underlay = Listener::start(self.to, "u0", mac_of(self.far, "u0")?, "underlay")?;
        let outgoing = wholes.iter().map(|(.., whole)| whole.pieces.iter().flat_map(|piece| expected(piece)).collect());
        let outgoing = outgoing.collect();
        let cases: Vec<Case> = wholes
            .into_iter()
            .map(|(name, packet, whole)| Case {
                name,
                octets: [&link[..], &packet].concat(),
                offload: Some(whole.offload),
            })
            .collect();
        let sent = |case: &Case| match &case.offload {
            Some(offload) => tap::send_whole(node, interface, &case.octets, offload),
            None => send(node, interface, &case.octets),
        };
        let result = compare(&cases, sent, vec![(underlay, outgoing)], self.same);
        self.to.run(|| sys::set_receive_offload("u0", true))??;
        result
    }
}

/// An address of the cast.
fn address(text: &str) -> Outcome<std::net::Ipv6Addr> {
    text.parse().map_err(|_| Failure::new(format!("{text} is no address")))
}
