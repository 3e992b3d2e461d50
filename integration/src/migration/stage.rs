//! The sites with everything running: the home agent, a daemon on each host that speaks for guests when it sees them, and
//! the router of the home link.

use std::net::Ipv6Addr;
use std::time::Duration;

use super::guest::{self, Services};
use super::policy::{self, Guest};
use super::sites::{self, Site, Sites, foreign_link};
use super::world;
use crate::capture::Observer;
use crate::dissect::{Layer, Packet};
use crate::expect::{FIRST_REGISTRATION, SOON, advertisement_flags, protected_registration};
use crate::failure::{Failure, Outcome, While, ensure};
use crate::node::Node;
use crate::process::{Daemon, wait_until};
use crate::scenario::Lab;
use crate::topology::HOME;
use crate::topology::cast::{CARE_OF, CARE_OF_HOST2, GUEST, GUEST_MAC, HOME_AGENT};

/// The guest of every scenario with one.
pub(crate) const VM1: Guest = Guest(0);

/// What differs between stages.
pub(crate) struct Options<'a> {
    /// How many guests are in the policies.
    pub(crate) guests: u16,
    /// Further lines of `[home_agent]` in the home agent's policy.
    pub(crate) home_agent: &'a str,
    /// Further lines of each `[[guest]]` in the hosts' policies.
    pub(crate) host: &'a str,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self { guests: 1, home_agent: "", host: "" }
    }
}

/// See the module.
pub(crate) struct Stage<'lab> {
    lab: &'lab Lab,
    sites: &'lab Sites,
    policies: [String; 3],
    radvd: Daemon<'lab>,
    home_agent_policy: String,
    home_agent: Option<Daemon<'lab>>,
    hosts: [Option<Daemon<'lab>>; 3],
}

impl<'lab> Stage<'lab> {
    /// Starts everything and waits until every host is ready for the guests.
    pub(crate) fn set(lab: &'lab Lab, sites: &'lab Sites, options: &Options<'_>) -> Outcome<Self> {
        let home_agent_policy = policy::home_agent(options.guests, options.home_agent);
        let host_options = format!("attach = \"when-seen\"\n{}", options.host);
        let mut stage = Self {
            lab,
            sites,
            policies: Site::ALL.map(|site| policy::host(site, options.guests, &host_options)),
            radvd: sites.advertise(lab)?,
            home_agent: Some(lab.start_home_agent(&home_agent_policy)?),
            home_agent_policy,
            hosts: [const { None }; 3],
        };
        [Site::One, Site::Two].iter().try_for_each(|site| stage.start(*site))?;
        Ok(stage)
    }

    /// Starts the daemon of a site's host and waits until it has prepared all it needs for its guests.
    pub(crate) fn start(&mut self, site: Site) -> Outcome {
        let slot = index(site);
        let host = self.sites.host(self.lab, site);
        let text = self.policies.get(slot).cloned().unwrap_or_default();
        let mut daemon = self.lab.start_mobile_node(host, &text)?;
        if let Some(crashed) = self.hosts.get_mut(slot).and_then(Option::take) {
            daemon = daemon.instead_of(crashed);
        }
        let spi = format!("{:#010x}", VM1.spi_to_home_agent(site));
        wait_until(&format!("the host of {} is prepared", site.name()), SOON, || {
            daemon.must_run()?;
            Ok(host.command("ip", &["xfrm", "state", "list", "nokeys"])?.contains(&spi))
        })?;
        if let Some(place) = self.hosts.get_mut(slot) {
            *place = Some(daemon);
        }
        Ok(())
    }

