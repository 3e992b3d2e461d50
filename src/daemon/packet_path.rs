//! The packet path of the mobile-node role: a thread for each port (guest to tunnel) and one for the tunnel (tunnel to guests). They read
//! a table that is replaced as a whole, and report what they cannot decide to the event loop.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use tokio::sync::mpsc::Sender;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::engine::STACK;
use super::engine::core::{Core, address_at};
use super::engine::keeper::Wanted;
use super::engine::paths::{Ends, Paths};
use super::engine::receive::{Exit, Receiver};
use super::engine::transmit::{Judge, Lane};
use super::engine::writer::{Front, write_groups};
use super::shared::{Reader, Shared};
use super::tap::Device;
use crate::home_network::{self, PortGuests, Verdict};
use crate::ipsec::Class;
use crate::tunnel::coalesce::Coalescer;
use crate::tunnel::hold::{Bounds, HoldQueue};
use crate::tunnel::ingress::Forward;
use crate::tunnel::routing_header::{consume_type2_routing_header, strip_type2_routing_header};
use crate::tunnel::{
    Carrier, Egress, Entry, ErrorLimits, Ingress, Offload, Outer, Reason, Table, egress, ingress, inner_mtu, vnet,
};
use crate::vocabulary::{GuestId, MacAddress};
use crate::wire::{ethernet, ipv6};

/// Frames of one port that wait for the event loop before more are dropped, so that no port fills the queue of the others: so many,
const FRAMES_PER_PORT: usize = 64;
/// and so many for each of its guests, which may all come at once, each with an announcement and what its kernel says on a new link.
const FRAMES_PER_GUEST: usize = 8;
/// What is longer is none that the event loop answers; that its guest is here, its beginning tells.
const LONGEST_REPORTED: usize = 2048;

/// What the packet path tells the event loop.
#[derive(Debug)]
pub enum Report {
    /// A frame for the pseudo home network of a port.
    Frame {
        /// Which port.
        port: usize,
        /// The Ethernet frame.
        frame: Vec<u8>,
        /// The frame's place in its port's share of the queue, given back when it was handled.
        place: OwnedSemaphorePermit,
    },
    /// A thread has panicked.
    ThreadDied,
    /// The device of a port is gone, and with it the thread that read it.
    PortLost {
        /// Which port.
        port: usize,
    },
    /// The TUN of ESP tunnels is gone, and with it the thread that read it.
    EspTunnelLost,
    /// The path to the home agent of a guest has this MTU.
    PathMtu {
        /// Whose packet found out.
        guest: GuestId,
        /// Octets.
        mtu: u32,
    },
}

/// What the threads read.
#[derive(Debug, Clone)]
pub struct View {
    /// The tunnel's table.
    pub table: Table,
    /// What each port needs to tell data from neighbour discovery, by port number.
    pub ports: Vec<Arc<PortGuests>>,
    /// The devices, by port number.
    pub devices: Vec<Arc<Device>>,
    /// Source of frames to the guests, by port number.
    pub router_macs: Vec<MacAddress>,
    /// The TUN of ESP tunnels, where guests have some.
    pub esp_tunnels: Option<Arc<Device>>,
}

/// What the threads of one host share.
#[derive(Debug, Clone)]
pub struct PacketPath {
    /// The engine.
    pub core: Core,
    /// What they read.
    pub view: Arc<Shared<View>>,
    /// Counters of frames that never became data, by port number.
    pub frames: Vec<Arc<home_network::Counters>>,
    /// Where they report to.
    pub reports: Sender<Report>,
}

/// Tells the event loop when its thread panics: guests without a packet path must not look served.
struct Watch(Sender<Report>);

impl Drop for Watch {
    fn drop(&mut self) {
        if thread::panicking() {
            let _ = self.0.blocking_send(Report::ThreadDied);
        }
    }
}

impl PacketPath {
    /// Replaces what the threads read. The ways of the tunnels `expected` are made known as well: a guest may need one at once.
    pub fn publish(&self, view: View, expected: impl Iterator<Item = Carrier>) {
        // What goes by an ESP tunnel does not go by these ways, whether they are known or not: `ingress` and the accelerator's entries see to that.
        let ours = view.table.entries().iter().filter(|entry| !entry.protected.has(Class::TunnelPayload));
        let wanted = ours
            .filter_map(|entry| entry.carrier)
            .chain(expected)
            .map(|carrier| Wanted { ends: ends(carrier), home_address: None })
            .collect();
        self.core.keeper.acceleration().guests_changed(&view.table);
        self.view.replace(view);
        self.core.keeper.want(wanted);
    }

