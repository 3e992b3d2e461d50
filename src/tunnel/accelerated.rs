//! What the eBPF tier shares with its programs (`src/bpf/tunnel.c`): the layout of the map's entries and of the counters.
//!
//! Addresses are octets as on the wire, numbers are in the byte order of the host, which is that of its programs.

use std::net::Ipv6Addr;

use super::home_agent::{HomeAgentEntry, HomeAgentTable};
use super::table::Entry;
use crate::vocabulary::MacAddress;
use crate::wire::ipv6;

/// Octets of a key: a home address.
pub const KEY_LENGTH: usize = 16;
/// Octets of an entry: `struct guest`.
pub const ENTRY_LENGTH: usize = 80;
/// Octets of the counters of one guest on one CPU: `struct counters`.
pub const COUNTERS_LENGTH: usize = (5 + Left::COUNT) * 8;

/// Where the packets of an entry go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Index of the interface towards the other end.
    pub uplink: u32,
    /// The neighbour there that outer packets are handed to: a router, or the other end itself.
    pub router: Ipv6Addr,
    /// The longest inner packet that the path takes; that of the table may be less.
    pub mtu: usize,
    /// Index of the interface that gets what comes out of the tunnel.
    pub port: u32,
    /// How it gets that.
    pub side: Side,
    /// Source MAC address of frames to the guest; zero at a home agent.
    pub router_mac: MacAddress,
    /// Its place among the counters; 0 is nobody's.
    pub slot: u32,
}

/// On which side of an interface a packet is put down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// As if the interface had received it: our TAP or TUN.
    Received,
    /// The interface sends it: a guest's own tap.
    Sent,
}

impl Side {
    /// The flags of `bpf_redirect`: `BPF_F_INGRESS` of `linux/bpf.h`, or none.
    fn flags(self) -> u32 {
        match self {
            Self::Received => 1,
            Self::Sent => 0,
        }
    }
}

/// The key of a home address.
pub fn key(home_address: Ipv6Addr) -> [u8; KEY_LENGTH] {
    home_address.octets()
}

/// The entry of a guest at its host. `None` while it has no binding, and where some of its data goes under ESP only: then userland has all
/// of its packets.
pub fn guest(entry: &Entry, place: Place) -> Option<[u8; ENTRY_LENGTH]> {
    let carrier = entry.carrier.filter(|_| !entry.protected.may_be_data())?;
    Some(layout(carrier.care_of, carrier.home_agent, entry.mac, entry.mtu, entry.link_mtu, place))
}

/// The entry of a binding at a home agent. `None` where it has no care-of address, and where some of its data goes under ESP only.
pub fn binding(table: &HomeAgentTable, entry: &HomeAgentEntry, place: Place) -> Option<[u8; ENTRY_LENGTH]> {
    let care_of = entry.care_of.filter(|_| !entry.protected.may_be_data())?;
    Some(layout(table.home_agent(), care_of, MacAddress([0; 6]), entry.mtu, table.link_mtu(), place))
}

fn layout(
    near: Ipv6Addr,
    far: Ipv6Addr,
    mac: MacAddress,
    mtu: usize,
    link_mtu: usize,
    place: Place,
) -> [u8; ENTRY_LENGTH] {
    let limit = |mtu: usize| u16::try_from(mtu.max(ipv6::MINIMUM_MTU)).unwrap_or(u16::MAX).to_ne_bytes();
    let (mtu, link_mtu) = (limit(mtu.min(place.mtu)), limit(link_mtu));
    let numbers = [place.uplink, place.port, place.side.flags(), place.slot].map(u32::to_ne_bytes);
    let router = place.router.octets();
    let fields: [&[u8]; 8] =
        [&near.octets(), &far.octets(), &router, &mac.0, &place.router_mac.0, &mtu, &link_mtu, numbers.as_flattened()];
    let mut octets = [0; ENTRY_LENGTH];
    for (to, from) in octets.iter_mut().zip(fields.into_iter().flatten()) {
        *to = *from;
    }
    octets
}

