//! See `README.md`.

use crate::prelude::*;
use crate::umip;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "umip-home-agent-134",
    readme: include_str!("README.md"),
    peer: Peer::UmipHomeAgent,
    well_formed: true,
    run,
};

fn run(lab: &Lab) -> Outcome {
    let net = &lab.net;
    let mut foreign = lab.watch(FOREIGN)?;
    net.cn.ip("addr add 2001:db8:2000::10/64 dev eth0 nodad")?;
    let peer = umip::start_home_agent(lab, policies::PLAIN_HOST)?;
    let mobile_node = lab.start_mobile_node(&net.host, policies::PLAIN_HOST)?;
    registration(&mut foreign, CARE_OF, GUEST, 134, FIRST_REGISTRATION)?;
    foreign.must_not_have_seen("data in the tunnel", |packet| packet.addresses().count() > 1)?;
    lab.step("the home address is free again");
    net.cn.ip("addr del 2001:db8:2000::10/64 dev eth0")?;
    registration(&mut foreign, CARE_OF, GUEST, 0, FIRST_REGISTRATION)?;
    lab.wait_for_router(&net.guest)?;
    // Until the confirming update has been answered: mip6d does not survive a deletion within a millisecond of it.
    lab.ping_until_answered(&net.cn, GUEST, SOON)?;
    foreign.must_not_see("another refusal", Duration::from_millis(500), |packet| {
        packet.binding_acknowledgement().is_some_and(|(status, ..)| status != 0)
    })?;
    lab.end([mobile_node])?;
    peer.end()
}
