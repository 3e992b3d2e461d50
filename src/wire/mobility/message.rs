//! Mobility header messages.

use std::net::Ipv6Addr;

use super::{MobilityOption, Status, option};
use crate::vocabulary::{Lifetime, SequenceNumber};
use crate::wire::numbers::{mobility_type, protocol};
use crate::wire::{Error, octets};

const OBJECT: &str = "mobility header";

/// The flags of a binding update that this implementation knows (RFC 6275 §6.1.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BindingUpdateFlags {
    /// A: a binding acknowledgement is wanted.
    pub acknowledge: bool,
    /// H: home registration.
    pub home_registration: bool,
    /// L: link-local address compatibility.
    pub link_local_compatibility: bool,
    /// K: key management mobility capability.
    pub key_management_mobility: bool,
    /// The other twelve bits as they came, kept so that a message can be shown and compared whole
    /// (R of RFC 3963 among them). Bit positions of the 16-bit flags field; the four above are masked out.
    pub other: u16,
}

/// Binding update (RFC 6275 §6.1.7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindingUpdate {
    /// Sequence number.
    pub sequence: SequenceNumber,
    /// Flags.
    pub flags: BindingUpdateFlags,
    /// Requested lifetime; zero asks for deletion.
    pub lifetime: Lifetime,
    /// Mobility options in order, without padding.
    pub options: Vec<MobilityOption>,
}

impl BindingUpdate {
    /// The care-of address of the alternate care-of address option, where there is one.
    pub fn alternate_care_of_address(&self) -> Option<Ipv6Addr> {
        self.options.iter().find_map(|option| match option {
            MobilityOption::AlternateCareOfAddress(address) => Some(*address),
            _ => None,
        })
    }
}

/// Binding acknowledgement (RFC 6275 §6.1.8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindingAcknowledgement {
    /// What became of the binding update.
    pub status: Status,
    /// K: the home agent can move IKE endpoints.
    pub key_management_mobility: bool,
    /// Sequence number of the binding update answered; with status 135 the last one accepted.
    pub sequence: SequenceNumber,
    /// Granted lifetime.
    pub lifetime: Lifetime,
    /// Mobility options in order, without padding.
    pub options: Vec<MobilityOption>,
}

/// Binding error (RFC 6275 §6.1.9).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindingError {
    /// 1: unknown binding for a home address destination option; 2: unrecognised mobility header type.
    pub status: u8,
    /// The home address of the packet that caused it, or unspecified.
    pub home_address: Ipv6Addr,
}

/// Any mobility header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Type 0, binding refresh request (RFC 6275 §6.1.2).
    BindingRefreshRequest,
    /// Type 5.
    BindingUpdate(BindingUpdate),
    /// Type 6.
    BindingAcknowledgement(BindingAcknowledgement),
    /// Type 7.
    BindingError(BindingError),
    /// Return routability (types 1 to 4): recognised, not used by this implementation.
    ReturnRoutability {
        /// The mobility header type, 1 to 4.
        mh_type: u8,
    },
    /// A type this implementation does not know.
    Unknown {
        /// The mobility header type.
        mh_type: u8,
    },
}

impl BindingUpdateFlags {
    const ACKNOWLEDGE: u16 = 0x8000;
    const HOME_REGISTRATION: u16 = 0x4000;
    const LINK_LOCAL_COMPATIBILITY: u16 = 0x2000;
    const KEY_MANAGEMENT_MOBILITY: u16 = 0x1000;
    const OTHER: u16 = 0x0fff;

    /// From the 16 bits of the message.
    pub fn from_bits(bits: u16) -> Self {
        Self {
            acknowledge: bits & Self::ACKNOWLEDGE != 0,
            home_registration: bits & Self::HOME_REGISTRATION != 0,
            link_local_compatibility: bits & Self::LINK_LOCAL_COMPATIBILITY != 0,
            key_management_mobility: bits & Self::KEY_MANAGEMENT_MOBILITY != 0,
            other: bits & Self::OTHER,
        }
    }

    /// The 16 bits of the message.
    pub fn bits(self) -> u16 {
        let bit = |set: bool, bit: u16| if set { bit } else { 0 };
        bit(self.acknowledge, Self::ACKNOWLEDGE)
            | bit(self.home_registration, Self::HOME_REGISTRATION)
            | bit(self.link_local_compatibility, Self::LINK_LOCAL_COMPATIBILITY)
            | bit(self.key_management_mobility, Self::KEY_MANAGEMENT_MOBILITY)
            | self.other & Self::OTHER
    }
}

