//! The event loop of the home-agent role: signaling under ESP, neighbour discovery for the guests on the home link, and the tunnel.

pub(super) mod path;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use super::engine::core::Core;
use super::engine::{Accelerate, accelerator, super_packet};
use super::kernel::Kernel;
use super::mobility_socket::MobilitySocket;
use super::netlink::monitor::Monitor;
use super::pace::{self, Drained};
use super::packet_socket::{Filter, PacketSocket};
use super::ports::{self, EthernetLink};
use super::raw_socket::ReceiveBuffer;
use super::sequences::Ledger;
use super::shared::Shared;
use super::signals::{Signal, Signals};
use super::tap::{self, Device};
use super::{Error, clock, sys};
use crate::kernel_state::{Bindings, HOME_AGENT_TUNNEL_LINK};
use crate::policy::{GuestPolicy, Policy};
use crate::signaling::home_agent::{Config, Event, HomeAgent, Output, Received};
use crate::tunnel::{HomeAgentEntry, HomeAgentTable, inner_mtu};
use crate::vocabulary::{Generation, GuestId};
use crate::wire::ipv6;
use path::Path;

/// The loop looks again this often at what the kernel holds.
const SCAN_INTERVAL: Duration = Duration::from_secs(30);
/// ... and this long after the kernel refused something.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// Memberships of one socket: the kernel takes their memory from the socket's allowance (`net.core.optmem_max`).
const GROUPS_PER_SOCKET: usize = 64;
/// Longest packet read or received.
const PACKET_LIMIT: usize = 65_536;

/// The ear and the mouth on the home link.
struct HomeLink {
    socket: PacketSocket,
    watch: AsyncFd<OwnedFd>,
    link: EthernetLink,
    /// Hold the multicast memberships for the home addresses' solicited-node groups.
    _groups: Vec<Socket>,
}

struct Runner<'a> {
    policy: Policy,
    engine: HomeAgent,
    kernel: &'a mut Kernel,
    socket: MobilitySocket,
    home_link: HomeLink,
    bindings: Bindings,
    carriers: BTreeMap<GuestId, std::net::Ipv6Addr>,
    asked: Vec<(GuestId, Generation)>,
    path: Path,
    next_scan: Instant,
}

/// Runs the role until a signal ends it.
///
/// # Errors
/// When it cannot start or go on, after everything was taken down; or when that did not work.
pub async fn run(policy: Policy, ledger: Ledger, accelerate: Accelerate) -> Result<(), Error> {
    super::require_forwarding()?;
    // From here on a signal is an event, and what was begun is taken down in good order.
    let mut signals = Signals::new().map_err(|source| Error::socket("signal handlers", source))?;
    let mut kernel = Kernel::open(&policy, ledger).await?;
    let result = start_and_serve(policy, &mut kernel, &mut signals, accelerate).await;
    super_packet::close();
    let left = kernel.leave().await;
    tracing::info!("left");
    result.and(if left { Ok(()) } else { Err(Error::LeftBehind) })
}

async fn start_and_serve(
    policy: Policy,
    kernel: &mut Kernel,
    signals: &mut Signals,
    accelerate: Accelerate,
) -> Result<(), Error> {
    let handle = kernel.reconciler().route().handle().clone();
    let home_link = HomeLink::open(&handle, &policy).await?;
    let link = home_link.link;
    let tun = Arc::new(Device::tun(HOME_AGENT_TUNNEL_LINK).map_err(|source| Error::socket("the TUN", source))?);
    tap::no_link_local(tun.name()).map_err(|source| Error::socket("the TUN", source))?;
    ports::bring_up(&handle, tun.name(), inner_mtu(link.mtu as usize) as u32).await?;
    let socket = MobilitySocket::open().map_err(|source| Error::socket("a raw socket for mobility headers", source))?;
    let mut core = Core::start(accelerate, policy.guests.len())
        .map_err(|source| Error::socket("the sockets of the tunnel engine", source))?;
    accelerator::at_home_agent(&mut core, accelerate, tun.name(), policy.guests.len());
    let lost = Arc::new(Notify::new());
    let table = Shared::new(HomeAgentTable::new(policy.home_agent.address, link.mtu as usize, []));
    let path = Path { core, tun, table, lost };
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
        bindings: Bindings::default(),
        carriers: BTreeMap::new(),
        asked: Vec::new(),
        path,
        next_scan: clock::now() + SCAN_INTERVAL,
        policy,
    };
    runner.path.start().map_err(|source| Error::socket("a thread", source))?;
    // The policies that let binding updates in.
    runner.reconcile(clock::now()).await;
    let result = match signals.leave_asked().await {
        true => Ok(()),
        false => runner.serve(signals).await,
    };
    runner.report();
    result
}