    /// Starts the thread from a port into the tunnel.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start_port(&self, port: usize, device: Arc<Device>) -> io::Result<()> {
        let path = self.clone();
        thread::Builder::new().name(format!("port-{port}")).stack_size(STACK).spawn(move || {
            let _watch = Watch(path.reports.clone());
            let judge = PortJudge {
                number: port,
                device: Arc::clone(&device),
                limits: ErrorLimits::default(),
                places: Places::default(),
                view: path.view.reader(),
                held: HoldQueue::new(Bounds::default()),
                released: VecDeque::new(),
                path: path.clone(),
            };
            let Core { keeper, entrance, tally, .. } = path.core.clone();
            let (sender, paths) = (path.core.sender(), keeper.paths().reader());
            Lane::new(judge, device, sender, paths, entrance, Arc::clone(&tally.all)).run();
        })?;
        Ok(())
    }

    /// Starts the thread from the tunnel to the guests.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start_tunnel(&self) -> io::Result<()> {
        let path = self.clone();
        thread::Builder::new().name("tunnel".to_owned()).stack_size(STACK).spawn(move || {
            let _watch = Watch(path.reports.clone());
            let Core { tunnel, keeper, tally, .. } = path.core.clone();
            let exit = PortExit { view: path.view.reader(), path };
            Receiver::new(exit, tunnel, keeper, Arc::clone(&tally.all)).run();
        })?;
        Ok(())
    }

    /// Starts the thread from the kernel's ESP tunnels to the guests.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start_esp_tunnels(&self, device: Arc<Device>) -> io::Result<()> {
        let path = self.clone();
        thread::Builder::new().name("esp-tunnels".to_owned()).stack_size(STACK).spawn(move || {
            let _watch = Watch(path.reports.clone());
            let (core, view) = (path.core.clone(), path.view.reader());
            let paths = core.keeper.paths().reader();
            Lane::new(FromKernel { view, path }, device, core.sender(), paths, None, Arc::clone(&core.tally.all)).run();
        })?;
        Ok(())
    }

    /// Takes a packet of the home agent itself that came by type 2 routing header (RFC 6275 §6.4), as it was on the wire.
    pub fn routed(&self, view: &View, packet: &mut [u8]) {
        if !consume_type2_routing_header(packet) {
            return;
        }
        let guest = guest_of(view, packet);
        let decision = strip_type2_routing_header(&view.table, packet);
        self.core.tally.egress(guest, &decision);
        if let Egress::Deliver(deliver) = decision {
            let mut out = Coalescer::new(false);
            out.push(deliver.to, deliver.packet, deliver.offload);
            self.to_guests(view, &out);
        }
    }

    fn to_guests(&self, view: &View, out: &Coalescer<'_, egress::Port>) {
        write_groups(out, &self.core.tally.all, |to, offload| {
            let ethernet = to.ethernet_header(*view.router_macs.get(to.port)?);
            Some(Front::tap(view.devices.get(to.port)?, ethernet, offload))
        });
    }
}

fn ends(carrier: Carrier) -> Ends {
    Ends { source: carrier.care_of, destination: carrier.home_agent }
}

/// The guest whose home address a packet is for.
fn guest_of(view: &View, packet: &[u8]) -> Option<GuestId> {
    Some(view.table.by_home_address(address_at(packet, ipv6::offset::DESTINATION)?)?.guest)
}

/// A port's share of the queue to the event loop. It grows with the guests of the port, and never shrinks.
#[derive(Debug)]
struct Places {
    free: Arc<Semaphore>,
    guests: usize,
}

impl Default for Places {
    fn default() -> Self {
        Self { free: Arc::new(Semaphore::new(FRAMES_PER_PORT)), guests: 0 }
    }
}

impl Places {
    /// One place, when there is one for a port of so many guests.
    fn take(&mut self, guests: usize) -> Option<OwnedSemaphorePermit> {
        if guests > self.guests {
            self.free.add_permits((guests - self.guests) * FRAMES_PER_GUEST);
            self.guests = guests;
        }
        Arc::clone(&self.free).try_acquire_owned().ok()
    }
}

/// From a port into the tunnel.
struct PortJudge {
    number: usize,
    device: Arc<Device>,
    limits: ErrorLimits,
    places: Places,
    view: Reader<View>,
    held: HoldQueue<Vec<u8>>,
    released: VecDeque<Vec<u8>>,
    path: PacketPath,
}

impl PortJudge {
    fn count_frame(&self, reason: home_network::Reason) {
        if let Some(counters) = self.path.frames.get(self.number) {
            counters.count(reason);
        }
    }

