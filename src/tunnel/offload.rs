//! What the kernel's receive side leaves undone in packets read from a raw socket.
//!
//! Generic receive offload merges TCP segments inside the tunnel before a raw socket sees them: one packet longer
//! than any MTU comes, its TCP checksum replaced by the sum of the pseudo-header, its segment size lost. Packets that
//! never left this machine (a veth pair) come with the same partial checksum, of any length. Both are told here and
//! handed to the guest's TAP with `IFF_VNET_HDR`, where the kernel (or the guest's driver) completes them.

use super::inspect::Inner;
use super::reason::Reason;
use crate::wire::numbers::protocol;
use crate::wire::{checksum, ipv6};

/// Octets of a TCP header without options.
const TCP_HEADER_LENGTH: usize = 20;
/// Octets of a UDP header.
const UDP_HEADER_LENGTH: usize = 8;
/// Offset of the flags in a TCP header, and the bit of CWR.
const TCP_FLAGS: usize = 13;
const TCP_CWR: u8 = 0x80;

/// What a packet still needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offload {
    /// Where the checksum's sum begins: the upper-layer header, in octets from the start of the IPv6 packet.
    pub checksum_start: u16,
    /// Where the checksum field is, from `checksum_start`.
    pub checksum_offset: u16,
    /// How to cut it, when it is merged.
    pub segments: Option<Segments>,
}

/// The upper layers that are merged and cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One stream: sequence numbers go on.
    Tcp,
    /// Datagrams of one size, the last may be shorter.
    Udp,
}

impl Kind {
    /// Its protocol number.
    pub fn protocol(self) -> u8 {
        match self {
            Self::Tcp => protocol::TCP,
            Self::Udp => protocol::UDP,
        }
    }

    /// The least that its header has, in octets.
    pub fn header_length(self) -> usize {
        match self {
            Self::Tcp => TCP_HEADER_LENGTH,
            Self::Udp => UDP_HEADER_LENGTH,
        }
    }
}

/// How a merged packet is cut again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segments {
    /// TCP or UDP.
    pub kind: Kind,
    /// Payload per segment in octets. Where the size before merging is not known, the largest that the tunnel carries
    /// is taken.
    pub size: u16,
    /// IPv6, extension and upper-layer headers in octets.
    pub header_length: u16,
    /// The first segment carries CWR, the others must not.
    pub congestion_window_reduced: bool,
}

impl Offload {
    /// Checks against the packet what its virtio-net header said of it, and finds how long its headers are.
    ///
    /// # Errors
    /// [`Reason::BadOffload`].
    pub fn verified(self, inner: &Inner, packet: &[u8]) -> Result<Self, Reason> {
        let start = usize::from(self.checksum_start);
        let field = start + usize::from(self.checksum_offset);
        if start < ipv6::HEADER_LENGTH || field + 2 > inner.length {
            return Err(Reason::BadOffload);
        }
        let Some(segments) = self.segments else { return Ok(self) };
        let fits = start == inner.upper_layer_offset()
            && inner.chain.upper_layer == segments.kind.protocol()
            && inner.chain.fragment.is_none()
            && checksum::field_offset(segments.kind.protocol()) == Some(usize::from(self.checksum_offset))
            && segments.size > 0;
        let upper = packet.get(start..inner.length).filter(|_| fits).ok_or(Reason::BadOffload)?;
        let header_length = start + upper_header_length(segments.kind, upper).ok_or(Reason::BadOffload)?;
        let header_length = u16::try_from(header_length).map_err(|_| Reason::BadOffload)?;
        Ok(Self { segments: Some(Segments { header_length, ..segments }), ..self })
    }

    /// Octets of the longest packet that one of `length` octets is cut into.
    pub fn longest_piece(&self, length: usize) -> usize {
        let piece = |segments: Segments| usize::from(segments.header_length) + usize::from(segments.size);
        self.segments.map_or(length, |segments| piece(segments).min(length))
    }
}

