//! See `README.md`.

use crate::prelude::*;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "guest-without-bridge",
    readme: include_str!("README.md"),
    peer: Peer::None,
    well_formed: true,
    run,
};

fn run(lab: &Lab) -> Outcome {
    let net = &lab.net;
    let mut foreign = lab.watch(FOREIGN)?;
    net.host.ip("link set vm1 nomaster")?;
    let home_agent = lab.start_home_agent(policies::ESP_HOME_AGENT)?;
    let policy = policies::ESP_HOST.replace(r#"port = { bridge = "br-home" }"#, r#"port = { tap = "vm1" }"#);
    let mobile_node = lab.start_mobile_node(&net.host, &policy)?;
    protected_registration(&mut foreign, CARE_OF, GUEST, SPIS, FIRST_REGISTRATION)?;
    lab.wait_for_router(&net.guest)?;
    lab.ping(&net.guest, CORRESPONDENT)?;
    echo_from_guest(&mut foreign, CARE_OF, GUEST, CORRESPONDENT)?;
    lab.ping(&net.cn, GUEST)?;
    echo_to_guest(&mut foreign, CARE_OF, GUEST, CORRESPONDENT)?;

    lab.end([mobile_node, home_agent])?;
    let link = net.host.command("ip", &["-o", "link", "show", "dev", "vm1"])?;
    ensure(!link.contains(" master "), || format!("the guest's interface is not as it was: {link}"))?;
    lab.no_readable_mobility_header()
}
