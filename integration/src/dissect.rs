//! The lab's own eyes: reads frames and shows them in tcpdump's form.
//!
//! It shares no code with the codecs of the product on purpose: a mistake that an encoder and its decoder have in common
//! would be invisible here otherwise.

use std::fmt;
use std::net::Ipv6Addr;
use std::time::Duration;

use crate::craft::checksum;

/// A captured frame, taken apart.
#[derive(Debug, Clone)]
pub(crate) struct Packet {
    pub(crate) link: &'static str,
    /// When the kernel saw it, since the epoch.
    pub(crate) time: Duration,
    pub(crate) frame: Vec<u8>,
    pub(crate) ether_source: [u8; 6],
    pub(crate) ether_destination: [u8; 6],
    /// From the outside to the inside.
    pub(crate) layers: Vec<Layer>,
}

/// One header, or one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Layer {
    Ipv6 {
        source: Ipv6Addr,
        destination: Ipv6Addr,
        hop_limit: u8,
        payload_length: u16,
    },
    HopByHop,
    DestinationOptions {
        home_address: Option<Ipv6Addr>,
    },
    Routing {
        kind: u8,
        segments_left: u8,
        home_address: Option<Ipv6Addr>,
    },
    Fragment {
        offset: u16,
        more: bool,
    },
    Esp {
        spi: u32,
        sequence: u32,
        length: usize,
    },
    BindingUpdate {
        sequence: u16,
        flags: u16,
        lifetime: u16,
        alternate_care_of: Option<Ipv6Addr>,
    },
    BindingAcknowledgement {
        status: u8,
        sequence: u16,
        lifetime: u16,
    },
    Mobility {
        kind: u8,
    },
    Icmpv6 {
        kind: u8,
        code: u8,
        rest: u32,
        target: Option<Ipv6Addr>,
        length: usize,
    },
    Udp {
        source: u16,
        destination: u16,
        length: usize,
    },
    Tcp {
        source: u16,
        destination: u16,
    },
    Other {
        next_header: u8,
        length: usize,
    },
    NotIpv6 {
        ether_type: u16,
    },
    /// Follows a mobility header whose checksum is wrong.
    BadChecksum,
    Truncated,
}

/// ICMPv6 types of RFC 4443 and RFC 4861.
pub(crate) mod icmpv6 {
    pub(crate) const PACKET_TOO_BIG: u8 = 2;
    pub(crate) const TIME_EXCEEDED: u8 = 3;
    pub(crate) const ECHO_REQUEST: u8 = 128;
    pub(crate) const ECHO_REPLY: u8 = 129;
    pub(crate) const ROUTER_SOLICITATION: u8 = 133;
    pub(crate) const ROUTER_ADVERTISEMENT: u8 = 134;
    pub(crate) const NEIGHBOR_SOLICITATION: u8 = 135;
    pub(crate) const NEIGHBOR_ADVERTISEMENT: u8 = 136;
}

impl Packet {
    /// Reads a whole Ethernet frame. Never fails: what cannot be read becomes [`Layer::Truncated`].
    pub(crate) fn dissect(link: &'static str, time: Duration, frame: &[u8]) -> Self {
        let mut layers = Vec::new();
        let mac =
            |at: usize| frame.get(at..at + 6).and_then(|bytes| <[u8; 6]>::try_from(bytes).ok()).unwrap_or_default();
        match (be16(frame, 12), frame.get(14..)) {
            (Some(0x86dd), Some(payload)) => {
                if dissect_ipv6(payload, &mut layers).is_none() {
                    layers.push(Layer::Truncated);
                }
            }
            (Some(ether_type), _) => layers.push(Layer::NotIpv6 { ether_type }),
            (None, _) => layers.push(Layer::Truncated),
        }
        Self { link, time, frame: frame.to_vec(), ether_source: mac(6), ether_destination: mac(0), layers }
    }

