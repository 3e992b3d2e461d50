//! The codecs against packets of other implementations: what umip and Linux sent is read and written again octet by octet, and told in the
//! words of tcpdump.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod captures;

use std::collections::BTreeMap;

use kagemusha::vocabulary::Lifetime;
use kagemusha::wire::extension::{self, Chain, HomeAddressOption, Type2RoutingHeader};
use kagemusha::wire::numbers::{ether_type, icmpv6_type, protocol};
use kagemusha::wire::{checksum, describe, ethernet, icmpv6, ipv6, mobility, ndisc, tunnel};
use proptest::prelude::*;

/// What was read, counted by name, so that a reader that skips everything does not pass.
type Seen = BTreeMap<&'static str, usize>;

/// Reads `packet` and all within it, checks that everything is written again as it came, and counts it.
fn check_packet(name: &str, packet: &[u8], seen: &mut Seen) {
    let (header, payload) = ipv6::Header::parse(packet).unwrap();
    assert_eq!(header.emit(payload), packet, "{name}");
    let (_, chain, upper_layer) = extension::dissect(packet).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(chain.unrecognized_option, None, "{name}");
    check_extension_headers(name, &chain, payload, seen);
    let (source, destination) = chain.checksum_addresses(&header);
    if checksum::field_offset(chain.upper_layer).is_some() {
        assert!(checksum::verify(source, destination, chain.upper_layer, upper_layer), "{name}: checksum");
    }
    match chain.upper_layer {
        protocol::MOBILITY => {
            let message = mobility::Message::parse(upper_layer).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(mobility::verify_checksum(upper_layer, source, destination), "{name}");
            let mut again = message.emit();
            mobility::fill_checksum(&mut again, source, destination);
            assert_eq!(again, upper_layer, "{name}: {message:?}");
            *seen.entry(mobility_name(&message)).or_default() += 1;
        }
        protocol::ICMPV6 => check_icmpv6(name, &header, &chain, upper_layer, seen),
        protocol::IPV6 => {
            let parsed = tunnel::parse(packet).unwrap().unwrap();
            let (outer, inner) = (parsed.outer, &packet[parsed.inner]);
            let again = tunnel::outer_header(
                outer.source,
                outer.destination,
                outer.traffic_class,
                outer.flow_label,
                outer.hop_limit,
                inner.len(),
            );
            assert_eq!([&again.octets()[..], inner].concat(), packet, "{name}");
            *seen.entry("tunnel packet").or_default() += 1;
            check_packet(&format!("{name}, inner packet"), inner, seen);
        }
        protocol::ESP => *seen.entry("ESP").or_default() += 1,
        other => panic!("{name}: upper layer {other} is not expected in these captures"),
    }
}

fn check_extension_headers(name: &str, chain: &Chain, payload: &[u8], seen: &mut Seen) {
    for header in &chain.headers {
        let octets = &payload[header.range.clone()];
        match header.header_type {
            protocol::DESTINATION_OPTIONS => {
                let home_address = extension::home_address_in_destination_options(octets).unwrap().unwrap();
                assert_eq!(Some(home_address), chain.home_address, "{name}");
                assert_eq!(HomeAddressOption { home_address }.emit(octets[0]), octets, "{name}");
                *seen.entry("Home Address option").or_default() += 1;
            }
            protocol::ROUTING => {
                let routing = Type2RoutingHeader::parse(octets).unwrap();
                assert_eq!(routing.emit(octets[0]), octets, "{name}");
                *seen.entry("type 2 routing header").or_default() += 1;
            }
            protocol::HOP_BY_HOP_OPTIONS => *seen.entry("hop-by-hop options").or_default() += 1,
            other => panic!("{name}: extension header {other} is not expected in these captures"),
        }
    }
}

