//! Status codes of binding acknowledgements.
//!
//! Registry: IANA "Mobile IPv6 Parameters", "Status Codes (Binding Acknowledgement)".

use std::fmt;

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
    /// Invalid care-of address.
    pub const INVALID_CARE_OF_ADDRESS: Self = Self(174);

    /// Whether the binding update was accepted (RFC 6275 §6.1.8).
    pub fn is_accepted(self) -> bool {
        self.0 < 128
    }

    /// The registry's name of this code, where it has one that RFC 6275 or an extension of home registrations defines.
    pub fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            0 => "Binding Update accepted",
            1 => "Accepted but prefix discovery necessary",
            128 => "Reason unspecified",
            129 => "Administratively prohibited",
            130 => "Insufficient resources",
            131 => "Home registration not supported",
            132 => "Not home subnet",
            133 => "Not home agent for this mobile node",
            134 => "Duplicate Address Detection failed",
            135 => "Sequence number out of window",
            136 => "Expired home nonce index",
            137 => "Expired care-of nonce index",
            138 => "Expired nonces",
            139 => "Registration type change disallowed",
            140 => "Mobile Router Operation not permitted",
            141 => "Invalid Prefix",
            142 => "Not Authorized for Prefix",
            143 => "Forwarding Setup failed",
            144 => "MIPV6-ID-MISMATCH",
            145 => "MIPV6-MESG-ID-REQD",
            146 => "MIPV6-AUTH-FAIL",
            174 => "Invalid Care-of Address",
            _ => return None,
        })
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{} ({name})", self.0),
            None if self.is_accepted() => write!(f, "{} (accepted, unassigned code)", self.0),
            None => write!(f, "{} (refused, unassigned code)", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_the_line_between_accepted_and_refused() {
        assert_eq!(Status::SEQUENCE_NUMBER_OUT_OF_WINDOW.to_string(), "135 (Sequence number out of window)");
        assert_eq!(Status(127).to_string(), "127 (accepted, unassigned code)");
        assert_eq!(Status(255).to_string(), "255 (refused, unassigned code)");
        assert!(Status(127).is_accepted() && !Status(128).is_accepted());
    }
}
