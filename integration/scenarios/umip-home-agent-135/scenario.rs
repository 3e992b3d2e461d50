//! See `README.md`.

use crate::prelude::*;
use crate::umip;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "umip-home-agent-135",
    readme: include_str!("README.md"),
    peer: Peer::UmipHomeAgent,
    well_formed: true,
    run,
};

fn run(lab: &Lab) -> Outcome {
    let net = &lab.net;
    let (mut foreign, mut foreign2) = (lab.watch(FOREIGN)?, lab.watch(FOREIGN2)?);
    let peer = umip::start_home_agent(lab, policies::PLAIN_HOST_12S)?;
    let old = lab.start_mobile_node(&net.host, policies::PLAIN_HOST_12S)?;
    registration(&mut foreign, CARE_OF, GUEST, 0, FIRST_REGISTRATION)?;
    lab.step("a refresh, so that the sequence number has moved on");
    let (last, _) = registration(&mut foreign, CARE_OF, GUEST, 0, FIRST_REGISTRATION)?;

    lab.step("the guest is live-migrated");
    net.migrate_guest()?;
    let new = lab.start_mobile_node(&net.host2, policies::PLAIN_HOST)?;
    registration(&mut foreign2, CARE_OF_HOST2, GUEST, 135, FIRST_REGISTRATION)?;
    let (accepted, _) = registration(&mut foreign2, CARE_OF_HOST2, GUEST, 0, SOON)?;
    ensure(is_newer(accepted, last), || format!("sequence number {accepted} is not newer than {last}"))?;
    lab.wait_for_router(&net.guest)?;
    lab.ping(&net.cn, GUEST)?;
    lab.end([old, new])?;
    peer.end()
}
