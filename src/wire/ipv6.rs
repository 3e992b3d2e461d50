//! The IPv6 header (RFC 8200 §3).

use std::net::Ipv6Addr;

use super::{Error, octets};

const OBJECT: &str = "IPv6 packet";

/// Length of the IPv6 header in octets.
pub const HEADER_LENGTH: usize = 40;

/// Where fields stand in the header, in octets (RFC 8200 §3), for those who edit a packet in place.
pub mod offset {
    /// Hop limit, one octet.
    pub const HOP_LIMIT: usize = 7;
    /// Source address.
    pub const SOURCE: usize = 8;
    /// Destination address.
    pub const DESTINATION: usize = 24;
}

/// The MTU every IPv6 link has at least, in octets (RFC 8200 §5).
pub const MINIMUM_MTU: usize = 1280;

/// An IPv6 header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Traffic class: DSCP and ECN.
    pub traffic_class: u8,
    /// Flow label, 20 bits; higher bits are not emitted.
    pub flow_label: u32,
    /// Octets behind this header. Set by [`Header::emit`] from the payload, whatever is here.
    pub payload_length: u16,
    /// Type of the header that follows.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub source: Ipv6Addr,
    /// Destination address.
    pub destination: Ipv6Addr,
}

impl Header {
    /// A header with traffic class and flow label 0 and hop limit 64, for a payload of type `next_header`.
    pub fn new(source: Ipv6Addr, destination: Ipv6Addr, next_header: u8) -> Self {
        Self { traffic_class: 0, flow_label: 0, payload_length: 0, next_header, hop_limit: 64, source, destination }
    }

    /// Reads a packet: its header, and the payload cut to the payload length field (what a link adds as padding is left off).
    ///
    /// # Errors
    /// [`Error::Truncated`] when there are fewer octets than the header or its payload length needs, [`Error::Field`] when the
    /// version is not 6. Jumbograms (RFC 2675 §2) are not supported: their payload length of 0 makes an empty payload.
    pub fn parse(packet: &[u8]) -> Result<(Self, &[u8]), Error> {
        let first = octets::u32_at(packet, 0, OBJECT)?;
        let version = first >> 28;
        if version != 6 {
            return Err(Error::Field {
                object: OBJECT,
                field: "Version",
                offset: 0,
                expected: "6",
                found: version,
                clause: "RFC 8200 §3",
            });
        }
        let header = Self {
            traffic_class: (first >> 20) as u8,
            flow_label: first & 0x000f_ffff,
            payload_length: octets::u16_at(packet, 4, OBJECT)?,
            next_header: octets::u8_at(packet, 6, OBJECT)?,
            hop_limit: octets::u8_at(packet, 7, OBJECT)?,
            source: octets::address_at(packet, 8, OBJECT)?,
            destination: octets::address_at(packet, 24, OBJECT)?,
        };
        let payload = octets::slice(packet, HEADER_LENGTH, usize::from(header.payload_length), OBJECT)?;
        Ok((header, payload))
    }

    /// The forty octets of this header with the payload length as it is in the field.
    pub fn octets(&self) -> [u8; HEADER_LENGTH] {
        let first = 6 << 28 | u32::from(self.traffic_class) << 20 | self.flow_label & 0x000f_ffff;
        let mut header = [0; HEADER_LENGTH];
        header[..4].copy_from_slice(&first.to_be_bytes());
        header[4..6].copy_from_slice(&self.payload_length.to_be_bytes());
        header[6] = self.next_header;
        header[7] = self.hop_limit;
        header[8..24].copy_from_slice(&self.source.octets());
        header[24..40].copy_from_slice(&self.destination.octets());
        header
    }

    /// The whole packet, with the payload length set from `payload`. A payload beyond 65535 octets, which no IPv6 packet can carry
    /// without the jumbo payload option, is cut to that.
    pub fn emit(&self, payload: &[u8]) -> Vec<u8> {
        let payload_length = u16::try_from(payload.len()).unwrap_or(u16::MAX);
        let mut packet = Vec::with_capacity(HEADER_LENGTH + usize::from(payload_length));
        packet.extend_from_slice(&Self { payload_length, ..*self }.octets());
        packet.extend(payload.iter().take(usize::from(payload_length)));
        packet
    }
}

