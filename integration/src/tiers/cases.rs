//! The packets: ordinary ones, and one of each kind that has a rule.

use std::net::Ipv6Addr;

use kagemusha::tunnel::Offload;
use kagemusha::wire::{checksum, ipv6};

use super::{address, reference, tap};
use crate::bench::tunnel::path::{CARE_OF, CORRESPONDENT, GUEST, HOME_AGENT};
use crate::failure::{Outcome, ensure};

/// In every packet, before its number.
pub(super) const MARK: &[u8] = b"kagemusha lab tiers ";

const GUEST_MAC: tap::Mac = [0x52, 0x54, 0, 0, 0, 0x10];
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// A frame or packet to be sent.
pub(super) struct Case {
    pub(super) name: String,
    pub(super) octets: Vec<u8>,
    /// What a driver has left to be done.
    pub(super) offload: Option<Offload>,
}

/// Which case a frame belongs to.
pub(super) fn number_in(frame: &[u8]) -> Option<usize> {
    let at = frame.windows(MARK.len()).position(|window| window == MARK)?;
    let [high, low] = frame.get(at + MARK.len()..)?.first_chunk::<2>()?;
    Some(usize::from(u16::from_be_bytes([*high, *low])))
}

/// Cases in the making: each gets the next number.
#[derive(Default)]
pub(super) struct Cases(Vec<Case>);

impl Cases {
    pub(super) fn mark(&self) -> Vec<u8> {
        [MARK, &(self.0.len() as u16).to_be_bytes()].concat()
    }

    pub(super) fn add(&mut self, name: impl Into<String>, octets: Vec<u8>) {
        self.0.push(Case { name: name.into(), octets, offload: None });
    }

    /// Every number has to be found again.
    fn done(self) -> Outcome<Vec<Case>> {
        for (number, case) in self.0.iter().enumerate() {
            ensure(number_in(&case.octets) == Some(number), || format!("case {} has lost its number", case.name))?;
        }
        Ok(self.0)
    }
}

/// A header with what follows it; `shape` edits the header.
fn packet(from: Ipv6Addr, to: Ipv6Addr, next: u8, payload: &[u8], shape: impl Fn(&mut ipv6::Header)) -> Vec<u8> {
    let mut header = ipv6::Header::new(from, to, next);
    header.hop_limit = 61;
    shape(&mut header);
    header.emit(payload)
}

/// An upper-layer packet with a right checksum, `length` octets of data at least. Each is a flow of its own: what follows one
/// another in a flow may be joined.
fn upper(from: Ipv6Addr, to: Ipv6Addr, protocol: u8, mark: &[u8], length: usize) -> Vec<u8> {
    let mut octets = match protocol {
        TCP => vec![0x30, 0x39, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 1, 0, 0, 0, 0, 0],
        UDP => vec![0x30, 0x39, 0x30, 0x3a, 0, 0, 0, 0],
        _ => vec![128, 0, 0, 0, 0, 7, 0, 1],
    };
    let header = octets.len();
    if let (true, Some(number)) = (protocol != ICMPV6, mark.last_chunk::<2>()) {
        octets[..2].copy_from_slice(number);
        octets[0] |= 0x40;
    }
    octets.extend(mark);
    octets.resize(octets.len().max(header + length), 0x2e);
    if protocol == UDP {
        let length = (octets.len() as u16).to_be_bytes();
        octets[4..6].copy_from_slice(&length);
    }
    checksum::fill(from, to, protocol, &mut octets);
    octets
}

fn icmp(from: Ipv6Addr, to: Ipv6Addr, kind: u8, mark: &[u8]) -> Vec<u8> {
    let mut octets = upper(from, to, ICMPV6, mark, 0);
    octets[0] = kind;
    octets[2..4].fill(0);
    checksum::fill(from, to, ICMPV6, &mut octets);
    octets
}

/// An extension header of `kind`'s layout, in front of a UDP packet.
fn behind(from: Ipv6Addr, to: Ipv6Addr, extension: &[u8], mark: &[u8]) -> Vec<u8> {
    [&[UDP], extension, &upper(from, to, UDP, mark, 0)].concat()
}

