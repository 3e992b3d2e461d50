//! Values of RFC 4301 to XFRM netlink messages and back.
//!
//! The message types of netlink-packet-xfrm index their input unchecked, so only its structures with a length check are
//! used for parsing, one attribute at a time. What the kernel reports is not always what was asked: an authentication
//! algorithm comes back both with and without its truncation, a replay window above 32 in another attribute.

use std::net::Ipv6Addr;

use netlink_packet_core::{DecodeError, NlasIterator};
use netlink_packet_xfrm as nl;
use netlink_packet_xfrm::{Alg, AlgAead, AlgAuth, XfrmAttrs, XfrmMessage};
use zeroize::Zeroize;

use crate::ipsec::{
    Action, AssociationKey, Direction, Encryption, Integrity, Level, Mode, PolicyKey, ReplayState, SecretKey,
    SecurityAssociation, SecurityPolicy, Selector, Template, TemplateProtocol, Transform, UpperLayer,
};
use crate::vocabulary::Prefix;

/// Largest replay window of the plain bitmap (`struct xfrm_replay_state`).
const PLAIN_REPLAY_WINDOW: u32 = 32;
const NAME_LENGTH: usize = 64;

/// An association as observed.
pub(super) enum ObservedAssociation {
    /// One that we could have made.
    Known(SecurityAssociation),
    /// One with contents we do not speak.
    Foreign(AssociationKey),
}

/// A policy as observed.
pub(super) enum ObservedPolicy {
    /// One that we could have made.
    Known(SecurityPolicy),
    /// One with a selector like ours, but contents we do not speak.
    Foreign(PolicyKey),
    /// One that we have no words for at all.
    Alien,
}

fn name_field(name: &str) -> [u8; NAME_LENGTH] {
    let mut field = [0; NAME_LENGTH];
    for (to, from) in field.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    field
}

fn is_name(field: &[u8; NAME_LENGTH], name: &str) -> bool {
    field.split(|b| *b == 0).next() == Some(name.as_bytes())
}

fn bits(key: &SecretKey) -> u32 {
    u32::try_from(key.length() * 8).unwrap_or(u32::MAX)
}

fn address(address: Ipv6Addr) -> nl::Address {
    nl::Address::from_ipv6(&address)
}

/// `NEWSA` of an ESP SA that goes on with sequence numbers used before. What was received up to `replay.input` counts as seen.
pub(super) fn add_association(sa: &SecurityAssociation, replay: ReplayState) -> XfrmMessage {
    let mut message = put_association(sa, false);
    if let (XfrmMessage::AddSa(add), true) = (&mut message, replay != ReplayState::default()) {
        let state = nl::Replay { oseq: replay.output, seq: replay.input, bitmap: u32::MAX };
        add.nlas.push(XfrmAttrs::ReplayState(state));
    }
    message
}

/// `NEWSA` or `UPDSA`.
pub(super) fn put_association(sa: &SecurityAssociation, update: bool) -> XfrmMessage {
    let mut message = nl::state::ModifyMessage::default();
    let info = &mut message.user_sa_info;
    info.id = nl::Id { daddr: address(sa.key.destination), spi: sa.key.spi, proto: sa.key.protocol };
    info.saddr = address(sa.key.source);
    info.family = nl::AF_INET6;
    info.selector.family = nl::AF_INET6;
    match &sa.transform {
        Transform::EspTransport { reqid, encryption, integrity, replay_window } => {
            info.mode = nl::XFRM_MODE_TRANSPORT;
            info.reqid = *reqid;
            algorithms(&mut message.nlas, encryption, integrity.as_ref());
            if *replay_window <= PLAIN_REPLAY_WINDOW {
                info.replay_window = u8::try_from(*replay_window).unwrap_or(0);
            } else {
                let words = replay_window.div_ceil(32);
                message.nlas.push(XfrmAttrs::ReplayStateEsn(nl::ReplayEsn {
                    bmp_len: words,
                    replay_window: *replay_window,
                    bmp: vec![0; words as usize],
                    ..Default::default()
                }));
            }
        }
        Transform::RouteOptimization { care_of_address, wildcard } => {
            info.mode = nl::XFRM_MODE_ROUTEOPTIMIZATION;
            if *wildcard {
                info.flags = nl::XFRM_STATE_WILDRECV;
            } else {
                info.selector = selector(&Selector {
                    source: Prefix::host(sa.key.source),
                    destination: Prefix::host(sa.key.destination),
                    upper_layer: UpperLayer::Any,
                });
            }
            message.nlas.push(XfrmAttrs::CareOfAddr(address(*care_of_address)));
        }
    }
    if update { XfrmMessage::UpdateSa(message) } else { XfrmMessage::AddSa(message) }
}

