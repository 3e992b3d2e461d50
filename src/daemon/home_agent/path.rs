//! The packet path of the home-agent role: a thread for each direction.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use tokio::sync::Notify;

use crate::daemon::engine::STACK;
use crate::daemon::engine::core::{Core, address_at};
use crate::daemon::engine::keeper::Wanted;
use crate::daemon::engine::paths::{Ends, Paths};
use crate::daemon::engine::receive::{Exit, Receiver};
use crate::daemon::engine::transmit::{Judge, Lane};
use crate::daemon::engine::writer::{Front, write_groups};
use crate::daemon::shared::{Reader, Shared};
use crate::daemon::tap::Device;
use crate::ipsec::Class;
use crate::tunnel::coalesce::Coalescer;
use crate::tunnel::home_agent::{from_mobile_node_offloaded, to_mobile_node_offloaded};
use crate::tunnel::ingress::Forward;
use crate::tunnel::{Egress, ErrorLimits, HomeAgentTable, Ingress, Offload, Outer, Reason, inner_mtu};
use crate::vocabulary::GuestId;
use crate::wire::ipv6::offset::{DESTINATION, SOURCE};

/// The packet path: between the TUN that the kernel routes bound home addresses to, and the tunnel.
#[derive(Debug, Clone)]
pub(in crate::daemon) struct Path {
    pub(in crate::daemon) core: Core,
    pub(in crate::daemon) tun: Arc<Device>,
    pub(in crate::daemon) table: Arc<Shared<HomeAgentTable>>,
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
    /// Replaces what the threads read.
    pub(in crate::daemon) fn publish(&self, table: HomeAgentTable) {
        let wanted = table.entries().iter().filter_map(|entry| {
            let care_of = entry.care_of.filter(|_| !entry.protected.has(Class::TunnelPayload))?;
            let ends = Ends { source: table.home_agent(), destination: care_of };
            Some(Wanted { ends, home_address: Some(entry.home_address) })
        });
        let wanted = wanted.collect();
        self.core.keeper.acceleration().bindings_changed(&table);
        self.table.replace(table);
        self.core.keeper.want(wanted);
    }

    /// Starts a thread for each direction.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub(in crate::daemon) fn start(&self) -> io::Result<()> {
        let thread = |name: &str| thread::Builder::new().name(name.to_owned()).stack_size(STACK);
        let path = self.clone();
        thread("to-guests").spawn(move || {
            let _watch = Watch(Arc::clone(&path.lost));
            let Core { keeper, entrance, tally, .. } = path.core.clone();
            let (sender, paths, device) = (path.core.sender(), keeper.paths().reader(), Arc::clone(&path.tun));
            let judge = ToGuests { table: path.table.reader(), limits: ErrorLimits::default(), path };
            Lane::new(judge, device, sender, paths, entrance, Arc::clone(&tally.all)).run();
        })?;
        let path = self.clone();
        thread("from-guests").spawn(move || {
            let _watch = Watch(Arc::clone(&path.lost));
            let Core { tunnel, keeper, tally, .. } = path.core.clone();
            let exit = FromGuests { table: path.table.reader(), path };
            Receiver::new(exit, tunnel, keeper, Arc::clone(&tally.all)).run();
        })?;
        Ok(())
    }

    fn answer(&self, packet: &[u8]) {
        if let Err(error) = Front::tun(&self.tun, None).write(std::iter::once(packet)) {
            tracing::debug!(%error, "a packet could not be written to the TUN");
            self.core.tally.reason(None, Reason::SendFailed, 1);
        }
    }
}

/// The guest whose home address stands at `offset` of a packet.
fn guest_of(table: &HomeAgentTable, packet: &[u8], offset: usize) -> Option<GuestId> {
    Some(table.by_home_address(address_at(packet, offset)?)?.guest)
}

