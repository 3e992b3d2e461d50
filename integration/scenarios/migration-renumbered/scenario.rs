//! See `README.md`.

use crate::migration::journey::Conversation;
use crate::migration::sites::{Site, Sites};
use crate::migration::stage::{Options, Stage, VM1};
use crate::prelude::*;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "migration-renumbered",
    readme: include_str!("README.md"),
    peer: Peer::None,
    well_formed: true,
    run,
};

/// A time without a packet from the old address after which what a thread had judged before has left as well.
const WINDOW: Duration = Duration::from_millis(500);

fn run(lab: &Lab) -> Outcome {
    let net = &lab.net;
    let renumbered: std::net::Ipv6Addr = "2001:db8:3000::33".parse()?;
    let sites = Sites::build(lab)?;
    let stage = Stage::set(lab, &sites, &Options::default())?;
    let _guest = stage.guest_at(Site::One)?;
    let conversation = Conversation::begin(lab, GUEST, 100)?;

    lab.step("the site has given its host another address");
    let mut link = stage.watch(Site::One)?;
    net.host.ip(&format!("addr add {renumbered}/64 dev eth0 nodad\naddr del {CARE_OF}/64 dev eth0"))?;
    let spis = (VM1.spi_to_home_agent(Site::One), VM1.spi_to_guest());
    protected_registration(&mut link, renumbered, GUEST, spis, SOON)?;
    // What a thread had read from the table just before it was swapped may still leave, late where the thread waits for
    // its processor; but soon no more.
    wait_until("packets from the new address, and none from the old one", SOON, || {
        let window = stage.watch(Site::One)?;
        std::thread::sleep(WINDOW);
        let count = |from| window.count(|packet| packet.is_from_to(from, HOME_AGENT));
        Ok(count(renumbered) > 0 && count(CARE_OF) == 0)
    })?;
    let afterwards = stage.watch(Site::One)?;
    lab.ping_until_answered(&net.cn, GUEST, SOON)?;
    let mut link = stage.watch(Site::One)?;
    lab.ping(&net.cn, GUEST)?;
    echo_to_guest(&mut link, renumbered, GUEST, CORRESPONDENT)?;
    afterwards.must_not_have_seen("a packet from the old address", |packet| packet.is_from_to(CARE_OF, HOME_AGENT))?;
    conversation.end(lab)?;
    stage.end()
}