impl HomeLink {
    async fn open(handle: &rtnetlink::Handle, policy: &Policy) -> Result<Self, Error> {
        let interface = policy.home_agent.interface.as_deref().unwrap_or_default();
        let link = ports::ethernet_link(handle, interface).await?;
        let failed = |source| Error::socket("a packet socket on the home link", source);
        let socket = PacketSocket::open(link.index, Filter::NeighborDiscovery).map_err(failed)?;
        let watch = sys::watch(socket.as_fd()).map_err(failed)?;
        Ok(Self { socket, watch, link, _groups: join_groups(policy, link.index)? })
    }
}

/// Neighbours ask for a home address by its solicited-node group; without membership a switch or a network card may keep that from us.
fn join_groups(policy: &Policy, interface: u32) -> Result<Vec<Socket>, Error> {
    let mut sockets = Vec::new();
    for guests in policy.guests.chunks(GROUPS_PER_SOCKET) {
        let socket = Socket::new(Domain::IPV6, Type::DGRAM, None);
        let socket = socket.map_err(|source| Error::socket("a socket for multicast groups", source))?;
        for guest in guests {
            let group = ipv6::solicited_node_multicast(guest.home_address);
            if let Err(error) = socket.join_multicast_v6(&group, interface)
                && error.raw_os_error() != Some(libc::EADDRINUSE)
            {
                tracing::warn!(%group, %error, "cannot join the multicast group that neighbours of the guest use");
            }
        }
        sockets.push(socket);
    }
    Ok(sockets)
}

