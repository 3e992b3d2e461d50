//! See `README.md`.

use std::time::Duration;

use crate::dissect::icmpv6;
use crate::failure::{Outcome, ensure};
use crate::scenario::{Lab, Peer, Scenario};
use crate::topology::{FOREIGN, FOREIGN2, HOME, cast};

pub(crate) const SCENARIO: Scenario =
    Scenario { name: "the-lab-itself", readme: include_str!("README.md"), peer: Peer::None, well_formed: true, run };

const SOON: Duration = Duration::from_secs(30);

fn run(lab: &Lab) -> Outcome {
    let net = &lab.net;
    let (home, mut foreign, mut foreign2) = (lab.watch(HOME)?, lab.watch(FOREIGN)?, lab.watch(FOREIGN2)?);

    lab.step("the correspondents and the home agent");
    lab.ping(&net.cn, cast::HOME_AGENT)?;
    lab.ping(&net.far, cast::CORRESPONDENT)?;

    lab.step("the host on its first foreign link");
    lab.ping(&net.host, cast::HOME_AGENT)?;
    let from_host = |packet: &crate::dissect::Packet| packet.is_from_to(cast::CARE_OF, cast::HOME_AGENT);
    foreign.must_see("an echo request from the host", SOON, |p| from_host(p) && p.is_icmpv6(icmpv6::ECHO_REQUEST))?;
    foreign2.must_not_have_seen("anything of the host", from_host)?;

    lab.step("the host on its second foreign link");
    net.move_host()?;
    lab.ping(&net.host, cast::HOME_AGENT)?;
    foreign2.must_see("an echo request from the new care-of address", SOON, |p| {
        p.is_from_to(cast::CARE_OF_AFTER_MOVE, cast::HOME_AGENT) && p.is_icmpv6(icmpv6::ECHO_REQUEST)
    })?;

    let requests =
        home.count(|p| p.is_from_to(cast::CORRESPONDENT, cast::HOME_AGENT) && p.is_icmpv6(icmpv6::ECHO_REQUEST));
    ensure(requests == 1, || format!("one echo request was captured {requests} times on the home link"))
}
