//! Every transition of the binding cache.
#![expect(clippy::disallowed_methods, reason = "an Instant to count from")]

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

mod changes;
mod optimistic;

use super::*;
use crate::vocabulary::MacAddress;
use crate::wire::ethernet::Frame;
use crate::wire::ipv6::{self, ALL_NODES, solicited_node_multicast};
use crate::wire::mobility::{BindingAcknowledgement, BindingUpdate, BindingUpdateFlags, Message, MobilityOption};
use crate::wire::ndisc::{self, NeighborAdvertisement, NeighborOption, NeighborSolicitation};
use crate::wire::numbers::ether_type;

const GUEST: GuestId = GuestId(0);
const OTHER_GUEST: GuestId = GuestId(1);
const OUR_MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
const NEIGHBOR_MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 2]);

fn address(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}
fn home() -> Ipv6Addr {
    address("2001:db8:2000::10")
}
fn other_home() -> Ipv6Addr {
    address("2001:db8:2000::11")
}
fn us() -> Ipv6Addr {
    address("2001:db8:2000::1")
}
fn neighbor() -> Ipv6Addr {
    address("2001:db8:2000::2")
}
fn here() -> Ipv6Addr {
    address("2001:db8:3000::3")
}
fn there() -> Ipv6Addr {
    address("2001:db8:4000::3")
}

/// A binding acknowledgement and where it went.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    status: u8,
    sequence: u16,
    lifetime: u16,
    via: Option<Ipv6Addr>,
}

struct Bench {
    agent: HomeAgent,
    start: Instant,
    now: Instant,
    secures: bool,
    answers: Vec<Answer>,
    frames: Vec<Vec<u8>>,
    events: Vec<Event>,
    binding: Option<Binding>,
    secured: Vec<(Generation, Option<Ipv6Addr>)>,
}

impl Bench {
    fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config {
            address: us(),
            home_link: "2001:db8:2000::/64".parse().unwrap(),
            link_layer_address: OUR_MAC,
            maximum_lifetime: Duration::from_secs(402),
            detect_duplicates: false,
            optimistic_detection: false,
            key_management_mobility: false,
            maximum_bindings: usize::MAX,
        };
        change(&mut config);
        let start = Instant::now();
        let mut agent = HomeAgent::new(config);
        agent.add_guest(GUEST, home(), None);
        agent.add_guest(OTHER_GUEST, other_home(), None);
        Self {
            agent,
            start,
            now: start,
            secures: true,
            answers: Vec::new(),
            frames: Vec::new(),
            events: Vec::new(),
            binding: None,
            secured: Vec::new(),
        }
    }

    fn new() -> Self {
        Self::with(|_| {})
    }

    /// With a binding of `here`, sequence 10, lifetime 400 s.
    fn bound() -> Self {
        let mut bench = Self::new();
        bench.update(10, here(), 100);
        assert_eq!(bench.state(), "bound");
        bench.at(3.0);
        bench.answers.clear();
        bench.frames.clear();
        bench.events.clear();
        bench
    }

    fn drain(&mut self) {
        while let Some(output) = self.agent.poll_output() {
            match output {
                Output::Secure { generation, care_of, .. } => {
                    self.secured.push((generation, care_of));
                    if self.secures {
                        self.agent.applied(generation, self.now);
                    }
                }
                Output::Transmit { via_care_of, message, .. } => {
                    let Message::BindingAcknowledgement(BindingAcknowledgement { status, sequence, lifetime, .. }) =
                        Message::parse(&message).unwrap()
                    else {
                        panic!()
                    };
                    let (status, sequence, lifetime) = (status.0, sequence.0, lifetime.0);
                    self.answers.push(Answer { status, sequence, lifetime, via: via_care_of });
                }
                Output::HomeLinkFrame(frame) => self.frames.push(frame),
                Output::Binding { guest: GUEST, binding } => self.binding = binding,
                Output::Binding { .. } => {}
                Output::Event { event, .. } => self.events.push(event),
            }
        }
    }

    fn receive(&mut self, received: Received, update: BindingUpdate) {
        self.agent.handle_binding_update(received, &Message::BindingUpdate(update).emit(), self.now);
        self.drain();
    }

    /// A binding update as a mobile node of ours sends it.
    fn update(&mut self, sequence: u16, care_of: Ipv6Addr, lifetime: u16) {
        self.receive(from(home(), care_of), home_registration(sequence, care_of, lifetime));
    }

    fn hear(&mut self, frame: &[u8]) {
        self.agent.handle_home_link_frame(frame, self.now);
        self.drain();
    }

    fn at(&mut self, seconds: f64) {
        let end = self.start + Duration::from_secs_f64(seconds);
        while let Some((next, _)) = self.agent.poll_timeout().filter(|(next, _)| *next <= end) {
            self.now = self.now.max(next);
            self.agent.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    fn state(&self) -> &'static str {
        self.agent.state(GUEST).unwrap().state
    }

    /// The last answer's status and sequence number.
    fn last(&self) -> (u8, u16) {
        self.answers.last().map(|answer| (answer.status, answer.sequence)).unwrap()
    }

    fn discarded(&self, reason: DiscardReason) -> u64 {
        assert_eq!(self.events.last(), Some(&Event::Discarded(reason)));
        self.agent.counters().discarded.get(&reason).copied().unwrap_or_default()
    }
}