/// Packets that pass routers: ordinary ones, lengths up to 1460, classes, and what has extension headers.
fn carried_by_routers(cases: &mut Cases, from: Ipv6Addr, to: Ipv6Addr, wrap: &dyn Fn(Vec<u8>) -> Vec<u8>) {
    for (name, protocol) in [("TCP", TCP), ("UDP", UDP), ("echo request", ICMPV6)] {
        let header = if protocol == TCP { 60 } else { 48 };
        for length in [0, 100, 1280 - header, 1459 - header, 1460 - header] {
            let payload = upper(from, to, protocol, &cases.mark(), length);
            cases.add(format!("{name}, {length} octets"), wrap(packet(from, to, protocol, &payload, |_| {})));
        }
        for class in [0u8, 1, 2, 3, 0xb8, 0xbb] {
            let payload = upper(from, to, protocol, &cases.mark(), 0);
            let shape = |header: &mut ipv6::Header| (header.traffic_class, header.flow_label) = (class, 0x12345);
            cases.add(format!("{name}, traffic class {class:#x}"), wrap(packet(from, to, protocol, &payload, shape)));
        }
    }
    for kind in [1, 3, 129, 133, 134, 135, 136, 137, 138, 200] {
        let payload = icmp(from, to, kind, &cases.mark());
        cases.add(format!("ICMPv6 type {kind}"), wrap(packet(from, to, ICMPV6, &payload, |_| {})));
    }
    for (name, next) in [("no next header", 59), ("ESP", 50), ("GRE", 47), ("experimental", 253), ("mobility", 135)] {
        let payload = [&[59, 3, 0, 0, 0, 0, 0, 0][..], &cases.mark(), &[0; 8]].concat();
        cases.add(name, wrap(packet(from, to, next, &payload, |_| {})));
    }
    let mut extension = |name: &str, next: u8, header: &[u8]| {
        let payload = behind(from, to, header, &cases.mark());
        cases.add(name, wrap(packet(from, to, next, &payload, |_| {})));
    };
    extension("destination options, padding", 60, &[0, 1, 4, 0, 0, 0, 0]);
    let home = [&[2, 1, 2, 0, 0, 0xc9, 16][..], &to.octets()].concat();
    extension("home address option", 60, &home);
    let routing = [&[2, 2, 1, 0, 0, 0, 0][..], &from.octets()].concat();
    extension("type 2 routing header", 43, &routing);
    extension("fragment, first", 44, &[0, 0, 1, 0, 0, 0, 9]);
    extension("fragment, second", 44, &[0, 0, 0x40, 0, 0, 0, 9]);
    extension("atomic fragment", 44, &[0, 0, 0, 0, 0, 0, 9]);
    extension("destination options, cut short", 60, &[200, 1, 4, 0, 0, 0, 0]);
}

/// How a frame is broken.
type Edit = fn(&mut Vec<u8>);

/// Frames that a guest sends, or somebody in its place.
pub(super) fn frames_of_guest() -> Outcome<Vec<Case>> {
    let (guest, correspondent, home_agent) = (address(GUEST)?, address(CORRESPONDENT)?, address(HOME_AGENT)?);
    let mut cases = Cases::default();
    let frame = |packet: Vec<u8>| [tap::link_header(reference::ROUTER, GUEST_MAC), packet].concat();
    carried_by_routers(&mut cases, guest, correspondent, &frame);
    let udp = |cases: &Cases, from, to, length| upper(from, to, UDP, &cases.mark(), length);
    for hop_limit in [0, 1, 2, 255] {
        let payload = udp(&cases, guest, correspondent, 0);
        let shape = |header: &mut ipv6::Header| header.hop_limit = hop_limit;
        cases.add(format!("hop limit {hop_limit}"), frame(packet(guest, correspondent, UDP, &payload, shape)));
    }
    for length in [1461, 1500] {
        let payload = udp(&cases, guest, correspondent, length - 48);
        cases.add(format!("{length} octets"), frame(packet(guest, correspondent, UDP, &payload, |_| {})));
    }
    let payload = [&[59, 3, 0, 0, 0, 0, 0, 0][..], &cases.mark(), &[0; 8]].concat();
    cases.add("mobility header to the home agent", frame(packet(guest, home_agent, 135, &payload, |_| {})));
    let addresses = [
        ("foreign source", "2001:db8:2000::11", CORRESPONDENT),
        ("link-local source", "fe80::10", CORRESPONDENT),
        ("no source", "::", CORRESPONDENT),
        ("to itself", GUEST, GUEST),
        ("to multicast", GUEST, "ff0e::1"),
        ("to a link-local address", GUEST, "fe80::99"),
        ("to the loopback address", GUEST, "::1"),
        ("to an IPv4-mapped address", GUEST, "::ffff:192.0.2.1"),
        ("to nobody", GUEST, "::"),
        ("to an address of ::/64", GUEST, "::5:1"),
    ];
    for (name, from, to) in addresses {
        let (from, to) = (address(from)?, address(to)?);
        let payload = udp(&cases, from, to, 0);
        cases.add(name, frame(packet(from, to, UDP, &payload, |_| {})));
    }
    let broken = |edit: Edit, cases: &Cases| {
        let payload = udp(cases, guest, correspondent, 40);
        let mut octets = frame(packet(guest, correspondent, UDP, &payload, |_| {}));
        edit(&mut octets);
        octets
    };
    let edits: [(&str, Edit); 7] = [
        ("foreign MAC address", |frame| frame[11] = 0x99),
        ("to another MAC address", |frame| frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 9])),
        ("to a multicast MAC address", |frame| frame[..6].copy_from_slice(&[0x33, 0x33, 0, 0, 0, 9])),
        ("IPv4", |frame| frame[12..14].copy_from_slice(&[8, 0])),
        ("version 5", |frame| frame[14] = 0x50),
        ("padded", |frame| frame.extend([0; 9])),
        ("shorter than it says", |frame| frame.truncate(frame.len() - 3)),
    ];
    for (name, edit) in edits {
        let octets = broken(edit, &cases);
        cases.add(name, octets);
    }
    cases.done()
}

