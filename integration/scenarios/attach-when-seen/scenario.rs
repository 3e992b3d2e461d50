//! See `README.md`.

use serde::Deserialize;

use crate::failure::{Failure, While};
use crate::node::Node;
use crate::prelude::*;
use crate::process::Daemon;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "attach-when-seen",
    readme: include_str!("README.md"),
    peer: Peer::None,
    // Not for tshark: the first binding update of a host that has lost the guest is what it takes for a replay, and so does the home agent.
    well_formed: false,
    run,
};

/// From the guest's first frame to the binding update, in milliseconds: before any timer of the daemon. How fast it is, `cargo lab bench migration` tells.
const REACTION: f64 = 1000.0;

fn run(lab: &Lab) -> Outcome {
    let net = &lab.net;
    let policy = policies::ESP_HOST_12S.replace("name = \"vm1\"", "name = \"vm1\"\nattach = \"when-seen\"");
    ensure(policy.contains("when-seen"), || "the policy is not as it was".into())?;
    let home_agent = lab.start_home_agent(policies::ESP_HOME_AGENT)?;
    let second = lab.start_mobile_node(&net.host2, &policy)?;
    lab.wait_for_status(&net.host2, "vm1 2001:db8:2000::10: prepared", SOON)?;
    // Nothing has been sent yet.
    wait_until("the prepared host knows where its router is", SOON, || {
        Ok(net.host2.command("ip", &["-6", "neigh", "show", "2001:db8:4000::1"])?.contains("lladdr"))
    })?;
    let second_watch = watch(lab, &net.host2)?;

    lab.step("the first host sees the guest's router solicitations");
    let (mut foreign, mut foreign2) = (lab.watch(FOREIGN)?, lab.watch(FOREIGN2)?);
    let first = lab.start_mobile_node(&net.host, &policy)?;
    protected_registration(&mut foreign, CARE_OF, GUEST, SPIS, FIRST_REGISTRATION)?;
    lab.wait_for_status(&net.host, "vm1 2001:db8:2000::10: bound", SOON)?;
    lab.wait_for_router(&net.guest)?;
    lab.ping(&net.cn, GUEST)?;
    let first_watch = watch(lab, &net.host)?;
    foreign2.must_not_have_seen("a binding update of a host without the guest", from_second)?;

    lab.step("the guest is live-migrated and announces itself");
    net.migrate_guest()?;
    announce(&net.guest)?;
    protected_registration(&mut foreign2, CARE_OF_HOST2, GUEST, SPIS, SOON)?;
    lab.wait_for_status(&net.host2, "vm1 2001:db8:2000::10: bound", SOON)?;
    lab.ping_until_answered(&net.cn, GUEST, SOON)?;
    let reaction = reaction(&second_watch)?;
    lab.step(&format!("binding update {reaction:.2} ms after the guest's first frame"));
    ensure(reaction < REACTION, || {
        format!("no binding update within {REACTION} ms of the guest's first frame: it came after {reaction:.2} ms")
    })?;

    lab.step("the first host learns with its next refresh that it has lost the guest");
    lab.wait_for_status(&net.host, "vm1 2001:db8:2000::10: taken-over (prepared)", FIRST_REGISTRATION)?;
    let mut foreign = lab.watch(FOREIGN)?;
    std::thread::sleep(Duration::from_secs(8));
    foreign.must_not_have_seen("a binding update of the host that lost the guest", from_first)?;

    lab.step("the guest comes back");
    net.unplug(&net.host2, "vm1")?;
    net.plug(&net.host, "vm1", SEGMENT)?;
    announce(&net.guest)?;
    protected_registration(&mut foreign, CARE_OF, GUEST, SPIS, SOON)?;
    lab.ping_until_answered(&net.cn, GUEST, SOON)?;
    lab.ping(&net.guest, CORRESPONDENT)?;
    let text = std::fs::read_to_string(&first_watch.log).during(|| "the events of the first host".into())?;
    for event in ["taken-over", "guest-seen", "binding-update", "registered"] {
        ensure(text.contains(&format!("\"what\":\"{event}\"")), || format!("`kagemusha watch` did not tell {event}"))?;
    }

    drop((first_watch, second_watch));
    lab.end([first, second, home_agent])?;
    lab.no_readable_mobility_header()
}

fn from_first(packet: &Packet) -> bool {
    is_protected_update(packet, CARE_OF, GUEST, SPIS.0)
}

fn from_second(packet: &Packet) -> bool {
    is_protected_update(packet, CARE_OF_HOST2, GUEST, SPIS.0)
}

/// The guest says where it is, unasked, as a guest does that was told that it has moved.
fn announce(guest: &Node) -> Outcome {
    guest.sysctl("conf/eth0/ndisc_notify", "1")?;
    guest.ip(&format!("link set eth0 address {GUEST_MAC}"))
}

/// `kagemusha watch --json`, running.
struct Watching<'lab> {
    _daemon: Daemon<'lab>,
    log: std::path::PathBuf,
}

fn watch<'lab>(lab: &'lab Lab, node: &'lab Node) -> Outcome<Watching<'lab>> {
    let name = format!("watch-{}", node.name());
    let mut command = std::process::Command::new(&lab.kagemusha);
    command.args(["watch", "--json"]);
    let daemon = Daemon::start(node, &name, &lab.directory, command)?;
    Ok(Watching { _daemon: daemon, log: lab.directory.join(format!("{name}.log")) })
}

#[derive(Deserialize)]
struct Event {
    what: String,
    after: Option<f64>,
}

/// From the guest's first frame to the first binding update, in milliseconds.
fn reaction(watching: &Watching<'_>) -> Outcome<f64> {
    let text = std::fs::read_to_string(&watching.log).during(|| "the events".into())?;
    let events = text.lines().filter_map(|line| serde_json::from_str::<Event>(line).ok());
    let mut updates = events.filter(|event| event.what == "binding-update").filter_map(|event| event.after);
    updates.next().ok_or_else(|| Failure::new(format!("no binding update in the events:\n{text}")))
}
