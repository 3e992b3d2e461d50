//! What is compared.

use serde::{Deserialize, Serialize};

use kagemusha::daemon::engine::Accelerate;

/// A way from the guest to the correspondent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Variant {
    /// No tunnel at all: the kernel forwards.
    Plain,
    /// Kernel VXLAN over IPv6 between two bridges: what a datacenter would use instead, and the measure of everything.
    Vxlan,
    /// The kernel's IPv6 in IPv6: `ip6tnl`, or where that is missing seg6 with one segment and no routing header.
    KernelTunnel,
    /// One packet per system call, both ways and at both ends: the original's design.
    Naive,
    /// Our portable tier.
    Portable,
    /// Our super-packet tier.
    SuperPacket,
    /// Our eBPF tier.
    Ebpf,
}

impl Variant {
    /// Every variant, in the order of the tables.
    pub(crate) const ALL: [Self; 7] =
        [Self::Plain, Self::Vxlan, Self::KernelTunnel, Self::Naive, Self::Portable, Self::SuperPacket, Self::Ebpf];

    /// As it is called in tables and on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Vxlan => "vxlan",
            Self::KernelTunnel => "kernel-tunnel",
            Self::Naive => "naive",
            Self::Portable => "portable",
            Self::SuperPacket => "super-packet",
            Self::Ebpf => "ebpf",
        }
    }

    /// Octets that it adds to a packet.
    pub(crate) fn overhead(self) -> usize {
        match self {
            Self::Plain => 0,
            // Inner Ethernet, VXLAN, UDP, IPv6.
            Self::Vxlan => 14 + 8 + 8 + 40,
            Self::KernelTunnel | Self::Naive | Self::Portable | Self::SuperPacket | Self::Ebpf => 40,
        }
    }

    /// Which engine of ours runs at both ends.
    pub(crate) fn engine(self) -> Option<Engine> {
        match self {
            Self::Plain | Self::Vxlan | Self::KernelTunnel => None,
            Self::Naive => Some(Engine::Naive),
            Self::Portable => Some(Engine::Portable),
            Self::SuperPacket => Some(Engine::SuperPacket),
            Self::Ebpf => Some(Engine::Ebpf),
        }
    }
}

/// What a process at an end of the tunnel does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Engine {
    Naive,
    Portable,
    SuperPacket,
    Ebpf,
}

impl Engine {
    /// The setting of the product; the naive engine is none of it.
    pub(crate) fn accelerate(self) -> Option<Accelerate> {
        match self {
            Self::Naive => None,
            Self::Portable => Some(Accelerate::Off),
            Self::SuperPacket => Some(Accelerate::SuperPacket),
            Self::Ebpf => Some(Accelerate::Ebpf),
        }
    }
}

/// What the underlay does with packets longer than its MTU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mode {
    /// Cut before they leave, merged after they have come: a network card.
    Wire,
    /// 64 KB packets cross whole: two virtual machines on one host.
    Virtual,
}

/// Under which circumstances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Setting {
    /// Everything on one CPU.
    pub(crate) pinned: bool,
    pub(crate) mode: Mode,
    /// Of the underlay, in octets.
    pub(crate) mtu: usize,
}

impl Setting {
    /// The one that the aims are about.
    pub(crate) const MAIN: Self = Self { pinned: true, mode: Mode::Wire, mtu: 1500 };

    /// All of them, the main one first.
    pub(crate) fn all() -> Vec<Self> {
        let mut all = vec![];
        for mtu in [1500, 9000] {
            for mode in [Mode::Wire, Mode::Virtual] {
                for pinned in [true, false] {
                    all.push(Self { pinned, mode, mtu });
                }
            }
        }
        all
    }

    pub(crate) fn describe(self) -> String {
        let pinned = if self.pinned { "one CPU" } else { "all CPUs" };
        let mode = match self.mode {
            Mode::Wire => "wire",
            Mode::Virtual => "virtual",
        };
        format!("{mode}, {} octets, {pinned}", self.mtu)
    }
}