/// Whether `address` is unicast and routable in the sense of RFC 6275 §6.3 and §6.4: not multicast, link-local, loopback,
/// unspecified or IPv4-mapped. Home and care-of addresses must be.
pub fn is_unicast_routable(address: Ipv6Addr) -> bool {
    !(address.is_multicast()
        || address.is_unicast_link_local()
        || address.is_loopback()
        || address.is_unspecified()
        || address.to_ipv4_mapped().is_some())
}

/// The solicited-node multicast address of `address` (RFC 4291 §2.7.1).
pub fn solicited_node_multicast(address: Ipv6Addr) -> Ipv6Addr {
    let low = address.to_bits() & 0x00ff_ffff;
    Ipv6Addr::from_bits(0xff02_0000_0000_0000_0000_0001_ff00_0000 | low)
}

/// All nodes of the link (RFC 4291 §2.7.1).
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// All routers of the link (RFC 4291 §2.7.1).
pub const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> Header {
        Header {
            traffic_class: 0xb8,
            flow_label: 0xabcde,
            payload_length: 3,
            next_header: 59,
            hop_limit: 63,
            source: "2001:db8:2000::10".parse().unwrap(),
            destination: "2001:db8:2000::2".parse().unwrap(),
        }
    }

    #[test]
    fn what_is_behind_the_payload_length_is_left_off() {
        let mut packet = header().emit(&[1, 2, 3]);
        assert_eq!(packet[..4], [0x6b, 0x8a, 0xbc, 0xde]);
        packet.extend([0; 7]);
        let (parsed, payload) = Header::parse(&packet).unwrap();
        assert_eq!((parsed, payload), (header(), &[1, 2, 3][..]));
    }

    #[test]
    fn other_versions_and_short_packets_are_refused() {
        let mut packet = header().emit(&[1, 2, 3]);
        assert_eq!(Header::parse(&packet[..42]), Err(Error::Truncated { object: OBJECT, needed: 43, available: 42 }),);
        packet[0] = 0x45;
        let error = Header::parse(&packet).unwrap_err();
        assert_eq!(error.to_string(), "IPv6 packet: Version must be 6, 4 came (RFC 8200 §3)");
    }

    #[test]
    fn a_payload_too_long_is_cut() {
        let packet = header().emit(&vec![7; 70_000]);
        assert_eq!(packet.len(), HEADER_LENGTH + 65_535);
        assert_eq!(Header::parse(&packet).unwrap().0.payload_length, 65_535);
    }

    #[test]
    fn addresses_of_special_use() {
        let address = |text: &str| text.parse::<Ipv6Addr>().unwrap();
        assert_eq!(solicited_node_multicast(address("2001:db8::8cdb:60ff:fef3:2aaa")), address("ff02::1:fff3:2aaa"));
        for routable in ["2001:db8:2000::10", "fd00::1"] {
            assert!(is_unicast_routable(address(routable)), "{routable}");
        }
        for other in ["::", "::1", "fe80::1", "ff02::1", "::ffff:192.0.2.1"] {
            assert!(!is_unicast_routable(address(other)), "{other}");
        }
    }

    proptest! {
        #[test]
        fn any_octets(octets in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Header::parse(&octets);
        }

        #[test]
        fn round_trip(traffic_class: u8, flow_label in 0u32..1 << 20, next_header: u8, hop_limit: u8, a: u128, b: u128,
                      payload in proptest::collection::vec(any::<u8>(), 0..100)) {
            let header = Header { traffic_class, flow_label, payload_length: payload.len() as u16, next_header, hop_limit,
                                  source: Ipv6Addr::from_bits(a), destination: Ipv6Addr::from_bits(b) };
            let packet = header.emit(&payload);
            prop_assert_eq!(Header::parse(&packet).unwrap(), (header, &payload[..]));
        }
    }
}
