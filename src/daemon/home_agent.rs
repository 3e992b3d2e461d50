//! The event loop of the home-agent role: signaling under ESP, neighbour discovery for the guests on the home link, and the tunnel.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::kernel::Kernel;
use super::mobility_socket::MobilitySocket;
use super::packet_socket::{Filter, PacketSocket};
use super::ports::{self, EthernetLink};
use super::raw_socket::ReceiveBuffer;
use super::sequences::Ledger;
use super::shared::Shared;
use super::signals::{Signal, Signals};
use super::tap::{self, Device, VNET_HEADER_LENGTH};
use super::tunnel_socket::{Sent, TunnelSocket};
use super::{Error, clock, sys};
use crate::kernel_state::{Bindings, HOME_AGENT_TUNNEL_LINK};
use crate::policy::Policy;
use crate::signaling::home_agent::{Config, HomeAgent, Output, Received};
use crate::tunnel::home_agent::{from_mobile_node, to_mobile_node};
use crate::tunnel::{
    Counters, Egress, ErrorLimits, HomeAgentEntry, HomeAgentTable, Ingress, Offload, Outer, Reason, inner_mtu, vnet,
};
use crate::vocabulary::{Generation, GuestId};
use crate::wire::ipv6;

/// The loop looks again this often at what the kernel holds.
const SCAN_INTERVAL: Duration = Duration::from_secs(30);
/// Longest packet read or received.
const PACKET_LIMIT: usize = 65_536;

struct Runner<'a> {
    policy: Policy,
    engine: HomeAgent,
    kernel: &'a mut Kernel,
    socket: MobilitySocket,
    home_link: PacketSocket,
    link: EthernetLink,
    /// Holds the multicast memberships for the home addresses' solicited-node groups.
    groups: Socket,
    bindings: Bindings,
    carriers: BTreeMap<GuestId, std::net::Ipv6Addr>,
    asked: Vec<(GuestId, Generation)>,
    table: Arc<Shared<HomeAgentTable>>,
    counters: Arc<Counters>,
}

/// Runs the role until a signal ends it.
///
/// # Errors
/// When it cannot start or go on; nothing stays behind then.
pub async fn run(policy: Policy, ledger: Ledger) -> Result<(), Error> {
    super::require_forwarding()?;
    let mut kernel = Kernel::open(&policy, ledger).await?;
    let result = serve(policy, &mut kernel).await;
    kernel.leave().await?;
    tracing::info!("left");
    result
}

async fn serve(policy: Policy, kernel: &mut Kernel) -> Result<(), Error> {
    let handle = kernel.reconciler().route().handle().clone();
    let interface = policy.home_agent.interface.as_deref().unwrap_or_default();
    let link = ports::ethernet_link(&handle, interface).await?;
    let tun = Arc::new(Device::tun(HOME_AGENT_TUNNEL_LINK).map_err(|source| Error::socket("the TUN", source))?);
    tap::no_link_local(tun.name()).map_err(|source| Error::socket("the TUN", source))?;
    ports::bring_up(&handle, tun.name(), inner_mtu(link.mtu as usize) as u32).await?;
    let socket = MobilitySocket::open().map_err(|source| Error::socket("a raw socket for mobility headers", source))?;
    let home_link = PacketSocket::open(link.index, Filter::NeighborDiscovery)
        .map_err(|source| Error::socket("a packet socket on the home link", source))?;
    let groups = Socket::new(Domain::IPV6, Type::DGRAM, None)
        .map_err(|source| Error::socket("a socket for multicast groups", source))?;
    let tunnel = TunnelSocket::open().map_err(|source| Error::socket("a raw socket for IPv6 in IPv6", source))?;
    let engine = HomeAgent::new(Config {
        address: policy.home_agent.address,
        home_link: policy.home_agent.home_link,
        link_layer_address: link.mac,
        maximum_lifetime: policy.home_agent.maximum_lifetime,
        detect_duplicates: policy.home_agent.detect_duplicates,
        maximum_bindings: policy.guests.len(),
        guests: policy.guests.iter().enumerate().map(|(i, guest)| (GuestId(i), guest.home_address)).collect(),
    });
    let mut runner = Runner {
        engine,
        kernel,
        socket,
        home_link,
        link,
        groups,
        bindings: Bindings::default(),
        carriers: BTreeMap::new(),
        asked: Vec::new(),
        table: Shared::new(HomeAgentTable::new(policy.home_agent.address, link.mtu as usize, [])),
        counters: Arc::new(Counters::new()),
        policy,
    };
    runner.start_packet_path(tunnel, tun)?;
    runner.join_groups();
    // The policies that let binding updates in.
    runner.reconcile(clock::now()).await;
    let result = runner.serve().await;
    runner.report();
    result
}

