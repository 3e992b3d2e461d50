//! The way from the guest to the correspondent: four nodes, three links, one variant.
//!
//! ```text
//! guest ──(veth)── host ══(underlay)══ home agent ──(veth)── correspondent
//! ```

use std::path::PathBuf;

use crate::failure::{Outcome, While};
use crate::node::Node;
use crate::sys;

use super::end::{Role, Specification};
use super::process::EndProcess;
use super::variant::{Mode, Variant};

pub(crate) const GUEST: &str = "2001:db8:2000::10";
pub(crate) const CORRESPONDENT: &str = "2001:db8:2000::2";
pub(crate) const CARE_OF: &str = "2001:db8:3000::3";
pub(crate) const HOME_AGENT: &str = "2001:db8:3000::1";
pub(crate) const GUEST_MAC: &str = "52:54:00:00:00:10";
/// The next guest, as `end::home_addresses` counts them.
pub(crate) const SECOND_GUEST: &str = "2001:db8:2000::11";
const SECOND_GUEST_MAC: &str = "52:54:00:00:00:11";
/// [`kagemusha::home_network::config::ROUTER_MAC`].
pub(crate) const ROUTER_MAC: &str = "02:4b:47:4d:53:01";
/// The host's end of the guest's link.
pub(crate) const GUEST_LINK: &str = "g0";
pub(crate) const TAP: &str = "kgtap0";
pub(crate) const TUN: &str = "kage-ha";
/// The segment of a seg6 route at the other end.
const SEGMENT_AT: [&str; 2] = ["2001:db8:3000::103", "2001:db8:3000::101"];

/// A standing path.
pub(crate) struct Path {
    pub(crate) variant: Variant,
    pub(crate) guest: Node,
    pub(crate) host: Node,
    pub(crate) home_agent: Node,
    pub(crate) correspondent: Node,
    /// What lies between the ends of the tunnel, where it is no cable.
    wire: Option<Node>,
    /// How many guests the engines know; the first is there.
    guests: usize,
    /// The processes at both ends, for the engines.
    pub(crate) ends: Vec<EndProcess>,
}

/// The kernel's own IPv6-in-IPv6 device, or seg6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KernelTunnel {
    Ip6tnl,
    Seg6,
}

/// Which of the two this kernel has.
pub(crate) fn kernel_tunnel() -> Outcome<Option<KernelTunnel>> {
    let node = Node::new("probe")?;
    node.ip("link set lo up")?;
    if node.ip("link add dev t0 type ip6tnl mode ip6ip6 local ::1 remote ::2").is_ok() {
        return Ok(Some(KernelTunnel::Ip6tnl));
    }
    let seg6 = "route add 2001:db8::/64 encap seg6 mode encap.red segs 2001:db8:1::1 dev lo";
    Ok(node.ip(seg6).is_ok().then_some(KernelTunnel::Seg6))
}

impl Path {
    /// Builds it: `mtu` octets on the underlay.
    pub(crate) fn build(
        variant: Variant,
        mode: Mode,
        mtu: usize,
        kernel_tunnel: Option<KernelTunnel>,
    ) -> Outcome<Self> {
        Self::build_over(variant, mode, mtu, kernel_tunnel, (None, 1))
    }

    /// The same with a node as its underlay, that has to carry frames from `w0` to `w1` and back, and with engines that know
    /// this many guests.
    pub(crate) fn build_over(
        variant: Variant,
        mode: Mode,
        mtu: usize,
        kernel_tunnel: Option<KernelTunnel>,
        (wire, guests): (Option<Node>, usize),
    ) -> Outcome<Self> {
        let [guest, host, home_agent, correspondent] =
            [Node::new("guest")?, Node::new("host")?, Node::new("ha")?, Node::new("cn")?];
        let mut path = Self { variant, guest, host, home_agent, correspondent, wire, guests, ends: vec![] };
        path.wire(mtu)?;
        if mode == Mode::Wire {
            for node in [&path.host, &path.home_agent] {
                node.run(|| sys::like_a_wire("u0"))?.during(|| "offloads of the underlay".into())?;
            }
        }
        match (variant, kernel_tunnel) {
            (Variant::Vxlan, _) => path.vxlan()?,
            (Variant::Plain, _) => {
                path.routed()?;
                path.host.ip("route add 2001:db8:2000::/64 via 2001:db8:3000::1")?;
                path.home_agent.ip("route add 2001:db8:2000::10/128 via 2001:db8:3000::3")?;
            }
            (Variant::KernelTunnel, Some(KernelTunnel::Ip6tnl)) => path.ip6tnl()?,
            (Variant::KernelTunnel, _) => path.seg6()?,
            _ => path.engine(mtu)?,
        }
        Ok(path)
    }

