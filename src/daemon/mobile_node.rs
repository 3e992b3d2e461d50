//! The event loop of the mobile-node role: it joins the signaling engine, the pseudo home networks, the reconciler of kernel state and the
//! packet path, and decides nothing itself.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv6Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use super::kernel::Kernel;
use super::mobility_socket::MobilitySocket;
use super::netlink::monitor::Monitor;
use super::netlink::route::Uplink;
use super::packet_path::{PacketPath, Report, View};
use super::packet_socket::{Filter, PacketSocket};
use super::ports::{self, OpenPort};
use super::raw_socket::ReceiveBuffer;
use super::sequences::Ledger;
use super::shared::Shared;
use super::signals::{Signal, Signals};
use super::tunnel_socket::TunnelSocket;
use super::{Error, clock, sys};
use crate::home_network::{self, PseudoHomeNetwork};
use crate::kernel_state::Bindings;
use crate::policy::{GuestPolicy, Policy, RouterPolicy};
use crate::signaling::mobile_node::{Binding, Event, GuestConfig, MobileNode, Output};
use crate::tunnel::{self, Carrier, Counters, Entry, Table};
use crate::vocabulary::{Generation, GuestId, Lifetime, MacAddress};

/// Frames waiting for the event loop before the packet path drops them.
const REPORT_QUEUE: usize = 256;
/// How long the daemon waits for acknowledgements of its de-registrations before it leaves.
const FAREWELL: Duration = Duration::from_secs(8);
/// The loop looks again this often at what the kernel holds, even when no notification came.
const SCAN_INTERVAL: Duration = Duration::from_secs(30);

/// The running role.
struct Runner {
    policy: Policy,
    engine: MobileNode,
    networks: Vec<PseudoHomeNetwork>,
    ports: Vec<OpenPort>,
    kernel: Kernel,
    socket: MobilitySocket,
    path: PacketPath,
    uplink: Option<Uplink>,
    routed_packets: Option<(PacketSocket, AsyncFd<OwnedFd>)>,
    bindings: Bindings,
    carriers: BTreeMap<GuestId, Carrier>,
    inner_mtus: BTreeMap<GuestId, usize>,
    /// Generations asked for and not yet in force.
    asked: Vec<(GuestId, Generation)>,
    /// When the wait for the last de-registrations ends.
    leaving: Option<Instant>,
    departed: BTreeSet<GuestId>,
}

/// Runs the role until a signal ends it.
///
/// # Errors
/// When it cannot start or go on; nothing stays behind then.
pub async fn run(policy: Policy, ledger: Ledger) -> Result<(), Error> {
    // Before anything can be sent: the failsafe.
    let mut kernel = Kernel::open(&policy, ledger).await?;
    let handle = kernel.reconciler().route().handle().clone();
    let ports = match ports::open(&handle, &policy).await {
        Ok(ports) => ports,
        Err(error) => {
            kernel.leave().await?;
            return Err(error.into());
        }
    };
    let (reports, received_reports) = mpsc::channel(REPORT_QUEUE);
    let (mut kernel, ports, result) = match Runner::start(policy, kernel, ports, reports) {
        Ok(mut runner) => {
            let result = runner.serve(received_reports).await;
            runner.report();
            (runner.kernel, runner.ports, result)
        }
        Err((kernel, ports, error)) => (kernel, ports, Err(error)),
    };
    kernel.leave().await?;
    ports::close(&handle, ports).await;
    tracing::info!("left");
    result
}

/// What the guests of a port are shown. One port is one link, so it has one router: that of its first guest.
fn network(policy: &Policy, port: &OpenPort) -> PseudoHomeNetwork {
    let attachments: Vec<_> = port
        .guests
        .iter()
        .filter_map(|id| Some((*id, policy.guests.get(id.0)?)))
        .filter_map(|(id, guest)| Some((id, guest, guest.attachment.as_ref()?)))
        .collect();
    let guests = attachments.iter().map(|(id, guest, attachment)| home_network::GuestConfig {
        autonomous: attachment.router.autonomous,
        ..home_network::GuestConfig::new(*id, guest.home_address, attachment.mac)
    });
    let home_agent = &policy.home_agent;
    let mut config = home_network::Config::new(home_agent.home_link, home_agent.address, guests.collect());
    if let Some((_, _, attachment)) = attachments.first() {
        config.router_link_local = attachment.router.link_local;
        config.router_mac = attachment.router.mac;
    }
    PseudoHomeNetwork::new(config)
}

