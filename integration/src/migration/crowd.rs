//! Many guests that are namespaces, all on one host's bridge at a time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::policy::Guest;
use super::sites::{Site, announce};
use super::stage::care_of;
use crate::capture::Observer;
use crate::expect::is_protected_acknowledgement;
use crate::failure::{Outcome, in_time};
use crate::node::Node;
use crate::scenario::Lab;
use crate::topology::{Link, SEGMENT, SEGMENT2};

/// The guests. Each has a cable that is plugged into the segment of the host that has it.
pub(crate) struct Crowd<'lab> {
    lab: &'lab Lab,
    nodes: Vec<Node>,
}

impl<'lab> Crowd<'lab> {
    /// Makes `count` guests, on no host yet, and gives each of the two foreign hosts a segment of its own.
    pub(crate) fn gather(lab: &'lab Lab, count: u16) -> Outcome<Self> {
        let net = &lab.net;
        for (node, interface) in [(&net.guest, "eth0"), (&net.guest2, "eth0"), (&net.host, "vm2")] {
            net.unplug(node, interface)?;
        }
        net.plug(&net.host, "vm1", segment(Site::One))?;
        net.plug(&net.host2, "vm1", segment(Site::Two))?;
        let nodes = (0..count).map(|number| net.new_node(&format!("guest-{number}"))).collect::<Outcome<Vec<_>>>()?;
        for (guest, node) in (0..).map(Guest).zip(&nodes) {
            net.lay_cable(node, "eth0", None)?;
            node.ip(&format!(
                "link set lo up\nlink set eth0 address {}\nlink set eth0 up\naddr add {}/64 dev eth0 nodad",
                guest.mac(),
                guest.home_address()
            ))?;
        }
        Ok(Self { lab, nodes })
    }

    /// The guests in their order.
    pub(crate) fn guests(&self) -> impl Iterator<Item = (Guest, &Node)> {
        (0..).map(Guest).zip(&self.nodes)
    }

    /// Moves one guest to a site, with its announcement.
    pub(crate) fn bring(&self, guest: Guest, site: Site) -> Outcome {
        let Some(node) = self.nodes.get(usize::from(guest.0)) else { return Ok(()) };
        self.lab.net.plug(node, "eth0", segment(site))?;
        announce(node, &guest.mac())
    }

    /// Waits until all of them are bound at a site, as its link tells. When each was, since the epoch.
    pub(crate) fn all_bound(
        &self,
        link: &mut Observer,
        site: Site,
        timeout: Duration,
    ) -> Outcome<BTreeMap<u16, Duration>> {
        let deadline = Instant::now() + timeout;
        let mut bound = BTreeMap::new();
        while bound.len() < self.nodes.len() {
            in_time(Instant::now() < deadline, || {
                let missing: Vec<String> = self
                    .guests()
                    .filter(|(guest, _)| !bound.contains_key(&guest.0))
                    .map(|(guest, _)| guest.name())
                    .collect();
                format!("not bound within {} s: {}", timeout.as_secs(), missing.join(", "))
            })?;
            for packet in link.take() {
                let Some(spi) = packet.spi() else { continue };
                let of = self.guests().find(|(guest, _)| guest.spi_to_guest() == spi);
                if let Some((guest, _)) = of
                    && is_protected_acknowledgement(&packet, care_of(site), guest.home_address(), spi)
                {
                    bound.entry(guest.0).or_insert(packet.time);
                }
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(bound)
    }
}

/// What the bridge of a site's host is joined to.
fn segment(site: Site) -> Link {
    match site {
        Site::Two => SEGMENT2,
        _ => SEGMENT,
    }
}
