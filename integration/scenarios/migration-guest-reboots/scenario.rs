//! See `README.md`.

use crate::migration::sites::{Site, Sites};
use crate::migration::stage::{Options, Stage, VM1, must_be_at};
use crate::prelude::*;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "migration-guest-reboots",
    readme: include_str!("README.md"),
    peer: Peer::None,
    well_formed: true,
    run,
};

fn run(lab: &Lab) -> Outcome {
    let net = &lab.net;
    let sites = Sites::build(lab)?;
    let stage = Stage::set(lab, &sites, &Options::default())?;
    let guest = stage.guest_at(Site::One)?;
    let before = guest.world()?;
    let (link, segment) = (stage.watch(Site::One)?, lab.watch(SEGMENT)?);

    lab.step("the guest reboots");
    drop(guest);
    net.guest.sysctl("conf/eth0/accept_dad", "1")?;
    net.guest.sysctl("conf/all/accept_dad", "1")?;
    net.guest.ip("link set eth0 down\naddr flush dev eth0\nneigh flush dev eth0")?;
    std::thread::sleep(Duration::from_millis(500));
    net.guest.ip(&format!("link set eth0 up\naddr add {GUEST}/64 dev eth0"))?;
    wait_until("the guest's address has passed duplicate address detection", SOON, || {
        let address = net.guest.command("ip", &["-6", "addr", "show", "dev", "eth0", "to", &GUEST.to_string()])?;
        ensure(!address.contains("dadfailed"), || format!("a duplicate: {address}"))?;
        Ok(address.contains(&GUEST.to_string()) && !address.contains("tentative"))
    })?;
    let guest = stage.services()?;
    lab.wait_for_router(&net.guest)?;
    lab.ping_until_answered(&net.cn, GUEST, SOON)?;
    must_be_at(&stage, Site::One)?;
    // The link's own count of its changes is the reboot's; and whether an address has gone through detection is a flag of it.
    let stable = |world: &str| -> Vec<String> {
        let lines = world.lines().filter(|line| !line.contains("carrier_changes"));
        lines.map(|line| if line.starts_with("address") { line.split_at(40).0 } else { line }.to_owned()).collect()
    };
    let after = guest.world()?;
    ensure(stable(&before) == stable(&after), || crate::migration::world::difference(&before, &after))?;
    segment.must_not_have_seen("an answer to its duplicate address detection", |packet| {
        packet.ether_source != [0x52, 0x54, 0, 0, 0, 0x10] && advertisement_flags(packet, GUEST).is_some()
    })?;
    let updates = link.count(|packet| is_protected_update(packet, CARE_OF, GUEST, VM1.spi_to_home_agent(Site::One)));
    ensure(updates <= 1, || format!("{updates} binding updates because of a reboot"))?;
    stage.end()
}