impl Runner {
    /// Opens the sockets and starts the packet path; gives back what is to be taken down when that fails.
    #[expect(clippy::result_large_err, reason = "once in a process, and the error carries what must be closed")]
    fn start(
        policy: Policy,
        kernel: Kernel,
        ports: Vec<OpenPort>,
        reports: mpsc::Sender<Report>,
    ) -> Result<Self, (Kernel, Vec<OpenPort>, Error)> {
        let networks: Vec<_> = ports.iter().map(|port| network(&policy, port)).collect();
        let opened = MobilitySocket::open()
            .map_err(|source| Error::socket("a raw socket for mobility headers", source))
            .and_then(|socket| Ok((socket, packet_path(&policy, &ports, &networks, reports)?)));
        let (socket, path) = match opened {
            Ok(opened) => opened,
            Err(error) => return Err((kernel, ports, error)),
        };
        Ok(Self {
            engine: MobileNode::new(),
            networks,
            ports,
            kernel,
            socket,
            path,
            uplink: None,
            routed_packets: None,
            bindings: Bindings::default(),
            carriers: BTreeMap::new(),
            inner_mtus: BTreeMap::new(),
            asked: Vec::new(),
            leaving: None,
            departed: BTreeSet::new(),
            policy,
        })
    }

    /// Every guest of the policy is taken as present on its port: this host speaks for it from now on.
    async fn attach_all(&mut self) -> Result<(), Error> {
        let now = clock::now();
        for (index, guest) in self.policy.guests.iter().enumerate() {
            let id = GuestId(index);
            let last_sequence = self.kernel.ledger().binding_sequence(guest.home_address);
            self.engine.add_guest(
                id,
                GuestConfig {
                    home_address: guest.home_address,
                    home_agent: self.policy.home_agent.address,
                    lifetime: Lifetime::from_duration(guest.lifetime),
                    last_sequence,
                    key_management_mobility: self.policy.home_agent.key_management_mobility,
                },
            );
        }
        self.publish(now);
        self.look_at_uplink(now).await?;
        let care_of = self.care_of_address();
        for index in 0..self.policy.guests.len() {
            self.engine.attach(GuestId(index), care_of, now);
        }
        for (network, port) in self.networks.iter_mut().zip(&self.ports) {
            for guest in &port.guests {
                network.attached(*guest, now);
            }
        }
        self.publish(now);
        Ok(())
    }

    async fn serve(&mut self, mut reports: mpsc::Receiver<Report>) -> Result<(), Error> {
        let mut monitor = Monitor::open().map_err(|source| Error::socket("a netlink monitor", source))?;
        self.attach_all().await?;
        let mut signals = Signals::new().map_err(|source| Error::socket("signal handlers", source))?;
        let mobility = sys::watch(self.socket.as_fd()).map_err(|source| Error::socket("an event loop", source))?;
        let mut buffer = ReceiveBuffer::new(65_536);
        let mut next_scan = clock::now() + SCAN_INTERVAL;
        loop {
            self.pump().await?;
            let now = clock::now();
            if self.has_left(now) {
                return Ok(());
            }
            let deadline = self.deadline(next_scan);
            tokio::select! {
                signal = signals.next() => self.on_signal(signal, clock::now()),
                ready = mobility.readable() => {
                    let mut guard = ready.map_err(|source| Error::socket("an event loop", source))?;
                    self.receive_signaling(&mut buffer, clock::now());
                    guard.clear_ready();
                }
                report = reports.recv() => self.on_report(report, clock::now()),
                () = monitor.changed() => {
                    self.look_at_uplink(clock::now()).await?;
                    // Somebody may have changed what is ours.
                    self.reconcile(clock::now()).await;
                }
                () = readable(self.routed_packets.as_ref()) => self.receive_routed(),
                () = tokio::time::sleep_until(deadline.into()) => {
                    let now = clock::now();
                    self.engine.handle_timeout(now);
                    self.networks.iter_mut().for_each(|network| network.handle_timeout(now));
                    if now >= next_scan {
                        next_scan = now + SCAN_INTERVAL;
                        self.look_at_uplink(now).await?;
                        self.reconcile(now).await;
                        self.kernel.reserve()?;
                    }
                }
            }
        }
    }
}