fn check_icmpv6(name: &str, header: &ipv6::Header, chain: &Chain, message: &[u8], seen: &mut Seen) {
    let (source, destination) = chain.checksum_addresses(header);
    assert!(icmpv6::verify_checksum(message, source, destination), "{name}");
    if ndisc::Message::is_neighbor_discovery(message[0]) {
        let parsed = ndisc::Message::parse(header, message).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(parsed.emit_icmpv6(source, destination), message, "{name}: {parsed:?}");
        let ours = parsed.emit(source, destination);
        let (our_header, _) = ipv6::Header::parse(&ours).unwrap();
        // Linux and radvd set a flow label on some of them; ours is 0.
        assert_eq!(our_header, ipv6::Header { flow_label: 0, ..*header }, "{name}");
        let unknown = parsed.options().iter().any(|option| matches!(option, ndisc::NeighborOption::Unknown { .. }));
        assert!(!unknown, "{name}: {parsed:?}");
    } else {
        let parsed = icmpv6::Message::parse(message).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(parsed.emit(source, destination), message, "{name}: {parsed:?}");
    }
    let kind = match message[0] {
        icmpv6_type::ECHO_REQUEST | icmpv6_type::ECHO_REPLY => "echo",
        icmpv6_type::ROUTER_SOLICITATION => "router solicitation",
        icmpv6_type::ROUTER_ADVERTISEMENT => "router advertisement",
        icmpv6_type::NEIGHBOR_SOLICITATION => "neighbour solicitation",
        icmpv6_type::NEIGHBOR_ADVERTISEMENT => "neighbour advertisement",
        icmpv6_type::MULTICAST_LISTENER_REPORT_V2 => "multicast listener report",
        _ => "other ICMPv6",
    };
    *seen.entry(kind).or_default() += 1;
}

fn mobility_name(message: &mobility::Message) -> &'static str {
    match message {
        mobility::Message::BindingUpdate(_) => "binding update",
        mobility::Message::BindingAcknowledgement(_) => "binding acknowledgement",
        _ => "other mobility header",
    }
}

#[test]
fn every_packet_is_read_and_written_again_as_it_came() {
    let mut seen = Seen::new();
    for (name, frame) in captures::all_frames() {
        let parsed = ethernet::Frame::parse(&frame).unwrap();
        assert_eq!(parsed.emit(), frame, "{name}");
        assert_eq!(parsed.ether_type, ether_type::IPV6, "{name}");
        check_packet(&name, parsed.payload, &mut seen);
    }
    // The numbers are those of tcpdump, counted in its output.
    let expected = [
        ("ESP", 18),
        ("Home Address option", 19),
        ("binding acknowledgement", 4),
        ("binding update", 4),
        ("echo", 127),
        ("hop-by-hop options", 153),
        ("multicast listener report", 153),
        ("neighbour advertisement", 49),
        ("neighbour solicitation", 144),
        ("router advertisement", 239),
        ("router solicitation", 12),
        ("tunnel packet", 47),
        ("type 2 routing header", 24),
    ];
    assert_eq!(seen, Seen::from(expected));
}

#[test]
fn the_home_registration_of_umip() {
    let message = |number: usize| {
        let frames = captures::frames("umip-plain/fore");
        let mobility = frames.iter().filter_map(|frame| {
            let (header, chain, upper_layer) = extension::dissect(&frame[ethernet::HEADER_LENGTH..]).ok()?;
            (chain.upper_layer == protocol::MOBILITY).then(|| (header, chain, upper_layer.to_vec()))
        });
        mobility.into_iter().nth(number).expect("a mobility header")
    };
    let (header, chain, octets) = message(0);
    assert_eq!(octets.len(), 32);
    let Ok(mobility::Message::BindingUpdate(update)) = mobility::Message::parse(&octets) else { panic!("{octets:?}") };
    assert!(update.flags.acknowledge && update.flags.home_registration && !update.flags.key_management_mobility);
    assert_eq!((update.sequence.0, update.lifetime), (36149, Lifetime(150)));
    assert_eq!(update.alternate_care_of_address(), Some(header.source));
    assert_eq!(chain.home_address, Some("2001:db8:2000::10".parse().unwrap()));

    let (header, chain, octets) = message(1);
    assert_eq!(octets.len(), 16);
    let Ok(mobility::Message::BindingAcknowledgement(answer)) = mobility::Message::parse(&octets) else {
        panic!("{octets:?}")
    };
    assert_eq!((answer.status, answer.sequence), (mobility::Status::ACCEPTED, update.sequence));
    assert_eq!(header.source, "2001:db8:2000::1".parse::<std::net::Ipv6Addr>().unwrap());
    assert_eq!(chain.type_2_routing_header, Some(Type2RoutingHeader::new("2001:db8:2000::10".parse().unwrap())));
}

/// What [`describe`] tells beyond tcpdump's short form: `(start, end)` of the texts to leave out.
const MORE_THAN_TCPDUMP: [(&str, &str); 5] =
    [(" (homeaddr: ", ")"), (" (alt-CoA: ", ")"), (", flags [", "]"), (", prefix ", ","), (", at ", ",")];

