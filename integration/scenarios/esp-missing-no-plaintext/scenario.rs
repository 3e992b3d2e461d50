//! See `README.md`.

use crate::prelude::*;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "esp-missing-no-plaintext",
    readme: include_str!("README.md"),
    peer: Peer::None,
    well_formed: true,
    run,
};

fn run(lab: &Lab) -> Outcome {
    let net = &lab.net;
    let (mut foreign, foreign2) = (lab.watch(FOREIGN)?, lab.watch(FOREIGN2)?);
    let home_agent = lab.start_home_agent(policies::ESP_HOME_AGENT)?;
    let mobile_node = lab.start_mobile_node(&net.host, policies::ESP_HOST_12S)?;
    protected_registration(&mut foreign, CARE_OF, GUEST, SPIS, FIRST_REGISTRATION)?;

    lab.step("the outbound security association is deleted, and the host moves");
    net.host.ip("xfrm state delete src 2001:db8:2000::10 dst 2001:db8:2000::1 proto esp spi 0x3e8")?;
    net.move_host()?;
    lab.step("the daemon has tried to register, or not");
    foreign2.must_not_see("anything for the home agent but ESP", Duration::from_secs(8), |packet| {
        packet.addresses().any(|(_, destination)| destination == HOME_AGENT) && packet.spi().is_none()
    })?;
    foreign2.must_not_have_seen("a packet of the home address outside ESP and tunnel", |packet| {
        packet.addresses().next().is_some_and(|(source, destination)| source == GUEST || destination == GUEST)
    })?;
    lab.no_readable_mobility_header()?;

    lab.end([mobile_node, home_agent])?;
    lab.no_readable_mobility_header()
}