    fn wire(&self, mtu: usize) -> Outcome {
        let inner = mtu - self.variant.overhead();
        let mut cables = vec![
            (&self.guest, "eth0", &self.host, GUEST_LINK, inner),
            (&self.home_agent, "h0", &self.correspondent, "eth0", inner),
        ];
        match &self.wire {
            None => cables.push((&self.host, "u0", &self.home_agent, "u0", mtu)),
            Some(wire) => {
                wire.sysctl("conf/default/disable_ipv6", "1")?;
                cables.extend([(&self.host, "u0", wire, "w0", mtu), (&self.home_agent, "u0", wire, "w1", mtu)]);
            }
        }
        for (a, name_a, b, name_b, mtu) in cables {
            let there = b.namespace_path()?;
            a.ip(&format!(
                "link set lo up\nlink add dev {name_a} mtu {mtu} type veth peer name {name_b} mtu {mtu} netns {}",
                there.display()
            ))?;
            for (node, name) in [(a, name_a), (b, name_b)] {
                node.sysctl(&format!("conf/{name}/accept_dad"), "0")?;
                node.ip("link set lo up")?;
            }
        }
        for node in [&self.host, &self.home_agent] {
            node.sysctl("conf/all/forwarding", "1")?;
            // Where br_netfilter is loaded, a new namespace's bridges ask the firewall about every packet; VXLAN, with a
            // bridge at both ends, would pay most for it.
            node.run(|| {
                let setting = std::path::Path::new("/proc/sys/net/bridge/bridge-nf-call-ip6tables");
                if setting.exists() { std::fs::write(setting, "0") } else { Ok(()) }
            })?
            .during(|| "no firewall in bridges".into())?;
        }
        self.guest.ip(&format!("link set eth0 address {GUEST_MAC} up"))?;
        self.correspondent.ip("link set eth0 up")?;
        self.host.ip("link set g0 up\nlink set u0 up\naddr add 2001:db8:3000::3/64 dev u0 nodad")?;
        if let Some(wire) = &self.wire {
            wire.ip("link set w0 up\nlink set w1 up")?;
        }
        self.home_agent.ip("link set h0 up\nlink set u0 up\naddr add 2001:db8:3000::1/64 dev u0 nodad")
    }

    /// The guest's link is made anew, under other indices, as when a virtual machine is started again; the engine is told as by the daemon.
    pub(crate) fn renew_guest_link(&mut self, mtu: usize) -> Outcome {
        self.host.ip(&format!("link del {GUEST_LINK}"))?;
        self.guest.ip(&format!(
            "link add dev eth0 mtu {mtu} type veth peer name {GUEST_LINK} mtu {mtu} netns {}",
            self.host.namespace_path()?.display()
        ))?;
        self.guest.sysctl("conf/eth0/accept_dad", "0")?;
        self.guest.ip(&format!("link set eth0 address {GUEST_MAC} up"))?;
        self.guest_is_routed()?;
        self.host.ip(&format!("link set {GUEST_LINK} master br0 up"))?;
        self.ends.first_mut().map_or(Ok(()), EndProcess::port_changed)
    }

    /// One Ethernet segment from guest to correspondent.
    fn vxlan(&self) -> Outcome {
        for (node, port, local, remote) in
            [(&self.host, "g0", CARE_OF, HOME_AGENT), (&self.home_agent, "h0", HOME_AGENT, CARE_OF)]
        {
            node.ip(&format!(
                "link add dev br0 type bridge\nlink add dev x0 type vxlan id 42 local {local} remote {remote} dstport 4789 dev u0\n\
                 link set x0 master br0 up\nlink set {port} master br0\nlink set br0 up"
            ))?;
        }
        self.guest.ip(&format!("addr add {GUEST}/64 dev eth0 nodad"))?;
        self.correspondent.ip(&format!("addr add {CORRESPONDENT}/64 dev eth0 nodad"))
    }

    /// Guest and correspondent each behind a router that is its host's kernel, or looks like it.
    fn ends_are_routed(&self) -> Outcome {
        self.guest_is_routed()?;
        self.home_agent.ip("addr add 2001:db8:2000::1/64 dev h0 nodad")?;
        self.correspondent.ip(&format!(
            "addr add {CORRESPONDENT}/64 dev eth0 nodad\nroute add {GUEST}/128 via 2001:db8:2000::1 dev eth0"
        ))
    }

    fn guest_is_routed(&self) -> Outcome {
        self.guest.ip(&format!(
            "addr add {GUEST}/128 dev eth0 nodad\nneigh add fe80::1 lladdr {ROUTER_MAC} dev eth0 nud permanent\n\
             route add default via fe80::1 dev eth0"
        ))
    }

    fn routed(&self) -> Outcome {
        self.ends_are_routed()?;
        self.host.ip(&format!(
            "link set g0 down\nlink set g0 address {ROUTER_MAC} up\naddr add fe80::1/64 dev g0 nodad\n\
             route add {GUEST}/128 dev g0\nneigh add {GUEST} lladdr {GUEST_MAC} dev g0 nud permanent"
        ))
    }

    fn ip6tnl(&self) -> Outcome {
        self.routed()?;
        for (node, local, remote, route) in
            [(&self.host, CARE_OF, HOME_AGENT, "2001:db8:2000::/64"), (&self.home_agent, HOME_AGENT, CARE_OF, GUEST)]
        {
            node.ip(&format!(
                "link add dev t0 type ip6tnl mode ip6ip6 local {local} remote {remote} encaplimit none dev u0\n\
                 link set t0 up\nroute add {route} dev t0"
            ))?;
        }
        Ok(())
    }

