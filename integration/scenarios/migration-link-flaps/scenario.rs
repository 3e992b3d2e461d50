//! See `README.md`.

use crate::migration::journey::Conversation;
use crate::migration::sites::{Site, Sites};
use crate::migration::stage::{Options, Stage, must_be_at};
use crate::prelude::*;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "migration-link-flaps",
    readme: include_str!("README.md"),
    peer: Peer::None,
    well_formed: true,
    run,
};

fn run(lab: &Lab) -> Outcome {
    let net = &lab.net;
    let sites = Sites::build(lab)?;
    let stage = Stage::set(lab, &sites, &Options::default())?;
    let _guest = stage.guest_at(Site::One)?;
    let conversation = Conversation::begin(lab, GUEST, 100)?;
    let all = stage.watch(Site::One)?;
    for down in [20, 300, 1500] {
        lab.step(&format!("the foreign link is down for {down} ms"));
        net.unplug(&net.host, "eth0")?;
        net.set_carrier(&net.host, "eth0", false)?;
        std::thread::sleep(Duration::from_millis(down));
        net.set_carrier(&net.host, "eth0", true)?;
        net.plug(&net.host, "eth0", FOREIGN)?;
        // With the carrier went the default route that an administrator had set: it comes back as it came first.
        net.host.ip("route replace default via 2001:db8:3000::1")?;
        lab.ping_until_answered(&net.cn, GUEST, FIRST_REGISTRATION)?;
        must_be_at(&stage, Site::One)?;
    }
    all.must_not_have_seen("a packet of the guest outside the tunnel", |packet| {
        packet.addresses().next().is_some_and(|(source, _)| source == GUEST)
    })?;
    conversation.end(lab)?;
    stage.end()
}
