//! Neighbour discovery options (RFC 4861 §4.6).

use std::net::Ipv6Addr;

use crate::vocabulary::MacAddress;
use crate::wire::numbers::neighbor_option as number;
use crate::wire::{Error, octets};

use super::message::OBJECT;

/// A neighbour discovery option. One of a known type with a length or form that it cannot have is kept as `Unknown`, and so ignored, as
/// options that a receiver does not understand must be (RFC 4861 §4.6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NeighborOption {
    /// Type 1: link-layer address of the sender.
    SourceLinkLayerAddress(MacAddress),
    /// Type 2: link-layer address of the target.
    TargetLinkLayerAddress(MacAddress),
    /// Type 3.
    PrefixInformation(PrefixInformation),
    /// Type 4: as much of the packet that was redirected as fits, up to a multiple of 8 octets (other lengths are filled with zeros).
    RedirectedHeader(Vec<u8>),
    /// Type 5: MTU of the link in octets.
    Mtu(u32),
    /// Type 7: longest time between unsolicited router advertisements, in milliseconds (RFC 6275 §7.3).
    AdvertisementInterval(u32),
    /// Type 8: home agent information (RFC 6275 §7.4).
    HomeAgentInformation {
        /// Preference, a higher value is better.
        preference: i16,
        /// Lifetime as a home agent, in seconds, not 0.
        lifetime: u16,
    },
    /// Type 14 with 6 octets (RFC 3971 §5.3.2, RFC 7527 §4).
    Nonce([u8; 6]),
    /// Anything else.
    Unknown {
        /// Option type.
        option_type: u8,
        /// What follows type and length: a multiple of 8 octets less 2 (other lengths are filled with zeros).
        data: Vec<u8>,
    },
}

/// Prefix information (RFC 4861 §4.6.2; the R flag is of RFC 6275 §7.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrefixInformation {
    /// The prefix; with `router_address` the whole address of the router.
    pub prefix: Ipv6Addr,
    /// Its length in bits, 0 to 128.
    pub prefix_length: u8,
    /// L: addresses of the prefix are on the link.
    pub on_link: bool,
    /// A: addresses may be configured from the prefix.
    pub autonomous: bool,
    /// R: the prefix field holds a whole address of the router.
    pub router_address: bool,
    /// Valid lifetime in seconds; all ones is for ever.
    pub valid_lifetime: u32,
    /// Preferred lifetime in seconds; all ones is for ever.
    pub preferred_lifetime: u32,
}

const ON_LINK: u8 = 0x80;
const AUTONOMOUS: u8 = 0x40;
const ROUTER_ADDRESS: u8 = 0x20;

impl NeighborOption {
    fn from_data(option_type: u8, data: &[u8]) -> Self {
        Self::known(option_type, data).unwrap_or_else(|| Self::Unknown { option_type, data: data.to_vec() })
    }

    fn known(option_type: u8, data: &[u8]) -> Option<Self> {
        let mac = || Some(MacAddress(data.try_into().ok()?));
        let word = || octets::u32_at(data, 2, OBJECT).ok().filter(|_| data.len() == 6);
        Some(match option_type {
            number::SOURCE_LINK_LAYER_ADDRESS => Self::SourceLinkLayerAddress(mac()?),
            number::TARGET_LINK_LAYER_ADDRESS => Self::TargetLinkLayerAddress(mac()?),
            number::PREFIX_INFORMATION => Self::PrefixInformation(PrefixInformation::from_data(data)?),
            number::REDIRECTED_HEADER => Self::RedirectedHeader(data.get(6..)?.to_vec()),
            number::MTU => Self::Mtu(word()?),
            number::ADVERTISEMENT_INTERVAL => Self::AdvertisementInterval(word()?),
            number::HOME_AGENT_INFORMATION => {
                let word = word()?;
                Self::HomeAgentInformation { preference: (word >> 16) as i16, lifetime: word as u16 }
            }
            number::NONCE => Self::Nonce(data.try_into().ok()?),
            _ => return None,
        })
    }

