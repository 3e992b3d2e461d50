//! The event loop of the mobile-node role: it joins the signaling engine, the pseudo home networks, the reconciler of kernel state and the
//! packet path, and decides nothing itself.

mod publish;
mod uplink;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use super::engine::{Accelerate, super_packet};
use super::kernel::Kernel;
use super::mobility_socket::MobilitySocket;
use super::netlink::monitor::{Change, Monitor};
use super::netlink::route::Uplink;
use super::pace::{self, Drained};
use super::packet_path::{FRAMES_PER_PORT, PacketPath, Report};
use super::packet_socket::PacketSocket;
use super::ports::{self, OpenPort};
use super::raw_socket::ReceiveBuffer;
use super::sequences::Ledger;
use super::signals::{Signal, Signals};
use super::{Error, clock, sys};
use crate::home_network::{self, PseudoHomeNetwork, Sighting};
use crate::kernel_state::Bindings;
use crate::policy::{GuestPolicy, Policy};
use crate::signaling::mobile_node::{Binding, Event, GuestConfig, MobileNode, Output};
use crate::tunnel::Carrier;
use crate::vocabulary::{Generation, GuestId, Lifetime};
use publish::{network, packet_path};
use uplink::Unfit;

/// Places in the queue to the event loop beside those for the frames of each port.
const REPORT_QUEUE: usize = 256;
/// Longest packet received.
const PACKET_LIMIT: usize = 65_536;
/// How long the daemon waits for acknowledgements of its de-registrations before it leaves.
const FAREWELL: Duration = Duration::from_secs(8);
/// The loop looks again this often at what the kernel holds, even when no notification came.
const SCAN_INTERVAL: Duration = Duration::from_secs(30);
/// ... and this long after the kernel refused something.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

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
    /// Path MTUs in octets that packets of guests have found out.
    path_mtus: BTreeMap<GuestId, u32>,
    /// Why there is no uplink, as it was last told.
    unfit: Option<Unfit>,
    /// Generations asked for and not yet in force.
    asked: Vec<(GuestId, Generation)>,
    next_scan: Instant,
    /// When the wait for the last de-registrations ends.
    leaving: Option<Instant>,
    departed: BTreeSet<GuestId>,
}

