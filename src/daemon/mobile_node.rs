//! The event loop of the mobile-node role: it joins the signaling engine, the pseudo home networks, the reconciler of kernel state and the
//! packet path, and decides nothing itself.

mod attachment;
mod home;
mod perform;
mod publish;
mod reload;
mod status;
mod unanswered;
mod uplink;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use super::attention::Attention;
use super::control_socket::ControlSocket;
use super::engine::super_packet;
use super::herald::Herald;
use super::kernel::Kernel;
use super::mobility_socket::MobilitySocket;
use super::netlink::monitor::{Change, Monitor};
use super::netlink::route::Uplink;
use super::pace::{self, Drained};
use super::packet_path::{PacketPath, Report};
use super::packet_socket::PacketSocket;
use super::ports::{self, OpenPort};
use super::qmp::Hypervisors;
use super::raw_socket::ReceiveBuffer;
use super::roster::Roster;
use super::sequences::Ledger;
use super::signals::{Signal, Signals};
use super::source::Source;
use super::tap::Device;
use super::{Error, clock, esp_tunnel, sys};
use crate::home_network::{self, HomeLink, PseudoHomeNetwork};
use crate::kernel_state::Bindings;
use crate::policy::Policy;
use crate::signaling::Attachment;
use crate::signaling::mobile_node::MobileNode;
use crate::tunnel::Carrier;
use crate::vocabulary::{Generation, GuestId};
use home::AtHome;
use publish::{network, packet_path};
use unanswered::Unanswered;
use uplink::Unfit;

/// Places in the queue to the event loop: more than all ports together have. Empty ones take no room.
const REPORT_QUEUE: usize = 1 << 18;
/// Longest packet received.
const PACKET_LIMIT: usize = 65_536;
/// How long the daemon waits for acknowledgements of its de-registrations before it leaves.
const FAREWELL: Duration = Duration::from_secs(8);

/// The running role.
struct Runner {
    roster: Roster,
    source: Source,
    engine: MobileNode,
    attachments: BTreeMap<GuestId, Attachment>,
    networks: Vec<PseudoHomeNetwork>,
    ports: Vec<OpenPort>,
    kernel: Kernel,
    socket: MobilitySocket,
    path: PacketPath,
    /// Where guests have data in ESP tunnels.
    esp_tunnels: Option<Arc<Device>>,
    herald: Herald,
    hypervisors: Hypervisors,
    started: Instant,
    uplink: Option<Uplink>,
    routed_packets: Option<(PacketSocket, AsyncFd<OwnedFd>)>,
    /// The home link, when this host is there; then there is no uplink.
    at_home: Option<AtHome>,
    home_link: HomeLink,
    /// Guests that are de-registered from home, and the ear for their acknowledgements.
    returning: BTreeSet<GuestId>,
    ear: Option<(PacketSocket, AsyncFd<OwnedFd>)>,
    /// Guests that have left home, until that is announced.
    leaving_home: BTreeSet<GuestId>,
    bindings: Bindings,
    carriers: BTreeMap<GuestId, Carrier>,
    /// What the home agent has been asked for and has not confirmed.
    arriving: BTreeMap<GuestId, Carrier>,
    /// Whether the packet path has to be told of something: once for all that comes together.
    stale: bool,
    /// Path MTUs in octets that packets of guests have found out.
    path_mtus: BTreeMap<GuestId, u32>,
    /// Why there is no uplink, as it was last told.
    unfit: Option<Unfit>,
    /// Generations asked for and not yet in force.
    asked: Vec<(GuestId, Generation)>,
    /// When each guest was seen or told to be here, until it is registered.
    arrivals: BTreeMap<GuestId, Instant>,
    /// Binding updates without an answer.
    unanswered: Unanswered,
    /// Guests whose next binding update would have to wait for the disk.
    unreserved: BTreeSet<GuestId>,
    /// Guests that a changed policy does not have any more, while they are de-registered.
    removing: BTreeSet<GuestId>,
    attention: Attention,
    /// When the wait for the last de-registrations ends.
    leaving: Option<Instant>,
    departed: BTreeSet<GuestId>,
}

/// What a role is started with.
pub(super) struct Start {
    pub(super) policy: Policy,
    pub(super) ledger: Ledger,
    pub(super) source: Source,
    pub(super) control: Option<ControlSocket>,
}

