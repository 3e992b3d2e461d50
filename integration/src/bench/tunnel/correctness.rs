//! `cargo lab bench tunnel --correctness`: every tier under load on an underlay that loses, reorders, and changes its MTU. Two guests
//! exchange TCP streams and UDP packets with the correspondent, both ways; every octet is compared, no packet may come to the
//! other guest, and nothing of a guest may be on the underlay outside of the tunnel.

use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::content;
use super::hostile::Hostile;
use super::path::{CORRESPONDENT, GUEST, Path, SECOND_GUEST};
use super::variant::{Mode, Variant};
use crate::failure::{Failure, Outcome, While, ensure};
use crate::node::Node;

/// Of what is lost and what comes late.
const SEED: u64 = 0x4b47;
/// How often the MTU of the underlay changes, and to what.
const CHANGE: Duration = Duration::from_millis(1500);
const MTUS: [usize; 2] = [1400, 1500];
/// Longest that a tier may take for so many octets.
const SECONDS: u64 = 60;
const OCTETS_PER_SECOND: u64 = 4_000_000;
/// UDP is not repeated: at least this share of the packets must have come.
const ENOUGH_PERCENT: u64 = 80;

type Work<T> = JoinHandle<Outcome<T>>;

/// A flow from one node to another.
struct Flow<'a> {
    number: u64,
    from: &'a Node,
    to: &'a Node,
    address: Ipv6Addr,
}

/// Runs all tiers that were chosen; whether all were right.
pub(super) fn measure(variants: &[Variant], octets: u64) -> Outcome<bool> {
    let mut good = true;
    for variant in variants.iter().filter(|variant| variant.engine().and_then(|engine| engine.accelerate()).is_some()) {
        match of_tier(*variant, octets) {
            Ok(told) => println!("{}: {told}", variant.name()),
            Err(failure) => {
                good = false;
                println!("{}: FAILED: {failure}", variant.name());
            }
        }
    }
    Ok(good)
}

fn of_tier(variant: Variant, octets: u64) -> Outcome<String> {
    let wire = Node::new("wire")?;
    let mut path = Path::build_over(variant, Mode::Wire, 1500, None, (Some(wire), 2))?;
    let second = path.second_guest()?;
    let wire = path.wire_node().ok_or_else(|| Failure::new("no underlay"))?;
    for end in [&path.host, &path.home_agent] {
        end.run(|| crate::sys::complete_checksums("u0"))?.during(|| "checksums of the underlay".into())?;
    }
    let hostile = Hostile::start(wire, SEED)?;
    let (correspondent, guest) = (&path.correspondent, &path.guest);
    let [home, other, away]: [Ipv6Addr; 3] = [GUEST.parse()?, SECOND_GUEST.parse()?, CORRESPONDENT.parse()?];
    let flows = [
        (guest, correspondent, away),
        (correspondent, guest, home),
        (&second, correspondent, away),
        (correspondent, &second, other),
    ];
    let flows: Vec<_> =
        (1..).zip(flows).map(|(number, (from, to, address))| Flow { number, from, to, address }).collect();
    let begin = Instant::now();
    let (stop, arrived, packets) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let each = (octets / flows.len() as u64).next_multiple_of(8);
    let datagrams = flows.iter().map(|flow| flow.packets(&stop, &packets)).collect::<Outcome<Vec<_>>>()?;
    let streams = flows.iter().map(|flow| flow.stream(each, &arrived)).collect::<Outcome<Vec<_>>>()?;
    let result = until_done(&path, streams.into_iter().flatten().collect(), begin, octets, &arrived);
    stop.store(true, Relaxed);
    let mut counts = (0, 0);
    for (sending, receiving) in datagrams {
        counts = (counts.0 + join(sending)?, counts.1 + join(receiving)?);
    }
    result?;
    let seen = Arc::clone(&hostile.seen);
    hostile.stop()?;
    ensure(seen.leaks.load(Relaxed) == 0, || {
        format!("{} frames of guests outside of the tunnel", seen.leaks.load(Relaxed))
    })?;
    ensure(counts.1 * 100 >= counts.0 * ENOUGH_PERCENT, || {
        format!("only {} of {} UDP packets came", counts.1, counts.0)
    })?;
    for node in [guest, &second] {
        let strangers = strangers(node)?;
        ensure(strangers == 0, || format!("{strangers} packets came to {} that were not for it", node.name()))?;
    }
    let told = format!(
        "passed: {} octets in 4 TCP streams, {} of {} UDP packets ({} octets), in {:.0} s; {} of {} frames lost, {} late",
        arrived.load(Relaxed),
        counts.1,
        counts.0,
        packets.load(Relaxed),
        begin.elapsed().as_secs_f64(),
        seen.lost.load(Relaxed),
        seen.frames.load(Relaxed),
        seen.late.load(Relaxed),
    );
    for (end, place) in path.ends.iter_mut().zip(["host", "home agent"]) {
        println!("  {place}: {}", end.counters()?);
    }
    Ok(told)
}