    /// Source and destination of every IPv6 header, the outermost first.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = (Ipv6Addr, Ipv6Addr)> {
        self.layers.iter().filter_map(|layer| match layer {
            Layer::Ipv6 { source, destination, .. } => Some((*source, *destination)),
            _ => None,
        })
    }

    /// Hop limits, the outermost first.
    pub(crate) fn hop_limits(&self) -> Vec<u8> {
        let hop_limit = |layer: &Layer| match layer {
            Layer::Ipv6 { hop_limit, .. } => Some(*hop_limit),
            _ => None,
        };
        self.layers.iter().filter_map(hop_limit).collect()
    }

    /// Whether the outermost IPv6 header goes from `source` to `destination`.
    pub(crate) fn is_from_to(&self, source: Ipv6Addr, destination: Ipv6Addr) -> bool {
        self.addresses().next() == Some((source, destination))
    }

    /// Whether it is exactly one IPv6 packet in another: the addresses of both, outer ones first.
    pub(crate) fn tunnelled(&self, outer: (Ipv6Addr, Ipv6Addr), inner: (Ipv6Addr, Ipv6Addr)) -> bool {
        matches!(self.layers.as_slice(), [Layer::Ipv6 { .. }, Layer::Ipv6 { .. }, ..])
            && self.addresses().eq([outer, inner])
    }

    /// Whether it is reverse ARP, as a hypervisor sends it for a guest that has arrived.
    pub(crate) fn is_reverse_arp(&self) -> bool {
        self.layers.contains(&Layer::NotIpv6 { ether_type: 0x8035 })
    }

    /// Whether the innermost message is an ICMPv6 message of this type.
    pub(crate) fn is_icmpv6(&self, wanted: u8) -> bool {
        matches!(self.layers.last(), Some(Layer::Icmpv6 { kind, .. }) if *kind == wanted)
    }

    /// Whether it is a neighbour solicitation or advertisement (or redirect) about `wanted`.
    pub(crate) fn has_target(&self, wanted: Ipv6Addr) -> bool {
        matches!(self.layers.last(), Some(Layer::Icmpv6 { target, .. }) if *target == Some(wanted))
    }

    /// Sequence number of the ESP header, the low half when it is extended.
    pub(crate) fn esp_sequence(&self) -> Option<u32> {
        self.layers.iter().find_map(|layer| match layer {
            Layer::Esp { sequence, .. } => Some(*sequence),
            _ => None,
        })
    }

    /// The SPI of its ESP header.
    pub(crate) fn spi(&self) -> Option<u32> {
        self.layers.iter().find_map(|layer| match layer {
            Layer::Esp { spi, .. } => Some(*spi),
            _ => None,
        })
    }

    /// The home address of its Home Address option or type 2 routing header.
    pub(crate) fn home_address(&self) -> Option<Ipv6Addr> {
        self.layers.iter().find_map(|layer| match layer {
            Layer::DestinationOptions { home_address } | Layer::Routing { home_address, .. } => *home_address,
            _ => None,
        })
    }

    /// Whether a mobility header of any type is readable in it, that is: not under ESP.
    pub(crate) fn has_mobility_header(&self) -> bool {
        self.layers.iter().any(|layer| {
            matches!(layer, Layer::BindingUpdate { .. } | Layer::BindingAcknowledgement { .. } | Layer::Mobility { .. })
        })
    }

    /// Its binding update: sequence number and lifetime in units of four seconds.
    pub(crate) fn binding_update(&self) -> Option<(u16, u16)> {
        self.layers.iter().find_map(|layer| match layer {
            Layer::BindingUpdate { sequence, lifetime, .. } => Some((*sequence, *lifetime)),
            _ => None,
        })
    }

    /// Its binding acknowledgement: status, sequence number and lifetime in units of four seconds.
    pub(crate) fn binding_acknowledgement(&self) -> Option<(u8, u16, u16)> {
        self.layers.iter().find_map(|layer| match layer {
            Layer::BindingAcknowledgement { status, sequence, lifetime } => Some((*status, *sequence, *lifetime)),
            _ => None,
        })
    }
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn address(bytes: &[u8], at: usize) -> Option<Ipv6Addr> {
    Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(at..at + 16)?).ok()?))
}

