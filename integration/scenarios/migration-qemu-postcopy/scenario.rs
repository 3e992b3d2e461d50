//! See `README.md`.

use crate::migration::journey;
use crate::migration::machine::Mode;
use crate::prelude::*;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "migration-qemu-postcopy",
    readme: include_str!("README.md"),
    peer: Peer::Qemu,
    well_formed: true,
    run,
};

fn run(lab: &Lab) -> Outcome {
    journey::of_a_machine(lab, Mode::Postcopy)
}
