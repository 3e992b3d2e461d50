//! Status codes of binding acknowledgements.
//!
//! Registry: IANA "Mobile IPv6 Parameters", "Status Codes (Binding Acknowledgement)".

/// The status of a binding acknowledgement (RFC 6275 §6.1.8). Values below 128 mean that the update was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Status(pub u8);

impl Status {
    /// Binding update accepted.
    pub const ACCEPTED: Self = Self(0);
    /// Accepted but prefix discovery necessary.
    pub const ACCEPTED_PREFIX_DISCOVERY_NECESSARY: Self = Self(1);
    /// Reason unspecified.
    pub const REASON_UNSPECIFIED: Self = Self(128);
    /// Administratively prohibited.
    pub const ADMINISTRATIVELY_PROHIBITED: Self = Self(129);
    /// Insufficient resources.
    pub const INSUFFICIENT_RESOURCES: Self = Self(130);
    /// Home registration not supported.
    pub const HOME_REGISTRATION_NOT_SUPPORTED: Self = Self(131);
    /// Not home subnet.
    pub const NOT_HOME_SUBNET: Self = Self(132);
    /// Not home agent for this mobile node.
    pub const NOT_HOME_AGENT_FOR_THIS_MOBILE_NODE: Self = Self(133);
    /// Duplicate address detection failed.
    pub const DUPLICATE_ADDRESS_DETECTION_FAILED: Self = Self(134);
    /// Sequence number out of window.
    pub const SEQUENCE_NUMBER_OUT_OF_WINDOW: Self = Self(135);
    /// Registration type change disallowed.
    pub const REGISTRATION_TYPE_CHANGE_DISALLOWED: Self = Self(139);

    /// Whether the binding update was accepted (RFC 6275 §6.1.8).
    pub fn is_accepted(self) -> bool {
        self.0 < 128
    }
}
