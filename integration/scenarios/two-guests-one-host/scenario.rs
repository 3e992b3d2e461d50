//! See `README.md`.

use crate::prelude::*;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "two-guests-one-host",
    readme: include_str!("README.md"),
    peer: Peer::None,
    well_formed: true,
    run,
};

fn run(lab: &Lab) -> Outcome {
    let net = &lab.net;
    let (foreign, foreign2) = (lab.watch(FOREIGN)?, lab.watch(FOREIGN2)?);
    let home_agent = lab.start_home_agent(policies::ESP_HOME_AGENT)?;
    let mobile_node = lab.start_mobile_node(&net.host, policies::ESP_HOST_TWO_GUESTS)?;
    for (guest, spis) in [(GUEST, SPIS), (GUEST2, SPIS2)] {
        protected_registration(&mut foreign.clone(), CARE_OF, guest, spis, FIRST_REGISTRATION)?;
    }

    lab.step("both guests are reached, and reach each other");
    for (node, guest) in [(&net.guest, GUEST), (&net.guest2, GUEST2)] {
        lab.wait_for_router(node)?;
        lab.ping(&net.cn, guest)?;
        echo_to_guest(&mut foreign.clone(), CARE_OF, guest, CORRESPONDENT)?;
        lab.ping(node, CORRESPONDENT)?;
        echo_from_guest(&mut foreign.clone(), CARE_OF, guest, CORRESPONDENT)?;
    }
    lab.ping(&net.guest, GUEST2)?;

    lab.step("the home agent loses the first guest's inbound security association, then the host moves");
    net.ha.ip("xfrm state delete src 2001:db8:2000::10 dst 2001:db8:2000::1 proto esp spi 0x3e8")?;
    net.move_host()?;
    protected_registration(&mut foreign2.clone(), CARE_OF_AFTER_MOVE, GUEST2, SPIS2, SOON)?;
    lab.ping(&net.cn, GUEST2)?;

    // The first guest may not be able to de-register; the daemon must end all the same.
    lab.end([mobile_node, home_agent])?;
    lab.no_readable_mobility_header()
}
