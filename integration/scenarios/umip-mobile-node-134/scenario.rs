//! See `README.md`.

use crate::prelude::*;
use crate::umip::{self, Protection};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "umip-mobile-node-134",
    readme: include_str!("README.md"),
    peer: Peer::UmipMobileNode,
    well_formed: true,
    run,
};

fn run(lab: &Lab) -> Outcome {
    let net = &lab.net;
    let (mut foreign, mut home) = (lab.watch(FOREIGN)?, lab.watch(HOME)?);
    net.cn.ip("addr add 2001:db8:2000::10/64 dev eth0 nodad")?;
    let home_agent = lab.start_home_agent(policies::PLAIN_HOME_AGENT)?;
    let peer = umip::start_mobile_node(lab, Protection::None)?;
    foreign.must_see("a binding acknowledgement with status 134", FIRST_REGISTRATION, |packet| {
        packet.home_address() == Some(GUEST)
            && packet.binding_acknowledgement().is_some_and(|(status, ..)| status == 134)
    })?;
    home.must_see("duplicate address detection", SOON, |packet| {
        packet.has_target(GUEST) && packet.addresses().any(|(source, _)| source.is_unspecified())
    })?;
    home.must_see("the correspondent's answer", SOON, |packet| advertisement_flags(packet, GUEST).is_some())?;
    peer.end()?;
    lab.on(FOREIGN)?
        .observer_of_all()
        .must_not_have_seen("data in the tunnel", |packet| packet.addresses().count() > 1)?;
    lab.end([home_agent])
}
