//! How the bytes are moved: the tiers, and the setting that chooses among them.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

/// How a running engine moves packets. Every tier enforces the same checks and makes the same packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Userland cuts and joins; raw and packet sockets carry. Works on every kernel.
    Portable,
    /// Userland checks a packet of up to 64 KiB as one; the kernel adds the outer header and cuts behind it.
    SuperPacket,
    /// The kernel does everything by programs that the daemon loads; userland has what they leave to it.
    Ebpf,
}

impl Tier {
    /// Every tier, the lowest first.
    pub const ALL: [Self; 3] = [Self::Portable, Self::SuperPacket, Self::Ebpf];

    /// The setting that tries this tier first.
    pub fn setting(self) -> Accelerate {
        match self {
            Self::Portable => Accelerate::Off,
            Self::SuperPacket => Accelerate::SuperPacket,
            Self::Ebpf => Accelerate::Ebpf,
        }
    }

    /// The stable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::SuperPacket => "super-packet",
            Self::Ebpf => "ebpf",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The setting `accelerate`: which tier is tried first. A tier that the kernel does not allow falls back to the next
/// lower one, with a line in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accelerate {
    /// The portable tier.
    Off,
    /// Super-packets.
    SuperPacket,
    /// eBPF.
    Ebpf,
    /// The best that works.
    #[default]
    Auto,
}

impl Accelerate {
    /// Every setting with its name.
    pub const ALL: [(&'static str, Self); 4] =
        [("off", Self::Off), ("super-packet", Self::SuperPacket), ("ebpf", Self::Ebpf), ("auto", Self::Auto)];

    /// The tier to try first.
    pub fn highest(self) -> Tier {
        match self {
            Self::Off => Tier::Portable,
            Self::SuperPacket => Tier::SuperPacket,
            Self::Ebpf | Self::Auto => Tier::Ebpf,
        }
    }
}

impl FromStr for Accelerate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.iter().find(|(name, _)| *name == text);
        found.map(|(_, value)| *value).ok_or_else(|| format!("{text:?} is none of off, super-packet, ebpf and auto"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_by_name() {
        for (name, value) in Accelerate::ALL {
            assert_eq!(name.parse(), Ok(value));
        }
        assert!(Tier::ALL.is_sorted() && Tier::ALL.iter().all(|tier| tier.setting().highest() == *tier));
        assert!("fast".parse::<Accelerate>().is_err());
        assert_eq!(Accelerate::default().highest(), Tier::Ebpf);
    }
}
