//! See `README.md`.

use kagemusha::ipsec::{Class, Toward};

use crate::classes::{solicit_prefixes, spi, with_umip};
use crate::prelude::*;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "umip-class-mobile-prefix-discovery",
    readme: include_str!("README.md"),
    peer: Peer::UmipHomeAgent,
    well_formed: true,
    run,
};

fn run(lab: &Lab) -> Outcome {
    let registration = Class::HomeRegistration;
    let (mobile_node, peer) = with_umip(lab, &[registration, Class::MobilePrefixDiscovery], registration)?;
    lab.step("a mobile prefix solicitation of the host");
    let mut foreign = lab.watch(FOREIGN)?;
    solicit_prefixes(&lab.net.host)?;
    let wanted = spi(Class::MobilePrefixDiscovery, Toward::HomeAgent);
    foreign.must_see("the solicitation in ESP", SOON, |packet| {
        packet.is_from_to(CARE_OF, HOME_AGENT) && packet.spi() == Some(wanted)
    })?;
    let wanted = spi(Class::MobilePrefixDiscovery, Toward::Guest);
    foreign.must_see("the advertisement in ESP", FIRST_REGISTRATION, |packet| {
        packet.is_from_to(HOME_AGENT, CARE_OF) && packet.spi() == Some(wanted)
    })?;
    lab.end([mobile_node])?;
    peer.end()?;
    lab.no_readable_mobility_header()
}
