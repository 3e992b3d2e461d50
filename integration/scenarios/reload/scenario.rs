//! See `README.md`.

use nix::sys::signal::Signal;

use crate::failure::While;
use crate::prelude::*;

pub(crate) const SCENARIO: Scenario =
    Scenario { name: "reload", readme: include_str!("README.md"), peer: Peer::None, well_formed: true, run };

/// The SPIs of the second guest's new SAs.
const NEW_SPIS2: (u32, u32) = (0x4ea, 0x4eb);

fn run(lab: &Lab) -> Outcome {
    let net = &lab.net;
    let mut foreign = lab.watch(FOREIGN)?;
    let mut home_agent = lab.start_home_agent(policies::ESP_HOME_AGENT)?;
    let mut mobile_node = lab.start_mobile_node(&net.host, policies::ESP_HOST)?;
    protected_registration(&mut foreign, CARE_OF, GUEST, SPIS, FIRST_REGISTRATION)?;
    lab.wait_for_router(&net.guest)?;
    lab.ping(&net.guest, CORRESPONDENT)?;
    let states = || net.host.command("ip", &["xfrm", "state", "list", "nokeys", "src", "2001:db8:2000::10"]);
    let before = states()?;
    let unchanged = lab.watch(FOREIGN)?;

    lab.step("a second guest is added");
    lab.policy("mobile-node-host.toml", policies::ESP_HOST_TWO_GUESTS)?;
    lab.command(&net.host, &["reload"])?;
    protected_registration(&mut foreign, CARE_OF, GUEST2, SPIS2, FIRST_REGISTRATION)?;
    lab.wait_for_router(&net.guest2)?;
    lab.ping_until_answered(&net.cn, GUEST2, SOON)?;
    for node in [&net.host, &net.ha] {
        let json = lab.command(node, &["status", "--json"])?;
        let status: serde_json::Value = serde_json::from_str(&json).during(|| "status --json".into())?;
        let counter = |name: &str| status["guests"][1]["counters"][name].as_u64().unwrap_or(0);
        // In userland, or by the programs of the eBPF tier.
        let carried = |userland: &str, kernel: &str| counter(userland) + counter(kernel) > 0;
        let there = carried("tunnel: packets in", "tunnel, in the kernel: into-tunnel-packets");
        let back = carried("tunnel: packets out", "tunnel, in the kernel: out-of-tunnel-packets");
        ensure(there && back, || format!("nothing is counted of the new guest at {}: {json}", node.name()))?;
    }

    lab.step("a file with a mistake is refused");
    mobile_node.expect_errors("the policy stays as it was");
    let broken = policies::ESP_HOST_TWO_GUESTS.replace("0x3ea", "0x12");
    std::fs::write(lab.directory.join("mobile-node-host.toml"), &broken)?;
    let refusal = lab.refused_command(&net.host, &["reload"])?;
    ensure(refusal.contains("spi") && refusal.contains("mobile-node-host.toml"), || format!("reload: {refusal}"))?;
    lab.wait_for_status(&net.host, "vm2 2001:db8:2000::11: bound", SOON)?;

    lab.step("the second guest gets new SPIs and keys, first at the home agent, then at the host");
    let renew = |text: &str| {
        let spis = text.replace("0x3ea", "0x4ea").replace("0x3eb", "0x4eb");
        spis.replace("keys/vm2-to-", "keys/vm2-new-to-")
    };
    lab.policy("home-agent.toml", &renew(policies::ESP_HOME_AGENT))?;
    lab.command(&net.ha, &["reload"])?;
    lab.policy("mobile-node-host.toml", &renew(policies::ESP_HOST_TWO_GUESTS))?;
    mobile_node.signal(Signal::SIGHUP)?;
    protected_registration(&mut foreign, CARE_OF, GUEST2, NEW_SPIS2, SOON)?;
    lab.ping(&net.cn, GUEST2)?;

    lab.step("the first guest has noticed nothing");
    ensure(states()? == before, || format!("its SAs were\n{before}and are\n{}", states().unwrap_or_default()))?;
    unchanged.must_not_have_seen("a binding update of the guest that did not change", |packet| {
        is_protected_update(packet, CARE_OF, GUEST, SPIS.0)
    })?;
    lab.ping(&net.guest, CORRESPONDENT)?;

    lab.step("the first guest is removed: de-registered, and nothing is left of it");
    let renewed = renew(policies::ESP_HOST_TWO_GUESTS);
    let (head, guests) = renewed.split_once("[[guest]]").unwrap_or_default();
    let second = guests.split_once("[[guest]]").map(|(_, second)| second).unwrap_or_default();
    lab.policy("mobile-node-host.toml", &format!("{head}[[guest]]{second}"))?;
    lab.command(&net.host, &["reload"])?;
    protected_registration(&mut foreign, CARE_OF, GUEST, SPIS, SOON)?;
    lab.wait_for_status(&net.ha, "vm1 2001:db8:2000::10: none", SOON)?;
    wait_until("nothing of the first guest is in the kernel", SOON, || {
        let policies = net.host.command("ip", &["xfrm", "policy", "list"])?;
        Ok(states()?.is_empty() && !policies.contains("2001:db8:2000::10/128"))
    })?;
    lab.ping(&net.cn, GUEST2)?;

    lab.step("the second guest is removed at the home agent");
    lab.policy("home-agent.toml", &without_last_guest(&renew(policies::ESP_HOME_AGENT)))?;
    lab.command(&net.ha, &["reload"])?;
    let status = lab.command(&net.ha, &["status"])?;
    ensure(!status.contains("vm2"), || format!("the home agent still has the guest:\n{status}"))?;
    home_agent.must_run()?;
    lab.ping_unanswered(&net.cn, GUEST2)?;

    // Its de-registration goes unanswered.
    lab.end([mobile_node, home_agent])?;
    lab.no_readable_mobility_header()
}

fn without_last_guest(policy: &str) -> String {
    policy.rsplit_once("[[guest]]").map(|(before, _)| before.to_owned()).unwrap_or_default()
}
