//! The way through the kernel's ESP tunnels, for guests of the class `tunnel-payload` (RFC 3776 §3.4): a TUN.
//!
//! What a guest sends is written to the TUN, and the kernel forwards it: by its security policies into ESP, or nowhere. What comes out of
//! ESP the kernel routes to the TUN (`kernel_state::ESP_TUNNEL_TABLE`), where it is read for the guest.

use std::sync::Arc;
use std::time::Instant;

use super::Error;
use super::engine::paths::Paths;
use super::engine::transmit::Judge;
use super::netlink::query::Query;
use super::packet_path::{PacketPath, Report, View, guest_of};
use super::shared::Reader;
use super::tap::{self, Device};
use crate::ipsec::Class;
use crate::kernel_state::ESP_TUNNEL_LINK;
use crate::policy::{Policy, Role};
use crate::tunnel::coalesce::Coalescer;
use crate::tunnel::ingress::Forward;
use crate::tunnel::{Egress, Offload, Reason, egress};
use crate::vocabulary::GuestId;

/// The longest packet: what fits a guest's link is looked at when it is delivered.
const MTU: u32 = 65_535;

/// Whether a policy has guests on this host whose data go through ESP tunnels.
pub fn is_wanted(policy: &Policy) -> bool {
    let payload = |guest: &crate::policy::GuestPolicy| guest.protection.classes.contains_key(&Class::TunnelPayload);
    policy.role == Role::MobileNode && policy.guests.iter().any(payload)
}

/// Makes the TUN.
///
/// # Errors
/// This host does not forward, or the kernel refuses.
pub fn open() -> Result<Arc<Device>, Error> {
    let failed = |source| Error::socket("the TUN of ESP tunnels", source);
    let device = Device::tun(ESP_TUNNEL_LINK).map_err(failed)?;
    tap::no_link_local(ESP_TUNNEL_LINK).map_err(failed)?;
    tap::let_forward(ESP_TUNNEL_LINK).map_err(|_| Error::NotForwardingForGuests)?;
    Query::open().and_then(|mut query| query.bring_up(ESP_TUNNEL_LINK, MTU)).map_err(failed)?;
    Ok(Arc::new(device))
}

/// From the TUN to the guests.
pub struct FromKernel {
    /// The table and the devices.
    pub view: Reader<View>,
    /// Counters and reports.
    pub path: PacketPath,
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
        tracing::warn!(device = ESP_TUNNEL_LINK, "the TUN of ESP tunnels was removed by somebody else");
        let _ = self.path.reports.blocking_send(Report::EspTunnelLost);
    }
}
