//! See `README.md`.

use crate::prelude::*;

pub(crate) const SCENARIO: Scenario =
    Scenario { name: "register-plain", readme: include_str!("README.md"), peer: Peer::None, well_formed: true, run };

fn run(lab: &Lab) -> Outcome {
    let net = &lab.net;
    let (mut foreign, mut home) = (lab.watch(FOREIGN)?, lab.watch(HOME)?);
    let whole_foreign = foreign.clone();

    lab.step("home agent and host start");
    let home_agent = lab.start_home_agent(policies::REFERENCE_UNPROTECTED_HOME_AGENT)?;
    let mobile_node = lab.start_mobile_node(&net.host, policies::REFERENCE_UNPROTECTED_HOST)?;
    let (_, lifetime) = registration(&mut foreign, CARE_OF, GUEST, 0, FIRST_REGISTRATION)?;
    ensure(lifetime > 0, || "the granted lifetime is 0".into())?;

    lab.step("the home agent has defended the home address on the home link");
    let probe = |packet: &Packet| packet.is_icmpv6(icmpv6::NEIGHBOR_SOLICITATION) && packet.has_target(GUEST);
    let detection = home.must_see("duplicate address detection of the home address", SOON, |packet| {
        probe(packet) && packet.addresses().any(|(source, _)| source.is_unspecified())
    })?;
    let defence =
        home.must_see("the home agent's advertisement of the home address, override set", SOON, |packet| {
            advertisement_flags(packet, GUEST).is_some_and(|(_, _, overriding)| overriding)
        })?;
    ensure(detection.ether_source == defence.ether_source, || "another node than the home agent defends it".into())?;

    lab.step("guest and correspondent");
    lab.wait_for_router(&net.guest)?;
    lab.ping(&net.guest, CORRESPONDENT)?;
    echo_from_guest(&mut foreign, CARE_OF, GUEST, CORRESPONDENT)?;
    lab.ping(&net.cn, GUEST)?;
    echo_to_guest(&mut foreign, CARE_OF, GUEST, CORRESPONDENT)?;

    lab.step("guest and home agent");
    lab.ping(&net.guest, HOME_AGENT)?;
    echo_from_guest(&mut foreign, CARE_OF, GUEST, HOME_AGENT)?;
    lab.ping(&net.ha, GUEST)?;
    echo_to_guest(&mut foreign, CARE_OF, GUEST, HOME_AGENT)?;

    lab.end([mobile_node, home_agent])?;
    whole_foreign.must_not_have_seen("a packet of the home address outside the tunnel", |packet| {
        packet.addresses().next().is_some_and(|(source, destination)| source == GUEST || destination == GUEST)
    })
}
