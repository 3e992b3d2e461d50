//! See `README.md`.

use crate::migration::journey::Conversation;
use crate::migration::machine::{Machine, Mode};
use crate::migration::sites::{Site, Sites};
use crate::prelude::*;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "migration-qemu-precopy",
    readme: include_str!("README.md"),
    peer: Peer::Qemu,
    well_formed: true,
    run,
};

fn run(lab: &Lab) -> Outcome {
    let sites = Sites::build(lab)?;
    let _radvd = sites.advertise(lab)?;
    let mut here = Machine::boot(lab, sites.host(lab, Site::Home), "home", GUEST_MAC, GUEST)?;
    lab.step("booted");
    lab.ping(&lab.net.cn, GUEST)?;
    std::thread::sleep(Duration::from_secs(5));
    let (world, log) = here.world()?;
    println!("{}", world.lines().map(|l|format!("lab| {l}\n")).collect::<String>());
    println!("lab| {log}");
    let conversation = Conversation::begin(lab, GUEST, 50)?;
    std::thread::sleep(Duration::from_secs(3));
    let mut there = Machine::expect(lab, sites.host(lab, Site::One), "one", GUEST_MAC, GUEST)?;
    let moved = here.migrate(&mut there, Mode::Postcopy)?;
    lab.step(&format!("pause {:?} took {:?}", moved.pause(), moved.took));
    here.end()?;
    let mut back = Machine::expect(lab, sites.host(lab, Site::Home), "back", GUEST_MAC, GUEST)?;
    let moved = there.migrate(&mut back, Mode::Precopy)?;
    lab.step(&format!("pause {:?} took {:?}", moved.pause(), moved.took));
    there.end()?;
    std::thread::sleep(Duration::from_secs(5));
    conversation.end(lab)?;
    let (world2, log2) = back.world()?;
    println!("lab| {}", crate::migration::world::difference(&world, &world2));
    println!("lab| {}", crate::migration::world::difference(&log, &log2));
    back.end()
}
