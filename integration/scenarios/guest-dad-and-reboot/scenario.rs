//! See `README.md`.

use crate::prelude::*;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "guest-dad-and-reboot",
    readme: include_str!("README.md"),
    peer: Peer::None,
    well_formed: true,
    run,
};

fn run(lab: &Lab) -> Outcome {
    let net = &lab.net;
    let mut foreign = lab.watch(FOREIGN)?;
    let home_agent = lab.start_home_agent(policies::PLAIN_HOME_AGENT)?;
    let mobile_node = lab.start_mobile_node(&net.host, policies::PLAIN_HOST)?;
    registration(&mut foreign, CARE_OF, GUEST, 0, FIRST_REGISTRATION)?;

    for boot in ["first", "second"] {
        lab.step(&format!("the guest boots, {boot} time"));
        let mut segment = lab.watch(SEGMENT)?;
        let before_it_is_in_use = segment.clone();
        net.guest.ip("link set eth0 down\naddr flush dev eth0")?;
        net.guest.sysctl("conf/all/accept_dad", "1")?;
        net.guest.sysctl("conf/eth0/accept_dad", "1")?;
        net.guest.ip("link set eth0 up\naddr add 2001:db8:2000::10/64 dev eth0")?;
        segment.must_see("the guest's probe", SOON, |packet| {
            packet.has_target(GUEST) && packet.addresses().any(|(source, _)| source.is_unspecified())
        })?;
        wait_until("the home address is in use", SOON, || {
            let addresses = net.guest.command("ip", &["-6", "addr", "show", "dev", "eth0"])?;
            ensure(!addresses.contains("dadfailed"), || "the guest found its home address in use".into())?;
            Ok(addresses.contains("2001:db8:2000::10/64") && !addresses.contains("tentative"))
        })?;
        before_it_is_in_use.must_not_have_seen("an advertisement of the home address by another", |packet| {
            advertisement_flags(packet, GUEST).is_some() && packet.ether_source != [0x52, 0x54, 0, 0, 0, 0x10]
        })?;
        lab.wait_for_router(&net.guest)?;
        lab.ping(&net.guest, CORRESPONDENT)?;
        lab.ping(&net.cn, GUEST)?;
    }
    lab.end([mobile_node, home_agent])
}
