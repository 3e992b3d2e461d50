//! See `README.md`.

use crate::prelude::*;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "spoofed-source-dropped",
    readme: include_str!("README.md"),
    peer: Peer::None,
    well_formed: true,
    run,
};

use crate::craft::{echo_request, frame, ipv6, send_frames, send_packet};

fn run(lab: &Lab) -> Outcome {
    let net = &lab.net;
    let (mut foreign, mut segment) = (lab.watch(FOREIGN)?, lab.watch(SEGMENT)?);
    let home_agent = lab.start_home_agent(policies::ESP_HOME_AGENT)?;
    let mobile_node = lab.start_mobile_node(&net.host, policies::ESP_HOST)?;
    protected_registration(&mut foreign, CARE_OF, GUEST, SPIS, FIRST_REGISTRATION)?;
    let router =
        segment.must_see("a router advertisement", SOON, |packet| packet.is_icmpv6(icmpv6::ROUTER_ADVERTISEMENT))?;
    lab.wait_for_router(&net.guest)?;
    lab.ping(&net.cn, GUEST)?;
    let (foreign, home, segment) = (lab.watch(FOREIGN)?, lab.watch(HOME)?, lab.watch(SEGMENT)?);
    // The forgeries are echo requests of this identifier; no ping of the lab's nodes uses it.
    let forged = |packet: &Packet| matches!(packet.layers.last(), Some(crate::dissect::Layer::Icmpv6 { rest, .. }) if rest >> 16 == 0x4b4d);

    lab.step("the guest forges its source address, and its MAC address");
    let (own_mac, other_mac) = ([0x52, 0x54, 0, 0, 0, 0x10], [0x52, 0x54, 0, 0, 0, 0x66]);
    let honest = echo_request(GUEST, CORRESPONDENT);
    let neighbour = echo_request("2001:db8:2000::66".parse().unwrap_or(FAR), CORRESPONDENT);
    let stranger = echo_request(FAR, CORRESPONDENT);
    let forgeries = vec![
        frame(router.ether_source, own_mac, &neighbour),
        frame(router.ether_source, own_mac, &stranger),
        frame(router.ether_source, own_mac, &echo_request(HOME_AGENT, CORRESPONDENT)),
        frame(router.ether_source, other_mac, &honest),
    ];
    send_frames(&net.guest, "eth0", forgeries)?;
    segment.clone().must_see("the last forgery", SOON, |packet| packet.ether_source == other_mac && forged(packet))?;
    foreign.must_not_see("a forgery of the guest on the foreign link", QUIET, forged)?;

    lab.step("others forge the outer source of the tunnel, or its content");
    let segment = lab.watch(SEGMENT)?;
    let to_guest = echo_request(CORRESPONDENT, GUEST);
    send_packet(&net.far, CARE_OF, ipv6(FAR, CARE_OF, 41, &to_guest))?;
    send_packet(&net.far, CARE_OF, ipv6(CORRESPONDENT, CARE_OF, 41, &to_guest))?;
    send_packet(&net.far, CARE_OF, ipv6(HOME_AGENT, CARE_OF, 41, &echo_request(CORRESPONDENT, GUEST2)))?;
    let arrived = |packet: &Packet| packet.addresses().next() == Some((HOME_AGENT, CARE_OF)) && forged(packet);
    foreign.clone().must_see("the last forgery on the foreign link", SOON, arrived)?;
    segment.must_not_see("a forgery on the guest's segment", QUIET, forged)?;

    lab.step("others forge towards the home agent");
    send_packet(&net.far, HOME_AGENT, ipv6(FAR, HOME_AGENT, 41, &honest))?;
    send_packet(&net.far, HOME_AGENT, ipv6(CARE_OF_AFTER_MOVE, HOME_AGENT, 41, &honest))?;
    send_packet(&net.far, HOME_AGENT, ipv6(CARE_OF, HOME_AGENT, 41, &neighbour))?;
    home.must_not_see("a forgery on the home link", QUIET, forged)?;

    lab.step("the honest guest is still reached");
    lab.ping(&net.cn, GUEST)?;
    lab.ping(&net.guest, CORRESPONDENT)?;
    lab.end([mobile_node, home_agent])
}