fn tunnelled(near: &str, far: &str, class: u8, inner: &[u8]) -> Outcome<Vec<u8>> {
    let shape = |header: &mut ipv6::Header| header.traffic_class = class;
    Ok(packet(address(near)?, address(far)?, 41, inner, shape))
}

/// Every combination of congestion marks, and outer headers that are not those of the binding.
fn outer_headers(cases: &mut Cases, from: Ipv6Addr, to: Ipv6Addr, near: &str, far: &str) -> Outcome {
    for inner in 0..4 {
        for outer in 0..4 {
            let payload = upper(from, to, TCP, &cases.mark(), 0);
            let shape = |header: &mut ipv6::Header| header.traffic_class = 0xb8 | inner;
            let octets = tunnelled(near, far, 0x28 | outer, &packet(from, to, TCP, &payload, shape))?;
            cases.add(format!("inner congestion {inner}, outer {outer}"), octets);
        }
    }
    let udp = |cases: &Cases| packet(from, to, UDP, &upper(from, to, UDP, &cases.mark(), 30), |_| {});
    let octets = tunnelled("2001:db8:3000::77", far, 0, &udp(cases))?;
    cases.add("foreign outer source", octets);
    let limit = [&[41, 0, 4, 1, 4, 1, 1, 0][..], &udp(cases)].concat();
    cases.add("tunnel encapsulation limit", packet(address(near)?, address(far)?, 60, &limit, |_| {}));
    let mut padded = udp(cases);
    padded.extend([0; 7]);
    cases.add("octets behind the inner packet", tunnelled(near, far, 0, &padded)?);
    let mut cut = udp(cases);
    cut.truncate(cut.len() - 3);
    cases.add("inner packet cut short", tunnelled(near, far, 0, &cut)?);
    let mut version = udp(cases);
    version[0] = 0x40;
    cases.add("inner packet of another version", tunnelled(near, far, 0, &version)?);
    Ok(())
}

/// Tunnel packets from the home agent.
pub(super) fn tunnel_packets_to_guest() -> Outcome<Vec<Case>> {
    let (guest, correspondent, home_agent) = (address(GUEST)?, address(CORRESPONDENT)?, address(HOME_AGENT)?);
    let mut cases = Cases::default();
    // The parser of this program cannot fail: these are constants.
    let outer = |inner: Vec<u8>| tunnelled(HOME_AGENT, CARE_OF, 0, &inner).unwrap_or_default();
    carried_by_routers(&mut cases, correspondent, guest, &outer);
    outer_headers(&mut cases, correspondent, guest, HOME_AGENT, CARE_OF)?;
    for hop_limit in [0, 1] {
        let payload = upper(correspondent, guest, UDP, &cases.mark(), 0);
        let shape = |header: &mut ipv6::Header| header.hop_limit = hop_limit;
        cases.add(format!("hop limit {hop_limit}"), outer(packet(correspondent, guest, UDP, &payload, shape)));
    }
    let payload = [&[59, 3, 0, 0, 0, 0, 0, 0][..], &cases.mark(), &[0; 8]].concat();
    cases.add("mobility header of the home agent", outer(packet(home_agent, guest, 135, &payload, |_| {})));
    for (name, from, to) in [
        ("nobody's home address", CORRESPONDENT, "2001:db8:2000::99"),
        ("from itself", GUEST, GUEST),
        ("from multicast", "ff02::1", GUEST),
        ("from a link-local address", "fe80::7", GUEST),
        ("from the loopback address", "::1", GUEST),
    ] {
        let (from, to) = (address(from)?, address(to)?);
        let payload = upper(from, to, UDP, &cases.mark(), 0);
        cases.add(name, outer(packet(from, to, UDP, &payload, |_| {})));
    }
    cases.done()
}

/// Packets of the correspondent on the home link.
pub(super) fn packets_to_guest() -> Outcome<Vec<Case>> {
    let mut cases = Cases::default();
    carried_by_routers(&mut cases, address(CORRESPONDENT)?, address(GUEST)?, &|packet| packet);
    cases.done()
}

/// Tunnel packets from the host of the guest.
pub(super) fn tunnel_packets_of_guest() -> Outcome<Vec<Case>> {
    let (guest, correspondent) = (address(GUEST)?, address(CORRESPONDENT)?);
    let mut cases = Cases::default();
    let outer = |inner: Vec<u8>| tunnelled(CARE_OF, HOME_AGENT, 0, &inner).unwrap_or_default();
    carried_by_routers(&mut cases, guest, correspondent, &outer);
    outer_headers(&mut cases, guest, correspondent, CARE_OF, HOME_AGENT)?;
    let foreign = address("2001:db8:2000::11")?;
    let payload = upper(foreign, correspondent, UDP, &cases.mark(), 0);
    cases.add("foreign source", outer(packet(foreign, correspondent, UDP, &payload, |_| {})));
    cases.done()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_has_its_number() {
        for cases in [frames_of_guest(), tunnel_packets_to_guest(), packets_to_guest(), tunnel_packets_of_guest()] {
            assert!(cases.unwrap().len() > 50);
        }
    }
}
