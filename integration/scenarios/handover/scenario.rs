//! See `README.md`.

use crate::prelude::*;

pub(crate) const SCENARIO: Scenario =
    Scenario { name: "handover", readme: include_str!("README.md"), peer: Peer::None, well_formed: true, run };

fn run(lab: &Lab) -> Outcome {
    let net = &lab.net;
    let (mut foreign, mut foreign2) = (lab.watch(FOREIGN)?, lab.watch(FOREIGN2)?);
    let home_agent = lab.start_home_agent(policies::ESP_HOME_AGENT)?;
    let mobile_node = lab.start_mobile_node(&net.host, policies::ESP_HOST)?;
    protected_registration(&mut foreign, CARE_OF, GUEST, SPIS, FIRST_REGISTRATION)?;
    lab.wait_for_router(&net.guest)?;
    lab.ping(&net.cn, GUEST)?;
    echo_to_guest(&mut foreign, CARE_OF, GUEST, CORRESPONDENT)?;

    lab.step("the host moves");
    net.move_host()?;
    protected_registration(&mut foreign2, CARE_OF_AFTER_MOVE, GUEST, SPIS, SOON)?;
    let old_link = lab.watch(FOREIGN)?;

    lab.step("registered with the new care-of address");
    lab.ping(&net.cn, GUEST)?;
    echo_to_guest(&mut foreign2, CARE_OF_AFTER_MOVE, GUEST, CORRESPONDENT)?;
    lab.ping(&net.guest, CORRESPONDENT)?;
    echo_from_guest(&mut foreign2, CARE_OF_AFTER_MOVE, GUEST, CORRESPONDENT)?;
    lab.ping(&net.guest, HOME_AGENT)?;
    old_link.must_not_have_seen("data for the old care-of address", |packet| packet.addresses().count() > 1)?;

    lab.end([mobile_node, home_agent])?;
    lab.no_readable_mobility_header()
}
