//! The checks of a binding update that do not need the binding cache (RFC 6275 §9.5.1, §10.3.1, §10.3.2).

use std::mem::discriminant;
use std::net::Ipv6Addr;

use super::output::{Config, DiscardReason, Received};
use crate::vocabulary::{Lifetime, SequenceNumber};
use crate::wire::ipv6::is_unicast_routable;
use crate::wire::mobility::{BindingUpdate, Message, MobilityOption};

/// R of RFC 3963 §4.1 in the flags of a binding update: the sender is a mobile router.
const MOBILE_ROUTER: u16 = 0x0400;

/// A binding update that deserves an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Request {
    pub home_address: Ipv6Addr,
    /// The care-of address to register; the home address when the binding is to be deleted from home.
    pub care_of: Ipv6Addr,
    pub sequence: SequenceNumber,
    pub lifetime: Lifetime,
    /// Whether an acknowledgement of success is wanted (A); refusals are always answered (RFC 6275 §9.5.4).
    pub acknowledge: bool,
    pub mobile_router: bool,
    /// The K bit of an acceptance (RFC 6275 §10.3.1): asked for, and configured here.
    pub key_management_mobility: bool,
    /// Where the answer goes: back to the source address of the packet (RFC 6275 §9.5.4).
    pub reply_via: Option<Ipv6Addr>,
}

impl Request {
    /// Whether it asks for deletion: lifetime zero, or the home address as care-of address (RFC 6275 §9.5.1).
    pub(super) fn is_deletion(&self) -> bool {
        self.lifetime.is_zero() || self.care_of == self.home_address
    }
}

/// Reads a binding update.
pub(super) fn read(config: &Config, received: Received, message: &[u8]) -> Result<Request, DiscardReason> {
    let update = match Message::parse(message).map_err(|_| DiscardReason::Malformed)? {
        Message::BindingUpdate(update) => update,
        Message::Unknown { .. } => return Err(DiscardReason::UnknownType),
        _ => return Err(DiscardReason::UnexpectedMessage),
    };
    if received.destination != config.address {
        return Err(DiscardReason::NotForUs);
    }
    if !is_unicast_routable(received.source) {
        return Err(DiscardReason::InvalidHomeAddress);
    }
    if !update.flags.home_registration {
        return Err(DiscardReason::NotHomeRegistration);
    }
    check_options(&update)?;
    let usable = |address| is_unicast_routable(address) && address != config.address;
    if !received.care_of.is_none_or(usable) {
        return Err(DiscardReason::InvalidCareOfAddress);
    }
    // The alternate care-of address is the protected one: ESP in transport mode does not cover the IPv6 header
    // (RFC 6275 §11.7.1).
    let care_of = update.alternate_care_of_address().or(received.care_of).unwrap_or(received.source);
    let request = Request {
        home_address: received.source,
        care_of,
        sequence: update.sequence,
        lifetime: update.lifetime,
        acknowledge: update.flags.acknowledge,
        mobile_router: update.flags.other & MOBILE_ROUTER != 0,
        key_management_mobility: update.flags.key_management_mobility && config.key_management_mobility,
        reply_via: received.care_of,
    };
    if !request.is_deletion() {
        if received.care_of.is_none() {
            return Err(DiscardReason::MissingHomeAddressOption);
        }
        if !usable(care_of) {
            return Err(DiscardReason::InvalidCareOfAddress);
        }
    }
    Ok(request)
}

fn check_options(update: &BindingUpdate) -> Result<(), DiscardReason> {
    for (position, option) in update.options.iter().enumerate() {
        let before = update.options.iter().take(position);
        match option {
            MobilityOption::NonceIndices { .. } | MobilityOption::BindingAuthorizationData(_) => {
                return Err(DiscardReason::ForbiddenOption);
            }
            // Unknown options are skipped, however many there are (RFC 6275 §6.2.1).
            MobilityOption::Unknown { .. } => {}
            known if before.into_iter().any(|other| discriminant(other) == discriminant(known)) => {
                return Err(DiscardReason::ForbiddenOption);
            }
            _ => {}
        }
    }
    Ok(())
}
