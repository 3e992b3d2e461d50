//! The header that a TAP or TUN with `IFF_VNET_HDR` wants before each frame: `struct virtio_net_hdr` of
//! `include/uapi/linux/virtio_net.h`, in the byte order of the host (without `TUNSETVNETLE`/`BE`).

use super::offload::{Offload, Segments};

/// Length of the header in octets with the default `TUNSETVNETHDRSZ`.
pub const LENGTH: usize = 10;

/// Length with the number of buffers (`struct virtio_net_hdr_mrg_rxbuf`), where `TUNSETVNETHDRSZ` was set to it.
pub const LENGTH_WITH_BUFFERS: usize = 12;

const F_NEEDS_CSUM: u8 = 1;
const GSO_TCPV6: u8 = 4;
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
        header[1] = if segments.congestion_window_reduced { GSO_TCPV6 | GSO_ECN } else { GSO_TCPV6 };
    }
    header
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
        let segments = Segments { size: 1400, header_length: 60, congestion_window_reduced: true };
        let merged = Offload { checksum_start: 40, checksum_offset: 16, segments: Some(segments) };
        let words = [74u16, 1400, 54, 16].map(u16::to_ne_bytes).concat();
        assert_eq!(header(Some(&merged), 14)[..], [&[1, 0x84][..], &words].concat());
        assert_eq!(header_with_buffers(Some(&merged), 14)[..], [&[1, 0x84][..], &words, &[0, 0]].concat());
    }
}
