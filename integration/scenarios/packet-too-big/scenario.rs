//! See `README.md`.

use crate::prelude::*;

pub(crate) const SCENARIO: Scenario =
    Scenario { name: "packet-too-big", readme: include_str!("README.md"), peer: Peer::None, well_formed: true, run };

use crate::dissect::Layer;

fn run(lab: &Lab) -> Outcome {
    let net = &lab.net;
    let mut foreign = lab.watch(FOREIGN)?;
    let whole_foreign = foreign.clone();
    net.guest.sysctl("conf/eth0/accept_ra_mtu", "0")?;
    let home_agent = lab.start_home_agent(policies::ESP_HOME_AGENT)?;
    let mobile_node = lab.start_mobile_node(&net.host, policies::ESP_HOST)?;
    protected_registration(&mut foreign, CARE_OF, GUEST, SPIS, FIRST_REGISTRATION)?;
    lab.wait_for_router(&net.guest)?;
    let too_big = |packet: &Packet| {
        matches!(packet.layers.last(), Some(Layer::Icmpv6 { kind: icmpv6::PACKET_TOO_BIG, rest: 1460, .. }))
    };

    lab.step("the guest sends 1500 octets");
    let mut segment = lab.watch(SEGMENT)?;
    let mut home = lab.watch(HOME)?;
    lab.ping_of_size_until_answered(&net.guest, CORRESPONDENT, 1500)?;
    segment.must_see("packet too big for the guest", SOON, |packet| {
        too_big(packet) && packet.addresses().next().is_some_and(|(_, destination)| destination == GUEST)
    })?;
    // The reply was too big as well.
    home.must_see("packet too big for the correspondent", SOON, |packet| {
        too_big(packet) && packet.addresses().next().is_some_and(|(_, destination)| destination == CORRESPONDENT)
    })?;

    lab.step("the correspondent sends 1500 octets");
    lab.ping_of_size_until_answered(&net.cn, GUEST, 1500)?;

    lab.end([mobile_node, home_agent])?;
    whole_foreign.must_not_have_seen("a fragmented outer packet", |packet| {
        matches!(packet.layers.as_slice(), [Layer::Ipv6 { .. }, Layer::Fragment { .. }, ..])
    })?;
    whole_foreign.must_not_have_seen("a frame longer than 1514 octets", |packet| packet.frame.len() > 1514)
}
