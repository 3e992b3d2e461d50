//! See `README.md`.

use crate::prelude::*;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "off-link-correspondent",
    readme: include_str!("README.md"),
    peer: Peer::None,
    well_formed: true,
    run,
};

fn run(lab: &Lab) -> Outcome {
    let net = &lab.net;
    let (mut foreign, mut far) = (lab.watch(FOREIGN)?, lab.watch(FAR_LINK)?);
    let whole_foreign = foreign.clone();
    let home_agent = lab.start_home_agent(policies::ESP_HOME_AGENT)?;
    let mobile_node = lab.start_mobile_node(&net.host, policies::ESP_HOST)?;
    protected_registration(&mut foreign, CARE_OF, GUEST, SPIS, FIRST_REGISTRATION)?;
    lab.wait_for_router(&net.guest)?;

    lab.step("guest to correspondent");
    lab.ping(&net.guest, FAR)?;
    let request = echo_from_guest(&mut foreign, CARE_OF, GUEST, FAR)?;
    far.must_see("the echo request at the correspondent's link", SOON, |packet| {
        packet.is_from_to(GUEST, FAR) && packet.is_icmpv6(icmpv6::ECHO_REQUEST)
    })?;
    // The tunnel is one hop for the inner packet (RFC 2473 §3.1), and the guest sends with 64.
    ensure(request.hop_limits().get(1) == Some(&63), || {
        format!("hop limits {:?} in the tunnel", request.hop_limits())
    })?;

    lab.step("correspondent to guest");
    lab.ping(&net.far, GUEST)?;
    echo_to_guest(&mut foreign, CARE_OF, GUEST, FAR)?;

    lab.end([mobile_node, home_agent])?;
    whole_foreign.must_not_have_seen("a packet between guest and correspondent outside the tunnel", |packet| {
        packet.is_from_to(GUEST, FAR) || packet.is_from_to(FAR, GUEST)
    })
}
