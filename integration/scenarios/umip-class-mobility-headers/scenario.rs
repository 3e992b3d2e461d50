//! See `README.md`.

use kagemusha::ipsec::Class;

use crate::classes::with_umip;
use crate::prelude::*;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "umip-class-mobility-headers",
    readme: include_str!("README.md"),
    peer: Peer::UmipHomeAgent,
    well_formed: true,
    run,
};

fn run(lab: &Lab) -> Outcome {
    let registration = Class::MobilityHeaders;
    let (mobile_node, peer) = with_umip(lab, &[registration], registration)?;
    lab.end([mobile_node])?;
    peer.end()?;
    lab.no_readable_mobility_header()
}
