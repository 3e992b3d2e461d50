use super::association::*;
use super::policy::*;
use super::*;
use crate::ipsec::*;
use crate::vocabulary::Prefix;
use netlink_packet_core::Emitable;
use netlink_packet_xfrm::{Alg, XfrmAttrs, XfrmMessage};
use proptest::prelude::*;

#[test]
fn sequence_numbers_go_into_the_kernel_and_come_back() {
    for sa in associations().into_iter().filter(|sa| sa.key.protocol == nl::IPPROTO_ESP) {
        let extended = sa.transform.esp().unwrap().extended_sequence_numbers;
        let high = if extended { 7 << 32 } else { 0 };
        let replay = ReplayState { output: high + 70_000, input: high + 12 };
        let made = bytes(&add_association(&sa, replay));
        assert_eq!(parse_replay_state(&made).unwrap(), Some((sa.key, replay)));
        // Where the numbers stand is no part of what an association is.
        assert!(matches!(parse_association(&made).unwrap(), Some(ObservedAssociation::Known(read)) if read == sa));
        let fresh = bytes(&add_association(&sa, ReplayState::default()));
        assert_eq!(fresh, bytes(&put_association(&sa, false)));
        for length in 0..fresh.len() {
            let _ = parse_replay_state(&fresh[..length]);
        }
    }
}

/// A limit since the first use is nothing that a policy can ask for.
#[test]
fn a_limit_by_use_is_foreign() {
    let XfrmMessage::AddSa(mut message) = put_association(&associations()[0], false) else { panic!() };
    message.user_sa_info.lifetime_cfg.hard_use_expires_seconds = 1;
    let read = parse_association(&bytes(&XfrmMessage::AddSa(message))).unwrap();
    assert!(matches!(read, Some(ObservedAssociation::Foreign(_))));
}

/// Notifications as the kernel sends them, several in a datagram.
fn expiries(all: &[(&SecurityAssociation, bool)]) -> Vec<u8> {
    use netlink_packet_core::{NetlinkHeader, NetlinkMessage, NetlinkPayload};
    let mut out = vec![];
    for (sa, hard) in all {
        let XfrmMessage::AddSa(message) = put_association(sa, false) else { panic!() };
        let expire = nl::UserExpire { state: message.user_sa_info, hard: u8::from(*hard) };
        let expire = nl::monitor::ExpireMessage { expire };
        let inner = NetlinkPayload::InnerMessage(XfrmMessage::Expire(expire));
        let mut message = NetlinkMessage::new(NetlinkHeader::default(), inner);
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        out.extend(bytes);
    }
    out
}

#[test]
fn expiries_are_read() {
    let all = associations();
    let datagram = expiries(&[(&all[0], false), (&all[1], true), (all.last().unwrap(), true)]);
    let [soft, hard] = [(0, false), (1, true)].map(|(at, hard)| Expiry { association: all[at].key, hard });
    assert_eq!(parse_expiry(&datagram).unwrap(), [soft, hard]);
    for length in 0..datagram.len() {
        let _ = parse_expiry(&datagram[..length]);
    }
    assert_eq!(parse_expiry(&[]).unwrap(), []);
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
        transform: Transform::Esp(Esp {
            mode: EspMode::Transport,
            reqid: 7,
            encryption,
            integrity,
            replay_window,
            extended_sequence_numbers: false,
            lifetime: AssociationLifetime::default(),
        }),
    };
    let secret = |length| SecretKey::new((0..length).collect());
    let cbc = || (Encryption::AesCbc, secret(32));
    let limited = AssociationLifetime {
        soft: Limits { bytes: Some(1 << 40), packets: Some(1), seconds: None },
        hard: Limits { bytes: None, packets: Some(u64::MAX - 1), seconds: Some(86_400) },
    };
    let extended = |replay_window, mode, lifetime| SecurityAssociation {
        key: key(50, 1001),
        transform: Transform::Esp(Esp {
            mode,
            reqid: 8,
            encryption: (Encryption::AesGcm16, secret(36)),
            integrity: None,
            replay_window,
            extended_sequence_numbers: true,
            lifetime,
        }),
    };
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
        extended(32, EspMode::Tunnel, AssociationLifetime::default()),
        extended(4096, EspMode::Transport, limited),
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

/// Without a selector it would do for the packets of another guest whose SA has the same reqid. So one that an older version has made without is
/// not what a policy wants, and is made anew. A tunnel is for all that its policies put into it.
#[test]
fn an_association_in_transport_mode_is_for_its_two_ends_alone() {
    for sa in associations() {
        let Some(esp) = sa.transform.esp() else { continue };
        let XfrmMessage::AddSa(mut message) = put_association(&sa, false) else { panic!() };
        let whole = Selector { source: Prefix::ANY, destination: Prefix::ANY, upper_layer: UpperLayer::Any };
        let (source, destination) = (Prefix::host(sa.key.source), Prefix::host(sa.key.destination));
        let ends = Selector { source, destination, ..whole };
        let transport = esp.mode == EspMode::Transport;
        let selector = parse_selector(&message.user_sa_info.selector);
        assert_eq!(selector, Some(if transport { ends } else { whole }), "{sa:?}");
        for other in [whole, Selector { source: Prefix::ANY, ..ends }] {
            message.user_sa_info.selector = super::selector(&other);
            let read = parse_association(&bytes(&XfrmMessage::AddSa(message.clone()))).unwrap();
            assert_eq!(matches!(read, Some(ObservedAssociation::Foreign(_))), transport, "{sa:?}");
        }
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
        template(TemplateProtocol::Esp, Mode::Tunnel, 10, Level::Required),
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
    let tunnel = nl::UserTemplate { mode: nl::XFRM_MODE_BEET, ..template(&policies()[1].templates[0]) };
    assert!(matches!(read(&|m| m.nlas.push(XfrmAttrs::Template(vec![tunnel]))), ObservedPolicy::Foreign(_)));
}

#[test]
fn keys_are_wiped_from_messages() {
    for sa in associations() {
        let mut message = put_association(&sa, false);
        wipe(&mut message);
        let (before, after) = (bytes(&put_association(&sa, false)), bytes(&message));
        let Transform::Esp(Esp { encryption, .. }) = &sa.transform else { continue };
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
        let _ = (parse_association(&tail), parse_policy(&tail), parse_expiry(&tail), parse_replay_state(&tail));
        let mut good = expiries(&[(&associations()[0], true)]);
        good.extend(head.iter().chain(&tail));
        let _ = parse_expiry(&good);
        // A good beginning, so that the attributes are reached.
        let mut good = bytes(&put_association(&associations()[0], false));
        good.truncate(nl::XFRM_USER_SA_INFO_LEN);
        good.extend(head.iter().chain(&tail));
        let _ = (parse_association(&good), parse_replay_state(&good));
        let mut good = bytes(&put_policy(&policies()[0], false));
        good.truncate(nl::XFRM_USER_POLICY_INFO_LEN);
        good.extend(head.iter().chain(&tail));
        let _ = parse_policy(&good);
    }
}
