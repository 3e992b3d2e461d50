//! The protection classes on a real kernel, without the daemons: what the library compiles is put into the kernels of both sides,
//! and small probes send and receive one kind of packet each.

mod disguise;
mod numbers;
mod sent;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::Read;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kagemusha::daemon::keys::load_policy;
use kagemusha::daemon::reconcile::Reconciler;
use kagemusha::ipsec::{Class, ReplayState, SecretKey, SecurityAssociation, Toward, Transform};
use kagemusha::kernel_state::{Bindings, Configuration, FAILSAFE_PRIORITY, KernelState, Site, compile};
use kagemusha::policy::Role;
use kagemusha::vocabulary::GuestId;
use socket2::{Domain, MsgHdr, Protocol, Socket, Type};

use self::disguise::Disguise;
use crate::capture::Observer;
use crate::craft;
use crate::dissect::Packet;
use crate::expect::{FIRST_REGISTRATION, protected_registration};
use crate::failure::{Failure, Outcome, While, ensure};
use crate::node::Node;
use crate::process::wait_until;
use crate::scenario::Lab;
use crate::topology::cast::CORRESPONDENT;
use crate::topology::cast::{CARE_OF, CARE_OF_AFTER_MOVE, FAR, GUEST, HOME_AGENT};
use crate::topology::{FOREIGN, FOREIGN2, TRANSIT};
use crate::umip;

pub(crate) use sent::{send_binding_update, solicit_prefixes};

/// Long enough for a packet through four kernels that share a slow processor.
const ARRIVES: Duration = Duration::from_secs(15);
/// A time in which whatever could arrive would have.
const QUIET: Duration = Duration::from_millis(400);

const MOBILITY: u8 = 135;
const ICMPV6: u8 = 58;
/// For experiments (RFC 3692 §2.1).
const EXPERIMENT: u8 = 253;

/// Both sides of one class.
pub(crate) struct Bench<'lab> {
    lab: &'lab Lab,
    class: Class,
    /// Another class of the same mode, whose association is a wrong one.
    spare: Class,
    host: Configuration,
    agent: Configuration,
    care_of: Cell<Ipv6Addr>,
    /// Sequence numbers begin beyond this one.
    first: u64,
    /// How often sequence numbers were made to begin anew at host and home agent: each time above all used.
    epochs: [Cell<u64>; 2],
    cookie: Cell<u64>,
}

/// SPI of an association of these policies.
pub(crate) fn spi(class: Class, toward: Toward) -> u32 {
    let index = Class::ALL.iter().position(|one| *one == class).unwrap_or_default();
    0x1000 + 2 * u32::try_from(index).unwrap_or_default() + u32::from(toward == Toward::Guest)
}

/// `more` stands in each security association.
pub(crate) fn policy_text(classes: &[Class], role: Role, more: &str) -> String {
    let mut text = "[home_agent]\naddress = \"2001:db8:2000::1\"\nhome_link = \"2001:db8:2000::/64\"\n".to_owned();
    let guest = "[[guest]]\nname = \"vm1\"\nhome_address = \"2001:db8:2000::10\"\n";
    text += match role {
        Role::HomeAgent => "interface = \"eth0\"\n",
        Role::MobileNode => "",
    };
    text += guest;
    if role == Role::MobileNode {
        text += "mac = \"52:54:00:00:00:10\"\nport = { bridge = \"br-home\" }\n";
    }
    for class in classes {
        let reqid = spi(*class, Toward::HomeAgent) - 0x0fff;
        text += &format!("[guest.protect.{class}]\nreqid = {{ to_home_agent = {reqid}, to_guest = {} }}\n", reqid + 1);
    }
    for class in classes {
        for toward in Toward::BOTH {
            text += &format!(
                "[[guest.security_association]]\nclass = \"{class}\"\ndirection = \"{toward}\"\nspi = {:#x}\n\
                 encryption = {{ algorithm = \"aes-cbc\", key_file = \"keys/{class}-{toward}.enc\" }}\n\
                 integrity = {{ algorithm = \"hmac-sha256-128\", key_file = \"keys/{class}-{toward}.auth\" }}\n{more}",
                spi(*class, toward)
            );
        }
    }
    text
}

