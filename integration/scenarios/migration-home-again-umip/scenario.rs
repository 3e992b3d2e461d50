//! See `README.md`.

use crate::migration::journey::Conversation;
use crate::migration::sites::{Site, Sites};
use crate::migration::stage::{VM1, advertises, mac, returned};
use crate::migration::{guest, sites};
use crate::prelude::*;
use crate::umip;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "migration-home-again-umip",
    readme: include_str!("README.md"),
    peer: Peer::UmipHomeAgent,
    // Not for tshark: several hosts have the same SA, and their sequence numbers have no common order.
    well_formed: false,
    run,
};

fn run(lab: &Lab) -> Outcome {
    let net = &lab.net;
    let places = Sites::build(lab)?;
    let policy = policies::ESP_HOST.replace("name = \"vm1\"", "name = \"vm1\"\nattach = \"when-seen\"");
    ensure(policy.contains("when-seen"), || "the policy is not as it was".into())?;
    let home_host = places.host(lab, Site::Home);
    let away = lab.start_mobile_node(&net.host, &policy)?;
    let home = lab.start_mobile_node(home_host, &policy)?;
    let peer = umip::start_home_agent(lab, &policy)?;

    lab.step("the guest is at site 1");
    let mut foreign = lab.watch(FOREIGN)?;
    places.plug(lab, Site::One)?;
    sites::announce(&net.guest, GUEST_MAC)?;
    protected_registration(&mut foreign, CARE_OF, GUEST, SPIS, FIRST_REGISTRATION)?;
    let _services = net.guest.run(guest::serve)??;
    lab.wait_for_router(&net.guest)?;
    lab.ping_until_answered(&net.far, GUEST, SOON)?;
    let conversation = Conversation::begin(lab, GUEST, 100)?;

    lab.step("it comes home");
    let mut link = lab.watch(HOME)?;
    places.move_guest(lab, Site::One, Site::Home)?;
    returned(&mut link, VM1, SPIS, FIRST_REGISTRATION)?;
    lab.wait_for_status(home_host, "vm1 2001:db8:2000::10: at-home (detached)", SOON)?;
    let silent = lab.watch(HOME)?;
    let tunnel = lab.watch(FOREIGN)?;
    net.cn.ip("neigh flush dev eth0")?;
    lab.ping_until_answered(&net.cn, GUEST, SOON)?;
    let neighbour = net.cn.command("ip", &["-6", "neigh", "show", &GUEST.to_string()])?;
    ensure(neighbour.contains(GUEST_MAC), || format!("the correspondent has {neighbour}"))?;
    let agent = net.ha.read("/sys/class/net/eth0/address")?;
    silent.must_not_see("umip defends the home address", QUIET, |packet| {
        advertises(packet, GUEST, agent.trim()) && mac(&packet.ether_source) == agent.trim()
    })?;
    tunnel.must_not_have_seen("data of the guest in the tunnel to site 1", |packet| packet.addresses().count() > 1)?;

    lab.step("it leaves home again");
    let mut foreign = lab.watch(FOREIGN)?;
    places.move_guest(lab, Site::Home, Site::One)?;
    lab.command(home_host, &["detach", "vm1"])?;
    protected_registration(&mut foreign, CARE_OF, GUEST, SPIS, FIRST_REGISTRATION)?;
    lab.ping_until_answered(&net.cn, GUEST, SOON)?;
    conversation.end(lab)?;
    lab.end([home, away])?;
    peer.end()?;
    lab.no_readable_mobility_header()
}