fn from(home_address: Ipv6Addr, care_of: Ipv6Addr) -> Received {
    Received { source: home_address, destination: us(), care_of: Some(care_of) }
}

fn home_registration(sequence: u16, care_of: Ipv6Addr, lifetime: u16) -> BindingUpdate {
    BindingUpdate {
        sequence: SequenceNumber(sequence),
        flags: BindingUpdateFlags { acknowledge: true, home_registration: true, ..Default::default() },
        lifetime: Lifetime(lifetime),
        options: vec![MobilityOption::AlternateCareOfAddress(care_of)],
    }
}

/// The neighbour discovery message in a frame of ours, and its IPv6 destination.
fn read(frame: &[u8]) -> (Frame<'_>, ipv6::Header, ndisc::Message) {
    let frame = Frame::parse(frame).unwrap();
    assert_eq!((frame.source, frame.ether_type), (OUR_MAC, ether_type::IPV6));
    let (header, payload) = ipv6::Header::parse(frame.payload).unwrap();
    (frame, header, ndisc::Message::parse(&header, payload).unwrap())
}

fn heard(message: &ndisc::Message, source: Ipv6Addr, destination: Ipv6Addr) -> Vec<u8> {
    let group = if destination.is_multicast() { MacAddress::for_multicast(destination) } else { OUR_MAC };
    let packet = message.emit(source, destination);
    Frame { destination: group, source: NEIGHBOR_MAC, ether_type: ether_type::IPV6, payload: &packet }.emit()
}

fn solicitation(target: Ipv6Addr, source: Ipv6Addr) -> Vec<u8> {
    let options =
        if source.is_unspecified() { Vec::new() } else { vec![NeighborOption::SourceLinkLayerAddress(NEIGHBOR_MAC)] };
    let message = ndisc::Message::NeighborSolicitation(NeighborSolicitation { target, options });
    heard(&message, source, solicited_node_multicast(target))
}

fn advertisement(target: Ipv6Addr) -> Vec<u8> {
    let message = ndisc::Message::NeighborAdvertisement(NeighborAdvertisement {
        router: false,
        solicited: false,
        override_cache: true,
        target,
        options: vec![NeighborOption::TargetLinkLayerAddress(NEIGHBOR_MAC)],
    });
    heard(&message, target, ALL_NODES)
}

