//! The cast, always the same, and the wires between them.
//!
//! ```text
//!   home link 2001:db8:2000::/64                                     foreign link 2001:db8:3000::/64
//!                                                                    ┌── core ::1
//!   cn ::2 ────┬── ha ::1 ═ ha 1000::1 ──transit── core 1000::2 ═════╡
//!   (guest)  ──┘   MN's home agent                                   ├── host ::3 ─┐  kagemusha
//!                                                                    └── host2 ::4 ┤  (moves)
//!                                                                                  │
//!   far link 2001:db8:5000::/64       foreign link 2001:db8:4000::/64              │ br-home ── segment ── guest  2000::10
//!   far ::2 ── core ::1               core ::1 ── host ::3, host2 ::4              └ br-home ── segment2 ─ guest2 2000::11
//! ```
//!
//! Every node is a network namespace. Every link is a bridge in one more namespace, `wires`, that floods like a hub, so
//! that one monitor port sees each frame once. A cable is a veth pair whose far end is a port of `wires`; moving a node is
//! plugging that port into another link. The guest's cable ends on a segment of its own and so does the cable of `br-home`
//! of each host: a live migration plugs another host's cable into that segment and the guest notices nothing.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::agent::{Agent, CARDS, give_back, move_card};
use crate::capture::{Capture, Gather};
use crate::failure::{Failure, Outcome, While};
use crate::node::Node;
use crate::sys;

/// Addresses and names of the cast.
pub(crate) mod cast {
    use std::net::Ipv6Addr;

    const fn address(subnet: u16, host: u16) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0x0db8, subnet, 0, 0, 0, 0, host)
    }

    pub(crate) const HOME_AGENT: Ipv6Addr = address(0x2000, 1);
    pub(crate) const CORRESPONDENT: Ipv6Addr = address(0x2000, 2);
    pub(crate) const GUEST: Ipv6Addr = address(0x2000, 0x10);
    pub(crate) const GUEST2: Ipv6Addr = address(0x2000, 0x11);
    pub(crate) const GUEST_MAC: &str = "52:54:00:00:00:10";
    pub(crate) const GUEST2_MAC: &str = "52:54:00:00:00:11";
    pub(crate) const CARE_OF: Ipv6Addr = address(0x3000, 3);
    pub(crate) const CARE_OF_AFTER_MOVE: Ipv6Addr = address(0x4000, 3);
    pub(crate) const CARE_OF_HOST2: Ipv6Addr = address(0x4000, 4);
    pub(crate) const FAR: Ipv6Addr = address(0x5000, 2);
}

/// A link: a bridge in `wires` with this name.
pub(crate) type Link = &'static str;

/// The home link, 2001:db8:2000::/64.
pub(crate) const HOME: Link = "home";
/// Between the home agent and the core router, 2001:db8:1000::/64.
pub(crate) const TRANSIT: Link = "transit";
/// The foreign link where the host is first, 2001:db8:3000::/64.
pub(crate) const FOREIGN: Link = "foreign";
/// The foreign link it moves to, 2001:db8:4000::/64.
pub(crate) const FOREIGN2: Link = "foreign2";
/// The link of the correspondent that is not at home, 2001:db8:5000::/64.
pub(crate) const FAR_LINK: Link = "far";
/// What the guest sees.
pub(crate) const SEGMENT: Link = "segment";
/// What the second guest sees.
pub(crate) const SEGMENT2: Link = "segment2";

const LINKS: [Link; 7] = [HOME, TRANSIT, FOREIGN, FOREIGN2, FAR_LINK, SEGMENT, SEGMENT2];

/// The running topology.
pub(crate) struct Topology {
    wires: Node,
    pub(crate) ha: Node,
    pub(crate) cn: Node,
    pub(crate) core: Node,
    pub(crate) far: Node,
    pub(crate) host: Node,
    pub(crate) host2: Node,
    pub(crate) guest: Node,
    pub(crate) guest2: Node,
    captures: BTreeMap<Link, Capture>,
}

