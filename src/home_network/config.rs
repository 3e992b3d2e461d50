//! What a pseudo home network is told.

use std::net::Ipv6Addr;
use std::time::Duration;

use crate::vocabulary::{GuestId, MacAddress, Prefix};

/// The MAC address of the router and of every other on-link neighbor, the same on every host so that a guest that
/// moves keeps its neighbor cache.
pub const ROUTER_MAC: MacAddress = MacAddress([0x02, 0x4b, 0x47, 0x4d, 0x53, 0x01]);

/// The link-local address of the router, `fe80::1`.
pub const ROUTER_LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Lifetimes of router advertisements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// Of the default router: whole seconds, at most 65535 of them.
    pub router: Duration,
    /// Valid lifetime of the prefix: whole seconds, cut to 32 bits.
    pub valid: Duration,
    /// Preferred lifetime of the prefix; not above `valid`.
    pub preferred: Duration,
}

impl Default for Lifetimes {
    /// The defaults of RFC 4861 §6.2.1: 30 minutes, 30 days, 7 days.
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(86_400);
        Self { router: Duration::from_secs(1800), valid: 30 * DAY, preferred: 7 * DAY }
    }
}

/// One guest of a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestConfig {
    /// The guest.
    pub guest: GuestId,
    /// Its home address.
    pub home_address: Ipv6Addr,
    /// Its MAC address.
    pub mac: MacAddress,
    /// Whether it is told to form addresses from the prefix of the home link (the A flag, RFC 4861 §4.6.2).
    pub autonomous: bool,
}

impl GuestConfig {
    /// A guest that is told to form its address from the prefix exactly when that gives its home address; any other
    /// address it formed would not be carried.
    pub fn new(guest: GuestId, home_address: Ipv6Addr, mac: MacAddress) -> Self {
        let identifier = u64::from_be_bytes(mac.interface_identifier());
        let autonomous = home_address.to_bits() as u64 == identifier;
        Self { guest, home_address, mac, autonomous }
    }
}

/// A port and its guests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The prefix of the home link.
    pub home_link: Prefix,
    /// The home agent's address, which is a router on the home link.
    pub home_agent: Ipv6Addr,
    /// The router's link-local address: source of advertisements.
    pub router_link_local: Ipv6Addr,
    /// The MAC address of everything on the link.
    pub router_mac: MacAddress,
    /// MTU told to guests in octets: that of the tunnel. Taken as 1280 when lower.
    pub mtu: u32,
    /// Lifetimes told to guests.
    pub lifetimes: Lifetimes,
    /// From one unsolicited advertisement to the next, after the first ones; at least 3 s (RFC 4861 §6.2.4). Must
    /// stay well below the router's lifetime.
    pub advertisement_interval: Duration,
    /// The guests.
    pub guests: Vec<GuestConfig>,
}

impl Config {
    /// A port with the default router, an MTU of 1460 and an advertisement every 200 s.
    pub fn new(home_link: Prefix, home_agent: Ipv6Addr, guests: Vec<GuestConfig>) -> Self {
        Self {
            home_link,
            home_agent,
            router_link_local: ROUTER_LINK_LOCAL,
            router_mac: ROUTER_MAC,
            mtu: 1460,
            lifetimes: Lifetimes::default(),
            advertisement_interval: Duration::from_secs(200),
            guests,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_address_of_the_mac_is_formed() {
        let mac = "52:54:00:00:00:10".parse().unwrap();
        let guest = |address: &str| GuestConfig::new(GuestId(0), address.parse().unwrap(), mac).autonomous;
        assert!(guest("2001:db8:2000::5054:ff:fe00:10"));
        assert!(!guest("2001:db8:2000::10"));
    }
}
