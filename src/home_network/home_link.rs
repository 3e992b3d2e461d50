//! What a host on the real home link says there about a guest that has come home or leaves: whose MAC address the home address is at now
//! (RFC 6275 §11.5.5; RFC 4861 §7.2.6).

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use crate::vocabulary::{GuestId, MacAddress};
use crate::wire::ethernet::Frame;
use crate::wire::ipv6::ALL_NODES;
use crate::wire::ndisc::{Message, NeighborAdvertisement, NeighborOption};
use crate::wire::numbers::ether_type;

/// MAX_NEIGHBOR_ADVERTISEMENT (RFC 4861 §10): how often each is said.
pub const ANNOUNCEMENTS: u32 = 3;
/// RetransTimer (RFC 4861 §10): between two times.
const INTERVAL: Duration = Duration::from_secs(1);

/// Where a home address is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announcement {
    /// The home address.
    pub home_address: Ipv6Addr,
    /// The MAC address that neighbours shall send to: the guest's at home, the home agent's when it has left.
    pub mac: MacAddress,
    /// An address of who says so.
    pub source: Ipv6Addr,
}

impl Announcement {
    /// The unsolicited advertisement as a frame from `from` to all nodes, or to one of them. Override is set: it replaces what neighbours have.
    pub fn frame(&self, from: MacAddress, to: Option<MacAddress>) -> Vec<u8> {
        let message = Message::NeighborAdvertisement(NeighborAdvertisement {
            router: false,
            solicited: false,
            override_cache: true,
            target: self.home_address,
            options: vec![NeighborOption::TargetLinkLayerAddress(self.mac)],
        });
        let packet = message.emit(self.source, ALL_NODES);
        let destination = to.unwrap_or(MacAddress::for_multicast(ALL_NODES));
        Frame { destination, source: from, ether_type: ether_type::IPV6, payload: &packet }.emit()
    }
}

/// Announcements as they become due, one sequence for each guest.
#[derive(Debug, Default)]
pub struct HomeLink {
    due: BTreeMap<GuestId, (Announcement, u32, Instant)>,
    outputs: VecDeque<(GuestId, Announcement)>,
}

impl HomeLink {
    /// It is said from then on, instead of what was to be said of the guest.
    pub fn announce(&mut self, guest: GuestId, announcement: Announcement, from: Instant) {
        self.hush(guest);
        self.due.insert(guest, (announcement, ANNOUNCEMENTS, from));
    }

    /// Nothing more is said of the guest.
    pub fn hush(&mut self, guest: GuestId) {
        self.due.remove(&guest);
        self.outputs.retain(|(other, _)| *other != guest);
    }

    /// Says what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        for (guest, (announcement, left, at)) in self.due.iter_mut().filter(|(_, (_, _, at))| *at <= now) {
            self.outputs.push_back((*guest, *announcement));
            *left -= 1;
            *at = now + INTERVAL;
        }
        self.due.retain(|_, (_, left, _)| *left > 0);
    }

    /// When [`Self::handle_timeout`] is due next, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.due.values().map(|(_, _, at)| (*at, "announcement on the home link")).min()
    }

    /// The next thing to say.
    pub fn poll_output(&mut self) -> Option<(GuestId, Announcement)> {
        self.outputs.pop_front()
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "an Instant to count from")]
mod tests {
    use super::*;
    use crate::wire::ipv6;

    const GUEST_MAC: MacAddress = MacAddress([0x52, 0x54, 0, 0, 0, 0x10]);
    const BRIDGE: MacAddress = MacAddress([0xfe, 0x4b, 0, 0, 0, 1]);

    fn announcement(mac: MacAddress) -> Announcement {
        let address = "2001:db8:2000::10".parse().unwrap();
        Announcement { home_address: address, mac, source: address }
    }

    #[test]
    fn it_overrides_and_asks_for_nothing() {
        for (to, destination) in [(None, MacAddress([0x33, 0x33, 0, 0, 0, 1])), (Some(GUEST_MAC), GUEST_MAC)] {
            let frame = announcement(GUEST_MAC).frame(BRIDGE, to);
            let frame = Frame::parse(&frame).unwrap();
            assert_eq!(
                (frame.source, frame.destination),
                (BRIDGE, destination),
                "the guest's own would mislead the bridge"
            );
            let (header, payload) = ipv6::Header::parse(frame.payload).unwrap();
            let Message::NeighborAdvertisement(said) = Message::parse(&header, payload).unwrap() else { panic!() };
            assert!(said.override_cache && !said.solicited && !said.router);
            assert_eq!((said.target, header.destination), (announcement(GUEST_MAC).home_address, ALL_NODES));
            assert_eq!(said.options, [NeighborOption::TargetLinkLayerAddress(GUEST_MAC)]);
        }
    }

    #[test]
    fn it_is_said_three_times_unless_something_else_is_to_be_said() {
        let (start, guest) = (Instant::now(), GuestId(0));
        let mut link = HomeLink::default();
        let said =
            |link: &mut HomeLink| std::iter::from_fn(|| link.poll_output()).map(|(_, a)| a.mac).collect::<Vec<_>>();
        link.announce(guest, announcement(GUEST_MAC), start + INTERVAL);
        link.handle_timeout(start);
        assert_eq!((said(&mut link), link.poll_timeout().unwrap().0), (vec![], start + INTERVAL));
        link.handle_timeout(start + INTERVAL);
        assert_eq!(said(&mut link), [GUEST_MAC]);
        link.announce(guest, announcement(BRIDGE), start + INTERVAL);
        for second in 1..5 {
            link.handle_timeout(start + INTERVAL * second);
        }
        assert_eq!((said(&mut link), link.poll_timeout()), (vec![BRIDGE; 3], None));
        link.announce(guest, announcement(GUEST_MAC), start);
        link.hush(guest);
        assert_eq!((said(&mut link), link.poll_timeout()), (vec![], None));
    }
}
