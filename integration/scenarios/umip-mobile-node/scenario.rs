//! See `README.md`.

use crate::prelude::*;
use crate::umip::{self, Protection};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "umip-mobile-node",
    readme: include_str!("README.md"),
    peer: Peer::UmipMobileNode,
    well_formed: true,
    run,
};

use crate::capture::Observer;

/// A registration of the home address under ESP, by whatever care-of address.
fn protected(link: &mut Observer, timeout: Duration) -> Outcome {
    link.must_see("ESP 0x3e8 with the Home Address option", timeout, |packet| {
        packet.spi() == Some(SPIS.0) && packet.home_address() == Some(GUEST)
    })?;
    link.must_see("ESP 0x3e9 with the type 2 routing header", timeout, |packet| {
        packet.spi() == Some(SPIS.1) && packet.home_address() == Some(GUEST)
    })?;
    Ok(())
}

fn run(lab: &Lab) -> Outcome {
    let net = &lab.net;
    let (mut foreign, mut foreign2, mut home) = (lab.watch(FOREIGN)?, lab.watch(FOREIGN2)?, lab.watch(HOME)?);
    let home_agent = lab.start_home_agent(policies::ESP_HOME_AGENT)?;
    let peer = umip::start_mobile_node(lab, Protection::Esp)?;

    lab.step("registration");
    protected(&mut foreign, FIRST_REGISTRATION)?;
    lab.ping_until_answered(&net.cn, GUEST, FIRST_REGISTRATION)?;
    foreign.must_see("an echo request in the tunnel", SOON, |packet| {
        packet.addresses().nth(1) == Some((CORRESPONDENT, GUEST)) && packet.is_icmpv6(icmpv6::ECHO_REQUEST)
    })?;

    lab.step("refresh");
    protected(&mut foreign, FIRST_REGISTRATION)?;
    lab.ping(&net.cn, GUEST)?;

    lab.step("handover");
    net.replug(&net.host, "eth0", FOREIGN2)?;
    protected(&mut foreign2, FIRST_REGISTRATION)?;
    lab.ping_until_answered(&net.cn, GUEST, FIRST_REGISTRATION)?;
    foreign2.must_see("an echo request in the tunnel", SOON, |packet| {
        packet.addresses().nth(1) == Some((CORRESPONDENT, GUEST)) && packet.is_icmpv6(icmpv6::ECHO_REQUEST)
    })?;

    lab.step("home again");
    let radvd = umip::advertise_home_link(lab)?;
    home.take();
    net.replug(&net.host, "eth0", HOME)?;
    let deregistration = home.must_see("ESP 0x3e8 from the home address", FIRST_REGISTRATION, |packet| {
        packet.is_from_to(GUEST, HOME_AGENT) && packet.spi() == Some(SPIS.0) && packet.home_address().is_none()
    })?;
    home.must_see("ESP 0x3e9 to the home address", SOON, |packet| {
        packet.is_from_to(HOME_AGENT, GUEST) && packet.spi() == Some(SPIS.1) && packet.home_address().is_none()
    })?;
    lab.on(HOME)?.observer_of_all().must_not_have_seen("a repeated de-registration", {
        let first = deregistration.time;
        move |packet| packet.is_from_to(GUEST, HOME_AGENT) && packet.spi() == Some(SPIS.0) && packet.time > first
    })?;
    net.cn.ip("neigh flush all")?;
    let mut home = lab.watch(HOME)?;
    lab.ping_until_answered(&net.cn, GUEST, FIRST_REGISTRATION)?;
    home.must_see("an echo reply natively at home", SOON, |packet| {
        packet.is_from_to(GUEST, CORRESPONDENT) && packet.is_icmpv6(icmpv6::ECHO_REPLY)
    })?;

    peer.end()?;
    radvd.end()?;
    lab.end([home_agent])?;
    lab.no_readable_mobility_header()
}