#[test]
fn a_binding_is_made_and_answered_back_to_the_care_of_address() {
    let mut bench = Bench::new();
    bench.update(10, here(), 50);
    assert_eq!(bench.answers, [Answer { status: 0, sequence: 10, lifetime: 50, via: Some(here()) }]);
    let binding = bench.binding.unwrap();
    assert_eq!((binding.home_address, binding.care_of), (home(), here()));
    assert_eq!(binding.expires, bench.start + Duration::from_secs(200));
    assert_eq!(bench.secured.last().unwrap().1, Some(here()));
    assert_eq!(bench.events, [Event::Registered { care_of: here(), lifetime: Lifetime(50) }]);
}

#[test]
fn the_lifetime_is_cut_to_the_maximum_in_units_of_four_seconds() {
    let mut bench = Bench::new();
    bench.update(10, here(), 150);
    assert_eq!(bench.answers[0].lifetime, 100);
    let mut bench = Bench::with(|config| config.maximum_lifetime = Duration::ZERO);
    bench.update(10, here(), 150);
    assert_eq!(bench.answers[0].lifetime, 1, "zero would say that there is no binding");
}

#[test]
fn the_acknowledgement_of_success_waits_for_the_kernel_state_but_a_refusal_does_not() {
    let mut bench = Bench::new();
    bench.secures = false;
    bench.update(10, here(), 50);
    assert!(bench.answers.is_empty());
    bench.update(10, there(), 50);
    assert_eq!(bench.last(), (135, 10));
    bench.agent.applied(bench.secured[0].0, bench.now);
    bench.drain();
    assert_eq!(bench.last(), (0, 10));
    assert_eq!(bench.answers.len(), 2);
}

#[test]
fn a_binding_that_cannot_be_secured_is_given_up() {
    let mut bench = Bench::new();
    bench.secures = false;
    bench.update(10, here(), 50);
    bench.agent.securing_failed(GUEST, bench.secured[0].0, bench.now);
    bench.drain();
    assert_eq!((bench.state(), bench.binding), ("none", None));
    bench.agent.applied(bench.secured[0].0, bench.now);
    bench.at(10.0);
    assert!(bench.answers.is_empty());
    bench.secures = true;
    bench.update(11, here(), 50);
    assert_eq!((bench.state(), bench.secured.len()), ("bound", 2));
}

#[test]
fn a_new_care_of_address_takes_effect_at_once() {
    let mut bench = Bench::bound();
    bench.update(11, there(), 50);
    assert_eq!(bench.binding.unwrap().care_of, there());
    assert_eq!(bench.secured.last().unwrap().1, Some(there()));
    assert_eq!(bench.answers, [Answer { status: 0, sequence: 11, lifetime: 50, via: Some(there()) }]);
    assert_eq!(bench.events, [Event::Moved { from: here(), to: there(), lifetime: Lifetime(50) }]);
    assert!(bench.frames.is_empty(), "the home link has nothing to learn");
}

#[test]
fn a_refresh_extends_and_keeps_the_kernel_state() {
    let mut bench = Bench::bound();
    bench.at(390.0);
    bench.update(11, here(), 100);
    assert_eq!(bench.binding.unwrap().expires, bench.start + Duration::from_secs(790));
    assert_eq!((bench.secured.len(), bench.last()), (1, (0, 11)));
}

#[test]
fn an_old_sequence_number_gets_135_with_the_last_one() {
    let mut bench = Bench::bound();
    for old in [10, 9, 10u16.wrapping_sub(100)] {
        bench.update(old, there(), 50);
        assert_eq!(
            bench.answers.last().unwrap(),
            &Answer { status: 135, sequence: 10, lifetime: 0, via: Some(there()) }
        );
        bench.update(old, there(), 0);
        assert_eq!(bench.last(), (135, 10), "a deletion too");
    }
    assert_eq!(bench.binding.unwrap().care_of, here());
    bench.update(11, there(), 50);
    assert_eq!(bench.last(), (0, 11));
}