/// The policy of one side with these classes, written into the directory of the scenario.
pub(crate) fn policy_file(lab: &Lab, classes: &[Class], role: Role, more: &str) -> Outcome<std::path::PathBuf> {
    let name = if role == Role::HomeAgent { "home-agent.toml" } else { "host.toml" };
    lab.policy(name, &policy_text(classes, role, more))
}

impl<'lab> Bench<'lab> {
    /// Both kernels hold what a binding of the guest at its first care-of address needs.
    pub(crate) fn new(lab: &'lab Lab, class: Class) -> Outcome<Self> {
        Self::beginning_at(lab, class, "", 0)
    }

    /// The same with `more` in each security association, and numbers from `first` on.
    fn beginning_at(lab: &'lab Lab, class: Class, more: &str, first: u64) -> Outcome<Self> {
        let spare = match class {
            Class::HomeRegistration => Class::MobilePrefixDiscovery,
            Class::TunnelPayload => Class::ReturnRoutability,
            tunnel if tunnel.is_tunnel() => Class::TunnelPayload,
            // Those of registrations are as good for all mobility headers, and those of all mobility headers are none of `any`.
            Class::MobilityHeaders => Class::MobilePrefixDiscovery,
            Class::Any => Class::MobilityHeaders,
            _ => Class::HomeRegistration,
        };
        let mut classes = vec![Class::HomeRegistration, class, spare];
        classes.sort_unstable();
        classes.dedup();
        let load = |role| -> Outcome<Configuration> {
            let file = policy_file(lab, &classes, role, more)?;
            let policy = load_policy(role, &file).during(|| file.display().to_string())?;
            Ok(Configuration::from(&policy))
        };
        let (host, agent) = (load(Role::MobileNode)?, load(Role::HomeAgent)?);
        let (care_of, epochs, cookie) = (Cell::new(CARE_OF), Default::default(), Cell::new(0x4b61_6765_0000_0000));
        let bench = Self { lab, class, spare, host, agent, care_of, first, epochs, cookie };
        bench.links()?;
        bench.right_on_both_sides()?;
        Ok(bench)
    }

    /// The host's side alone, with umip's home agent as the other one: it has nothing but our export, and the guest is registered with it.
    pub(crate) fn beside_umip(lab: &'lab Lab, class: Class) -> Outcome<(Self, umip::Umip<'lab>)> {
        let registration = Class::HomeRegistration;
        let classes = [registration, class];
        let file = policy_file(lab, &classes, Role::MobileNode, "")?;
        let policy = load_policy(Role::MobileNode, &file).during(|| file.display().to_string())?;
        let peer = umip::start_home_agent_from_export(lab, &file)?;
        let (host, agent) = (Configuration::from(&policy), Configuration::from(&policy));
        let (care_of, epochs, cookie) = (Cell::new(CARE_OF), Default::default(), Cell::new(0x4b61_6765_0000_0000));
        let bench = Self { lab, class, spare: registration, host, agent, care_of, first: 0, epochs, cookie };
        bench.host_links()?;
        bench.apply(Role::MobileNode, |_| {}, |_| {})?;
        bench.register()?;
        Ok((bench, peer))
    }

    /// Binding updates, as the daemon sends them, until one is acknowledged.
    fn register(&self) -> Outcome {
        let mut foreign = self.lab.watch(FOREIGN)?;
        send_binding_update(&self.lab.net.host, self.care_of.get())?;
        let (there, back) = (Toward::HomeAgent, Toward::Guest);
        let spis = (spi(Class::HomeRegistration, there), spi(Class::HomeRegistration, back));
        protected_registration(&mut foreign, self.care_of.get(), GUEST, spis, FIRST_REGISTRATION * 2)
    }

