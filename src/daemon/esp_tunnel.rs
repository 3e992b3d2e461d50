//! The way through the kernel's ESP tunnels, for guests of the class `tunnel-payload` (RFC 3776 §3.4): a TUN.
//!
//! What a guest sends is written to the TUN, and the kernel forwards it: by its security policies into ESP, or nowhere. What comes out of
//! ESP the kernel routes to the TUN (`kernel_state::ESP_TUNNEL_TABLE`), where it is read for the guest.

use std::sync::Arc;

use super::Error;
use super::netlink::query::Query;
use super::tap::{self, Device};
use crate::ipsec::Class;
use crate::kernel_state::ESP_TUNNEL_LINK;
use crate::policy::{GuestPolicy, Policy, Role};

/// The longest packet: what fits a guest's link is looked at when it is delivered.
const MTU: u32 = 65_535;

/// Whether a policy has guests on this host whose data go through ESP tunnels.
pub fn is_wanted(policy: &Policy) -> bool {
    let payload = |guest: &GuestPolicy| guest.protection.classes.contains_key(&Class::TunnelPayload);
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