impl Message {
    /// The mobility header type.
    pub fn mh_type(&self) -> u8 {
        match self {
            Self::BindingRefreshRequest => mobility_type::BINDING_REFRESH_REQUEST,
            Self::BindingUpdate(_) => mobility_type::BINDING_UPDATE,
            Self::BindingAcknowledgement(_) => mobility_type::BINDING_ACKNOWLEDGEMENT,
            Self::BindingError(_) => mobility_type::BINDING_ERROR,
            Self::ReturnRoutability { mh_type } | Self::Unknown { mh_type } => *mh_type,
        }
    }

    /// Reads a message from the first octet of its mobility header, by the rules of RFC 6275 §9.2. The checksum is not verified here:
    /// the kernel does so for raw sockets, [`super::verify_checksum`] elsewhere. Octets behind the header are ignored; so are reserved fields.
    ///
    /// # Errors
    /// * [`Error::Field`] on "Payload Proto" or "Header Len", which the receiver should answer with an ICMPv6 parameter problem at
    ///   [`Error::pointer`] octets into the mobility header (RFC 6275 §9.2);
    /// * [`Error::Truncated`] when there are fewer octets than the header says;
    /// * [`Error::OptionLength`] for an option that leaves the header or has a length it cannot have.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let field = |field, offset, expected, found: u8, clause| {
            Err(Error::Field { object: OBJECT, field, offset, expected, found: found.into(), clause })
        };
        let payload_proto = octets::u8_at(bytes, 0, OBJECT)?;
        let header_len = octets::u8_at(bytes, 1, OBJECT)?;
        let mh_type = octets::u8_at(bytes, 2, OBJECT)?;
        if payload_proto != protocol::NO_NEXT_HEADER {
            return field("Payload Proto", 0, "59 (no next header)", payload_proto, "RFC 6275 §6.1.1");
        }
        let (minimum, expected) = minimum_header_len(mh_type);
        if header_len < minimum {
            return field("Header Len", 1, expected, header_len, "RFC 6275 §9.2");
        }
        let header = octets::slice(bytes, 0, (usize::from(header_len) + 1) * 8, OBJECT)?;
        Ok(match mh_type {
            mobility_type::BINDING_REFRESH_REQUEST => {
                option::parse_all(header, 8)?;
                Self::BindingRefreshRequest
            }
            mobility_type::BINDING_UPDATE => Self::BindingUpdate(BindingUpdate {
                sequence: SequenceNumber(octets::u16_at(header, 6, OBJECT)?),
                flags: BindingUpdateFlags::from_bits(octets::u16_at(header, 8, OBJECT)?),
                lifetime: Lifetime(octets::u16_at(header, 10, OBJECT)?),
                options: option::parse_all(header, 12)?,
            }),
            mobility_type::BINDING_ACKNOWLEDGEMENT => Self::BindingAcknowledgement(BindingAcknowledgement {
                status: Status(octets::u8_at(header, 6, OBJECT)?),
                key_management_mobility: octets::u8_at(header, 7, OBJECT)? & 0x80 != 0,
                sequence: SequenceNumber(octets::u16_at(header, 8, OBJECT)?),
                lifetime: Lifetime(octets::u16_at(header, 10, OBJECT)?),
                options: option::parse_all(header, 12)?,
            }),
            mobility_type::BINDING_ERROR => {
                option::parse_all(header, 24)?;
                Self::BindingError(BindingError {
                    status: octets::u8_at(header, 6, OBJECT)?,
                    home_address: octets::address_at(header, 8, OBJECT)?,
                })
            }
            mobility_type::HOME_TEST_INIT..=mobility_type::CARE_OF_TEST => Self::ReturnRoutability { mh_type },
            _ => Self::Unknown { mh_type },
        })
    }

    /// The message's octets: payload protocol 59, checksum field 0 (for the kernel, or [`super::fill_checksum`]), options at their
    /// alignments, padded to a multiple of 8 octets. Options that do not fit the 2048 octets of a mobility header are left out.
    /// [`Message::ReturnRoutability`] and [`Message::Unknown`], whose contents are not kept, become a header of their least length
    /// filled with zeros.
    pub fn emit(&self) -> Vec<u8> {
        let mut message = vec![protocol::NO_NEXT_HEADER, 0, self.mh_type(), 0, 0, 0];
        let options: &[MobilityOption] = match self {
            Self::BindingUpdate(update) => {
                message.extend(update.sequence.0.to_be_bytes());
                message.extend(update.flags.bits().to_be_bytes());
                message.extend(update.lifetime.0.to_be_bytes());
                &update.options
            }
            Self::BindingAcknowledgement(acknowledgement) => {
                message.extend([acknowledgement.status.0, u8::from(acknowledgement.key_management_mobility) << 7]);
                message.extend(acknowledgement.sequence.0.to_be_bytes());
                message.extend(acknowledgement.lifetime.0.to_be_bytes());
                &acknowledgement.options
            }
            Self::BindingError(error) => {
                message.extend([error.status, 0]);
                message.extend(error.home_address.octets());
                &[]
            }
            Self::BindingRefreshRequest | Self::ReturnRoutability { .. } | Self::Unknown { .. } => {
                let (minimum, _) = minimum_header_len(self.mh_type());
                message.resize((usize::from(minimum) + 1) * 8, 0);
                &[]
            }
        };
        option::emit_all(&mut message, options);
        let header_len = message.len() / 8 - 1; // at most 255: emit_all keeps to 2048 octets
        if let Some(field) = message.get_mut(1) {
            *field = header_len as u8;
        }
        message
    }
}

