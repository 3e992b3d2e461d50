//! See `README.md`.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Instant;

use crate::dissect::Layer;
use crate::prelude::*;
use crate::process::Daemon;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "policy-sigkill",
    readme: include_str!("README.md"),
    peer: Peer::None,
    // Not for tshark: numbers that were reserved and not used are left out, which it takes for lost packets.
    well_formed: false,
    run,
};

/// As many as there is time for, at most.
const CRASHES: usize = 200;
/// ... and at least.
const LEAST: usize = 40;
const TIME: Duration = Duration::from_secs(80);
/// The daemon is killed at most this long after its start, in times that a registration after a start takes on this machine.
const LIFE: f64 = 1.6;
/// How much longer it may live after a life without an acknowledgement, and how much shorter after one with it: the
/// machine may become slower or faster meanwhile, and about half of the lives are to be long enough.
const LONGER: f64 = 1.07;
const SHORTER: f64 = 0.94;

fn run(lab: &Lab) -> Outcome {
    let net = &lab.net;
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |now| now.as_secs());
    let seed = crate::scenario::seed()?.unwrap_or(seed);
    lab.step(&format!("crashes at moments of seed {seed} (KAGEMUSHA_LAB_SEED)"));
    let mut dice = Dice(seed.wrapping_mul(2).wrapping_add(1));

    let mut foreign = lab.watch(FOREIGN)?;
    let home_agent = lab.start_home_agent(policies::ESP_HOME_AGENT)?;
    let mut mobile_node = lab.start_mobile_node(&net.host, policies::ESP_HOST)?;
    protected_registration(&mut foreign, CARE_OF, GUEST, SPIS, FIRST_REGISTRATION)?;
    lab.wait_for_router(&net.guest)?;

    let mut life = shortest_registration(lab, &mut mobile_node)?.mul_f64(LIFE);
    lab.step(&format!("killed up to {} ms after a start, at first", life.as_millis()));
    let mut place = Place::FIRST;
    let (mut crashes, mut moves, mut registered) = (0, 0, 0);
    let begun = Instant::now();
    while crashes < CRASHES && (crashes < LEAST || begun.elapsed() < TIME) {
        crashes += 1;
        let born = Instant::now();
        let watch = lab.watch(place.link)?;
        let death = born + life.mul_f64(dice.roll());
        // Half of them live through a move, which may come before they have done anything.
        let mut moving = None;
        if dice.roll() < 0.5 {
            sleep_until(death.min(born + life.mul_f64(dice.roll())));
            place = place.other();
            net.plug(&net.host, "eth0", place.link)?;
            moving = Some(net.host.spawn(place.arrive())?);
            moves += 1;
        }
        sleep_until(death);
        mobile_node.crash()?;
        let acknowledged = watch.count(|packet| packet.spi() == Some(SPIS.1)) > 0;
        registered += usize::from(acknowledged);
        life = life.mul_f64(if acknowledged { SHORTER } else { LONGER }).min(FIRST_REGISTRATION);
        if let Some(mut moving) = moving {
            let status = moving.wait()?;
            ensure(status.success(), || format!("moving the host: {status}"))?;
        }
        if crashes % 50 == 0 {
            lab.step(&format!("{crashes} crashes, {moves} moves; {registered} lived to see an acknowledgement"));
        }
        mobile_node.start_again(again(lab))?;
    }
    lab.step(&format!("{crashes} crashes, {moves} moves; {registered} lived to see an acknowledgement"));
    ensure(moves > crashes / 4 && registered > crashes / 40, || {
        format!("the moments are no good: {crashes} crashes, {moves} moves, {registered} acknowledgements")
    })?;

    lab.step("the last start: bound, and data both ways");
    // The registration may have passed already; a move makes one that cannot have.
    let mut link = lab.watch(place.other().link)?;
    net.plug(&net.host, "eth0", place.other().link)?;
    ensure(net.host.spawn(place.other().arrive())?.wait()?.success(), || "moving the host".into())?;
    protected_registration(&mut link, place.other().care_of, GUEST, SPIS, FIRST_REGISTRATION)?;
    lab.ping_until_answered(&net.guest, CORRESPONDENT, SOON)?;
    lab.ping(&net.cn, GUEST)?;

    let updates = no_update_twice(&mobile_node.log(), crashes)?;
    lab.step(&format!("{updates} binding updates, and no number twice"));
    lab.end([mobile_node, home_agent])?;
    let packets = no_number_twice(lab)?;
    lab.step(&format!("{packets} packets under ESP, and no number twice"));
    ensure(packets > crashes / 4, || "too few packets for any claim".into())?;
    lab.no_readable_mobility_header()
}

