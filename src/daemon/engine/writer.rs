//! Writing what was joined to a device.

use std::io::IoSlice;

use crate::daemon::tap::{Device, VNET_HEADER_LENGTH};
use crate::tunnel::coalesce::Coalescer;
use crate::tunnel::{Counters, Offload, Reason, vnet};
use crate::wire::ethernet;

/// Parts of one packet at most: what is in front of it, its headers, the payloads of all that are joined.
const PARTS: usize = 2 + 64;

/// What stands in front of a packet that is written to a device.
#[derive(Debug)]
pub struct Front<'d> {
    device: &'d Device,
    octets: [u8; VNET_HEADER_LENGTH + ethernet::HEADER_LENGTH],
    length: usize,
}

impl<'d> Front<'d> {
    /// For a TAP.
    pub fn tap(device: &'d Device, header: [u8; ethernet::HEADER_LENGTH], offload: Option<&Offload>) -> Self {
        let mut front = Self::tun(device, None);
        let (vnet, ethernet) = front.octets.split_at_mut(VNET_HEADER_LENGTH);
        vnet.copy_from_slice(&vnet::header(offload, ethernet::HEADER_LENGTH as u16));
        ethernet.copy_from_slice(&header);
        front.length += ethernet::HEADER_LENGTH;
        front
    }

    /// For a TUN.
    pub fn tun(device: &'d Device, offload: Option<&Offload>) -> Self {
        let mut octets = [0; VNET_HEADER_LENGTH + ethernet::HEADER_LENGTH];
        octets[..VNET_HEADER_LENGTH].copy_from_slice(&vnet::header(offload, 0));
        Self { device, octets, length: VNET_HEADER_LENGTH }
    }

    /// Writes a packet made of these parts.
    ///
    /// # Errors
    /// The error of `writev(2)`.
    pub fn write<'a>(&'a self, packet: impl Iterator<Item = &'a [u8]>) -> std::io::Result<()> {
        let front = self.octets.get(..self.length).unwrap_or_default();
        let mut parts = [IoSlice::new(&[]); PARTS];
        let mut count = 0;
        for (part, octets) in parts.iter_mut().zip(std::iter::once(front).chain(packet)) {
            *part = IoSlice::new(octets);
            count += 1;
        }
        self.device.write_parts(parts.get(..count).unwrap_or_default())
    }
}

/// Writes groups in order, each behind the front that belongs to it.
pub fn write_groups<'d, T: PartialEq + Copy>(
    out: &Coalescer<'_, T>,
    counters: &Counters,
    front: impl Fn(T, Option<&Offload>) -> Option<Front<'d>>,
) {
    for group in out.groups() {
        let written = match (group.whole(), group.alone()) {
            (Some((headers, offload)), _) => front(group.to, Some(&offload))
                .map(|front| front.write(std::iter::once(headers.as_bytes()).chain(group.payloads()))),
            (None, Some((packet, offload))) => {
                front(group.to, offload).map(|front| front.write(std::iter::once(packet)))
            }
            (None, None) => None,
        };
        if let Some(Err(error)) = written {
            tracing::debug!(%error, "a packet could not be written");
            counters.count(Reason::SendFailed);
        }
    }
}