#[test]
fn the_binding_ends_with_its_lifetime_but_not_its_sequence_number() {
    let mut bench = Bench::bound();
    bench.at(400.0);
    assert_eq!((bench.state(), bench.binding), ("none", None));
    assert_eq!(bench.events, [Event::Expired]);
    assert_eq!(bench.secured.last().unwrap().1, None);
    bench.update(10, here(), 50);
    assert_eq!(bench.last(), (135, 10), "a recorded update makes no binding");
    bench.update(11, here(), 50);
    assert_eq!(bench.state(), "bound");
}

#[test]
fn deletion_with_lifetime_zero_or_from_home() {
    let mut bench = Bench::bound();
    bench.update(11, here(), 0);
    assert_eq!(bench.answers, [Answer { status: 0, sequence: 11, lifetime: 0, via: Some(here()) }]);
    assert_eq!((bench.state(), bench.binding, bench.secured.last().unwrap().1), ("none", None, None));
    assert_eq!(bench.events, [Event::Deregistered]);

    for (lifetime, options) in [(50, vec![]), (50, vec![MobilityOption::AlternateCareOfAddress(home())]), (0, vec![])] {
        let mut bench = Bench::bound();
        let update = BindingUpdate { options, ..home_registration(11, home(), lifetime) };
        bench.receive(Received { source: home(), destination: us(), care_of: None }, update);
        assert_eq!(bench.answers, [Answer { status: 0, sequence: 11, lifetime: 0, via: None }]);
        assert_eq!(bench.state(), "none");
    }
}

#[test]
fn a_mobile_node_at_home_is_answered_when_the_tunnel_has_gone() {
    let mut bench = Bench::bound();
    bench.secures = false;
    let update = home_registration(11, home(), 0);
    bench.receive(Received { source: home(), destination: us(), care_of: None }, update);
    assert!(bench.answers.is_empty(), "its home address is still routed into the tunnel");
    let (generation, care_of) = *bench.secured.last().unwrap();
    assert_eq!(care_of, None);
    bench.agent.applied(generation, bench.now);
    bench.drain();
    assert_eq!(bench.answers, [Answer { status: 0, sequence: 11, lifetime: 0, via: None }]);
}

#[test]
fn deletion_of_nothing_gets_133_and_older_updates_do_not_come_back() {
    let mut bench = Bench::new();
    bench.update(10, here(), 0);
    assert_eq!(bench.last(), (133, 10));
    bench.update(9, here(), 50);
    assert_eq!(bench.last(), (135, 10), "it was overtaken by the deletion");
    bench.update(3, here(), 0);
    assert_eq!(bench.last(), (133, 3));
    assert_eq!(bench.state(), "none");
}

#[test]
fn detection_probes_and_binds_after_a_second_of_silence() {
    let mut bench = Bench::with(|config| config.detect_duplicates = true);
    bench.update(10, here(), 50);
    let (frame, header, message) = read(&bench.frames[0]);
    assert_eq!(frame.destination, MacAddress([0x33, 0x33, 0xff, 0, 0, 0x10]));
    assert_eq!((header.source, header.destination), (Ipv6Addr::UNSPECIFIED, address("ff02::1:ff00:10")));
    assert_eq!(message, ndisc::Message::NeighborSolicitation(NeighborSolicitation { target: home(), options: vec![] }));
    bench.at(0.999);
    assert_eq!((bench.state(), bench.binding), ("detecting", None));
    assert!(bench.answers.is_empty());
    bench.at(1.0);
    assert_eq!((bench.state(), bench.last()), ("bound", (0, 10)));
    assert_eq!(bench.binding.unwrap().expires, bench.start + Duration::from_secs(201));
    bench.update(11, there(), 50);
    assert_eq!(bench.last(), (0, 11), "a live binding needs no detection");
}

