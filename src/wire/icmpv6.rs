//! ICMPv6 (RFC 4443): echo and errors. Neighbour discovery is in [`super::ndisc`].

use std::net::Ipv6Addr;

use super::numbers::{icmpv6_type, protocol};
use super::{Error, checksum, extension, ipv6, octets};

const OBJECT: &str = "ICMPv6 message";

/// An ICMPv6 message other than neighbour discovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// Type 1 (RFC 4443 §3.1).
    DestinationUnreachable {
        /// Why ([`super::numbers::unreachable_code`]).
        code: u8,
        /// As much of the packet as fits.
        original: &'a [u8],
    },
    /// Type 2 (RFC 4443 §3.2).
    PacketTooBig {
        /// The MTU of the next hop, in octets.
        mtu: u32,
        /// As much of the packet as fits.
        original: &'a [u8],
    },
    /// Type 3 (RFC 4443 §3.3).
    TimeExceeded {
        /// 0: hop limit; 1: reassembly.
        code: u8,
        /// As much of the packet as fits.
        original: &'a [u8],
    },
    /// Type 4 (RFC 4443 §3.4).
    ParameterProblem {
        /// Why ([`super::numbers::parameter_problem_code`]).
        code: u8,
        /// The octet of the packet where the error was found.
        pointer: u32,
        /// As much of the packet as fits.
        original: &'a [u8],
    },
    /// Type 128 (RFC 4443 §4.1).
    EchoRequest {
        /// Identifier.
        identifier: u16,
        /// Sequence number.
        sequence: u16,
        /// Data to be sent back.
        data: &'a [u8],
    },
    /// Type 129 (RFC 4443 §4.2).
    EchoReply {
        /// Identifier of the request.
        identifier: u16,
        /// Sequence number of the request.
        sequence: u16,
        /// Data of the request.
        data: &'a [u8],
    },
    /// Any other type.
    Other {
        /// Type.
        message_type: u8,
        /// Code.
        code: u8,
        /// What follows the checksum.
        body: &'a [u8],
    },
}

impl<'a> Message<'a> {
    /// Reads a message from its type octet on. The checksum is not verified; [`verify_checksum`] does.
    ///
    /// # Errors
    /// [`Error::Truncated`] below 4 octets, or below 8 for the types that this enum knows.
    pub fn parse(message: &'a [u8]) -> Result<Self, Error> {
        let message_type = octets::u8_at(message, 0, OBJECT)?;
        let code = octets::u8_at(message, 1, OBJECT)?;
        octets::u16_at(message, 2, OBJECT)?;
        let rest = || message.get(8..).unwrap_or_default();
        let word = || octets::u32_at(message, 4, OBJECT);
        let echo = || Ok((octets::u16_at(message, 4, OBJECT)?, octets::u16_at(message, 6, OBJECT)?));
        Ok(match message_type {
            icmpv6_type::DESTINATION_UNREACHABLE => {
                word()?;
                Self::DestinationUnreachable { code, original: rest() }
            }
            icmpv6_type::PACKET_TOO_BIG => Self::PacketTooBig { mtu: word()?, original: rest() },
            icmpv6_type::TIME_EXCEEDED => {
                word()?;
                Self::TimeExceeded { code, original: rest() }
            }
            icmpv6_type::PARAMETER_PROBLEM => Self::ParameterProblem { code, pointer: word()?, original: rest() },
            icmpv6_type::ECHO_REQUEST => {
                let (identifier, sequence) = echo()?;
                Self::EchoRequest { identifier, sequence, data: rest() }
            }
            icmpv6_type::ECHO_REPLY => {
                let (identifier, sequence) = echo()?;
                Self::EchoReply { identifier, sequence, data: rest() }
            }
            _ => Self::Other { message_type, code, body: message.get(4..).unwrap_or_default() },
        })
    }

