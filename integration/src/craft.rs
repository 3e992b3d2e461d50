//! Packets made by hand, for what no well-behaved kernel would send; and the checksum that the lab's eyes verify.

use std::io::Write;
use std::net::{Ipv6Addr, SocketAddrV6};

use socket2::{Domain, Protocol, Socket, Type};

use crate::failure::{Outcome, While};
use crate::node::Node;
use crate::sys;

/// An IPv6 packet.
pub(crate) fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, next_header: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap_or(u16::MAX);
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([next_header, 64]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(payload);
    packet
}

/// An IPv6 packet with an ICMPv6 echo request in it.
pub(crate) fn echo_request(source: Ipv6Addr, destination: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![128, 0, 0, 0, 0x4b, 0x4d, 0, 1];
    message.extend(b"kagemusha lab");
    let sum = checksum(source, destination, 58, &message);
    if let Some(field) = message.get_mut(2..4) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
    ipv6(source, destination, 58, &message)
}

/// The Internet checksum of an upper-layer packet with its pseudo-header (RFC 8200 §8.1): what its checksum field must
/// hold if it is zero now; zero over a packet whose field is right.
pub(crate) fn checksum(source: Ipv6Addr, destination: Ipv6Addr, next_header: u8, upper: &[u8]) -> u16 {
    let length = u32::try_from(upper.len()).unwrap_or(u32::MAX);
    let mut pseudo = [source.octets(), destination.octets()].concat();
    pseudo.extend(length.to_be_bytes());
    pseudo.extend([0, 0, 0, next_header]);
    let words = pseudo.chunks(2).chain(upper.chunks(2)).map(|pair| match pair {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        [high] => u32::from(*high) << 8,
        _ => 0,
    });
    let mut sum = words.fold(0_u64, |sum, word| sum + u64::from(word));
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(u16::try_from(sum).unwrap_or_default())
}

/// Sends a whole IPv6 packet from `node`, whatever its source address.
pub(crate) fn send_packet(node: &Node, destination: Ipv6Addr, packet: Vec<u8>) -> Outcome {
    node.run(move || {
        // IPPROTO_RAW: the packet brings its own header.
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::from(255)))?;
        socket.send_to(&packet, &SocketAddrV6::new(destination, 0, 0, 0).into()).map(|_| ())
    })?
    .during(|| format!("{}: sending to {destination}", node.name()))
}

/// Sends whole Ethernet frames out of `interface` of `node`.
pub(crate) fn send_frames(node: &Node, interface: &str, frames: Vec<Vec<u8>>) -> Outcome {
    let name = interface.to_owned();
    node.run(move || {
        let mut socket = std::fs::File::from(sys::packet_socket(&name)?);
        frames.iter().try_for_each(|frame| socket.write_all(frame))
    })?
    .during(|| format!("{}: sending on {interface}", node.name()))
}

/// An Ethernet frame with an IPv6 packet in it.
pub(crate) fn frame(destination: [u8; 6], source: [u8; 6], packet: &[u8]) -> Vec<u8> {
    [&destination[..], &source, &[0x86, 0xdd], packet].concat()
}

/// Reproducible noise (xorshift64*): its seed is printed by whoever uses it.
pub(crate) struct Noise(u64);

impl Noise {
    pub(crate) fn new(seed: u64) -> Self {
        // Zero is the one state it never leaves.
        Self(seed.max(1))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap_or_default() % limit.max(1)
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next().to_be_bytes()[0]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_a_packet_that_holds_its_checksum_is_zero() {
        let (source, destination) = ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
        let packet = echo_request(source, destination);
        assert_eq!(checksum(source, destination, 58, &packet[40..]), 0);
        assert_ne!(checksum(source, destination, 58, &packet[41..]), 0);
    }

    #[test]
    fn the_checksum_is_the_one_of_a_captured_binding_update() {
        // From a capture of another implementation: checksum 0x7f8a over home address and home agent.
        let update = [
            0x3b, 0x03, 0x05, 0x00, 0x7f, 0x8a, 0x38, 0xf7, 0xc0, 0x00, 0x00, 0x96, 0x01, 0x00, 0x03, 0x10, 0x20, 0x01,
            0x0d, 0xb8, 0x30, 0x00, 0x00, 0x00, 0xd0, 0x5d, 0xb6, 0xff, 0xfe, 0xf0, 0xc2, 0xa1,
        ];
        let (home, agent) = ("2001:db8:2000::10".parse().unwrap(), "2001:db8:2000::1".parse().unwrap());
        assert_eq!(checksum(home, agent, 135, &update), 0);
    }
}