    /// Type and what follows the length octet.
    fn to_data(&self) -> (u8, Vec<u8>) {
        let word = |word: u32| [&[0, 0][..], &word.to_be_bytes()].concat();
        match self {
            Self::SourceLinkLayerAddress(mac) => (number::SOURCE_LINK_LAYER_ADDRESS, mac.0.to_vec()),
            Self::TargetLinkLayerAddress(mac) => (number::TARGET_LINK_LAYER_ADDRESS, mac.0.to_vec()),
            Self::PrefixInformation(information) => (number::PREFIX_INFORMATION, information.to_data()),
            Self::RedirectedHeader(packet) => (number::REDIRECTED_HEADER, [&[0; 6][..], packet].concat()),
            Self::Mtu(mtu) => (number::MTU, word(*mtu)),
            Self::AdvertisementInterval(interval) => (number::ADVERTISEMENT_INTERVAL, word(*interval)),
            Self::HomeAgentInformation { preference, lifetime } => {
                let both = u32::from(preference.cast_unsigned()) << 16 | u32::from(*lifetime);
                (number::HOME_AGENT_INFORMATION, word(both))
            }
            Self::Nonce(nonce) => (number::NONCE, nonce.to_vec()),
            Self::Unknown { option_type, data } => (*option_type, data.clone()),
        }
    }
}

impl PrefixInformation {
    fn from_data(data: &[u8]) -> Option<Self> {
        if data.len() != 30 {
            return None;
        }
        let flags = *data.get(1)?;
        let information = Self {
            prefix: octets::address_at(data, 14, OBJECT).ok()?,
            prefix_length: *data.first()?,
            on_link: flags & ON_LINK != 0,
            autonomous: flags & AUTONOMOUS != 0,
            router_address: flags & ROUTER_ADDRESS != 0,
            valid_lifetime: octets::u32_at(data, 2, OBJECT).ok()?,
            preferred_lifetime: octets::u32_at(data, 6, OBJECT).ok()?,
        };
        Some(information).filter(|information| information.prefix_length <= 128)
    }

    fn to_data(self) -> Vec<u8> {
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        let flags =
            bit(self.on_link, ON_LINK) | bit(self.autonomous, AUTONOMOUS) | bit(self.router_address, ROUTER_ADDRESS);
        let mut data = vec![self.prefix_length, flags];
        data.extend(self.valid_lifetime.to_be_bytes());
        data.extend(self.preferred_lifetime.to_be_bytes());
        data.extend([0; 4]);
        data.extend(self.prefix.octets());
        data
    }
}

/// Reads the options of `message` from octet `start` on.
pub(super) fn parse_all(message: &[u8], start: usize) -> Result<Vec<NeighborOption>, Error> {
    let mut options = Vec::new();
    let mut at = start;
    while at < message.len() {
        let option_type = octets::u8_at(message, at, OBJECT)?;
        let units = octets::u8_at(message, at + 1, OBJECT)?;
        let length = usize::from(units) * 8;
        // A length of 0 condemns the whole message (RFC 4861 §4.6).
        let data = message.get(at + 2..at + length).filter(|_| units != 0).ok_or(Error::OptionLength {
            object: OBJECT,
            option_type,
            offset: at,
            length: units.into(),
            expected: "1 or more (units of 8 octets) within the message (RFC 4861 §4.6)",
        })?;
        options.push(NeighborOption::from_data(option_type, data));
        at += length;
    }
    Ok(options)
}

/// Appends `options`. One longer than 2040 octets, the most its length field can say, is cut.
pub(super) fn emit_all(message: &mut Vec<u8>, options: &[NeighborOption]) {
    for option in options {
        let (option_type, mut data) = option.to_data();
        let length = (data.len() + 2).next_multiple_of(8).min(2040);
        data.resize(length - 2, 0);
        message.push(option_type);
        message.push((length / 8) as u8); // at most 255
        message.extend(data);
    }
}