/// The command of a daemon that is started after a crash: it tells the number of each binding update.
fn again(lab: &Lab) -> Command {
    let mut command = lab.mobile_node_command("mobile-node-host.toml");
    command.env("KAGEMUSHA_LOG", "info,kagemusha::daemon::mobile_node=debug");
    command
}

/// How long a daemon that is started after a crash takes to be acknowledged: the best of some. It runs afterwards.
fn shortest_registration(lab: &Lab, mobile_node: &mut Daemon<'_>) -> Outcome<Duration> {
    let mut shortest = FIRST_REGISTRATION;
    for _ in 0..3 {
        mobile_node.crash()?;
        let mut watch = lab.watch(FOREIGN)?;
        let born = Instant::now();
        mobile_node.start_again(again(lab))?;
        protected_registration(&mut watch, CARE_OF, GUEST, SPIS, FIRST_REGISTRATION)?;
        shortest = shortest.min(born.elapsed());
    }
    Ok(shortest)
}

/// Where the host is.
#[derive(Clone, Copy)]
struct Place {
    link: crate::topology::Link,
    care_of: std::net::Ipv6Addr,
    router: &'static str,
}

impl Place {
    const FIRST: Self = Self { link: FOREIGN, care_of: CARE_OF, router: "2001:db8:3000::1" };
    const SECOND: Self = Self { link: FOREIGN2, care_of: CARE_OF_AFTER_MOVE, router: "2001:db8:4000::1" };

    fn other(self) -> Self {
        if self.link == FOREIGN { Self::SECOND } else { Self::FIRST }
    }

    /// The command that gives the host its address here.
    fn arrive(self) -> Command {
        let mut command = Command::new("sh");
        let (old, new, router) = (self.other().care_of, self.care_of, self.router);
        let script = format!(
            "ip -6 addr del {old}/64 dev eth0; ip -6 addr add {new}/64 dev eth0 nodad && \
             ip -6 route replace default via {router}"
        );
        command.args(["-c", &script]);
        command
    }
}

fn sleep_until(moment: Instant) {
    std::thread::sleep(moment.saturating_duration_since(Instant::now()));
}

/// Numbers of a seed (xorshift).
struct Dice(u64);

impl Dice {
    /// From 0 up to 1.
    fn roll(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f64 / (1_u64 << 24) as f64
    }
}

/// Fails if two binding updates had one number; gives how many there were. The home agent's refusals (135) do not tell: an update may wait for a router's address
/// while the host moves on, and arrive after newer ones.
fn no_update_twice(log: &str, crashes: usize) -> Outcome<usize> {
    let mut seen = std::collections::BTreeSet::new();
    for line in log.lines().filter(|line| line.contains(" DEBUG ")) {
        let Some((_, rest)) = line.split_once("binding update ") else { continue };
        let Some((number, _)) = rest.split_once(" to ") else { continue };
        ensure(seen.insert(number.to_owned()), || format!("a sequence number was used twice: {line}"))?;
    }
    ensure(seen.len() > crashes / 10, || format!("only {} binding updates in the log", seen.len()))?;
    Ok(seen.len())
}

/// Fails if an ESP sequence number of an SPI was on a link twice; gives how many there were. Each link is looked at alone, for routers carry a packet
/// from one to the next; the two foreign links are one, as the host is on either.
fn no_number_twice(lab: &Lab) -> Outcome<usize> {
    let mut packets = 0;
    for links in [&[FOREIGN, FOREIGN2][..], &[crate::topology::TRANSIT]] {
        let mut seen = BTreeSet::new();
        for link in links {
            for packet in lab.on(link)?.observer_of_all().take() {
                for layer in &packet.layers {
                    let Layer::Esp { spi, sequence, .. } = layer else { continue };
                    packets += 1;
                    ensure(seen.insert((*spi, *sequence)), || {
                        format!("{link}: ESP {spi:#x} has number {sequence} twice:\n    {packet}")
                    })?;
                }
            }
        }
    }
    Ok(packets)
}
