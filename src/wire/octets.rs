//! Reading fixed-size fields out of octets without panics.

use std::net::Ipv6Addr;

use super::Error;

/// The `N` octets at `offset`, or [`Error::Truncated`] naming `object`.
pub fn array<const N: usize>(octets: &[u8], offset: usize, object: &'static str) -> Result<[u8; N], Error> {
    octets.get(offset..).and_then(|rest| rest.first_chunk::<N>()).copied().ok_or(Error::Truncated {
        object,
        needed: offset.saturating_add(N),
        available: octets.len(),
    })
}

/// The octet at `offset`.
pub fn u8_at(octets: &[u8], offset: usize, object: &'static str) -> Result<u8, Error> {
    array::<1>(octets, offset, object).map(|[octet]| octet)
}

/// The 16-bit integer at `offset`, network order.
pub fn u16_at(octets: &[u8], offset: usize, object: &'static str) -> Result<u16, Error> {
    array(octets, offset, object).map(u16::from_be_bytes)
}

/// The 32-bit integer at `offset`, network order.
pub fn u32_at(octets: &[u8], offset: usize, object: &'static str) -> Result<u32, Error> {
    array(octets, offset, object).map(u32::from_be_bytes)
}

/// The IPv6 address at `offset`.
pub fn address_at(octets: &[u8], offset: usize, object: &'static str) -> Result<Ipv6Addr, Error> {
    array::<16>(octets, offset, object).map(Ipv6Addr::from)
}

/// The octets from `offset` on, `length` of them.
pub fn slice<'a>(octets: &'a [u8], offset: usize, length: usize, object: &'static str) -> Result<&'a [u8], Error> {
    let end = offset.saturating_add(length);
    octets.get(offset..end).ok_or(Error::Truncated { object, needed: end, available: octets.len() })
}
