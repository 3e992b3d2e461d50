//! The packet path of the mobile-node role: a thread for each port (guest to tunnel) and one for the tunnel (tunnel to guests). They read
//! a table that is replaced as a whole, and report what they cannot decide to the event loop.

use std::io::IoSlice;
use std::sync::Arc;
use std::thread;

use tokio::sync::mpsc::Sender;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::clock;
use super::pace::Patience;
use super::raw_socket::ReceiveBuffer;
use super::shared::Shared;
use super::tap::{self, Device, VNET_HEADER_LENGTH};
use super::tunnel_socket::{Sent, TunnelSocket};
use crate::home_network::{self, PortGuests, Verdict};
use crate::tunnel::routing_header::{consume_type2_routing_header, strip_type2_routing_header};
use crate::tunnel::{Counters, Egress, Entry, ErrorLimits, Ingress, Outer, Reason, Table, egress, ingress, vnet};
use crate::vocabulary::{GuestId, MacAddress};
use crate::wire::ethernet;

/// Longest frame read from a port: a TAP without offloads never gives more than its MTU, and MTUs are at most 64 KiB.
const FRAME_LIMIT: usize = 65_536 + VNET_HEADER_LENGTH + ethernet::HEADER_LENGTH;
/// Longest inner packet received: the kernel's receive offload merges up to 64 KiB.
const PACKET_LIMIT: usize = 65_536;
/// Frames of one port that wait for the event loop before more are dropped: no guest fills the queue of the others.
pub const FRAMES_PER_PORT: usize = 64;
/// Offset of the hop limit in an IPv6 header.
const HOP_LIMIT: usize = 7;

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
}

/// What the threads of one host share.
#[derive(Debug, Clone)]
pub struct PacketPath {
    /// The sockets of the tunnel.
    pub socket: Arc<TunnelSocket>,
    /// What they read.
    pub view: Arc<Shared<View>>,
    /// What they count.
    pub counters: Arc<Counters>,
    /// Counters of frames that never became data, by port number.
    pub frames: Vec<Arc<home_network::Counters>>,
    /// Where they report to.
    pub reports: Sender<Report>,
}