/// Waits until `socket` is readable; for ever when there is none.
async fn readable(socket: Option<&(PacketSocket, AsyncFd<OwnedFd>)>) {
    match socket {
        Some((_, watch)) => {
            if let Ok(mut guard) = watch.readable().await {
                guard.clear_ready();
            }
        }
        None => std::future::pending().await,
    }
}

impl Runner {
    /// Does what the machines want done, until they want nothing more.
    async fn pump(&mut self) -> Result<(), Error> {
        loop {
            let now = clock::now();
            let mut progress = false;
            while let Some(output) = self.engine.poll_output() {
                progress = true;
                self.perform(output, now)?;
            }
            for (port, network) in self.networks.iter_mut().enumerate() {
                while let Some(output) = network.poll_output() {
                    progress = true;
                    match output {
                        home_network::Output::ToPort(frame) => write_frame(&self.ports, port, &frame),
                        home_network::Output::GuestSeen { guest, how } => {
                            tracing::info!(guest = name(&self.policy, guest), ?how, "the guest is there");
                        }
                    }
                }
            }
            if !self.asked.is_empty() {
                progress = true;
                self.reconcile(now).await;
            }
            if !progress {
                return Ok(());
            }
        }
    }

    fn perform(&mut self, output: Output, now: Instant) -> Result<(), Error> {
        match output {
            Output::Secure { generation, guest, care_of } => {
                match care_of {
                    Some(care_of) => self.bindings.0.insert(guest, care_of),
                    None => self.bindings.0.remove(&guest),
                };
                self.asked.push((guest, generation));
            }
            Output::Transmit { after: _, guest, sequence, source, destination, message } => {
                // On disk before it leaves, so that no restart uses it twice.
                self.kernel.ledger().keep_binding_sequence(source, sequence)?;
                // Success does not say that a packet left: without an SA the kernel drops it in silence. Only an acknowledgement tells.
                if let Err(error) = self.socket.send(source, destination, &message) {
                    tracing::warn!(guest = name(&self.policy, guest), %error, "a binding update was refused by the kernel");
                }
            }
            Output::Binding { guest, binding } => self.set_carrier(guest, binding, now),
            Output::Event { guest, event } => {
                tracing::info!(guest = name(&self.policy, guest), ?event, "signaling");
                if let Event::Deregistered(_) = event {
                    self.departed.insert(guest);
                }
            }
        }
        Ok(())
    }

    fn set_carrier(&mut self, guest: GuestId, binding: Option<Binding>, now: Instant) {
        match binding {
            Some(Binding { care_of, home_agent, .. }) => {
                self.carriers.insert(guest, Carrier { care_of, home_agent });
            }
            None => {
                self.carriers.remove(&guest);
            }
        }
        self.publish(now);
    }

    /// Brings the kernel to what the bindings ask for and tells the engine.
    async fn reconcile(&mut self, now: Instant) {
        let asked = std::mem::take(&mut self.asked);
        let uplink = self.uplink.as_ref().map(|uplink| uplink.name.as_str());
        match self.kernel.secure(&self.bindings, uplink).await {
            Ok(steps) => {
                for step in steps {
                    tracing::debug!("kernel: {step}");
                }
                if let Some(generation) = asked.iter().map(|(_, generation)| *generation).max() {
                    self.engine.applied(generation, now);
                }
            }
            Err(error) => {
                tracing::error!(%error, "the kernel does not hold what the policy asks for; nothing is sent until it does");
                for (guest, generation) in asked {
                    self.engine.securing_failed(guest, generation, now);
                }
            }
        }
    }

    fn care_of_address(&self) -> Option<Ipv6Addr> {
        let uplink = self.uplink.as_ref()?;
        Some(self.policy.uplink.care_of_address.unwrap_or(uplink.source))
    }

