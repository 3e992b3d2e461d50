//! See `README.md`.

use crate::prelude::*;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "policy-missing-no-plaintext",
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

    lab.step("the outbound protecting policy is deleted");
    net.host.ip("xfrm policy delete dir out src 2001:db8:2000::10/128 dst 2001:db8:2000::1/128 proto 135 type 5")?;
    lab.step("a refresh is due meanwhile");
    foreign.must_not_see("a mobility header in the clear", Duration::from_secs(12), Packet::has_mobility_header)?;
    lab.step("the host moves");
    net.move_host()?;
    foreign2.must_not_see("a mobility header in the clear", Duration::from_secs(4), Packet::has_mobility_header)?;
    for link in [&foreign, &foreign2] {
        link.must_not_have_seen("a packet of the home address on the foreign link outside the tunnel", |packet| {
            packet.addresses().next().is_some_and(|(source, destination)| source == GUEST || destination == GUEST)
        })?;
    }
    lab.end([mobile_node, home_agent])?;
    lab.no_readable_mobility_header()
}
