//! See `README.md`.

use crate::migration::journey::Conversation;
use crate::migration::sites::{Site, Sites};
use crate::migration::stage::{Options, Stage, VM1, arrival, impair, must_be_at, repair};
use crate::prelude::*;
use crate::topology::TRANSIT;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "migration-updates-lost",
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

    lab.step("the guest arrives at site 2, and its binding update is lost");
    // Farther away: what the host sends is on its link, and never arrives.
    net.unplug(&net.ha, "eth1")?;
    let mut target = stage.watch(Site::Two)?;
    sites.move_guest(lab, Site::One, Site::Two)?;
    let is_update =
        |packet: &Packet| is_protected_update(packet, CARE_OF_HOST2, GUEST, VM1.spi_to_home_agent(Site::Two));
    target.must_see("the first binding update", SOON, is_update)?;
    net.plug(&net.ha, "eth1", TRANSIT)?;
    arrival(&mut target, Site::Two, VM1, SOON)?;
    lab.ping_until_answered(&net.cn, GUEST, SOON)?;
    must_be_at(&stage, Site::Two)?;

    lab.step("the guest moves back, and the acknowledgement is lost");
    impair(&net.core, "eth1", Duration::from_millis(400), 0)?;
    let mut target = stage.watch(Site::One)?;
    sites.move_guest(lab, Site::Two, Site::One)?;
    target.must_see("the binding update", SOON, |packet| {
        is_protected_update(packet, CARE_OF, GUEST, VM1.spi_to_home_agent(Site::One))
    })?;
    std::thread::sleep(Duration::from_millis(100));
    net.unplug(&net.core, "eth1")?;
    std::thread::sleep(Duration::from_millis(600));
    repair(&net.core, "eth1")?;
    net.plug(&net.core, "eth1", FOREIGN)?;
    arrival(&mut target, Site::One, VM1, SOON)?;
    lab.ping_until_answered(&net.cn, GUEST, SOON)?;
    must_be_at(&stage, Site::One)?;
    conversation.end(lab)?;
    stage.end()
}
