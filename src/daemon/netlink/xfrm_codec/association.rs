//! Security associations.

use std::net::Ipv6Addr;

use netlink_packet_core::{DecodeError, NlasIterator};
use netlink_packet_xfrm as nl;
use netlink_packet_xfrm::{Alg, AlgAead, AlgAuth, XfrmAttrs, XfrmMessage};
use zeroize::Zeroize;

use super::replay::{self, PLAIN_REPLAY_WINDOW};
use super::{address, association_key, parse_selector, selector};
use crate::ipsec::{
    AssociationKey, AssociationLifetime, Encryption, Esp, EspMode, Integrity, Limits, ReplayState, SecretKey,
    SecurityAssociation, Selector, Transform, UpperLayer,
};
use crate::vocabulary::Prefix;

const NAME_LENGTH: usize = 64;

/// An association as observed.
pub(in super::super) enum ObservedAssociation {
    /// One that we could have made.
    Known(SecurityAssociation),
    /// One with contents we do not speak.
    Foreign(AssociationKey),
}

pub(super) fn name_field(name: &str) -> [u8; NAME_LENGTH] {
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

/// `NEWSA` of an ESP SA that goes on with sequence numbers used before. What was received up to `replay.input` counts as seen.
pub(in super::super) fn add_association(sa: &SecurityAssociation, replay: ReplayState) -> XfrmMessage {
    message(sa, replay, false)
}

/// `NEWSA` or `UPDSA`.
pub(in super::super) fn put_association(sa: &SecurityAssociation, update: bool) -> XfrmMessage {
    message(sa, ReplayState::default(), update)
}

fn message(sa: &SecurityAssociation, replay: ReplayState, update: bool) -> XfrmMessage {
    let mut message = nl::state::ModifyMessage::default();
    let info = &mut message.user_sa_info;
    info.id = nl::Id { daddr: address(sa.key.destination), spi: sa.key.spi, proto: sa.key.protocol };
    info.saddr = address(sa.key.source);
    info.family = nl::AF_INET6;
    info.selector.family = nl::AF_INET6;
    match &sa.transform {
        Transform::Esp(esp) => {
            info.mode = match esp.mode {
                EspMode::Transport => {
                    info.selector = selector(&between_its_ends(&sa.key));
                    nl::XFRM_MODE_TRANSPORT
                }
                EspMode::Tunnel => nl::XFRM_MODE_TUNNEL,
            };
            info.reqid = esp.reqid;
            info.lifetime_cfg = lifetime(&esp.lifetime);
            algorithms(&mut message.nlas, &esp.encryption, esp.integrity.as_ref());
            if esp.extended_sequence_numbers {
                info.flags |= nl::XFRM_STATE_ESN;
            }
            match replay::attribute(esp, replay) {
                Some(attribute @ XfrmAttrs::ReplayStateEsn(_)) => message.nlas.push(attribute),
                plain => {
                    info.replay_window = u8::try_from(esp.replay_window.min(PLAIN_REPLAY_WINDOW)).unwrap_or(0);
                    message.nlas.extend(plain);
                }
            }
        }
        Transform::RouteOptimization { care_of_address, wildcard } => {
            info.mode = nl::XFRM_MODE_ROUTEOPTIMIZATION;
            if *wildcard {
                info.flags = nl::XFRM_STATE_WILDRECV;
            } else {
                info.selector = selector(&between_its_ends(&sa.key));
            }
            message.nlas.push(XfrmAttrs::CareOfAddr(address(*care_of_address)));
        }
    }
    if update { XfrmMessage::UpdateSa(message) } else { XfrmMessage::AddSa(message) }
}

/// What an SA that is no tunnel is for. Received packets the kernel looks up by destination and SPI alone, and then asks the policy for the reqid; so
/// without a selector another guest's SA, if it has the same reqid, would do for this one's packets (RFC 4301 §5.2, step 4; measured on 6.1,
/// 6.12 and 7.2).
fn between_its_ends(key: &AssociationKey) -> Selector {
    let (source, destination) = (Prefix::host(key.source), Prefix::host(key.destination));
    Selector { source, destination, upper_layer: UpperLayer::Any }
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

/// In the kernel's words: no limit is the largest number of octets and packets, and 0 seconds.
fn lifetime(lifetime: &AssociationLifetime) -> nl::LifetimeConfig {
    let count = |limit: Option<u64>| limit.unwrap_or(nl::XFRM_INF);
    let AssociationLifetime { soft, hard } = lifetime;
    nl::LifetimeConfig {
        soft_byte_limit: count(soft.bytes),
        hard_byte_limit: count(hard.bytes),
        soft_packet_limit: count(soft.packets),
        hard_packet_limit: count(hard.packets),
        soft_add_expires_seconds: soft.seconds.unwrap_or(0),
        hard_add_expires_seconds: hard.seconds.unwrap_or(0),
        soft_use_expires_seconds: 0,
        hard_use_expires_seconds: 0,
    }
}

/// None for limits since the first use, which no policy can ask for.
fn parse_lifetime(lifetime: &nl::LifetimeConfig) -> Option<AssociationLifetime> {
    let count = |limit| (limit != nl::XFRM_INF).then_some(limit);
    let seconds = |limit| (limit != 0).then_some(limit);
    let by_use = lifetime.soft_use_expires_seconds != 0 || lifetime.hard_use_expires_seconds != 0;
    (!by_use).then_some(AssociationLifetime {
        soft: Limits {
            bytes: count(lifetime.soft_byte_limit),
            packets: count(lifetime.soft_packet_limit),
            seconds: seconds(lifetime.soft_add_expires_seconds),
        },
        hard: Limits {
            bytes: count(lifetime.hard_byte_limit),
            packets: count(lifetime.hard_packet_limit),
            seconds: seconds(lifetime.hard_add_expires_seconds),
        },
    })
}

/// Wipes the keys out of a message that was sent.
pub(in super::super) fn wipe(message: &mut XfrmMessage) {
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
pub(in super::super) fn delete_association(key: &AssociationKey) -> XfrmMessage {
    XfrmMessage::DeleteSa(name(key))
}

/// `GETSA` of one association.
pub(in super::super) fn get_association(key: &AssociationKey) -> XfrmMessage {
    XfrmMessage::GetSa(name(key))
}

fn name(key: &AssociationKey) -> nl::state::DelGetMessage {
    let user_sa_id =
        nl::UserSaId { daddr: address(key.destination), spi: key.spi, family: nl::AF_INET6, proto: key.protocol };
    nl::state::DelGetMessage { user_sa_id, nlas: vec![XfrmAttrs::SrcAddr(address(key.source))] }
}

/// One association of a dump; `None` when it is not one of IPv6.
///
/// # Errors
/// The message is shorter than its parts say.
pub(in super::super) fn parse_association(payload: &[u8]) -> Result<Option<ObservedAssociation>, DecodeError> {
    let info = nl::UserSaInfo::parse(payload)?;
    if info.family != nl::AF_INET6 {
        return Ok(None);
    }
    let key = association_key(&info);
    let attributes = Attributes::parse(&payload[nl::XFRM_USER_SA_INFO_LEN..])?;
    Ok(Some(match attributes.transform(&info) {
        Some(transform) => ObservedAssociation::Known(SecurityAssociation { key, transform }),
        None => ObservedAssociation::Foreign(key),
    }))
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
            (nl::IPPROTO_ESP, nl::XFRM_MODE_TRANSPORT)
                if parse_selector(&info.selector) != Some(between_its_ends(&association_key(info))) =>
            {
                None
            }
            (nl::IPPROTO_ESP, nl::XFRM_MODE_TRANSPORT | nl::XFRM_MODE_TUNNEL)
                if info.flags & !(nl::XFRM_STATE_AF_UNSPEC | nl::XFRM_STATE_ESN) == 0 =>
            {
                Some(Transform::Esp(Esp {
                    mode: if info.mode == nl::XFRM_MODE_TUNNEL { EspMode::Tunnel } else { EspMode::Transport },
                    reqid: info.reqid,
                    encryption: self.encryption?,
                    integrity: self.integrity,
                    replay_window: self.replay_window.unwrap_or(u32::from(info.replay_window)),
                    extended_sequence_numbers: info.flags & nl::XFRM_STATE_ESN != 0,
                    lifetime: parse_lifetime(&info.lifetime_cfg)?,
                }))
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
