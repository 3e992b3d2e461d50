//! The event loop of the home-agent role: signaling under ESP, neighbour discovery for the guests on the home link, and the tunnel.

mod changes;
pub(super) mod path;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use socket2::{Domain, Socket, Type};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use super::attention::Attention;
use super::control_socket::ControlSocket;
use super::engine::core::Core;
use super::engine::{accelerator, super_packet};
use super::herald::Herald;
use super::kernel::Kernel;
use super::mobile_node::Start;
use super::mobility_socket::MobilitySocket;
use super::netlink::monitor::Monitor;
use super::pace::{self, Drained};
use super::packet_socket::{Filter, PacketSocket};
use super::ports::{self, EthernetLink};
use super::raw_socket::ReceiveBuffer;
use super::roster::Roster;
use super::shared::Shared;
use super::signals::{Signal, Signals};
use super::source::Source;
use super::tap::{self, Device};
use super::{Error, clock, sys};
use crate::kernel_state::{Bindings, HOME_AGENT_TUNNEL_LINK};
use crate::policy::Policy;
use crate::signaling::home_agent::{HomeAgent, Output, Received};
use crate::tunnel::{HomeAgentEntry, HomeAgentTable, inner_mtu};
use crate::vocabulary::{Generation, GuestId};
use crate::wire::ipv6;
use path::Path;

/// Memberships of one socket: the kernel takes their memory from the socket's allowance (`net.core.optmem_max`).
const GROUPS_PER_SOCKET: usize = 64;
/// Longest packet read or received.
const PACKET_LIMIT: usize = 65_536;

/// The ear and the mouth on the home link.
struct HomeLink {
    socket: PacketSocket,
    watch: AsyncFd<OwnedFd>,
    link: EthernetLink,
    /// For acknowledgements to guests at home: while there is a binding, all else to a home address goes into the tunnel.
    mobility: MobilitySocket,
    /// Hold the multicast memberships for the home addresses' solicited-node groups.
    groups: Vec<Socket>,
}

struct Runner<'a> {
    roster: Roster,
    source: Source,
    engine: HomeAgent,
    kernel: &'a mut Kernel,
    socket: MobilitySocket,
    home_link: HomeLink,
    herald: Herald,
    started: Instant,
    bindings: Bindings,
    carriers: BTreeMap<GuestId, std::net::Ipv6Addr>,
    asked: Vec<(GuestId, Generation)>,
    path: Path,
    /// Whether the packet path has to be told of something: once for all that comes together.
    stale: bool,
    attention: Attention,
}

/// Runs the role until a signal ends it.
///
/// # Errors
/// When it cannot start or go on, after everything was taken down; or when that did not work.
pub(super) async fn run(start: Start) -> Result<(), Error> {
    super::require_forwarding()?;
    // From here on a signal is an event, and what was begun is taken down in good order.
    let mut signals = Signals::new().map_err(|source| Error::socket("signal handlers", source))?;
    let Start { policy, ledger, source, control } = start;
    let roster = Roster::new(policy);
    let mut kernel = Kernel::open(&roster, ledger).await?;
    let result = start_and_serve((roster, source, control), &mut kernel, &mut signals).await;
    super_packet::close();
    let left = kernel.leave().await;
    tracing::info!("left");
    result.and(if left { Ok(()) } else { Err(Error::LeftBehind) })
}

