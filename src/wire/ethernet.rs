//! Ethernet frames (RFC 2464 §3). VLAN tags are not looked into: a tagged frame has the ether type of its tag.

use crate::vocabulary::MacAddress;

use super::{Error, octets};

const OBJECT: &str = "Ethernet frame";

/// Length of the Ethernet header in octets.
pub const HEADER_LENGTH: usize = 14;

/// An Ethernet frame without preamble and frame check sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Destination MAC address.
    pub destination: MacAddress,
    /// Source MAC address.
    pub source: MacAddress,
    /// Type of the payload ([`super::numbers::ether_type`]). Values below 1536 are lengths of IEEE 802.3 frames.
    pub ether_type: u16,
    /// What the frame carries, with any padding of the link.
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Reads a frame.
    ///
    /// # Errors
    /// [`Error::Truncated`] below 14 octets.
    pub fn parse(frame: &'a [u8]) -> Result<Self, Error> {
        Ok(Self {
            destination: MacAddress(octets::array(frame, 0, OBJECT)?),
            source: MacAddress(octets::array(frame, 6, OBJECT)?),
            ether_type: octets::u16_at(frame, 12, OBJECT)?,
            payload: frame.get(HEADER_LENGTH..).unwrap_or_default(),
        })
    }

    /// The fourteen octets before the payload.
    pub fn header(&self) -> [u8; HEADER_LENGTH] {
        let mut header = [0; HEADER_LENGTH];
        header[..6].copy_from_slice(&self.destination.0);
        header[6..12].copy_from_slice(&self.source.0);
        header[12..].copy_from_slice(&self.ether_type.to_be_bytes());
        header
    }

    /// The frame's octets. Short frames are not padded to 60 octets: that is the link's work.
    pub fn emit(&self) -> Vec<u8> {
        let mut frame = Vec::with_capacity(HEADER_LENGTH + self.payload.len());
        frame.extend_from_slice(&self.header());
        frame.extend_from_slice(self.payload);
        frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whatever_is_read_is_emitted_the_same(octets in proptest::collection::vec(any::<u8>(), 0..100)) {
            match Frame::parse(&octets) {
                Ok(frame) => prop_assert_eq!(frame.emit(), octets),
                Err(error) => {
                    prop_assert!(octets.len() < HEADER_LENGTH, "{} octets: {}", octets.len(), error);
                    let truncated = matches!(error, Error::Truncated { available, .. } if available == octets.len());
                    prop_assert!(truncated);
                }
            }
        }
    }
}
