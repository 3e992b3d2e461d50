//! See `README.md`.

use crate::prelude::*;

pub(crate) const SCENARIO: Scenario =
    Scenario { name: "sequence-135", readme: include_str!("README.md"), peer: Peer::None, well_formed: true, run };

fn run(lab: &Lab) -> Outcome {
    let net = &lab.net;
    let (mut foreign, mut foreign2) = (lab.watch(FOREIGN)?, lab.watch(FOREIGN2)?);
    let home_agent = lab.start_home_agent(policies::PLAIN_HOME_AGENT)?;
    let old = lab.start_mobile_node(&net.host, policies::PLAIN_HOST_12S)?;
    registration(&mut foreign, CARE_OF, GUEST, 0, FIRST_REGISTRATION)?;
    lab.wait_for_router(&net.guest)?;
    lab.step("a refresh, so that the sequence number has moved on");
    let (last, lifetime) = registration(&mut foreign, CARE_OF, GUEST, 0, FIRST_REGISTRATION)?;

    lab.step("the guest is live-migrated");
    net.migrate_guest()?;
    let new = lab.start_mobile_node(&net.host2, policies::PLAIN_HOST)?;
    let (refused, _) = registration(&mut foreign2, CARE_OF_HOST2, GUEST, 135, FIRST_REGISTRATION)?;
    let (accepted, _) = registration(&mut foreign2, CARE_OF_HOST2, GUEST, 0, SOON)?;
    lab.step(&format!("host2: #{refused} refused, #{accepted} accepted after {last}"));
    ensure(is_newer(accepted, last), || format!("sequence number {accepted} is not newer than {last}"))?;
    lab.ping(&net.cn, GUEST)?;
    echo_to_guest(&mut foreign2, CARE_OF_HOST2, GUEST, CORRESPONDENT)?;

    lab.step("the old host refreshes and learns that it has lost the guest");
    registration(&mut foreign, CARE_OF, GUEST, 135, Duration::from_secs(u64::from(lifetime)))?;
    foreign.must_not_see("a binding update that would steal the binding back", Duration::from_secs(6), |packet| {
        packet.binding_update().is_some()
    })?;
    lab.ping(&net.cn, GUEST)?;
    // The old host de-registers nothing when it ends: the binding is another's now.
    lab.end([old])?;
    foreign.must_not_have_seen("a binding update of the old host", |packet| packet.binding_update().is_some())?;
    lab.ping(&net.cn, GUEST)?;
    lab.end([new, home_agent])
}