/// Length of the upper-layer header that `upper` begins with; `None` when it is not all there.
fn upper_header_length(kind: Kind, upper: &[u8]) -> Option<usize> {
    let length = match kind {
        Kind::Tcp => usize::from(upper.get(12)? >> 4) * 4,
        Kind::Udp => UDP_HEADER_LENGTH,
    };
    (length >= kind.header_length() && length <= upper.len()).then_some(length)
}

/// Finds what is left to do for `packet` (exactly `inner.length` octets), in a tunnel of `mtu` and for a link of
/// `link_mtu` octets. The checksum of a packet too long for the link that came whole is turned into the partial one
/// that segmentation starts from.
///
/// # Errors
/// [`Reason::TooBigForLink`] when it cannot be cut, [`Reason::BadChecksum`] when it must be cut and its checksum is
/// wrong.
pub fn detect(inner: &Inner, packet: &mut [u8], mtu: usize, link_mtu: usize) -> Result<Option<Offload>, Reason> {
    let too_big = packet.len() > link_mtu;
    let whole = |too_big| if too_big { Err(Reason::TooBigForLink) } else { Ok(None) };
    let upper_layer = inner.chain.upper_layer;
    let start = inner.upper_layer_offset();
    if inner.chain.fragment.is_some() || !matches!(upper_layer, protocol::TCP | protocol::UDP) {
        return whole(too_big);
    }
    let (Some(segment), Some(offset)) = (packet.get(start..), checksum::field_offset(upper_layer)) else {
        return whole(too_big);
    };
    let (source, destination) = (inner.header.source, inner.header.destination);
    let Some(found) = segment.get(offset..).and_then(|rest| rest.first_chunk::<2>()) else { return whole(too_big) };
    let pseudo_header = checksum::pseudo_header(source, destination, upper_layer, segment.len());
    // One whole checksum in 65536 looks like a partial one. That does no harm: completing it gives the right one again.
    let partial = u16::from_be_bytes(*found) == pseudo_header;
    if too_big && !partial && !checksum::verify(source, destination, upper_layer, segment) {
        return Err(Reason::BadChecksum);
    }
    let merged = too_big || (partial && packet.len() > mtu);
    if merged && upper_layer != protocol::TCP {
        return whole(too_big).map(|_| partial.then(|| checksum_only(start, offset)));
    }
    if !merged {
        return Ok(partial.then(|| checksum_only(start, offset)));
    }
    let segments = segments(segment, start, mtu.min(link_mtu))?;
    if let Some(field) = packet.get_mut(start + offset..start + offset + 2) {
        field.copy_from_slice(&pseudo_header.to_be_bytes());
    }
    Ok(Some(Offload { segments: Some(segments), ..checksum_only(start, offset) }))
}

fn checksum_only(start: usize, offset: usize) -> Offload {
    // Both fit: an IPv6 packet without the jumbo payload option is at most 65575 octets long, and at least two octets
    // follow.
    let fit = |value: usize| u16::try_from(value).unwrap_or(u16::MAX);
    Offload { checksum_start: fit(start), checksum_offset: fit(offset), segments: None }
}