    /// Movement detection: the route to the home agent tells the uplink and the care-of address.
    async fn look_at_uplink(&mut self, now: Instant) -> Result<(), Error> {
        let before = self.care_of_address();
        let found = self.kernel.reconciler().route().route_to(self.policy.home_agent.address).await;
        let found = found.inspect_err(|error| tracing::warn!(%error, "cannot look up the route to the home agent"));
        let wanted = self.policy.uplink.interface.as_ref();
        let uplink = found.ok().flatten().filter(|uplink| wanted.is_none_or(|name| *name == uplink.name));
        if uplink == self.uplink {
            return Ok(());
        }
        let index_before = self.uplink.as_ref().map(|uplink| uplink.index);
        self.uplink = uplink;
        self.inner_mtus.clear();
        if self.uplink.as_ref().map(|uplink| uplink.index) != index_before {
            self.open_routed_packets()?;
        }
        let care_of = self.care_of_address();
        if care_of != before {
            match (&self.uplink, care_of) {
                (Some(uplink), Some(care_of)) => {
                    tracing::info!(interface = uplink.name, care_of_address = %care_of, "attached to a foreign link");
                }
                _ => tracing::warn!("no route to the home agent: waiting for one"),
            }
            for guest in 0..self.policy.guests.len() {
                self.engine.care_of_changed(GuestId(guest), care_of, now);
            }
        }
        self.publish(now);
        Ok(())
    }

    fn open_routed_packets(&mut self) -> Result<(), Error> {
        self.routed_packets = None;
        if let Some(uplink) = &self.uplink {
            let failed = |source| Error::socket("a packet socket on the uplink", source);
            let socket = PacketSocket::open(uplink.index, Filter::Type2RoutingHeader).map_err(failed)?;
            let watch = sys::watch(socket.as_fd()).map_err(failed)?;
            self.routed_packets = Some((socket, watch));
        }
        Ok(())
    }

    /// Gives the packet path a new table.
    fn publish(&mut self, now: Instant) {
        let path_mtu = self.uplink.as_ref().map_or(1500, |uplink| uplink.mtu as usize);
        let mut entries = Vec::new();
        for (port, open) in self.ports.iter().enumerate() {
            let link_mtu = open.mtu as usize;
            let mut smallest = tunnel::inner_mtu(path_mtu).min(link_mtu);
            for id in &open.guests {
                let Some(guest) = self.policy.guests.get(id.0) else { continue };
                let mtu = self.inner_mtus.get(id).copied().unwrap_or(usize::MAX).min(tunnel::inner_mtu(path_mtu));
                smallest = smallest.min(mtu);
                entries.extend(self.entry(*id, guest, port, mtu, link_mtu));
            }
            if let Some(network) = self.networks.get_mut(port) {
                network.set_mtu(u32::try_from(smallest).unwrap_or(u32::MAX), now);
            }
        }
        self.path.view.replace(view(&self.policy, &self.ports, &self.networks, Table::new(entries)));
    }

    fn entry(&self, id: GuestId, guest: &GuestPolicy, port: usize, mtu: usize, link_mtu: usize) -> Option<Entry> {
        let attachment = guest.attachment.as_ref()?;
        Some(Entry {
            guest: id,
            home_address: guest.home_address,
            home_agent: self.policy.home_agent.address,
            mac: attachment.mac,
            port,
            carrier: self.carriers.get(&id).copied(),
            mtu,
            link_mtu,
            router: attachment.router.link_local,
        })
    }

    fn on_report(&mut self, report: Option<Report>, now: Instant) {
        match report {
            Some(Report::Frame { port, frame }) => {
                if let Some(network) = self.networks.get_mut(port) {
                    network.handle_frame(&frame, now);
                }
            }
            Some(Report::PathMtu { guest, mtu }) => {
                let inner = tunnel::inner_mtu(mtu as usize);
                if self.inner_mtus.insert(guest, inner) != Some(inner) {
                    tracing::info!(
                        guest = name(&self.policy, guest),
                        path_mtu = mtu,
                        "the path to the home agent is narrower"
                    );
                    self.publish(now);
                }
            }
            None => {}
        }
    }