/// What the thread of a port has for itself.
struct PortReader<'a> {
    number: usize,
    device: &'a Device,
    limits: ErrorLimits,
    places: Arc<Semaphore>,
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
    /// Starts the thread from a port into the tunnel.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start_port(&self, port: usize, device: Arc<Device>) -> std::io::Result<()> {
        let path = self.clone();
        thread::Builder::new().name(format!("port-{port}")).spawn(move || {
            let _watch = Watch(path.reports.clone());
            path.run_port(port, &device);
        })?;
        Ok(())
    }

    /// Starts the thread from the tunnel to the guests.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start_tunnel(&self) -> std::io::Result<()> {
        let path = self.clone();
        thread::Builder::new().name("tunnel".to_owned()).spawn(move || {
            let _watch = Watch(path.reports.clone());
            path.run_tunnel();
        })?;
        Ok(())
    }

    fn run_port(&self, port: usize, device: &Device) {
        let mut reader = PortReader {
            number: port,
            device,
            limits: ErrorLimits::default(),
            places: Arc::new(Semaphore::new(FRAMES_PER_PORT)),
        };
        let mut view = self.view.reader();
        let mut patience = Patience::default();
        let mut buffer = vec![0; FRAME_LIMIT];
        loop {
            match device.read(&mut buffer) {
                Ok(length) => {
                    patience.renew();
                    if let Some(frame) = buffer.get_mut(VNET_HEADER_LENGTH..length) {
                        self.take_frame(&mut reader, frame, view.get());
                    }
                }
                Err(error) if tap::is_gone(&error) => {
                    tracing::warn!(device = device.name(), "our TAP was removed by somebody else");
                    let _ = self.reports.blocking_send(Report::PortLost { port });
                    return;
                }
                Err(error) => {
                    tracing::debug!(device = device.name(), %error, "cannot read from the port");
                    thread::sleep(patience.take());
                }
            }
        }
    }

    fn take_frame(&self, reader: &mut PortReader<'_>, frame: &mut [u8], view: &View) {
        let PortReader { number: port, device, limits, places } = reader;
        let Some(settings) = view.ports.get(*port) else { return };
        match home_network::classify(frame, settings) {
            Verdict::Data { guest, packet } => {
                let (Some(entry), Some(packet)) = (view.table.by_guest(guest), frame.get_mut(packet)) else {
                    return self.counters.count(Reason::NotBound);
                };
                if let Some(answer) = self.carry(entry, packet, limits) {
                    let mac = view.router_macs.get(*port).copied().unwrap_or(MacAddress([0; 6]));
                    let to = egress::Port { guest, port: *port, mac: entry.mac };
                    self.to_guest(device, &to.ethernet_header(mac), &vnet::header(None, 0), &answer);
                }
            }
            Verdict::ToNetwork => {
                // When the event loop is behind, a neighbour solicitation is lost, and asked again.
                let report = Arc::clone(places).try_acquire_owned().ok();
                let report = report.map(|place| Report::Frame { port: *port, frame: frame.to_vec(), place });
                if report.is_none_or(|report| self.reports.try_send(report).is_err()) {
                    self.count_frame(*port, home_network::Reason::QueueFull);
                }
            }
            Verdict::Drop(reason) => self.count_frame(*port, reason),
        }
    }

    fn count_frame(&self, port: usize, reason: home_network::Reason) {
        if let Some(counters) = self.frames.get(port) {
            counters.count(reason);
        }
    }

    /// Sends a guest's packet, and returns what the guest has to be told instead where it cannot be sent.
    fn carry(&self, entry: &Entry, packet: &mut [u8], limits: &mut ErrorLimits) -> Option<Vec<u8>> {
        let hop_limit = packet.get(HOP_LIMIT).copied();
        let decision = ingress::process(entry, packet, limits, clock::now());
        self.counters.count_ingress(&decision);
        let forward = match decision {
            Ingress::Forward(forward) => forward,
            Ingress::Answer { packet, .. } => return Some(packet),
            Ingress::Drop(_) => return None,
        };
        match self.socket.send(forward.source, forward.destination, forward.traffic_class, forward.packet) {
            Sent::Yes => None,
            Sent::No(error) => {
                tracing::debug!(%error, guest = %entry.guest, "a packet could not be sent through the tunnel");
                self.counters.count(Reason::SendFailed);
                None
            }
            Sent::TooBig(mtu) => {
                let _ = self.reports.try_send(Report::PathMtu { guest: entry.guest, mtu });
                // The packet as it came: it is told back, and its hop limit is looked at again.
                if let (Some(octet), Some(hop_limit)) = (packet.get_mut(HOP_LIMIT), hop_limit) {
                    *octet = hop_limit;
                }
                let smaller = Entry { mtu: crate::tunnel::inner_mtu(mtu as usize), ..entry.clone() };
                let decision = ingress::process(&smaller, packet, limits, clock::now());
                if let Ingress::Forward(_) = decision {
                    // The path became wider meanwhile; the sender repeats what it needs.
                    self.counters.count(Reason::SendFailed);
                    return None;
                }
                self.counters.count_ingress(&decision);
                match decision {
                    Ingress::Answer { packet, .. } => Some(packet),
                    Ingress::Forward(_) | Ingress::Drop(_) => None,
                }
            }
        }
    }

    fn run_tunnel(&self) {
        let mut view = self.view.reader();
        let mut patience = Patience::default();
        let mut buffer = ReceiveBuffer::new(PACKET_LIMIT);
        loop {
            match self.socket.receive(&mut buffer) {
                Ok(arrival) => {
                    patience.renew();
                    let outer = Outer {
                        source: arrival.source,
                        destination: arrival.destination,
                        traffic_class: arrival.traffic_class,
                    };
                    let view = view.get();
                    self.out_of_tunnel(egress::process(&view.table, outer, arrival.packet), view);
                }
                Err(error) if error.kind() == std::io::ErrorKind::InvalidData => self.counters.count(Reason::BadHeader),
                // ICMPv6 errors about what we sent come back as errors of the socket; they end nothing.
                Err(error) => {
                    tracing::debug!(%error, "the tunnel socket reports");
                    thread::sleep(patience.take());
                }
            }
        }
    }

    /// Takes a packet of the home agent itself that came by type 2 routing header (RFC 6275 §6.4), as it was on the wire.
    pub fn routed(&self, view: &View, packet: &mut [u8]) {
        if !consume_type2_routing_header(packet) {
            return;
        }
        self.out_of_tunnel(strip_type2_routing_header(&view.table, packet), view);
    }

    fn out_of_tunnel(&self, decision: Egress<'_>, view: &View) {
        self.counters.count_egress(&decision);
        let Egress::Deliver(deliver) = decision else { return };
        let to = deliver.to;
        if let (Some(device), Some(mac)) = (view.devices.get(to.port), view.router_macs.get(to.port)) {
            let header = vnet::header(deliver.offload.as_ref(), ethernet::HEADER_LENGTH as u16);
            self.to_guest(device, &to.ethernet_header(*mac), &header, deliver.packet);
        }
    }

    fn to_guest(&self, device: &Device, ethernet: &[u8], vnet: &[u8], packet: &[u8]) {
        let parts = [IoSlice::new(vnet), IoSlice::new(ethernet), IoSlice::new(packet)];
        if let Err(error) = device.write_parts(&parts) {
            tracing::debug!(%error, device = device.name(), "a frame could not be written to the port");
            self.counters.count(Reason::SendFailed);
        }
    }
}