    fn seg6(&self) -> Outcome {
        self.routed()?;
        let [at_host, at_home_agent] = SEGMENT_AT;
        for (node, source) in [(&self.host, CARE_OF), (&self.home_agent, HOME_AGENT)] {
            node.command("ip", &["sr", "tunsrc", "set", source])?;
        }
        self.host.ip(&format!(
            "route add {at_home_agent}/128 via {HOME_AGENT} dev u0\n\
             route add 2001:db8:2000::/64 encap seg6 mode encap.red segs {at_home_agent} dev u0\n\
             route add {at_host}/128 encap seg6local action End.DX6 nh6 {GUEST} dev u0"
        ))?;
        self.home_agent.ip(&format!(
            "route add {at_host}/128 via {CARE_OF} dev u0\n\
             route add {GUEST}/128 encap seg6 mode encap.red segs {at_host} dev u0\n\
             route add {at_home_agent}/128 encap seg6local action End.DX6 nh6 {CORRESPONDENT} dev u0"
        ))
    }

    /// One of ours, or the naive one: the guest behind a bridge with our TAP, and a TUN at the home agent.
    fn engine(&mut self, mtu: usize) -> Outcome {
        let Some(engine) = self.variant.engine() else { return Ok(()) };
        let inner = mtu - self.variant.overhead();
        self.ends_are_routed()?;
        self.host.ip(&format!("link add dev br0 type bridge\nlink set {GUEST_LINK} master br0"))?;
        self.host.sysctl("conf/br0/disable_ipv6", "1")?;
        self.host.ip("link set br0 up")?;
        if self.variant == Variant::Naive {
            // What the kernel has merged is longer than the path takes, and has no checksum yet: the naive engine
            // cannot know, and would deliver nothing.
            for node in [&self.host, &self.home_agent] {
                node.run(|| sys::set_receive_offload("u0", false))?.during(|| "receive offload".into())?;
            }
        }
        let specification = Specification { engine, role: Role::MobileNode, mtu, guests: self.guests };
        self.ends.push(EndProcess::start(&self.host, &specification)?);
        self.host.sysctl(&format!("conf/{TAP}/disable_ipv6"), "1")?;
        self.host.ip(&format!("link set {TAP} mtu {inner}\nlink set {TAP} master br0\nlink set {TAP} up"))?;
        // The bridge learns the router's MAC address from the first frame that the engine sends; until then it floods.
        self.host.command("bridge", &["fdb", "replace", ROUTER_MAC, "dev", TAP, "master", "static"])?;
        self.ends.push(EndProcess::start(&self.home_agent, &Specification { role: Role::HomeAgent, ..specification })?);
        self.home_agent.ip(&format!("link set {TUN} mtu {inner} up\nroute add {GUEST}/128 dev {TUN}"))
    }

    /// One more guest on the bridge, the next of those that the engines know.
    pub(crate) fn second_guest(&self) -> Outcome<Node> {
        let guest = Node::new("guest2")?;
        let inner = 1500 - self.variant.overhead();
        let host = self.host.namespace_path()?;
        guest.ip(&format!(
            "link set lo up\nlink add dev eth0 mtu {inner} type veth peer name g1 mtu {inner} netns {}",
            host.display()
        ))?;
        guest.sysctl("conf/eth0/accept_dad", "0")?;
        guest.ip(&format!(
            "link set eth0 address {SECOND_GUEST_MAC} up\naddr add {SECOND_GUEST}/128 dev eth0 nodad\n\
             neigh add fe80::1 lladdr {ROUTER_MAC} dev eth0 nud permanent\nroute add default via fe80::1 dev eth0"
        ))?;
        self.host.ip("link set g1 master br0 up")?;
        self.home_agent.ip(&format!("route add {SECOND_GUEST}/128 dev {TUN}"))?;
        self.correspondent.ip(&format!("route add {SECOND_GUEST}/128 via 2001:db8:2000::1 dev eth0"))?;
        Ok(guest)
    }

    /// The node that lies between the ends, where there is one.
    pub(crate) fn wire_node(&self) -> Option<&Node> {
        self.wire.as_ref()
    }

    /// Makes both directions of the underlay as slow as `rate` (in the words of `tc`).
    pub(crate) fn shape(&self, rate: &str) -> Outcome {
        for node in [&self.host, &self.home_agent] {
            let tbf = ["qdisc", "add", "dev", "u0", "root", "tbf", "rate", rate, "burst", "16kb", "latency", "50ms"];
            node.command("tc", &tbf)?;
        }
        Ok(())
    }

    /// What the ends say about themselves.
    pub(crate) fn description(&self) -> Option<&str> {
        self.ends.first().map(EndProcess::description)
    }
}

/// This program.
pub(crate) fn own_program() -> Outcome<PathBuf> {
    Ok(std::env::current_exe()?)
}