impl Runner<'_> {
    async fn serve(&mut self, signals: &mut Signals) -> Result<(), Error> {
        let event_loop = |source| Error::socket("an event loop", source);
        let mut monitor = Monitor::open().map_err(|source| Error::socket("a netlink monitor", source))?;
        let mobility = sys::watch(self.socket.as_fd()).map_err(event_loop)?;
        let lost = Arc::clone(&self.path.lost);
        let mut buffer = ReceiveBuffer::new(PACKET_LIMIT);
        loop {
            self.pump().await;
            let next_scan = self.next_scan;
            let deadline = self.engine.poll_timeout().map_or(next_scan, |(at, _)| at.min(next_scan));
            tokio::select! {
                signal = signals.next() => match signal {
                    Signal::Leave => return Ok(()),
                    Signal::Report => self.report(),
                },
                ready = mobility.readable() => {
                    let mut guard = ready.map_err(event_loop)?;
                    if self.receive_signaling(&mut buffer, clock::now()) == Drained::Empty {
                        guard.clear_ready();
                    }
                }
                ready = self.home_link.watch.readable() => {
                    let mut guard = ready.map_err(event_loop)?;
                    if receive_neighbours(&self.home_link.socket, &mut self.engine, clock::now()) == Drained::Empty {
                        guard.clear_ready();
                    }
                }
                () = lost.notified() => return Err(Error::Lost),
                change = monitor.changed() => self.scan_within(change.look_within(), clock::now()),
                () = tokio::time::sleep_until(deadline.into()) => {
                    let now = clock::now();
                    self.engine.handle_timeout(now);
                    if now >= self.next_scan {
                        self.scan(now).await;
                    }
                }
            }
        }
    }

    /// Looks at everything that others may have changed.
    async fn scan(&mut self, now: Instant) {
        self.next_scan = now + SCAN_INTERVAL;
        let handle = self.kernel.reconciler().route().handle().clone();
        let interface = self.policy.home_agent.interface.as_deref().unwrap_or_default();
        match ports::ethernet_link(&handle, interface).await {
            Ok(link) if link.index == self.home_link.link.index => {
                if link.mtu != self.home_link.link.mtu {
                    self.home_link.link.mtu = link.mtu;
                    self.publish();
                    let mtu = inner_mtu(link.mtu as usize) as u32;
                    if let Err(error) = ports::bring_up(&handle, HOME_AGENT_TUNNEL_LINK, mtu).await {
                        tracing::warn!("{error}");
                    }
                }
            }
            Ok(_) => match HomeLink::open(&handle, &self.policy).await {
                Ok(home_link) => {
                    tracing::info!(interface, "the interface of the home link was made anew");
                    self.home_link = home_link;
                }
                Err(error) => tracing::warn!("guests cannot be defended on the home link: {error}"),
            },
            Err(error) => tracing::warn!("guests cannot be defended on the home link: {error}"),
        }
        self.reconcile(now).await;
        self.kernel.reserve();
    }

    fn scan_within(&mut self, time: Duration, now: Instant) {
        self.next_scan = self.next_scan.min(now + time);
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
                    tracing::warn!(%home_address, "binding acknowledgement not sent, the kernel refuses it: {error}");
                }
            }
            Output::HomeLinkFrame(frame) => {
                if let Err(error) = self.home_link.socket.send(&frame) {
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
                tell(&self.policy, guest, &event);
            }
        }
    }

    async fn reconcile(&mut self, now: Instant) {
        let asked = std::mem::take(&mut self.asked);
        let secured = self.kernel.secure(&self.bindings, None, asked).await;
        // Failures first: a guest that failed waits for no generation any more.
        for (guest, generation) in secured.failed {
            self.engine.securing_failed(guest, generation, now);
        }
        if let Some(generation) = secured.applied {
            self.engine.applied(generation, now);
        }
        if !secured.complete {
            self.scan_within(RETRY_INTERVAL, now);
        }
    }

    fn publish(&self) {
        let mtu = inner_mtu(self.home_link.link.mtu as usize);
        let entries = self.policy.guests.iter().enumerate().map(|(index, guest)| HomeAgentEntry {
            guest: GuestId(index),
            home_address: guest.home_address,
            care_of: self.carriers.get(&GuestId(index)).copied(),
            mtu,
        });
        self.path.publish(HomeAgentTable::new(
            self.policy.home_agent.address,
            self.home_link.link.mtu as usize,
            entries,
        ));
    }

    fn receive_signaling(&mut self, buffer: &mut ReceiveBuffer, now: Instant) -> Drained {
        pace::drain(|| {
            let arrival = self.socket.receive(buffer)?;
            let received =
                Received { source: arrival.source, destination: arrival.destination, care_of: arrival.care_of_address };
            self.engine.handle_binding_update(received, arrival.message, now);
            Ok(())
        })
    }

    fn report(&self) {
        super::report::tunnel(&self.path.core.tally.all);
        tracing::info!("counters: signaling: {}", self.engine.counters());
    }
}

fn receive_neighbours(socket: &PacketSocket, engine: &mut HomeAgent, now: Instant) -> Drained {
    let mut frame = [0; 2048];
    pace::drain(|| {
        let length = socket.receive(&mut frame)?;
        if let Some(frame) = frame.get(..length) {
            engine.handle_home_link_frame(frame, now);
        }
        Ok(())
    })
}

/// An event in the words of people, with the guest's name and home address.
fn tell(policy: &Policy, guest: GuestId, event: &Event) {
    let Some(GuestPolicy { name: guest, home_address, .. }) = policy.guests.get(guest.0) else { return };
    let text = event.describe();
    match event {
        Event::Discarded(_) => tracing::debug!(guest, %home_address, "{text}"),
        _ if event.is_trouble() => tracing::warn!(guest, %home_address, "{text}"),
        _ => tracing::info!(guest, %home_address, "{text}"),
    }
}