    /// A right packet goes to the home agent under its association. Its kernel takes it when it knows no types of mobility headers (from 6.7 on);
    /// up to 6.6 it looks for the type where none is, and drops the packet (`XfrmInNoPols` or `XfrmInTmplMismatch`).
    pub(crate) fn arrives_at_umip(&self) -> Outcome {
        let (toward, home_agent) = (Toward::HomeAgent, &self.lab.net.ha);
        if release(home_agent)? >= (6, 7) {
            self.lab.step(&format!("{} {toward}: right packets arrive", self.class));
            return self.right_passes(toward, TRANSIT).map(drop);
        }
        self.lab.step(&format!("{} {toward}: right packets arrive, and are not recognised", self.class));
        let receiver = self.receiver(toward)?;
        let mut foreign = self.lab.watch(FOREIGN)?;
        let before = against_policy(home_agent)?;
        let cookie = self.send(toward)?;
        self.sees_esp(&mut foreign, toward, spi(self.class, toward))?;
        wait_until("the kernel of umip counts a packet against its policies", ARRIVES, || {
            Ok(against_policy(home_agent)? > before)
        })?;
        ensure(!receiver.gets(cookie, QUIET)?, || "it was accepted: this kernel sees the type".into())
    }

    /// What the daemons would make: the TUN links. In place of the host's, a cable that ends at the guest.
    fn links(&self) -> Outcome {
        let net = &self.lab.net;
        net.ha.command("ip", &["tuntap", "add", "dev", "kage-ha", "mode", "tun"])?;
        net.ha.ip("link set kage-ha up")?;
        self.host_links()
    }

    fn host_links(&self) -> Outcome {
        let net = &self.lab.net;
        if self.class != Class::TunnelPayload {
            net.host.command("ip", &["tuntap", "add", "dev", "kage-esp", "mode", "tun"])?;
            return net.host.ip("link set kage-esp up");
        }
        net.host.ip("link set vm1 down\nlink set vm1 nomaster\nlink set vm1 name kage-esp")?;
        net.host.sysctl("conf/kage-esp/disable_ipv6", "0")?;
        net.host.sysctl("conf/all/forwarding", "1")?;
        net.host.ip("link set kage-esp up\naddr add fe80::1/64 dev kage-esp nodad")?;
        net.guest.ip("route add default via fe80::1 dev eth0")
    }

    fn right_on_both_sides(&self) -> Outcome {
        let host = self.apply(Role::MobileNode, |_| {}, |_| {})?;
        let agent = self.apply(Role::HomeAgent, |_| {}, |_| {})?;
        let tunnels = host.iter().chain(&agent).filter(|step| step.starts_with("migrate ")).count();
        ensure(tunnels == 0 || self.care_of.get() != CARE_OF, || "a tunnel migrated at the first binding".into())
    }

