//! See `README.md`.

use crate::migration::journey::Conversation;
use crate::migration::sites::{Site, Sites};
use crate::migration::{guest, sites};
use crate::prelude::*;
use crate::umip;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "migration-source-partitioned-umip",
    readme: include_str!("README.md"),
    peer: Peer::UmipHomeAgent,
    // Not for tshark: the host that is back after the takeover has lower sequence numbers of the SA that both have.
    well_formed: false,
    run,
};

fn run(lab: &Lab) -> Outcome {
    let net = &lab.net;
    let places = Sites::build(lab)?;
    let policy = policies::ESP_HOST_12S.replace("lifetime = 12", "lifetime = 12\nattach = \"when-seen\"");
    let mut source = lab.start_mobile_node(&net.host, &policy)?;
    let target = lab.start_mobile_node(&net.host2, &policy)?;
    let peer = umip::start_home_agent(lab, &policy)?;
    let (mut foreign, mut foreign2) = (lab.watch(FOREIGN)?, lab.watch(FOREIGN2)?);
    places.plug(lab, Site::One)?;
    sites::announce(&net.guest, GUEST_MAC)?;
    protected_registration(&mut foreign, CARE_OF, GUEST, SPIS, FIRST_REGISTRATION)?;
    let _services = net.guest.run(guest::serve)??;
    lab.wait_for_router(&net.guest)?;
    lab.ping_until_answered(&net.far, GUEST, SOON)?;
    let conversation = Conversation::begin(lab, GUEST, 100)?;

    lab.step("site 1 is cut off, and the guest moves");
    net.unplug(&net.host, "eth0")?;
    places.move_guest(lab, Site::One, Site::Two)?;
    protected_registration(&mut foreign2, CARE_OF_HOST2, GUEST, SPIS, FIRST_REGISTRATION)?;
    lab.ping_until_answered(&net.cn, GUEST, SOON)?;
    std::thread::sleep(Duration::from_secs(1));

    lab.step("site 1 is back");
    let back = lab.watch(FOREIGN)?;
    net.plug(&net.host, "eth0", FOREIGN)?;
    wait_until("site 1 tells that another host has the guest", FIRST_REGISTRATION, || {
        source.must_run()?;
        Ok(source.log().contains("another host speaks for this guest now"))
    })?;
    let silent = lab.watch(FOREIGN)?;
    silent.must_not_see("anything about the guest from site 1", Duration::from_secs(14), |packet| {
        packet.is_from_to(CARE_OF, HOME_AGENT)
    })?;
    back.must_not_have_seen("data in the tunnel to site 1 since it came back", |packet| {
        packet.is_from_to(HOME_AGENT, CARE_OF) && packet.addresses().count() > 1
    })?;
    lab.ping(&net.cn, GUEST)?;
    echo_to_guest(&mut foreign2, CARE_OF_HOST2, GUEST, CORRESPONDENT)?;
    conversation.end(lab)?;
    lab.end([source, target])?;
    peer.end()?;
    lab.no_readable_mobility_header()
}
