//! Joining packets of one flow that came together into one whole, which the guest's stack takes up at once: generic
//! receive offload in userland. [`super::segment`] cuts the whole into the very packets it was joined from.
//!
//! Packets of a flow keep their order. What a packet says besides its payload must be the same in all that are joined
//! (`tcp_gro_receive` of `net/ipv4/tcp_offload.c` has the same rules), and every checksum is verified first.

use super::offload::{Kind, Offload, Segments};
use super::segment::HEADER_LIMIT;
use crate::wire::checksum;
use crate::wire::ipv6::HEADER_LENGTH;
use crate::wire::numbers::protocol;

/// Packets that are joined at most: what the kernel allows for UDP (`UDP_MAX_SEGMENTS` before 6.9).
const LIMIT: usize = 64;
/// Longest payload of an IPv6 packet.
const PAYLOAD_LIMIT: usize = 65_535;

const NEXT_HEADER: usize = 6;
const TCP_SEQUENCE: usize = 4;
const TCP_FLAGS: usize = 13;
const TCP_CHECKSUM: usize = 16;
const TCP_ACK: u8 = 0x10;
/// PSH and FIN end a whole, and belong to its last packet.
const TCP_LAST: u8 = 0x09;
/// What a joined packet may say beside these: ACK and ECE.
const TCP_SAME: u8 = 0x50;
const UDP_CHECKSUM: usize = 6;

/// Packets that came one after another, as they are to be written: one alone, or several joined.
#[derive(Debug, Clone)]
pub struct Group<'a, T> {
    /// To whom.
    pub to: T,
    /// The first packet, as it came.
    first: &'a [u8],
    /// The payloads of the others.
    others: Vec<&'a [u8]>,
    offload: Option<Offload>,
    flow: Option<Flow>,
}

/// What is known of the flow of an open group.
#[derive(Debug, Clone, Copy)]
struct Flow {
    kind: Kind,
    headers: usize,
    /// Payload of the first packet.
    size: usize,
    /// Payload of all packets.
    length: usize,
    /// The next sequence number.
    next: u32,
    /// Flags of the last packet.
    flags: u8,
    open: bool,
}

/// The headers of a whole.
#[derive(Debug, Clone, Copy)]
pub struct Headers {
    octets: [u8; HEADER_LIMIT],
    length: usize,
}

impl Headers {
    /// The octets.
    pub fn as_bytes(&self) -> &[u8] {
        self.octets.get(..self.length).unwrap_or_default()
    }
}

/// Takes packets, and gives them back in groups.
#[derive(Debug)]
pub struct Coalescer<'a, T> {
    groups: Vec<Group<'a, T>>,
    datagrams: bool,
}

impl<'a, T: PartialEq + Copy> Coalescer<'a, T> {
    /// An empty one. `datagrams`: whether UDP is joined, which the device must be able to cut again.
    pub fn new(datagrams: bool) -> Self {
        Self { groups: Vec::new(), datagrams }
    }

    /// Takes a packet for `to`. One with an offload is a group of its own.
    pub fn push(&mut self, to: T, packet: &'a [u8], offload: Option<Offload>) {
        let flow = match offload {
            None => self.joinable(packet),
            Some(_) => None,
        };
        if let Some(flow) = flow
            && let Some(group) =
                self.groups.iter_mut().rev().find(|group| group.to == to && same_flow(group.first, packet))
            && group.join(flow, packet)
        {
            return;
        }
        self.groups.push(Group { to, first: packet, others: Vec::new(), offload, flow });
    }

    /// The groups, in the order of their first packets.
    pub fn groups(&self) -> &[Group<'a, T>] {
        &self.groups
    }

    fn joinable(&self, packet: &[u8]) -> Option<Flow> {
        let next_header = *packet.get(NEXT_HEADER)?;
        let upper = packet.get(HEADER_LENGTH..)?;
        if packet.get(4..6) != Some(&u16::try_from(upper.len()).ok()?.to_be_bytes()) {
            return None;
        }
        let (kind, headers, next, flags) = match next_header {
            protocol::TCP => {
                let flags = *upper.get(TCP_FLAGS)?;
                let headers = usize::from(upper.get(12)? >> 4) * 4;
                if flags & TCP_ACK == 0 || flags & !(TCP_SAME | TCP_LAST) != 0 || headers < Kind::Tcp.header_length() {
                    return None;
                }
                (Kind::Tcp, headers, u32::from_be_bytes(*upper.get(TCP_SEQUENCE..)?.first_chunk()?), flags)
            }
            protocol::UDP if self.datagrams => {
                let length = u16::from_be_bytes(*upper.get(4..)?.first_chunk()?);
                if usize::from(length) != upper.len() {
                    return None;
                }
                (Kind::Udp, Kind::Udp.header_length(), 0, 0)
            }
            _ => return None,
        };
        let size = upper.len().checked_sub(headers).filter(|size| *size > 0)?;
        if HEADER_LENGTH + headers > HEADER_LIMIT || !checksum_is_right(packet, next_header, upper) {
            return None;
        }
        let next = next.wrapping_add(size as u32); // at most 65535
        Some(Flow {
            kind,
            headers: HEADER_LENGTH + headers,
            size,
            length: size,
            next,
            flags,
            open: flags & TCP_LAST == 0,
        })
    }
}