    /// The daemon of a site's host.
    pub(crate) fn host(&mut self, site: Site) -> Outcome<&mut Daemon<'lab>> {
        let daemon = self.hosts.get_mut(index(site)).and_then(Option::as_mut);
        daemon.ok_or_else(|| Failure::new(format!("no daemon runs at {}", site.name())))
    }

    /// Kills the home agent and starts it again: it has forgotten every binding.
    pub(crate) fn restart_home_agent(&mut self) -> Outcome {
        let mut crashed = self.home_agent.take().ok_or_else(|| Failure::new("no home agent runs"))?;
        crashed.crash()?;
        let daemon = self.lab.start_home_agent(&self.home_agent_policy)?;
        self.home_agent = Some(daemon.instead_of(crashed));
        Ok(())
    }

    /// What the links of a site carry from now on.
    pub(crate) fn watch(&self, site: Site) -> Outcome<Observer> {
        self.lab.watch(if site == Site::Home { HOME } else { foreign_link(site) })
    }

    /// Moves the guest, a namespace, with its announcement, and waits until it is registered and reached. Tells when it moved.
    pub(crate) fn move_guest(&self, from: Site, to: Site) -> Outcome<Duration> {
        self.lab.step(&format!("the guest moves from {} to {}", from.name(), to.name()));
        let mut link = self.watch(to)?;
        let moment = self.sites.move_guest(self.lab, from, to)?;
        match to {
            Site::Home => self.send_home(from)?,
            _ => arrival(&mut link, to, VM1, FIRST_REGISTRATION)?,
        }
        self.lab.ping_until_answered(&self.lab.net.cn, GUEST, SOON)?;
        Ok(moment)
    }

    /// Tells the host that the guest has left for its home link, and waits for the de-registration.
    pub(crate) fn send_home(&self, from: Site) -> Outcome {
        let mut link = self.watch(from)?;
        let program = self.lab.kagemusha.to_string_lossy().into_owned();
        self.sites.host(self.lab, from).command(&program, &["detach", "--home", &VM1.name()])?;
        arrival(&mut link, from, VM1, SOON)
    }

    /// The guest, a namespace, with its services at home, where it has found its router.
    pub(crate) fn guest_at_home(&self) -> Outcome<Inhabitant<'lab>> {
        self.sites.plug(self.lab, Site::Home)?;
        let guest = self.services()?;
        self.lab.wait_for_router(&self.lab.net.guest)?;
        self.lab.ping_until_answered(&self.lab.net.far, GUEST, SOON)?;
        Ok(guest)
    }

    /// The guest, a namespace, with its services at a foreign site, registered and reached.
    pub(crate) fn guest_at(&self, site: Site) -> Outcome<Inhabitant<'lab>> {
        let mut link = self.watch(site)?;
        self.sites.plug(self.lab, site)?;
        sites::announce(&self.lab.net.guest, GUEST_MAC)?;
        arrival(&mut link, site, VM1, FIRST_REGISTRATION)?;
        let guest = self.services()?;
        self.lab.wait_for_router(&self.lab.net.guest)?;
        self.lab.ping_until_answered(&self.lab.net.far, GUEST, SOON)?;
        Ok(guest)
    }

    /// Starts the services of the guest, a namespace.
    pub(crate) fn services(&self) -> Outcome<Inhabitant<'lab>> {
        let services = self.lab.net.guest.run(guest::serve)?.during(|| "the guest's services".into())?;
        Ok(Inhabitant { node: &self.lab.net.guest, _services: services })
    }

    /// Ends everything in good order.
    pub(crate) fn end(mut self) -> Outcome {
        let hosts: Vec<Daemon<'_>> = self.hosts.iter_mut().filter_map(Option::take).collect();
        hosts.into_iter().try_for_each(|host| self.lab.end([host]))?;
        if let Some(home_agent) = self.home_agent.take() {
            self.lab.end([home_agent])?;
        }
        self.radvd.terminate_anyhow()?;
        self.lab.no_readable_mobility_header()
    }
}

/// A guest that is a namespace, with its services.
pub(crate) struct Inhabitant<'lab> {
    node: &'lab Node,
    _services: Services,
}

impl Inhabitant<'_> {
    /// What it sees of its network.
    pub(crate) fn world(&self) -> Outcome<String> {
        self.node.run(world::look)?
    }

    /// Fails if it sees anything else than before.
    pub(crate) fn world_must_be(&self, before: &str) -> Outcome {
        let after = self.world()?;
        ensure(before == after, || format!("the guest sees a change:{}", world::difference(before, &after)))
    }
}

fn index(site: Site) -> usize {
    site.index() as usize
}

/// The care-of address of a foreign site's host.
pub(crate) fn care_of(site: Site) -> Ipv6Addr {
    match site {
        Site::Two => CARE_OF_HOST2,
        _ => CARE_OF,
    }
}

/// Until then what the home agent had in its queues for a site that the guest has left has gone.
const SETTLED: Duration = Duration::from_secs(2);