    /// The message's octets with their checksum over `source` and `destination`. Codes of packet too big and echo, which have no
    /// meaning, are 0.
    pub fn emit(&self, source: Ipv6Addr, destination: Ipv6Addr) -> Vec<u8> {
        let pair = |a: u16, b: u16| u32::from(a) << 16 | u32::from(b);
        let (message_type, code, word, rest) = match *self {
            Self::DestinationUnreachable { code, original } => {
                (icmpv6_type::DESTINATION_UNREACHABLE, code, Some(0), original)
            }
            Self::PacketTooBig { mtu, original } => (icmpv6_type::PACKET_TOO_BIG, 0, Some(mtu), original),
            Self::TimeExceeded { code, original } => (icmpv6_type::TIME_EXCEEDED, code, Some(0), original),
            Self::ParameterProblem { code, pointer, original } => {
                (icmpv6_type::PARAMETER_PROBLEM, code, Some(pointer), original)
            }
            Self::EchoRequest { identifier, sequence, data } => {
                (icmpv6_type::ECHO_REQUEST, 0, Some(pair(identifier, sequence)), data)
            }
            Self::EchoReply { identifier, sequence, data } => {
                (icmpv6_type::ECHO_REPLY, 0, Some(pair(identifier, sequence)), data)
            }
            Self::Other { message_type, code, body } => (message_type, code, None, body),
        };
        let mut message = vec![message_type, code, 0, 0];
        if let Some(word) = word {
            message.extend(word.to_be_bytes());
        }
        message.extend(rest);
        checksum::fill(source, destination, protocol::ICMPV6, &mut message);
        message
    }

    /// The message as a whole packet with hop limit 64.
    pub fn emit_packet(&self, source: Ipv6Addr, destination: Ipv6Addr) -> Vec<u8> {
        ipv6::Header::new(source, destination, protocol::ICMPV6).emit(&self.emit(source, destination))
    }
}

/// Whether the checksum of an ICMPv6 message is right over the addresses of its packet (RFC 4443 §2.3).
pub fn verify_checksum(message: &[u8], source: Ipv6Addr, destination: Ipv6Addr) -> bool {
    message.len() >= 4 && checksum::verify(source, destination, protocol::ICMPV6, message)
}

/// As much of `offending` as an error message can hold without being longer than 1280 octets (RFC 4443 §2.4 (c)).
fn cut(offending: &[u8]) -> &[u8] {
    let room = ipv6::MINIMUM_MTU - ipv6::HEADER_LENGTH - 8;
    offending.get(..room).unwrap_or(offending)
}

/// A packet too big message about `offending` (a whole IPv6 packet), itself a whole packet of at most 1280 octets.
/// `mtu` is in octets and counts the inner packet's own header.
pub fn packet_too_big(source: Ipv6Addr, destination: Ipv6Addr, mtu: u32, offending: &[u8]) -> Vec<u8> {
    Message::PacketTooBig { mtu, original: cut(offending) }.emit_packet(source, destination)
}

/// A destination unreachable message about `offending`; as [`packet_too_big`].
pub fn destination_unreachable(source: Ipv6Addr, destination: Ipv6Addr, code: u8, offending: &[u8]) -> Vec<u8> {
    Message::DestinationUnreachable { code, original: cut(offending) }.emit_packet(source, destination)
}

/// A time exceeded message (code 0: hop limit) about `offending`; as [`packet_too_big`].
pub fn time_exceeded(source: Ipv6Addr, destination: Ipv6Addr, code: u8, offending: &[u8]) -> Vec<u8> {
    Message::TimeExceeded { code, original: cut(offending) }.emit_packet(source, destination)
}

/// A parameter problem message about the octet `pointer` of `offending`; as [`packet_too_big`].
pub fn parameter_problem(source: Ipv6Addr, destination: Ipv6Addr, code: u8, pointer: u32, offending: &[u8]) -> Vec<u8> {
    Message::ParameterProblem { code, pointer, original: cut(offending) }.emit_packet(source, destination)
}

