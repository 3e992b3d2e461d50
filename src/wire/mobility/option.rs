//! Mobility options (RFC 6275 §6.2).

use std::net::Ipv6Addr;

use crate::wire::numbers::mobility_option as number;
use crate::wire::{Error, octets};

const OBJECT: &str = "mobility header";

/// A mobility option other than padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MobilityOption {
    /// Type 2: refresh interval in units of 4 seconds (RFC 6275 §6.2.4).
    BindingRefreshAdvice(u16),
    /// Type 3 (RFC 6275 §6.2.5).
    AlternateCareOfAddress(Ipv6Addr),
    /// Type 4 (RFC 6275 §6.2.6).
    NonceIndices {
        /// Home nonce index.
        home: u16,
        /// Care-of nonce index.
        care_of: u16,
    },
    /// Type 5 (RFC 6275 §6.2.7).
    BindingAuthorizationData(Vec<u8>),
    /// Anything else, skipped by the receiver (RFC 6275 §6.2.1).
    Unknown {
        /// Option type.
        option_type: u8,
        /// Option data, at most 255 octets.
        data: Vec<u8>,
    },
}

impl MobilityOption {
    /// The option type.
    pub fn option_type(&self) -> u8 {
        match self {
            Self::BindingRefreshAdvice(_) => number::BINDING_REFRESH_ADVICE,
            Self::AlternateCareOfAddress(_) => number::ALTERNATE_CARE_OF_ADDRESS,
            Self::NonceIndices { .. } => number::NONCE_INDICES,
            Self::BindingAuthorizationData(_) => number::BINDING_AUTHORIZATION_DATA,
            Self::Unknown { option_type, .. } => *option_type,
        }
    }

    /// Where the option must stand, as `(n, m)` for an offset of `xn + m` from the start of the mobility header.
    fn alignment(&self) -> (usize, usize) {
        match self {
            Self::BindingRefreshAdvice(_) | Self::NonceIndices { .. } => (2, 0),
            Self::AlternateCareOfAddress(_) => (8, 6),
            Self::BindingAuthorizationData(_) => (8, 2),
            Self::Unknown { .. } => (1, 0),
        }
    }

    fn data(&self) -> Vec<u8> {
        match self {
            Self::BindingRefreshAdvice(interval) => interval.to_be_bytes().to_vec(),
            Self::AlternateCareOfAddress(address) => address.octets().to_vec(),
            Self::NonceIndices { home, care_of } => [home.to_be_bytes(), care_of.to_be_bytes()].concat(),
            Self::BindingAuthorizationData(data) | Self::Unknown { data, .. } => {
                data.iter().copied().take(usize::from(u8::MAX)).collect()
            }
        }
    }

    fn parse(option_type: u8, offset: usize, data: &[u8]) -> Result<Self, Error> {
        let expect = |length: usize, expected: &'static str| match data.len() == length {
            true => Ok(()),
            false => Err(Error::OptionLength { object: OBJECT, option_type, offset, length: data.len(), expected }),
        };
        Ok(match option_type {
            number::BINDING_REFRESH_ADVICE => {
                expect(2, "2 (RFC 6275 §6.2.4)")?;
                Self::BindingRefreshAdvice(octets::u16_at(data, 0, OBJECT)?)
            }
            number::ALTERNATE_CARE_OF_ADDRESS => {
                expect(16, "16 (RFC 6275 §6.2.5)")?;
                Self::AlternateCareOfAddress(octets::address_at(data, 0, OBJECT)?)
            }
            number::NONCE_INDICES => {
                expect(4, "4 (RFC 6275 §6.2.6)")?;
                Self::NonceIndices { home: octets::u16_at(data, 0, OBJECT)?, care_of: octets::u16_at(data, 2, OBJECT)? }
            }
            number::BINDING_AUTHORIZATION_DATA => Self::BindingAuthorizationData(data.to_vec()),
            _ => Self::Unknown { option_type, data: data.to_vec() },
        })
    }
}

/// Reads the options of `header`, a mobility header cut to its length, from octet `start` on. Padding is left out; all others are kept in
/// order, repeated and unknown ones too.
pub(super) fn parse_all(header: &[u8], start: usize) -> Result<Vec<MobilityOption>, Error> {
    let mut options = Vec::new();
    let mut at = start;
    while let Some(&option_type) = header.get(at) {
        if option_type == number::PAD1 {
            at += 1;
            continue;
        }
        let length = header.get(at + 1).copied().map(usize::from);
        let data = length.and_then(|length| header.get(at + 2..)?.get(..length)).ok_or(Error::OptionLength {
            object: OBJECT,
            option_type,
            offset: at,
            length: length.unwrap_or_default(),
            expected: "one that stays within the header (RFC 6275 §6.2.1)",
        })?;
        if option_type != number::PADN {
            options.push(MobilityOption::parse(option_type, at, data)?);
        }
        at += 2 + data.len();
    }
    Ok(options)
}

/// Appends `options` to the mobility header in `message`, each at its alignment, and pads the whole to a multiple of 8 octets.
/// Options that would make the header longer than its length field can say (2048 octets) are left out.
pub(super) fn emit_all(message: &mut Vec<u8>, options: &[MobilityOption]) {
    for option in options {
        let (n, m) = option.alignment();
        let padding = (n + m - message.len() % n) % n;
        let data = option.data();
        if message.len() + padding + 2 + data.len() > MAXIMUM_LENGTH {
            continue;
        }
        pad(message, padding);
        message.push(option.option_type());
        message.push(data.len() as u8); // data() is at most 255 octets
        message.extend(data);
    }
    pad(message, message.len().next_multiple_of(8) - message.len());
}

/// The longest mobility header its length field can say, in octets.
const MAXIMUM_LENGTH: usize = 2048;

/// Appends `length` octets of padding, at most 257 (RFC 6275 §6.2.2, §6.2.3).
fn pad(message: &mut Vec<u8>, length: usize) {
    match length {
        0 => {}
        1 => message.push(number::PAD1),
        _ => {
            message.extend([number::PADN, (length - 2) as u8]);
            message.resize(message.len() + length - 2, 0);
        }
    }
}
