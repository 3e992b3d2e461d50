//! See `README.md`.

use crate::prelude::*;

pub(crate) const SCENARIO: Scenario =
    Scenario { name: "register-esp", readme: include_str!("README.md"), peer: Peer::None, well_formed: true, run };

fn run(lab: &Lab) -> Outcome {
    let net = &lab.net;
    let mut foreign = lab.watch(FOREIGN)?;
    let whole_foreign = foreign.clone();

    lab.step("home agent and host start");
    let home_agent = lab.start_home_agent(policies::REFERENCE_PROTECTED_HOME_AGENT)?;
    let mobile_node = lab.start_mobile_node(&net.host, policies::REFERENCE_PROTECTED_HOST)?;
    protected_registration(&mut foreign, CARE_OF, GUEST, SPIS, FIRST_REGISTRATION)?;

    lab.step("guest, correspondent and home agent");
    lab.wait_for_router(&net.guest)?;
    lab.ping(&net.guest, CORRESPONDENT)?;
    echo_from_guest(&mut foreign, CARE_OF, GUEST, CORRESPONDENT)?;
    lab.ping(&net.cn, GUEST)?;
    echo_to_guest(&mut foreign, CARE_OF, GUEST, CORRESPONDENT)?;
    lab.ping(&net.guest, HOME_AGENT)?;
    lab.ping(&net.ha, GUEST)?;

    lab.end([mobile_node, home_agent])?;
    whole_foreign.must_not_have_seen("ESP of the home address without the Home Address option", |packet| {
        packet.spi() == Some(SPIS.0) && !is_protected_update(packet, CARE_OF, GUEST, SPIS.0)
    })?;
    lab.no_readable_mobility_header()
}