fn dissect_ipv6(packet: &[u8], layers: &mut Vec<Layer>) -> Option<()> {
    let payload_length = be16(packet, 4)?;
    layers.push(Layer::Ipv6 {
        source: address(packet, 8)?,
        destination: address(packet, 24)?,
        hop_limit: *packet.get(7)?,
        payload_length,
    });
    let payload = packet.get(40..40 + usize::from(payload_length))?;
    dissect_payload(*packet.get(6)?, payload, layers)
}

fn dissect_payload(mut next: u8, mut payload: &[u8], layers: &mut Vec<Layer>) -> Option<()> {
    loop {
        let extension_length = || Some(8 + 8 * usize::from(*payload.get(1)?));
        let length = match next {
            0 => {
                layers.push(Layer::HopByHop);
                extension_length()?
            }
            60 => {
                let length = extension_length()?;
                let home_address = home_address_option(payload.get(2..length)?)?;
                layers.push(Layer::DestinationOptions { home_address });
                length
            }
            43 => {
                let length = extension_length()?;
                let kind = *payload.get(2)?;
                let home_address = if kind == 2 { Some(address(payload.get(..length)?, 8)?) } else { None };
                layers.push(Layer::Routing { kind, segments_left: *payload.get(3)?, home_address });
                length
            }
            44 => {
                let offset = be16(payload, 2)?;
                layers.push(Layer::Fragment { offset: offset & !7, more: offset & 1 == 1 });
                if offset & !7 != 0 {
                    return Some(());
                }
                8
            }
            _ => break,
        };
        next = *payload.first()?;
        payload = payload.get(length..)?;
    }
    layers.push(match next {
        41 => return dissect_ipv6(payload, layers),
        50 => Layer::Esp { spi: be32(payload, 0)?, sequence: be32(payload, 4)?, length: payload.len() },
        58 => {
            let kind = *payload.first()?;
            let target = if matches!(kind, 135..=137) { Some(address(payload, 8)?) } else { None };
            Layer::Icmpv6 { kind, code: *payload.get(1)?, rest: be32(payload, 4)?, target, length: payload.len() }
        }
        135 => {
            let layer = mobility(payload)?;
            let good = checksum_of_mobility_header_is_good(layers, payload);
            layers.push(layer);
            if !good {
                layers.push(Layer::BadChecksum);
            }
            return Some(());
        }
        17 => Layer::Udp { source: be16(payload, 0)?, destination: be16(payload, 2)?, length: payload.len() },
        6 => Layer::Tcp { source: be16(payload, 0)?, destination: be16(payload, 2)? },
        next_header => Layer::Other { next_header, length: payload.len() },
    });
    Some(())
}

/// The Home Address option (RFC 6275 §6.3) among destination options. `None`: cut off.
fn home_address_option(mut options: &[u8]) -> Option<Option<Ipv6Addr>> {
    while let Some(kind) = options.first() {
        let length = if *kind == 0 { 1 } else { 2 + usize::from(*options.get(1)?) };
        if *kind == 0xc9 {
            return Some(Some(address(options, 2)?));
        }
        options = options.get(length..)?;
    }
    Some(None)
}

/// Whether the checksum fits the addresses of the innermost IPv6 header, for which the home address of the Home Address
/// option and of the type 2 routing header stand (RFC 6275 §6.1.1).
fn checksum_of_mobility_header_is_good(layers: &[Layer], header: &[u8]) -> bool {
    let (mut source, mut destination) = (Ipv6Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED);
    for layer in layers {
        match layer {
            Layer::Ipv6 { source: outer_source, destination: outer_destination, .. } => {
                (source, destination) = (*outer_source, *outer_destination);
            }
            Layer::DestinationOptions { home_address: Some(home) } => source = *home,
            Layer::Routing { home_address: Some(home), .. } => destination = *home,
            _ => {}
        }
    }
    checksum(source, destination, 135, header) == 0
}