    fn report_frame(&mut self, frame: &[u8]) {
        // When the event loop is behind, a neighbour solicitation is lost, and asked again.
        let guests = self.view.seen().ports.get(self.number).map_or(0, |guests| guests.all().len());
        let frame = frame.get(..LONGEST_REPORTED).unwrap_or(frame).to_vec();
        let report = self.places.take(guests).map(|place| Report::Frame { port: self.number, frame, place });
        if report.is_none_or(|report| self.path.reports.try_send(report).is_err()) {
            self.count_frame(home_network::Reason::QueueFull);
        }
    }

    /// Keeps the packet of a guest that has no tunnel now.
    fn hold(&mut self, guest: GuestId, frame: &[u8], offload: Option<&Offload>, now: Instant) {
        let kept = [&vnet::header(offload, ethernet::HEADER_LENGTH as u16)[..], frame].concat();
        let octets = kept.len();
        if self.held.push(guest, kept, octets, now).is_err() {
            let reason = if self.held.is_waiting() { Reason::NotHeld } else { Reason::NotBound };
            self.path.core.tally.reason(Some(guest), reason, 1);
        }
    }

    fn answer(&self, guest: GuestId, mac: MacAddress, router_mac: MacAddress, packet: &[u8]) {
        let ethernet = egress::Port { guest, port: self.number, mac }.ethernet_header(router_mac);
        if let Err(error) = Front::tap(&self.device, ethernet, None).write(std::iter::once(packet)) {
            tracing::debug!(%error, device = self.device.name(), "a frame could not be written to the port");
            self.path.core.tally.reason(Some(guest), Reason::SendFailed, 1);
        }
    }
}

/// The entry of a guest whose path may take less than the table says.
fn narrowed(entry: &Entry, paths: &Paths) -> Entry {
    let path = entry.carrier.and_then(|carrier| paths.get(ends(carrier)));
    Entry { mtu: path.map_or(entry.mtu, |path| entry.mtu.min(path.inner_mtu())), ..entry.clone() }
}

impl Judge for PortJudge {
    const LINK_HEADER: usize = ethernet::HEADER_LENGTH;

    fn judge<'a>(
        &mut self,
        frame: &'a mut [u8],
        offload: Result<Option<Offload>, Reason>,
        paths: &Paths,
        now: Instant,
    ) -> Option<Forward<'a>> {
        let view = self.view.get();
        let settings = view.ports.get(self.number)?;
        let (guest, packet) = match home_network::classify(frame, settings) {
            Verdict::Data { guest, packet } => (guest, packet),
            Verdict::ToNetwork => {
                self.report_frame(frame);
                return None;
            }
            Verdict::Drop(reason) => {
                self.count_frame(reason);
                return None;
            }
        };
        let router_mac = view.router_macs.get(self.number).copied().unwrap_or(MacAddress([0; 6]));
        let (entry, offload) = match (view.table.by_guest(guest), offload) {
            (Some(entry), Ok(offload)) => (narrowed(entry, paths), offload),
            (None, _) => {
                self.path.core.tally.reason(Some(guest), Reason::NotBound, 1);
                return None;
            }
            (_, Err(reason)) => {
                self.path.core.tally.reason(Some(guest), reason, 1);
                return None;
            }
        };
        if entry.carrier.is_none() {
            self.hold(guest, frame, offload.as_ref(), now);
            return None;
        }
        let decision = ingress::process_offloaded(&entry, frame.get_mut(packet)?, offload, &mut self.limits, now);
        self.path.core.tally.ingress(Some(guest), &decision);
        match decision {
            Ingress::Forward(forward) => return Some(forward),
            Ingress::ToKernel { packet, offload } => {
                let device = view.esp_tunnels.as_deref();
                let write = |device| Front::tun(device, offload.as_ref()).write(std::iter::once(packet));
                if device.is_none_or(|device| write(device).is_err()) {
                    self.path.core.tally.reason(Some(guest), Reason::SendFailed, 1);
                }
            }
            Ingress::Answer { packet, reason } => {
                if reason == Reason::PacketTooBig
                    && let Some(path) = entry.carrier.and_then(|carrier| paths.get(ends(carrier)))
                    && path.inner_mtu() == entry.mtu
                {
                    let _ = self.path.reports.try_send(Report::PathMtu { guest, mtu: path.mtu });
                }
                self.answer(guest, entry.mac, router_mac, &packet);
            }
            Ingress::Drop(_) => {}
        }
        None
    }

    fn too_big(&mut self, packet: &mut [u8], guest: GuestId, offload: Option<Offload>, mtu: u32, now: Instant) {
        let _ = self.path.reports.try_send(Report::PathMtu { guest, mtu });
        // The packet as it came: it is told back, and its hop limit is looked at again.
        if let Some(hop_limit) = packet.get_mut(ipv6::offset::HOP_LIMIT) {
            *hop_limit = hop_limit.saturating_add(1);
        }
        let view = self.view.get();
        let router_mac = view.router_macs.get(self.number).copied().unwrap_or(MacAddress([0; 6]));
        let Some(entry) = view.table.by_guest(guest) else { return };
        let smaller = Entry { mtu: inner_mtu(mtu as usize), ..entry.clone() };
        match ingress::process_offloaded(&smaller, packet, offload, &mut self.limits, now) {
            // The path became wider meanwhile; the sender repeats what it needs.
            Ingress::Forward(_) => self.path.core.tally.reason(Some(guest), Reason::SendFailed, 1),
            decision => {
                self.path.core.tally.ingress(Some(guest), &decision);
                if let Ingress::Answer { packet, .. } = decision {
                    self.answer(guest, smaller.mac, router_mac, &packet);
                }
            }
        }
    }

    fn released(&mut self, now: Instant) -> Option<Vec<u8>> {
        if let Some(frame) = self.released.pop_front() {
            return Some(frame);
        }
        for (guest, packets) in self.held.expire(now) {
            self.path.core.tally.reason(Some(guest), Reason::NotBound, packets);
        }
        let view = self.view.get();
        let carried = |guest: &GuestId| view.table.by_guest(*guest).is_none_or(|entry| entry.carrier.is_some());
        let guest = self.held.guests().find(carried)?;
        self.released = self.held.release(guest);
        self.released.pop_front()
    }

    fn is_holding(&self) -> bool {
        self.held.is_waiting()
    }

    fn lost(&mut self) {
        tracing::warn!(device = self.device.name(), "our TAP was removed by somebody else");
        let _ = self.path.reports.blocking_send(Report::PortLost { port: self.number });
    }
}