/// From the TUN into the tunnel.
struct ToGuests {
    table: Reader<HomeAgentTable>,
    limits: ErrorLimits,
    path: Path,
}

/// The table with one guest of it only, where the path to that one takes less than the table says.
fn narrowed(table: &HomeAgentTable, packet: &[u8], paths: &Paths) -> Option<HomeAgentTable> {
    let entry = table.by_home_address(address_at(packet, DESTINATION)?)?;
    let ends = Ends { source: table.home_agent(), destination: entry.care_of? };
    let mtu = paths.get(ends)?.inner_mtu();
    (mtu < entry.mtu && mtu < packet.len()).then(|| table.narrowed(entry.guest, mtu))
}

impl Judge for ToGuests {
    const LINK_HEADER: usize = 0;

    fn judge<'a>(
        &mut self,
        frame: &'a mut [u8],
        offload: Result<Option<Offload>, Reason>,
        paths: &Paths,
        now: Instant,
    ) -> Option<Forward<'a>> {
        let table = self.table.get();
        let guest = guest_of(table, frame, DESTINATION);
        let offload = match offload {
            Ok(offload) => offload,
            Err(reason) => {
                self.path.core.tally.reason(guest, reason, 1);
                return None;
            }
        };
        let narrow = narrowed(table, frame, paths);
        let table = narrow.as_ref().unwrap_or(table);
        let decision = to_mobile_node_offloaded(table, frame, offload, &mut self.limits, now);
        self.path.core.tally.ingress(guest, &decision);
        match decision {
            Ingress::Forward(forward) => Some(forward),
            Ingress::Answer { packet, .. } => {
                self.path.answer(&packet);
                None
            }
            // What an ESP tunnel carries, the kernel's routes keep away from the TUN.
            Ingress::ToKernel { .. } | Ingress::Drop(_) => None,
        }
    }

    /// The path to the mobile node is narrower than was known: the sender is told (RFC 2473 §7.1).
    fn too_big(&mut self, packet: &mut [u8], guest: GuestId, offload: Option<Offload>, mtu: u32, now: Instant) {
        let narrow = self.table.get().narrowed(guest, inner_mtu(mtu as usize));
        match to_mobile_node_offloaded(&narrow, packet, offload, &mut self.limits, now) {
            // The path became wider meanwhile; the sender repeats what it needs.
            Ingress::Forward(_) => self.path.core.tally.reason(Some(guest), Reason::SendFailed, 1),
            decision => {
                self.path.core.tally.ingress(Some(guest), &decision);
                if let Ingress::Answer { packet, .. } = decision {
                    self.path.answer(&packet);
                }
            }
        }
    }

    fn released(&mut self, _now: Instant) -> Option<Vec<u8>> {
        None
    }

    fn is_holding(&self) -> bool {
        false
    }

    fn lost(&mut self) {
        tracing::error!("the TUN was removed by somebody else");
    }
}

/// From the tunnel to the TUN.
struct FromGuests {
    table: Reader<HomeAgentTable>,
    path: Path,
}

impl Exit for FromGuests {
    type To = ();

    fn begin(&mut self) {
        self.table.get();
    }

    fn judge<'a>(&self, outer: Outer, packet: &'a mut [u8], offload: Option<Offload>, out: &mut Coalescer<'a, ()>) {
        let table = self.table.seen();
        let guest = guest_of(table, packet, SOURCE);
        let decision = from_mobile_node_offloaded(table, outer, packet, offload);
        self.path.core.tally.egress(guest, &decision);
        if let Egress::Deliver(deliver) = decision {
            out.push((), deliver.packet, deliver.offload);
        }
    }

    fn joins_datagrams(&self) -> bool {
        self.path.tun.takes_whole_datagrams()
    }

    fn write(&self, out: &Coalescer<'_, ()>) {
        write_groups(out, &self.path.core.tally.all, |(), offload| Some(Front::tun(&self.path.tun, offload)));
    }
}
