//! How steps read in logs and errors: object and name, never a key.

use std::fmt;

use super::object::{LinkKind, Route, RouteKey, RouteKind, Rule};
use super::plan::{Migration, Step};
use super::shadow::Shadow;
use super::{FAILSAFE_PRIORITY, protocol};
use crate::ipsec::{
    Action, AssociationKey, Direction, Level, Mode, PolicyKey, SecurityAssociation, SecurityPolicy, Selector,
    TemplateProtocol, Transform, UpperLayer,
};

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddPolicy(policy) => write!(f, "add {}", Policy(policy)),
            Self::UpdatePolicy(policy) => write!(f, "update {}", Policy(policy)),
            Self::RemovePolicy(key) => write!(f, "remove {}", PolicyName(key)),
            Self::AddAssociation(sa) => write!(f, "add {}", Association(sa)),
            Self::UpdateAssociation(sa) => write!(f, "update {}", Association(sa)),
            Self::ReplaceAssociation(sa) => write!(f, "replace {}", Association(sa)),
            Self::RemoveAssociation(key) => write!(f, "remove {}", AssociationName(key)),
            Self::Migrate(Migration { policy, from, to, .. }) => {
                write!(f, "migrate {} from {} → {} to {} → {}", PolicyName(policy), from.0, from.1, to.0, to.1)
            }
            Self::MoveAssociation { from, to } => write!(f, "move {} to {}", AssociationName(from), Association(to)),
            Self::AddLink(link) => write!(f, "add link {} ({})", link.name, Kind(&link.kind)),
            Self::UpdateLink(link) => write!(f, "update link {} ({})", link.name, Kind(&link.kind)),
            Self::RemoveLink(name) => write!(f, "remove link {name}"),
            Self::SetAddress(address) => write!(f, "set home address {}", address.address),
            Self::RemoveAddress(address) => write!(f, "remove home address {address}"),
            Self::AddRoute(route) => write!(f, "add {route}"),
            Self::RemoveRoute(key) => write!(f, "remove {key}"),
            Self::AddRule(rule) => write!(f, "add {rule}"),
            Self::RemoveRule(rule) => write!(f, "remove {rule}"),
        }
    }
}

impl fmt::Display for Shadow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ours, theirs, priority) = (PolicyName(&self.ours), PolicyName(&self.theirs), self.theirs.priority);
        write!(
            f,
            "the {theirs} with priority {priority}, of another program, comes before our {ours}; take it out, or give it a \
             priority above {FAILSAFE_PRIORITY}"
        )
    }
}

struct Policy<'a>(&'a SecurityPolicy);
struct PolicyName<'a>(&'a PolicyKey);
struct Association<'a>(&'a SecurityAssociation);
struct AssociationName<'a>(&'a AssociationKey);
struct Kind<'a>(&'a LinkKind);
struct Traffic<'a>(&'a Selector);

impl fmt::Display for Policy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", PolicyName(&self.0.key))?;
        match self.0.action {
            Action::Block => return f.write_str("block"),
            Action::Allow if self.0.templates.is_empty() => return f.write_str("allow in clear"),
            Action::Allow => {}
        }
        for (index, template) in self.0.templates.iter().enumerate() {
            f.write_str(if index == 0 { "" } else { ", then " })?;
            match template.protocol {
                TemplateProtocol::Esp if template.mode == Mode::Tunnel => {
                    write!(f, "ESP tunnel {} → {} reqid {}", template.source, template.destination, template.reqid)?;
                }
                TemplateProtocol::Esp => write!(f, "ESP reqid {}", template.reqid)?,
                TemplateProtocol::HomeAddressOption => f.write_str("Home Address option")?,
                TemplateProtocol::Type2RoutingHeader => f.write_str("type 2 routing header")?,
            }
            if template.level == Level::Use {
                f.write_str(" if there is one")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for PolicyName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.0.priority == FAILSAFE_PRIORITY { "failsafe" } else { "security" };
        let direction = match self.0.direction {
            Direction::In => "in",
            Direction::Out => "out",
            Direction::Forward => "forward",
        };
        write!(f, "{kind} policy {direction} {} priority {:#x}", Traffic(&self.0.selector), self.0.priority)
    }
}

impl fmt::Display for Traffic<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} → {}", self.0.source, self.0.destination)?;
        match self.0.upper_layer {
            UpperLayer::Any => Ok(()),
            UpperLayer::Protocol(protocol::MOBILITY) => f.write_str(" mobility headers"),
            UpperLayer::Protocol(number) => write!(f, " protocol {number}"),
            UpperLayer::MobilityHeader(kind) => write!(f, " mobility header type {kind}"),
            UpperLayer::Icmpv6(kind) => write!(f, " ICMPv6 type {kind}"),
        }
    }
}

impl fmt::Display for Association<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        AssociationName(&self.0.key).fmt(f)?;
        match &self.0.transform {
            Transform::Esp(esp) => write!(f, " {} reqid {}", esp.mode.name(), esp.reqid),
            Transform::RouteOptimization { wildcard: true, .. } => f.write_str(" for any care-of address"),
            Transform::RouteOptimization { care_of_address, .. } => write!(f, " care-of address {care_of_address}"),
        }
    }
}

impl fmt::Display for AssociationName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.protocol {
            protocol::ESP => write!(f, "ESP SA {:#x}", self.0.spi)?,
            protocol::DESTINATION_OPTIONS => f.write_str("Home Address option state")?,
            protocol::ROUTING => f.write_str("type 2 routing header state")?,
            other => write!(f, "state of protocol {other} SPI {:#x}", self.0.spi)?,
        }
        write!(f, " {} → {}", self.0.source, self.0.destination)
    }
}

impl fmt::Display for Kind<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            LinkKind::Dummy => f.write_str("dummy"),
            LinkKind::Ipv6InIpv6 { local, remote } => write!(f, "ip6tnl ip6ip6 local {local} remote {remote}"),
            LinkKind::Other(kind) => f.write_str(kind),
        }
    }
}

impl fmt::Display for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            RouteKind::Unicast => "route",
            RouteKind::Local => "local route",
        };
        write!(f, "{kind} {} dev {} table {} metric {}", self.destination, self.device, self.table, self.metric)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.key.fmt(f)?;
        match self.preferred_source {
            Some(source) => write!(f, " src {source}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {:#x} from {} to {}", self.preference, self.source, self.destination)?;
        if let Some(input) = &self.input {
            write!(f, " iif {input}")?;
        }
        if let Some(number) = self.upper_layer {
            write!(f, " ipproto {number}")?;
        }
        write!(f, " lookup {}", self.table)
    }
}
