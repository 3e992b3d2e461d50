//! See `README.md`.

use std::net::Ipv6Addr;

use crate::capture::Observer;
use crate::failure::While;
use crate::migration::journey::Conversation;
use crate::migration::sites::{ROUTER_MAC, Site, Sites};
use crate::migration::stage::{Options, Stage, VM1, advertises, arrival, mac, must_be_at, returned};
use crate::node::Node;
use crate::prelude::*;

/// On the home link, and nobody's.
const NOBODY: Ipv6Addr = Ipv6Addr::new(0x2001, 0x0db8, 0x2000, 0, 0, 0, 0, 0x77);

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "migration-home-again",
    readme: include_str!("README.md"),
    peer: Peer::None,
    well_formed: true,
    run,
};

fn run(lab: &Lab) -> Outcome {
    let net = &lab.net;
    let sites = Sites::build(lab)?;
    let mut stage = Stage::set(lab, &sites, &Options::default())?;
    stage.start(Site::Home)?;
    let guest = stage.guest_at(Site::One)?;
    let before = guest.world()?;
    let conversation = Conversation::begin(lab, GUEST, 100)?;

    lab.step("the guest comes home");
    let spis = (VM1.spi_to_home_agent(Site::Home), VM1.spi_to_guest());
    let home_host = sites.host(lab, Site::Home);
    let (mut link, cable) = (stage.watch(Site::Home)?, lab.watch(SEGMENT)?);
    sites.move_guest(lab, Site::One, Site::Home)?;
    returned(&mut link, VM1, spis, FIRST_REGISTRATION)?;
    let silent = stage.watch(Site::Home)?;
    lab.wait_for_status(home_host, "vm1 2001:db8:2000::10: at-home (detached)", SOON)?;
    let routes = net.ha.command("ip", &["-6", "route", "show"])?;
    ensure(!routes.contains("kage-ha"), || format!("the home agent still has a route into the tunnel:\n{routes}"))?;

    lab.step("at home all is native");
    must_be_at(&stage, Site::Home)?;
    net.cn.ip("neigh flush dev eth0")?;
    lab.ping(&net.cn, GUEST)?;
    let neighbour = net.cn.command("ip", &["-6", "neigh", "show", &GUEST.to_string()])?;
    ensure(neighbour.contains(GUEST_MAC), || format!("the correspondent has {neighbour}"))?;
    lab.ping_unanswered(&net.guest, NOBODY)?;
    silent.must_not_see("the home agent defends the home address, or the home host another's", QUIET, |packet| {
        advertises(packet, GUEST, ROUTER_MAC) || advertisement_flags(packet, NOBODY).is_some()
    })?;
    cable.must_not_have_seen("what the home host says, at the guest", |packet| {
        advertises(packet, GUEST, GUEST_MAC) && mac(&packet.ether_source) != GUEST_MAC
    })?;
    guest.world_must_be(&before)?;

    lab.step("it leaves for site 2");
    let mut away = stage.watch(Site::Two)?;
    sites.move_guest(lab, Site::Home, Site::Two)?;
    lab.command(home_host, &["detach", "vm1"])?;
    arrival(&mut away, Site::Two, VM1, FIRST_REGISTRATION)?;
    link.must_see("the home host says that the guest is at the home agent", SOON, |packet| {
        advertises(packet, GUEST, ROUTER_MAC) && mac(&packet.ether_source) != ROUTER_MAC
    })?;
    lab.ping_until_answered(&net.cn, GUEST, SOON)?;
    must_be_at(&stage, Site::Two)?;
    guest.world_must_be(&before)?;

    lab.step("it comes home from a site whose numbers are beyond the clock's");
    count_ahead(lab, sites.host(lab, Site::Two), &mut away)?;
    let mut link = stage.watch(Site::Home)?;
    sites.move_guest(lab, Site::Two, Site::Home)?;
    returned(&mut link, VM1, spis, FIRST_REGISTRATION)?;
    must_be_at(&stage, Site::Home)?;
    conversation.end(lab)?;
    ensure(stage.host(Site::Home)?.log().contains("going on beyond it"), || {
        "the home agent's status 135 did not come home".into()
    })?;
    stage.end()
}

/// Site 2 registers once more, with a number that its clock has not come to.
fn count_ahead(lab: &Lab, host: &Node, link: &mut Observer) -> Outcome {
    let file = lab.directory.join("sequences.json");
    let path = file.to_string_lossy().into_owned();
    lab.command(host, &["sa", "export", "--output", &path])?;
    let text = std::fs::read_to_string(&file).during(|| path.clone())?;
    let mut value: serde_json::Value = serde_json::from_str(&text).during(|| "sa export".into())?;
    let number = value["guests"][0]["binding_update"].as_u64().unwrap_or_default();
    value["guests"][0]["binding_update"] = ((number + 2_000) % 0x1_0000).into();
    std::fs::write(&file, value.to_string()).during(|| path.clone())?;
    lab.command(host, &["sa", "import", &path])?;
    lab.command(host, &["attach", "vm1"])?;
    arrival(link, Site::Two, VM1, SOON)
}