fn algorithms(
    nlas: &mut Vec<XfrmAttrs>,
    encryption: &(Encryption, SecretKey),
    integrity: Option<&(Integrity, SecretKey)>,
) {
    let (algorithm, key) = encryption;
    let alg_name = name_field(algorithm.kernel_name());
    let (alg_key_len, alg_key) = (bits(key), key.expose().to_vec());
    nlas.push(match algorithm.icv_bits() {
        None => XfrmAttrs::EncryptionAlg(Alg { alg_name, alg_key_len, alg_key }),
        Some(alg_icv_len) => XfrmAttrs::EncryptionAlgAead(AlgAead { alg_name, alg_key_len, alg_icv_len, alg_key }),
    });
    if let Some((algorithm, key)) = integrity {
        nlas.push(XfrmAttrs::AuthenticationAlgTrunc(AlgAuth {
            alg_name: name_field(algorithm.kernel_name()),
            alg_key_len: bits(key),
            alg_trunc_len: algorithm.icv_bits(),
            alg_key: key.expose().to_vec(),
        }));
    }
}

/// Wipes the keys out of a message that was sent.
pub(super) fn wipe(message: &mut XfrmMessage) {
    let (XfrmMessage::AddSa(message) | XfrmMessage::UpdateSa(message)) = message else { return };
    for attribute in &mut message.nlas {
        match attribute {
            XfrmAttrs::EncryptionAlg(a) | XfrmAttrs::AuthenticationAlg(a) => a.alg_key.zeroize(),
            XfrmAttrs::EncryptionAlgAead(a) => a.alg_key.zeroize(),
            XfrmAttrs::AuthenticationAlgTrunc(a) => a.alg_key.zeroize(),
            _ => {}
        }
    }
}

/// `DELSA`. Route optimization states have no SPI and are found by both addresses.
pub(super) fn delete_association(key: &AssociationKey) -> XfrmMessage {
    let user_sa_id =
        nl::UserSaId { daddr: address(key.destination), spi: key.spi, family: nl::AF_INET6, proto: key.protocol };
    let message = nl::state::DelGetMessage { user_sa_id, nlas: vec![XfrmAttrs::SrcAddr(address(key.source))] };
    XfrmMessage::DeleteSa(message)
}

/// `NEWPOLICY` or `UPDPOLICY`.
pub(super) fn put_policy(policy: &SecurityPolicy, update: bool) -> XfrmMessage {
    let mut message = nl::policy::ModifyMessage::default();
    let info = &mut message.user_policy_info;
    info.selector = selector(&policy.key.selector);
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
pub(super) fn delete_policy(key: &PolicyKey) -> XfrmMessage {
    let mut message = nl::policy::DelGetMessage::default();
    message.user_policy_id.selector = selector(&key.selector);
    message.user_policy_id.direction = direction(key.direction);
    XfrmMessage::DeletePolicy(message)
}

fn direction(direction: Direction) -> u8 {
    match direction {
        Direction::In => nl::XFRM_POLICY_IN,
        Direction::Out => nl::XFRM_POLICY_OUT,
        Direction::Forward => nl::XFRM_POLICY_FWD,
    }
}

fn template(template: &Template) -> nl::UserTemplate {
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
            Mode::RouteOptimization => nl::XFRM_MODE_ROUTEOPTIMIZATION,
        },
        optional: u8::from(template.level == Level::Use),
        ..Default::default()
    }
}

fn selector(selector: &Selector) -> nl::Selector {
    let mut out = nl::Selector {
        daddr: address(selector.destination.address()),
        saddr: address(selector.source.address()),
        family: nl::AF_INET6,
        prefixlen_d: selector.destination.length(),
        prefixlen_s: selector.source.length(),
        ..Default::default()
    };
    match selector.upper_layer {
        UpperLayer::Any => {}
        UpperLayer::Protocol(number) => out.proto = number,
        UpperLayer::MobilityHeader(kind) => {
            (out.proto, out.sport, out.sport_mask) = (nl::IPPROTO_MH, u16::from(kind), u16::MAX);
        }
        UpperLayer::Icmpv6(kind) => {
            (out.proto, out.sport, out.sport_mask) = (nl::IPPROTO_ICMPV6, u16::from(kind), u16::MAX);
        }
    }
    out
}

