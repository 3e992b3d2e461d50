//! See `README.md`.

use std::process::Command;

use kagemusha::ipsec::{Class, Toward};
use kagemusha::policy::Role;

use crate::capture::Observer;
use crate::classes::{policy_text, spi};
use crate::prelude::*;
use crate::process::Daemon;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "data-under-esp",
    readme: include_str!("README.md"),
    peer: Peer::None,
    // Not for tshark: its rules expect mobility headers in ESP, and a killed daemon leaves gaps in the numbers.
    well_formed: false,
    run,
};

const CLASSES: [Class; 2] = [Class::HomeRegistration, Class::TunnelPayload];

fn run(lab: &Lab) -> Outcome {
    let net = &lab.net;
    let policy = policy_text(&CLASSES, Role::MobileNode, "");
    let [registration, payload] = CLASSES.map(|class| (spi(class, Toward::HomeAgent), spi(class, Toward::Guest)));
    let home_agent = lab.start_home_agent(&policy_text(&CLASSES, Role::HomeAgent, ""))?;

    // Since Linux 6.17 the daemon lets its own TUN alone forward, and needs nothing of the host.
    if net.host.read("/proc/sys/net/ipv6/conf/default/force_forwarding").is_err() {
        lab.step("a host that does not forward");
        must_not_start(lab, &policy)?;
    }

    lab.step("registration, and data under ESP");
    net.host.sysctl("conf/all/forwarding", "1")?;
    let mut foreign = lab.watch(FOREIGN)?;
    let mut mobile_node = lab.start_mobile_node(&net.host, &policy)?;
    protected_registration(&mut foreign, CARE_OF, GUEST, registration, FIRST_REGISTRATION)?;
    lab.wait_for_router(&net.guest)?;
    echoes(lab, &mut foreign, CARE_OF, payload)?;

    lab.step("packets too big");
    lab.ping_of_size_until_answered(&net.guest, FAR, 1500)?;
    lab.ping_of_size_until_answered(&net.cn, GUEST, 1500)?;

    lab.step("the host moves");
    let mut foreign2 = lab.watch(FOREIGN2)?;
    net.move_host()?;
    protected_registration(&mut foreign2, CARE_OF_AFTER_MOVE, GUEST, registration, SOON)?;
    lab.ping_until_answered(&net.guest, CORRESPONDENT, SOON)?;
    echoes(lab, &mut foreign2, CARE_OF_AFTER_MOVE, payload)?;

    lab.step("the daemon is killed, and started again");
    mobile_node.crash()?;
    lab.ping_unanswered(&net.guest, CORRESPONDENT)?;
    mobile_node.start_again(lab.mobile_node_command("mobile-node-host.toml"))?;
    protected_registration(&mut foreign2, CARE_OF_AFTER_MOVE, GUEST, registration, FIRST_REGISTRATION)?;
    lab.ping_until_answered(&net.guest, CORRESPONDENT, SOON)?;
    echoes(lab, &mut foreign2, CARE_OF_AFTER_MOVE, payload)?;

    lab.step("somebody deletes kage-esp");
    net.host.ip("link del kage-esp")?;
    lab.ping_until_answered(&net.guest, CORRESPONDENT, SOON)?;
    echoes(lab, &mut foreign2, CARE_OF_AFTER_MOVE, payload)?;

    lab.end([mobile_node, home_agent])?;
    for link in [FOREIGN, FOREIGN2] {
        lab.on(link)?.observer_of_all().must_not_have_seen("a packet of the guest outside of ESP", |packet| {
            packet.addresses().any(|(source, destination)| source == GUEST || destination == GUEST)
        })?;
    }
    lab.no_readable_mobility_header()
}

fn must_not_start(lab: &Lab, policy: &str) -> Outcome {
    let file = lab.policy("not-forwarding.toml", policy)?;
    let mut command = Command::new(&lab.kagemusha);
    command.arg("--ipsec").arg(file);
    let mut refused = Daemon::start(&lab.net.host, "not-forwarding", &lab.directory, command)?;
    let status = refused.wait(SOON)?;
    ensure(status.code() == Some(1) && refused.log().contains("net.ipv6.conf.all.forwarding=1"), || {
        format!("{status}; its log: {}", refused.log())
    })
}

/// Each way, with a correspondent at home, one elsewhere, and the home agent itself.
fn echoes(lab: &Lab, link: &mut Observer, care_of: std::net::Ipv6Addr, spis: (u32, u32)) -> Outcome {
    let net = &lab.net;
    for (node, destination) in [
        (&net.guest, CORRESPONDENT),
        (&net.guest, FAR),
        (&net.guest, HOME_AGENT),
        (&net.cn, GUEST),
        (&net.far, GUEST),
        (&net.ha, GUEST),
    ] {
        lab.ping(node, destination)?;
    }
    for (spi, ends) in [(spis.0, (care_of, HOME_AGENT)), (spis.1, (HOME_AGENT, care_of))] {
        link.must_see(&format!("ESP {spi:#x} from {} to {}", ends.0, ends.1), SOON, |packet| {
            packet.spi() == Some(spi) && packet.is_from_to(ends.0, ends.1)
        })?;
    }
    Ok(())
}