impl Runner<'_> {
    async fn serve(&mut self) -> Result<(), Error> {
        let mut signals = Signals::new().map_err(|source| Error::socket("signal handlers", source))?;
        let event_loop = |source| Error::socket("an event loop", source);
        let mobility = sys::watch(self.socket.as_fd()).map_err(event_loop)?;
        let neighbours = sys::watch(self.home_link.as_fd()).map_err(event_loop)?;
        let mut buffer = ReceiveBuffer::new(PACKET_LIMIT);
        let mut next_scan = clock::now() + SCAN_INTERVAL;
        loop {
            self.pump().await;
            let deadline = self.engine.poll_timeout().map_or(next_scan, |(at, _)| at.min(next_scan));
            tokio::select! {
                signal = signals.next() => match signal {
                    Signal::Leave => return Ok(()),
                    Signal::Report => self.report(),
                },
                ready = mobility.readable() => {
                    let mut guard = ready.map_err(event_loop)?;
                    self.receive_signaling(&mut buffer, clock::now());
                    guard.clear_ready();
                }
                ready = neighbours.readable() => {
                    let mut guard = ready.map_err(event_loop)?;
                    self.receive_neighbours(clock::now());
                    guard.clear_ready();
                }
                () = tokio::time::sleep_until(deadline.into()) => {
                    let now = clock::now();
                    self.engine.handle_timeout(now);
                    if now >= next_scan {
                        next_scan = now + SCAN_INTERVAL;
                        self.reconcile(now).await;
                        self.kernel.reserve()?;
                    }
                }
            }
        }
    }

    async fn pump(&mut self) {
        loop {
            let mut progress = false;
            while let Some(output) = self.engine.poll_output() {
                progress = true;
                self.perform(output);
            }
            if !self.asked.is_empty() {
                progress = true;
                self.reconcile(clock::now()).await;
            }
            if !progress {
                return;
            }
        }
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::Secure { generation, guest, care_of } => {
                match care_of {
                    Some(care_of) => self.bindings.0.insert(guest, care_of),
                    None => self.bindings.0.remove(&guest),
                };
                self.asked.push((guest, generation));
            }
            Output::Transmit { after: _, home_address, via_care_of, message } => {
                let source = self.policy.home_agent.address;
                let sent = match via_care_of {
                    Some(care_of) => self.socket.send_via(source, home_address, care_of, &message),
                    None => self.socket.send(source, home_address, &message),
                };
                if let Err(error) = sent {
                    tracing::warn!(%home_address, %error, "a binding acknowledgement was refused by the kernel");
                }
            }
            Output::HomeLinkFrame(frame) => {
                if let Err(error) = self.home_link.send(&frame) {
                    tracing::warn!(%error, "a neighbour discovery message could not be sent on the home link");
                }
            }
            Output::Binding { guest, binding } => {
                match binding {
                    Some(binding) => self.carriers.insert(guest, binding.care_of),
                    None => self.carriers.remove(&guest),
                };
                self.publish();
            }
            Output::Event { guest, event } => {
                let guest = self.policy.guests.get(guest.0).map_or("?", |guest| guest.name.as_str());
                tracing::info!(guest, ?event, "signaling");
            }
        }
    }

    async fn reconcile(&mut self, now: Instant) {
        let asked = std::mem::take(&mut self.asked);
        match self.kernel.secure(&self.bindings, None).await {
            Ok(steps) => {
                for step in steps {
                    tracing::debug!("kernel: {step}");
                }
                if let Some(generation) = asked.iter().map(|(_, generation)| *generation).max() {
                    self.engine.applied(generation, now);
                }
            }
            Err(error) => {
                tracing::error!(%error, "the kernel does not hold what the policy asks for");
                for (guest, generation) in asked {
                    self.engine.securing_failed(guest, generation, now);
                }
            }
        }
    }

    fn publish(&self) {
        let mtu = inner_mtu(self.link.mtu as usize);
        let entries = self.policy.guests.iter().enumerate().map(|(index, guest)| HomeAgentEntry {
            guest: GuestId(index),
            home_address: guest.home_address,
            care_of: self.carriers.get(&GuestId(index)).copied(),
            mtu,
        });
        self.table.replace(HomeAgentTable::new(self.policy.home_agent.address, self.link.mtu as usize, entries));
    }

    /// Neighbours ask for a home address by its solicited-node group; without membership a switch or a network card may keep that from us.
    fn join_groups(&self) {
        for guest in &self.policy.guests {
            let group = ipv6::solicited_node_multicast(guest.home_address);
            if let Err(error) = self.groups.join_multicast_v6(&group, self.link.index)
                && error.raw_os_error() != Some(libc::EADDRINUSE)
            {
                tracing::warn!(%group, %error, "cannot join the multicast group that neighbours of the guest use");
            }
        }
    }

    fn receive_signaling(&mut self, buffer: &mut ReceiveBuffer, now: Instant) {
        loop {
            match self.socket.receive(buffer) {
                Ok(arrival) => {
                    let received = Received {
                        source: arrival.source,
                        destination: arrival.destination,
                        care_of: arrival.care_of_address,
                    };
                    self.engine.handle_binding_update(received, arrival.message, now);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
                Err(error) => {
                    tracing::debug!(%error, "the mobility socket reports");
                    return;
                }
            }
        }
    }

    fn receive_neighbours(&mut self, now: Instant) {
        let mut frame = [0; 2048];
        while let Ok(length) = self.home_link.receive(&mut frame) {
            if let Some(frame) = frame.get(..length) {
                self.engine.handle_home_link_frame(frame, now);
            }
        }
    }

    fn report(&self) {
        super::report::tunnel(&self.counters);
        tracing::info!("counters: signaling {:?}", self.engine.counters());
    }

    fn start_packet_path(&self, tunnel: TunnelSocket, tun: Arc<Device>) -> Result<(), Error> {
        let tunnel = Arc::new(tunnel);
        let path = Path { tunnel, tun, table: Arc::clone(&self.table), counters: Arc::clone(&self.counters) };
        let other = path.clone();
        let thread = |name: &str| thread::Builder::new().name(name.to_owned());
        thread("to-guests").spawn(move || path.run_to_guests()).map_err(|source| Error::socket("a thread", source))?;
        thread("from-guests")
            .spawn(move || other.run_from_guests())
            .map_err(|source| Error::socket("a thread", source))?;
        Ok(())
    }
}

