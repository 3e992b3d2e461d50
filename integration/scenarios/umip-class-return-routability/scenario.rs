//! See `README.md`.

use kagemusha::ipsec::Class;

use crate::classes::Bench;
use crate::prelude::*;
use crate::topology::TRANSIT;

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
    // From the home agent on a home test init message is in the clear (RFC 6275 §5.2.5), where its kernel takes it at all. It passes the transit link
    // once more then.
    let from_guest = |packet: &Packet| packet.addresses().next() == Some((GUEST, FAR));
    for link in [FOREIGN, FOREIGN2, TRANSIT] {
        lab.on(link)?.observer_of_all().must_not_have_seen("a mobility header in the clear", |packet| {
            packet.has_mobility_header() && !(link == TRANSIT && from_guest(packet))
        })?;
    }
    Ok(())
}
