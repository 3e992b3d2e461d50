//! Link-layer addresses and prefixes.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// Why a text is not the value it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseVocabularyError {
    /// Not a MAC address.
    #[error("expected a MAC address of six hexadecimal octets such as 52:54:00:00:00:10, got {0:?}")]
    MacAddress(String),
    /// Not a prefix.
    #[error("expected an IPv6 prefix such as 2001:db8:2000::/64, got {0:?}")]
    Prefix(String),
    /// The prefix has bits set behind its length.
    #[error("expected a prefix without bits behind its length, such as {canonical}, got {given:?}")]
    HostBits {
        /// What was given.
        given: String,
        /// The prefix with those bits cleared.
        canonical: Prefix,
    },
}

/// An IEEE 802 48-bit address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// Whether the group bit is set (multicast and broadcast).
    pub fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// The group address that carries an IPv6 multicast destination on Ethernet (RFC 2464 §7).
    pub fn for_multicast(group: Ipv6Addr) -> Self {
        let o = group.octets();
        Self([0x33, 0x33, o[12], o[13], o[14], o[15]])
    }

    /// The modified EUI-64 interface identifier of this address (RFC 4291, appendix A).
    pub fn interface_identifier(self) -> [u8; 8] {
        let m = self.0;
        [m[0] ^ 0x02, m[1], m[2], 0xff, 0xfe, m[3], m[4], m[5]]
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let m = self.0;
        write!(f, "{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", m[0], m[1], m[2], m[3], m[4], m[5])
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MacAddress {
    type Err = ParseVocabularyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || ParseVocabularyError::MacAddress(text.to_owned());
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().ok_or_else(bad)?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(bad());
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() { Err(bad()) } else { Ok(Self(octets)) }
    }
}

/// An IPv6 prefix; the bits behind its length are zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: Ipv6Addr,
    length: u8,
}

impl Prefix {
    /// The prefix of `length` (cut to 128) bits that `address` lies in.
    pub fn of(address: Ipv6Addr, length: u8) -> Self {
        let length = length.min(128);
        Self { address: Ipv6Addr::from_bits(address.to_bits() & Self::mask(length)), length }
    }

    /// One address alone.
    pub fn host(address: Ipv6Addr) -> Self {
        Self::of(address, 128)
    }

    /// Every address (`::/0`).
    pub const ANY: Self = Self { address: Ipv6Addr::UNSPECIFIED, length: 0 };

    fn mask(length: u8) -> u128 {
        match length {
            0 => 0,
            n => u128::MAX << (128 - u32::from(n)),
        }
    }

    /// The first address of the prefix.
    pub fn address(self) -> Ipv6Addr {
        self.address
    }

    /// Its length in bits, 0 to 128.
    pub fn length(self) -> u8 {
        self.length
    }

    /// Whether `address` lies in it.
    pub fn contains(self, address: Ipv6Addr) -> bool {
        address.to_bits() & Self::mask(self.length) == self.address.to_bits()
    }

    /// Whether every address of `other` lies in it.
    pub fn covers(self, other: Self) -> bool {
        self.length <= other.length && self.contains(other.address)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Prefix {
    type Err = ParseVocabularyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || ParseVocabularyError::Prefix(text.to_owned());
        let (address, length) = text.split_once('/').ok_or_else(bad)?;
        let address: Ipv6Addr = address.parse().map_err(|_| bad())?;
        let length: u8 = length.parse().ok().filter(|l| *l <= 128).ok_or_else(bad)?;
        let canonical = Self::of(address, length);
        if canonical.address != address {
            return Err(ParseVocabularyError::HostBits { given: text.to_owned(), canonical });
        }
        Ok(canonical)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_addresses_are_six_octets() {
        let mac: MacAddress = "52:54:00:00:00:10".parse().unwrap();
        assert_eq!(mac.to_string(), "52:54:00:00:00:10");
        assert_eq!(mac.interface_identifier(), [0x50, 0x54, 0, 0xff, 0xfe, 0, 0, 0x10]);
        for bad in ["", "52:54", "52:54:00:00:00:10:11", "52:54:00:00:00:1g", "5254.0000.0010", "+2:54:00:00:00:10"] {
            assert!(bad.parse::<MacAddress>().is_err(), "{bad}");
        }
    }

    #[test]
    fn prefixes_hold_their_addresses_only() {
        let prefix: Prefix = "2001:db8:2000::/64".parse().unwrap();
        assert!(prefix.contains("2001:db8:2000::10".parse().unwrap()));
        assert!(!prefix.contains("2001:db8:3000::10".parse().unwrap()));
        assert!(Prefix::ANY.covers(prefix) && !prefix.covers(Prefix::ANY));
        assert!(matches!("2001:db8::1/64".parse::<Prefix>(), Err(ParseVocabularyError::HostBits { .. })));
        for bad in ["2001:db8::", "2001:db8::/129", "x/64"] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
    }
}
