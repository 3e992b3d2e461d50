//! See `README.md`.

use crate::prelude::*;

pub(crate) const SCENARIO: Scenario =
    Scenario { name: "sa-lifetime", readme: include_str!("README.md"), peer: Peer::None, well_formed: true, run };

/// The SPIs of the new SAs.
const NEW_SPIS: (u32, u32) = (0x4e8, 0x4e9);

fn run(lab: &Lab) -> Outcome {
    let net = &lab.net;
    let mut foreign = lab.watch(FOREIGN)?;
    let home_agent = lab.start_home_agent(policies::ESP_HOME_AGENT)?;
    let limits = "spi = 0x3e8\nlifetime = { soft = { packets = 2 }, hard = { packets = 4 } }";
    let policy = policies::ESP_HOST_12S.replace("spi = 0x3e8", limits);
    let mobile_node = lab.start_mobile_node(&net.host, &policy)?;
    protected_registration(&mut foreign, CARE_OF, GUEST, SPIS, FIRST_REGISTRATION)?;
    lab.wait_for_router(&net.guest)?;

    lab.step("the soft limit");
    wait_until("the status says that new keys are due", FIRST_REGISTRATION, || {
        Ok(lab.command(&net.host, &["status"])?.contains("ends after 4 packets: ENDS SOON, NEW KEYS ARE DUE"))
    })?;
    ensure(mobile_node.log().contains("the SA 0x3e8 ends soon"), || "it is not in the log".into())?;
    lab.ping(&net.cn, GUEST)?;

    lab.step("the hard limit");
    wait_until("the log says that it has ended", FIRST_REGISTRATION, || {
        Ok(mobile_node.log().contains("the SA 0x3e8 has ended"))
    })?;
    std::thread::sleep(QUIET);
    let states = net.host.command("ip", &["xfrm", "state", "list", "nokeys"])?;
    ensure(!states.contains("0x000003e8"), || format!("the ended SA is in the kernel again:\n{states}"))?;
    let status = lab.command(&net.host, &["status"])?;
    ensure(status.contains("sa-ended"), || format!("not among the last troubles:\n{status}"))?;

    lab.step("new SPIs and keys");
    let renew = |text: &str| {
        let spis = text.replace("0x3e8", "0x4e8").replace("0x3e9", "0x4e9");
        spis.replace("keys/vm1-to-", "keys/vm1-new-to-")
    };
    lab.policy("home-agent.toml", &renew(policies::ESP_HOME_AGENT))?;
    lab.command(&net.ha, &["reload"])?;
    lab.policy("mobile-node-host.toml", &renew(policies::ESP_HOST_12S))?;
    lab.command(&net.host, &["reload"])?;
    protected_registration(&mut foreign, CARE_OF, GUEST, NEW_SPIS, FIRST_REGISTRATION)?;
    lab.ping_until_answered(&net.cn, GUEST, SOON)?;
    lab.end([mobile_node, home_agent])?;
    lab.no_readable_mobility_header()
}