    /// Makes the kernel of one side hold what its configuration, changed by `configure`, compiles to, changed by `change`. Gives the steps.
    fn apply(
        &self,
        role: Role,
        configure: impl FnOnce(&mut Configuration),
        change: impl FnOnce(&mut KernelState),
    ) -> Outcome<Vec<String>> {
        let [of_host, of_agent] = &self.epochs;
        let (node, mut configuration, epoch) = match role {
            Role::MobileNode => (&self.lab.net.host, self.host.clone(), of_host),
            Role::HomeAgent => (&self.lab.net.ha, self.agent.clone(), of_agent),
        };
        configure(&mut configuration);
        let bindings = Bindings([(GuestId(0), self.care_of.get())].into());
        let site = Site { uplink: Some("eth0".to_owned()), tunnel6_loaded: false };
        let mut desired = compile(&configuration, &bindings, &site);
        change(&mut desired);
        epoch.set(epoch.get() + 1);
        let start = ReplayState { output: self.first + epoch.get() * 1000, input: self.first };
        let all = configuration.guests.iter().flat_map(|guest| guest.protection.associations());
        let starts: BTreeMap<_, _> = all.map(|sa| (sa.key, start)).collect();
        node.run(move || -> Outcome<Vec<String>> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut reconciler = Reconciler::new(configuration).during(|| "netlink".into())?;
                reconciler.set_starts(starts);
                let report = reconciler.apply(&desired).await.during(|| "kernel state".into())?;
                Ok(report.steps.iter().map(ToString::to_string).collect())
            })
        })?
    }

    fn sender_role(toward: Toward) -> Role {
        if toward == Toward::HomeAgent { Role::MobileNode } else { Role::HomeAgent }
    }

    /// Who sends packets of the class that way, from and to where, and who receives them.
    fn route(&self, toward: Toward) -> (&'lab Node, Ipv6Addr, Ipv6Addr, &'lab Node) {
        let net = &self.lab.net;
        let guest = if self.class == Class::TunnelPayload { &net.guest } else { &net.host };
        match (toward, self.class.is_tunnel()) {
            (Toward::HomeAgent, false) => (&net.host, GUEST, HOME_AGENT, &net.ha),
            (Toward::HomeAgent, true) => (guest, GUEST, FAR, &net.far),
            (Toward::Guest, false) => (&net.ha, HOME_AGENT, GUEST, &net.host),
            (Toward::Guest, true) => (&net.far, FAR, GUEST, guest),
        }
    }

    fn protocol(&self) -> u8 {
        match self.class {
            Class::MobilePrefixDiscovery | Class::Icmpv6 => ICMPV6,
            Class::Any | Class::TunnelPayload => EXPERIMENT,
            _ => MOBILITY,
        }
    }

    /// A message of the class with a new cookie in it, its checksum still zero.
    fn message(&self, toward: Toward) -> (Vec<u8>, [u8; 8]) {
        self.cookie.set(self.cookie.get() + 1);
        let cookie = self.cookie.get().to_be_bytes();
        let there = toward == Toward::HomeAgent;
        let pick = |one: u8, other: u8| if there { one } else { other };
        let kind = match self.class {
            Class::HomeRegistration => pick(5, 6),
            Class::MobilePrefixDiscovery => pick(146, 147),
            Class::Icmpv6 => 200,
            Class::ReturnRoutability => pick(1, 3),
            _ => pick(2, 4),
        };
        let message = match self.protocol() {
            MOBILITY => [&[59, 2, kind, 0, 0, 0, 0, 0], &cookie[..], &[1, 6, 0, 0, 0, 0, 0, 0]].concat(),
            ICMPV6 => [&[kind, 0, 0, 0], &cookie[..]].concat(),
            _ => cookie.to_vec(),
        };
        (message, cookie)
    }

    /// Sends a message of the class as a program would. Refused by the kernel is fine: what counts is the wire.
    fn send(&self, toward: Toward) -> Outcome<[u8; 8]> {
        let (message, cookie) = self.message(toward);
        let (node, source, destination, _) = self.route(toward);
        let protocol = i32::from(self.protocol());
        let routing = (toward == Toward::Guest && !self.class.is_tunnel()).then(|| routing_header(self.care_of.get()));
        node.run(move || -> Outcome {
            let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::from(protocol)))?;
            socket.bind(&SocketAddrV6::new(source, 0, 0, 0).into()).during(|| format!("binding to {source}"))?;
            let address = SocketAddrV6::new(destination, 0, 0, 0).into();
            let buffers = [std::io::IoSlice::new(&message)];
            let header = MsgHdr::new().with_addr(&address).with_buffers(&buffers);
            let sent = match &routing {
                Some(control) => socket.sendmsg(&header.with_control(control), 0),
                None => socket.sendmsg(&header, 0),
            };
            match sent {
                Ok(_) => Ok(()),
                Err(error) if error.raw_os_error() == Some(libc::EPERM) => Ok(()),
                Err(error) => Err(error.into()),
            }
        })??;
        Ok(cookie)
    }

    /// A socket that gets what the class's receiver accepts.
    fn receiver(&self, toward: Toward) -> Outcome<Receiver> {
        let protocol = i32::from(self.protocol());
        let (.., node) = self.route(toward);
        let socket = node.run(move || -> Outcome<Socket> {
            let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::from(protocol)))?;
            socket.set_read_timeout(Some(Duration::from_millis(50)))?;
            Ok(socket)
        })??;
        Ok(Receiver(socket))
    }

    /// Right packets pass, as ESP with the right SPI on the foreign link. Gives them as seen on `link`.
    fn right_passes(&self, toward: Toward, link: &str) -> Outcome<Arc<Packet>> {
        let receiver = self.receiver(toward)?;
        let mut observer = self.lab.watch(if self.care_of.get() == CARE_OF { FOREIGN } else { FOREIGN2 })?;
        let mut wanted = if link == TRANSIT { self.lab.watch(TRANSIT)? } else { observer.clone() };
        let cookie = self.send(toward)?;
        self.sees_esp(&mut observer, toward, spi(self.class, toward))?;
        let seen = self.sees_esp(&mut wanted, toward, spi(self.class, toward))?;
        ensure(receiver.gets(cookie, ARRIVES)?, || {
            format!("{}: a right packet {toward} was not accepted", self.class)
        })?;
        Ok(seen)
    }

    fn sees_esp(&self, observer: &mut Observer, toward: Toward, spi: u32) -> Outcome<Arc<Packet>> {
        let (source, destination) = self.outer(toward);
        observer.must_see(&format!("ESP {spi:#x} {toward} of {}", self.class), ARRIVES, |packet| {
            packet.spi() == Some(spi) && packet.is_from_to(source, destination)
        })
    }

    /// The addresses on the foreign link.
    fn outer(&self, toward: Toward) -> (Ipv6Addr, Ipv6Addr) {
        match toward {
            Toward::HomeAgent => (self.care_of.get(), HOME_AGENT),
            Toward::Guest => (HOME_AGENT, self.care_of.get()),
        }
    }

    /// All that the class promises, in both directions.
    pub(crate) fn run(&self) -> Outcome {
        for toward in Toward::BOTH {
            self.lab.step(&format!("{} {toward}: right packets pass", self.class));
            let link = if toward == Toward::HomeAgent { TRANSIT } else { FOREIGN };
            let seen = self.right_passes(toward, link)?;
            self.lab.step("plaintext is not accepted");
            self.plaintext(toward, &seen)?;
            self.lab.step("truncated, altered and replayed packets are not accepted");
            self.damaged(toward)?;
            self.lab.step("another key, another SPI, another reqid are not accepted");
            self.wrong_associations(toward)?;
        }
        self.lab.step("without its policy nothing leaves in the clear");
        self.failsafe()?;
        self.moves()
    }

    /// What anybody could send in the clear, to the hardware address that `esp` went to.
    fn plaintext(&self, toward: Toward, esp: &Packet) -> Outcome {
        let (_, source, destination, _) = self.route(toward);
        let receiver = self.receiver(toward)?;
        let mut cookies = Vec::new();
        let mut frames = Vec::new();
        for disguise in Disguise::ALL {
            let (mut message, cookie) = self.message(toward);
            let at = if self.protocol() == MOBILITY { 4 } else { 2 };
            if self.protocol() != EXPERIMENT {
                let sum = craft::checksum(source, destination, self.protocol(), &message);
                message[at..at + 2].copy_from_slice(&sum.to_be_bytes());
            }
            if self.class.is_tunnel() && disguise != Disguise::None {
                continue;
            }
            let ends = (source, destination, self.care_of.get());
            let packet = disguise.packet(toward, ends, self.protocol(), &message);
            let (to, from) = (esp.ether_destination, esp.ether_source);
            frames.push(craft::frame(to, from, &packet));
            cookies.push(cookie);
        }
        self.inject(toward, frames)?;
        for cookie in cookies {
            ensure(!receiver.gets(cookie, QUIET)?, || format!("{}: plaintext {toward} was accepted", self.class))?;
        }
        Ok(())
    }

    /// Puts frames on the link of the receiver's side, from the router there.
    fn inject(&self, toward: Toward, frames: Vec<Vec<u8>>) -> Outcome {
        let interface = match (toward, self.care_of.get() == CARE_OF) {
            (Toward::HomeAgent, _) => "eth0",
            (Toward::Guest, true) => "eth1",
            (Toward::Guest, false) => "eth2",
        };
        craft::send_frames(&self.lab.net.core, interface, frames)
    }

    /// A packet that was sent and is held up on its way: its cookie, and its frame.
    fn held_up(&self, toward: Toward) -> Outcome<([u8; 8], Vec<u8>)> {
        let net = &self.lab.net;
        let (node, interface, link) = match toward {
            Toward::HomeAgent => (&net.ha, "eth1", TRANSIT),
            Toward::Guest => (&net.host, "eth0", FOREIGN),
        };
        let mut observer = self.lab.watch(link)?;
        net.unplug(node, interface)?;
        let cookie = self.send(toward)?;
        let seen = self.sees_esp(&mut observer, toward, spi(self.class, toward));
        net.plug(node, interface, link)?;
        Ok((cookie, seen?.frame.clone()))
    }

    /// A packet is held up on its way; then the receiver gets it damaged, whole, and once more.
    fn damaged(&self, toward: Toward) -> Outcome {
        let receiver = self.receiver(toward)?;
        let (cookie, frame) = self.held_up(toward)?;
        let damaged = damaged_forms(&frame);
        self.inject(toward, damaged)?;
        ensure(!receiver.gets(cookie, QUIET)?, || format!("{}: a damaged packet {toward} was accepted", self.class))?;
        self.inject(toward, vec![frame.clone()])?;
        ensure(receiver.gets(cookie, ARRIVES)?, || {
            format!(
                "{}: the whole packet {toward} was not accepted, so that the damaged ones prove nothing",
                self.class
            )
        })?;
        self.inject(toward, vec![frame.clone(), frame])?;
        ensure(!receiver.gets(cookie, QUIET)?, || format!("{}: a replayed packet {toward} was accepted", self.class))
    }

    /// The sender protects with what the receiver must not take.
    fn wrong_associations(&self, toward: Toward) -> Outcome {
        let role = Self::sender_role(toward);
        let (class, spare) = (self.class, self.spare);
        let this = move |sa: &SecurityAssociation| sa.key.spi == spi(class, toward);
        let other_key = move |state: &mut KernelState| {
            for sa in state.associations.values_mut().filter(|sa| this(sa)) {
                let Transform::Esp(esp) = &mut sa.transform else { continue };
                if let Some((_, key)) = &mut esp.integrity {
                    *key = SecretKey::new(vec![0x5a; key.length()]);
                }
            }
        };
        self.must_be_refused("another key", toward, spi(class, toward), |_| {}, other_key)?;
        let other_spi = move |state: &mut KernelState| {
            let found: Vec<_> = state.associations.values().filter(|sa| this(sa)).cloned().collect();
            for mut sa in found {
                state.associations.remove(&sa.key);
                sa.key.spi = 0x7777;
                state.associations.insert(sa.key, sa);
            }
        };
        self.must_be_refused("another SPI", toward, 0x7777, |_| {}, other_spi)?;
        let other_reqid = move |configuration: &mut Configuration| {
            for guest in &mut configuration.guests {
                let classes = &mut guest.protection.classes;
                if let (Some(one), Some(other)) = (classes.get(&class).copied(), classes.get(&spare).copied()) {
                    classes.insert(class, other);
                    classes.insert(spare, one);
                }
            }
        };
        self.must_be_refused("another reqid", toward, spi(spare, toward), other_reqid, |_| {})?;
        self.apply(role, |_| {}, |_| {})?;
        self.right_passes(toward, FOREIGN)?;
        Ok(())
    }

    fn must_be_refused(
        &self,
        what: &str,
        toward: Toward,
        spi: u32,
        configure: impl FnOnce(&mut Configuration),
        change: impl FnOnce(&mut KernelState),
    ) -> Outcome {
        self.apply(Self::sender_role(toward), configure, change).during(|| what.to_owned())?;
        let receiver = self.receiver(toward)?;
        let mut observer = self.lab.watch(FOREIGN)?;
        let cookie = self.send(toward)?;
        self.sees_esp(&mut observer, toward, spi).during(|| what.to_owned())?;
        ensure(!receiver.gets(cookie, QUIET)?, || format!("{}: {what} {toward} was accepted", self.class))
    }

    /// The policies of the class are taken away: nothing of it leaves the host.
    fn failsafe(&self) -> Outcome {
        let only_failsafe = |state: &mut KernelState| {
            state.policies.retain(|key, _| key.priority == FAILSAFE_PRIORITY);
        };
        self.apply(Role::MobileNode, |_| {}, only_failsafe)?;
        let observer = self.lab.watch(FOREIGN)?;
        self.send(Toward::HomeAgent)?;
        observer.must_not_see("a packet of the guest, or ESP", QUIET, |packet| {
            packet.spi().is_some() || packet.addresses().any(|(source, _)| source == GUEST)
        })?;
        self.apply(Role::MobileNode, |_| {}, |_| {})?;
        self.right_passes(Toward::HomeAgent, FOREIGN)?;
        Ok(())
    }

    /// The host moves: what is in tunnels migrates, sequence numbers go on, and what is not does not notice.
    fn moves(&self) -> Outcome {
        self.lab.step("the host moves");
        let last: Vec<_> = Toward::BOTH.iter().map(|way| self.right_passes(*way, FOREIGN)).collect::<Outcome<_>>()?;
        self.lab.net.move_host()?;
        self.care_of.set(CARE_OF_AFTER_MOVE);
        for role in [Role::MobileNode, Role::HomeAgent] {
            let steps = self.apply(role, |_| {}, |_| {})?;
            let tunnels = [self.class, self.spare].into_iter().filter(|class| class.is_tunnel());
            let tunnels = tunnels.collect::<Vec<_>>();
            // What a host sends by type no kernel since 6.12 migrates: its policy is updated, and its SA goes on under another name.
            let by_type = usize::from(role == Role::MobileNode && tunnels.contains(&Class::ReturnRoutability));
            let count = |what: &dyn Fn(&str) -> bool| steps.iter().filter(|step| what(step)).count();
            let migrations = count(&|step| step.starts_with("migrate "));
            let moved = count(&|step| step.starts_with("move ESP SA"));
            let others = count(&|step| step.contains("ESP SA") && !step.starts_with("move "));
            ensure((migrations, moved, others) == (3 * tunnels.len() - by_type, by_type, 0), || {
                format!("{}: the move of the {role} took these steps: {}", self.class, steps.join("; "))
            })?;
        }
        for (toward, last) in Toward::BOTH.into_iter().zip(last) {
            let next = self.right_passes(toward, FOREIGN2)?;
            let sequence = |packet: &Packet| packet.esp_sequence().unwrap_or_default();
            ensure(sequence(&next) == sequence(&last) + 1, || {
                format!("{}: {toward} sequence number {} follows {}", self.class, sequence(&next), sequence(&last))
            })?;
        }
        self.nothing_readable()
    }

    /// Whatever happened, no link between the two sides has carried a packet of the class that the senders did not protect.
    fn nothing_readable(&self) -> Outcome {
        let host = self.lab.on(FOREIGN)?.observer_of_all();
        let cookie = 0x4b61_6765_u32.to_be_bytes();
        let injected = |packet: &Packet| packet.addresses().next().is_none_or(|(from, _)| from != CARE_OF);
        host.must_not_have_seen("a probe of the host in the clear", |packet| {
            !injected(packet) && packet.frame.windows(4).any(|four| four == cookie)
        })
    }
}