fn parse_selector(selector: &nl::Selector) -> Option<Selector> {
    let plain = selector.dport_mask == 0 && selector.ifindex == 0 && selector.user == 0;
    if selector.family != nl::AF_INET6 || !plain {
        return None;
    }
    let upper_layer = match (selector.proto, selector.sport_mask, u8::try_from(selector.sport)) {
        (0, 0, _) => UpperLayer::Any,
        (number, 0, _) => UpperLayer::Protocol(number),
        (nl::IPPROTO_MH, u16::MAX, Ok(kind)) => UpperLayer::MobilityHeader(kind),
        (nl::IPPROTO_ICMPV6, u16::MAX, Ok(kind)) => UpperLayer::Icmpv6(kind),
        _ => return None,
    };
    Some(Selector {
        source: Prefix::of(selector.saddr.to_ipv6(), selector.prefixlen_s),
        destination: Prefix::of(selector.daddr.to_ipv6(), selector.prefixlen_d),
        upper_layer,
    })
}

/// One policy of a dump. `Alien` when there is no name of ours for it.
///
/// # Errors
/// The message is shorter than its parts say.
pub(super) fn parse_policy(payload: &[u8]) -> Result<ObservedPolicy, DecodeError> {
    let info = nl::UserPolicyInfo::parse(payload)?;
    let direction = match info.direction {
        nl::XFRM_POLICY_IN => Direction::In,
        nl::XFRM_POLICY_OUT => Direction::Out,
        nl::XFRM_POLICY_FWD => Direction::Forward,
        _ => return Ok(ObservedPolicy::Alien),
    };
    let Some(selector) = parse_selector(&info.selector) else { return Ok(ObservedPolicy::Alien) };
    let key = PolicyKey { direction, selector, priority: info.priority };
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

/// One association of a dump; `None` when it is not one of IPv6.
///
/// # Errors
/// The message is shorter than its parts say.
pub(super) fn parse_association(payload: &[u8]) -> Result<Option<ObservedAssociation>, DecodeError> {
    let info = nl::UserSaInfo::parse(payload)?;
    if info.family != nl::AF_INET6 {
        return Ok(None);
    }
    let key = AssociationKey {
        source: info.saddr.to_ipv6(),
        destination: info.id.daddr.to_ipv6(),
        protocol: info.id.proto,
        spi: info.id.spi,
    };
    let attributes = Attributes::parse(&payload[nl::XFRM_USER_SA_INFO_LEN..])?;
    Ok(Some(match attributes.transform(&info) {
        Some(transform) => ObservedAssociation::Known(SecurityAssociation { key, transform }),
        None => ObservedAssociation::Foreign(key),
    }))
}

/// Where the sequence numbers of one ESP association of a dump stand; `None` for what is not ESP over IPv6.
///
/// # Errors
/// The message is shorter than its parts say.
pub(super) fn parse_replay_state(payload: &[u8]) -> Result<Option<(AssociationKey, ReplayState)>, DecodeError> {
    let info = nl::UserSaInfo::parse(payload)?;
    if info.family != nl::AF_INET6 || info.id.proto != nl::IPPROTO_ESP {
        return Ok(None);
    }
    let key = AssociationKey {
        source: info.saddr.to_ipv6(),
        destination: info.id.daddr.to_ipv6(),
        protocol: info.id.proto,
        spi: info.id.spi,
    };
    let mut replay = ReplayState::default();
    for attribute in NlasIterator::new(&payload[nl::XFRM_USER_SA_INFO_LEN..]) {
        let attribute = attribute?;
        let value = attribute.value();
        if attribute.kind() == nl::XFRMA_REPLAY_VAL && value.len() >= nl::XFRM_REPLAY_LEN {
            let state = nl::Replay::parse(value)?;
            replay = ReplayState { output: state.oseq, input: state.seq };
        }
    }
    Ok(Some((key, replay)))
}

/// The attributes of an SA that matter. Keys move into [`SecretKey`] at once.
#[derive(Default)]
struct Attributes {
    encryption: Option<(Encryption, SecretKey)>,
    integrity: Option<(Integrity, SecretKey)>,
    care_of_address: Option<Ipv6Addr>,
    replay_window: Option<u32>,
    foreign: bool,
}

impl Attributes {
    fn parse(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut out = Self::default();
        for attribute in NlasIterator::new(bytes) {
            let attribute = attribute?;
            let value = attribute.value();
            match attribute.kind() {
                nl::XFRMA_ALG_CRYPT => {
                    let Alg { alg_name, alg_key, .. } = Alg::parse(value)?;
                    out.set_encryption(&alg_name, None, alg_key);
                }
                nl::XFRMA_ALG_AEAD => {
                    let AlgAead { alg_name, alg_icv_len, alg_key, .. } = AlgAead::parse(value)?;
                    out.set_encryption(&alg_name, Some(alg_icv_len), alg_key);
                }
                nl::XFRMA_ALG_AUTH_TRUNC => {
                    let AlgAuth { alg_name, alg_trunc_len, alg_key, .. } = AlgAuth::parse(value)?;
                    let key = SecretKey::new(alg_key);
                    let same = |a: &Integrity| is_name(&alg_name, a.kernel_name()) && alg_trunc_len == a.icv_bits();
                    let algorithm = Integrity::ALL.into_iter().find(same);
                    out.foreign |= algorithm.is_none();
                    out.integrity = algorithm.map(|algorithm| (algorithm, key));
                }
                nl::XFRMA_COADDR => out.care_of_address = Some(nl::Address::parse(value)?.to_ipv6()),
                nl::XFRMA_REPLAY_ESN_VAL if value.len() >= nl::XFRM_REPLAY_ESN_LEN => {
                    out.replay_window = Some(nl::ReplayEsn::parse(value)?.replay_window);
                }
                // The kernel repeats the algorithm without its truncation in XFRMA_ALG_AUTH.
                nl::XFRMA_ALG_COMP | nl::XFRMA_ENCAP | nl::XFRMA_MARK | nl::XFRMA_IF_ID | nl::XFRMA_OFFLOAD_DEV => {
                    out.foreign = true;
                }
                _ => {}
            }
        }
        Ok(out)
    }

    fn set_encryption(&mut self, name: &[u8; NAME_LENGTH], icv_bits: Option<u32>, key: Vec<u8>) {
        let key = SecretKey::new(key);
        let same = |a: &Encryption| is_name(name, a.kernel_name()) && icv_bits == a.icv_bits();
        let algorithm = Encryption::ALL.into_iter().find(same);
        self.foreign |= algorithm.is_none();
        self.encryption = algorithm.map(|algorithm| (algorithm, key));
    }

    fn transform(self, info: &nl::UserSaInfo) -> Option<Transform> {
        if self.foreign {
            return None;
        }
        match (info.id.proto, info.mode) {
            (nl::IPPROTO_ESP, nl::XFRM_MODE_TRANSPORT) if info.flags & !nl::XFRM_STATE_AF_UNSPEC == 0 => {
                Some(Transform::EspTransport {
                    reqid: info.reqid,
                    encryption: self.encryption?,
                    integrity: self.integrity,
                    replay_window: self.replay_window.unwrap_or(u32::from(info.replay_window)),
                })
            }
            (nl::IPPROTO_DSTOPTS | nl::IPPROTO_ROUTING, nl::XFRM_MODE_ROUTEOPTIMIZATION) => {
                Some(Transform::RouteOptimization {
                    // A larval state, made by an ACQUIRE, has none; it differs from any wanted one and is updated.
                    care_of_address: self.care_of_address.unwrap_or(Ipv6Addr::UNSPECIFIED),
                    wildcard: info.flags & nl::XFRM_STATE_WILDRECV != 0,
                })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::Emitable;
    use proptest::prelude::*;

    #[test]
    fn sequence_numbers_go_into_the_kernel_and_come_back() {
        let sa = associations().into_iter().find(|sa| sa.key.protocol == nl::IPPROTO_ESP).unwrap();
        let replay = ReplayState { output: 70_000, input: 12 };
        let read = parse_replay_state(&bytes(&add_association(&sa, replay))).unwrap();
        assert_eq!(read, Some((sa.key, replay)));
        let fresh = bytes(&add_association(&sa, ReplayState::default()));
        assert_eq!(fresh, bytes(&put_association(&sa, false)));
        for length in 0..fresh.len() {
            let _ = parse_replay_state(&fresh[..length]);
        }
    }

    fn bytes(message: &XfrmMessage) -> Vec<u8> {
        let mut out = vec![0; message.buffer_len()];
        message.emit(&mut out);
        out
    }

    fn associations() -> Vec<SecurityAssociation> {
        let (source, destination) = ("2001:db8::10".parse().unwrap(), "2001:db8::1".parse().unwrap());
        let key = |protocol, spi| AssociationKey { source, destination, protocol, spi };
        let esp = |encryption, integrity, replay_window| SecurityAssociation {
            key: key(50, 1000),
            transform: Transform::EspTransport { reqid: 7, encryption, integrity, replay_window },
        };
        let secret = |length| SecretKey::new((0..length).collect());
        let cbc = || (Encryption::AesCbc, secret(32));
        let any = Ipv6Addr::UNSPECIFIED;
        let ro = |key, care_of_address, wildcard| SecurityAssociation {
            key,
            transform: Transform::RouteOptimization { care_of_address, wildcard },
        };
        vec![
            esp(cbc(), Some((Integrity::HmacSha256, secret(32))), 0),
            esp(cbc(), Some((Integrity::HmacSha1, secret(20))), 32),
            esp((Encryption::AesGcm16, secret(20)), None, 33),
            esp((Encryption::AesGcm16, secret(36)), None, 4096),
            esp((Encryption::ChaCha20Poly1305, secret(36)), None, 32),
            esp(cbc(), Some((Integrity::HmacSha384, secret(48))), 32),
            esp(cbc(), Some((Integrity::HmacSha512, secret(64))), 32),
            esp((Encryption::TripleDesCbc, secret(24)), Some((Integrity::HmacMd5, secret(16))), 32),
            esp((Encryption::DesCbc, secret(8)), Some((Integrity::HmacSha256Short, secret(32))), 32),
            esp((Encryption::Null, secret(0)), Some((Integrity::HmacSha256, secret(32))), 32),
            ro(key(60, 0), "2001:db8:3::3".parse().unwrap(), false),
            ro(key(43, 0), "2001:db8:3::3".parse().unwrap(), false),
            ro(AssociationKey { source: any, destination: any, protocol: 60, spi: 0 }, any, true),
        ]
    }

    /// What the kernel is told is what is read back, since its dumps have the form of its requests.
    #[test]
    fn associations_come_back() {
        for sa in associations() {
            let read = parse_association(&bytes(&put_association(&sa, false))).unwrap();
            assert!(matches!(read, Some(ObservedAssociation::Known(read)) if read == sa), "{sa:?}");
        }
    }

    /// The kernel adds the algorithm without its truncation, in either order.
    #[test]
    fn the_short_form_of_the_authentication_algorithm_is_passed_over() {
        let sa = &associations()[0];
        let XfrmMessage::AddSa(mut message) = put_association(sa, false) else { panic!() };
        let (alg_name, alg_key) = (name_field("hmac(sha256)"), (0..32).collect());
        message.nlas.insert(0, XfrmAttrs::AuthenticationAlg(Alg { alg_name, alg_key_len: 256, alg_key }));
        let read = parse_association(&bytes(&XfrmMessage::AddSa(message))).unwrap();
        assert!(matches!(read, Some(ObservedAssociation::Known(read)) if read == *sa));
    }

    /// A truncation that no policy can ask for is another algorithm.
    #[test]
    fn another_truncation_is_foreign() {
        let XfrmMessage::AddSa(mut message) = put_association(&associations()[0], false) else { panic!() };
        for attribute in &mut message.nlas {
            if let XfrmAttrs::AuthenticationAlgTrunc(algorithm) = attribute {
                algorithm.alg_trunc_len = 64;
            }
        }
        let read = parse_association(&bytes(&XfrmMessage::AddSa(message))).unwrap();
        assert!(matches!(read, Some(ObservedAssociation::Foreign(key)) if key == associations()[0].key));
    }

    fn policies() -> Vec<SecurityPolicy> {
        let template = |protocol, mode, reqid, level| Template {
            source: "2001:db8::10".parse().unwrap(),
            destination: Ipv6Addr::UNSPECIFIED,
            protocol,
            mode,
            reqid,
            level,
        };
        let templates = vec![
            template(TemplateProtocol::Esp, Mode::Transport, 9, Level::Required),
            template(TemplateProtocol::HomeAddressOption, Mode::RouteOptimization, 0, Level::Use),
            template(TemplateProtocol::Type2RoutingHeader, Mode::RouteOptimization, 0, Level::Required),
        ];
        let mut out = vec![];
        for direction in [Direction::In, Direction::Out, Direction::Forward] {
            for upper_layer in [
                UpperLayer::Any,
                UpperLayer::Protocol(135),
                UpperLayer::MobilityHeader(0),
                UpperLayer::MobilityHeader(5),
                UpperLayer::Icmpv6(146),
            ] {
                let source = Prefix::host("2001:db8::10".parse().unwrap());
                let selector = Selector { source, destination: Prefix::ANY, upper_layer };
                let key = PolicyKey { direction, selector, priority: 0x4b10 };
                out.push(SecurityPolicy { key, action: Action::Block, templates: vec![] });
                out.push(SecurityPolicy { key, action: Action::Allow, templates: templates.clone() });
            }
        }
        out
    }

    #[test]
    fn policies_come_back() {
        for policy in policies() {
            let read = parse_policy(&bytes(&put_policy(&policy, true))).unwrap();
            assert!(matches!(read, ObservedPolicy::Known(read) if read == policy), "{policy:?}");
        }
    }

    #[test]
    fn policies_that_we_have_no_words_for_are_not_taken_for_ours() {
        let read = |change: &dyn Fn(&mut nl::policy::ModifyMessage)| {
            let XfrmMessage::AddPolicy(mut message) = put_policy(&policies()[3], false) else { panic!() };
            change(&mut message);
            parse_policy(&bytes(&XfrmMessage::AddPolicy(message))).unwrap()
        };
        let sub = XfrmAttrs::PolicyType(nl::UserPolicyType { ptype: nl::XFRM_POLICY_TYPE_SUB, ..Default::default() });
        assert!(matches!(read(&|m| m.nlas.push(sub.clone())), ObservedPolicy::Alien));
        assert!(matches!(read(&|m| m.nlas.push(XfrmAttrs::IfId(3))), ObservedPolicy::Alien));
        assert!(matches!(read(&|m| m.user_policy_info.selector.ifindex = 3), ObservedPolicy::Alien));
        assert!(matches!(read(&|m| m.user_policy_info.selector.sport_mask = 0xff), ObservedPolicy::Alien));
        let tunnel = nl::UserTemplate { mode: nl::XFRM_MODE_TUNNEL, ..template(&policies()[1].templates[0]) };
        assert!(matches!(read(&|m| m.nlas.push(XfrmAttrs::Template(vec![tunnel]))), ObservedPolicy::Foreign(_)));
    }

    #[test]
    fn keys_are_wiped_from_messages() {
        for sa in associations() {
            let mut message = put_association(&sa, false);
            wipe(&mut message);
            let (before, after) = (bytes(&put_association(&sa, false)), bytes(&message));
            let Transform::EspTransport { encryption, .. } = &sa.transform else { continue };
            if encryption.1.length() == 0 {
                continue;
            }
            let holds = |bytes: &[u8]| bytes.windows(encryption.1.length()).any(|w| w == encryption.1.expose());
            assert!(holds(&before) && !holds(&after), "{sa:?}");
        }
    }

    /// No length of a good message and no octets at all make the parsers panic.
    #[test]
    fn cut_messages_do_not_panic() {
        let messages = associations().iter().map(|a| put_association(a, false)).collect::<Vec<_>>();
        for bytes in messages.iter().map(bytes).chain(policies().iter().map(|p| bytes(&put_policy(p, false)))) {
            for cut in 0..bytes.len() {
                let _ = (parse_association(&bytes[..cut]), parse_policy(&bytes[..cut]));
            }
        }
    }

    proptest! {
        #[test]
        fn no_octets_make_the_parsers_panic(head in any::<[u8; 32]>(), tail in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = (parse_association(&tail), parse_policy(&tail));
            // A good beginning, so that the attributes are reached.
            let mut good = bytes(&put_association(&associations()[0], false));
            good.truncate(nl::XFRM_USER_SA_INFO_LEN);
            good.extend(head.iter().chain(&tail));
            let _ = parse_association(&good);
            let mut good = bytes(&put_policy(&policies()[0], false));
            good.truncate(nl::XFRM_USER_POLICY_INFO_LEN);
            good.extend(head.iter().chain(&tail));
            let _ = parse_policy(&good);
        }
    }
}
