//! Security policies (SPD entries) as the kernel holds them.

use std::net::Ipv6Addr;

use super::Selector;

/// Direction of an SPD entry (`linux/xfrm.h`: `XFRM_POLICY_IN`, `OUT`, `FWD`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Delivered locally.
    In,
    /// Sent locally.
    Out,
    /// Forwarded.
    Forward,
}

/// What becomes of a packet that matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// PROTECT by the templates, or BYPASS when there are none (RFC 4301 §4.4.1).
    Allow,
    /// DISCARD.
    Block,
}

/// The header a template asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TemplateProtocol {
    /// ESP.
    Esp,
    /// Home Address destination option.
    HomeAddressOption,
    /// Type 2 routing header.
    Type2RoutingHeader,
}

/// The modes of ESP (RFC 4301 §3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EspMode {
    /// Protects what the packet carries.
    Transport,
    /// Protects the whole packet in another one.
    Tunnel,
}

impl EspMode {
    /// The name in policy files, and to `ip` and `setkey`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Transport => "transport",
            Self::Tunnel => "tunnel",
        }
    }
}

impl From<EspMode> for Mode {
    fn from(mode: EspMode) -> Self {
        match mode {
            EspMode::Transport => Self::Transport,
            EspMode::Tunnel => Self::Tunnel,
        }
    }
}

/// XFRM mode of a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// ESP transport mode.
    Transport,
    /// ESP tunnel mode; the addresses of the template are the ends of the tunnel.
    Tunnel,
    /// Route optimization (`ro`), the mode of the Mobile IPv6 headers.
    RouteOptimization,
}

/// Whether a template must be met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Level {
    /// No SA, no packet.
    Required,
    /// Used when there is an SA (`level use`).
    Use,
}

/// One transformation a policy asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Template {
    /// SA source, or unspecified for any.
    pub source: Ipv6Addr,
    /// SA destination, or unspecified for any.
    pub destination: Ipv6Addr,
    /// Header.
    pub protocol: TemplateProtocol,
    /// Mode.
    pub mode: Mode,
    /// Reqid of the SAs that may serve; 0 for any.
    pub reqid: u32,
    /// Required or not.
    pub level: Level,
}

/// What names a policy in the kernel (MAIN type): direction and selector. The priority belongs to it here because ours is what marks a
/// policy as ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyKey {
    /// Direction.
    pub direction: Direction,
    /// Selector.
    pub selector: Selector,
    /// Priority; the lower number wins.
    pub priority: u32,
}

/// An SPD entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecurityPolicy {
    /// Its name.
    pub key: PolicyKey,
    /// Allow or block.
    pub action: Action,
    /// Templates, innermost header first (ESP before the Home Address option): the other order leaves fine and is refused on the way in.
    pub templates: Vec<Template>,
}
