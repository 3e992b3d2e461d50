//! The Internet checksum (RFC 1071 §1) over the IPv6 pseudo-header (RFC 8200 §8.1).

use std::net::Ipv6Addr;

use super::numbers::protocol;

/// The sum of 16-bit big-endian words, not yet folded. A last odd octet counts as the high half of a word.
///
/// Words of 32 bits in the order of the machine are summed, which a compiler makes vectors of, and the folded sum is turned at the end:
/// the sum does not depend on the order of octets but for that (RFC 1071 §2).
fn sum(octets: &[u8]) -> u64 {
    let (words, rest) = octets.as_chunks::<4>();
    let total: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    let mut last = [0; 4];
    last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    u64::from(u16::from_be_bytes(fold(total + u64::from(u32::from_ne_bytes(last))).to_ne_bytes()))
}

/// A sum over several parts, each of an even number of octets but the last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// Adds octets.
    pub fn add(&mut self, octets: &[u8]) {
        self.0 += sum(octets);
    }

    /// Adds a word.
    pub fn add_word(&mut self, word: u16) {
        self.0 += u64::from(word);
    }

    /// The checksum; 0xffff in the place of 0, which is the same to a receiver and which UDP demands (RFC 8200 §8.1).
    pub fn checksum(self) -> u16 {
        match !fold(self.0) {
            0 => 0xffff,
            value => value,
        }
    }
}

fn fold(mut total: u64) -> u16 {
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    // At most 0xffff now.
    total as u16
}

fn pseudo_header_sum(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, length: usize) -> u64 {
    let length = length as u64;
    sum(&source.octets()) + sum(&destination.octets()) + (length >> 16) + (length & 0xffff) + u64::from(protocol)
}

/// The sum over the pseudo-header alone, folded and not complemented, for an upper-layer packet of `length` octets: what stands in the
/// checksum field while the rest of the sum is left to a driver (`CHECKSUM_PARTIAL` of Linux).
pub fn pseudo_header(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, length: usize) -> u16 {
    fold(pseudo_header_sum(source, destination, protocol, length))
}

/// The checksum of an upper-layer packet: the complement of the sum over pseudo-header and `packet`. With the checksum field of
/// `packet` zero this is what belongs there; with a right checksum in the field it is 0.
pub fn upper_layer(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, packet: &[u8]) -> u16 {
    !fold(pseudo_header_sum(source, destination, protocol, packet.len()) + sum(packet))
}

/// Whether the checksum in `packet` is right. UDP over IPv6 without a checksum is not (RFC 8200 §8.1).
pub fn verify(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, packet: &[u8]) -> bool {
    if protocol == protocol::UDP && packet.get(6..8) == Some(&[0, 0]) {
        return false;
    }
    upper_layer(source, destination, protocol, packet) == 0
}

/// Where the checksum field is in packets of this protocol: TCP, UDP, ICMPv6 and mobility headers.
pub fn field_offset(protocol: u8) -> Option<usize> {
    match protocol {
        protocol::TCP => Some(16),
        protocol::UDP => Some(6),
        protocol::ICMPV6 => Some(2),
        protocol::MOBILITY => Some(4),
        _ => None,
    }
}

/// Writes the checksum of `packet` into its field, whatever was there. Returns false, with nothing written, when the protocol has no
/// known checksum field or the packet is too short to hold it.
pub fn fill(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, packet: &mut [u8]) -> bool {
    let Some(offset) = field_offset(protocol) else { return false };
    let Some(field) = packet.get_mut(offset..offset + 2) else { return false };
    field.fill(0);
    let mut value = upper_layer(source, destination, protocol, packet);
    if value == 0 && protocol == protocol::UDP {
        value = 0xffff; // 0 would say "no checksum" (RFC 8200 §8.1).
    }
    if let Some(field) = packet.get_mut(offset..offset + 2) {
        field.copy_from_slice(&value.to_be_bytes());
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    /// The binding acknowledgement of `tests/data/umip-plain`, from the home agent to the home address.
    const ACKNOWLEDGEMENT: [u8; 16] =
        [0x3b, 0x01, 0x06, 0x00, 0x94, 0x16, 0x00, 0x00, 0x8d, 0x35, 0x00, 0x96, 0x01, 0x02, 0x00, 0x00];

    #[test]
    fn a_captured_mobility_header_verifies_over_the_home_address_only() {
        let (home_agent, home_address) = (address("2001:db8:2000::1"), address("2001:db8:2000::10"));
        assert!(verify(home_agent, home_address, protocol::MOBILITY, &ACKNOWLEDGEMENT));
        assert!(!verify(home_agent, address("2001:db8:3000::10"), protocol::MOBILITY, &ACKNOWLEDGEMENT));
        let mut again = ACKNOWLEDGEMENT;
        again[4..6].copy_from_slice(&[0xff, 0xff]);
        assert!(fill(home_agent, home_address, protocol::MOBILITY, &mut again));
        assert_eq!(again, ACKNOWLEDGEMENT);
    }

    #[test]
    fn a_driver_completes_the_sum_of_the_pseudo_header() {
        let (a, b) = (address("2001:db8::1"), address("2001:db8::2"));
        let mut packet = [0, 1, 0, 2, 0, 12, 0, 0, 0xab, 0xcd, 0xef, 1];
        let partial = pseudo_header(a, b, protocol::UDP, packet.len());
        packet[6..8].copy_from_slice(&partial.to_be_bytes());
        // What a driver does: the complement of the sum over the segment as it stands.
        let completed = !fold(sum(&packet));
        packet[6..8].copy_from_slice(&completed.to_be_bytes());
        assert!(verify(a, b, protocol::UDP, &packet));
    }

    #[test]
    fn udp_never_says_it_has_no_checksum() {
        let (a, b) = (address("2001:db8::1"), address("2001:db8::2"));
        let mut packet = [0, 1, 0, 2, 0, 10, 0, 0, 0, 0];
        let without = upper_layer(a, b, protocol::UDP, &packet);
        packet[8..].copy_from_slice(&without.to_be_bytes()); // now the sum is 0xffff and the checksum would be 0
        assert!(!verify(a, b, protocol::UDP, &packet));
        assert!(fill(a, b, protocol::UDP, &mut packet));
        assert_eq!(packet[6..8], [0xff, 0xff]);
        assert!(verify(a, b, protocol::UDP, &packet));
    }

    #[test]
    fn what_has_no_checksum_field_is_left_alone() {
        let (a, b) = (address("2001:db8::1"), address("2001:db8::2"));
        let mut packet = [7; 3];
        assert!(!fill(a, b, protocol::ICMPV6, &mut packet));
        assert!(!fill(a, b, protocol::ESP, &mut packet));
        assert_eq!(packet, [7; 3]);
    }

    proptest! {
        #[test]
        fn what_is_filled_verifies_and_one_wrong_octet_does_not(
            a in any::<u128>(), b in any::<u128>(), mut packet in proptest::collection::vec(any::<u8>(), 18..200),
            protocol in prop::sample::select(vec![6u8, 17, 58, 135]), at in any::<prop::sample::Index>(), flip in 1u8..=254,
        ) {
            let (a, b) = (Ipv6Addr::from_bits(a), Ipv6Addr::from_bits(b));
            prop_assert!(fill(a, b, protocol, &mut packet));
            prop_assert!(verify(a, b, protocol, &packet));
            let at = at.index(packet.len());
            packet[at] ^= flip;
            // One octet changes its word by less than 0xffff, so the sum cannot come out the same.
            prop_assert!(!verify(a, b, protocol, &packet));
        }
    }
}
