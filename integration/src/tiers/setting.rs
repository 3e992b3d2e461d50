//! `cargo lab test --tier …`: the daemons' setting `accelerate`, and the scenarios that are run with each.

use clap::ValueEnum;
use kagemusha::daemon::engine::Tier;
use serde::{Deserialize, Serialize};

/// What both roles are started with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub(crate) enum Setting {
    Portable,
    SuperPacket,
    Ebpf,
    /// Whatever the daemon finds to be the best.
    Auto,
}

/// What the user can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Asked {
    Portable,
    SuperPacket,
    Ebpf,
    /// What the daemons choose by themselves.
    Auto,
    /// Each of them, one after the other.
    All,
}

impl Asked {
    /// The settings, in order.
    pub(crate) fn settings(self) -> &'static [Setting] {
        match self {
            Self::Portable => &[Setting::Portable],
            Self::SuperPacket => &[Setting::SuperPacket],
            Self::Ebpf => &[Setting::Ebpf],
            Self::Auto => &[Setting::Auto],
            Self::All => &[Setting::Portable, Setting::SuperPacket, Setting::Ebpf, Setting::Auto],
        }
    }
}

impl Setting {
    /// For the user, and as part of a file's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::SuperPacket => "super-packet",
            Self::Ebpf => "ebpf",
            Self::Auto => "auto",
        }
    }

    /// The value of `--accelerate`.
    pub(crate) fn option(self) -> &'static str {
        match self {
            Self::Portable => "off",
            other => other.name(),
        }
    }

    /// The tier that must carry; none: the daemon's choice.
    pub(crate) fn tier(self) -> Option<Tier> {
        match self {
            Self::Portable => Some(Tier::Portable),
            Self::SuperPacket => Some(Tier::SuperPacket),
            Self::Ebpf => Some(Tier::Ebpf),
            Self::Auto => None,
        }
    }
}

/// The scenarios in which data of guests goes through the tunnel while the registration is under ESP: registration, both ways, a host that moves,
/// guests that move, packets too big, forgeries, restarts and crashes. Not with a correspondent behind other routers, from
/// which nothing comes whole, and not those whose *data* is under ESP (`tunnel-payload`): the kernel's IPsec carries that,
/// in every tier.
pub(crate) const SCENARIOS: &[&str] = &[
    "register-esp",
    "handover",
    "guest-migrates-under-esp",
    "two-guests-one-host",
    "spoofed-source-dropped",
    "packet-too-big",
    "home-agent-restart",
    "mobile-node-restart",
    "migration-journey",
    "migration-home-again",
    "migration-target-crashes",
];

#[cfg(test)]
mod tests {
    use super::*;
    use kagemusha::daemon::engine::Accelerate;

    #[test]
    fn every_setting_is_one_of_the_daemons() {
        for setting in Asked::All.settings() {
            let accelerate: Accelerate = setting.option().parse().unwrap();
            assert!(setting.tier().is_none_or(|tier| tier == accelerate.highest()), "{setting:?}");
        }
    }

    #[test]
    fn the_scenarios_are_there() {
        for name in SCENARIOS {
            assert!(crate::scenarios::named(name).is_some(), "{name}");
        }
    }
}
