//! The header that a TAP or TUN with `IFF_VNET_HDR` wants before each frame: `struct virtio_net_hdr` of
//! `include/uapi/linux/virtio_net.h`, in the byte order of the host (without `TUNSETVNETLE`/`BE`).

use super::offload::{Kind, Offload, Segments};
use super::reason::Reason;

/// Length of the header in octets with the default `TUNSETVNETHDRSZ`.
pub const LENGTH: usize = 10;

/// Length with the number of buffers (`struct virtio_net_hdr_mrg_rxbuf`), where `TUNSETVNETHDRSZ` was set to it.
pub const LENGTH_WITH_BUFFERS: usize = 12;

const F_NEEDS_CSUM: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// The header of a frame whose packet begins `link_header` octets into it: 14 on a TAP, 0 on a TUN.
pub fn header(offload: Option<&Offload>, link_header: u16) -> [u8; LENGTH] {
    let mut header = [0; LENGTH];
    let Some(offload) = offload else { return header };
    header[0] = F_NEEDS_CSUM;
    let mut put = |at: usize, value: u16| header[at..at + 2].copy_from_slice(&value.to_ne_bytes());
    if let Some(Segments { size, header_length, .. }) = offload.segments {
        put(2, header_length.saturating_add(link_header));
        put(4, size);
    }
    put(6, offload.checksum_start.saturating_add(link_header));
    put(8, offload.checksum_offset);
    if let Some(segments) = offload.segments {
        header[1] = match segments.kind {
            Kind::Tcp if segments.congestion_window_reduced => GSO_TCPV6 | GSO_ECN,
            Kind::Tcp => GSO_TCPV6,
            Kind::Udp => GSO_UDP_L4,
        };
    }
    header
}

/// What the header of a frame says whose packet begins `skipped` octets into it: 14 on a TAP; 54 where a packet of the tunnel
/// was read with its Ethernet header. How long the packet's headers are is not known from it: [`Offload::verified`] finds out.
///
/// # Errors
/// [`Reason::BadOffload`] for a header too short, IPv4, IP fragmentation offload, or a checksum that begins before the packet.
pub fn parse(header: &[u8], skipped: u16) -> Result<Option<Offload>, Reason> {
    let header = header.first_chunk::<LENGTH>().ok_or(Reason::BadOffload)?;
    let [flags, gso_type, _, _, size_0, size_1, start_0, start_1, offset_0, offset_1] = *header;
    let kind = match gso_type & !GSO_ECN {
        0 if flags & F_NEEDS_CSUM == 0 => return Ok(None),
        0 => None,
        GSO_TCPV6 => Some(Kind::Tcp),
        GSO_UDP_L4 => Some(Kind::Udp),
        _ => return Err(Reason::BadOffload),
    };
    if flags & F_NEEDS_CSUM == 0 {
        return Err(Reason::BadOffload);
    }
    let start = u16::from_ne_bytes([start_0, start_1]).checked_sub(skipped).ok_or(Reason::BadOffload)?;
    Ok(Some(Offload {
        checksum_start: start,
        checksum_offset: u16::from_ne_bytes([offset_0, offset_1]),
        segments: kind.map(|kind| Segments {
            kind,
            size: u16::from_ne_bytes([size_0, size_1]),
            header_length: 0,
            congestion_window_reduced: gso_type & GSO_ECN != 0,
        }),
    }))
}

/// The same with the number of buffers, which a writer leaves 0.
pub fn header_with_buffers(offload: Option<&Offload>, link_header: u16) -> [u8; LENGTH_WITH_BUFFERS] {
    let mut whole = [0; LENGTH_WITH_BUFFERS];
    whole[..LENGTH].copy_from_slice(&header(offload, link_header));
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_where_the_kernel_reads_them() {
        assert_eq!(header(None, 14), [0; 10]);
        let checksum = Offload { checksum_start: 40, checksum_offset: 6, segments: None };
        let expected = [&[1, 0, 0, 0, 0, 0][..], &40u16.to_ne_bytes(), &6u16.to_ne_bytes()].concat();
        assert_eq!(header(Some(&checksum), 0)[..], expected);
        let segments = Segments { kind: Kind::Tcp, size: 1400, header_length: 60, congestion_window_reduced: true };
        let merged = Offload { checksum_start: 40, checksum_offset: 16, segments: Some(segments) };
        let words = [74u16, 1400, 54, 16].map(u16::to_ne_bytes).concat();
        assert_eq!(header(Some(&merged), 14)[..], [&[1, 0x84][..], &words].concat());
        let read = parse(&header(Some(&merged), 14), 14).unwrap().unwrap();
        assert_eq!(read, Offload { segments: Some(Segments { header_length: 0, ..segments }), ..merged });
        let datagrams = Offload {
            segments: Some(Segments { kind: Kind::Udp, congestion_window_reduced: false, ..segments }),
            ..merged
        };
        assert_eq!(header(Some(&datagrams), 14)[..2], [1, 5]);
        assert_eq!(parse(&header(Some(&merged), 14), 60), Err(Reason::BadOffload));
        assert_eq!((parse(&[0; 10], 14), parse(&[0; 9], 14)), (Ok(None), Err(Reason::BadOffload)));
        assert_eq!(parse(&[0, 4, 0, 0, 0, 9, 0, 60, 0, 16], 14), Err(Reason::BadOffload), "no checksum to start from");
        assert_eq!(header_with_buffers(Some(&merged), 14)[..], [&[1, 0x84][..], &words, &[0, 0]].concat());
    }
}
