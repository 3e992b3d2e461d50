//! See `README.md`.

use kagemusha::ipsec::Class;

use crate::classes::Bench;
use crate::prelude::*;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "umip-class-tunnel-payload",
    readme: include_str!("README.md"),
    peer: Peer::Umip,
    // Not for tshark: the ESP of this scenario carries data, and it looks for mobility headers.
    well_formed: false,
    run,
};

fn run(lab: &Lab) -> Outcome {
    let (bench, peer) = Bench::beside_umip(lab, Class::TunnelPayload)?;
    bench.passes_both_ways()?;
    peer.end()?;
    lab.no_readable_mobility_header()
}
