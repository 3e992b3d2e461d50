//! The packet path of the home-agent role: a thread for each direction.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::thread;

use tokio::sync::Notify;

use super::PACKET_LIMIT;
use crate::daemon::clock;
use crate::daemon::pace::Patience;
use crate::daemon::raw_socket::ReceiveBuffer;
use crate::daemon::shared::Shared;
use crate::daemon::tap::{self, Device, VNET_HEADER_LENGTH};
use crate::daemon::tunnel_socket::{Sent, TunnelSocket};
use crate::tunnel::home_agent::{from_mobile_node, to_mobile_node};
use crate::tunnel::{Counters, Egress, ErrorLimits, HomeAgentTable, Ingress, Offload, Outer, Reason, inner_mtu, vnet};
use crate::vocabulary::GuestId;

/// The packet path: between the TUN that the kernel routes bound home addresses to, and the tunnel.
#[derive(Debug, Clone)]
pub(in crate::daemon) struct Path {
    pub(in crate::daemon) tunnel: Arc<TunnelSocket>,
    pub(in crate::daemon) tun: Arc<Device>,
    pub(in crate::daemon) table: Arc<Shared<HomeAgentTable>>,
    pub(in crate::daemon) counters: Arc<Counters>,
    /// Rung when a thread has ended: the TUN is gone, or it has panicked.
    pub(in crate::daemon) lost: Arc<Notify>,
}

/// Rings when its thread ends, in whatever way.
struct Watch(Arc<Notify>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl Path {
    /// Starts a thread for each direction.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub(in crate::daemon) fn start(self) -> io::Result<()> {
        let other = self.clone();
        let thread = |name: &str| thread::Builder::new().name(name.to_owned());
        thread("to-guests").spawn(move || {
            let _watch = Watch(Arc::clone(&self.lost));
            self.run_to_guests();
        })?;
        thread("from-guests").spawn(move || {
            let _watch = Watch(Arc::clone(&other.lost));
            other.run_from_guests();
        })?;
        Ok(())
    }

    fn run_to_guests(&self) {
        let mut table = self.table.reader();
        let mut limits = ErrorLimits::default();
        let mut patience = Patience::default();
        let mut buffer = vec![0; VNET_HEADER_LENGTH + PACKET_LIMIT];
        loop {
            match self.tun.read(&mut buffer) {
                Ok(length) => {
                    patience.renew();
                    if let Some(packet) = buffer.get_mut(VNET_HEADER_LENGTH..length) {
                        self.to_guest(table.get(), packet, &mut limits);
                    }
                }
                Err(error) if tap::is_gone(&error) => {
                    tracing::error!("the TUN was removed by somebody else");
                    return;
                }
                Err(error) => {
                    tracing::debug!(%error, "cannot read from the TUN");
                    thread::sleep(patience.take());
                }
            }
        }
    }

    fn to_guest(&self, table: &HomeAgentTable, packet: &mut [u8], limits: &mut ErrorLimits) {
        let decision = to_mobile_node(table, packet, limits, clock::now());
        self.counters.count_ingress(&decision);
        match decision {
            Ingress::Forward(forward) => {
                let guest = forward.guest;
                match self.tunnel.send(forward.source, forward.destination, forward.traffic_class, forward.packet) {
                    Sent::Yes => {}
                    Sent::TooBig(mtu) => self.too_big(table, guest, mtu, packet, limits),
                    Sent::No(error) => {
                        tracing::debug!(%error, %guest, "a packet could not be sent through the tunnel");
                        self.counters.count(Reason::SendFailed);
                    }
                }
            }
            Ingress::Answer { packet, .. } => self.write(None, &packet),
            Ingress::Drop(_) => {}
        }
    }

    /// The path to the mobile node is narrower than the table knows: its sender is told (RFC 2473 §7.1).
    fn too_big(
        &self,
        table: &HomeAgentTable,
        guest: GuestId,
        path_mtu: u32,
        packet: &mut [u8],
        limits: &mut ErrorLimits,
    ) {
        let narrow = table.narrowed(guest, inner_mtu(path_mtu as usize));
        let decision = to_mobile_node(&narrow, packet, limits, clock::now());
        if let Ingress::Forward(_) = decision {
            // The path became wider meanwhile; the sender repeats what it needs.
            return self.counters.count(Reason::SendFailed);
        }
        self.counters.count_ingress(&decision);
        if let Ingress::Answer { packet, .. } = decision {
            self.write(None, &packet);
        }
    }

    fn run_from_guests(&self) {
        let mut table = self.table.reader();
        let mut patience = Patience::default();
        let mut buffer = ReceiveBuffer::new(PACKET_LIMIT);
        loop {
            match self.tunnel.receive(&mut buffer) {
                Ok(arrival) => {
                    patience.renew();
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
                Err(error) => {
                    tracing::debug!(%error, "the tunnel socket reports");
                    thread::sleep(patience.take());
                }
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