    fn receive_signaling(&mut self, buffer: &mut ReceiveBuffer, now: Instant) {
        loop {
            match self.socket.receive(buffer) {
                Ok(arrival) => self.engine.handle_message(arrival.source, arrival.destination, arrival.message, now),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
                // An ICMPv6 error about a binding update: the retransmission timer deals with it.
                Err(error) => {
                    tracing::debug!(%error, "the mobility socket reports");
                    return;
                }
            }
        }
    }

    fn receive_routed(&mut self) {
        let Some((socket, _)) = &self.routed_packets else { return };
        let mut buffer = vec![0; 65_536];
        let mut view = self.path.view.reader();
        while let Ok(length) = socket.receive(&mut buffer) {
            if let Some(packet) = buffer.get_mut(..length) {
                self.path.routed(view.get(), packet);
            }
        }
    }

    fn on_signal(&mut self, signal: Signal, now: Instant) {
        match signal {
            Signal::Report => self.report(),
            Signal::Leave if self.leaving.is_some() => self.leaving = Some(now),
            Signal::Leave => {
                tracing::info!("leaving: de-registering every guest");
                self.leaving = Some(now + FAREWELL);
                for guest in 0..self.policy.guests.len() {
                    self.engine.deregister(GuestId(guest), now);
                }
            }
        }
    }

    fn has_left(&self, now: Instant) -> bool {
        self.leaving.is_some_and(|deadline| now >= deadline || self.departed.len() == self.policy.guests.len())
    }

    fn deadline(&self, next_scan: Instant) -> Instant {
        let engine = self.engine.poll_timeout().map(|(at, _)| at);
        let networks = self.networks.iter().filter_map(|network| network.poll_timeout().map(|(at, _)| at));
        networks.chain(engine).chain(self.leaving).fold(next_scan, Instant::min)
    }

    /// Writes every counter that is not zero to the log.
    fn report(&self) {
        super::report::tunnel(&self.path.counters);
        self.path.frames.iter().for_each(|counters| super::report::frames(counters));
        tracing::info!("counters: signaling {:?}", self.engine.counters());
    }
}

/// Starts the threads between the ports and the tunnel.
fn packet_path(
    policy: &Policy,
    ports: &[OpenPort],
    networks: &[PseudoHomeNetwork],
    reports: mpsc::Sender<Report>,
) -> Result<PacketPath, Error> {
    let tunnel = TunnelSocket::open().map_err(|source| Error::socket("a raw socket for IPv6 in IPv6", source))?;
    let path = PacketPath {
        socket: Arc::new(tunnel),
        view: Shared::new(view(policy, ports, networks, Table::new([]))),
        counters: Arc::new(Counters::new()),
        frames: networks.iter().map(PseudoHomeNetwork::counters).collect(),
        reports,
    };
    let thread = |source| Error::socket("a thread", source);
    for (number, port) in ports.iter().enumerate() {
        path.start_port(number, Arc::clone(&port.device)).map_err(thread)?;
    }
    path.start_tunnel().map_err(thread)?;
    Ok(path)
}

fn view(policy: &Policy, ports: &[OpenPort], networks: &[PseudoHomeNetwork], table: Table) -> View {
    View {
        table,
        ports: networks.iter().map(PseudoHomeNetwork::guests).collect(),
        devices: ports.iter().map(|port| Arc::clone(&port.device)).collect(),
        router_macs: router_macs(policy, ports),
    }
}

fn router_macs(policy: &Policy, ports: &[OpenPort]) -> Vec<MacAddress> {
    let first = |port: &OpenPort| policy.guests.get(port.guests.first()?.0)?.attachment.as_ref();
    ports.iter().map(|port| first(port).map_or(RouterPolicy::DEFAULT_MAC, |attachment| attachment.router.mac)).collect()
}

fn write_frame(ports: &[OpenPort], port: usize, frame: &[u8]) {
    let Some(open) = ports.get(port) else { return };
    let parts = [io::IoSlice::new(&[0; super::tap::VNET_HEADER_LENGTH]), io::IoSlice::new(frame)];
    if let Err(error) = open.device.write_parts(&parts) {
        tracing::debug!(%error, device = open.device.name(), "a frame could not be written to the port");
    }
}

fn name(policy: &Policy, guest: GuestId) -> &str {
    policy.guests.get(guest.0).map_or("?", |guest| guest.name.as_str())
}