/// The packet path: between the TUN that the kernel routes bound home addresses to, and the tunnel.
#[derive(Clone)]
struct Path {
    tunnel: Arc<TunnelSocket>,
    tun: Arc<Device>,
    table: Arc<Shared<HomeAgentTable>>,
    counters: Arc<Counters>,
}

impl Path {
    fn run_to_guests(&self) {
        let mut table = self.table.reader();
        let mut limits = ErrorLimits::default();
        let mut buffer = vec![0; VNET_HEADER_LENGTH + PACKET_LIMIT];
        loop {
            match self.tun.read(&mut buffer) {
                Ok(length) => {
                    if let Some(packet) = buffer.get_mut(VNET_HEADER_LENGTH..length) {
                        self.to_guest(table.get(), packet, &mut limits);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The interface is down for a moment; `read` says so at once, each time.
                Err(error) if error.raw_os_error() == Some(libc::EIO) => thread::sleep(Duration::from_millis(50)),
                Err(error) => {
                    tracing::error!(%error, "cannot read from the TUN any more");
                    return;
                }
            }
        }
    }

    fn to_guest(&self, table: &HomeAgentTable, packet: &mut [u8], limits: &mut ErrorLimits) {
        let decision = to_mobile_node(table, packet, limits, clock::now());
        self.counters.count_ingress(&decision);
        match decision {
            Ingress::Forward(forward) => {
                let sent = self.tunnel.send(forward.source, forward.destination, forward.traffic_class, forward.packet);
                if let Sent::No(_) | Sent::TooBig(_) = sent {
                    tracing::debug!(?sent, "a packet could not be sent through the tunnel");
                    self.counters.count(Reason::SendFailed);
                }
            }
            Ingress::Answer { packet, .. } => self.write(None, &packet),
            Ingress::Drop(_) => {}
        }
    }

    fn run_from_guests(&self) {
        let mut table = self.table.reader();
        let mut buffer = ReceiveBuffer::new(PACKET_LIMIT);
        loop {
            match self.tunnel.receive(&mut buffer) {
                Ok(arrival) => {
                    let outer = Outer {
                        source: arrival.source,
                        destination: arrival.destination,
                        traffic_class: arrival.traffic_class,
                    };
                    let decision = from_mobile_node(table.get(), outer, arrival.packet);
                    self.counters.count_egress(&decision);
                    if let Egress::Deliver(deliver) = decision {
                        self.write(deliver.offload.as_ref(), deliver.packet);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::InvalidData => self.counters.count(Reason::BadHeader),
                Err(error) => tracing::debug!(%error, "the tunnel socket reports"),
            }
        }
    }

    fn write(&self, offload: Option<&Offload>, packet: &[u8]) {
        let header = vnet::header(offload, 0);
        if let Err(error) = self.tun.write_parts(&[IoSlice::new(&header), IoSlice::new(packet)]) {
            tracing::debug!(%error, "a packet could not be written to the TUN");
            self.counters.count(Reason::SendFailed);
        }
    }
}
