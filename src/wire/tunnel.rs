//! IPv6 in IPv6 (RFC 2473): the outer header, and what may stand between it and the inner packet.

use std::net::Ipv6Addr;
use std::ops::Range;

use super::numbers::protocol;
use super::{Error, extension, ipv6};

/// Octets that the outer header adds to a packet. This implementation emits no tunnel encapsulation limit option.
pub const OVERHEAD: usize = ipv6::HEADER_LENGTH;

/// The outer header of a tunnel packet (RFC 2473 §5.1) around an inner packet of `inner_length` octets (at most 65535; more is
/// cut in the length field and must not be sent).
pub fn outer_header(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    traffic_class: u8,
    flow_label: u32,
    hop_limit: u8,
    inner_length: usize,
) -> ipv6::Header {
    ipv6::Header {
        traffic_class,
        flow_label: flow_label & 0x000f_ffff,
        payload_length: u16::try_from(inner_length).unwrap_or(u16::MAX),
        next_header: protocol::IPV6,
        hop_limit,
        source,
        destination,
    }
}

/// A tunnel packet taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encapsulated {
    /// The outer header.
    pub outer: ipv6::Header,
    /// The limit of a tunnel encapsulation limit option, where there was one (RFC 2473 §4.1.1). An exit point ignores it.
    pub encapsulation_limit: Option<u8>,
    /// Where the inner packet is in the octets given, from the inner header's first octet to the end of the outer payload.
    pub inner: Range<usize>,
}

/// Takes a tunnel packet apart: outer header, at most the extension headers of [`extension::walk`] (destination options with a tunnel
/// encapsulation limit among them), inner packet. `None` when the upper layer is not IPv6 or the packet is a fragment.
///
/// # Errors
/// Those of [`extension::dissect`]. The inner packet is not looked at.
pub fn parse(packet: &[u8]) -> Result<Option<Encapsulated>, Error> {
    let (outer, payload) = ipv6::Header::parse(packet)?;
    let end = ipv6::HEADER_LENGTH + payload.len();
    if outer.next_header == protocol::IPV6 {
        // Every packet of a peer like the Linux kernel without the option, and our own: no walk, no allocation.
        return Ok(Some(Encapsulated { outer, encapsulation_limit: None, inner: ipv6::HEADER_LENGTH..end }));
    }
    let chain = extension::walk(outer.next_header, payload)?;
    if chain.upper_layer != protocol::IPV6 || chain.fragment.is_some() {
        return Ok(None);
    }
    let inner = ipv6::HEADER_LENGTH + chain.offset..end;
    Ok(Some(Encapsulated { outer, encapsulation_limit: chain.tunnel_encapsulation_limit, inner }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    fn inner() -> Vec<u8> {
        ipv6::Header::new(address("2001:db8:2000::10"), address("2001:db8:2000::2"), 59).emit(&[])
    }

    fn outer(inner_length: usize) -> ipv6::Header {
        outer_header(address("2001:db8:3000::3"), address("2001:db8:2000::1"), 0x20, 0x12345, 64, inner_length)
    }

    #[test]
    fn plain() {
        let mut packet = outer(40).octets().to_vec();
        packet.extend(inner());
        packet.extend([0; 6]); // padding of the link
        let parsed = parse(&packet).unwrap().unwrap();
        assert_eq!(parsed, Encapsulated { outer: outer(40), encapsulation_limit: None, inner: 40..80 });
    }

    #[test]
    fn with_the_encapsulation_limit_of_linux() {
        // As ip6_tunnel sends it by default: option type 4, length 1, limit, then PadN.
        let payload = [&[41, 0, 4, 1, 4, 1, 1, 0][..], &inner()].concat();
        let packet = ipv6::Header { next_header: 60, ..outer(0) }.emit(&payload);
        let parsed = parse(&packet).unwrap().unwrap();
        assert_eq!((parsed.encapsulation_limit, parsed.inner.clone()), (Some(4), 48..88));
        assert_eq!(packet[parsed.inner], inner());
        let wrong = [&[41, 0, 4, 0, 4, 1, 1, 0][..], &inner()].concat();
        let packet = ipv6::Header { next_header: 60, ..outer(0) }.emit(&wrong);
        assert!(matches!(parse(&packet), Err(Error::OptionLength { option_type: 4, .. })));
    }

    #[test]
    fn other_protocols_and_fragments_are_no_tunnel_packets() {
        let packet = ipv6::Header { next_header: 58, ..outer(0) }.emit(&[128, 0, 0, 0]);
        assert_eq!(parse(&packet), Ok(None));
        let payload = [&[41, 0, 0, 1, 0, 0, 0, 1][..], &inner()].concat();
        let packet = ipv6::Header { next_header: 44, ..outer(0) }.emit(&payload);
        assert_eq!(parse(&packet), Ok(None));
    }

    proptest! {
        #[test]
        fn any_octets(next_header in prop::sample::select(vec![41u8, 60, 43, 44, 0]), octets in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = parse(&octets);
            let packet = ipv6::Header { next_header, ..outer(0) }.emit(&octets);
            if let Ok(Some(parsed)) = parse(&packet) {
                prop_assert!(packet.get(parsed.inner).is_some());
            }
        }
    }
}
