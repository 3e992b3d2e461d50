//! See `README.md`.

use crate::migration::journey::Conversation;
use crate::migration::sites::{Site, Sites};
use crate::migration::stage::{Options, Stage, must_be_at, tunnelled};
use crate::prelude::*;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "migration-home-agent-restarts",
    readme: include_str!("README.md"),
    peer: Peer::None,
    well_formed: true,
    run,
};

fn run(lab: &Lab) -> Outcome {
    let sites = Sites::build(lab)?;
    let mut stage = Stage::set(lab, &sites, &Options { host: "lifetime = 12", ..Options::default() })?;
    let _guest = stage.guest_at(Site::One)?;
    let conversation = Conversation::begin(lab, GUEST, 100)?;

    lab.step("the home agent is killed and started again");
    stage.restart_home_agent()?;
    stage.move_guest(Site::One, Site::Two)?;
    must_be_at(&stage, Site::Two)?;
    wait_until("site 1 tells that another host has the guest", FIRST_REGISTRATION, || {
        Ok(stage.host(Site::One)?.log().contains("another host speaks for this guest now"))
    })?;
    let source = stage.watch(Site::One)?;
    std::thread::sleep(QUIET);
    must_be_at(&stage, Site::Two)?;
    let stolen = tunnelled(&source, Site::One);
    ensure(stolen == 0, || format!("{stolen} packets in the tunnel to site 1"))?;
    conversation.end(lab)?;
    stage.end()
}