/// One end of a probe.
struct Receiver(Socket);

impl Receiver {
    /// Whether a packet with this cookie arrives.
    fn gets(&self, cookie: [u8; 8], within: Duration) -> Outcome<bool> {
        let deadline = Instant::now() + within;
        let mut buffer = [0; 2048];
        while Instant::now() < deadline {
            match (&self.0).read(&mut buffer) {
                Ok(length) => {
                    let packet = buffer.get(..length).unwrap_or_default();
                    if packet.windows(8).any(|eight| eight == cookie) {
                        return Ok(true);
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(Failure::new(format!("a probe: {error}"))),
            }
        }
        Ok(false)
    }
}

/// Ancillary data with a type 2 routing header (RFC 6275 §6.4, RFC 3542 §7).
fn routing_header(care_of: Ipv6Addr) -> Vec<u8> {
    let header = [&[0, 2, 2, 1, 0, 0, 0, 0][..], &care_of.octets()].concat();
    let length = size_of::<libc::cmsghdr>() + header.len();
    let mut out = length.to_ne_bytes().to_vec();
    out.extend(libc::IPPROTO_IPV6.to_ne_bytes());
    out.extend(libc::IPV6_RTHDR.to_ne_bytes());
    out.extend(header);
    out
}

/// An ESP frame cut and altered in many ways, with headers that tell the truth about its length, and ones that do not.
fn damaged_forms(frame: &[u8]) -> Vec<Vec<u8>> {
    const ETHERNET: usize = 14;
    const HEADERS: usize = ETHERNET + 40;
    let mut out = Vec::new();
    for cut in
        [1, 2, 4, 8, 16, 20, 32, frame.len().saturating_sub(HEADERS + 9), frame.len().saturating_sub(HEADERS + 4)]
    {
        let mut shorter = frame.get(..frame.len().saturating_sub(cut).max(HEADERS)).unwrap_or_default().to_vec();
        out.push(shorter.clone());
        let length = u16::try_from(shorter.len() - HEADERS).unwrap_or_default();
        shorter[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&length.to_be_bytes());
        out.push(shorter);
    }
    for behind in [1, 16, 17, 33] {
        let mut altered = frame.to_vec();
        if let Some(octet) = frame.len().checked_sub(behind).and_then(|at| altered.get_mut(at)) {
            *octet ^= 1;
        }
        out.push(altered);
    }
    out
}

/// Our daemon on the host registers under `registration`, and umip's home agent has what `kagemusha policy export` wrote for it.
pub(crate) fn with_umip<'lab>(
    lab: &'lab Lab,
    classes: &[Class],
    registration: Class,
) -> Outcome<(crate::process::Daemon<'lab>, umip::Umip<'lab>)> {
    let mut foreign = lab.watch(FOREIGN)?;
    let text = policy_text(classes, Role::MobileNode, "");
    let file = lab.policy("host.toml", &text)?;
    let peer = umip::start_home_agent_from_export(lab, &file)?;
    let mobile_node = lab.start_mobile_node(&lab.net.host, &text)?;
    lab.step(&format!("registration under {registration}"));
    let spis = (spi(registration, Toward::HomeAgent), spi(registration, Toward::Guest));
    protected_registration(&mut foreign, CARE_OF, GUEST, spis, FIRST_REGISTRATION * 2)?;
    lab.wait_for_router(&lab.net.guest)?;
    lab.ping(&lab.net.guest, CORRESPONDENT)?;
    lab.ping(&lab.net.cn, GUEST)?;
    Ok((mobile_node, peer))
}

/// How many packets came out of ESP that no policy wants, or not so.
fn against_policy(node: &Node) -> Outcome<u64> {
    let statistics = node.command("cat", &["/proc/net/xfrm_stat"])?;
    let counts = ["XfrmInNoPols", "XfrmInTmplMismatch"].map(|name| {
        let line = statistics.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|count| count.trim().parse::<u64>().ok())
    });
    let sum = counts.into_iter().sum::<Option<u64>>();
    sum.ok_or_else(|| Failure::new(format!("no XfrmInNoPols or XfrmInTmplMismatch in: {statistics}")))
}

/// Version and patch level of the kernel, such as (6, 12).
fn release(node: &Node) -> Outcome<(u32, u32)> {
    let release = node.read("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(version)), Some(Ok(patch_level))) => Ok((version, patch_level)),
        _ => Err(Failure::new(format!("the kernel calls itself {release:?}"))),
    }
}