/// Whether an ICMPv6 error may be sent about `offending`, a whole IPv6 packet (RFC 4443 §2.4 (e)): not about errors and redirects, and only to
/// a unicast source. `to_multicast_too` is for packet too big and for parameter problems of code 2, the only ones that may answer a packet to
/// a multicast destination. A packet that cannot be read is not answered.
pub fn error_permitted(offending: &[u8], to_multicast_too: bool) -> bool {
    let Ok((header, chain, upper_layer)) = extension::dissect(offending) else { return false };
    if header.source.is_unspecified() || header.source.is_multicast() {
        return false;
    }
    if header.destination.is_multicast() && !to_multicast_too {
        return false;
    }
    if chain.upper_layer != protocol::ICMPV6 || !chain.has_upper_layer_header() {
        return true;
    }
    // Types below 128 are errors (RFC 4443 §2.1); one that is cut off cannot be told from an error.
    upper_layer.first().is_some_and(|message_type| *message_type >= 128 && *message_type != icmpv6_type::REDIRECT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    fn addresses() -> (Ipv6Addr, Ipv6Addr) {
        (address("fe80::1"), address("2001:db8:2000::10"))
    }

    #[test]
    fn errors_stay_within_the_minimum_mtu() {
        let (router, guest) = addresses();
        let offending = ipv6::Header::new(guest, address("2001:db8:2000::2"), 59).emit(&[7; 1460]);
        let packet = packet_too_big(router, guest, 1460, &offending);
        assert_eq!(packet.len(), 1280);
        let (header, payload) = ipv6::Header::parse(&packet).unwrap();
        assert_eq!((header.next_header, header.source, header.destination), (58, router, guest));
        assert!(verify_checksum(payload, router, guest));
        assert_eq!(Message::parse(payload), Ok(Message::PacketTooBig { mtu: 1460, original: &offending[..1232] }));
        for packet in [
            destination_unreachable(router, guest, 3, &offending[..40]),
            time_exceeded(router, guest, 0, &offending[..40]),
            parameter_problem(router, guest, 0, 40, &offending[..40]),
        ] {
            assert_eq!(packet.len(), 88);
            assert!(verify_checksum(&packet[40..], router, guest));
        }
    }

    #[test]
    fn errors_about_errors_are_not_permitted() {
        let (router, guest) = addresses();
        let peer = address("2001:db8:2000::2");
        let echo = |from, to| Message::EchoRequest { identifier: 1, sequence: 1, data: &[] }.emit_packet(from, to);
        assert!(error_permitted(&echo(guest, peer), false));
        assert!(!error_permitted(&packet_too_big(guest, peer, 1280, &echo(peer, guest)), false));
        let redirect = Message::Other { message_type: 137, code: 0, body: &[0; 36] }.emit_packet(router, guest);
        assert!(!error_permitted(&redirect, false));
        assert!(!error_permitted(&echo(Ipv6Addr::UNSPECIFIED, peer), false));
        assert!(!error_permitted(&echo(guest, address("ff0e::1")), false));
        assert!(error_permitted(&echo(guest, address("ff0e::1")), true));
        assert!(!error_permitted(&echo(guest, peer)[..45], false));
        let udp = ipv6::Header::new(guest, peer, 17).emit(&[0; 8]);
        assert!(error_permitted(&udp, false));
    }

    proptest! {
        #[test]
        fn any_octets(message in proptest::collection::vec(any::<u8>(), 0..64), message_type in prop::sample::select(vec![1u8, 2, 3, 4, 128, 129, 135])) {
            let _ = Message::parse(&message);
            let mut message = message;
            if let Some(first) = message.first_mut() { *first = message_type; }
            let _ = Message::parse(&message);
            let (a, b) = addresses();
            verify_checksum(&message, a, b);
            error_permitted(&message, true);
            error_permitted(&ipv6::Header::new(a, b, 58).emit(&message), false);
        }

        #[test]
        fn round_trip(code: u8, word: u32, rest in proptest::collection::vec(any::<u8>(), 0..64)) {
            let (a, b) = addresses();
            let (identifier, sequence) = ((word >> 16) as u16, word as u16);
            for message in [
                Message::DestinationUnreachable { code, original: &rest },
                Message::PacketTooBig { mtu: word, original: &rest },
                Message::TimeExceeded { code, original: &rest },
                Message::ParameterProblem { code, pointer: word, original: &rest },
                Message::EchoRequest { identifier, sequence, data: &rest },
                Message::EchoReply { identifier, sequence, data: &rest },
                Message::Other { message_type: 143, code, body: &rest },
            ] {
                let octets = message.emit(a, b);
                prop_assert!(verify_checksum(&octets, a, b));
                prop_assert_eq!(Message::parse(&octets), Ok(message));
            }
        }
    }
}
