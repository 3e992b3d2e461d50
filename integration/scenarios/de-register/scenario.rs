//! See `README.md`.

use crate::prelude::*;

pub(crate) const SCENARIO: Scenario =
    Scenario { name: "de-register", readme: include_str!("README.md"), peer: Peer::None, well_formed: true, run };

fn run(lab: &Lab) -> Outcome {
    let net = &lab.net;
    let mut foreign = lab.watch(FOREIGN)?;
    let home_agent = lab.start_home_agent(policies::PLAIN_HOME_AGENT)?;
    let mobile_node = lab.start_mobile_node(&net.host, policies::PLAIN_HOST)?;
    let (sequence, _) = registration(&mut foreign, CARE_OF, GUEST, 0, FIRST_REGISTRATION)?;
    lab.wait_for_router(&net.guest)?;
    lab.ping(&net.cn, GUEST)?;

    lab.step("SIGTERM for the host's daemon");
    lab.end([mobile_node])?;
    let update = foreign.must_see("a binding update with lifetime 0", SOON, |packet| {
        is_binding_update(packet, CARE_OF, GUEST) && packet.binding_update().is_some_and(|(_, lifetime)| lifetime == 0)
    })?;
    let number = update.binding_update().map(|(number, _)| number);
    ensure(number.is_some_and(|number| follows(number, sequence)), || {
        format!("sequence number {number:?} follows {sequence}")
    })?;
    foreign.must_see("its acknowledgement", SOON, |packet| {
        is_binding_acknowledgement(packet, CARE_OF, GUEST)
            && packet.binding_acknowledgement().is_some_and(|(status, theirs, _)| status == 0 && Some(theirs) == number)
    })?;

    lab.step("the home address is nobody's");
    let home = lab.watch(HOME)?;
    net.cn.ip("neigh flush all")?;
    lab.ping_unanswered(&net.cn, GUEST)?;
    foreign.must_not_have_seen("data in the tunnel", |packet| packet.addresses().count() > 1)?;
    home.must_not_have_seen("an advertisement of the home address", |packet| {
        advertisement_flags(packet, GUEST).is_some()
    })?;
    lab.end([home_agent])
}
