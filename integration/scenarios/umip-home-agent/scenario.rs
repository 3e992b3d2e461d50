//! See `README.md`.

use crate::prelude::*;
use crate::umip;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "umip-home-agent",
    readme: include_str!("README.md"),
    peer: Peer::UmipHomeAgent,
    well_formed: true,
    run,
};

fn run(lab: &Lab) -> Outcome {
    let net = &lab.net;
    let (mut foreign, mut foreign2) = (lab.watch(FOREIGN)?, lab.watch(FOREIGN2)?);
    let peer = umip::start_home_agent(lab, policies::ESP_HOST_12S)?;
    let mobile_node = lab.start_mobile_node(&net.host, policies::ESP_HOST_12S)?;

    lab.step("registration");
    protected_registration(&mut foreign, CARE_OF, GUEST, SPIS, FIRST_REGISTRATION)?;
    lab.wait_for_router(&net.guest)?;
    lab.ping(&net.guest, CORRESPONDENT)?;
    echo_from_guest(&mut foreign, CARE_OF, GUEST, CORRESPONDENT)?;
    lab.ping(&net.cn, GUEST)?;
    lab.ping(&net.guest, HOME_AGENT)?;
    lab.step("echo requests of umip's home agent come with a type 2 routing header, not in the tunnel");
    lab.ping(&net.ha, GUEST)?;

    lab.step("refresh");
    protected_registration(&mut foreign, CARE_OF, GUEST, SPIS, FIRST_REGISTRATION)?;
    lab.ping(&net.cn, GUEST)?;

    lab.step("handover");
    net.move_host()?;
    protected_registration(&mut foreign2, CARE_OF_AFTER_MOVE, GUEST, SPIS, SOON)?;
    lab.ping(&net.cn, GUEST)?;
    echo_to_guest(&mut foreign2, CARE_OF_AFTER_MOVE, GUEST, CORRESPONDENT)?;
    lab.ping(&net.guest, CORRESPONDENT)?;

    lab.step("de-registration");
    lab.end([mobile_node])?;
    protected_registration(&mut foreign2, CARE_OF_AFTER_MOVE, GUEST, SPIS, SOON)?;
    wait_until("umip does not defend the home address any more", SOON, || {
        Ok(!net.ha.command("ip", &["-6", "neigh", "show", "proxy"])?.contains("2001:db8:2000::10"))
    })?;
    peer.end()?;
    lab.no_readable_mobility_header()
}
