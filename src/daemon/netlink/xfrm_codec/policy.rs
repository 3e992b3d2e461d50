//! Security policies.

use netlink_packet_core::{DecodeError, NlasIterator};
use netlink_packet_xfrm as nl;
use netlink_packet_xfrm::{XfrmAttrs, XfrmMessage};

use super::{address, parse_selector, policy_selector};
use crate::ipsec::{Action, Direction, Level, Mode, PolicyKey, SecurityPolicy, Template, TemplateProtocol};

/// A policy as observed.
pub(in super::super) enum ObservedPolicy {
    /// One that we could have made.
    Known(SecurityPolicy),
    /// One with a selector like ours, but contents we do not speak.
    Foreign(PolicyKey),
    /// One that we have no words for at all.
    Alien,
}

/// `NEWPOLICY` or `UPDPOLICY`.
pub(in super::super) fn put_policy(policy: &SecurityPolicy, update: bool) -> XfrmMessage {
    let mut message = nl::policy::ModifyMessage::default();
    let info = &mut message.user_policy_info;
    info.selector = policy_selector(&policy.key);
    info.priority = policy.key.priority;
    info.direction = direction(policy.key.direction);
    info.action = match policy.action {
        Action::Allow => nl::XFRM_POLICY_ALLOW,
        Action::Block => nl::XFRM_POLICY_BLOCK,
    };
    if !policy.templates.is_empty() {
        message.nlas.push(XfrmAttrs::Template(policy.templates.iter().map(template).collect()));
    }
    if update { XfrmMessage::UpdatePolicy(message) } else { XfrmMessage::AddPolicy(message) }
}

/// `DELPOLICY`.
pub(in super::super) fn delete_policy(key: &PolicyKey) -> XfrmMessage {
    let mut message = nl::policy::DelGetMessage::default();
    message.user_policy_id.selector = policy_selector(key);
    message.user_policy_id.direction = direction(key.direction);
    XfrmMessage::DeletePolicy(message)
}

pub(super) fn direction(direction: Direction) -> u8 {
    match direction {
        Direction::In => nl::XFRM_POLICY_IN,
        Direction::Out => nl::XFRM_POLICY_OUT,
        Direction::Forward => nl::XFRM_POLICY_FWD,
    }
}

pub(super) fn template(template: &Template) -> nl::UserTemplate {
    let proto = match template.protocol {
        TemplateProtocol::Esp => nl::IPPROTO_ESP,
        TemplateProtocol::HomeAddressOption => nl::IPPROTO_DSTOPTS,
        TemplateProtocol::Type2RoutingHeader => nl::IPPROTO_ROUTING,
    };
    nl::UserTemplate {
        id: nl::Id { daddr: address(template.destination), spi: 0, proto },
        family: nl::AF_INET6,
        saddr: address(template.source),
        reqid: template.reqid,
        mode: match template.mode {
            Mode::Transport => nl::XFRM_MODE_TRANSPORT,
            Mode::Tunnel => nl::XFRM_MODE_TUNNEL,
            Mode::RouteOptimization => nl::XFRM_MODE_ROUTEOPTIMIZATION,
        },
        optional: u8::from(template.level == Level::Use),
        ..Default::default()
    }
}

/// One policy of a dump. `Alien` when there is no name of ours for it.
///
/// # Errors
/// The message is shorter than its parts say.
pub(in super::super) fn parse_policy(payload: &[u8]) -> Result<ObservedPolicy, DecodeError> {
    let info = nl::UserPolicyInfo::parse(payload)?;
    let direction = match info.direction {
        nl::XFRM_POLICY_IN => Direction::In,
        nl::XFRM_POLICY_OUT => Direction::Out,
        nl::XFRM_POLICY_FWD => Direction::Forward,
        _ => return Ok(ObservedPolicy::Alien),
    };
    let Some(selector) = parse_selector(&info.selector) else { return Ok(ObservedPolicy::Alien) };
    let key = PolicyKey { direction, selector, priority: info.priority };
    if info.selector.user != policy_selector(&key).user {
        return Ok(ObservedPolicy::Alien);
    }
    let mut templates = vec![];
    let mut known = true;
    for attribute in NlasIterator::new(&payload[nl::XFRM_USER_POLICY_INFO_LEN..]) {
        let attribute = attribute?;
        let value = attribute.value();
        match attribute.kind() {
            nl::XFRMA_POLICY_TYPE if nl::UserPolicyType::parse(value)?.ptype != nl::XFRM_POLICY_TYPE_MAIN => {
                return Ok(ObservedPolicy::Alien);
            }
            // A mark or an interface id makes it another policy beside one with the same selector.
            nl::XFRMA_MARK | nl::XFRMA_IF_ID => return Ok(ObservedPolicy::Alien),
            nl::XFRMA_TMPL => {
                for chunk in value.chunks(nl::XFRM_USER_TEMPLATE_LEN) {
                    match parse_template(&nl::UserTemplate::parse(chunk)?) {
                        Some(template) => templates.push(template),
                        None => known = false,
                    }
                }
            }
            _ => {}
        }
    }
    let action = if info.action == nl::XFRM_POLICY_BLOCK { Action::Block } else { Action::Allow };
    Ok(if known {
        ObservedPolicy::Known(SecurityPolicy { key, action, templates })
    } else {
        ObservedPolicy::Foreign(key)
    })
}

fn parse_template(template: &nl::UserTemplate) -> Option<Template> {
    let (protocol, mode) = match (template.id.proto, template.mode) {
        (nl::IPPROTO_ESP, nl::XFRM_MODE_TRANSPORT) => (TemplateProtocol::Esp, Mode::Transport),
        (nl::IPPROTO_ESP, nl::XFRM_MODE_TUNNEL) => (TemplateProtocol::Esp, Mode::Tunnel),
        (nl::IPPROTO_DSTOPTS, nl::XFRM_MODE_ROUTEOPTIMIZATION) => {
            (TemplateProtocol::HomeAddressOption, Mode::RouteOptimization)
        }
        (nl::IPPROTO_ROUTING, nl::XFRM_MODE_ROUTEOPTIMIZATION) => {
            (TemplateProtocol::Type2RoutingHeader, Mode::RouteOptimization)
        }
        _ => return None,
    };
    (template.id.spi == 0).then_some(Template {
        source: template.saddr.to_ipv6(),
        destination: template.id.daddr.to_ipv6(),
        protocol,
        mode,
        reqid: template.reqid,
        level: if template.optional == 0 { Level::Required } else { Level::Use },
    })
}
