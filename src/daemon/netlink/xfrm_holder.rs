//! The object of another program that is in the way of ours, in the words of `ip xfrm`, without its keys.

use std::fmt::Write as _;

use netlink_packet_core::{DecodeError, NlasIterator};
use netlink_packet_xfrm as nl;

/// An association.
///
/// # Errors
/// The message is shorter than its parts say.
pub(super) fn association(payload: &[u8]) -> Result<String, DecodeError> {
    let info = nl::UserSaInfo::parse(payload)?;
    let (source, destination) = (info.saddr.to_ipv6(), info.id.daddr.to_ipv6());
    let mode = match info.mode {
        nl::XFRM_MODE_TRANSPORT => "transport".to_owned(),
        nl::XFRM_MODE_TUNNEL => "tunnel".to_owned(),
        nl::XFRM_MODE_ROUTEOPTIMIZATION => "ro".to_owned(),
        other => other.to_string(),
    };
    let (protocol, spi, reqid) = (protocol(info.id.proto), info.id.spi, info.reqid);
    Ok(format!("src {source} dst {destination} proto {protocol} spi {spi:#010x} reqid {reqid} mode {mode}"))
}

/// A policy.
///
/// # Errors
/// The message is shorter than its parts say.
pub(super) fn policy(payload: &[u8]) -> Result<String, DecodeError> {
    let info = nl::UserPolicyInfo::parse(payload)?;
    let direction = match info.direction {
        nl::XFRM_POLICY_IN => "in",
        nl::XFRM_POLICY_OUT => "out",
        _ => "fwd",
    };
    let action = if info.action == nl::XFRM_POLICY_BLOCK { "block" } else { "allow" };
    let selector = &info.selector;
    let mut text = format!(
        "src {}/{} dst {}/{} proto {} dir {direction} priority {} action {action}",
        selector.saddr.to_ipv6(),
        selector.prefixlen_s,
        selector.daddr.to_ipv6(),
        selector.prefixlen_d,
        protocol(selector.proto),
        info.priority,
    );
    for attribute in NlasIterator::new(payload.get(nl::XFRM_USER_POLICY_INFO_LEN..).unwrap_or_default()) {
        let attribute = attribute?;
        if attribute.kind() == nl::XFRMA_TMPL {
            for chunk in attribute.value().chunks(nl::XFRM_USER_TEMPLATE_LEN) {
                let template = nl::UserTemplate::parse(chunk)?;
                // Writing to a text cannot fail.
                let _ = write!(text, " tmpl proto {} reqid {}", protocol(template.id.proto), template.reqid);
            }
        }
    }
    Ok(text)
}

fn protocol(number: u8) -> String {
    match number {
        nl::IPPROTO_ESP => "esp".to_owned(),
        nl::IPPROTO_DSTOPTS => "hao".to_owned(),
        nl::IPPROTO_ROUTING => "route2".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::Emitable;
    use proptest::prelude::*;

    fn bytes(message: &nl::XfrmMessage) -> Vec<u8> {
        let mut out = vec![0; message.buffer_len()];
        message.emit(&mut out);
        out
    }

    fn foreign() -> [Vec<u8>; 2] {
        let mut sa = nl::state::ModifyMessage::default();
        let info = &mut sa.user_sa_info;
        let address = |text: &str| nl::Address::from_ipv6(&text.parse().unwrap());
        info.id = nl::Id { daddr: address("2001:db8::1"), spi: 1000, proto: nl::IPPROTO_ESP };
        (info.saddr, info.reqid, info.mode) = (address("2001:db8::99"), 7, nl::XFRM_MODE_TUNNEL);
        let (alg_name, alg_key) = ([b'x'; 64], vec![0x5a; 32]);
        sa.nlas.push(nl::XfrmAttrs::EncryptionAlg(nl::Alg { alg_name, alg_key_len: 256, alg_key }));
        let mut policy = nl::policy::ModifyMessage::default();
        let info = &mut policy.user_policy_info;
        (info.priority, info.direction, info.action) = (42, nl::XFRM_POLICY_OUT, nl::XFRM_POLICY_ALLOW);
        (info.selector.saddr, info.selector.prefixlen_s, info.selector.proto) = (address("2001:db8::10"), 128, 135);
        let mut template = nl::UserTemplate { reqid: 9, ..Default::default() };
        template.id.proto = nl::IPPROTO_ESP;
        policy.nlas.push(nl::XfrmAttrs::Template(vec![template]));
        [bytes(&nl::XfrmMessage::AddSa(sa)), bytes(&nl::XfrmMessage::AddPolicy(policy))]
    }

    #[test]
    fn what_is_in_the_way_is_named_without_keys() {
        let [sa, policy] = foreign();
        assert_eq!(
            association(&sa).unwrap(),
            "src 2001:db8::99 dst 2001:db8::1 proto esp spi 0x000003e8 reqid 7 mode tunnel"
        );
        assert_eq!(
            super::policy(&policy).unwrap(),
            "src 2001:db8::10/128 dst ::/0 proto 135 dir out priority 42 action allow tmpl proto esp reqid 9"
        );
    }

    proptest! {
        #[test]
        fn no_octets_make_it_panic(octets in prop::collection::vec(any::<u8>(), 0..600), cut in 0..400usize) {
            let _ = (association(&octets), policy(&octets));
            for mut message in foreign() {
                message.truncate(cut);
                message.extend(&octets);
                let _ = (association(&message), policy(&message));
            }
        }
    }
}
