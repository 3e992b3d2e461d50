//! The way through the kernel's ESP tunnels, for guests of the class `tunnel-payload` (RFC 3776 §3.4): a TUN.
//!
//! What a guest sends is written to the TUN, and the kernel forwards it: by its security policies into ESP, or nowhere. What comes out of
//! ESP the kernel routes to the TUN (`kernel_state::ESP_TUNNEL_TABLE`), where it is read for the guest.

use std::io;
use std::sync::Arc;

use super::Error;
use super::netlink::query::Query;
use super::tap::{self, Device};
use crate::ipsec::Class;
use crate::kernel_state::ESP_TUNNEL_LINK;
use crate::policy::{Policy, Protection, Role};

/// The longest packet: what fits a guest's link is looked at when it is delivered.
const MTU: u32 = 65_535;

/// Whether a policy has guests on this host whose data go through ESP tunnels.
pub fn is_wanted(policy: &Policy) -> bool {
    is_wanted_by(policy.role, policy.guests.iter().map(|guest| &guest.protection))
}

/// The same of a role and the protection of its guests.
pub fn is_wanted_by<'a>(role: Role, mut protections: impl Iterator<Item = &'a Protection>) -> bool {
    role == Role::MobileNode && protections.any(|protection| protection.has(Class::TunnelPayload))
}

/// Makes the TUN.
///
/// # Errors
/// This host does not forward, or the kernel refuses.
pub fn open() -> Result<Arc<Device>, Error> {
    let failed = |source| Error::socket("the TUN of ESP tunnels", source);
    let device = make().map_err(failed)?;
    tap::let_forward(ESP_TUNNEL_LINK).map_err(|_| Error::NotForwardingForGuests)?;
    Ok(Arc::new(device))
}

/// The TUN alone, whether the host forwards or not.
///
/// # Errors
/// The kernel refuses.
pub fn make() -> io::Result<Device> {
    let device = Device::tun(ESP_TUNNEL_LINK)?;
    tap::no_link_local(ESP_TUNNEL_LINK)?;
    Query::open()?.bring_up(ESP_TUNNEL_LINK, MTU)?;
    Ok(device)
}
