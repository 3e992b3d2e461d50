//! The view of a port that the packet path classifies frames against.

use std::net::Ipv6Addr;

use crate::vocabulary::{GuestId, MacAddress};

/// One guest of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortGuest {
    /// The guest.
    pub guest: GuestId,
    /// Its MAC address.
    pub mac: MacAddress,
    /// Its home address.
    pub home_address: Ipv6Addr,
    /// Whether it is here and this host carries it.
    pub attached: bool,
}

/// The guests of a port; immutable, swapped as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortGuests {
    router: Ipv6Addr,
    /// By MAC address, then home address.
    guests: Vec<PortGuest>,
}

impl PortGuests {
    /// A view. `router` is the router's link-local address, which no guest may use.
    pub fn new(router: Ipv6Addr, guests: impl IntoIterator<Item = PortGuest>) -> Self {
        let mut guests: Vec<_> = guests.into_iter().collect();
        guests.sort_by_key(|guest| (guest.mac, guest.home_address));
        Self { router, guests }
    }

    /// The router's link-local address.
    pub fn router(&self) -> Ipv6Addr {
        self.router
    }

    /// The guests with this MAC address: one for each home address.
    pub fn by_mac(&self, mac: MacAddress) -> &[PortGuest] {
        let from = self.guests.partition_point(|guest| guest.mac < mac);
        let to = self.guests.partition_point(|guest| guest.mac <= mac);
        self.guests.get(from..to).unwrap_or_default()
    }

    /// All guests, by MAC address.
    pub fn all(&self) -> &[PortGuest] {
        &self.guests
    }
}
