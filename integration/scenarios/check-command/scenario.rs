//! See `README.md`.

use kagemusha::ipsec::Class;
use kagemusha::policy::Role;

use crate::classes::policy_file;
use crate::prelude::*;

pub(crate) const SCENARIO: Scenario =
    Scenario { name: "check-command", readme: include_str!("README.md"), peer: Peer::None, well_formed: true, run };

fn run(lab: &Lab) -> Outcome {
    let host = &lab.net.host;
    let policy = lab.policy("mobile-node.toml", policies::ESP_HOST)?;
    let (program, policy) = (lab.kagemusha.display().to_string(), policy.display().to_string());
    let check = || host.try_command(&program, &["check", "--ipsec", &policy]);
    let before = crate::process::traces(host)?;
    let foreign = lab.watch(FOREIGN)?;

    lab.step("a fit machine");
    let output = check()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    ensure(output.status.success(), || format!("kagemusha check: {}:\n{text}", output.status))?;
    let after = crate::process::traces(host)?;
    ensure(before == after, || format!("the kernel held\n{before}and now holds\n{after}"))?;
    foreign.must_not_have_seen("a packet of the host for the home agent", |packet| {
        packet.is_from_to(CARE_OF, HOME_AGENT)
    })?;

    lab.step("every class of protection, before and after the host forwards");
    let classes: Vec<_> = Class::ALL.into_iter().filter(|class| *class != Class::TunnelMobilityHeaders).collect();
    let all = policy_file(lab, &classes, Role::MobileNode, "")?;
    let arguments = ["check", "--ipsec", &all.to_string_lossy()];
    let output = host.try_command(&program, &arguments)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure(output.status.code() == Some(1) && text.contains("net.ipv6.conf.all.forwarding=1"), || {
        format!("kagemusha check: {}:\n{text}", output.status)
    })?;
    host.sysctl("conf/all/forwarding", "1")?;
    let text = host.command(&program, &arguments)?;
    ensure(text.contains("moving tunnels"), || format!("kagemusha check:\n{text}"))?;

    lab.step("a machine with a sysctl that would break it");
    host.sysctl("conf/all/accept_source_route", "-1")?;
    let output = check()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    ensure(output.status.code() == Some(1) && text.contains("accept_source_route"), || {
        format!("kagemusha check: {}:\n{text}", output.status)
    })
}
