//! See `README.md`.

use crate::prelude::*;
use crate::umip::{self, Protection};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "umip-mobile-node-135",
    readme: include_str!("README.md"),
    peer: Peer::UmipMobileNode,
    well_formed: true,
    run,
};

fn run(lab: &Lab) -> Outcome {
    let net = &lab.net;
    let mut foreign = lab.watch(FOREIGN)?;
    let home_agent = lab.start_home_agent(policies::PLAIN_HOME_AGENT)?;
    let mut peer = umip::start_mobile_node(lab, Protection::None)?;
    let acknowledgement =
        |packet: &Packet| packet.home_address() == Some(GUEST) && packet.binding_acknowledgement().is_some();
    // One in two is old; twelve new ones in a row would be one in four thousand.
    for attempt in 1..=12 {
        let answer = foreign.must_see("a binding acknowledgement", FIRST_REGISTRATION, acknowledgement)?;
        let (status, sequence, lifetime) = answer.binding_acknowledgement().unwrap_or_default();
        lab.step(&format!("start {attempt}: status {status}, sequence number {sequence}, lifetime {lifetime}"));
        if status == 135 {
            foreign.must_see("an accepted registration", SOON, |packet| {
                acknowledgement(packet) && packet.binding_acknowledgement().is_some_and(|(status, ..)| status == 0)
            })?;
            lab.ping_until_answered(&net.cn, GUEST, FIRST_REGISTRATION)?;
            peer.end()?;
            return lab.end([home_agent]);
        }
        ensure(status == 0, || format!("status {status}"))?;
        peer.restart_mobile_node(lab, Protection::None)?;
        foreign.take();
    }
    Err(crate::failure::Failure::new("no start had an old sequence number"))
}