fn without_more(mut line: String) -> String {
    for (start, end) in MORE_THAN_TCPDUMP {
        if let Some(at) = line.find(start) {
            let after = at + start.len();
            let length = line[after..].find(end).expect("an end");
            // A comma belongs to what follows.
            let end = if end == "," { after + length } else { after + length + end.len() };
            line.replace_range(at..end, "");
        }
    }
    line
}

#[test]
fn packets_are_told_as_tcpdump_tells_them() {
    for name in captures::CAPTURES {
        let (frames, lines) = (captures::frames(name), captures::tcpdump(name));
        assert_eq!(frames.len(), lines.len(), "{name}");
        for ((frame, line), number) in frames.iter().zip(&lines).zip(1..) {
            let ours = without_more(describe(&frame[ethernet::HEADER_LENGTH..]));
            assert_eq!(&ours, line, "{name} frame {number}");
        }
    }
}

#[test]
fn what_is_told_beyond_tcpdump() {
    let lines: Vec<String> =
        captures::frames("umip-plain/fore").iter().map(|frame| describe(&frame[ethernet::HEADER_LENGTH..])).collect();
    let expected = "IP6 2001:db8:3000:0:d401:17ff:feb2:8380 > 2001:db8:2000::1: DSTOPT (homeaddr: 2001:db8:2000::10) \
                    mobility: BU seq#=36149 AH lifetime=600 (alt-CoA: 2001:db8:3000:0:d401:17ff:feb2:8380)";
    assert_eq!(lines.iter().filter(|line| *line == expected).count(), 1, "{lines:#?}");
}

/// Every parser on the same octets. What they return does not matter here.
fn parse_all(octets: &[u8]) {
    let _ = ethernet::Frame::parse(octets).map(|frame| frame.emit());
    for packet in [octets, octets.get(ethernet::HEADER_LENGTH..).unwrap_or_default()] {
        let _ = describe(packet);
        let _ = tunnel::parse(packet);
        let _ = icmpv6::error_permitted(packet, false);
        let Ok((header, chain, upper_layer)) = extension::dissect(packet) else { continue };
        let (source, destination) = chain.checksum_addresses(&header);
        // With the checksum put right the checks behind it are reached.
        let mut summed = upper_layer.to_vec();
        checksum::fill(source, destination, chain.upper_layer, &mut summed);
        for message in [upper_layer, &summed] {
            if let Ok(message) = mobility::Message::parse(message) {
                assert_eq!(mobility::Message::parse(&message.emit()), Ok(message));
            }
            if let Ok(message) = ndisc::Message::parse(&header, message) {
                let again = message.emit_icmpv6(source, destination);
                assert_eq!(ndisc::Message::parse(&header, &again), Ok(message));
            }
            let _ = icmpv6::Message::parse(message);
        }
        for bare in [upper_layer, packet.get(ipv6::HEADER_LENGTH..).unwrap_or_default()] {
            let _ = extension::home_address_in_destination_options(bare);
            let _ = Type2RoutingHeader::parse(bare);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// A failure prints the input, which is shrunk, and its seed is kept in `proptest-regressions`.
    #[test]
    fn no_parser_panics_on_damaged_packets(
        which in any::<prop::sample::Index>(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in proptest::option::of(any::<prop::sample::Index>()),
        tail in proptest::collection::vec(any::<u8>(), 0..20),
    ) {
        let mut frame = SAMPLES.with(|samples| which.get(samples).clone());
        for (at, value) in changes {
            *at.get_mut(&mut frame) = value;
        }
        if let Some(cut) = cut {
            frame.truncate(cut.index(frame.len()));
        }
        frame.extend(tail);
        parse_all(&frame);
    }
}

thread_local! {
    /// Frames to damage: of each kind of packet about as many, so that the many advertisements do not crowd out the rest.
    static SAMPLES: Vec<Vec<u8>> = {
        let mut kinds: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
        for (_, frame) in captures::all_frames() {
            let line = describe(&frame[ethernet::HEADER_LENGTH..]);
            let kind: String = line.chars().filter(|c| c.is_alphabetic() && !c.is_ascii_hexdigit()).collect();
            let frames = kinds.entry(kind).or_default();
            if frames.len() < 3 {
                frames.push(frame);
            }
        }
        assert!(kinds.len() > 10, "{} kinds of packets", kinds.len());
        kinds.into_values().flatten().collect()
    };
}
