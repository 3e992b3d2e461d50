//! The journey of every migration scenario: home, site 1, site 2, home, while a correspondent goes on talking to the guest.

use std::net::Ipv6Addr;
use std::time::Duration;

use super::beside::Process;
use super::hypervisor;
use super::machine::{Machine, Mode};
use super::sites::{Site, Sites};
use super::stage::{Options, Stage, VM1, arrival, must_be_at, returned};
use super::traffic::{Carried, Pinger, Terminal, Transfer, longest_gap, now};
use super::world;
use crate::expect::{FIRST_REGISTRATION, QUIET, SOON, is_protected_update};
use crate::failure::{Outcome, ensure};
use crate::process::wait_until;
use crate::scenario::Lab;
use crate::topology::cast::{CARE_OF_HOST2, GUEST};

/// From one echo request to the next.
pub(crate) const PING_INTERVAL: Duration = Duration::from_millis(10);

/// All that goes on with a guest at a time: from outside the home network a transfer, from the home link an echo and a ping.
pub(crate) struct Conversation {
    transfer: Transfer,
    terminal: Terminal,
    pub(crate) pinger: Pinger,
}

impl Conversation {
    /// Begins it. `pause`: see [`Transfer::start`].
    pub(crate) fn begin(lab: &Lab, guest: Ipv6Addr, pause: u8) -> Outcome<Self> {
        Ok(Self {
            transfer: Transfer::start(&lab.net.far, guest, pause)?,
            terminal: Terminal::start(&lab.net.cn, guest)?,
            pinger: Pinger::start(&lab.net.cn, &[guest], PING_INTERVAL)?,
        })
    }

    /// Ends it: both connections are still the ones of the beginning, and every octet was right.
    pub(crate) fn end(self, lab: &Lab) -> Outcome {
        let so_far = self.pinger.probes().len();
        wait_until("at the end an echo request is answered", SOON, || {
            Ok(self.pinger.probes().iter().skip(so_far).any(|probe| probe.round_trip.is_some()))
        })?;
        let probes = self.pinger.end(Duration::from_secs(1))?;
        let (transfer, terminal) = (self.transfer.end()?, self.terminal.end()?);
        let lost = probes.iter().filter(|probe| probe.round_trip.is_none()).count();
        let connection = |name: &str, carried: &Carried| {
            format!(
                "{name}: {} octets, stood still for at most {:.2} s",
                carried.octets,
                carried.longest_stop.as_secs_f64()
            )
        };
        lab.step(&format!(
            "one TCP connection throughout; {}; {}; {lost} of {} echo requests lost",
            connection("transfer", &transfer),
            connection("echo", &terminal),
            probes.len()
        ));
        ensure(transfer.octets > 0 && terminal.octets > 0, || "nothing was carried".into())
    }
}

/// The journey of a virtual machine, with a migration that is cancelled on the way.
pub(crate) fn of_a_machine(lab: &Lab, mode: Mode) -> Outcome {
    let sites = Sites::build(lab)?;
    // Once by frames alone, once by what QEMU says.
    let host = if mode == Mode::Postcopy { format!("qmp = \"{}\"", hypervisor::SOCKET) } else { String::new() };
    let mut stage = Stage::set(lab, &sites, &Options { host: &host, ..Options::default() })?;
    stage.start(Site::Home)?;
    lab.step("the guest boots");
    let mut here = Machine::boot(sites.host(lab, Site::Home), Process::Home)?;
    lab.ping_until_answered(&lab.net.far, GUEST, SOON)?;
    let (before, log) = settled(&mut here)?;
    ensure(log.lines().count() > 0, || "the guest has no kernel log".into())?;
    let conversation = Conversation::begin(lab, GUEST, 50)?;
    std::thread::sleep(Duration::from_secs(1));

    for (from, to, process) in [
        (Site::Home, Site::One, Process::One),
        (Site::One, Site::Two, Process::Two),
        (Site::Two, Site::Home, Process::HomeAgain),
    ] {
        if from == Site::One {
            cancelled(lab, &sites, &stage, &mut here)?;
        }
        lab.step(&format!("the guest is live-migrated from {} to {}", from.name(), to.name()));
        let mut link = stage.watch(to)?;
        let mut there = Machine::expect(sites.host(lab, to), process)?;
        let moved = here.migrate(&mut there, mode)?;
        match to {
            Site::Home => {
                let spis = (VM1.spi_to_home_agent(Site::Home), VM1.spi_to_guest());
                returned(&mut link, VM1, spis, FIRST_REGISTRATION)?;
            }
            _ => arrival(&mut link, to, VM1, FIRST_REGISTRATION)?,
        }
        lab.ping_until_answered(&lab.net.cn, GUEST, SOON)?;
        must_be_at(&stage, to)?;
        std::thread::sleep(Duration::from_secs(1));
        here.end()?;
        here = there;
        let gap = longest_gap(&conversation.pinger.probes(), moved.begun, now());
        lab.step(&format!(
            "took {:.1} s, of which the guest stood still {} ms; no echo for {} ms",
            moved.took.as_secs_f64(),
            moved.pause.as_millis(),
            gap.as_millis()
        ));
        let (after, log_after) = here.world()?;
        ensure(before == after, || format!("the guest sees a change:{}", world::difference(&before, &after)))?;
        // Until the host at home has de-registered it, the home agent defends the address against the guest itself.
        let defended = |line: &&str| to == Site::Home && line.contains("advertised our address");
        // Emulation on a busy machine is late, wherever the guest is, and so is what the kernel makes of its clocks after it has booted.
        let clocks = ["hrtimer: interrupt took", "clocksource: ", "tsc: "];
        let late = |line: &&str| clocks.iter().any(|clock| line.contains(clock));
        let said: Vec<&str> = log_after.lines().filter(|line| !defended(line) && !late(line)).collect();
        ensure(log.lines().filter(|line| !late(line)).eq(said), || {
            format!("the guest's kernel says:{}", world::difference(&log, &log_after))
        })?;
    }
    conversation.end(lab)?;
    if mode == Mode::Postcopy {
        let heard = stage.host(Site::One)?.log();
        ensure(heard.contains("by its hypervisor: Detach"), || {
            "site 1 was not told by QEMU that the guest had left".into()
        })?;
    }
    here.end()?;
    stage.end()
}

/// What the guest sees once its link is up and nothing changes any more.
fn settled(machine: &mut Machine<'_>) -> Outcome<(String, String)> {
    let mut seen = machine.world()?;
    wait_until("the guest's network is settled", SOON, || {
        std::thread::sleep(Duration::from_secs(1));
        let before = std::mem::replace(&mut seen, machine.world()?);
        Ok(before == seen && seen.0.contains("link operstate up"))
    })?;
    Ok(seen)
}

/// A migration from site 1 to site 2 that is given up half-way: nothing of it is seen.
fn cancelled(lab: &Lab, sites: &Sites, stage: &Stage<'_>, here: &mut Machine<'_>) -> Outcome {
    lab.step("a migration to site 2 is begun and cancelled");
    let target = stage.watch(Site::Two)?;
    let mut never = Machine::expect(sites.host(lab, Site::Two), Process::Never)?;
    here.migrate_and_cancel(&mut never)?;
    never.end()?;
    lab.ping_until_answered(&lab.net.cn, GUEST, SOON)?;
    must_be_at(stage, Site::One)?;
    target.must_not_see("a registration by the target of a cancelled migration", QUIET, |packet| {
        is_protected_update(packet, CARE_OF_HOST2, GUEST, VM1.spi_to_home_agent(Site::Two))
    })
}
