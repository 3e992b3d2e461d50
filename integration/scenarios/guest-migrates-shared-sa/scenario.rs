//! See `README.md`.

use crate::node::Node;
use crate::prelude::*;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "guest-migrates-shared-sa",
    readme: include_str!("README.md"),
    peer: Peer::None,
    // Not for tshark: the first binding update of a host that has lost the guest is what it takes for a replay, and so does the home agent.
    well_formed: false,
    run,
};

fn run(lab: &Lab) -> Outcome {
    let net = &lab.net;
    let (mut foreign, mut foreign2) = (lab.watch(FOREIGN)?, lab.watch(FOREIGN2)?);
    let home_agent = lab.start_home_agent(policies::ESP_HOME_AGENT)?;
    let mut old = lab.start_mobile_node(&net.host, policies::ESP_HOST_12S)?;
    protected_registration(&mut foreign, CARE_OF, GUEST, SPIS, FIRST_REGISTRATION)?;
    lab.wait_for_router(&net.guest)?;
    lab.step("a refresh, so that all sequence numbers have moved on");
    protected_registration(&mut foreign, CARE_OF, GUEST, SPIS, FIRST_REGISTRATION)?;
    lab.ping(&net.guest, CORRESPONDENT)?;

    lab.step("the guest is live-migrated, and the new host's daemon starts, knowing nothing");
    net.migrate_guest()?;
    let mut new = lab.start_mobile_node(&net.host2, policies::ESP_HOST_12S)?;
    protected_registration(&mut foreign2, CARE_OF_HOST2, GUEST, SPIS, SOON)?;
    lab.ping_until_answered(&net.cn, GUEST, SOON)?;
    lab.ping(&net.guest, CORRESPONDENT)?;

    lab.step("the old host learns it with its next refresh, and stays silent");
    wait_until("the old host stops", FIRST_REGISTRATION, || {
        Ok(old.log().contains("another host speaks for this guest now"))
    })?;
    let silent = lab.watch(FOREIGN)?;
    std::thread::sleep(Duration::from_secs(8));
    silent.must_not_have_seen("a binding update of the host that lost the guest", |packet| {
        is_protected_update(packet, CARE_OF, GUEST, SPIS.0)
    })?;
    lab.wait_for_status(&net.host, "vm1 2001:db8:2000::10: taken-over (stopped)", SOON)?;

    let refused = replays(&net.ha)?;
    // One of the old host, and one of the new host after the old one had caught up to be told; both were repeated with success.
    ensure(refused <= 2, || format!("the home agent's kernel has refused {refused} packets as replays"))?;
    lab.step("back: the old host has lost its state, and its daemon starts as if for the first time");
    old.crash()?;
    net.host.ip("xfrm state flush\nxfrm policy flush")?;
    net.host.run(|| std::fs::remove_dir_all("/var/lib/kagemusha"))??;
    net.unplug(&net.host2, "vm1")?;
    net.plug(&net.host, "vm1", SEGMENT)?;
    let mut foreign = lab.watch(FOREIGN)?;
    let back = lab.start_mobile_node(&net.host, policies::ESP_HOST_12S)?.instead_of(old);
    protected_registration(&mut foreign, CARE_OF, GUEST, SPIS, SOON)?;
    lab.ping_until_answered(&net.cn, GUEST, SOON)?;

    let more = replays(&net.ha)?.saturating_sub(refused);
    ensure(more <= 1, || format!("the home agent's kernel has refused {more} packets of the new host as replays"))?;
    new.must_run()?;
    lab.end([back, new, home_agent])?;
    lab.no_readable_mobility_header()
}

/// How many packets the kernel of a node has refused for their sequence number.
fn replays(node: &Node) -> Outcome<u64> {
    let statistics = node.read("/proc/thread-self/net/xfrm_stat")?;
    let count = statistics.lines().find_map(|line| line.strip_prefix("XfrmInStateSeqError"));
    Ok(count.and_then(|count| count.trim().parse().ok()).unwrap_or(u64::MAX))
}
