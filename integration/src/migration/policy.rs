//! The policies of all hosts and of the home agent, for any number of guests, under ESP.
//!
//! Each host has its own security association to the home agent, with its own SPI and keys: their sequence numbers are one host's
//! affair, so that a host that was away cannot spoil what another does.

use std::fmt::Write as _;
use std::net::Ipv6Addr;

use super::sites::Site;

/// A guest by its number, from 0.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Guest(pub(crate) u16);

impl Guest {
    pub(crate) fn name(self) -> String {
        format!("vm{}", self.0 + 1)
    }

    pub(crate) fn home_address(self) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0x0db8, 0x2000, 0, 0, 0, 0, 0x10 + self.0)
    }

    pub(crate) fn mac(self) -> String {
        let [high, low] = (0x10 + self.0).to_be_bytes();
        format!("52:54:00:00:{high:02x}:{low:02x}")
    }

    /// The SPI of its security association from the host of `site` to the home agent.
    pub(crate) fn spi_to_home_agent(self, site: Site) -> u32 {
        0x1000 + u32::from(self.0) * 8 + site.index()
    }

    /// The SPI of its security association from the home agent.
    pub(crate) fn spi_to_guest(self) -> u32 {
        0x1000 + u32::from(self.0) * 8 + 7
    }

    fn reqids(self) -> (u32, u32) {
        (u32::from(self.0) * 2 + 1, u32::from(self.0) * 2 + 2)
    }

    fn association(self, direction: &str, spi: u32, host: Option<&str>, keys: &str) -> String {
        let host = host.map(|host| format!("host = \"{host}\"\n")).unwrap_or_default();
        let name = self.name();
        format!(
            "\n[[guest.security_association]]\ndirection = \"{direction}\"\nspi = {spi:#x}\n{host}\
             encryption = {{ algorithm = \"aes-cbc\", key_file = \"keys/{name}-{keys}.enc\" }}\n\
             integrity = {{ algorithm = \"hmac-sha256-128\", key_file = \"keys/{name}-{keys}.auth\" }}\n"
        )
    }

    fn protection(self) -> String {
        let (to_home_agent, to_guest) = self.reqids();
        format!(
            "\n[guest.protect.home-registration]\n\
             reqid = {{ to_home_agent = {to_home_agent}, to_guest = {to_guest} }}\n"
        )
    }
}

const HOME_AGENT: &str = "[home_agent]\naddress = \"2001:db8:2000::1\"\nhome_link = \"2001:db8:2000::/64\"\n";

/// Name of the host of a site in policies.
fn host_name(site: Site) -> &'static str {
    match site {
        Site::Home => "host-home",
        Site::One => "host-one",
        Site::Two => "host-two",
    }
}

/// What the home agent has for these guests. `options` are further lines of its `[home_agent]`.
pub(crate) fn home_agent(guests: u16, options: &str) -> String {
    let mut text = format!("{HOME_AGENT}interface = \"eth0\"\n{options}\n");
    for guest in (0..guests).map(Guest) {
        let _ = write!(
            text,
            "\n[[guest]]\nname = \"{}\"\nhome_address = \"{}\"\n{}",
            guest.name(),
            guest.home_address(),
            guest.protection()
        );
        for site in Site::ALL {
            let (spi, keys) = (guest.spi_to_home_agent(site), format!("to-ha-{}", host_name(site)));
            text.push_str(&guest.association("to-home-agent", spi, Some(host_name(site)), &keys));
        }
        text.push_str(&guest.association("to-guest", guest.spi_to_guest(), None, "to-guest"));
    }
    text
}

/// What the host of a site has for them. `options` are further lines of each `[[guest]]`.
pub(crate) fn host(site: Site, guests: u16, options: &str) -> String {
    let mut text = HOME_AGENT.to_owned();
    for guest in (0..guests).map(Guest) {
        let _ = write!(
            text,
            "\n[[guest]]\nname = \"{}\"\nhome_address = \"{}\"\nmac = \"{}\"\nport = {{ bridge = \"br-home\" }}\n{options}\n{}",
            guest.name(),
            guest.home_address(),
            guest.mac(),
            guest.protection()
        );
        let keys = format!("to-ha-{}", host_name(site));
        text.push_str(&guest.association("to-home-agent", guest.spi_to_home_agent(site), None, &keys));
        text.push_str(&guest.association("to-guest", guest.spi_to_guest(), None, "to-guest"));
    }
    text
}
