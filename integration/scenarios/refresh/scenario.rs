//! See `README.md`.

use crate::prelude::*;

pub(crate) const SCENARIO: Scenario =
    Scenario { name: "refresh", readme: include_str!("README.md"), peer: Peer::None, well_formed: true, run };

fn run(lab: &Lab) -> Outcome {
    let net = &lab.net;
    let (mut foreign, mut home) = (lab.watch(FOREIGN)?, lab.watch(HOME)?);

    let home_agent = lab.start_home_agent(policies::PLAIN_HOME_AGENT)?;
    let mobile_node = lab.start_mobile_node(&net.host, policies::PLAIN_HOST_12S)?;
    lab.step("first registration");
    let (mut last, mut lifetime) = registration(&mut foreign, CARE_OF, GUEST, 0, FIRST_REGISTRATION)?;
    lab.wait_for_router(&net.guest)?;
    let probe = |packet: &Packet| packet.is_icmpv6(icmpv6::NEIGHBOR_SOLICITATION) && packet.has_target(GUEST);
    let unspecified = |packet: &Packet| packet.addresses().any(|(source, _)| source.is_unspecified());
    home.must_see("duplicate address detection", SOON, |packet| probe(packet) && unspecified(packet))?;

    for _ in 0..2 {
        ensure(lifetime > 0 && lifetime <= 12, || {
            format!("a lifetime of {lifetime} s was granted, 12 were asked for")
        })?;
        let within = Duration::from_secs(u64::from(lifetime));
        let (sequence, granted) = registration(&mut foreign, CARE_OF, GUEST, 0, within)?;
        ensure(follows(sequence, last), || format!("sequence number {sequence} follows {last}"))?;
        (last, lifetime) = (sequence, granted);
        lab.step(&format!("refreshed with sequence number {sequence}"));
        lab.ping(&net.cn, GUEST)?;
    }
    home.must_not_have_seen("duplicate address detection for a refresh", |packet| {
        probe(packet) && unspecified(packet)
    })?;
    lab.end([mobile_node, home_agent])
}