/// Runs the role until a signal ends it.
///
/// # Errors
/// When it cannot start or go on, after everything was taken down; or when that did not work.
pub(super) async fn run(start: Start) -> Result<(), Error> {
    // From here on a signal is an event, and what was begun is taken down in good order.
    let mut signals = Signals::new().map_err(|source| Error::socket("signal handlers", source))?;
    let Start { policy, ledger, source, control } = start;
    let roster = Roster::new(policy);
    // Routes that an earlier run has left lead there.
    let esp_tunnels = esp_tunnel::is_wanted(roster.policy()).then(esp_tunnel::open).transpose()?;
    // Before anything can be sent: the failsafe.
    let mut kernel = Kernel::open(&roster, ledger).await?;
    let handle = kernel.route().handle().clone();
    let ports = match ports::open(&handle, roster.policy()).await {
        Ok(ports) => ports,
        Err(error) => {
            kernel.leave().await;
            return Err(error.into());
        }
    };
    let (reports, received_reports) = mpsc::channel(REPORT_QUEUE);
    let (mut kernel, ports, result) =
        match Runner::start((roster, source, control), kernel, ports, reports, esp_tunnels) {
            Ok(mut runner) => {
                let result = match signals.leave_asked().await {
                    true => Ok(()),
                    false => runner.serve(&mut signals, received_reports).await,
                };
                runner.report();
                (runner.kernel, runner.ports, result)
            }
            Err((kernel, ports, error)) => (kernel, ports, Err(error)),
        };
    super_packet::close();
    let left = kernel.leave().await;
    ports::close(&handle, ports).await;
    tracing::info!("left");
    result.and(if left { Ok(()) } else { Err(Error::LeftBehind) })
}

impl Runner {
    /// Opens the sockets and starts the packet path; gives back what is to be taken down when that fails.
    #[expect(clippy::result_large_err, reason = "once in a process, and the error carries what must be closed")]
    fn start(
        (roster, source, control): (Roster, Source, Option<ControlSocket>),
        kernel: Kernel,
        ports: Vec<OpenPort>,
        reports: mpsc::Sender<Report>,
        esp_tunnels: Option<Arc<Device>>,
    ) -> Result<Self, (Kernel, Vec<OpenPort>, Error)> {
        let networks: Vec<_> = ports.iter().map(|port| network(&roster, port)).collect();
        let opened = MobilitySocket::open()
            .map_err(|source| Error::socket("a raw socket for mobility headers", source))
            .and_then(|socket| {
                let accelerate = source.settings.accelerate;
                Ok((socket, packet_path(&roster, &ports, &networks, reports, accelerate, esp_tunnels.as_ref())?))
            });
        let (socket, path) = match opened {
            Ok(opened) => opened,
            Err(error) => return Err((kernel, ports, error)),
        };
        Ok(Self {
            engine: MobileNode::new(),
            attachments: BTreeMap::new(),
            networks,
            ports,
            // What an earlier run has left stays in force until it is asked for otherwise.
            bindings: kernel.adopted().clone(),
            kernel,
            socket,
            path,
            esp_tunnels,
            herald: Herald::new(control),
            hypervisors: Hypervisors::default(),
            started: clock::now(),
            uplink: None,
            routed_packets: None,
            at_home: None,
            home_link: HomeLink::default(),
            returning: BTreeSet::new(),
            ear: None,
            leaving_home: BTreeSet::new(),
            carriers: BTreeMap::new(),
            arriving: BTreeMap::new(),
            stale: true,
            path_mtus: BTreeMap::new(),
            unfit: None,
            asked: Vec::new(),
            arrivals: BTreeMap::new(),
            unanswered: Unanswered::default(),
            unreserved: BTreeSet::new(),
            removing: BTreeSet::new(),
            attention: Attention::new(clock::now()),
            leaving: None,
            departed: BTreeSet::new(),
            roster,
            source,
        })
    }

