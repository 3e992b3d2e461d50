//! See `README.md`.

use kagemusha::ipsec::{Class, Toward};

use crate::classes::Bench;
use crate::prelude::*;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "policy-esn",
    readme: include_str!("README.md"),
    peer: Peer::None,
    // Damaged packets are part of it.
    well_formed: false,
    run,
};

fn run(lab: &Lab) -> Outcome {
    let bench = Bench::shortly_below_32_bits(lab, Class::HomeRegistration)?;
    bench.crosses_32_bits()?;
    Toward::BOTH.into_iter().try_for_each(|toward| bench.late_within_the_window(toward))?;
    bench.run()
}