macro_rules! left {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)+) => {
        /// Why the programs left a packet to userland, which decides on it and counts it once more. In the order of
        /// `enum left`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Left {
            $($(#[$doc])* $variant,)+
        }

        impl Left {
            /// Every reason, in order.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The stable name in kebab case.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

left! {
    /// No guest with this home address is bound now.
    NoGuest = "no-guest",
    /// Not IPv6, padded, with a VLAN tag, or with lengths that do not fit.
    Malformed = "malformed",
    /// MAC addresses, outer addresses, or an inner address that routers do not carry.
    Addresses = "addresses",
    /// Neither TCP, UDP nor echo right behind the IPv6 header.
    Protocol = "protocol",
    /// The hop limit ends here.
    HopLimit = "hop-limit",
    /// Larger than the path or the guest's link takes.
    TooBig = "too-big",
    /// Congestion was marked for a packet that cannot say so.
    Congestion = "congestion",
    /// The kernel had no room for the header, or would not have it taken off.
    NoRoom = "no-room",
}

impl Left {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();
}

/// What the programs have done for one guest. A merged packet counts once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Carried {
    /// Packets sent into the tunnel.
    pub into_packets: u64,
    /// Octets of inner packets sent into the tunnel.
    pub into_octets: u64,
    /// Packets delivered out of the tunnel.
    pub out_packets: u64,
    /// Octets of inner packets delivered out of the tunnel.
    pub out_octets: u64,
    /// Packets that were taken apart when it turned out that they could not go on.
    pub lost: u64,
    /// Packets left to userland, by [`Left`].
    pub left: [u64; Left::COUNT],
}

impl Carried {
    /// Adds what one CPU has counted.
    pub fn add(&mut self, octets: &[u8; COUNTERS_LENGTH]) {
        let totals = [
            &mut self.into_packets,
            &mut self.into_octets,
            &mut self.out_packets,
            &mut self.out_octets,
            &mut self.lost,
        ];
        let (words, _) = octets.as_chunks::<8>();
        for (total, word) in totals.into_iter().chain(&mut self.left).zip(words) {
            *total = total.wrapping_add(u64::from_ne_bytes(*word));
        }
    }

    /// Packets left to userland for this reason.
    pub fn left(&self, why: Left) -> u64 {
        self.left.get(why as usize).copied().unwrap_or_default()
    }

    /// Every number with its stable name.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let totals = [
            ("into-tunnel-packets", self.into_packets),
            ("into-tunnel-octets", self.into_octets),
            ("out-of-tunnel-packets", self.out_packets),
            ("out-of-tunnel-octets", self.out_octets),
            ("lost", self.lost),
        ];
        totals.into_iter().chain(Left::ALL.iter().map(|why| (why.name(), self.left(*why))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipsec::Class;
    use crate::tunnel::Protected;
    use crate::tunnel::table::tests::{address, entry};
    use crate::vocabulary::GuestId;

    const PROGRAMS: &str = include_str!("../bpf/tunnel.c");
    const PLACE: Place = Place {
        uplink: 7,
        router: Ipv6Addr::LOCALHOST,
        mtu: 1452,
        port: 9,
        side: Side::Received,
        router_mac: MacAddress([2, 0x4b, 0x47, 0x4d, 0x53, 1]),
        slot: 3,
    };

    #[test]
    fn an_entry_is_what_the_programs_read() {
        let octets = guest(&entry(0x10), PLACE).unwrap();
        assert_eq!(octets[..16], address("2001:db8:3000::3").octets());
        assert_eq!(octets[16..32], address("2001:db8:2000::1").octets());
        assert_eq!(octets[32..48], PLACE.router.octets());
        assert_eq!(octets[48..54], [0x52, 0x54, 0, 0, 0, 0x10]);
        assert_eq!(octets[54..60], PLACE.router_mac.0);
        assert_eq!(octets[60..64], [1452u16, 1500].map(u16::to_ne_bytes).concat());
        assert_eq!(octets[64..], [7u32, 9, 1, 3].map(u32::to_ne_bytes).concat());
    }

    #[test]
    fn without_a_binding_there_is_no_entry() {
        assert_eq!(guest(&Entry { carrier: None, ..entry(0x10) }, PLACE), None);
        let in_esp = [Class::TunnelPayload].into_iter().collect();
        assert_eq!(guest(&Entry { protected: in_esp, ..entry(0x10) }, PLACE), None);
        let away = HomeAgentEntry {
            guest: GuestId(0),
            home_address: address("2001:db8:2000::10"),
            care_of: None,
            mtu: 0,
            protected: Protected::default(),
        };
        let table = HomeAgentTable::new(address("2001:db8:2000::1"), 1500, [away]);
        assert_eq!(binding(&table, &away, PLACE), None);
        let care_of = address("2001:db8:3000::3");
        let octets = binding(&table, &HomeAgentEntry { care_of: Some(care_of), ..away }, PLACE).unwrap();
        assert_eq!(octets[..32], [address("2001:db8:2000::1").octets(), care_of.octets()].concat());
        assert_eq!(octets[60..62], 1280u16.to_ne_bytes(), "an MTU below the minimum is the minimum");
    }

    /// The names between `begin` and the next `}` of the C source, one a line.
    fn declared(begin: &str) -> Vec<&'static str> {
        let body = PROGRAMS.split_once(begin).unwrap().1.split_once('}').unwrap().0;
        body.lines().map(|line| line.split("//").next().unwrap().trim()).filter(|line| !line.is_empty()).collect()
    }

    #[test]
    fn both_sides_have_the_same_layout() {
        let fields = ["__u64 near[2];", "__u64 far[2];", "__u64 router[2];", "__u8 mac[6];", "__u8 router_mac[6];"];
        let numbers = ["__u16 mtu;", "__u16 link_mtu;", "__u32 uplink;", "__u32 port;", "__u32 side;", "__u32 slot;"];
        assert_eq!(declared("struct guest {"), [&fields[..], &numbers[..]].concat());
        let counters =
            ["__u64 into_packets, into_octets, out_packets, out_octets;", "__u64 lost;", "__u64 left[LEFT_COUNT];"];
        assert_eq!(declared("struct counters {"), counters);
        let mut names: Vec<String> =
            Left::ALL.iter().map(|why| why.name().to_uppercase().replace('-', "_") + ",").collect();
        names.push("LEFT_COUNT,".to_owned());
        assert_eq!(declared("enum left {"), names);
    }

    #[test]
    fn counters_of_all_cpus_add_up() {
        let octets: Vec<u8> = (1..=COUNTERS_LENGTH as u64 / 8).flat_map(u64::to_ne_bytes).collect();
        let mut carried = Carried::default();
        for _ in 0..2 {
            carried.add(octets.as_slice().try_into().unwrap());
        }
        let expected: Vec<u64> = (1..=COUNTERS_LENGTH as u64 / 8).map(|n| 2 * n).collect();
        assert_eq!(carried.all().map(|(_, number)| number).collect::<Vec<_>>(), expected);
        assert_eq!(carried.left(Left::NoGuest), 12);
    }
}