fn checksum_is_right(packet: &[u8], protocol: u8, upper: &[u8]) -> bool {
    let address = |at: usize| packet.get(at..)?.first_chunk::<16>().map(|octets| (*octets).into());
    match (address(8), address(24)) {
        (Some(source), Some(destination)) => checksum::verify(source, destination, protocol, upper),
        _ => false,
    }
}

/// Whether two packets are of one flow: addresses, protocol and ports.
fn same_flow(one: &[u8], other: &[u8]) -> bool {
    one.get(NEXT_HEADER) == other.get(NEXT_HEADER) && one.get(8..HEADER_LENGTH + 4) == other.get(8..HEADER_LENGTH + 4)
}

impl<T> Group<'_, T> {
    /// Whether the packets of the group were joined.
    pub fn is_whole(&self) -> bool {
        !self.others.is_empty()
    }

    /// How many packets it is made of.
    pub fn count(&self) -> usize {
        1 + self.others.len()
    }
}

impl<'a, T> Group<'a, T> {
    fn join(&mut self, flow: Flow, packet: &'a [u8]) -> bool {
        let Some(own) = &mut self.flow else { return false };
        let fits = own.open
            && own.kind == flow.kind
            && own.headers == flow.headers
            && flow.size <= own.size
            && (own.kind == Kind::Udp || own.next == flow.next.wrapping_sub(flow.size as u32))
            && self.others.len() + 1 < LIMIT
            && own.headers - HEADER_LENGTH + own.length + flow.size <= PAYLOAD_LIMIT
            && same_headers(self.first, packet, own.kind, own.headers);
        let Some(payload) = packet.get(flow.headers..).filter(|_| fits) else {
            // It stays behind what came before it: nothing that comes later may join the group.
            own.open = false;
            return false;
        };
        own.length += flow.size;
        own.next = flow.next;
        own.flags = flow.flags;
        own.open = flow.open && flow.size == own.size;
        self.others.push(payload);
        true
    }

    /// The only packet, as it came, with what was left to do on it.
    pub fn alone(&self) -> Option<(&'a [u8], Option<&Offload>)> {
        self.others.is_empty().then_some((self.first, self.offload.as_ref()))
    }

    /// The headers of the whole and how it is to be cut; `None` when nothing was joined.
    pub fn whole(&self) -> Option<(Headers, Offload)> {
        let flow = self.flow.filter(|_| self.is_whole())?;
        let mut octets = [0; HEADER_LIMIT];
        let headers = octets.get_mut(..flow.headers)?;
        headers.copy_from_slice(self.first.get(..flow.headers)?);
        let upper_length = flow.headers - HEADER_LENGTH + flow.length;
        let length = u16::try_from(upper_length).ok()?.to_be_bytes();
        headers.get_mut(4..6)?.copy_from_slice(&length);
        let address = |at: usize| self.first.get(at..)?.first_chunk::<16>().map(|octets| (*octets).into());
        let sum = checksum::pseudo_header(address(8)?, address(24)?, flow.kind.protocol(), upper_length);
        let upper = headers.get_mut(HEADER_LENGTH..)?;
        let field = match flow.kind {
            Kind::Tcp => {
                *upper.get_mut(TCP_FLAGS)? = flow.flags;
                TCP_CHECKSUM
            }
            Kind::Udp => {
                upper.get_mut(4..6)?.copy_from_slice(&length);
                UDP_CHECKSUM
            }
        };
        upper.get_mut(field..field + 2)?.copy_from_slice(&sum.to_be_bytes());
        let fit = |value: usize| u16::try_from(value).ok();
        let segments = Segments {
            kind: flow.kind,
            size: fit(flow.size)?,
            header_length: fit(flow.headers)?,
            congestion_window_reduced: false,
        };
        let offload =
            Offload { checksum_start: HEADER_LENGTH as u16, checksum_offset: fit(field)?, segments: Some(segments) };
        Some((Headers { octets, length: flow.headers }, offload))
    }

    /// The payloads of the whole, in order.
    pub fn payloads(&self) -> impl Iterator<Item = &'a [u8]> + '_ {
        let headers = self.flow.map_or(0, |flow| flow.headers);
        self.first.get(headers..).into_iter().chain(self.others.iter().copied())
    }
}

/// Whether headers are the same but for lengths, sequence numbers, checksums and what belongs to the last packet.
fn same_headers(one: &[u8], other: &[u8], kind: Kind, headers: usize) -> bool {
    let same = |from: usize, to: usize| one.get(from..to) == other.get(from..to);
    // Version, traffic class and flow label; next header, hop limit, addresses, ports.
    if !same(0, 4) || !same(NEXT_HEADER, HEADER_LENGTH + 4) {
        return false;
    }
    match kind {
        Kind::Udp => true,
        Kind::Tcp => {
            let flags = |packet: &[u8]| packet.get(HEADER_LENGTH + TCP_FLAGS).map(|flags| flags & !TCP_LAST);
            // Acknowledgement number and header length; window; urgent pointer and options.
            same(HEADER_LENGTH + 8, HEADER_LENGTH + TCP_FLAGS)
                && flags(one) == flags(other)
                && same(HEADER_LENGTH + 14, HEADER_LENGTH + TCP_CHECKSUM)
                && same(HEADER_LENGTH + 18, headers)
        }
    }
}