impl Topology {
    /// Builds it all, the guest on `host` and `host` on the first foreign link, and captures every link into `directory`.
    /// A node named `away` is in another machine.
    pub(crate) fn build(directory: &Path, gather: Gather, away: Option<(&str, &Arc<Agent>)>) -> Outcome<Self> {
        let node = |name: &str| match away {
            Some((other, agent)) if other == name => node(name, Some(agent)),
            _ => node(name, None),
        };
        let wires = Node::new("wires")?;
        wires.sysctl("conf/default/disable_ipv6", "1")?;
        let mut batch = String::new();
        for link in LINKS {
            // A dummy as one more port: what the bridge floods into it is what passes on the link.
            let _ = write!(
                batch,
                "link add {link} type bridge stp_state 0 ageing_time 0 mcast_snooping 0\nlink set {link} up\n\
                 link add m-{link} type dummy\nlink set m-{link} master {link} up\n"
            );
        }
        wires.ip(&batch)?;
        let mut captures = BTreeMap::new();
        for link in LINKS {
            let file = directory.join(format!("{link}.pcap"));
            captures.insert(link, Capture::start(&wires, &format!("m-{link}"), link, &file, gather)?);
        }
        let topology = Self {
            ha: node("ha")?,
            cn: node("cn")?,
            core: node("core")?,
            far: node("far")?,
            host: node("host")?,
            host2: node("host2")?,
            guest: node("guest")?,
            guest2: node("guest2")?,
            wires,
            captures,
        };
        topology.connect()?;
        topology.configure()?;
        Ok(topology)
    }

    /// Lays every cable from `wires`, plugs it in, and turns the nodes' ends into real network cards.
    fn connect(&self) -> Outcome {
        let cables = [
            (&self.ha, "eth0", Some(HOME)),
            (&self.ha, "eth1", Some(TRANSIT)),
            (&self.cn, "eth0", Some(HOME)),
            (&self.core, "eth0", Some(TRANSIT)),
            (&self.core, "eth1", Some(FOREIGN)),
            (&self.core, "eth2", Some(FOREIGN2)),
            (&self.core, "eth3", Some(FAR_LINK)),
            (&self.far, "eth0", Some(FAR_LINK)),
            (&self.host, "eth0", Some(FOREIGN)),
            (&self.host, "vm1", Some(SEGMENT)),
            (&self.host, "vm2", Some(SEGMENT2)),
            (&self.host2, "eth0", Some(FOREIGN2)),
            // The second host's side of the guest's segment waits for a migration.
            (&self.host2, "vm1", None),
            (&self.guest, "eth0", Some(SEGMENT)),
            (&self.guest2, "eth0", Some(SEGMENT2)),
        ];
        // A host in another machine has no guests.
        let laid = |(node, interface, _): &(&Node, &str, Option<Link>)| {
            node.agent().is_none() || CARDS.iter().any(|card| card.name == *interface)
        };
        let cables: Vec<_> = cables.into_iter().filter(laid).collect();
        self.lay_cables(&cables)
    }

    fn lay_cables(&self, cables: &[(&Node, &str, Option<Link>)]) -> Outcome {
        let mut batch = String::new();
        for &(node, interface, link) in cables {
            let port = port(node, interface);
            if node.agent().is_some() {
                let card = CARDS.iter().find(|card| card.name == interface);
                let card = card.ok_or_else(|| Failure::new(format!("no card joins {interface} of {}", node.name())))?;
                move_card(card.here, &self.wires, &port)?;
            } else {
                let namespace = node.namespace_path()?;
                let _ =
                    writeln!(batch, "link add {port} type veth peer name {interface} netns {}", namespace.display());
            }
            let _ = match link {
                Some(link) => writeln!(batch, "link set {port} master {link} up"),
                None => writeln!(batch, "link set {port} up"),
            };
        }
        self.wires.ip(&batch)?;
        for &(node, interface, _) in cables.iter().filter(|(node, ..)| node.agent().is_none()) {
            let (name, at) = (interface.to_owned(), || format!("{} {interface}", node.name()));
            node.run(move || sys::complete_checksums(&name))?.during(at)?;
        }
        Ok(())
    }