/// The least Header Len of a type, in units of 8 octets beyond the first (RFC 6275 §9.2), as number and in words.
fn minimum_header_len(mh_type: u8) -> (u8, &'static str) {
    match mh_type {
        mobility_type::HOME_TEST_INIT | mobility_type::CARE_OF_TEST_INIT => (1, "1 or more for a test init"),
        mobility_type::HOME_TEST | mobility_type::CARE_OF_TEST => (2, "2 or more for a test"),
        mobility_type::BINDING_UPDATE => (1, "1 or more for a binding update"),
        mobility_type::BINDING_ACKNOWLEDGEMENT => (1, "1 or more for a binding acknowledgement"),
        mobility_type::BINDING_ERROR => (2, "2 or more for a binding error"),
        _ => (0, "0 or more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn home_registration(care_of: &str) -> BindingUpdate {
        BindingUpdate {
            sequence: SequenceNumber(36149),
            flags: BindingUpdateFlags { acknowledge: true, home_registration: true, ..Default::default() },
            lifetime: Lifetime(150),
            options: vec![MobilityOption::AlternateCareOfAddress(care_of.parse().unwrap())],
        }
    }

    #[test]
    fn a_home_registration_has_32_octets_with_its_option_at_8n_plus_6() {
        let octets = Message::BindingUpdate(home_registration("2001:db8:3000::3")).emit();
        let expected = [
            [0x3b, 3, 5, 0, 0, 0, 0x8d, 0x35],
            [0xc0, 0, 0, 150, 1, 0, 3, 16],
            [0x20, 0x01, 0x0d, 0xb8, 0x30, 0, 0, 0],
            [0, 0, 0, 0, 0, 0, 0, 3],
        ];
        assert_eq!(octets, expected.concat());
    }

    #[test]
    fn an_acknowledgement_has_16_octets() {
        let acknowledgement = Message::BindingAcknowledgement(BindingAcknowledgement {
            status: Status::ACCEPTED,
            key_management_mobility: true,
            sequence: SequenceNumber(1),
            lifetime: Lifetime(150),
            options: vec![],
        });
        assert_eq!(acknowledgement.emit(), [0x3b, 1, 6, 0, 0, 0, 0, 0x80, 0, 1, 0, 150, 1, 2, 0, 0]);
    }

    #[test]
    fn the_fields_that_a_parameter_problem_answers() {
        let octets = Message::BindingUpdate(home_registration("2001:db8:3000::3")).emit();
        let change = |at: usize, value: u8| {
            let mut octets = octets.clone();
            octets[at] = value;
            Message::parse(&octets).unwrap_err()
        };
        let error = change(0, 41);
        assert_eq!(error.pointer(), Some(0));
        assert_eq!(
            error.to_string(),
            "mobility header: Payload Proto must be 59 (no next header), 41 came (RFC 6275 §6.1.1)"
        );
        let error = change(1, 0);
        assert_eq!(error.pointer(), Some(1));
        assert_eq!(
            error.to_string(),
            "mobility header: Header Len must be 1 or more for a binding update, 0 came (RFC 6275 §9.2)"
        );
        assert_eq!(change(1, 4), Error::Truncated { object: OBJECT, needed: 40, available: 32 });
        assert_eq!(
            change(15, 15),
            Error::OptionLength {
                object: OBJECT,
                option_type: 3,
                offset: 14,
                length: 15,
                expected: "16 (RFC 6275 §6.2.5)"
            }
        );
        assert!(matches!(change(15, 17), Error::OptionLength { offset: 14, length: 17, .. }));
    }

    #[test]
    fn unknown_and_repeated_options_are_kept() {
        let care_of = |last| MobilityOption::AlternateCareOfAddress(Ipv6Addr::from([0, 0, 0, 0, 0, 0, 0, last]));
        let unknown = MobilityOption::Unknown { option_type: 200, data: vec![1, 2, 3] };
        let options = vec![care_of(1), unknown, care_of(2)];
        let update = Message::BindingUpdate(BindingUpdate { options, ..home_registration("::") });
        assert_eq!(Message::parse(&update.emit()), Ok(update));
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_the_rest_can_be_read() {
        let long = MobilityOption::Unknown { option_type: 200, data: vec![9; 300] };
        let update = BindingUpdate { options: vec![long; 9], ..home_registration("::") };
        let octets = Message::BindingUpdate(update).emit();
        let Ok(Message::BindingUpdate(parsed)) = Message::parse(&octets) else { panic!("not a binding update") };
        let expected = MobilityOption::Unknown { option_type: 200, data: vec![9; 255] };
        assert_eq!(parsed.options, vec![expected; 7]);
    }

    #[test]
    fn the_other_types() {
        for (mh_type, octets) in [(0, 8), (1, 16), (2, 16), (3, 24), (4, 24), (7, 24), (8, 8), (255, 8)] {
            let mut message = vec![0; octets];
            message[..3].copy_from_slice(&[59, (octets / 8 - 1) as u8, mh_type]);
            let parsed = Message::parse(&message).unwrap();
            assert_eq!((parsed.mh_type(), parsed.emit()), (mh_type, message.clone()));
            if octets > 8 {
                message[1] -= 1;
                assert_eq!(Message::parse(&message).unwrap_err().pointer(), Some(1), "type {mh_type}");
            }
        }
    }

    fn any_option() -> impl Strategy<Value = MobilityOption> {
        let data = proptest::collection::vec(any::<u8>(), 0..40);
        prop_oneof![
            any::<u16>().prop_map(MobilityOption::BindingRefreshAdvice),
            any::<u128>().prop_map(|bits| MobilityOption::AlternateCareOfAddress(Ipv6Addr::from_bits(bits))),
            any::<(u16, u16)>().prop_map(|(home, care_of)| MobilityOption::NonceIndices { home, care_of }),
            data.clone().prop_map(MobilityOption::BindingAuthorizationData),
            (6u8.., data).prop_map(|(option_type, data)| MobilityOption::Unknown { option_type, data }),
        ]
    }

    fn any_message() -> impl Strategy<Value = Message> {
        let options = || proptest::collection::vec(any_option(), 0..6);
        prop_oneof![
            Just(Message::BindingRefreshRequest),
            (any::<(u16, u16, u16)>(), options()).prop_map(|((sequence, flags, lifetime), options)| {
                Message::BindingUpdate(BindingUpdate {
                    sequence: SequenceNumber(sequence),
                    flags: BindingUpdateFlags::from_bits(flags),
                    lifetime: Lifetime(lifetime),
                    options,
                })
            }),
            (any::<(u8, bool, u16, u16)>(), options()).prop_map(|((status, k, sequence, lifetime), options)| {
                Message::BindingAcknowledgement(BindingAcknowledgement {
                    status: Status(status),
                    key_management_mobility: k,
                    sequence: SequenceNumber(sequence),
                    lifetime: Lifetime(lifetime),
                    options,
                })
            }),
            any::<(u8, u128)>().prop_map(|(status, bits)| {
                Message::BindingError(BindingError { status, home_address: Ipv6Addr::from_bits(bits) })
            }),
            (1u8..=4).prop_map(|mh_type| Message::ReturnRoutability { mh_type }),
            (8u8..).prop_map(|mh_type| Message::Unknown { mh_type }),
        ]
    }

    proptest! {
        #[test]
        fn round_trip(message in any_message(), a: u128, b: u128) {
            let (a, b) = (Ipv6Addr::from_bits(a), Ipv6Addr::from_bits(b));
            let mut octets = message.emit();
            prop_assert_eq!(octets.len() % 8, 0);
            prop_assert_eq!(Message::parse(&octets), Ok(message));
            super::super::fill_checksum(&mut octets, a, b);
            prop_assert!(super::super::verify_checksum(&octets, a, b));
            octets.push(0xaa); // behind the header
            prop_assert!(super::super::verify_checksum(&octets, a, b));
        }

        #[test]
        fn any_octets(mut octets in proptest::collection::vec(any::<u8>(), 0..100), likely: bool, mh_type in 0u8..9) {
            if likely && octets.len() >= 8 {
                octets[0] = 59;
                octets[1] = (octets.len() / 8 - 1) as u8;
                octets[2] = mh_type;
            }
            let _ = Message::parse(&octets);
            super::super::verify_checksum(&octets, Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
            super::super::fill_checksum(&mut octets, Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
        }
    }
}
