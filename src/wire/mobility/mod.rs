//! Mobility headers (RFC 6275 §6.1): messages, their options, and the status codes.

pub mod message;
pub mod option;
pub mod status;

pub use message::{BindingAcknowledgement, BindingError, BindingUpdate, BindingUpdateFlags, Message};
pub use option::MobilityOption;
pub use status::Status;

use std::net::Ipv6Addr;

use crate::wire::checksum;
use crate::wire::numbers::protocol;

/// Whether the checksum of the mobility header that begins `message` is right over `source` and `destination`, which are the addresses
/// with the home address in the place of the care-of address (RFC 6275 §6.1.1). Octets behind the header do not count.
pub fn verify_checksum(message: &[u8], source: Ipv6Addr, destination: Ipv6Addr) -> bool {
    message.len() >= 8 && checksum::verify(source, destination, protocol::MOBILITY, header_of(message))
}

/// Writes the checksum of the mobility header that begins `message` over `source` and `destination`. Less than 8 octets are
/// left as they are.
pub fn fill_checksum(message: &mut [u8], source: Ipv6Addr, destination: Ipv6Addr) {
    let length = header_of(message).len();
    if let Some(header) = message.get_mut(..length).filter(|header| header.len() >= 8) {
        checksum::fill(source, destination, protocol::MOBILITY, header);
    }
}

/// Cuts `message` to what its header length field says; all of it when it is shorter than that.
fn header_of(message: &[u8]) -> &[u8] {
    let length = message.get(1).map_or(0, |length| (usize::from(*length) + 1) * 8);
    message.get(..length).unwrap_or(message)
}