    fn configure(&self) -> Outcome {
        for node in [&self.ha, &self.core] {
            node.sysctl("conf/all/forwarding", "1")?;
        }
        for (host, ports) in [(&self.host, &["vm1", "vm2"][..]), (&self.host2, &["vm1"][..])] {
            if host.agent().is_some() {
                continue;
            }
            // A host has no address of its own among its guests.
            ports.iter().try_for_each(|port| host.sysctl(&format!("conf/{port}/disable_ipv6"), "1"))?;
        }
        configure(
            &self.ha,
            &["eth0", "eth1"],
            &["eth0 2001:db8:2000::1", "eth1 2001:db8:1000::1"],
            "2001:db8:1000::2",
            "",
        )?;
        let core = ["eth0 2001:db8:1000::2", "eth1 2001:db8:3000::1", "eth2 2001:db8:4000::1", "eth3 2001:db8:5000::1"];
        configure(
            &self.core,
            &["eth0", "eth1", "eth2", "eth3"],
            &core,
            "",
            "route add 2001:db8:2000::/64 via 2001:db8:1000::1",
        )?;
        configure(&self.cn, &["eth0"], &["eth0 2001:db8:2000::2"], "2001:db8:2000::1", "")?;
        configure(&self.far, &["eth0"], &["eth0 2001:db8:5000::2"], "2001:db8:5000::1", "")?;
        let bridge = "link add br-home type bridge stp_state 0 mcast_snooping 0\nlink set vm1 master br-home up";
        configure(
            &self.host,
            &["eth0"],
            &["eth0 2001:db8:3000::3"],
            "2001:db8:3000::1",
            &if self.host.agent().is_none() {
                format!("{bridge}\nlink set vm2 master br-home up")
            } else {
                String::new()
            },
        )?;
        configure(&self.host2, &["eth0"], &["eth0 2001:db8:4000::4"], "2001:db8:4000::1", bridge)?;
        for host in [&self.host, &self.host2].into_iter().filter(|host| host.agent().is_none()) {
            host.sysctl("conf/br-home/disable_ipv6", "1")?;
            host.ip("link set br-home up")?;
        }
        for (guest, mac, address) in
            [(&self.guest, cast::GUEST_MAC, cast::GUEST), (&self.guest2, cast::GUEST2_MAC, cast::GUEST2)]
        {
            guest.ip(&format!(
                "link set lo up\nlink set eth0 address {mac}\nlink set eth0 up\naddr add {address}/64 dev eth0 nodad"
            ))?;
        }
        Ok(())
    }

    /// One more node, not connected yet.
    pub(crate) fn new_node(&self, name: &str) -> Outcome<Node> {
        node(name, None)
    }

    /// One more cable, from `interface` of `node` to a link or, for now, to nowhere.
    pub(crate) fn lay_cable(&self, node: &Node, interface: &str, link: Option<Link>) -> Outcome {
        self.lay_cables(&[(node, interface, link)])
    }

    /// Plugs the cable of `interface` into another link, without the node noticing.
    pub(crate) fn plug(&self, node: &Node, interface: &str, link: Link) -> Outcome {
        self.set_master(node, interface, Some(link))
    }

    /// Pulls the cable of `interface` out of its link, without the node noticing.
    pub(crate) fn unplug(&self, node: &Node, interface: &str) -> Outcome {
        self.set_master(node, interface, None)
    }

    fn set_master(&self, node: &Node, interface: &str, link: Option<Link>) -> Outcome {
        let port = port(node, interface);
        let at = || format!("plugging {} {interface}", node.name());
        self.wires
            .run(move || {
                let bridge = link.map_or(Ok(0), sys::interface_index)?;
                sys::set_master(sys::interface_index(&port)?, bridge)
            })?
            .during(at)
    }

    /// Plugs the cable of `interface` into another link; the node sees its carrier go and come back.
    pub(crate) fn replug(&self, node: &Node, interface: &str, link: Link) -> Outcome {
        let port = port(node, interface);
        self.wires.ip(&format!("link set {port} down\nlink set {port} master {link}\nlink set {port} up"))
    }

    /// Lets the node see the carrier of `interface` go or come.
    pub(crate) fn set_carrier(&self, node: &Node, interface: &str, carrier: bool) -> Outcome {
        self.wires.ip(&format!("link set {} {}", port(node, interface), if carrier { "up" } else { "down" }))
    }