/// From the tunnel to the guests.
struct PortExit {
    view: Reader<View>,
    path: PacketPath,
}

impl Exit for PortExit {
    type To = egress::Port;

    fn begin(&mut self) {
        self.view.get();
    }

    fn judge<'a>(
        &self,
        outer: Outer,
        packet: &'a mut [u8],
        offload: Option<Offload>,
        out: &mut Coalescer<'a, egress::Port>,
    ) {
        let view = self.view.seen();
        let guest = guest_of(view, packet);
        let decision = egress::process_offloaded(&view.table, outer, packet, offload);
        self.path.core.tally.egress(guest, &decision);
        if let Egress::Deliver(deliver) = decision {
            out.push(deliver.to, deliver.packet, deliver.offload);
        }
    }

    fn joins_datagrams(&self) -> bool {
        self.view.seen().devices.iter().all(|device| device.takes_whole_datagrams())
    }

    fn write(&self, out: &Coalescer<'_, egress::Port>) {
        self.path.to_guests(self.view.seen(), out);
    }
}

/// From the kernel's ESP tunnels to the guests.
struct FromKernel {
    view: Reader<View>,
    path: PacketPath,
}

impl Judge for FromKernel {
    const LINK_HEADER: usize = 0;

    fn judge<'a>(
        &mut self,
        frame: &'a mut [u8],
        offload: Result<Option<Offload>, Reason>,
        _paths: &Paths,
        _now: Instant,
    ) -> Option<Forward<'a>> {
        let view = self.view.get();
        let guest = guest_of(view, frame);
        let decision = match offload {
            Ok(offload) => egress::from_kernel(&view.table, frame, offload),
            Err(reason) => Egress::Drop(reason),
        };
        self.path.core.tally.egress(guest, &decision);
        if let Egress::Deliver(deliver) = decision {
            let mut out = Coalescer::new(false);
            out.push(deliver.to, deliver.packet, deliver.offload);
            self.path.to_guests(view, &out);
        }
        None
    }

    fn too_big(&mut self, _: &mut [u8], _: GuestId, _: Option<Offload>, _: u32, _: Instant) {}

    fn released(&mut self, _now: Instant) -> Option<Vec<u8>> {
        None
    }

    fn is_holding(&self) -> bool {
        false
    }

    fn lost(&mut self) {
        tracing::warn!("the TUN of ESP tunnels was removed by somebody else");
        let _ = self.path.reports.blocking_send(Report::EspTunnelLost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_has_places_for_all_its_guests_at_once_and_no_more() {
        let mut places = Places::default();
        let taken: Vec<_> = std::iter::from_fn(|| places.take(50)).collect();
        assert_eq!(taken.len(), FRAMES_PER_PORT + 50 * FRAMES_PER_GUEST);
        assert!(places.take(49).is_none());
        assert!(places.take(51).is_some());
        drop(taken);
        assert!(places.take(0).is_some());
    }
}
