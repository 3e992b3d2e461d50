//! Why octets are not the object they should be.

/// A refused object. No variant holds octets of the packet beyond the one field that was wrong, so an error may be logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Error {
    /// There are fewer octets than the object says it has, or than its fixed part needs.
    #[error("{object} cut short: it needs {needed} octets, {available} came")]
    Truncated {
        /// What was being read.
        object: &'static str,
        /// Octets needed, from the start of the object.
        needed: usize,
        /// Octets there.
        available: usize,
    },
    /// A field has a value that its specification does not allow.
    #[error("{object}: {field} must be {expected}, {found} came ({clause})")]
    Field {
        /// What was being read.
        object: &'static str,
        /// The field, by the name of its RFC.
        field: &'static str,
        /// Offset of the field from the start of the object, in octets (what the Pointer of an ICMPv6 parameter problem
        /// counts, once the offset of the object in the packet is added).
        offset: usize,
        /// What it may be.
        expected: &'static str,
        /// What came.
        found: u32,
        /// The rule.
        clause: &'static str,
    },
    /// An option's length leads out of the header that holds it, or is one the option cannot have.
    #[error("{object}: option type {option_type} at octet {offset} has length {length}, expected {expected}")]
    OptionLength {
        /// The header that holds the option.
        object: &'static str,
        /// Option type.
        option_type: u8,
        /// Offset of the option from the start of the object, in octets.
        offset: usize,
        /// Its length field as it came.
        length: usize,
        /// What it may be.
        expected: &'static str,
    },
    /// The message breaks a rule about addresses or about which options may be there.
    #[error("{object}: {rule} ({clause})")]
    Rule {
        /// What was being read.
        object: &'static str,
        /// The rule that is broken.
        rule: &'static str,
        /// Where it is written.
        clause: &'static str,
    },
    /// The Internet checksum over the pseudo-header and the object is wrong.
    #[error("{object}: checksum does not verify over the addresses of the packet (RFC 8200 §8.1)")]
    Checksum {
        /// What was being read.
        object: &'static str,
    },
    /// More extension headers than this implementation walks.
    #[error("more than {limit} extension headers before the upper layer")]
    ChainTooLong {
        /// The limit.
        limit: usize,
    },
}

impl Error {
    /// The offset of the offending octet from the start of the object, where the error is one that an ICMPv6 parameter
    /// problem (code 0) reports: the Payload Proto and Header Len fields of a mobility header are answered so (RFC 6275 §9.2).
    pub fn pointer(&self) -> Option<usize> {
        match self {
            Self::Field { offset, .. } | Self::OptionLength { offset, .. } => Some(*offset),
            _ => None,
        }
    }
}