    /// Pulls the cable of `interface` of one node out of a link and plugs that of another in. Tells when, since the epoch: the link had neither
    /// for as long as the kernel needs for two requests.
    pub(crate) fn replace(&self, from: &Node, to: &Node, interface: &str, link: Link) -> Outcome<Duration> {
        let (from, to) = (port(from, interface), port(to, interface));
        self.wires.run(move || -> Outcome<Duration> {
            let [from, to, bridge] = [from.as_str(), &to, link].map(sys::interface_index);
            let (from, to, bridge) = (from?, to?, bridge?);
            let moment = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            // A program for each would take longer than all that is measured.
            sys::set_master(from, 0)?;
            sys::set_master(to, bridge)?;
            Ok(moment)
        })?
    }

    /// Moves `host` to the second foreign link and its address 2001:db8:4000::3.
    pub(crate) fn move_host(&self) -> Outcome {
        self.plug(&self.host, "eth0", FOREIGN2)?;
        self.host.ip("addr del 2001:db8:3000::3/64 dev eth0\naddr add 2001:db8:4000::3/64 dev eth0 nodad\n\
             route replace default via 2001:db8:4000::1")
    }

    /// Live migration of the guest from `host` to `host2`.
    pub(crate) fn migrate_guest(&self) -> Outcome {
        self.unplug(&self.host, "vm1")?;
        self.plug(&self.host2, "vm1", SEGMENT)
    }

    /// Lets captures see nothing from now on: what is measured is not to be measured with them.
    pub(crate) fn keep_captures_out(&self) -> Outcome {
        self.wires.ip(&LINKS.map(|link| format!("link set m-{link} down")).join("\n"))
    }

    /// The capture of a link.
    pub(crate) fn on(&self, link: Link) -> Outcome<&Capture> {
        self.captures.get(link).ok_or_else(|| Failure::new(format!("no capture of {link}")))
    }

    /// Every capture.
    pub(crate) fn captures(&self) -> impl Iterator<Item = &Capture> {
        self.captures.values()
    }

    /// Ends all captures and completes their files.
    pub(crate) fn stop_captures(&mut self) -> Outcome {
        self.captures.values_mut().try_for_each(Capture::stop)
    }
}

impl Drop for Topology {
    fn drop(&mut self) {
        let away = [&self.ha, &self.host].into_iter().filter(|node| node.agent().is_some());
        for (name, card) in away.flat_map(|node| CARDS.iter().map(|card| (port(node, card.name), card))) {
            if let Err(failure) = give_back(&self.wires, &name, card.here) {
                // The next one that wants it waits for it, and says so.
                eprintln!("{failure}");
            }
        }
    }
}

/// A node with what the lab sets for its kind.
fn node(name: &str, away: Option<&Arc<Agent>>) -> Outcome<Node> {
    let node = match away {
        Some(agent) => Node::away(name, agent)?,
        None => Node::new(name)?,
    };
    for scope in ["all", "default"] {
        node.sysctl(&format!("conf/{scope}/accept_dad"), "0")?;
    }
    if matches!(name, "cn" | "far" | "homehost") {
        // Where a home agent advertises its link, the others there still have the addresses of the cast only.
        node.sysctl("conf/default/autoconf", "0")?;
    }
    if name.starts_with("guest") {
        // A guest that came up before its host's daemon asks again soon.
        for key in ["router_solicitations", "router_solicitation_interval", "router_solicitation_max_interval"] {
            node.sysctl(&format!("conf/default/{key}"), if key.ends_with("solicitations") { "30" } else { "1" })?;
        }
    }
    Ok(node)
}

/// Brings interfaces up, gives them addresses (`interface address`, all of /64), and sets the default router.
fn configure(node: &Node, interfaces: &[&str], addresses: &[&str], router: &str, more: &str) -> Outcome {
    let mut batch = String::from("link set lo up\n");
    for interface in interfaces {
        let _ = writeln!(batch, "link set {interface} up");
    }
    for (interface, address) in addresses.iter().filter_map(|entry| entry.split_once(' ')) {
        let _ = writeln!(batch, "addr add {address}/64 dev {interface} nodad");
    }
    if !router.is_empty() {
        let _ = writeln!(batch, "route add default via {router}");
    }
    node.ip(&(batch + more))
}

/// Name of the far end of a cable, at most 15 characters.
fn port(node: &Node, interface: &str) -> String {
    format!("{}-{interface}", node.name())
}