/// A mobility header (RFC 6275 §6.1). `None`: cut off.
fn mobility(header: &[u8]) -> Option<Layer> {
    Some(match *header.get(2)? {
        5 => {
            let mut alternate_care_of = None;
            let mut options = header.get(12..8 + 8 * usize::from(*header.get(1)?))?;
            while let Some(kind) = options.first() {
                let length = if *kind == 0 { 1 } else { 2 + usize::from(*options.get(1)?) };
                if *kind == 3 {
                    alternate_care_of = Some(address(options, 2)?);
                }
                options = options.get(length..)?;
            }
            Layer::BindingUpdate {
                sequence: be16(header, 6)?,
                flags: be16(header, 8)?,
                lifetime: be16(header, 10)?,
                alternate_care_of,
            }
        }
        6 => Layer::BindingAcknowledgement {
            status: *header.get(6)?,
            sequence: be16(header, 8)?,
            lifetime: be16(header, 10)?,
        },
        kind => Layer::Mobility { kind },
    })
}

impl fmt::Display for Packet {
    /// Time of day, link, and the packet as tcpdump would show it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, micros) = (self.time.as_secs() % 86_400, self.time.subsec_micros());
        let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        write!(f, "{hours:02}:{minutes:02}:{seconds:02}.{micros:06} {:<8}", self.link)?;
        self.layers.iter().try_for_each(|layer| write!(f, " {layer}"))
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ipv6 { source, destination, .. } => write!(f, "IP6 {source} > {destination}:"),
            Self::HopByHop => f.write_str("HBH"),
            Self::DestinationOptions { home_address: Some(address) } => write!(f, "DSTOPT (homeaddr: {address})"),
            Self::DestinationOptions { home_address: None } => f.write_str("DSTOPT"),
            Self::Routing { kind, segments_left, home_address: Some(address) } => {
                write!(f, "RT6 (len=2, type={kind}, segleft={segments_left}, [0]{address})")
            }
            Self::Routing { kind, segments_left, home_address: None } => {
                write!(f, "RT6 (type={kind}, segleft={segments_left})")
            }
            Self::Fragment { offset, more } => write!(f, "frag ({offset}{})", if *more { "+" } else { "" }),
            Self::Esp { spi, sequence, length } => {
                write!(f, "ESP(spi={spi:#010x},seq={sequence:#x}), length {length}")
            }
            Self::BindingUpdate { sequence, flags, lifetime, alternate_care_of } => {
                f.write_str("mobility: BU")?;
                write!(f, " seq#={sequence} ")?;
                for (bit, letter) in [(15, 'A'), (14, 'H'), (13, 'L'), (12, 'K')] {
                    if flags >> bit & 1 == 1 {
                        write!(f, "{letter}")?;
                    }
                }
                write!(f, " lifetime={}", u32::from(*lifetime) * 4)?;
                alternate_care_of.map_or(Ok(()), |address| write!(f, " (alt-CoA: {address})"))
            }
            Self::BindingAcknowledgement { status, sequence, lifetime } => {
                write!(f, "mobility: BA status={status} seq#={sequence} lifetime={}", u32::from(*lifetime) * 4)
            }
            Self::Mobility { kind } => write!(f, "mobility: type {kind}"),
            Self::Icmpv6 { kind, rest, target, length, .. } => {
                f.write_str("ICMP6, ")?;
                match *kind {
                    1 => f.write_str("destination unreachable")?,
                    icmpv6::PACKET_TOO_BIG => write!(f, "packet too big, mtu {rest}")?,
                    icmpv6::TIME_EXCEEDED => f.write_str("time exceeded in-transit")?,
                    4 => f.write_str("parameter problem")?,
                    icmpv6::ECHO_REQUEST => write!(f, "echo request, id {}, seq {}", rest >> 16, rest & 0xffff)?,
                    icmpv6::ECHO_REPLY => write!(f, "echo reply, id {}, seq {}", rest >> 16, rest & 0xffff)?,
                    icmpv6::ROUTER_SOLICITATION => f.write_str("router solicitation")?,
                    icmpv6::ROUTER_ADVERTISEMENT => f.write_str("router advertisement")?,
                    icmpv6::NEIGHBOR_SOLICITATION => f.write_str("neighbor solicitation")?,
                    icmpv6::NEIGHBOR_ADVERTISEMENT => f.write_str("neighbor advertisement")?,
                    143 => f.write_str("multicast listener report v2")?,
                    other => write!(f, "type {other}")?,
                }
                match (*kind, target) {
                    (icmpv6::NEIGHBOR_SOLICITATION, Some(target)) => write!(f, ", who has {target}")?,
                    (icmpv6::NEIGHBOR_ADVERTISEMENT, Some(target)) => write!(f, ", tgt is {target}")?,
                    _ => {}
                }
                write!(f, ", length {length}")
            }
            Self::Udp { source, destination, length } => write!(f, "UDP {source} > {destination}, length {length}"),
            Self::Tcp { source, destination } => write!(f, "TCP {source} > {destination}"),
            Self::Other { next_header, length } => write!(f, "ip-proto-{next_header} {length}"),
            Self::NotIpv6 { ether_type } => write!(f, "ethertype {ether_type:#06x}"),
            Self::BadChecksum => f.write_str("[bad cksum]"),
            Self::Truncated => f.write_str("[truncated]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `IPv6(CoA→HA) | DSTOPT{PadN, Home Address} | BU` as RFC 6275 §6.1.7 and §6.3 draw it, written by hand.
    fn binding_update_frame() -> Vec<u8> {
        let mut frame = vec![0x52; 12];
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 24 + 32, 60, 64]);
        frame.extend("2001:db8:3000::3".parse::<Ipv6Addr>().unwrap().octets());
        frame.extend("2001:db8:2000::1".parse::<Ipv6Addr>().unwrap().octets());
        frame.extend([135, 2, 1, 2, 0, 0, 0xc9, 16]);
        frame.extend("2001:db8:2000::10".parse::<Ipv6Addr>().unwrap().octets());
        frame.extend([59, 3, 5, 0, 0x01, 0xef, 0, 7, 0xc0, 0, 0, 15, 1, 0, 3, 16]);
        frame.extend("2001:db8:3000::3".parse::<Ipv6Addr>().unwrap().octets());
        frame
    }

    #[test]
    fn a_binding_update_is_shown_as_on_the_slides() {
        let packet = Packet::dissect("foreign", Duration::new(3661, 2_000), &binding_update_frame());
        assert_eq!(
            packet.to_string(),
            "01:01:01.000002 foreign  IP6 2001:db8:3000::3 > 2001:db8:2000::1: DSTOPT (homeaddr: 2001:db8:2000::10) \
             mobility: BU seq#=7 AH lifetime=60 (alt-CoA: 2001:db8:3000::3)"
        );
        assert_eq!(packet.binding_update(), Some((7, 15)));
        let mut altered = binding_update_frame();
        *altered.last_mut().unwrap() ^= 1;
        assert!(Packet::dissect("foreign", Duration::ZERO, &altered).to_string().ends_with("[bad cksum]"));
    }

    #[test]
    fn every_cut_of_a_frame_is_readable() {
        let frame = binding_update_frame();
        for length in 0..frame.len() {
            let packet = Packet::dissect("foreign", Duration::ZERO, &frame[..length]);
            assert_eq!(packet.layers.last(), Some(&Layer::Truncated), "cut to {length} octets");
        }
    }
}
