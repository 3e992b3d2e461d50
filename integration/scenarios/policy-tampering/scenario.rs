//! See `README.md`.

mod object;

use std::process::{Child, Command};
use std::time::Instant;

use kagemusha::daemon::netlink::xfrm::Client;
use kagemusha::kernel_state::KernelState;

use crate::failure::Failure;
use crate::node::Node;
use crate::prelude::*;
use crate::process::Daemon;
use object::Object;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "policy-tampering",
    readme: include_str!("README.md"),
    peer: Peer::None,
    // Not for tshark: numbers reserved for an association that was deleted are left out, which it takes for lost packets.
    well_formed: false,
    run,
};

/// What is aimed at.
const AIM: Duration = Duration::from_millis(100);
/// What is asserted: on a busy machine, emulated, others have the processor for a while; but a look that nobody asked for
/// comes much later.
const LIMIT: Duration = Duration::from_secs(10);

fn run(lab: &Lab) -> Outcome {
    let net = &lab.net;
    let mut foreign = lab.watch(FOREIGN)?;
    let home_agent = lab.start_home_agent(policies::ESP_HOME_AGENT)?;
    let mobile_node = lab.start_mobile_node(&net.host, policies::ESP_HOST)?;
    protected_registration(&mut foreign, CARE_OF, GUEST, SPIS, FIRST_REGISTRATION)?;
    lab.wait_for_router(&net.guest)?;

    for (node, daemon) in [(&net.host, &mobile_node), (&net.ha, &home_agent)] {
        let mut tables = Tables::open(node)?;
        let good = tables.read()?;
        let objects = object::all(&good);
        ensure(objects.len() >= 5, || format!("only {} objects found", objects.len()))?;
        for (what, command) in [("deleted", Object::delete as fn(&Object) -> String), ("altered", Object::alter)] {
            let mut times = vec![];
            for object in &objects {
                let told = repairs(daemon);
                times.push(tables.repaired(lab, &command(object), &good, object)?);
                wait_until(&format!("the repair of {object} is in the log of {}", node.name()), SOON, || {
                    Ok(repairs(daemon) > told)
                })?;
            }
            report(lab, &format!("{}: {} objects {what}", node.name(), objects.len()), &mut times);
        }
    }
    while_moving(lab, &mobile_node, &home_agent)?;
    lab.ping_until_answered(&net.guest, CORRESPONDENT, SOON)?;
    lab.ping(&net.cn, GUEST)?;
    lab.end([mobile_node, home_agent])?;
    lab.no_readable_mobility_header()
}

/// Deletes each object once more while a binding update is on its way.
fn while_moving(lab: &Lab, mobile_node: &Daemon<'_>, home_agent: &Daemon<'_>) -> Outcome {
    let net = &lab.net;
    let mut times = vec![];
    let mut away = false;
    for (node, daemon) in [(&net.host, mobile_node), (&net.ha, home_agent)] {
        let mut tables = Tables::open(node)?;
        for object in object::all(&tables.read()?) {
            away = !away;
            let (link, care_of, old, router) = match away {
                true => (FOREIGN2, CARE_OF_AFTER_MOVE, CARE_OF, "2001:db8:4000::1"),
                false => (FOREIGN, CARE_OF, CARE_OF_AFTER_MOVE, "2001:db8:3000::1"),
            };
            let mut observer = lab.watch(link)?;
            net.plug(&net.host, "eth0", link)?;
            net.host.ip(&format!(
                "addr del {old}/64 dev eth0\naddr add {care_of}/64 dev eth0 nodad\nroute replace default via {router}"
            ))?;
            let good = tables.read()?;
            times.push(
                tables
                    .repaired(lab, &object.delete(), &good, &object)
                    .map_err(|failure| Failure::new(format!("{failure}\n{}", daemon.tail())))?,
            );
            protected_registration(&mut observer, care_of, GUEST, SPIS, FIRST_REGISTRATION)?;
        }
    }
    report(lab, &format!("{} objects deleted during a move", times.len()), &mut times);
    Ok(())
}

fn repairs(daemon: &Daemon<'_>) -> usize {
    daemon.log().matches("changed by others, put right").count()
}

fn report(lab: &Lab, what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let milliseconds = |time: Option<&Duration>| time.map_or(0.0, |time| time.as_secs_f64() * 1e3);
    let (median, longest) = (milliseconds(times.get(times.len() / 2)), milliseconds(times.last()));
    let verdict = if times.last().is_some_and(|longest| *longest <= AIM) { "met" } else { "MISSED" };
    lab.step(&format!(
        "{what}, put right in {median:.1} ms (median), {longest:.1} ms (longest); aim 100 ms: {verdict}"
    ));
}

/// The tables of a node's kernel, read without a program of its own for each look.
struct Tables<'lab> {
    node: &'lab Node,
    client: Client,
}

impl<'lab> Tables<'lab> {
    fn open(node: &'lab Node) -> Outcome<Self> {
        // The socket belongs to the namespace in which it is made, whoever uses it.
        let client = node.run(Client::open)?.map_err(|error| Failure::new(error.to_string()))?;
        Ok(Self { node, client })
    }

    fn read(&mut self) -> Outcome<KernelState> {
        self.client.observe().map_err(|error| Failure::new(error.to_string()))
    }

    /// Runs `ip` commands and looks until the object has been another and is as it was: the time between the two.
    fn repaired(&mut self, lab: &Lab, commands: &str, good: &KernelState, object: &Object) -> Outcome<Duration> {
        let mut tampering = self.tamper(lab, commands)?;
        let started = Instant::now();
        let mut gone = None;
        loop {
            let now = Instant::now();
            let same = object.is_same(good, &self.read()?);
            match gone {
                None if !same => gone = Some(now),
                Some(gone) if same => {
                    must_succeed(&mut tampering, commands)?;
                    return Ok(now - gone);
                }
                // Put right between two looks: the log has to tell.
                None if now - started > Duration::from_millis(50) && tampering.try_wait()?.is_some() => {
                    must_succeed(&mut tampering, commands)?;
                    return Ok(Duration::ZERO);
                }
                Some(gone) => ensure(now - gone < LIMIT, || {
                    format!("{} has not put right within {LIMIT:?}: {object}", self.node.name())
                })?,
                None => ensure(now - started < SOON, || format!("{commands}: nothing happens within {SOON:?}"))?,
            }
            std::thread::sleep(Duration::from_micros(500));
        }
    }

    fn tamper(&self, lab: &Lab, commands: &str) -> Outcome<Child> {
        // In a file: the node's thread only starts the program, and nobody waits for it here.
        let file = lab.directory.join("tampering.batch");
        std::fs::write(&file, commands)?;
        let mut command = Command::new("ip");
        command.arg("-batch").arg(file);
        self.node.spawn(command)
    }
}

/// Keys are altered by a deletion and an addition; a daemon that puts right the one before the other comes is only quicker than that.
fn must_succeed(child: &mut Child, commands: &str) -> Outcome {
    let status = child.wait()?;
    let overtaken = commands.lines().count() > 1;
    ensure(status.success() || overtaken, || format!("{commands}: {status}"))
}