/// Waits for the streams while the MTU of the underlay changes.
fn until_done(path: &Path, mut streams: Vec<Work<()>>, begin: Instant, octets: u64, arrived: &AtomicU64) -> Outcome {
    let enough = Duration::from_secs(SECONDS + octets / OCTETS_PER_SECOND);
    let (mut changes, mut changed) = (MTUS.iter().cycle(), Instant::now());
    while !streams.is_empty() {
        std::thread::sleep(Duration::from_millis(20));
        let (ended, going): (Vec<_>, Vec<_>) = streams.into_iter().partition(JoinHandle::is_finished);
        ended.into_iter().try_for_each(join)?;
        streams = going;
        ensure(begin.elapsed() < enough, || {
            format!("only {} of {octets} octets in {} s", arrived.load(Relaxed), enough.as_secs())
        })?;
        if changed.elapsed() > CHANGE
            && let Some(mtu) = changes.next()
        {
            changed = Instant::now();
            for node in [&path.host, &path.home_agent] {
                node.ip(&format!("link set u0 mtu {mtu}"))?;
            }
        }
    }
    Ok(())
}

fn join<T>(work: Work<T>) -> Outcome<T> {
    work.join().map_err(|_| Failure::new("a thread has panicked"))?
}

fn in_node<T: Send + 'static>(node: &Node, work: impl FnOnce() -> Outcome<T> + Send + 'static) -> Outcome<Work<T>> {
    Ok(node.run(move || std::thread::Builder::new().name("content".to_owned()).spawn(work))??)
}

fn here() -> SocketAddr {
    SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))
}

impl Flow<'_> {
    /// A TCP stream of so many octets: who sends, and who receives.
    fn stream(&self, octets: u64, arrived: &Arc<AtomicU64>) -> Outcome<[Work<()>; 2]> {
        let (number, arrived) = (self.number, Arc::clone(arrived));
        let listener = self.to.run(|| TcpListener::bind(here()))??;
        let to = SocketAddr::from((self.address, listener.local_addr()?.port()));
        let receiving = in_node(self.to, move || content::receive_stream(number, &listener, octets, &arrived))?;
        let sending = in_node(self.from, move || {
            let stream = TcpStream::connect(to).during(|| format!("stream {number}"))?;
            content::send_stream(number, stream, octets)
        })?;
        Ok([sending, receiving])
    }

    /// UDP packets until it stops: who sends, and who receives.
    fn packets(&self, stop: &Arc<AtomicBool>, arrived: &Arc<AtomicU64>) -> Outcome<(Work<u64>, Work<u64>)> {
        let (number, arrived) = (self.number, Arc::clone(arrived));
        let (stop_sending, stop_receiving) = (Arc::clone(stop), Arc::clone(stop));
        let receiver = self.to.run(|| UdpSocket::bind(here()))??;
        let to = SocketAddr::from((self.address, receiver.local_addr()?.port()));
        let receiving =
            in_node(self.to, move || content::receive_packets(number, &receiver, &stop_receiving, &arrived))?;
        let sending =
            in_node(self.from, move || content::send_packets(number, &UdpSocket::bind(here())?, to, &stop_sending))?;
        Ok((sending, receiving))
    }
}

/// Packets that came to a node by its own MAC address and were for none of its addresses.
fn strangers(node: &Node) -> Outcome<u64> {
    let text = node.read("/proc/thread-self/net/snmp6")?;
    let line = text.lines().find_map(|line| line.strip_prefix("Ip6InAddrErrors"));
    line.and_then(|number| number.trim().parse().ok()).ok_or_else(|| Failure::new("no Ip6InAddrErrors"))
}
