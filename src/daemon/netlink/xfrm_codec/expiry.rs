//! Notifications of security associations that end: `XFRM_MSG_EXPIRE` of `linux/xfrm.h`, group `XFRMNLGRP_EXPIRE`.

use netlink_packet_core::{DecodeError, NetlinkBuffer};
use netlink_packet_xfrm as nl;

use super::association_key;
use crate::ipsec::AssociationKey;

/// A limit of an ESP association was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiry {
    /// Which association.
    pub association: AssociationKey,
    /// The kernel has removed it; otherwise it goes on, and new keys are due.
    pub hard: bool,
}

/// The expiries in a datagram of notifications; other messages are passed over. Only names and limits are read: notifications about
/// associations hold keys.
///
/// # Errors
/// A message is shorter than it says; those before it are lost with it, so look at the tables.
pub fn parse_expiry(mut datagram: &[u8]) -> Result<Vec<Expiry>, DecodeError> {
    let mut out = vec![];
    while !datagram.is_empty() {
        let message = NetlinkBuffer::new_checked(datagram)?;
        if message.message_type() == nl::XFRM_MSG_EXPIRE {
            let expire = nl::UserExpire::parse(message.payload())?;
            if expire.state.family == nl::AF_INET6 && expire.state.id.proto == nl::IPPROTO_ESP {
                out.push(Expiry { association: association_key(&expire.state), hard: expire.hard != 0 });
            }
        }
        let length = (message.length() as usize).next_multiple_of(4);
        datagram = datagram.get(length..).unwrap_or_default();
    }
    Ok(out)
}
