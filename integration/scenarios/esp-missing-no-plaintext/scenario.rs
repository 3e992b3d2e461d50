//! See `README.md`.

use crate::prelude::*;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "esp-missing-no-plaintext",
    readme: include_str!("README.md"),
    peer: Peer::None,
    well_formed: true,
    run,
};

/// The daemon tries again after 1, 2, 4, … s what the kernel has refused.
const LONGEST_RETRY: Duration = Duration::from_secs(12);

fn run(lab: &Lab) -> Outcome {
    let net = &lab.net;
    let (mut foreign, foreign2) = (lab.watch(FOREIGN)?, lab.watch(FOREIGN2)?);
    let home_agent = lab.start_home_agent(policies::ESP_HOME_AGENT)?;
    let mut mobile_node = lab.start_mobile_node(&net.host, policies::ESP_HOST_12S)?;
    protected_registration(&mut foreign, CARE_OF, GUEST, SPIS, FIRST_REGISTRATION)?;

    lab.step("the outbound security association is deleted and its SPI taken by another; a refresh is due meanwhile");
    mobile_node.expect_errors("SA 0x3e8");
    // The daemon could put it back before the SPI is taken.
    let missing = mobile_node.while_stopped(|| {
        net.host.ip("xfrm state delete src 2001:db8:2000::10 dst 2001:db8:2000::1 proto esp spi 0x3e8\n\
             xfrm state add src 2001:db8:3000::3 dst 2001:db8:2000::1 proto esp spi 0x3e8 reqid 99 mode transport \
             enc cbc(aes) 0x000102030405060708090a0b0c0d0e0f auth-trunc hmac(sha256) \
             0x000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f 128")?;
        // What was sent before was sent rightly.
        lab.watch(FOREIGN)
    })?;
    missing.must_not_see("anything of the host for the home agent", Duration::from_secs(8), |packet| {
        packet.is_from_to(CARE_OF, HOME_AGENT) || packet.is_from_to(GUEST, HOME_AGENT)
    })?;
    lab.step("another program on the host sends a binding update");
    crate::classes::send_binding_update(&net.host, CARE_OF)?;
    missing.must_not_see("anything of the host for the home agent", QUIET, |packet| {
        packet.is_from_to(CARE_OF, HOME_AGENT) || packet.is_from_to(GUEST, HOME_AGENT)
    })?;
    ensure(net.host.read("/proc/thread-self/net/xfrm_stat")?.lines().any(refused), || {
        "the host's kernel has held nothing back".into()
    })?;

    lab.step("the host moves");
    net.move_host()?;
    foreign2.must_not_see("anything of the host for the home agent", Duration::from_secs(2), |packet| {
        packet.is_from_to(CARE_OF_AFTER_MOVE, HOME_AGENT) || packet.is_from_to(GUEST, HOME_AGENT)
    })?;
    lab.step("the other program gives the SPI back");
    net.host.ip("xfrm state delete src 2001:db8:3000::3 dst 2001:db8:2000::1 proto esp spi 0x3e8")?;
    let mut registered = foreign2.clone();
    protected_registration(&mut registered, CARE_OF_AFTER_MOVE, GUEST, SPIS, LONGEST_RETRY)?;
    foreign2.must_not_see("anything for the home agent but ESP", QUIET, |packet| {
        packet.addresses().any(|(_, destination)| destination == HOME_AGENT) && packet.spi().is_none()
    })?;
    for link in [&foreign, &foreign2] {
        link.must_not_have_seen("a packet of the home address outside ESP and tunnel", |packet| {
            packet.addresses().next().is_some_and(|(source, destination)| source == GUEST || destination == GUEST)
        })?;
    }
    lab.no_readable_mobility_header()?;

    lab.end([mobile_node, home_agent])?;
    lab.no_readable_mobility_header()
}

/// A line of `/proc/net/xfrm_stat` (RFC 4301 §4.4.1: no association for a packet that must have one).
fn refused(line: &str) -> bool {
    line.split_whitespace().next() == Some("XfrmOutNoStates") && line.split_whitespace().nth(1) != Some("0")
}
