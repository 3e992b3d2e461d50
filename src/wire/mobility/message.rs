//! Mobility header messages.

use std::net::Ipv6Addr;

use super::{MobilityOption, Status};
use crate::vocabulary::{Lifetime, SequenceNumber};

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