async fn start_and_serve(
    (roster, source, control): (Roster, Source, Option<ControlSocket>),
    kernel: &mut Kernel,
    signals: &mut Signals,
) -> Result<(), Error> {
    let handle = kernel.route().handle().clone();
    let home_link = HomeLink::open(&handle, roster.policy()).await?;
    let link = home_link.link;
    let tun = Arc::new(Device::tun(HOME_AGENT_TUNNEL_LINK).map_err(|source| Error::socket("the TUN", source))?);
    tap::no_link_local(tun.name()).map_err(|source| Error::socket("the TUN", source))?;
    ports::bring_up(&handle, tun.name(), inner_mtu(link.mtu as usize) as u32).await?;
    let socket = MobilitySocket::open().map_err(|source| Error::socket("a raw socket for mobility headers", source))?;
    let (accelerate, guests) = (source.settings.accelerate, roster.guests().count());
    let mut core =
        Core::start(accelerate).map_err(|source| Error::socket("the sockets of the tunnel engine", source))?;
    accelerator::at_home_agent(&mut core, accelerate, tun.name(), guests);
    let lost = Arc::new(Notify::new());
    let table = Shared::new(HomeAgentTable::new(roster.policy().home_agent.address, link.mtu as usize, []));
    let path = Path { core, tun, table, lost };
    let mut engine = HomeAgent::new(changes::engine_config(roster.policy(), link.mac));
    for (id, guest) in roster.guests() {
        engine.add_guest(id, guest.home_address, kernel.ledger().accepted_sequence(guest.home_address));
    }
    let mut runner = Runner {
        engine,
        kernel,
        socket,
        home_link,
        herald: Herald::new(control),
        started: clock::now(),
        bindings: Bindings::default(),
        carriers: BTreeMap::new(),
        asked: Vec::new(),
        path,
        stale: true,
        attention: Attention::new(clock::now()),
        roster,
        source,
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
        let mobility = MobilitySocket::open_on(interface);
        let mobility =
            mobility.map_err(|source| Error::socket("a raw socket for mobility headers on the home link", source))?;
        Ok(Self { socket, watch, link, mobility, groups: join_groups(policy, link.index)? })
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
        let own = self.kernel.ports();
        let mut monitor = Monitor::open(own).map_err(|source| Error::socket("a netlink monitor", source))?;
        let mobility = sys::watch(self.socket.as_fd()).map_err(event_loop)?;
        let lost = Arc::clone(&self.path.lost);
        let mut buffer = ReceiveBuffer::new(PACKET_LIMIT);
        loop {
            self.pump().await;
            let deadline = self.attention.deadline();
            let deadline = self.engine.poll_timeout().map_or(deadline, |(at, _)| at.min(deadline));
            tokio::select! {
                signal = signals.next() => match signal {
                    Signal::Leave => return Ok(()),
                    Signal::Report => self.report(),
                    Signal::Reload => drop(self.reload(clock::now()).await),
                },
                asked = self.herald.asked() => {
                    let reply = self.answer(asked.request, clock::now()).await;
                    // A client that has gone needs no answer.
                    let _ = asked.reply.send(reply);
                }
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
                change = monitor.changed() => {
                    for expiry in monitor.take_expiries() {
                        self.herald.expired(self.kernel, &self.roster, expiry);
                    }
                    self.attention.changed(change, clock::now());
                }
                () = tokio::time::sleep_until(deadline.into()) => {
                    let now = clock::now();
                    self.engine.handle_timeout(now);
                    if self.attention.take_look(now) {
                        self.reconcile(now).await;
                        self.attention.looked(clock::now());
                    }
                    if self.attention.take_scan(now) {
                        self.scan(now).await;
                    }
                }
            }
        }
    }

    /// Looks at everything that others may have changed.
    async fn scan(&mut self, now: Instant) {
        let handle = self.kernel.route().handle().clone();
        let interface = self.roster.policy().home_agent.interface.as_deref().unwrap_or_default();
        match ports::ethernet_link(&handle, interface).await {
            Ok(link) if link.index == self.home_link.link.index => {
                if link.mtu != self.home_link.link.mtu {
                    self.home_link.link.mtu = link.mtu;
                    self.stale = true;
                    let mtu = inner_mtu(link.mtu as usize) as u32;
                    if let Err(error) = ports::bring_up(&handle, HOME_AGENT_TUNNEL_LINK, mtu).await {
                        tracing::warn!("{error}");
                    }
                }
            }
            Ok(_) => match HomeLink::open(&handle, self.roster.policy()).await {
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
        sys::release_freed();
    }

    async fn pump(&mut self) {
        loop {
            let mut progress = false;
            while let Some(output) = self.engine.poll_output() {
                progress = true;
                self.perform(output);
            }
            if std::mem::take(&mut self.stale) {
                self.publish();
            }
            if !self.asked.is_empty() {
                progress = true;
                self.reconcile(clock::now()).await;
            }
            if !progress {
                self.herald.write();
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
            Output::Transmit { after: _, home_address, accepted, via_care_of, message } => {
                // Known before it is told, so that no restart accepts it again.
                let ledger = self.kernel.ledger();
                let kept = ledger.spend(home_address);
                let kept = kept.and_then(|()| {
                    accepted.map_or(Ok(()), |sequence| ledger.keep_accepted_sequence(home_address, sequence))
                });
                if let Err(error) = kept {
                    tracing::error!(%home_address, "binding acknowledgement not sent: {error}");
                    return;
                }
                let source = self.roster.policy().home_agent.address;
                let sent = match via_care_of {
                    Some(care_of) => self.socket.send_via(source, home_address, care_of, &message),
                    None => self.home_link.mobility.send(source, home_address, &message),
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
                self.stale = true;
            }
            Output::Event { guest, event } => {
                self.tell(guest, &event);
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
            self.attention.refused(now);
        }
        for step in secured.repaired {
            self.herald.warn(None, "repaired", &format!("changed by others, put right: {step}"));
        }
    }

    fn publish(&self) {
        let mtu = inner_mtu(self.home_link.link.mtu as usize);
        let entries = self.roster.guests().map(|(id, guest)| HomeAgentEntry {
            guest: id,
            home_address: guest.home_address,
            care_of: self.carriers.get(&id).copied(),
            mtu,
            protected: guest.protection.classes.keys().copied().collect(),
        });
        self.path.publish(HomeAgentTable::new(
            self.roster.policy().home_agent.address,
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
        super::report::tunnel(&self.path.core);
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