#[test]
fn during_detection_copies_are_ignored_and_newer_updates_replace() {
    let mut bench = Bench::with(|config| config.detect_duplicates = true);
    bench.update(10, here(), 50);
    bench.update(10, here(), 50);
    assert_eq!(bench.discarded(DiscardReason::DetectionUnderWay), 1);
    bench.update(9, there(), 50);
    assert_eq!(bench.last(), (135, 10), "another host with an old number");
    bench.update(11, there(), 60);
    bench.at(1.0);
    assert_eq!(bench.answers.last().unwrap(), &Answer { status: 0, sequence: 11, lifetime: 60, via: Some(there()) });
    assert_eq!((bench.binding.unwrap().care_of, bench.frames.len()), (there(), 2), "one probe, one announcement");
}

#[test]
fn a_deletion_during_detection_cancels_it() {
    let mut bench = Bench::with(|config| config.detect_duplicates = true);
    bench.update(10, here(), 50);
    bench.update(10, here(), 0);
    assert_eq!(bench.discarded(DiscardReason::DetectionUnderWay), 1);
    bench.update(11, here(), 0);
    assert_eq!((bench.state(), bench.last()), ("none", (133, 11)));
    bench.at(10.0);
    assert_eq!((bench.state(), bench.answers.len()), ("none", 1));
}

#[test]
fn an_answer_or_a_probe_of_another_during_detection_gives_134() {
    for frame in [advertisement(home()), solicitation(home(), Ipv6Addr::UNSPECIFIED)] {
        let mut bench = Bench::with(|config| config.detect_duplicates = true);
        bench.update(10, here(), 50);
        bench.hear(&advertisement(other_home()));
        bench.hear(&solicitation(home(), neighbor()));
        assert_eq!(bench.state(), "detecting", "neither another address nor a neighbour's question matters");
        let own = bench.frames[0].clone();
        bench.hear(&own);
        assert_eq!(bench.state(), "detecting", "our own probe, looped back");
        bench.hear(&frame);
        assert_eq!((bench.state(), bench.last()), ("none", (134, 10)));
        assert_eq!(bench.agent.counters().conflicts, 1);
        bench.update(11, here(), 50);
        assert_eq!(bench.state(), "detecting", "the next one is tried again");
    }
}

#[test]
fn nothing_is_announced_before_it_is_carried() {
    let mut bench = Bench::new();
    bench.secures = false;
    bench.update(10, here(), 100);
    bench.at(2.0);
    assert!(bench.frames.is_empty(), "neighbours would be redirected to where the mobile node was");
    assert!(bench.agent.poll_timeout().is_none_or(|(at, _)| at > bench.now), "nothing to wake up for");
    let (generation, _) = bench.secured[0];
    bench.agent.applied(generation, bench.now);
    bench.drain();
    assert_eq!(bench.frames.len(), 1);
    bench.at(10.0);
    assert_eq!(bench.frames.len(), 3);
}

#[test]
fn a_new_binding_is_announced_three_times_a_second_apart() {
    let mut bench = Bench::new();
    bench.update(10, here(), 50);
    assert_eq!(bench.frames.len(), 1);
    bench.at(0.9);
    assert_eq!(bench.frames.len(), 1);
    bench.at(1.0);
    assert_eq!(bench.frames.len(), 2);
    bench.at(100.0);
    assert_eq!(bench.frames.len(), 3);
    for frame in &bench.frames {
        let (frame, header, message) = read(frame);
        assert_eq!(frame.destination, MacAddress([0x33, 0x33, 0, 0, 0, 1]));
        assert_eq!((header.source, header.destination), (us(), ALL_NODES));
        assert_eq!(message, announced(false));
    }
}

fn announced(solicited: bool) -> ndisc::Message {
    ndisc::Message::NeighborAdvertisement(NeighborAdvertisement {
        router: false,
        solicited,
        override_cache: true,
        target: home(),
        options: vec![NeighborOption::TargetLinkLayerAddress(OUR_MAC)],
    })
}