fn segments(segment: &[u8], start: usize, mtu: usize) -> Result<Segments, Reason> {
    let data_offset = upper_header_length(Kind::Tcp, segment).ok_or(Reason::TooBigForLink)?;
    let flags = segment.get(TCP_FLAGS).copied().unwrap_or_default();
    let header_length = start + data_offset;
    let size = mtu.checked_sub(header_length).filter(|size| *size > 0).ok_or(Reason::TooBigForLink)?;
    let fit = |value: usize| u16::try_from(value).map_err(|_| Reason::TooBigForLink);
    Ok(Segments {
        kind: Kind::Tcp,
        size: fit(size)?,
        header_length: fit(header_length)?,
        congestion_window_reduced: flags & TCP_CWR != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::table::tests::address;

    /// A TCP or UDP packet of `length` octets with a right checksum, or the partial one that the kernel leaves.
    fn packet(upper_layer: u8, length: usize, partial: bool) -> Vec<u8> {
        let (source, destination) = (address("2001:db8:2000::2"), address("2001:db8:2000::10"));
        let mut segment: Vec<u8> = (0..length - 40).map(|n| (n * 7) as u8).collect();
        segment[12] = 0x80; // 32 octets of TCP header
        segment[13] = 0x10;
        assert!(checksum::fill(source, destination, upper_layer, &mut segment));
        if partial {
            let offset = checksum::field_offset(upper_layer).unwrap();
            segment[offset..offset + 2].fill(0);
            let zeros = vec![0; segment.len()];
            let sum = !checksum::upper_layer(source, destination, upper_layer, &zeros);
            segment[offset..offset + 2].copy_from_slice(&sum.to_be_bytes());
        }
        ipv6::Header::new(source, destination, upper_layer).emit(&segment)
    }

    fn find(packet: &mut [u8]) -> Result<Option<Offload>, Reason> {
        detect(&Inner::read(packet).unwrap(), packet, 1460, 1500)
    }

    const CHECKSUM: Offload = Offload { checksum_start: 40, checksum_offset: 16, segments: None };
    const MERGED: Offload = Offload {
        segments: Some(Segments {
            kind: Kind::Tcp,
            size: 1460 - 72,
            header_length: 72,
            congestion_window_reduced: false,
        }),
        ..CHECKSUM
    };

    #[test]
    fn whole_packets_need_nothing() {
        for length in [100, 1460, 1461, 1500] {
            assert_eq!(find(&mut packet(protocol::TCP, length, false)), Ok(None), "{length}");
            assert_eq!(find(&mut packet(protocol::UDP, length, false)), Ok(None), "{length}");
        }
    }

    #[test]
    fn partial_checksums_are_completed_by_the_kernel() {
        assert_eq!(find(&mut packet(protocol::TCP, 100, true)), Ok(Some(CHECKSUM)));
        let udp = Offload { checksum_offset: 6, ..CHECKSUM };
        assert_eq!(find(&mut packet(protocol::UDP, 100, true)), Ok(Some(udp)));
        assert_eq!(find(&mut packet(protocol::UDP, 1500, true)), Ok(Some(udp)));
    }

    #[test]
    fn merged_packets_are_cut_to_the_tunnel() {
        assert_eq!(find(&mut packet(protocol::TCP, 1461, true)), Ok(Some(MERGED)));
        assert_eq!(find(&mut packet(protocol::TCP, 65_000, true)), Ok(Some(MERGED)));
        let mut reduced = packet(protocol::TCP, 65_000, true);
        reduced[40 + 13] |= 0x80;
        assert!(find(&mut reduced).unwrap().unwrap().segments.unwrap().congestion_window_reduced);
    }

    #[test]
    fn a_long_packet_with_a_whole_checksum_gets_the_partial_one() {
        let mut long = packet(protocol::TCP, 9000, false);
        assert_eq!(find(&mut long), Ok(Some(MERGED)));
        assert_eq!(long[40..], packet(protocol::TCP, 9000, true)[40..]);
        let mut wrong = packet(protocol::TCP, 9000, false);
        wrong[8999] ^= 1;
        assert_eq!(find(&mut wrong), Err(Reason::BadChecksum));
    }

    #[test]
    fn what_cannot_be_cut_is_too_big() {
        assert_eq!(find(&mut packet(protocol::UDP, 1501, true)), Err(Reason::TooBigForLink));
        assert_eq!(find(&mut packet(protocol::UDP, 1501, false)), Err(Reason::TooBigForLink));
        let mut no_header = packet(protocol::TCP, 9000, true);
        no_header[40 + 12] = 0x40;
        assert_eq!(find(&mut no_header), Err(Reason::TooBigForLink));
        let mut other = packet(protocol::TCP, 1501, true);
        other[6] = protocol::ESP;
        assert_eq!(find(&mut other), Err(Reason::TooBigForLink));
    }
}
