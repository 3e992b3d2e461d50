//! See `README.md`.

use crate::prelude::*;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "mobile-node-restart",
    readme: include_str!("README.md"),
    peer: Peer::None,
    well_formed: true,
    run,
};

fn run(lab: &Lab) -> Outcome {
    let net = &lab.net;
    let mut foreign = lab.watch(FOREIGN)?;
    let whole_foreign = foreign.clone();
    let home_agent = lab.start_home_agent(policies::ESP_HOME_AGENT)?;
    let mut crashed = lab.start_mobile_node(&net.host, policies::ESP_HOST_12S)?;
    protected_registration(&mut foreign, CARE_OF, GUEST, SPIS, FIRST_REGISTRATION)?;
    lab.wait_for_router(&net.guest)?;
    lab.step("a refresh, so that all sequence numbers have moved on");
    protected_registration(&mut foreign, CARE_OF, GUEST, SPIS, FIRST_REGISTRATION)?;
    lab.ping(&net.cn, GUEST)?;

    lab.step("the daemon crashes; the guest is not carried, and nothing of it leaves natively");
    crashed.crash()?;
    lab.ping_unanswered(&net.guest, CORRESPONDENT)?;
    lab.step("the daemon is started again");
    let mut foreign = lab.watch(FOREIGN)?;
    let mobile_node = lab.start_mobile_node(&net.host, policies::ESP_HOST_12S)?.instead_of(crashed);
    protected_registration(&mut foreign, CARE_OF, GUEST, SPIS, FIRST_REGISTRATION)?;
    lab.ping_until_answered(&net.cn, GUEST, SOON)?;
    lab.ping(&net.guest, CORRESPONDENT)?;
    ensure(mobile_node.log().contains("goes on with what an earlier run has left in the kernel; 0 steps"), || {
        "what was right in the kernel was made anew".into()
    })?;

    lab.end([mobile_node, home_agent])?;
    whole_foreign
        .must_not_have_seen("a packet of the home address on the foreign link outside the tunnel", |packet| {
            packet.addresses().next().is_some_and(|(source, destination)| source == GUEST || destination == GUEST)
        })?;
    lab.no_readable_mobility_header()
}
