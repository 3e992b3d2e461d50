//! The pseudo home network from outside: frames in, frames out.

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::vocabulary::{GuestId, MacAddress};
use crate::wire::ndisc::{Message, NeighborAdvertisement, NeighborOption, NeighborSolicitation, RouterAdvertisement};
use crate::wire::{ethernet, icmpv6, ipv6};

/// The moment at which a simulated time line begins.
#[allow(clippy::disallowed_methods)] // tests only add to it
pub(super) fn start() -> Instant {
    Instant::now()
}

fn address(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

fn mac(n: u8) -> MacAddress {
    MacAddress([0x52, 0x54, 0, 0, 0, n])
}

fn home(n: u8) -> Ipv6Addr {
    Ipv6Addr::from_bits(address("2001:db8:2000::").to_bits() | u128::from(n))
}

/// Guests 0x10 and 0x11, of which the first is attached.
fn network(now: Instant) -> PseudoHomeNetwork {
    let guest = |n: u8| GuestConfig::new(GuestId(usize::from(n)), home(n), mac(n));
    let config = Config::new("2001:db8:2000::/64".parse().unwrap(), home(1), vec![guest(0x10), guest(0x11)]);
    let mut network = PseudoHomeNetwork::new(config);
    network.attached(GuestId(0x10), now);
    drain(&mut network);
    network
}

fn drain(network: &mut PseudoHomeNetwork) -> Vec<Output> {
    std::iter::from_fn(|| network.poll_output()).collect()
}

fn frame(source: MacAddress, destination: MacAddress, packet: &[u8]) -> Vec<u8> {
    ethernet::Frame { destination, source, ether_type: 0x86dd, payload: packet }.emit()
}

fn other(source: MacAddress, ether_type: u16) -> Vec<u8> {
    ethernet::Frame { destination: MacAddress([0xff; 6]), source, ether_type, payload: &[0; 46] }.emit()
}

/// A solicitation as a host sends it: multicast to find a neighbor.
fn solicitation(n: u8, source: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let group = ipv6::solicited_node_multicast(target);
    let options = if source.is_unspecified() { vec![] } else { vec![NeighborOption::SourceLinkLayerAddress(mac(n))] };
    let message = Message::NeighborSolicitation(NeighborSolicitation { target, options });
    frame(mac(n), MacAddress::for_multicast(group), &message.emit(source, group))
}

/// A probe of the MAC address that the guest remembers.
fn probe(n: u8, remembered: &str, target: Ipv6Addr) -> Vec<u8> {
    let message = Message::NeighborSolicitation(NeighborSolicitation { target, options: vec![] });
    frame(mac(n), remembered.parse().unwrap(), &message.emit(home(n), target))
}

fn echo(n: u8, source: Ipv6Addr, destination: Ipv6Addr) -> Vec<u8> {
    let request = icmpv6::Message::EchoRequest { identifier: 7, sequence: 9, data: b"abcdefgh" };
    frame(mac(n), config::ROUTER_MAC, &request.emit_packet(source, destination))
}

/// The messages among the outputs, each checked as a receiver would, with their destinations.
fn said(outputs: &[Output]) -> Vec<(MacAddress, ipv6::Header, Message)> {
    let frames = outputs.iter().filter_map(|output| match output {
        Output::ToPort(frame) => Some(ethernet::Frame::parse(frame).unwrap()),
        Output::GuestSeen { .. } => None,
    });
    frames
        .map(|frame| {
            assert_eq!((frame.source, frame.ether_type), (config::ROUTER_MAC, 0x86dd));
            let (header, message) = ipv6::Header::parse(frame.payload).unwrap();
            (frame.destination, header, Message::parse(&header, message).unwrap())
        })
        .collect()
}

/// What one frame draws: messages, or the reason why there are none.
fn ask(network: &mut PseudoHomeNetwork, frame: &[u8]) -> Result<Vec<(MacAddress, ipv6::Header, Message)>, Reason> {
    let before: Vec<u64> = Reason::ALL.iter().map(|reason| network.counters().get(*reason)).collect();
    network.handle_frame(frame, start());
    let outputs = drain(network);
    let counted = Reason::ALL.iter().zip(before).find(|(reason, before)| network.counters().get(**reason) > *before);
    match counted {
        Some((reason, _)) => {
            assert!(said(&outputs).is_empty(), "{reason} and yet an answer");
            Err(*reason)
        }
        None => Ok(said(&outputs)),
    }
}

fn advertisement(message: &Message) -> &NeighborAdvertisement {
    let Message::NeighborAdvertisement(advertisement) = message else { panic!("{message:?}") };
    advertisement
}

fn router(message: &Message) -> &RouterAdvertisement {
    let Message::RouterAdvertisement(advertisement) = message else { panic!("{message:?}") };
    advertisement
}

#[test]
fn every_neighbor_is_at_the_constant_mac() {
    let mut network = network(start());
    let cases = [
        ("2001:db8:2000::2", false),
        ("2001:db8:2000::1", true),
        ("fe80::1", true),
        ("fe80::200:5eff:fe00:5301", true),
        // Configured on this port, but not here now: found by way of the home agent.
        ("2001:db8:2000::11", false),
    ];
    for (target, is_router) in cases {
        let target = address(target);
        for question in [
            solicitation(0x10, home(0x10), target),
            solicitation(0x10, address("fe80::5054:ff:fe00:10"), target),
            probe(0x10, "00:00:5e:00:53:02", target),
            probe(0x10, "02:4b:47:4d:53:01", target),
        ] {
            let said = ask(&mut network, &question).unwrap();
            let [(to, header, message)] = &said[..] else { panic!("{said:?}") };
            let advertisement = advertisement(message);
            assert_eq!((*to, header.source), (mac(0x10), target));
            assert_eq!(header.destination.octets(), question[22..38]);
            assert_eq!(advertisement.target, target);
            assert_eq!((advertisement.solicited, advertisement.override_cache), (true, true));
            assert_eq!(advertisement.router, is_router, "{target}");
            assert_eq!(message.target_link_layer_address(), Some(config::ROUTER_MAC));
        }
    }
}

#[test]
fn addresses_on_the_port_are_their_owners_to_answer() {
    let mut network = network(start());
    network.attached(GuestId(0x11), start());
    drain(&mut network);
    let sibling_link_local = address("fe80::5054:ff:fe00:11");
    for target in [home(0x10), home(0x11), sibling_link_local, address("fe80::5054:ff:fe00:10")] {
        assert_eq!(ask(&mut network, &solicitation(0x10, home(0x10), target)), Err(Reason::OnPortTarget), "{target}");
    }
    // A link-local address that is not formed from the MAC address is learnt from its duplicate address detection.
    let private = address("fe80::1234");
    assert!(ask(&mut network, &solicitation(0x10, home(0x10), private)).is_ok());
    let detection = ask(&mut network, &solicitation(0x11, Ipv6Addr::UNSPECIFIED, private));
    assert_eq!(detection, Err(Reason::DuplicateAddressDetection));
    assert_eq!(ask(&mut network, &solicitation(0x10, home(0x10), private)), Err(Reason::OnPortTarget));
    // The router's own is nobody else's.
    let _ = ask(&mut network, &solicitation(0x11, Ipv6Addr::UNSPECIFIED, address("fe80::1")));
    assert!(ask(&mut network, &solicitation(0x10, home(0x10), address("fe80::1"))).is_ok());
    network.detached(GuestId(0x11));
    for target in [home(0x11), sibling_link_local, private] {
        assert!(ask(&mut network, &solicitation(0x10, home(0x10), target)).is_ok(), "{target}");
    }
}

#[test]
fn duplicate_address_detection_hears_nothing() {
    let mut network = network(start());
    for target in [home(0x10), address("fe80::5054:ff:fe00:10"), home(0x11), home(2), home(1)] {
        let detection = solicitation(0x10, Ipv6Addr::UNSPECIFIED, target);
        assert_eq!(ask(&mut network, &detection), Err(Reason::DuplicateAddressDetection), "{target}");
    }
}

#[test]
fn a_router_solicitation_is_answered() {
    let mut network = network(start());
    let link_local = address("fe80::5054:ff:fe00:10");
    for (source, destination) in [(link_local, link_local), (Ipv6Addr::UNSPECIFIED, ipv6::ALL_NODES)] {
        let question = Message::RouterSolicitation { options: vec![] }.emit(source, ipv6::ALL_ROUTERS);
        let question = frame(mac(0x10), MacAddress::for_multicast(ipv6::ALL_ROUTERS), &question);
        let said = ask(&mut network, &question).unwrap();
        let [(to, header, message)] = &said[..] else { panic!("{said:?}") };
        assert_eq!((*to, header.source, header.destination), (mac(0x10), address("fe80::1"), destination));
        let advertisement = router(message);
        assert_eq!(advertisement.router_lifetime, 1800);
        assert!(!advertisement.managed && !advertisement.other_configuration && !advertisement.home_agent);
        assert_eq!(message.source_link_layer_address(), Some(config::ROUTER_MAC));
        assert!(advertisement.options.contains(&NeighborOption::Mtu(1460)));
        let prefix = prefix(advertisement);
        assert_eq!((prefix.prefix, prefix.prefix_length), (address("2001:db8:2000::"), 64));
        assert!(prefix.on_link && !prefix.autonomous && !prefix.router_address);
        assert_eq!((prefix.valid_lifetime, prefix.preferred_lifetime), (2_592_000, 604_800));
    }
}

fn prefix(advertisement: &RouterAdvertisement) -> crate::wire::ndisc::PrefixInformation {
    let found = advertisement.options.iter().find_map(|option| match option {
        NeighborOption::PrefixInformation(prefix) => Some(*prefix),
        _ => None,
    });
    found.unwrap()
}

#[test]
fn each_guest_is_told_about_its_own_address() {
    let now = start();
    let mac = mac(0x10);
    let formed = address("2001:db8:2000::5054:ff:fe00:10");
    let guests =
        vec![GuestConfig::new(GuestId(0), formed, mac), GuestConfig::new(GuestId(1), home(0x11), self::mac(0x11))];
    let mut network = PseudoHomeNetwork::new(Config::new("2001:db8:2000::/64".parse().unwrap(), home(1), guests));
    for (guest, autonomous) in [(0, true), (1, false)] {
        network.attached(GuestId(guest), now);
        let outputs = drain(&mut network);
        let told = said(&outputs);
        let (_, header, message) = told.iter().find(|(_, _, m)| matches!(m, Message::RouterAdvertisement(_))).unwrap();
        assert_eq!(header.destination, ipv6::ALL_NODES);
        assert_eq!(prefix(router(message)).autonomous, autonomous);
    }
}

#[test]
fn an_arriving_guest_is_told_at_once_and_then_less_often() {
    let now = start();
    let guest = GuestConfig::new(GuestId(0), home(0x10), mac(0x10));
    let mut network = PseudoHomeNetwork::new(Config::new("2001:db8:2000::/64".parse().unwrap(), home(1), vec![guest]));
    assert_eq!(network.poll_timeout(), None);
    network.attached(GuestId(0), now);
    let outputs = drain(&mut network);
    let told = said(&outputs);
    // Its caches of the two routers it may have known are corrected, without having asked.
    let corrected = told[..2].iter().map(|(to, header, message)| {
        let advertisement = advertisement(message);
        assert_eq!((*to, header.destination), (mac(0x10), ipv6::ALL_NODES));
        assert!(advertisement.router && advertisement.override_cache && !advertisement.solicited);
        advertisement.target
    });
    let corrected: Vec<_> = corrected.collect();
    assert_eq!(corrected, [home(1), address("fe80::1")]);
    router(&told[2].2);
    let mut due = Vec::new();
    for _ in 0..3 {
        let (at, why) = network.poll_timeout().unwrap();
        assert_eq!(why, "router advertisement");
        network.handle_timeout(at - Duration::from_millis(1));
        assert_eq!(drain(&mut network), []);
        network.handle_timeout(at);
        let outputs = drain(&mut network);
        let told = said(&outputs);
        assert_eq!((told.len(), told[0].0), (1, mac(0x10)));
        router(&told[0].2);
        due.push((at - now).as_secs());
    }
    assert_eq!(due, [4, 20, 220]);
    // Told again only when there is something new.
    let at = now + Duration::from_secs(221);
    network.set_mtu(1460, at);
    assert_eq!(drain(&mut network), []);
    network.set_mtu(1452, at);
    let outputs = drain(&mut network);
    assert!(router(&said(&outputs)[0].2).options.contains(&NeighborOption::Mtu(1452)));
    network.detached(GuestId(0));
    assert_eq!(network.poll_timeout(), None);
    assert!(!network.guests().all()[0].attached);
}

#[test]
fn echo_requests_to_the_router() {
    let mut network = network(start());
    for source in [address("fe80::10"), home(0x10)] {
        network.handle_frame(&echo(0x10, source, address("fe80::1")), start());
        let outputs = drain(&mut network);
        let [Output::ToPort(reply)] = &outputs[..] else { panic!("{outputs:?}") };
        let (header, message) = ipv6::Header::parse(&reply[14..]).unwrap();
        assert_eq!((header.source, header.destination), (address("fe80::1"), source));
        assert!(icmpv6::verify_checksum(message, header.source, header.destination));
        let expected = icmpv6::Message::EchoReply { identifier: 7, sequence: 9, data: b"abcdefgh" };
        assert_eq!(icmpv6::Message::parse(message), Ok(expected));
    }
    assert_eq!(ask(&mut network, &echo(0x10, home(0x10), address("fe80::2"))), Err(Reason::LinkLocal));
    assert_eq!(ask(&mut network, &echo(0x10, Ipv6Addr::UNSPECIFIED, address("fe80::1"))), Err(Reason::Malformed));
    let mut wrong = echo(0x10, home(0x10), address("fe80::1"));
    *wrong.last_mut().unwrap() ^= 1;
    assert_eq!(ask(&mut network, &wrong), Err(Reason::Malformed));
}

#[test]
fn listener_reports_are_swallowed() {
    let mut network = network(start());
    let group = address("ff02::16");
    for report in [131, 132, 143] {
        let message = [&[report, 0, 0, 0][..], &[0; 20]].concat();
        let alerted = [&[58, 0, 5, 2, 0, 0, 1, 0][..], &message].concat();
        let source = address("fe80::10");
        for packet in [
            ipv6::Header::new(source, group, 0).emit(&alerted),
            ipv6::Header::new(source, group, 58).emit(&message),
            ipv6::Header::new(Ipv6Addr::UNSPECIFIED, group, 0).emit(&alerted),
        ] {
            let frame = frame(mac(0x10), MacAddress::for_multicast(group), &packet);
            assert_eq!(classify(&frame, &network.guests()), Verdict::ToNetwork);
            assert_eq!(ask(&mut network, &frame), Err(Reason::MulticastListenerReport));
        }
    }
}

#[test]
fn a_guest_is_no_router() {
    let mut network = network(start());
    let advertisement = RouterAdvertisement {
        hop_limit: 64,
        managed: false,
        other_configuration: false,
        home_agent: false,
        other_flags: 0,
        router_lifetime: 1800,
        reachable_time: 0,
        retransmission_timer: 0,
        options: vec![],
    };
    let message = Message::RouterAdvertisement(advertisement).emit(address("fe80::10"), ipv6::ALL_NODES);
    let frame = frame(mac(0x10), MacAddress::for_multicast(ipv6::ALL_NODES), &message);
    assert_eq!(ask(&mut network, &frame), Err(Reason::GuestAsRouter));
}

#[test]
fn guests_are_seen() {
    let now = start();
    let mut network = network(now);
    let at = |ms| now + Duration::from_millis(ms);
    let seen = |network: &mut PseudoHomeNetwork, frame: &[u8], ms| {
        network.handle_frame(frame, at(ms));
        let outputs = drain(network);
        outputs.into_iter().find_map(|output| match output {
            Output::GuestSeen { guest, how } => Some((guest.0, how)),
            Output::ToPort(_) => None,
        })
    };
    // Not attached: any frame tells, data and foreign protocols too, once a second.
    let data = echo(0x11, home(0x11), home(2));
    assert_eq!(classify(&data, &network.guests()), Verdict::ToNetwork);
    assert_eq!(seen(&mut network, &data, 0), Some((0x11, Sighting::Frame)));
    assert_eq!(network.counters().get(Reason::NotAttached), 1);
    assert_eq!(seen(&mut network, &other(mac(0x11), 0x0806), 999), None);
    assert_eq!(classify(&other(mac(0x11), 0x0806), &network.guests()), Verdict::ToNetwork);
    assert_eq!(seen(&mut network, &other(mac(0x11), 0x0806), 1000), Some((0x11, Sighting::Frame)));
    assert_eq!(seen(&mut network, &other(mac(0x11), 0x8035), 2000), Some((0x11, Sighting::Rarp)));
    network.attached(GuestId(0x11), at(2001));
    drain(&mut network);
    // Attached: only announcements.
    assert_eq!(seen(&mut network, &solicitation(0x11, home(0x11), home(2)), 5000), None);
    assert_eq!(seen(&mut network, &other(mac(0x11), 0x8035), 5001), Some((0x11, Sighting::Rarp)));
    let announce = |source: Ipv6Addr, solicited| {
        let advertisement = NeighborAdvertisement {
            router: false,
            solicited,
            override_cache: true,
            target: source,
            options: vec![NeighborOption::TargetLinkLayerAddress(mac(0x11))],
        };
        let to = if solicited { home(0x10) } else { ipv6::ALL_NODES };
        let packet = Message::NeighborAdvertisement(advertisement).emit(source, to);
        frame(mac(0x11), MacAddress::for_multicast(to), &packet)
    };
    assert_eq!(seen(&mut network, &announce(home(0x11), true), 7000), None);
    let announced = Some((0x11, Sighting::UnsolicitedAdvertisement));
    assert_eq!(seen(&mut network, &announce(home(0x11), false), 7001), announced);
    assert_eq!(seen(&mut network, &announce(address("fe80::11"), false), 9000), announced);
    // A stranger is never seen.
    assert_eq!(seen(&mut network, &other(mac(0x12), 0x8035), 10_000), None);
    assert_eq!(network.counters().get(Reason::UnknownMac), 1);
    network.detached(GuestId(0x11));
    assert_eq!(seen(&mut network, &data, 9001), Some((0x11, Sighting::Frame)));
}

#[test]
fn what_a_frame_is() {
    let mut network = network(start());
    let view = network.guests();
    let data = echo(0x10, home(0x10), home(2));
    let padded = [&data[..], &[0; 10]].concat();
    let expected = Verdict::Data { guest: GuestId(0x10), packet: 14..data.len() };
    assert_eq!(classify(&padded, &view), expected);
    assert_eq!(classify(&echo(0x10, home(0x10), home(0x11)), &view), expected, "a guest that is elsewhere");
    let remembered = frame(mac(0x10), "00:00:5e:00:53:01".parse().unwrap(), &data[14..]);
    assert_eq!(classify(&remembered, &view), expected, "a MAC address remembered from home");

    let multicast = frame(mac(0x10), MacAddress([0x33, 0x33, 0, 0, 0, 1]), &data[14..]);
    let sibling = frame(mac(0x10), mac(0x11), &data[14..]);
    let cases = [
        (echo(0x12, home(0x12), home(2)), Reason::UnknownMac),
        (echo(0x10, home(0x11), home(2)), Reason::ForeignSource),
        (echo(0x10, home(2), home(1)), Reason::ForeignSource),
        (echo(0x10, address("fe80::1"), address("fe80::1")), Reason::ForeignSource),
        (echo(0x10, address("fe80::10"), home(2)), Reason::ForeignSource),
        (echo(0x10, Ipv6Addr::UNSPECIFIED, home(2)), Reason::ForeignSource),
        (echo(0x10, home(0x10), address("ff02::1")), Reason::Multicast),
        (echo(0x10, home(0x10), address("ff0e::1")), Reason::Multicast),
        (echo(0x10, home(0x10), address("::1")), Reason::BadDestination),
        (echo(0x10, home(0x10), address("::ffff:192.0.2.1")), Reason::BadDestination),
        (multicast, Reason::Multicast),
        (other(mac(0x10), 0x0806), Reason::Arp),
        (other(mac(0x10), 0x0800), Reason::Ipv4),
        (other(mac(0x10), 0x8100), Reason::Vlan),
        (other(mac(0x10), 0x88a8), Reason::Vlan),
        (other(mac(0x10), 0x88cc), Reason::OtherProtocol),
        (other(mac(0x10), 0x86dd), Reason::Malformed),
        (data[..60].to_vec(), Reason::Malformed),
        (data[..13].to_vec(), Reason::Malformed),
    ];
    for (frame, reason) in &cases {
        assert_eq!(classify(frame, &view), Verdict::Drop(*reason), "{frame:02x?}");
        assert_eq!(ask(&mut network, frame), Err(*reason));
    }
    // Only when that guest is here; else its MAC address may be one remembered.
    assert_eq!(classify(&sibling, &view), expected);
    network.attached(GuestId(0x11), start());
    assert_eq!(classify(&sibling, &network.guests()), Verdict::Drop(Reason::ForSibling));
    assert_eq!(classify(&data, &view), expected, "an older view goes on to hold");
}

#[test]
fn malformed_discovery_is_dropped() {
    let mut network = network(start());
    let good = solicitation(0x10, home(0x10), home(2));
    assert!(ask(&mut network, &good).is_ok());
    let mut forwarded = good.clone();
    forwarded[14 + 7] = 254;
    let mut checksum = good.clone();
    checksum[14 + 42] ^= 1;
    let short = {
        let mut short = good.clone();
        short.truncate(14 + 40 + 8);
        short[14 + 5] = 8;
        short
    };
    for bad in [forwarded, checksum, short] {
        assert_eq!(ask(&mut network, &bad), Err(Reason::Malformed));
    }
}

proptest! {
    /// Whatever a port gives: no panic, and data is only what comes from a guest's MAC address and home address.
    #[test]
    fn only_guests_give_data(mut frame in proptest::collection::vec(any::<u8>(), 0..160), ours: bool, whole: bool, home_source: bool,
                             next in prop::sample::select(vec![0u8, 6, 17, 58, 59])) {
        if frame.len() >= 54 {
            if ours { frame[6..12].copy_from_slice(&mac(0x10).0); }
            if whole {
                frame[12..14].copy_from_slice(&[0x86, 0xdd]);
                frame[14] = 0x60;
                let length = (frame.len() - 54) as u16;
                frame[18..20].copy_from_slice(&length.to_be_bytes());
                frame[20] = next;
            }
            if home_source { frame[22..38].copy_from_slice(&home(0x10).octets()); }
        }
        let mut network = network(start());
        match classify(&frame, &network.guests()) {
            Verdict::Data { guest, packet } => {
                prop_assert_eq!(guest, GuestId(0x10));
                prop_assert_eq!(&frame[6..12], &mac(0x10).0[..]);
                let packet = &frame[packet];
                prop_assert_eq!(&packet[8..24], &home(0x10).octets()[..]);
                let destination = Ipv6Addr::from(<[u8; 16]>::try_from(&packet[24..40]).unwrap());
                prop_assert!(ipv6::is_unicast_routable(destination));
            }
            Verdict::ToNetwork => prop_assert!(ours && frame.len() >= 54 || frame[6..12] == mac(0x10).0),
            Verdict::Drop(_) => {}
        }
        network.handle_frame(&frame, start());
        for output in drain(&mut network) {
            if let Output::ToPort(frame) = output {
                prop_assert_eq!(&frame[..6], &mac(0x10).0[..]);
            }
        }
    }

    /// However a source differs from the home address, it is no data.
    #[test]
    fn spoofed_sources_are_dropped(flip in 1u128.., spoofed_mac: bool) {
        let network = network(start());
        let source = Ipv6Addr::from_bits(home(0x10).to_bits() ^ flip);
        let frame = if spoofed_mac { echo(0x13, home(0x10), home(2)) } else { echo(0x10, source, home(2)) };
        prop_assert!(matches!(classify(&frame, &network.guests()), Verdict::Drop(Reason::ForeignSource | Reason::UnknownMac)));
    }
}

#[test]
fn two_home_addresses_of_one_guest_are_carried_each_for_itself() {
    let guests =
        vec![GuestConfig::new(GuestId(0), home(0x10), mac(0x10)), GuestConfig::new(GuestId(1), home(0x20), mac(0x10))];
    let mut network = PseudoHomeNetwork::new(Config::new("2001:db8:2000::/64".parse().unwrap(), home(1), guests));
    network.attached(GuestId(0), start());
    drain(&mut network);
    let view = network.guests();
    assert!(matches!(classify(&echo(0x10, home(0x10), home(2)), &view), Verdict::Data { guest: GuestId(0), .. }));
    let second = echo(0x10, home(0x20), home(2));
    assert_eq!(classify(&second, &view), Verdict::ToNetwork);
    network.handle_frame(&second, start());
    assert_eq!(drain(&mut network), [Output::GuestSeen { guest: GuestId(1), how: Sighting::Frame }]);
    for target in [home(0x10), home(0x20)] {
        assert_eq!(ask(&mut network, &solicitation(0x10, home(0x10), target)), Err(Reason::OnPortTarget));
    }
}

#[test]
fn on_the_home_link_guests_are_seen_and_nothing_is_said() {
    let mut network = network(start());
    network.listen_only(true);
    assert!(network.guests().all().iter().all(|guest| !guest.attached), "nobody is carried");
    for frame in [
        solicitation(0x10, home(0x10), home(2)),
        probe(0x10, "02:00:00:00:00:99", home(2)),
        echo(0x10, address("fe80::9"), config::ROUTER_LINK_LOCAL),
    ] {
        assert_eq!(ask(&mut network, &frame).unwrap_err(), Reason::NotAttached);
    }
    network.handle_frame(&other(mac(0x11), 0x8035), start());
    let seen = drain(&mut network);
    assert!(seen.contains(&Output::GuestSeen { guest: GuestId(0x11), how: Sighting::Rarp }) && said(&seen).is_empty());
    network.listen_only(false);
    assert_eq!(ask(&mut network, &solicitation(0x10, home(0x10), home(2))).unwrap().len(), 1);
}

#[test]
fn guests_come_to_a_port_and_go_from_it() {
    let now = start();
    let mut network = network(now);
    network.remove_guest(GuestId(0x10));
    network.add_guest(GuestConfig::new(GuestId(0x12), home(0x12), mac(0x12)));
    assert_eq!(network.guests().all().iter().map(|guest| guest.guest.0).collect::<Vec<_>>(), [0x11, 0x12]);
    network.handle_frame(&other(mac(0x10), 0x8035), now);
    assert!(drain(&mut network).is_empty(), "a stranger now");
    network.handle_frame(&other(mac(0x12), 0x8035), now);
    assert_eq!(drain(&mut network), [Output::GuestSeen { guest: GuestId(0x12), how: Sighting::Rarp }]);
    network.attached(GuestId(0x12), now);
    assert!(!drain(&mut network).is_empty() && network.guests().by_mac(mac(0x12))[0].attached);
}
