//! See `README.md`.

use crate::prelude::*;

use nix::sys::signal::Signal;

pub(crate) const SCENARIO: Scenario =
    Scenario { name: "disturbed-host", readme: include_str!("README.md"), peer: Peer::None, well_formed: true, run };

/// What the daemon says when it begins to wait for its acknowledgements.
const LEAVING: &str = "leaving: de-registering";

fn run(lab: &Lab) -> Outcome {
    let net = &lab.net;
    lab.step("SIGTERM before any answer, and once more for the impatient");
    let mut early = lab.start_mobile_node(&net.host, policies::ESP_HOST)?;
    wait_until("the daemon has begun", SOON, || {
        early.must_run()?;
        Ok(net.host.command("ip", &["xfrm", "policy"])?.contains("2001:db8:2000::10"))
    })?;
    early.signal(Signal::SIGTERM)?;
    // Once more where the first has been heard, for two of them at once are one; a daemon that had not come to its guests has ended.
    wait_until("the daemon leaves", SOON, || Ok(early.log().contains(LEAVING) || early.must_run().is_err()))?;
    let _ = early.signal(Signal::SIGTERM);
    let status = early.wait(SOON)?;
    let waited = early.log().contains(LEAVING) && !early.log().contains("leaving without waiting");
    ensure(status.success() && !waited, || format!("{status}; its log:{}", early.tail()))?;
    early.must_have_left_nothing()?;

    let mut foreign = lab.watch(FOREIGN)?;
    let home_agent = lab.start_home_agent(policies::ESP_HOME_AGENT)?;
    let mobile_node = lab.start_mobile_node(&net.host, policies::ESP_HOST)?;
    protected_registration(&mut foreign, CARE_OF, GUEST, SPIS, FIRST_REGISTRATION)?;
    lab.wait_for_router(&net.guest)?;
    lab.ping(&net.cn, GUEST)?;

    lab.step("a second daemon is started, and refuses");
    let file = lab.policy("second.toml", policies::ESP_HOST)?;
    let (program, file) = (lab.kagemusha.to_string_lossy(), file.to_string_lossy());
    let second = net.host.try_command(&program, &["--ipsec", &file])?;
    let said = String::from_utf8_lossy(&second.stderr);
    ensure(second.status.code() == Some(1) && said.contains("another kagemusha runs"), || {
        format!("{}: {said}", second.status)
    })?;
    lab.ping(&net.cn, GUEST)?;

    lab.step("our TAP is unplugged from the bridge");
    net.host.ip("link set kgtap0 nomaster")?;
    lab.ping_until_answered(&net.cn, GUEST, FIRST_REGISTRATION)?;
    lab.step("our TAP is removed");
    net.host.ip("link del kgtap0")?;
    lab.ping_until_answered(&net.cn, GUEST, FIRST_REGISTRATION)?;
    lab.ping_until_answered(&net.guest, CORRESPONDENT, SOON)?;

    for (old, new) in [("eth0", "wan0"), ("wan0", "eth0")] {
        lab.step(&format!("the uplink {old} goes, and comes back as {new}"));
        net.host.ip(&format!("link set {old} down\nlink set {old} name {new}"))?;
        std::thread::sleep(Duration::from_millis(200));
        net.host.ip(&format!(
            "link set {new} up\naddr add 2001:db8:3000::3/64 dev {new} nodad\nroute add default via 2001:db8:3000::1"
        ))?;
        protected_registration(&mut foreign, CARE_OF, GUEST, SPIS, FIRST_REGISTRATION)?;
        lab.ping_until_answered(&net.cn, GUEST, SOON)?;
    }

    lab.end([mobile_node, home_agent])?;
    lab.no_readable_mobility_header()
}
