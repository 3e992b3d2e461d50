//! The table of the packet path: guests by home address and by MAC address. Immutable; the daemon swaps it as a whole.

use std::net::Ipv6Addr;

use super::protected::Protected;
use super::reason::Reason;
use crate::vocabulary::{GuestId, MacAddress};
use crate::wire::{ipv6, tunnel};

/// The largest inner packet, in octets, that a path of `path_mtu` octets carries without outer fragments, never below
/// 1280: an IPv6 link has at least that (RFC 8200 §5), so where the path has less the outer packet is fragmented
/// (RFC 2473 §7.1).
pub fn inner_mtu(path_mtu: usize) -> usize {
    path_mtu.saturating_sub(tunnel::OVERHEAD).max(ipv6::MINIMUM_MTU)
}

/// The same where the tunnel is one of ESP, from that of a plain one: ESP takes up to 8 octets for its header, 16 for an initialization vector, 17 for
/// padding and trailer, 32 for the integrity check value (RFC 4303 §2). The kernel, which tunnels, knows exactly; this is what guests are
/// told beforehand.
pub fn mtu_in_esp(inner_mtu: usize) -> usize {
    inner_mtu.saturating_sub(8 + 16 + 17 + 32).max(ipv6::MINIMUM_MTU)
}

/// The two ends of a guest's tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Carrier {
    /// This host's care-of address: outer source towards the home agent.
    pub care_of: Ipv6Addr,
    /// The home agent: outer destination.
    pub home_agent: Ipv6Addr,
}

/// One guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The guest.
    pub guest: GuestId,
    /// Its home address.
    pub home_address: Ipv6Addr,
    /// Its home agent, bound or not: mobility headers of the guest to it are not carried.
    pub home_agent: Ipv6Addr,
    /// Its MAC address.
    pub mac: MacAddress,
    /// Which port of the daemon it is on: an index that the daemon gives and gets back.
    pub port: usize,
    /// The tunnel, while the binding holds.
    pub carrier: Option<Carrier>,
    /// The tunnel that the home agent has been asked for and has not confirmed: it may use it already, so what comes out of it is taken. Nothing goes in.
    pub arriving: Option<Carrier>,
    /// The largest inner packet in octets ([`inner_mtu`]); taken as 1280 when lower.
    pub mtu: usize,
    /// MTU of the guest's link in octets, 1500 on most; taken as 1280 when lower. Decides what is too big out of the
    /// tunnel and how merged packets are cut.
    pub link_mtu: usize,
    /// The link-local address of the router shown to the guest: source of ICMPv6 errors.
    pub router: Ipv6Addr,
    /// What of its packets goes under ESP only.
    pub protected: Protected,
}

impl Entry {
    /// Whether what comes from one address to the other, the outer ones, comes out of the guest's tunnel.
    pub(super) fn takes(&self, source: Ipv6Addr, destination: Ipv6Addr) -> Result<(), Reason> {
        let tunnels = || [self.carrier, self.arriving].into_iter().flatten();
        if tunnels().any(|tunnel| tunnel == Carrier { care_of: destination, home_agent: source }) {
            Ok(())
        } else if tunnels().any(|tunnel| tunnel.home_agent == source) {
            Err(Reason::ForeignTunnelDestination)
        } else {
            Err(if tunnels().next().is_some() { Reason::ForeignTunnelSource } else { Reason::NotBound })
        }
    }
}

/// Guests by home address and by MAC address; both lookups are binary searches.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Table {
    /// By home address.
    entries: Vec<Entry>,
    /// By MAC address, then home address, with the position in `entries`. One MAC address may have several home
    /// addresses.
    by_mac: Vec<(MacAddress, usize)>,
}

impl Table {
    /// A table of these guests. Of several entries with one home address the first stays; the policy has none such.
    pub fn new(entries: impl IntoIterator<Item = Entry>) -> Self {
        let mut entries: Vec<Entry> = entries.into_iter().collect();
        entries.sort_by_key(|entry| entry.home_address);
        entries.dedup_by_key(|entry| entry.home_address);
        let mut by_mac: Vec<_> = entries.iter().enumerate().map(|(position, entry)| (entry.mac, position)).collect();
        by_mac.sort_unstable();
        Self { entries, by_mac }
    }

    /// The guest with this home address.
    pub fn by_home_address(&self, home_address: Ipv6Addr) -> Option<&Entry> {
        let position = self.entries.binary_search_by_key(&home_address, |entry| entry.home_address).ok()?;
        self.entries.get(position)
    }

    /// The guests with this MAC address, by home address.
    pub fn by_mac(&self, mac: MacAddress) -> impl Iterator<Item = &Entry> {
        let from = self.by_mac.partition_point(|(other, _)| *other < mac);
        let same = self.by_mac.get(from..).unwrap_or_default().iter().take_while(move |(other, _)| *other == mac);
        same.filter_map(|(_, position)| self.entries.get(*position))
    }

    /// The guest with this identity; looks at every entry.
    pub fn by_guest(&self, guest: GuestId) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.guest == guest)
    }

    /// All guests, by home address.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::tunnel) fn address(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    /// The cast: guest `n` has home address 2001:db8:2000::n and MAC 52:54:00:00:00:n, and is bound from
    /// 2001:db8:3000::3.
    pub(in crate::tunnel) fn entry(n: u8) -> Entry {
        Entry {
            guest: GuestId(usize::from(n)),
            home_address: Ipv6Addr::from_bits(address("2001:db8:2000::").to_bits() | u128::from(n)),
            home_agent: address("2001:db8:2000::1"),
            mac: MacAddress([0x52, 0x54, 0, 0, 0, n]),
            port: 0,
            carrier: Some(Carrier { care_of: address("2001:db8:3000::3"), home_agent: address("2001:db8:2000::1") }),
            arriving: None,
            mtu: 1460,
            link_mtu: 1500,
            router: address("fe80::1"),
            protected: Protected::default(),
        }
    }

    #[test]
    fn the_tunnel_takes_forty_octets_but_leaves_1280() {
        assert_eq!([1500, 9000, 1280, 1319, 0].map(inner_mtu), [1460, 8960, 1280, 1280, 1280]);
        assert_eq!([1460, 8960, 1280].map(mtu_in_esp), [1387, 8887, 1280]);
    }

    #[test]
    fn both_lookups_find_every_guest_and_no_other() {
        let table = Table::new((1..=200).rev().map(entry));
        for n in 1..=200 {
            let expected = entry(n);
            assert_eq!(table.by_home_address(expected.home_address), Some(&expected));
            assert_eq!(table.by_mac(expected.mac).collect::<Vec<_>>(), [&expected]);
            assert_eq!(table.by_guest(expected.guest), Some(&expected));
        }
        assert_eq!(table.by_home_address(entry(0).home_address), None);
        assert_eq!(table.by_mac(entry(201).mac).count(), 0);
    }

    #[test]
    fn one_mac_address_may_have_two_home_addresses() {
        let table = Table::new([entry(2), Entry { mac: entry(2).mac, ..entry(1) }, entry(3)]);
        let guests: Vec<_> = table.by_mac(entry(2).mac).map(|entry| entry.guest).collect();
        assert_eq!(guests, [GuestId(1), GuestId(2)]);
    }
}
