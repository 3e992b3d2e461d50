//! An association or a policy, and what `ip xfrm` can do to it.

use std::fmt;

use kagemusha::ipsec::{
    Action, AssociationKey, Direction, Mode, PolicyKey, SecurityAssociation, SecurityPolicy, TemplateProtocol,
    Transform, UpperLayer,
};
use kagemusha::kernel_state::KernelState;

/// See the module.
pub(super) enum Object {
    Association(SecurityAssociation),
    Policy(SecurityPolicy),
}

/// All of a state.
pub(super) fn all(state: &KernelState) -> Vec<Object> {
    let associations = state.associations.values().cloned().map(Object::Association);
    associations.chain(state.policies.values().cloned().map(Object::Policy)).collect()
}

impl Object {
    /// Whether a state has it as another one does. A care-of address may have changed for a good reason, but not to the one of [`Self::alter`].
    pub(super) fn is_same(&self, good: &KernelState, now: &KernelState) -> bool {
        match self {
            Self::Association(sa) => match (good.associations.get(&sa.key), now.associations.get(&sa.key)) {
                (Some(good), Some(now)) => match &now.transform {
                    Transform::Esp(_) => good == now,
                    Transform::RouteOptimization { care_of_address, .. } => care_of_address.to_string() != BOGUS,
                },
                (good, now) => good.is_none() && now.is_none(),
            },
            Self::Policy(policy) => good.policies.get(&policy.key) == now.policies.get(&policy.key),
        }
    }

    /// The command that deletes it.
    pub(super) fn delete(&self) -> String {
        match self {
            Self::Association(sa) => format!("xfrm state delete {}\n", association(&sa.key)),
            Self::Policy(policy) => format!("xfrm policy delete {}\n", self::policy(&policy.key)),
        }
    }

    /// Commands that make another one of it, under the same name.
    pub(super) fn alter(&self) -> String {
        match self {
            Self::Association(sa) => match &sa.transform {
                Transform::Esp(esp) => {
                    let zeros = |octets: usize| format!("0x{}", "00".repeat(octets));
                    let integrity = esp.integrity.as_ref().map_or_else(String::new, |(algorithm, key)| {
                        let (name, bits) = (algorithm.kernel_name(), algorithm.icv_bits());
                        format!(" auth-trunc {name} {} {bits}", zeros(key.length()))
                    });
                    format!(
                        "{}xfrm state add {} mode transport reqid {} enc {} {}{integrity}\n",
                        self.delete(),
                        association(&sa.key),
                        esp.reqid,
                        esp.encryption.0.kernel_name(),
                        zeros(esp.encryption.1.length()),
                    )
                }
                Transform::RouteOptimization { wildcard, .. } => {
                    let flag = if *wildcard { " flag wildrecv" } else { "" };
                    format!("xfrm state update {} mode ro coa {BOGUS}{flag}\n", association(&sa.key))
                }
            },
            Self::Policy(policy) => {
                let action = match policy.action {
                    Action::Block => "allow".to_owned(),
                    Action::Allow => "allow".to_owned() + &templates(policy),
                };
                let priority = policy.key.priority;
                format!("xfrm policy update {} priority {priority} action {action}\n", self::policy(&policy.key))
            }
        }
    }
}

/// A care-of address that nobody has.
const BOGUS: &str = "2001:db8:ffff::ffff";

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Association(sa) => write!(f, "state {}", association(&sa.key)),
            Self::Policy(policy) => write!(f, "policy {}", self::policy(&policy.key)),
        }
    }
}

fn association(key: &AssociationKey) -> String {
    let AssociationKey { source, destination, protocol, spi } = key;
    let protocol = match protocol {
        43 => "route2",
        50 => "esp",
        _ => "hao",
    };
    let spi = if *spi == 0 { String::new() } else { format!(" spi {spi:#x}") };
    format!("src {source} dst {destination} proto {protocol}{spi}")
}

fn policy(key: &PolicyKey) -> String {
    let direction = match key.direction {
        Direction::In => "in",
        Direction::Out => "out",
        Direction::Forward => "fwd",
    };
    let upper_layer = match key.selector.upper_layer {
        UpperLayer::Any => String::new(),
        UpperLayer::Protocol(number) => format!(" proto {number}"),
        UpperLayer::MobilityHeader(kind) => format!(" proto 135 type {kind}"),
        UpperLayer::Icmpv6(kind) => format!(" proto ipv6-icmp type {kind}"),
    };
    format!("src {} dst {}{upper_layer} dir {direction}", key.selector.source, key.selector.destination)
}

/// The templates of a policy with a reqid that nobody has.
fn templates(policy: &SecurityPolicy) -> String {
    let one = |template: &kagemusha::ipsec::Template| {
        let (protocol, reqid) = match template.protocol {
            TemplateProtocol::Esp => ("esp", 9999),
            TemplateProtocol::HomeAddressOption => ("hao", 9999),
            TemplateProtocol::Type2RoutingHeader => ("route2", 9999),
        };
        let mode = match template.mode {
            Mode::Transport => "transport",
            Mode::Tunnel => "tunnel",
            Mode::RouteOptimization => "ro",
        };
        format!(
            " tmpl src {} dst {} proto {protocol} reqid {reqid} mode {mode} level required",
            template.source, template.destination
        )
    };
    policy.templates.iter().map(one).collect()
}