    async fn serve(&mut self, signals: &mut Signals, mut reports: mpsc::Receiver<Report>) -> Result<(), Error> {
        let event_loop = |source| Error::socket("an event loop", source);
        let own = self.kernel.ports();
        let mut monitor = Monitor::open(own).map_err(|source| Error::socket("a netlink monitor", source))?;
        let mobility = sys::watch(self.socket.as_fd()).map_err(event_loop)?;
        self.begin().await;
        self.follow_hypervisors();
        let (mut buffer, mut routed_buffer) = (ReceiveBuffer::new(PACKET_LIMIT), vec![0; PACKET_LIMIT]);
        loop {
            self.pump().await;
            self.reserve_sequences();
            let now = clock::now();
            if self.has_left(now) {
                return Ok(());
            }
            let deadline = self.deadline();
            tokio::select! {
                signal = signals.next() => self.on_signal(signal, clock::now()).await,
                asked = self.herald.asked() => {
                    let reply = self.answer(asked.request, clock::now()).await;
                    // A client that has gone needs no answer.
                    let _ = asked.reply.send(reply);
                }
                (guest, command) = self.hypervisors.next() => {
                    tracing::info!(guest, "by its hypervisor: {command:?}");
                    if let Err(why) = self.command(&guest, command, clock::now()) {
                        tracing::warn!(guest, "not done: {why}");
                    }
                }
                ready = mobility.readable() => {
                    let mut guard = ready.map_err(event_loop)?;
                    if self.receive_signaling(&mut buffer, clock::now()) == Drained::Empty {
                        guard.clear_ready();
                    }
                }
                report = reports.recv() => self.on_report(report, clock::now())?,
                change = monitor.changed() => {
                    let now = clock::now();
                    if change == Change::Routing && self.look_at_uplink(now).await {
                        self.reconcile(now).await;
                    }
                    // Somebody may have changed what is ours, too.
                    for expiry in monitor.take_expiries() {
                        self.herald.expired(&mut self.kernel, &self.roster, expiry);
                    }
                    self.attention.changed(change, now);
                }
                () = readable(self.routed_packets.as_ref()) => self.receive_routed(&mut routed_buffer),
                () = readable(self.ear.as_ref()) => self.hear_home_link(&mut routed_buffer),
                () = tokio::time::sleep_until(deadline.into()) => {
                    let now = clock::now();
                    self.engine.handle_timeout(now);
                    self.networks.iter_mut().for_each(|network| network.handle_timeout(now));
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

    /// Listens to the hypervisors that the policy names, and to no others any more.
    fn follow_hypervisors(&mut self) {
        let sockets = self.roster.guests().filter_map(|(_, guest)| {
            let path = guest.attachment.as_ref()?.qmp.clone()?;
            Some((guest.name.clone(), path))
        });
        self.hypervisors.follow(sockets);
    }

    /// Looks at everything that others may have changed.
    async fn scan(&mut self, now: Instant) {
        let handle = self.kernel.route().handle().clone();
        let renewed = ports::mend(&handle, &mut self.ports).await;
        for number in &renewed {
            let Some(port) = self.ports.get(*number) else { continue };
            if let Err(error) = self.path.start_port(*number, Arc::clone(&port.device)) {
                tracing::error!("guests on port {number} are cut off: {error}");
            }
        }
        if !renewed.is_empty() {
            self.stale = true;
        }
        self.tell_ports();
        if self.esp_tunnels.is_none() && esp_tunnel::is_wanted(self.roster.policy()) {
            let opened = esp_tunnel::open().and_then(|device| self.use_esp_tunnels(device));
            if let Err(error) = opened {
                tracing::error!("guests with data in ESP tunnels are cut off: {error}");
            }
        }
        self.look_at_uplink(now).await;
        self.look_at_path_mtus();
        self.reconcile(now).await;
        self.kernel.reserve();
        sys::release_freed();
    }
}

/// Waits until `socket` is readable; for ever when there is none.
async fn readable(socket: Option<&(PacketSocket, AsyncFd<OwnedFd>)>) {
    match socket {
        // The readiness stays until the socket was emptied.
        Some((_, watch)) if watch.readable().await.is_ok() => {}
        _ => std::future::pending().await,
    }
}

impl Runner {
    /// Does what the machines want done, until they want nothing more; then the log is told.
    async fn pump(&mut self) {
        loop {
            let now = clock::now();
            let mut progress = false;
            while let Some(output) = self.engine.poll_output() {
                progress = true;
                self.perform(output, now);
            }
            if std::mem::take(&mut self.stale) {
                progress = true;
                self.publish(now);
            }
            progress |= self.pump_ports(now);
            for guest in std::mem::take(&mut self.leaving_home) {
                self.see_off(guest, now).await;
            }
            self.home_link.handle_timeout(now);
            while let Some((guest, announcement)) = self.home_link.poll_output() {
                self.say_at_home(guest, announcement).await;
            }
            if !self.asked.is_empty() {
                progress = true;
                self.reconcile(now).await;
            }
            if !progress {
                self.herald.write();
                return;
            }
        }
    }

    /// Does what the networks of the ports want, up to a sign of a guest: the binding update that it sets off goes first.
    fn pump_ports(&mut self, now: Instant) -> bool {
        let mut progress = false;
        for port in 0..self.networks.len() {
            while let Some(output) = self.networks.get_mut(port).and_then(PseudoHomeNetwork::poll_output) {
                progress = true;
                match output {
                    home_network::Output::ToPort(frame) => write_frame(&self.ports, port, &frame),
                    home_network::Output::GuestSeen { guest, how } => {
                        self.sighted(guest, how, now);
                        return true;
                    }
                }
            }
        }
        progress
    }

    /// Brings the kernel to what the bindings ask for and tells the engine.
    async fn reconcile(&mut self, now: Instant) {
        let asked = std::mem::take(&mut self.asked);
        let uplink = self.uplink.as_ref().or(self.at_home.as_ref().map(|home| &home.uplink));
        let uplink = uplink.map(|uplink| uplink.name.as_str());
        let secured = self.kernel.secure(&self.bindings, uplink, asked).await;
        // Failures first: a guest that failed waits for no generation any more.
        for (guest, generation) in secured.failed {
            self.engine.securing_failed(guest, generation, now);
        }
        for guest in secured.unsecured {
            self.engine.no_longer_secured(guest, now);
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

    fn on_report(&mut self, report: Option<Report>, now: Instant) -> Result<(), Error> {
        match report {
            Some(Report::Frame { port, frame, place }) => {
                if let Some(network) = self.networks.get_mut(port) {
                    network.handle_frame(&frame, now);
                }
                drop(place);
            }
            Some(Report::PathMtu { guest, mtu }) => self.path_is_narrow(guest, mtu),
            Some(Report::PortLost { .. }) => self.attention.changed(Change::Routing, now),
            Some(Report::EspTunnelLost) => {
                self.esp_tunnels = None;
                self.attention.changed(Change::Routing, now);
            }
            Some(Report::ThreadDied) => return Err(Error::Thread),
            None => {}
        }
        Ok(())
    }

    fn receive_signaling(&mut self, buffer: &mut ReceiveBuffer, now: Instant) -> Drained {
        pace::drain(|| {
            let arrival = self.socket.receive(buffer)?;
            self.engine.handle_message(arrival.source, arrival.destination, arrival.message, now);
            Ok(())
        })
    }

    fn receive_routed(&mut self, buffer: &mut [u8]) {
        let Some((socket, watch)) = &self.routed_packets else { return };
        let mut view = self.path.view.reader();
        let drained = pace::drain(|| {
            let length = socket.receive(buffer)?;
            if let Some(packet) = buffer.get_mut(..length) {
                self.path.routed(view.get(), packet);
            }
            Ok(())
        });
        if drained == Drained::Empty {
            // Ready at once: it has just been found readable. Nothing can have come to the event loop since.
            if let Some(Ok(mut guard)) = watch.readable().now_or_never() {
                guard.clear_ready();
            }
        }
    }

    async fn on_signal(&mut self, signal: Signal, now: Instant) {
        match signal {
            Signal::Report => self.report(),
            Signal::Reload => drop(self.reload(now).await),
            Signal::Leave if self.leaving.is_some() => {
                tracing::info!("asked once more: leaving without waiting for acknowledgements");
                self.leaving = Some(now);
            }
            Signal::Leave => {
                tracing::info!("leaving: de-registering every guest");
                self.leaving = Some(now + FAREWELL);
                for guest in self.roster.ids().to_vec() {
                    self.engine.deregister(guest, now);
                }
            }
        }
    }

    fn has_left(&self, now: Instant) -> bool {
        self.leaving.is_some_and(|deadline| now >= deadline || self.departed.len() >= self.roster.len())
    }

    fn deadline(&self) -> Instant {
        let engine = self.engine.poll_timeout().map(|(at, _)| at);
        let networks = self.networks.iter().filter_map(|network| network.poll_timeout().map(|(at, _)| at));
        let home_link = self.home_link.poll_timeout().map(|(at, _)| at);
        networks.chain(engine).chain(home_link).chain(self.leaving).fold(self.attention.deadline(), Instant::min)
    }

    /// Writes every counter that is not zero to the log.
    fn report(&self) {
        super::report::tunnel(&self.path.core);
        self.path.frames.iter().for_each(|counters| super::report::frames(counters));
        tracing::info!("counters: signaling: {}", self.engine.counters());
    }

    fn name(&self, guest: GuestId) -> &str {
        self.roster.get(guest).map_or("?", |guest| guest.name.as_str())
    }
}

fn write_frame(ports: &[OpenPort], port: usize, frame: &[u8]) {
    let Some(open) = ports.get(port) else { return };
    let parts = [io::IoSlice::new(&[0; super::tap::VNET_HEADER_LENGTH]), io::IoSlice::new(frame)];
    if let Err(error) = open.device.write_parts(&parts) {
        tracing::debug!(%error, device = open.device.name(), "a frame could not be written to the port");
    }
}
