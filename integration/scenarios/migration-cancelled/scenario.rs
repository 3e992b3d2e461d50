//! See `README.md`.

use crate::migration::journey::Conversation;
use crate::migration::sites::{Site, Sites};
use crate::migration::stage::{Options, Stage, VM1, arrival, must_be_at};
use crate::prelude::*;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "migration-cancelled",
    readme: include_str!("README.md"),
    peer: Peer::None,
    well_formed: true,
    run,
};

fn run(lab: &Lab) -> Outcome {
    let sites = Sites::build(lab)?;
    let stage = Stage::set(lab, &sites, &Options::default())?;
    let _guest = stage.guest_at(Site::One)?;
    let conversation = Conversation::begin(lab, GUEST, 100)?;
    let mut source = stage.watch(Site::One)?;
    stage.move_guest(Site::One, Site::Two)?;
    std::thread::sleep(Duration::from_millis(300));

    lab.step("the migration failed after all: the guest goes on at site 1");
    sites.move_guest(lab, Site::Two, Site::One)?;
    arrival(&mut source, Site::One, VM1, SOON)?;
    let target = stage.watch(Site::Two)?;
    lab.ping_until_answered(&lab.net.cn, GUEST, SOON)?;
    must_be_at(&stage, Site::One)?;
    target.must_not_see("a registration by the target", QUIET, |packet| {
        is_protected_update(packet, CARE_OF_HOST2, GUEST, VM1.spi_to_home_agent(Site::Two))
    })?;
    conversation.end(lab)?;
    stage.end()
}
