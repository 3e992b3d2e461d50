//! See `README.md`.

use crate::prelude::*;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "home-agent-restart",
    readme: include_str!("README.md"),
    peer: Peer::None,
    well_formed: true,
    run,
};

fn run(lab: &Lab) -> Outcome {
    let net = &lab.net;
    let mut foreign = lab.watch(FOREIGN)?;
    let mut home_agent = lab.start_home_agent(policies::ESP_HOME_AGENT)?;
    let mobile_node = lab.start_mobile_node(&net.host, policies::ESP_HOST_12S)?;
    protected_registration(&mut foreign, CARE_OF, GUEST, SPIS, FIRST_REGISTRATION)?;
    lab.wait_for_router(&net.guest)?;
    lab.ping(&net.cn, GUEST)?;

    lab.step("the home agent's daemon crashes and is started again");
    home_agent.crash()?;
    let mut foreign = lab.watch(FOREIGN)?;
    // What the crashed one has left in the kernel must not be in the way; and must go with the new one.
    let home_agent = lab.start_home_agent(policies::ESP_HOME_AGENT)?.instead_of(home_agent);
    protected_registration(&mut foreign, CARE_OF, GUEST, SPIS, FIRST_REGISTRATION)?;
    lab.step("registered again");
    lab.ping_until_answered(&net.cn, GUEST, SOON)?;
    lab.ping(&net.guest, CORRESPONDENT)?;

    lab.end([mobile_node, home_agent])?;
    lab.no_readable_mobility_header()
}
