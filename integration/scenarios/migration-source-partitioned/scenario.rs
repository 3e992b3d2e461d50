//! See `README.md`.

use crate::migration::journey::Conversation;
use crate::migration::sites::{Site, Sites};
use crate::migration::stage::{Options, Stage, must_be_at, tunnelled};
use crate::prelude::*;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "migration-source-partitioned",
    readme: include_str!("README.md"),
    peer: Peer::None,
    well_formed: true,
    run,
};

fn run(lab: &Lab) -> Outcome {
    let net = &lab.net;
    let sites = Sites::build(lab)?;
    let mut stage = Stage::set(lab, &sites, &Options { host: "lifetime = 12", ..Options::default() })?;
    let _guest = stage.guest_at(Site::One)?;
    let conversation = Conversation::begin(lab, GUEST, 100)?;

    lab.step("site 1 is cut off, and the guest moves");
    net.unplug(&net.host, "eth0")?;
    stage.move_guest(Site::One, Site::Two)?;
    std::thread::sleep(Duration::from_secs(1));

    lab.step("site 1 is back");
    let source = stage.watch(Site::One)?;
    net.plug(&net.host, "eth0", FOREIGN)?;
    wait_until("site 1 tells that another host has the guest", FIRST_REGISTRATION, || {
        Ok(stage.host(Site::One)?.log().contains("another host speaks for this guest now"))
    })?;
    let silent = stage.watch(Site::One)?;
    must_be_at(&stage, Site::Two)?;
    silent.must_not_see("anything about the guest from site 1", Duration::from_secs(14), |packet| {
        packet.is_from_to(CARE_OF, HOME_AGENT)
    })?;
    let stolen = tunnelled(&source, Site::One);
    ensure(stolen == 0, || format!("{stolen} packets in the tunnel to site 1 since it came back"))?;
    must_be_at(&stage, Site::Two)?;
    conversation.end(lab)?;
    stage.end()
}
