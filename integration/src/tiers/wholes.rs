//! Packets that a driver has left whole, of up to 64 KiB, and the pieces that they stand for, cut here once more by other means.

use std::net::Ipv6Addr;

use kagemusha::tunnel::{Kind, Offload, Segments};
use kagemusha::wire::{checksum, ipv6};

use super::cases::{Cases, MARK};

/// Most that a piece may be, as an IPv6 packet: what the tunnel carries on an underlay of 1500 octets.
const PIECE: usize = 1460;
/// Octets of a TCP header without options, and of a UDP header.
const TCP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
const CHECKSUM_OF_TCP: usize = 16;
const CHECKSUM_OF_UDP: usize = 6;
const ACK: u8 = 0x10;
const PSH: u8 = 0x08;
const FIN: u8 = 0x01;
const CWR: u8 = 0x80;
/// No operation twice, and timestamps (RFC 7323 §3.2).
const TIMESTAMPS: [u8; 12] = [1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 8];

/// What is whole, and its pieces.
pub(super) struct Whole {
    /// What the driver leaves to be done.
    pub(super) offload: Offload,
    /// The IPv6 packets that it stands for.
    pub(super) pieces: Vec<Vec<u8>>,
}

/// A whole in the making.
struct Draft {
    kind: Kind,
    flags: u8,
    options: &'static [u8],
    /// Payload of a piece.
    size: usize,
    payload: usize,
    class: u8,
    label: u32,
}

/// Wholes between two addresses: the name of each, the packet, and what it stands for. They are numbered as the other cases are.
pub(super) fn between(from: Ipv6Addr, to: Ipv6Addr) -> Vec<(String, Vec<u8>, Whole)> {
    let tcp = |flags, options: &'static [u8], payload, class, label| Draft {
        kind: Kind::Tcp,
        flags,
        options,
        size: PIECE - ipv6::HEADER_LENGTH - TCP_HEADER - options.len(),
        payload,
        class,
        label,
    };
    let udp = |size, payload, class| Draft { kind: Kind::Udp, flags: 0, options: &[], size, payload, class, label: 5 };
    let drafts = [
        ("TCP, a little more than a piece", tcp(ACK, &[], PIECE, 0, 0)),
        ("TCP, four pieces with timestamps", tcp(ACK | PSH, &TIMESTAMPS, 4 * (PIECE - 72), 0, 0x12345)),
        ("TCP, the end of a stream", tcp(ACK | PSH | FIN, &[], 10 * (PIECE - 60) + 77, 0, 0xfffff)),
        ("TCP, congestion window reduced", tcp(ACK | CWR, &TIMESTAMPS, 9000, 2, 7)),
        ("TCP, congestion experienced", tcp(ACK, &[], 9000, 3, 7)),
        ("TCP, expedited", tcp(ACK, &TIMESTAMPS, 20_000, 0xb9, 7)),
        ("TCP, 64 KiB", tcp(ACK | PSH, &TIMESTAMPS, 65_000, 0, 0x54321)),
        ("UDP, two datagrams", udp(1000, 2000, 0)),
        ("UDP, the last is shorter", udp(1200, 12_345, 0xbb)),
        ("UDP, 40 datagrams", udp(PIECE - 48, 40 * (PIECE - 48), 2)),
    ];
    let mut numbers = Cases::default();
    let mut all = Vec::new();
    for (name, draft) in drafts {
        let mark = numbers.mark();
        let (packet, whole) = draft.build(from, to, &mark);
        numbers.add(name, packet.clone());
        all.push((name.to_owned(), packet, whole));
    }
    all
}

impl Draft {
    fn build(&self, from: Ipv6Addr, to: Ipv6Addr, mark: &[u8]) -> (Vec<u8>, Whole) {
        let data: Vec<u8> = mark.iter().copied().cycle().take(self.payload).collect();
        let port = mark.get(MARK.len() + 1).copied().unwrap_or_default();
        let mut upper = self.upper_header(port, 1, self.flags, data.len());
        let header_length = ipv6::HEADER_LENGTH + upper.len();
        let at = self.checksum_offset();
        let length = upper.len() + data.len();
        // The driver puts the sum of the pseudo-header there, and leaves the rest to who cuts.
        let sum = checksum::pseudo_header(from, to, self.kind.protocol(), length);
        upper[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        let offload = Offload {
            checksum_start: ipv6::HEADER_LENGTH as u16,
            checksum_offset: at as u16,
            segments: Some(Segments {
                kind: self.kind,
                size: self.size as u16,
                header_length: header_length as u16,
                congestion_window_reduced: self.flags & CWR != 0,
            }),
        };
        let packet = self.header(from, to).emit(&[&upper[..], &data].concat());
        let last = data.len().div_ceil(self.size) - 1;
        let pieces = data.chunks(self.size).enumerate().map(|(n, data)| {
            let only_first = if n == 0 { 0 } else { CWR };
            let only_last = if n == last { 0 } else { PSH | FIN };
            let sequence = 1 + (n * self.size) as u32;
            let upper = self.upper_header(port, sequence, self.flags & !only_first & !only_last, data.len());
            let mut octets = [&upper[..], data].concat();
            checksum::fill(from, to, self.kind.protocol(), &mut octets);
            self.header(from, to).emit(&octets)
        });
        (packet, Whole { offload, pieces: pieces.collect() })
    }

    fn header(&self, from: Ipv6Addr, to: Ipv6Addr) -> ipv6::Header {
        let mut header = ipv6::Header::new(from, to, self.kind.protocol());
        (header.hop_limit, header.traffic_class, header.flow_label) = (61, self.class, self.label);
        header
    }

    /// Without its checksum.
    fn upper_header(&self, port: u8, sequence: u32, flags: u8, payload: usize) -> Vec<u8> {
        let mut header = vec![0x50, port, 0x30, 0x3a];
        match self.kind {
            Kind::Tcp => {
                header.extend(sequence.to_be_bytes());
                header.extend([
                    0,
                    0,
                    0,
                    2,
                    (((TCP_HEADER + self.options.len()) / 4) << 4) as u8,
                    flags,
                    1,
                    0,
                    0,
                    0,
                    0,
                    0,
                ]);
                header.extend(self.options);
            }
            Kind::Udp => {
                header.extend(((UDP_HEADER + payload) as u16).to_be_bytes());
                header.extend([0, 0]);
            }
        }
        header
    }

    fn checksum_offset(&self) -> usize {
        match self.kind {
            Kind::Tcp => CHECKSUM_OF_TCP,
            Kind::Udp => CHECKSUM_OF_UDP,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tiers::cases::number_in;

    #[test]
    fn every_piece_has_the_number_of_its_whole() {
        let address = |text: &str| text.parse().unwrap();
        for (number, (name, packet, whole)) in between(address("::1"), address("::2")).into_iter().enumerate() {
            assert_eq!(number_in(&packet), Some(number), "{name}");
            assert!(whole.pieces.len() > 1 && whole.pieces.iter().all(|piece| piece.len() <= PIECE), "{name}");
            assert!(whole.pieces.iter().all(|piece| number_in(piece) == Some(number)), "{name}");
        }
    }
}