/// Runs the role until a signal ends it.
///
/// # Errors
/// When it cannot start or go on, after everything was taken down; or when that did not work.
pub async fn run(policy: Policy, ledger: Ledger, accelerate: Accelerate) -> Result<(), Error> {
    // From here on a signal is an event, and what was begun is taken down in good order.
    let mut signals = Signals::new().map_err(|source| Error::socket("signal handlers", source))?;
    // Before anything can be sent: the failsafe.
    let mut kernel = Kernel::open(&policy, ledger).await?;
    let handle = kernel.reconciler().route().handle().clone();
    let ports = match ports::open(&handle, &policy).await {
        Ok(ports) => ports,
        Err(error) => {
            kernel.leave().await;
            return Err(error.into());
        }
    };
    let (reports, received_reports) = mpsc::channel(REPORT_QUEUE + ports.len() * FRAMES_PER_PORT);
    let (mut kernel, ports, result) = match Runner::start(policy, kernel, ports, reports, accelerate) {
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
        policy: Policy,
        kernel: Kernel,
        ports: Vec<OpenPort>,
        reports: mpsc::Sender<Report>,
        accelerate: Accelerate,
    ) -> Result<Self, (Kernel, Vec<OpenPort>, Error)> {
        let networks: Vec<_> = ports.iter().map(|port| network(&policy, port)).collect();
        let opened = MobilitySocket::open()
            .map_err(|source| Error::socket("a raw socket for mobility headers", source))
            .and_then(|socket| Ok((socket, packet_path(&policy, &ports, &networks, reports, accelerate)?)));
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
            path_mtus: BTreeMap::new(),
            unfit: None,
            asked: Vec::new(),
            next_scan: clock::now() + SCAN_INTERVAL,
            leaving: None,
            departed: BTreeSet::new(),
            policy,
        })
    }

    /// Every guest of the policy is taken as present on its port: this host speaks for it from now on.
    async fn attach_all(&mut self) {
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
        self.look_at_uplink(now).await;
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
    }

    async fn serve(&mut self, signals: &mut Signals, mut reports: mpsc::Receiver<Report>) -> Result<(), Error> {
        let event_loop = |source| Error::socket("an event loop", source);
        let mut monitor = Monitor::open().map_err(|source| Error::socket("a netlink monitor", source))?;
        let mobility = sys::watch(self.socket.as_fd()).map_err(event_loop)?;
        self.attach_all().await;
        let (mut buffer, mut routed_buffer) = (ReceiveBuffer::new(PACKET_LIMIT), vec![0; PACKET_LIMIT]);
        loop {
            self.pump().await;
            let now = clock::now();
            if self.has_left(now) {
                return Ok(());
            }
            let deadline = self.deadline();
            tokio::select! {
                signal = signals.next() => self.on_signal(signal, clock::now()),
                ready = mobility.readable() => {
                    let mut guard = ready.map_err(event_loop)?;
                    if self.receive_signaling(&mut buffer, clock::now()) == Drained::Empty {
                        guard.clear_ready();
                    }
                }
                report = reports.recv() => self.on_report(report, clock::now())?,
                change = monitor.changed() => {
                    let now = clock::now();
                    if self.look_at_uplink(now).await {
                        self.reconcile(now).await;
                    }
                    // Somebody may have changed what is ours, too.
                    self.scan_within(change.look_within(), now);
                }
                () = readable(self.routed_packets.as_ref()) => self.receive_routed(&mut routed_buffer),
                () = tokio::time::sleep_until(deadline.into()) => {
                    let now = clock::now();
                    self.engine.handle_timeout(now);
                    self.networks.iter_mut().for_each(|network| network.handle_timeout(now));
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
        let renewed = ports::mend(&handle, &mut self.ports).await;
        for number in &renewed {
            let Some(port) = self.ports.get(*number) else { continue };
            if let Err(error) = self.path.start_port(*number, Arc::clone(&port.device)) {
                tracing::error!("guests on port {number} are cut off: {error}");
            }
        }
        if !renewed.is_empty() {
            self.publish(now);
        }
        self.look_at_uplink(now).await;
        self.look_at_path_mtus(now);
        self.reconcile(now).await;
        self.kernel.reserve();
    }

    fn scan_within(&mut self, time: Duration, now: Instant) {
        self.next_scan = self.next_scan.min(now + time);
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
    /// Does what the machines want done, until they want nothing more.
    async fn pump(&mut self) {
        loop {
            let now = clock::now();
            let mut progress = false;
            while let Some(output) = self.engine.poll_output() {
                progress = true;
                self.perform(output, now);
            }
            for (port, network) in self.networks.iter_mut().enumerate() {
                while let Some(output) = network.poll_output() {
                    progress = true;
                    match output {
                        home_network::Output::ToPort(frame) => write_frame(&self.ports, port, &frame),
                        home_network::Output::GuestSeen { guest, how } => tell_sighting(&self.policy, guest, how),
                    }
                }
            }
            if !self.asked.is_empty() {
                progress = true;
                self.reconcile(now).await;
            }
            if !progress {
                return;
            }
        }
    }

    fn perform(&mut self, output: Output, now: Instant) {
        match output {
            Output::Secure { generation, guest, care_of } => {
                match care_of {
                    Some(care_of) => self.bindings.0.insert(guest, care_of),
                    None => self.bindings.0.remove(&guest),
                };
                self.asked.push((guest, generation));
            }
            Output::Transmit { after: _, guest, sequence, source, destination, message } => {
                // On disk before it leaves, so that no restart uses it twice. What cannot be written is not sent, as if it were lost on
                // the way: the retransmission has a number of its own and tries again.
                if let Err(error) = self.kernel.ledger().keep_binding_sequence(source, sequence) {
                    tracing::error!(guest = self.name(guest), home_address = %source, "binding update not sent: {error}");
                    return;
                }
                // Success does not say that a packet left: without an SA the kernel drops it in silence. Only an acknowledgement tells.
                if let Err(error) = self.socket.send(source, destination, &message) {
                    tracing::warn!(
                        guest = self.name(guest),
                        home_address = %source,
                        "binding update not sent, the kernel refuses it: {error}"
                    );
                }
            }
            Output::Binding { guest, binding } => self.set_carrier(guest, binding, now),
            Output::Event { guest, event } => {
                tell(&self.policy, guest, &event, now);
                if let Event::Deregistered(_) = event {
                    self.departed.insert(guest);
                }
            }
        }
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
        let secured = self.kernel.secure(&self.bindings, uplink, asked).await;
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

    fn on_report(&mut self, report: Option<Report>, now: Instant) -> Result<(), Error> {
        match report {
            Some(Report::Frame { port, frame, place }) => {
                if let Some(network) = self.networks.get_mut(port) {
                    network.handle_frame(&frame, now);
                }
                drop(place);
            }
            Some(Report::PathMtu { guest, mtu }) => self.path_is_narrow(guest, mtu, now),
            Some(Report::PortLost { .. }) => self.scan_within(Change::Routing.look_within(), now),
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

    fn deadline(&self) -> Instant {
        let engine = self.engine.poll_timeout().map(|(at, _)| at);
        let networks = self.networks.iter().filter_map(|network| network.poll_timeout().map(|(at, _)| at));
        networks.chain(engine).chain(self.leaving).fold(self.next_scan, Instant::min)
    }

    /// Writes every counter that is not zero to the log.
    fn report(&self) {
        super::report::tunnel(&self.path.core.tally.all);
        self.path.frames.iter().for_each(|counters| super::report::frames(counters));
        tracing::info!("counters: signaling: {}", self.engine.counters());
    }

    fn name(&self, guest: GuestId) -> &str {
        self.policy.guests.get(guest.0).map_or("?", |guest| guest.name.as_str())
    }
}

fn write_frame(ports: &[OpenPort], port: usize, frame: &[u8]) {
    let Some(open) = ports.get(port) else { return };
    let parts = [io::IoSlice::new(&[0; super::tap::VNET_HEADER_LENGTH]), io::IoSlice::new(frame)];
    if let Err(error) = open.device.write_parts(&parts) {
        tracing::debug!(%error, device = open.device.name(), "a frame could not be written to the port");
    }
}

/// An event in the words of people, with the guest's name and home address.
fn tell(policy: &Policy, guest: GuestId, event: &Event, now: Instant) {
    let Some(GuestPolicy { name: guest, home_address, .. }) = policy.guests.get(guest.0) else { return };
    let text = event.describe(now);
    match event {
        Event::Discarded(_) => tracing::debug!(guest, %home_address, "{text}"),
        _ if event.is_trouble() => tracing::warn!(guest, %home_address, "{text}"),
        _ => tracing::info!(guest, %home_address, "{text}"),
    }
}

fn tell_sighting(policy: &Policy, guest: GuestId, how: Sighting) {
    let Some(GuestPolicy { name: guest, home_address, .. }) = policy.guests.get(guest.0) else { return };
    let by = match how {
        Sighting::Frame => "a frame of it",
        Sighting::Rarp => "its hypervisor's announcement after a migration",
        Sighting::UnsolicitedAdvertisement => "its own announcement",
    };
    tracing::info!(guest, %home_address, "the guest is on its port, seen by {by}");
}
