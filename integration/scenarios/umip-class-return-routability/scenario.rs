//! See `README.md`.

use kagemusha::ipsec::Class;

use crate::classes::Bench;
use crate::prelude::*;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "umip-class-return-routability",
    readme: include_str!("README.md"),
    peer: Peer::UmipHomeAgent,
    well_formed: true,
    run,
};

fn run(lab: &Lab) -> Outcome {
    let (bench, peer) = Bench::beside_umip(lab, Class::ReturnRoutability)?;
    bench.arrives_at_umip()?;
    peer.end()?;
    lab.no_readable_mobility_header()
}
