//! Cutting a packet that a guest's driver left whole (TCP and UDP segmentation offload) into the packets it stands for.
//!
//! Payloads are not copied: each piece is a header of its own and a part of the whole. What the kernel does at this place
//! is in `net/ipv4/tcp_offload.c` (`tcp_gso_segment`) and `net/ipv4/udp_offload.c` (`__udp_gso_segment`).

use super::offload::{Kind, Offload};
use super::reason::Reason;
use crate::wire::checksum::Sum;
use crate::wire::ipv6;

/// Longest headers of one packet that is cut, in octets: the IPv6 header, extension headers, 60 octets of TCP.
pub const HEADER_LIMIT: usize = 192;

const TCP_SEQUENCE: usize = 4;
const TCP_FLAGS: usize = 13;
const TCP_FIN: u8 = 0x01;
const TCP_PSH: u8 = 0x08;
const TCP_CWR: u8 = 0x80;

/// How one whole is cut.
#[derive(Debug, Clone, Copy)]
pub struct Segmentation<'a> {
    headers: &'a [u8],
    payload: &'a [u8],
    start: usize,
    checksum: usize,
    size: usize,
    kind: Kind,
    /// Of what is the same in every piece: the headers of the upper layer without the fields that differ.
    sum: Sum,
}

impl<'a> Segmentation<'a> {
    /// A whole packet whose `offload` was verified against it.
    ///
    /// # Errors
    /// [`Reason::BadOffload`] when there is nothing to cut, or the headers are longer than [`HEADER_LIMIT`].
    pub fn new(packet: &'a [u8], offload: &Offload) -> Result<Self, Reason> {
        let segments = offload.segments.ok_or(Reason::BadOffload)?;
        let (start, checksum) = (usize::from(offload.checksum_start), usize::from(offload.checksum_offset));
        let (headers, payload) =
            packet.split_at_checked(usize::from(segments.header_length)).ok_or(Reason::BadOffload)?;
        let size = usize::from(segments.size);
        if headers.len() > HEADER_LIMIT || size == 0 || headers.len() < start + segments.kind.header_length() {
            return Err(Reason::BadOffload);
        }
        let addresses = headers.get(8..ipv6::HEADER_LENGTH).ok_or(Reason::BadOffload)?;
        let mut sum = Sum::default();
        sum.add(addresses);
        sum.add_word(u16::from(segments.kind.protocol()));
        Ok(Self { headers, payload, start, checksum, size, kind: segments.kind, sum })
    }

    /// How many pieces there are; at least one.
    pub fn count(&self) -> usize {
        self.payload.len().div_ceil(self.size).max(1)
    }

    /// The payload of piece `n`, from 0.
    pub fn payload(&self, n: usize) -> &'a [u8] {
        let from = n.saturating_mul(self.size).min(self.payload.len());
        let to = from.saturating_add(self.size).min(self.payload.len());
        self.payload.get(from..to).unwrap_or_default()
    }

    /// Writes the headers of piece `n` to `out`, with a whole checksum, and returns their length in octets.
    ///
    /// # Errors
    /// [`Reason::BadOffload`] when `out` is shorter than [`HEADER_LIMIT`] and too short.
    pub fn write_headers(&self, n: usize, out: &mut [u8]) -> Result<usize, Reason> {
        self.write(n, out).ok_or(Reason::BadOffload)
    }

    fn write(&self, n: usize, out: &mut [u8]) -> Option<usize> {
        let payload = self.payload(n);
        let out = out.get_mut(..self.headers.len())?;
        out.copy_from_slice(self.headers);
        let behind_ipv6 = out.len() - ipv6::HEADER_LENGTH + payload.len();
        put(out, 4, &u16::try_from(behind_ipv6).ok()?.to_be_bytes())?;
        let upper = out.get_mut(self.start..)?;
        let length = u16::try_from(upper.len() + payload.len()).ok()?;
        match self.kind {
            Kind::Udp => put(upper, 4, &length.to_be_bytes())?,
            Kind::Tcp => {
                let sequence = u32::from_be_bytes(*upper.get(TCP_SEQUENCE..)?.first_chunk()?);
                let ahead = u32::try_from(n.checked_mul(self.size)?).ok()?;
                put(upper, TCP_SEQUENCE, &sequence.wrapping_add(ahead).to_be_bytes())?;
                let flags = upper.get_mut(TCP_FLAGS)?;
                if n + 1 < self.count() {
                    *flags &= !(TCP_FIN | TCP_PSH);
                }
                if n > 0 {
                    *flags &= !TCP_CWR;
                }
            }
        }
        put(upper, self.checksum, &[0, 0])?;
        let mut sum = self.sum;
        sum.add_word(length);
        sum.add(upper);
        sum.add(payload);
        put(upper, self.checksum, &sum.checksum().to_be_bytes())?;
        Some(out.len())
    }
}

fn put(octets: &mut [u8], at: usize, value: &[u8]) -> Option<()> {
    octets.get_mut(at..at + value.len())?.copy_from_slice(value);
    Some(())
}

/// Completes a checksum that was left to a driver: the field holds the sum of the pseudo-header, and what is summed goes
/// from `checksum_start` to the end.
///
/// # Errors
/// [`Reason::BadOffload`] when the field is not within the packet.
pub fn complete_checksum(packet: &mut [u8], offload: &Offload) -> Result<(), Reason> {
    let start = usize::from(offload.checksum_start);
    let summed = packet.get_mut(start..).ok_or(Reason::BadOffload)?;
    let mut sum = Sum::default();
    sum.add(summed);
    put(summed, usize::from(offload.checksum_offset), &sum.checksum().to_be_bytes()).ok_or(Reason::BadOffload)
}
