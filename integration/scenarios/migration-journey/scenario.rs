//! See `README.md`.

use crate::migration::journey::Conversation;
use crate::migration::sites::{Site, Sites};
use crate::migration::stage::{Options, Stage, must_be_at};
use crate::prelude::*;

pub(crate) const SCENARIO: Scenario =
    Scenario { name: "migration-journey", readme: include_str!("README.md"), peer: Peer::None, well_formed: true, run };

fn run(lab: &Lab) -> Outcome {
    let sites = Sites::build(lab)?;
    let stage = Stage::set(lab, &sites, &Options::default())?;
    let guest = stage.guest_at_home()?;
    let before = guest.world()?;
    let conversation = Conversation::begin(lab, GUEST, 100)?;
    for (from, to) in [(Site::Home, Site::One), (Site::One, Site::Two), (Site::Two, Site::Home)] {
        stage.move_guest(from, to)?;
        must_be_at(&stage, to)?;
        guest.world_must_be(&before)?;
    }
    conversation.end(lab)?;
    stage.end()
}
