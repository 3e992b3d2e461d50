//! What nearly every scenario uses.

pub(crate) use std::time::Duration;

pub(crate) use crate::dissect::{Packet, icmpv6};
pub(crate) use crate::expect::*;
pub(crate) use crate::failure::{Outcome, ensure};
pub(crate) use crate::process::wait_until;
pub(crate) use crate::scenario::{Lab, Peer, Scenario};
pub(crate) use crate::topology::cast::*;
pub(crate) use crate::topology::{FAR_LINK, FOREIGN, FOREIGN2, HOME, SEGMENT};

/// Policies that several scenarios use.
pub(crate) mod policies {
    /// The runnable reference policies of the project, as they are.
    pub(crate) const REFERENCE_UNPROTECTED_HOST: &str = include_str!("../../policies/ha-unprotected.toml");
    pub(crate) const REFERENCE_UNPROTECTED_HOME_AGENT: &str =
        include_str!("../../policies/home-agent-unprotected.toml");
    pub(crate) const REFERENCE_PROTECTED_HOST: &str = include_str!("../../policies/ha.toml");
    pub(crate) const REFERENCE_PROTECTED_HOME_AGENT: &str = include_str!("../../policies/home-agent.toml");

    pub(crate) const PLAIN_HOST: &str = include_str!("../policies/plain-host.toml");
    pub(crate) const PLAIN_HOST_12S: &str = include_str!("../policies/plain-host-12s.toml");
    pub(crate) const PLAIN_HOME_AGENT: &str = include_str!("../policies/plain-home-agent.toml");
    pub(crate) const ESP_HOST: &str = include_str!("../policies/esp-host.toml");
    pub(crate) const ESP_HOST_12S: &str = include_str!("../policies/esp-host-12s.toml");
    pub(crate) const ESP_HOST_TWO_GUESTS: &str = include_str!("../policies/esp-host-two-guests.toml");
    pub(crate) const ESP_HOME_AGENT: &str = include_str!("../policies/esp-home-agent.toml");
}

/// SPIs of the first guest in those policies: to the home agent, to the guest.
pub(crate) const SPIS: (u32, u32) = (0x3e8, 0x3e9);
/// SPIs of the second guest.
pub(crate) const SPIS2: (u32, u32) = (0x3ea, 0x3eb);