#[test]
fn solicitations_for_bound_home_addresses_are_answered_and_no_others() {
    let mut bench = Bench::bound();
    bench.hear(&solicitation(home(), neighbor()));
    let (frame, header, message) = read(&bench.frames[0]);
    assert_eq!((frame.destination, header.source, header.destination), (NEIGHBOR_MAC, us(), neighbor()));
    assert_eq!(message, announced(true));
    assert_eq!(bench.agent.counters().solicitations_answered, 1);
    bench.hear(&solicitation(other_home(), neighbor()));
    bench.hear(&solicitation(neighbor(), address("fe80::7")));
    bench.hear(&[]);
    let mut to_someone_else = solicitation(home(), neighbor());
    to_someone_else[0] = 0x02;
    bench.hear(&to_someone_else);
    assert_eq!(bench.frames.len(), 1);
    bench.update(11, here(), 0);
    bench.hear(&solicitation(home(), neighbor()));
    assert_eq!(bench.frames.len(), 1, "no proxying after the end of the binding");
}

#[test]
fn a_probe_for_a_bound_home_address_is_answered_to_all_nodes() {
    let mut bench = Bench::bound();
    for count in 1..4 {
        bench.hear(&solicitation(home(), Ipv6Addr::UNSPECIFIED));
        assert_eq!(bench.frames.len(), count);
        let (_, header, message) = read(&bench.frames[count - 1]);
        assert_eq!((header.destination, message), (ALL_NODES, announced(false)));
    }
}

#[test]
fn that_the_home_address_is_to_be_found_here_is_no_conflict() {
    let message = ndisc::Message::NeighborAdvertisement(NeighborAdvertisement {
        router: false,
        solicited: false,
        override_cache: true,
        target: home(),
        options: vec![NeighborOption::TargetLinkLayerAddress(OUR_MAC)],
    });
    let mut bench = Bench::bound();
    bench.hear(&heard(&message, home(), ALL_NODES));
    assert_eq!((&bench.events[..], bench.frames.len(), bench.agent.counters().conflicts), (&[][..], 0, 0));
}

#[test]
fn another_user_of_a_bound_home_address_is_reported_and_answered_at_a_bounded_rate() {
    let mut bench = Bench::bound();
    for _ in 0..5 {
        bench.hear(&advertisement(home()));
    }
    assert_eq!(bench.events, [Event::AddressConflict { link_layer_address: NEIGHBOR_MAC }]);
    assert_eq!((bench.frames.len(), bench.agent.counters().conflicts), (1, 5));
    bench.at(13.0);
    bench.hear(&advertisement(home()));
    assert_eq!((bench.events.len(), bench.frames.len()), (2, 2));
}

#[test]
fn unknown_home_addresses_get_132_or_133() {
    let mut bench = Bench::new();
    for (home_address, status) in [("2001:db8:2000::99", 133), ("2001:db8:9000::10", 132)] {
        bench.receive(from(address(home_address), here()), home_registration(7, here(), 50));
        assert_eq!(bench.last(), (status, 7));
        assert_eq!(bench.answers.last().unwrap().via, Some(here()));
    }
}

#[test]
fn more_bindings_than_the_limit_get_130() {
    let mut bench = Bench::with(|config| config.maximum_bindings = 1);
    bench.receive(from(other_home(), here()), home_registration(1, here(), 2));
    bench.update(10, here(), 50);
    assert_eq!(bench.last(), (130, 10));
    bench.receive(from(other_home(), there()), home_registration(2, there(), 2));
    assert_eq!(bench.last(), (0, 2), "those there are can be refreshed");
    bench.at(8.0);
    bench.update(11, here(), 50);
    assert_eq!(bench.last(), (0, 11));
}

#[test]
fn a_change_of_the_mobile_router_flag_gets_139_and_one_of_k_does_not() {
    let mut bench = Bench::bound();
    let mut update = home_registration(11, here(), 50);
    update.flags.key_management_mobility = true;
    bench.receive(from(home(), here()), update.clone());
    assert_eq!(bench.last(), (0, 11));
    update.sequence = SequenceNumber(12);
    update.flags.other = 0x0400;
    bench.receive(from(home(), here()), update.clone());
    assert_eq!(bench.last(), (139, 12));
    assert_eq!(bench.state(), "bound");
}

