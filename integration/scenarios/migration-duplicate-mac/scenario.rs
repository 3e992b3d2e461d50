//! See `README.md`.

use crate::migration::sites::{Site, Sites};
use crate::migration::stage::{Options, Stage, VM1, must_be_at};
use crate::prelude::*;
use crate::topology::SEGMENT2;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "migration-duplicate-mac",
    readme: include_str!("README.md"),
    peer: Peer::None,
    well_formed: true,
    run,
};

fn run(lab: &Lab) -> Outcome {
    let net = &lab.net;
    let sites = Sites::build(lab)?;
    let mut stage = Stage::set(lab, &sites, &Options { host: "lifetime = 12", ..Options::default() })?;
    let _guest = stage.guest_at(Site::One)?;

    lab.step("a second guest with the same MAC address is started at site 2");
    net.guest2.ip(&format!("link set eth0 address {GUEST_MAC}"))?;
    net.plug(&net.host2, "vm1", SEGMENT2)?;
    net.unplug(&net.host, "vm2")?;
    let begin = std::time::Instant::now();
    let (one, two) = (stage.watch(Site::One)?, stage.watch(Site::Two)?);
    crate::migration::sites::announce(&net.guest2, GUEST_MAC)?;
    wait_until("site 1 tells that another host has the guest", FIRST_REGISTRATION, || {
        // Both go on sending.
        let _ = net.guest.try_command("ping", &["-6", "-n", "-q", "-c", "1", "-W", "1", &CORRESPONDENT.to_string()])?;
        net.guest2.ip("neigh flush dev eth0")?;
        let _ =
            net.guest2.try_command("ping", &["-6", "-n", "-q", "-c", "1", "-W", "1", &CORRESPONDENT.to_string()])?;
        Ok(stage.host(Site::One)?.log().contains("another host speaks for this guest now"))
    })?;
    for _ in 0..10 {
        let _ = net.guest.try_command("ping", &["-6", "-n", "-q", "-c", "1", "-W", "1", &CORRESPONDENT.to_string()])?;
        let _ =
            net.guest2.try_command("ping", &["-6", "-n", "-q", "-c", "1", "-W", "1", &CORRESPONDENT.to_string()])?;
    }
    let updates = |link: &crate::capture::Observer, care_of, site| {
        link.count(|packet| is_protected_update(packet, care_of, GUEST, VM1.spi_to_home_agent(site)))
    };
    let (of_one, of_two) = (updates(&one, CARE_OF, Site::One), updates(&two, CARE_OF_HOST2, Site::Two));
    lab.step(&format!("binding updates meanwhile: {of_one} of site 1, {of_two} of site 2"));
    // One host takes over, the other is told at a refresh; then the binding of 12 s is only kept, by a refresh after 5 s at the soonest.
    let refreshes = usize::try_from(begin.elapsed().as_secs() / 5).unwrap_or_default();
    ensure(of_one <= 3 && of_two <= 4 + refreshes, || "the two hosts take the guest from each other".into())?;

    lab.step("the second guest is ended, the first one moved to where it is");
    net.guest2.ip("link set eth0 down")?;
    sites.plug(lab, Site::One)?;
    crate::migration::sites::announce(&net.guest, GUEST_MAC)?;
    lab.ping_until_answered(&net.cn, GUEST, FIRST_REGISTRATION)?;
    must_be_at(&stage, Site::One)?;
    stage.end()
}
