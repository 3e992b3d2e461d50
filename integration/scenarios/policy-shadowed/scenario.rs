//! See `README.md`.

use crate::prelude::*;

pub(crate) const SCENARIO: Scenario =
    Scenario { name: "policy-shadowed", readme: include_str!("README.md"), peer: Peer::None, well_formed: true, run };

const THEIRS: &str = "src ::/0 dst ::/0 proto 135 dir out";
/// A look at the security policies, and a try that is due once more.
const LOOKED: Duration = Duration::from_secs(4);

fn run(lab: &Lab) -> Outcome {
    let net = &lab.net;
    let mut foreign = lab.watch(FOREIGN)?;
    let home_agent = lab.start_home_agent(policies::ESP_HOME_AGENT)?;
    let mut mobile_node = lab.start_mobile_node(&net.host, policies::ESP_HOST)?;
    mobile_node.expect_errors("comes before our");
    protected_registration(&mut foreign, CARE_OF, GUEST, SPIS, FIRST_REGISTRATION)?;

    lab.step("somebody lets mobility headers pass; the host moves");
    net.host.ip(&format!("xfrm policy add {THEIRS} priority 1 action allow"))?;
    wait_until("the log names the policy", SOON, || {
        Ok(mobile_node.log().contains("with priority 1, of another program"))
    })?;
    let mut foreign2 = lab.watch(FOREIGN2)?;
    net.move_host()?;
    foreign2.must_not_see("a registration", LOOKED, |packet| packet.spi().is_some() || packet.has_mobility_header())?;
    ensure(net.host.command("ip", &["xfrm", "policy"])?.contains("priority 1 "), || "their policy is gone".into())?;

    lab.step("their policy is taken out");
    net.host.ip(&format!("xfrm policy delete {THEIRS}"))?;
    protected_registration(&mut foreign2, CARE_OF_AFTER_MOVE, GUEST, SPIS, FIRST_REGISTRATION)?;
    lab.end([mobile_node])?;

    lab.step("it is there before the daemon");
    net.host.ip(&format!("xfrm policy add {THEIRS} priority 1 action allow"))?;
    let mut refused = lab.start_mobile_node(&net.host, policies::ESP_HOST)?;
    let status = refused.wait(SOON)?;
    ensure(status.code() == Some(1) && refused.log().contains("comes before our"), || {
        format!("{status}; its log: {}", refused.log())
    })?;
    lab.end([home_agent])?;
    lab.no_readable_mobility_header()
}
