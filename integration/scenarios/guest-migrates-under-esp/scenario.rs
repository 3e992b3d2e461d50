//! See `README.md`.

use crate::prelude::*;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "guest-migrates-under-esp",
    readme: include_str!("README.md"),
    peer: Peer::None,
    well_formed: true,
    run,
};

fn run(lab: &Lab) -> Outcome {
    let net = &lab.net;
    let (mut foreign, mut foreign2) = (lab.watch(FOREIGN)?, lab.watch(FOREIGN2)?);
    let home_agent = lab.start_home_agent(policies::ESP_HOME_AGENT)?;
    let old = lab.start_mobile_node(&net.host, policies::ESP_HOST)?;
    protected_registration(&mut foreign, CARE_OF, GUEST, SPIS, FIRST_REGISTRATION)?;
    lab.wait_for_router(&net.guest)?;
    lab.ping(&net.guest, CORRESPONDENT)?;
    let neighbours = || net.guest.command("ip", &["-6", "neigh", "show", "nud", "all", "2001:db8:2000::2"]);
    let before = link_layer_address(&neighbours()?)?;

    lab.step("the guest is live-migrated, its state copied");
    net.migrate_guest()?;
    lab.end([old])?;
    protected_registration(&mut foreign, CARE_OF, GUEST, SPIS, SOON)?;
    let file = "/var/lib/kagemusha/mobile-node/2001:db8:2000::10.toml";
    let state = net.host.read(file)?;
    net.host2.run(move || {
        std::fs::create_dir_all("/var/lib/kagemusha/mobile-node")?;
        std::fs::write(file, state)
    })??;

    lab.step("the new host's daemon starts");
    let new = lab.start_mobile_node(&net.host2, policies::ESP_HOST)?;
    protected_registration(&mut foreign2, CARE_OF_HOST2, GUEST, SPIS, FIRST_REGISTRATION)?;
    lab.ping_until_answered(&net.cn, GUEST, SOON)?;
    echo_to_guest(&mut foreign2, CARE_OF_HOST2, GUEST, CORRESPONDENT)?;
    lab.ping(&net.guest, CORRESPONDENT)?;
    let after = link_layer_address(&neighbours()?)?;
    ensure(before == after, || format!("for the guest the correspondent was at {before} and now is at {after}"))?;

    lab.end([new, home_agent])?;
    lab.no_readable_mobility_header()
}

/// What follows `lladdr` in a neighbour cache entry.
fn link_layer_address(entry: &str) -> Outcome<String> {
    let address = entry.split_whitespace().skip_while(|word| *word != "lladdr").nth(1);
    address.map(str::to_owned).ok_or_else(|| crate::failure::Failure::new(format!("no link-layer address in: {entry}")))
}
