//! See `README.md`.

use kagemusha::ipsec::Class;

use crate::classes::Bench;
use crate::prelude::*;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "policy-class-mobile-prefix-discovery",
    readme: include_str!("README.md"),
    peer: Peer::None,
    // Damaged packets are part of it.
    well_formed: false,
    run,
};

fn run(lab: &Lab) -> Outcome {
    Bench::new(lab, Class::MobilePrefixDiscovery)?.run()
}
