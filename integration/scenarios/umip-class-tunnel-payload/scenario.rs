//! See `README.md`.

use kagemusha::ipsec::{Class, Toward};

use crate::classes::{spi, with_umip};
use crate::prelude::*;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "umip-class-tunnel-payload",
    readme: include_str!("README.md"),
    peer: Peer::UmipHomeAgent,
    // Not for tshark: the ESP of this scenario carries data, and it looks for mobility headers.
    well_formed: false,
    run,
};

fn run(lab: &Lab) -> Outcome {
    lab.net.host.sysctl("conf/all/forwarding", "1")?;
    let registration = Class::HomeRegistration;
    let foreign = lab.watch(FOREIGN)?;
    let (mobile_node, peer) = with_umip(lab, &[registration, Class::TunnelPayload], registration)?;
    for (toward, source) in [(Toward::HomeAgent, CARE_OF), (Toward::Guest, HOME_AGENT)] {
        let spi = spi(Class::TunnelPayload, toward);
        // An echo each way has a request and a reply this way.
        let seen = foreign.count(|packet| {
            packet.spi() == Some(spi) && packet.addresses().next().is_some_and(|(from, _)| from == source)
        });
        ensure(seen >= 2, || format!("{seen} packets of the guest under ESP {spi:#x} from {source}"))?;
    }
    lab.end([mobile_node])?;
    peer.end()?;
    foreign.must_not_have_seen("a packet of the guest outside of ESP", |packet| {
        packet.addresses().any(|(source, destination)| source == GUEST || destination == GUEST)
    })?;
    lab.no_readable_mobility_header()
}
