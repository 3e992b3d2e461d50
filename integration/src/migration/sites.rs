//! Three sites: home, and two foreign ones. On each is a host with a bridge `br-home`, so that a guest's configuration is the same everywhere.
//!
//! ```text
//!   home link ──┬── ha (fe80::1, the guest's router at home too)      foreign link 1 ── host   (br-home: vm1)
//!               └── homehost: br-home = eth0 + vm1                    foreign link 2 ── host2  (br-home: vm1)
//! ```
//!
//! A guest that is a namespace has its cable on a segment of its own; the host that has the guest has its cable `vm1` there
//! too. A move unplugs one and plugs the other, and the guest announces itself as QEMU lets it do.

use std::time::Duration;

use crate::craft;
use crate::failure::Outcome;
use crate::node::Node;
use crate::process::Daemon;
use crate::scenario::Lab;
use crate::topology::cast::GUEST_MAC;
use crate::topology::{HOME, Link, SEGMENT};
use crate::umip;

/// Where a guest can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Site {
    Home,
    One,
    Two,
}

impl Site {
    pub(crate) const ALL: [Self; 3] = [Self::Home, Self::One, Self::Two];

    /// For the user.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Home => "home",
            Self::One => "site 1",
            Self::Two => "site 2",
        }
    }

    /// Places the sites in an order; SPIs and host names follow it.
    pub(crate) fn index(self) -> u32 {
        match self {
            Self::Home => 0,
            Self::One => 1,
            Self::Two => 2,
        }
    }
}

/// MAC and link-local address of the router that guests see everywhere: at home it is the home agent's node.
pub(crate) const ROUTER_MAC: &str = "02:4b:47:4d:53:01";

/// The topology with a home host, and the guest on it.
pub(crate) struct Sites {
    home: Node,
}

impl Sites {
    /// Adds the home host and its cables; afterwards the guest's segment has no host.
    pub(crate) fn build(lab: &Lab) -> Outcome<Self> {
        let net = &lab.net;
        let home = net.new_node("homehost")?;
        net.lay_cable(&home, "eth0", Some(HOME))?;
        net.lay_cable(&home, "vm1", None)?;
        for port in ["eth0", "vm1"] {
            home.sysctl(&format!("conf/{port}/disable_ipv6"), "1")?;
        }
        home.ip(
            "link set lo up\nlink add br-home type bridge stp_state 0 mcast_snooping 0\nlink set vm1 master br-home up\n\
             link set eth0 master br-home up\nlink set br-home up\naddr add 2001:db8:2000::a/64 dev br-home nodad\n\
             route add default via 2001:db8:2000::1",
        )?;
        net.ha.ip(&format!(
            "link set eth0 address {ROUTER_MAC}\naddr flush dev eth0 scope link\naddr add fe80::1/64 dev eth0 nodad"
        ))?;
        net.unplug(&net.host, "vm1")?;
        lab.prepare_host(&home)?;
        Ok(Self { home })
    }

    /// Advertises the home link as its router: that of the home agent's node, by the address that guests see elsewhere too.
    pub(crate) fn advertise<'lab>(&self, lab: &'lab Lab) -> Outcome<Daemon<'lab>> {
        let configuration = "interface eth0 { AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4; AdvDefaultLifetime 1800;\n\
             AdvRASrcAddress { fe80::1; };\nprefix 2001:db8:2000::/64 { AdvOnLink on; AdvAutonomous off; }; };\n";
        umip::start_radvd(lab, &lab.net.ha, configuration)
    }

    /// The host of a site.
    pub(crate) fn host<'lab>(&'lab self, lab: &'lab Lab, site: Site) -> &'lab Node {
        match site {
            Site::Home => &self.home,
            Site::One => &lab.net.host,
            Site::Two => &lab.net.host2,
        }
    }

    /// Plugs the guest, a namespace, into the host of a site.
    pub(crate) fn plug(&self, lab: &Lab, site: Site) -> Outcome {
        lab.net.plug(self.host(lab, site), "vm1", SEGMENT)
    }

    /// Live migration of the guest, a namespace, without its announcement. Tells when.
    pub(crate) fn move_silently(&self, lab: &Lab, from: Site, to: Site) -> Outcome<Duration> {
        lab.net.replace(self.host(lab, from), self.host(lab, to), "vm1", SEGMENT)
    }

    /// Live migration of the guest, a namespace, and QEMU's first announcement right after it. Tells when.
    pub(crate) fn move_guest(&self, lab: &Lab, from: Site, to: Site) -> Outcome<Duration> {
        let moment = self.move_silently(lab, from, to)?;
        announce(&lab.net.guest, GUEST_MAC)?;
        Ok(moment)
    }
}

/// What QEMU sends for a guest that has arrived: a reverse ARP request (`qemu_announce_self`, net/announce.c), here from the guest's own
/// network card, which is where QEMU puts it on the wire.
pub(crate) fn announce(guest: &Node, mac: &str) -> Outcome {
    craft::send_frames(guest, "eth0", vec![reverse_arp(mac)])
}

/// A reverse ARP request of `mac` about itself (RFC 903), padded as Ethernet wants it.
fn reverse_arp(mac: &str) -> Vec<u8> {
    let octets: Vec<u8> = mac.split(':').filter_map(|octet| u8::from_str_radix(octet, 16).ok()).collect();
    let mut frame = vec![0xff; 6];
    frame.extend(&octets);
    // Reverse ARP; Ethernet, IPv4, lengths, request reverse.
    frame.extend([0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3]);
    for _ in 0..2 {
        frame.extend(&octets);
        frame.extend([0; 4]);
    }
    frame.resize(60, 0);
    frame
}

/// The foreign link of a site.
pub(crate) fn foreign_link(site: Site) -> Link {
    match site {
        Site::Two => crate::topology::FOREIGN2,
        _ => crate::topology::FOREIGN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_announcement_is_qemus() {
        let frame = reverse_arp("52:54:00:00:00:10");
        assert_eq!(frame.len(), 60);
        assert_eq!(&frame[..14], [255, 255, 255, 255, 255, 255, 0x52, 0x54, 0, 0, 0, 0x10, 0x80, 0x35]);
        assert_eq!(&frame[14..22], [0, 1, 8, 0, 6, 4, 0, 3]);
    }
}