#[test]
fn a_home_address_as_care_of_address_of_another_gets_129() {
    let mut bench = Bench::new();
    bench.update(10, other_home(), 50);
    assert_eq!((bench.last(), bench.state()), ((129, 10), "none"));
}

#[test]
fn without_a_success_is_not_answered_but_a_refusal_is() {
    let mut bench = Bench::new();
    let mut update = home_registration(10, here(), 50);
    update.flags.acknowledge = false;
    bench.receive(from(home(), here()), update.clone());
    assert_eq!((bench.state(), bench.answers.len()), ("bound", 0));
    bench.receive(from(home(), here()), update);
    assert_eq!(bench.last(), (135, 10));
}

#[test]
fn the_alternate_care_of_address_wins_over_the_source_and_the_answer_goes_to_the_source() {
    let mut bench = Bench::new();
    bench.receive(from(home(), there()), home_registration(10, here(), 50));
    assert_eq!(bench.binding.unwrap().care_of, here());
    assert_eq!(bench.answers[0].via, Some(there()));
    let plain = BindingUpdate { options: vec![], ..home_registration(11, here(), 50) };
    bench.receive(from(home(), there()), plain);
    assert_eq!(bench.binding.unwrap().care_of, there());
}

#[test]
fn what_must_not_be_answered_is_counted() {
    let mut bench = Bench::new();
    let good = home_registration(10, here(), 50);
    let options = |options| BindingUpdate { options, ..home_registration(10, here(), 50) };
    let alternate = MobilityOption::AlternateCareOfAddress;

    let mut correspondent = good.clone();
    correspondent.flags.home_registration = false;
    bench.receive(from(home(), here()), correspondent);
    assert_eq!(bench.discarded(DiscardReason::NotHomeRegistration), 1);

    bench.receive(Received { destination: neighbor(), ..from(home(), here()) }, good.clone());
    assert_eq!(bench.discarded(DiscardReason::NotForUs), 1);

    bench.receive(Received { care_of: None, ..from(home(), here()) }, good.clone());
    assert_eq!(bench.discarded(DiscardReason::MissingHomeAddressOption), 1);

    for bad in [address("fe80::1"), address("ff02::1"), Ipv6Addr::UNSPECIFIED, us()] {
        bench.receive(from(home(), here()), options(vec![alternate(bad)]));
        bench.receive(from(home(), bad), good.clone());
    }
    assert_eq!(bench.discarded(DiscardReason::InvalidCareOfAddress), 8);

    bench.receive(from(home(), here()), options(vec![MobilityOption::NonceIndices { home: 1, care_of: 1 }]));
    bench.receive(from(home(), here()), options(vec![alternate(here()), alternate(here())]));
    assert_eq!(bench.discarded(DiscardReason::ForbiddenOption), 2);

    bench.agent.handle_binding_update(from(home(), here()), &[59, 0, 5], bench.now);
    bench.drain();
    assert_eq!(bench.discarded(DiscardReason::Malformed), 1);
    bench.agent.handle_binding_update(from(home(), here()), &Message::BindingRefreshRequest.emit(), bench.now);
    bench.drain();
    assert_eq!(bench.discarded(DiscardReason::UnexpectedMessage), 1);
    bench.agent.handle_binding_update(from(home(), here()), &[59, 0, 99, 0, 0, 0, 0, 0], bench.now);
    bench.drain();
    assert_eq!(bench.discarded(DiscardReason::UnknownType), 1);
    bench.receive(from(address("ff02::1"), here()), good.clone());
    assert_eq!(bench.agent.counters().discarded[&DiscardReason::InvalidHomeAddress], 1);

    assert!(bench.answers.is_empty() && bench.secured.is_empty() && bench.state() == "none");
    let unknown = MobilityOption::Unknown { option_type: 99, data: vec![1] };
    bench.receive(from(home(), here()), options(vec![unknown.clone(), unknown]));
    assert_eq!(bench.state(), "bound", "unknown options are skipped");
}