/// Waits on the foreign site's link for a binding update of the guest and its acknowledgement.
pub(crate) fn arrival(link: &mut Observer, site: Site, guest: Guest, timeout: Duration) -> Outcome {
    let spis = (guest.spi_to_home_agent(site), guest.spi_to_guest());
    protected_registration(link, care_of(site), guest.home_address(), spis, timeout)
}

/// Waits on the home link until the guest, which has come home, is de-registered from its home address (RFC 6275 §11.5.5) and its neighbours are
/// told so. The SPIs: to the home agent, to the guest.
pub(crate) fn returned(link: &mut Observer, guest: Guest, spis: (u32, u32), timeout: Duration) -> Outcome {
    let (home, guest_mac) = (guest.home_address(), guest.mac());
    let bare = |packet: &Packet, ends: (Ipv6Addr, Ipv6Addr), spi: u32| {
        packet.is_from_to(ends.0, ends.1)
            && matches!(packet.layers.as_slice(), [Layer::Ipv6 { .. }, Layer::Esp { spi: theirs, .. }] if *theirs == spi)
    };
    let spi = spis.0;
    link.must_see(&format!("ESP {spi:#x} from {home} without a Home Address option"), timeout, |packet| {
        bare(packet, (home, HOME_AGENT), spi)
    })?;
    let spi = spis.1;
    link.must_see(&format!("ESP {spi:#x} to {home} without a routing header"), SOON, |packet| {
        bare(packet, (HOME_AGENT, home), spi)
    })?;
    link.must_see(&format!("the home host says, overriding, that {home} is at {guest_mac}"), SOON, |packet| {
        advertisement_flags(packet, home) == Some((false, false, true))
            && advertises(packet, home, &guest_mac)
            && mac(&packet.ether_source) != guest_mac
    })?;
    Ok(())
}

/// Whether it is a neighbour advertisement that `target` is at this MAC address.
pub(crate) fn advertises(packet: &Packet, target: Ipv6Addr, at: &str) -> bool {
    // Behind Ethernet, IPv6 and the message, the only option.
    let option = packet.frame.get(80..86);
    advertisement_flags(packet, target).is_some() && option.is_some_and(|octets| mac(octets) == at)
}

/// A MAC address as people write it.
pub(crate) fn mac(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect::<Vec<_>>().join(":")
}

/// Packets of the tunnel between the home agent and a site's host, in either direction.
pub(crate) fn tunnelled(link: &Observer, site: Site) -> usize {
    let host = care_of(site);
    link.count(|packet| {
        (packet.is_from_to(HOME_AGENT, host) || packet.is_from_to(host, HOME_AGENT)) && packet.addresses().count() > 1
    })
}

/// The guest is answered only by way of `site`: what the correspondent sends passes the tunnel there.
pub(crate) fn must_be_at(stage: &Stage<'_>, site: Site) -> Outcome {
    let lab = stage.lab;
    for other in [Site::One, Site::Two].into_iter().filter(|other| *other != site) {
        // What was under way when the guest moved still comes.
        wait_until(&format!("the tunnel to {} is quiet", other.name()), SETTLED, || {
            let link = stage.watch(other)?;
            std::thread::sleep(Duration::from_millis(100));
            Ok(tunnelled(&link, other) == 0)
        })?;
    }
    let links: Vec<(Site, Observer)> =
        [Site::One, Site::Two].into_iter().map(|site| Ok((site, stage.watch(site)?))).collect::<Outcome<_>>()?;
    lab.ping(&lab.net.cn, GUEST)?;
    for (other, link) in links {
        let count = tunnelled(&link, other);
        ensure((count > 0) == (other == site), || {
            format!("the guest is at {}, and {count} packets went through the tunnel to {}", site.name(), other.name())
        })?;
    }
    Ok(())
}

/// Delays what `interface` of `node` sends, and loses some of it (tc-netem).
pub(crate) fn impair(node: &Node, interface: &str, delay: Duration, loss_percent: u32) -> Outcome {
    let (delay, loss) = (format!("{}us", delay.as_micros()), format!("{loss_percent}%"));
    // The queue must hold a round trip of everything.
    let arguments =
        ["qdisc", "replace", "dev", interface, "root", "netem", "limit", "10000", "delay", &delay, "loss", &loss];
    node.command("tc", &arguments).map(|_| ())
}

/// Undoes [`impair`].
pub(crate) fn repair(node: &Node, interface: &str) -> Outcome {
    node.command("tc", &["qdisc", "del", "dev", interface, "root"]).map(|_| ())
}
