//! Cutting and joining are each other's inverse, whatever the packets; nothing else is ever joined or changed.
#![allow(clippy::unwrap_used)] // in helpers of tests

use std::net::Ipv6Addr;

use kagemusha::tunnel::coalesce::Coalescer;
use kagemusha::tunnel::inspect::Inner;
use kagemusha::tunnel::segment::{HEADER_LIMIT, Segmentation, complete_checksum};
use kagemusha::tunnel::{Kind, Offload, Segments, vnet};
use kagemusha::wire::{checksum, ipv6};
use proptest::prelude::*;

const SOURCE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
const DESTINATION: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x2000, 0, 0, 0, 0, 0x10);

/// What a guest's driver leaves: `kind` with these octets of payload, to be cut into pieces of `size`.
fn whole(kind: Kind, payload: &[u8], size: u16, flags: u8, options: usize, sequence: u32) -> (Vec<u8>, Offload) {
    let (mut upper, field) = match kind {
        Kind::Tcp => {
            let mut header = vec![0; 20 + options];
            header[..4].copy_from_slice(&[0x14, 0x51, 0x30, 0x39]);
            header[4..8].copy_from_slice(&sequence.to_be_bytes());
            header[8..16].copy_from_slice(&[1, 2, 3, 4, ((20 + options) * 4) as u8, flags, 0x20, 0]);
            header[20..].fill(1);
            (header, 16)
        }
        Kind::Udp => (vec![0x14, 0x51, 0x30, 0x39, 0, 0, 0, 0], 6),
    };
    let header_length = (40 + upper.len()) as u16;
    upper.extend_from_slice(payload);
    if kind == Kind::Udp {
        let length = (upper.len() as u16).to_be_bytes();
        upper[4..6].copy_from_slice(&length);
    }
    let sum = checksum::pseudo_header(SOURCE, DESTINATION, kind.protocol(), upper.len());
    upper[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    let mut header = ipv6::Header::new(SOURCE, DESTINATION, kind.protocol());
    header.flow_label = 0x12345;
    let segments = Segments { kind, size, header_length, congestion_window_reduced: flags & 0x80 != 0 };
    let offload = Offload { checksum_start: 40, checksum_offset: field as u16, segments: Some(segments) };
    (header.emit(&upper), offload)
}

fn cut(packet: &[u8], offload: &Offload) -> Vec<Vec<u8>> {
    let segmentation = Segmentation::new(packet, offload).unwrap();
    let piece = |n| {
        let mut headers = [0; HEADER_LIMIT];
        let length = segmentation.write_headers(n, &mut headers).unwrap();
        [&headers[..length], segmentation.payload(n)].concat()
    };
    (0..segmentation.count()).map(piece).collect()
}

fn join(packets: &[Vec<u8>]) -> Vec<(Vec<u8>, Option<Offload>)> {
    let mut coalescer = Coalescer::new(true);
    packets.iter().for_each(|packet| coalescer.push((), packet, None));
    let groups = coalescer.groups().iter().map(|group| match group.whole() {
        Some((headers, offload)) => {
            let payloads: Vec<u8> = group.payloads().flatten().copied().collect();
            ([headers.as_bytes(), &payloads].concat(), Some(offload))
        }
        None => {
            let (packet, offload) = group.alone().unwrap();
            (packet.to_vec(), offload.copied())
        }
    });
    groups.collect()
}

fn kind() -> impl Strategy<Value = Kind> {
    prop::sample::select(vec![Kind::Tcp, Kind::Udp])
}

proptest! {
    /// What is cut is whole in every piece, and joined again the same; what was joined is cut into the same pieces.
    #[test]
    fn cut_and_join(
        kind in kind(), payload in prop::collection::vec(any::<u8>(), 2..20_000), size in 400u16..9000,
        last in prop::sample::select(vec![0u8, 1, 8, 9]), options in prop::sample::select(vec![0usize, 12, 40]), sequence: u32,
    ) {
        let (packet, offload) = whole(kind, &payload, size, 0x10 | last, options, sequence);
        let inner = Inner::read(&packet).unwrap();
        let unverified = vnet::parse(&vnet::header(Some(&offload), 14), 14).unwrap().unwrap();
        prop_assert_eq!(unverified.verified(&inner, &packet), Ok(offload));
        let pieces = cut(&packet, &offload);
        prop_assert_eq!(pieces.len(), payload.len().div_ceil(usize::from(size)));
        for piece in &pieces {
            let (header, upper) = ipv6::Header::parse(piece).unwrap();
            prop_assert!(checksum::verify(SOURCE, DESTINATION, kind.protocol(), upper));
            prop_assert!(piece.len() <= offload.longest_piece(packet.len()));
            prop_assert_eq!(usize::from(header.payload_length) + 40, piece.len());
        }
        let joined = join(&pieces);
        if pieces.len() > 1 {
            prop_assert_eq!(joined, [(packet, Some(offload))]);
        } else {
            prop_assert_eq!(joined, [(pieces[0].clone(), None)]);
        }
    }

    /// One octet changed anywhere in one piece: all packets still come out, in order, each as it was.
    #[test]
    fn whatever_is_different_is_not_joined(kind in kind(), at in 0usize..1460, bit in 0u8..8, which in 0usize..4) {
        let (packet, offload) = whole(kind, &[7; 5600], 1400, 0x10, 12, 5);
        let mut pieces = cut(&packet, &offload);
        if let Some(octet) = pieces[which].get_mut(at) {
            *octet ^= 1 << bit;
        }
        let again: Vec<_> = join(&pieces)
            .into_iter()
            .flat_map(|(packet, offload)| match offload {
                Some(offload) => cut(&packet, &offload),
                None => vec![packet],
            })
            .collect();
        let sorted = |mut all: Vec<Vec<u8>>| { all.sort(); all };
        prop_assert_eq!(sorted(again), sorted(pieces));
    }

    /// Packets of several flows, mixed: each flow keeps its order and comes out as it went in.
    #[test]
    fn flows_stay_apart(order in prop::collection::vec(0usize..3, 1..40)) {
        let flows: Vec<Vec<Vec<u8>>> = (0..3u8).map(|flow| {
            let (mut packet, offload) = whole(if flow == 2 { Kind::Udp } else { Kind::Tcp }, &[flow; 40_000], 1000, 0x18, 0, 9);
            packet[41] = flow;
            cut(&packet, &offload)
        }).collect();
        let mut at = [0; 3];
        let mixed: Vec<_> = order.iter().map(|flow| { at[*flow] += 1; flows[*flow][at[*flow] - 1].clone() }).collect();
        let joined = join(&mixed);
        for flow in 0..3 {
            let out: Vec<_> = joined.iter().filter(|(packet, _)| packet[41] == flow as u8).flat_map(|(packet, offload)| match offload {
                Some(offload) => cut(packet, offload),
                None => vec![packet.clone()],
            }).collect();
            prop_assert_eq!(&out[..], &flows[flow][..at[flow]]);
        }
    }

    /// Neither any octets nor any offload make a panic, and what is not a packet stays alone.
    #[test]
    fn any_octets(
        packet in prop::collection::vec(any::<u8>(), 0..300), next in prop::sample::select(vec![6u8, 17, 58, 43]), start: u16, offset: u16,
        size: u16, header_length: u16, kind in kind(), header in prop::collection::vec(any::<u8>(), 0..12),
    ) {
        let mut packet = packet;
        if packet.len() >= 40 {
            let length = (packet.len() - 40) as u16;
            packet[0] = 0x60;
            packet[4..6].copy_from_slice(&length.to_be_bytes());
            packet[6] = next;
        }
        for start in [start, 40] {
            let segments = Segments { kind, size, header_length: header_length % 400, congestion_window_reduced: false };
            let offload = Offload { checksum_start: start, checksum_offset: offset % 64, segments: Some(segments) };
            if let Ok(inner) = Inner::read(&packet) && let Ok(verified) = offload.verified(&inner, &packet) {
                cut_all(&packet, &verified);
            }
            cut_all(&packet, &offload);
            let _ = complete_checksum(&mut packet.clone(), &offload);
        }
        let _ = vnet::parse(&header, 14);
        let alone = join(std::slice::from_ref(&packet));
        prop_assert_eq!(alone, [(packet.clone(), None)]);
        prop_assert_eq!(join(&[packet.clone(), packet]).iter().map(|(packet, _)| packet.len()).min().is_some(), true);
    }
}

fn cut_all(packet: &[u8], offload: &Offload) {
    if let Ok(segmentation) = Segmentation::new(packet, offload) {
        for n in 0..segmentation.count() {
            let _ = segmentation.write_headers(n, &mut [0; HEADER_LIMIT]);
            let _ = segmentation.payload(n);
        }
    }
}

#[test]
fn flags_belong_to_the_first_or_the_last_piece() {
    let (packet, offload) = whole(Kind::Tcp, &[0; 3000], 1000, 0x80 | 0x40 | 0x10 | 0x08 | 0x01, 0, 1);
    let flags: Vec<u8> = cut(&packet, &offload).iter().map(|piece| piece[40 + 13]).collect();
    assert_eq!(flags, [0x80 | 0x40 | 0x10, 0x40 | 0x10, 0x40 | 0x10 | 0x08 | 0x01]);
    // CWR, SYN, RST and URG are never joined.
    for flag in [0x80, 0x02, 0x04, 0x20] {
        let (packet, offload) = whole(Kind::Tcp, &[0; 3000], 1000, 0x10 | flag, 0, 1);
        let pieces: Vec<_> = cut(&packet, &offload);
        assert!(
            join(&pieces[..2])
                .iter()
                .all(|(packet, offload)| flag == 0x80 && packet[53] & 0x80 == 0 || offload.is_none())
        );
    }
}

#[test]
fn a_partial_checksum_is_completed() {
    let (mut packet, offload) = whole(Kind::Udp, &[1, 2, 3], 1000, 0, 0, 0);
    complete_checksum(&mut packet, &Offload { segments: None, ..offload }).unwrap();
    assert!(checksum::verify(SOURCE, DESTINATION, 17, &packet[40..]));
}
