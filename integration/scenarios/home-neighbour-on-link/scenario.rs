//! See `README.md`.

use crate::prelude::*;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "home-neighbour-on-link",
    readme: include_str!("README.md"),
    peer: Peer::None,
    well_formed: true,
    run,
};

fn run(lab: &Lab) -> Outcome {
    let net = &lab.net;
    let (mut foreign, mut home, mut segment) = (lab.watch(FOREIGN)?, lab.watch(HOME)?, lab.watch(SEGMENT)?);
    let whole_foreign = foreign.clone();
    let home_agent = lab.start_home_agent(policies::PLAIN_HOME_AGENT)?;
    let mobile_node = lab.start_mobile_node(&net.host, policies::PLAIN_HOST)?;
    registration(&mut foreign, CARE_OF, GUEST, 0, FIRST_REGISTRATION)?;
    let router =
        segment.must_see("a router advertisement", SOON, |packet| packet.is_icmpv6(icmpv6::ROUTER_ADVERTISEMENT))?;

    lab.step("the guest resolves the correspondent");
    lab.ping(&net.guest, CORRESPONDENT)?;
    segment.must_see("the guest's solicitation", SOON, |packet| {
        packet.is_icmpv6(icmpv6::NEIGHBOR_SOLICITATION) && packet.has_target(CORRESPONDENT)
    })?;
    let answer = segment.must_see("its answer", SOON, |packet| {
        advertisement_flags(packet, CORRESPONDENT).is_some_and(|(_, solicited, _)| solicited)
    })?;
    ensure(answer.ether_source == router.ether_source, || "neighbour and router have different MAC addresses".into())?;
    echo_from_guest(&mut foreign, CARE_OF, GUEST, CORRESPONDENT)?;

    lab.step("the correspondent resolves the guest");
    home.must_see("the echo request at home, out of the tunnel", SOON, |packet| {
        packet.is_from_to(GUEST, CORRESPONDENT) && packet.is_icmpv6(icmpv6::ECHO_REQUEST)
    })?;
    net.cn.ip("neigh flush all")?;
    lab.ping(&net.cn, GUEST)?;
    let solicitation = home.must_see("the correspondent's solicitation for the guest", SOON, |packet| {
        packet.is_icmpv6(icmpv6::NEIGHBOR_SOLICITATION) && packet.has_target(GUEST)
    })?;
    home.must_see("the home agent's answer, override set", SOON, |packet| {
        packet.ether_destination == solicitation.ether_source
            && advertisement_flags(packet, GUEST).is_some_and(|(_, solicited, overriding)| solicited && overriding)
    })?;
    echo_to_guest(&mut foreign, CARE_OF, GUEST, CORRESPONDENT)?;

    lab.end([mobile_node, home_agent])?;
    whole_foreign.must_not_have_seen("neighbour discovery in the tunnel", |packet| {
        packet.addresses().count() > 1 && (133..=137).any(|kind| packet.is_icmpv6(kind))
    })
}
