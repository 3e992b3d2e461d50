//! See `README.md`.

use crate::migration::journey::Conversation;
use crate::migration::sites::{Site, Sites};
use crate::migration::stage::{Options, Stage, VM1, arrival, must_be_at};
use crate::prelude::*;
use crate::topology::TRANSIT;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "migration-target-crashes",
    readme: include_str!("README.md"),
    peer: Peer::None,
    well_formed: true,
    run,
};

fn run(lab: &Lab) -> Outcome {
    let sites = Sites::build(lab)?;
    let mut stage = Stage::set(lab, &sites, &Options::default())?;
    let _guest = stage.guest_at(Site::One)?;
    let conversation = Conversation::begin(lab, GUEST, 100)?;

    lab.step("the guest arrives at site 2, and the daemon there is killed");
    let mut target = stage.watch(Site::Two)?;
    // What is sent is not answered: the daemon dies between its binding update and the acknowledgement.
    lab.net.unplug(&lab.net.ha, "eth1")?;
    sites.move_guest(lab, Site::One, Site::Two)?;
    target.must_see("its binding update", SOON, |packet| {
        is_protected_update(packet, CARE_OF_HOST2, GUEST, VM1.spi_to_home_agent(Site::Two))
    })?;
    stage.host(Site::Two)?.crash()?;
    lab.net.plug(&lab.net.ha, "eth1", TRANSIT)?;

    lab.step("it is started again");
    let mut target = stage.watch(Site::Two)?;
    stage.start(Site::Two)?;
    arrival(&mut target, Site::Two, VM1, FIRST_REGISTRATION)?;
    lab.ping_until_answered(&lab.net.cn, GUEST, SOON)?;
    must_be_at(&stage, Site::Two)?;
    conversation.end(lab)?;
    stage.end()
}
