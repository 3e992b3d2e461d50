//! Every transition of the home registration.
#![expect(clippy::disallowed_methods, reason = "an Instant to count from")]

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

mod homecoming;
mod preparation;

use super::*;
use crate::wire::mobility::{BindingAcknowledgement, BindingError, BindingUpdate, MobilityOption, Status};

const GUEST: GuestId = GuestId(0);

fn address(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}
fn home() -> Ipv6Addr {
    address("2001:db8:2000::10")
}
fn home_agent() -> Ipv6Addr {
    address("2001:db8:2000::1")
}
fn here() -> Ipv6Addr {
    address("2001:db8:3000::3")
}
fn there() -> Ipv6Addr {
    address("2001:db8:4000::3")
}

/// An engine with one guest, simulated time, and everything that came out of it.
struct Bench {
    node: MobileNode,
    start: Instant,
    now: Instant,
    /// Whether generations are applied as soon as they are asked for.
    secures: bool,
    updates: Vec<BindingUpdate>,
    events: Vec<Event>,
    binding: Option<Binding>,
    secured: Vec<(Generation, Option<Ipv6Addr>)>,
}

impl Bench {
    fn new(lifetime: u16) -> Self {
        let mut node = MobileNode::new();
        node.add_guest(
            GUEST,
            GuestConfig {
                home_address: home(),
                home_agent: home_agent(),
                lifetime: Lifetime(lifetime),
                last_sequence: SequenceNumber(0),
                key_management_mobility: false,
            },
        );
        let start = Instant::now();
        Self {
            node,
            start,
            now: start,
            secures: true,
            updates: Vec::new(),
            events: Vec::new(),
            binding: None,
            secured: Vec::new(),
        }
    }

    /// Registered at `here` with `lifetime` units.
    fn bound(lifetime: u16) -> Self {
        let mut bench = Self::new(lifetime);
        bench.attach(here());
        bench.answer(Status::ACCEPTED, lifetime);
        assert_eq!(bench.state(), "bound");
        bench.updates.clear();
        bench.events.clear();
        bench
    }

    fn drain(&mut self) {
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Secure { generation, care_of, .. } => {
                    self.secured.push((generation, care_of));
                    if self.secures {
                        self.node.applied(generation, self.now);
                    }
                }
                Output::Transmit { sequence, source, destination, message, .. } => {
                    assert_eq!((source, destination), (home(), home_agent()));
                    let Message::BindingUpdate(update) = Message::parse(&message).unwrap() else { panic!() };
                    assert_eq!(update.sequence, sequence);
                    self.updates.push(update);
                }
                Output::Binding { binding, .. } => self.binding = binding,
                Output::Event { event, .. } => self.events.push(event),
            }
        }
    }

    fn attach(&mut self, care_of: Ipv6Addr) {
        self.node.attach(GUEST, care_of, self.now);
        self.drain();
    }

    fn care_of(&mut self, care_of: Option<Ipv6Addr>) {
        self.node.care_of_changed(GUEST, care_of, self.now);
        self.drain();
    }

    fn deregister(&mut self) {
        self.node.deregister(GUEST, self.now);
        self.drain();
    }

    fn receive(&mut self, message: Message) {
        self.node.handle_message(home_agent(), home(), &message.emit(), self.now);
        self.drain();
    }

    fn acknowledge(&mut self, status: Status, sequence: u16, lifetime: u16) {
        self.receive(acknowledgement(status, sequence, lifetime, Vec::new()));
    }

    /// Answers the last update.
    fn answer(&mut self, status: Status, lifetime: u16) {
        let sequence = self.updates.last().unwrap().sequence.0;
        self.acknowledge(status, sequence, lifetime);
    }

    /// Goes to `seconds` after the start, stopping at each deadline.
    fn at(&mut self, seconds: f64) {
        let end = self.start + Duration::from_secs_f64(seconds);
        while let Some((next, _)) = self.node.poll_timeout().filter(|(next, _)| *next <= end) {
            self.now = self.now.max(next);
            self.node.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
        self.node.handle_timeout(end);
        self.drain();
    }

    fn state(&self) -> &'static str {
        self.node.state(GUEST).unwrap().state
    }

    fn sequences(&self) -> Vec<u16> {
        self.updates.iter().map(|update| update.sequence.0).collect()
    }

    fn next_in(&self) -> f64 {
        self.node.poll_timeout().unwrap().0.duration_since(self.start).as_secs_f64()
    }
}

fn acknowledgement(status: Status, sequence: u16, lifetime: u16, options: Vec<MobilityOption>) -> Message {
    Message::BindingAcknowledgement(BindingAcknowledgement {
        status,
        key_management_mobility: false,
        sequence: SequenceNumber(sequence),
        lifetime: Lifetime(lifetime),
        options,
    })
}

#[test]
fn registers_with_acknowledge_home_registration_and_alternate_care_of_address() {
    let mut bench = Bench::new(150);
    bench.attach(here());
    let [update] = bench.updates.as_slice() else { panic!("{:?}", bench.updates) };
    assert!(update.flags.acknowledge && update.flags.home_registration && !update.flags.key_management_mobility);
    assert_eq!(update.lifetime, Lifetime(150));
    assert_eq!(update.sequence, SequenceNumber(1));
    assert_eq!(update.alternate_care_of_address(), Some(here()));
    assert_eq!(bench.binding, None, "nothing is carried before the acknowledgement");
    bench.answer(Status::ACCEPTED, 150);
    let binding = bench.binding.unwrap();
    assert_eq!((binding.care_of, binding.home_agent), (here(), home_agent()));
    assert_eq!(binding.expires, bench.start + Duration::from_secs(600));
    assert_eq!(bench.next_in(), 570.0, "refresh at 95 %");
}

#[test]
fn nothing_leaves_before_the_kernel_state_is_in_force() {
    let mut bench = Bench::new(150);
    bench.secures = false;
    bench.attach(here());
    bench.at(100.0);
    assert_eq!(bench.state(), "securing");
    assert!(bench.updates.is_empty());
    let (generation, care_of) = bench.secured[0];
    assert_eq!(care_of, Some(here()));
    bench.node.applied(generation, bench.now);
    bench.drain();
    assert_eq!(bench.sequences(), [1]);
}

#[test]
fn a_failure_to_secure_is_tried_again_and_a_later_generation_of_others_does_not_open_the_fence() {
    let mut bench = Bench::new(150);
    bench.secures = false;
    bench.attach(here());
    bench.node.securing_failed(GUEST, bench.secured[0].0, bench.now);
    bench.node.applied(Generation(100), bench.now);
    bench.drain();
    assert!(bench.updates.is_empty());
    assert_eq!(bench.state(), "securing-failed");
    bench.at(1.0);
    assert_eq!(bench.secured.len(), 2, "asked again after a second");
    bench.node.securing_failed(GUEST, bench.secured[1].0, bench.now);
    bench.drain();
    assert_eq!(bench.next_in(), 3.0, "and then after two more");
    bench.secures = true;
    bench.at(3.0);
    assert_eq!(bench.sequences(), [1]);
}

#[test]
fn what_is_in_force_no_more_stops_signaling_until_it_is_again() {
    let mut bench = Bench::new(150);
    bench.attach(here());
    bench.acknowledge(Status::ACCEPTED, 1, 150);
    bench.secures = false;
    bench.node.no_longer_secured(GUEST, bench.now);
    bench.node.no_longer_secured(GUEST, bench.now);
    bench.drain();
    assert_eq!(bench.state(), "securing-failed");
    assert!(bench.binding.is_some(), "the home agent has the binding, and data pass");
    assert_eq!(bench.next_in(), 1.0, "told twice, tried again once");
    bench.node.refresh(GUEST, bench.now);
    bench.node.care_of_changed(GUEST, Some(there()), bench.now);
    bench.drain();
    assert_eq!(bench.sequences(), [1], "nothing more was sent");
    let asked = bench.secured.last().unwrap().0;
    bench.node.applied(asked, bench.now);
    bench.drain();
    assert_eq!(bench.sequences(), [1, 2]);
}

#[test]
fn the_first_registration_is_retransmitted_after_1_5_s_doubling_to_32_s_with_new_numbers() {
    let mut bench = Bench::new(150);
    bench.attach(here());
    let mut times = Vec::new();
    for _ in 0..7 {
        let next = bench.next_in();
        times.push(next);
        bench.at(next);
    }
    assert_eq!(times, [1.5, 4.5, 10.5, 22.5, 46.5, 78.5, 110.5]);
    assert_eq!(bench.sequences(), [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(bench.node.counters().retransmissions, 7);
}

#[test]
fn an_acknowledgement_of_the_first_transmission_counts_after_a_retransmission() {
    let mut bench = Bench::new(150);
    bench.attach(here());
    bench.at(2.0);
    assert_eq!(bench.sequences(), [1, 2]);
    bench.acknowledge(Status::ACCEPTED, 1, 150);
    assert_eq!(bench.binding.unwrap().expires, bench.start + Duration::from_secs(600), "counted from the first");
}

#[test]
fn a_repeated_first_registration_without_135_is_confirmed_once_far_ahead() {
    let mut bench = Bench::new(150);
    bench.attach(here());
    bench.at(2.0);
    bench.answer(Status::ACCEPTED, 150);
    assert_eq!((bench.state(), bench.sequences().as_slice()), ("refreshing", [1, 2, 130].as_slice()));
    assert!(bench.binding.is_some());
    bench.at(3.0);
    assert_eq!(bench.sequences(), [1, 2, 130, 131]);
    bench.answer(Status::ACCEPTED, 150);
    assert_eq!((bench.state(), bench.sequences().len()), ("bound", 4));

    let mut bench = Bench::new(150);
    bench.attach(here());
    bench.at(2.0);
    bench.acknowledge(Status::SEQUENCE_NUMBER_OUT_OF_WINDOW, 70, 0);
    bench.answer(Status::ACCEPTED, 150);
    assert_eq!(bench.sequences(), [1, 2, 70 + TAKEOVER_DISTANCE], "known to be far ahead");
}

#[test]
fn acknowledgements_that_do_not_fit_are_counted_and_change_nothing() {
    let mut bench = Bench::new(150);
    bench.attach(here());
    bench.acknowledge(Status::ACCEPTED, 7, 150);
    let good = acknowledgement(Status::ACCEPTED, 1, 150, Vec::new()).emit();
    bench.node.handle_message(there(), home(), &good, bench.now);
    bench.node.handle_message(home_agent(), there(), &good, bench.now);
    bench.node.handle_message(home_agent(), home(), &good[..7], bench.now);
    bench.node.handle_message(home_agent(), home(), &[59, 0, 99, 0, 0, 0, 0, 0], bench.now);
    bench.drain();
    assert_eq!(bench.state(), "registering");
    let counted: Vec<(DiscardReason, u64)> = bench.node.counters().discarded.into_iter().collect();
    assert_eq!(
        counted,
        [
            (DiscardReason::UnknownHomeAddress, 1),
            (DiscardReason::Malformed, 1),
            (DiscardReason::NotFromHomeAgent, 1),
            (DiscardReason::SequenceMismatch, 1),
            (DiscardReason::UnknownType, 1),
        ]
    );
    bench.acknowledge(Status::ACCEPTED, 1, 150);
    bench.acknowledge(Status::ACCEPTED, 1, 150);
    assert_eq!(bench.node.counters().discarded[&DiscardReason::NothingOutstanding], 1, "the second one");
}

#[test]
fn a_longer_lifetime_than_asked_for_is_cut_and_a_shorter_one_taken() {
    let mut bench = Bench::new(10);
    bench.attach(here());
    bench.answer(Status::ACCEPTED, 1000);
    assert_eq!(bench.binding.unwrap().expires, bench.start + Duration::from_secs(40));
    bench.at(33.0);
    bench.answer(Status::ACCEPTED, 5);
    assert_eq!(bench.binding.unwrap().expires, bench.start + Duration::from_secs(33 + 20));
}

#[test]
fn refresh_advice_is_followed_when_shorter() {
    for (advice, refresh) in [(50, 200.0), (149, 570.0), (150, 570.0), (0, 570.0)] {
        let mut bench = Bench::new(150);
        bench.attach(here());
        bench.receive(acknowledgement(Status::ACCEPTED, 1, 150, vec![MobilityOption::BindingRefreshAdvice(advice)]));
        assert_eq!(bench.next_in(), refresh, "advice {advice}");
        assert_eq!(bench.binding.unwrap().expires, bench.start + Duration::from_secs(600), "the binding still lives");
    }
}

#[test]
fn refreshes_start_with_a_1_s_timer_and_keep_the_binding() {
    let mut bench = Bench::bound(150);
    bench.at(570.0);
    assert_eq!((bench.state(), bench.sequences().as_slice()), ("refreshing", [2].as_slice()));
    assert_eq!(bench.next_in(), 571.0);
    bench.at(571.0);
    assert_eq!(bench.next_in(), 573.0);
    bench.answer(Status::ACCEPTED, 150);
    assert_eq!(bench.events.last(), Some(&Event::Refreshed { lifetime: Lifetime(150) }));
    assert_eq!(bench.binding.unwrap().expires, bench.start + Duration::from_secs(571 + 600));
    bench.at(571.0 + 570.0);
    assert_eq!(bench.next_in(), 571.0 + 571.0, "the back-off starts anew");
}

#[test]
fn an_unanswered_refresh_ends_the_binding_but_not_the_registration() {
    let mut bench = Bench::bound(2);
    bench.at(8.0);
    assert_eq!(bench.binding, None);
    assert_eq!(bench.state(), "registering");
    assert!(bench.events.contains(&Event::Expired));
    bench.at(20.0);
    bench.answer(Status::ACCEPTED, 2);
    assert_eq!(bench.state(), "bound");
}

#[test]
fn an_acknowledgement_that_comes_after_the_lifetime_it_grants_makes_no_binding() {
    let mut bench = Bench::new(1);
    bench.attach(here());
    bench.at(5.0);
    bench.acknowledge(Status::ACCEPTED, 1, 1);
    assert_eq!(bench.state(), "registering");
    assert_eq!(bench.node.counters().discarded[&DiscardReason::AlreadyExpired], 1);
}

#[test]
fn every_refusal_is_tried_again_after_its_own_pause() {
    for (status, pauses) in
        [(128, [2.0, 4.0]), (130, [2.0, 4.0]), (134, [1.0, 2.0]), (129, [60.0, 60.0]), (200, [60.0, 60.0])]
    {
        let mut bench = Bench::new(150);
        bench.attach(here());
        bench.answer(Status(status), 0);
        assert_eq!(bench.state(), "refused");
        assert_eq!(bench.node.state(GUEST).unwrap().refused, Some(Status(status)));
        assert_eq!(bench.next_in(), pauses[0], "status {status}");
        bench.at(pauses[0]);
        bench.answer(Status(status), 0);
        assert_eq!(bench.next_in(), pauses[0] + pauses[1], "status {status}");
        bench.at(pauses[0] + pauses[1]);
        bench.answer(Status::ACCEPTED, 150);
        assert_eq!(bench.node.state(GUEST).unwrap().refused, None);
    }
}

#[test]
fn a_refused_refresh_keeps_the_binding_until_it_expires() {
    let mut bench = Bench::bound(5);
    bench.at(13.0);
    bench.answer(Status::ADMINISTRATIVELY_PROHIBITED, 0);
    assert!(bench.binding.is_some());
    bench.at(20.0);
    assert_eq!((bench.state(), bench.binding), ("refused", None));
}

#[test]
fn status_135_is_adopted_at_the_first_registration_and_sent_again_at_once() {
    let mut bench = Bench::new(150);
    bench.attach(here());
    bench.acknowledge(Status::SEQUENCE_NUMBER_OUT_OF_WINDOW, 1000, 0);
    assert_eq!(bench.sequences(), [1, 1000 + TAKEOVER_DISTANCE]);
    assert_eq!(bench.events[0], Event::SequenceAdopted { last_accepted: SequenceNumber(1000) });
    bench.answer(Status::ACCEPTED, 150);
    assert_eq!(bench.state(), "bound");
}

#[test]
fn status_135_is_adopted_when_the_home_agent_has_just_our_number() {
    let mut bench = Bench::new(150);
    bench.attach(here());
    bench.acknowledge(Status::SEQUENCE_NUMBER_OUT_OF_WINDOW, 1, 0);
    assert_eq!(bench.sequences(), [1, 1 + TAKEOVER_DISTANCE / 2]);
}

#[test]
fn status_135_after_an_acceptance_stops_until_attached_again() {
    let mut bench = Bench::bound(150);
    bench.at(570.0);
    bench.acknowledge(Status::SEQUENCE_NUMBER_OUT_OF_WINDOW, 300, 0);
    assert_eq!((bench.state(), bench.binding), ("stopped", None));
    let reason = StopReason::TakenOver { last_accepted: SequenceNumber(300) };
    assert_eq!(bench.events.last(), Some(&Event::Stopped(reason)));
    assert_eq!(bench.secured.last().unwrap().1, None, "the kernel state goes");
    bench.updates.clear();
    bench.care_of(Some(there()));
    bench.receive(Message::BindingRefreshRequest);
    bench.deregister();
    bench.at(100_000.0);
    assert!(bench.updates.is_empty());
    bench.attach(here());
    assert_eq!(bench.sequences(), [3]);
    bench.acknowledge(Status::SEQUENCE_NUMBER_OUT_OF_WINDOW, 300, 0);
    assert_eq!(bench.sequences(), [3, 300 + TAKEOVER_DISTANCE], "adopted: the guest is back here");
}

#[test]
fn an_echo_of_our_own_number_with_status_135_does_not_stop() {
    let mut bench = Bench::bound(150);
    bench.at(571.0);
    assert_eq!(bench.sequences(), [2, 3]);
    for last in [1, 2, 3] {
        bench.acknowledge(Status::SEQUENCE_NUMBER_OUT_OF_WINDOW, last, 0);
    }
    assert_eq!(bench.state(), "refreshing");
    assert_eq!(bench.node.counters().discarded[&DiscardReason::StaleOutOfWindow], 3);
}

#[test]
fn a_handover_secures_then_sends_at_once_and_carries_the_new_address_after_the_acknowledgement() {
    let mut bench = Bench::bound(150);
    bench.at(10.0);
    bench.care_of(Some(there()));
    assert_eq!(bench.secured.last().unwrap().1, Some(there()));
    assert_eq!(bench.updates[0].alternate_care_of_address(), Some(there()));
    assert_eq!(bench.binding.unwrap().care_of, here());
    assert_eq!(bench.next_in(), 11.0, "there is a binding at the home agent: 1 s");
    bench.answer(Status::ACCEPTED, 150);
    assert_eq!(bench.binding.unwrap().care_of, there());
    assert!(bench.events.contains(&Event::Registered { care_of: there(), lifetime: Lifetime(150) }));
}

#[test]
fn an_acknowledgement_of_the_old_care_of_address_does_not_count_after_a_handover() {
    let mut bench = Bench::new(150);
    bench.attach(here());
    bench.care_of(Some(there()));
    bench.acknowledge(Status::ACCEPTED, 1, 150);
    assert_eq!(bench.state(), "registering");
    bench.acknowledge(Status::ACCEPTED, 2, 150);
    assert_eq!(bench.binding.unwrap().care_of, there());
}

#[test]
fn the_same_care_of_address_again_changes_nothing() {
    let mut bench = Bench::bound(150);
    bench.care_of(Some(here()));
    assert_eq!((bench.state(), bench.updates.len(), bench.secured.len()), ("bound", 0, 1));
}

#[test]
fn without_uplink_it_waits_and_carries_nothing() {
    let mut bench = Bench::bound(150);
    bench.care_of(None);
    assert_eq!((bench.state(), bench.binding), ("waiting", None));
    assert_eq!(bench.secured.last().unwrap().1, None);
    assert_eq!(bench.node.poll_timeout(), None);
    bench.care_of(Some(here()));
    assert_eq!(bench.sequences(), [2]);
    bench.node.attach(GUEST, None, bench.now);
    bench.drain();
    assert_eq!(bench.state(), "waiting");
}

#[test]
fn deregistration_asks_for_lifetime_zero_and_ends_with_the_acknowledgement() {
    let mut bench = Bench::bound(150);
    bench.deregister();
    assert_eq!(bench.updates[0].lifetime, Lifetime::ZERO);
    assert!(bench.binding.is_some(), "carried until it is acknowledged");
    bench.answer(Status::ACCEPTED, 0);
    assert_eq!((bench.state(), bench.binding), ("detached", None));
    assert_eq!(bench.events.last(), Some(&Event::Deregistered(Outcome::Acknowledged)));
    assert_eq!(bench.secured.last().unwrap().1, None);
    assert_eq!(bench.node.poll_timeout(), None);
}

#[test]
fn deregistration_is_given_up_after_four_transmissions() {
    let mut bench = Bench::bound(150);
    bench.deregister();
    bench.at(14.9);
    assert_eq!(bench.sequences(), [2, 3, 4, 5]);
    assert_eq!(bench.state(), "deregistering");
    bench.at(15.0);
    assert_eq!(bench.events.last(), Some(&Event::Deregistered(Outcome::Unanswered)));
    assert_eq!((bench.state(), bench.binding, bench.sequences().len()), ("detached", None, 4));
}

#[test]
fn deregistration_has_an_outcome_from_every_state() {
    let ends = |prepare: &dyn Fn(&mut Bench), expected: Outcome| {
        let mut bench = Bench::new(150);
        prepare(&mut bench);
        bench.deregister();
        assert_eq!(bench.events.last(), Some(&Event::Deregistered(expected)));
        bench.at(1000.0);
        assert!(bench.updates.iter().all(|update| !update.lifetime.is_zero()) || expected != Outcome::NothingSent);
    };
    ends(&|_| {}, Outcome::NothingSent);
    ends(
        &|bench| {
            bench.secures = false;
            bench.attach(here());
        },
        Outcome::NothingSent,
    );
    ends(
        &|bench| {
            bench.attach(here());
            bench.care_of(None);
        },
        Outcome::NoCareOfAddress,
    );
    ends(
        &|bench| {
            bench.attach(here());
            bench.answer(Status::NOT_HOME_SUBNET, 0);
        },
        Outcome::NoBinding,
    );
    for (status, outcome) in [(133, Outcome::NoBinding), (128, Outcome::Refused(Status(128)))] {
        let mut bench = Bench::bound(150);
        bench.deregister();
        bench.answer(Status(status), 0);
        assert_eq!(bench.events.last(), Some(&Event::Deregistered(outcome)));
    }
    let mut bench = Bench::bound(150);
    bench.deregister();
    bench.acknowledge(Status::SEQUENCE_NUMBER_OUT_OF_WINDOW, 300, 0);
    assert_eq!(bench.events.last(), Some(&Event::Deregistered(Outcome::TakenOver)));
    assert_eq!(bench.state(), "stopped");
}

#[test]
fn deregistration_follows_a_change_of_care_of_address() {
    let mut bench = Bench::bound(150);
    bench.deregister();
    bench.care_of(Some(there()));
    assert_eq!(bench.state(), "deregistering");
    assert_eq!(bench.updates.last().unwrap().alternate_care_of_address(), Some(there()));
    bench.care_of(None);
    assert_eq!(bench.events.last(), Some(&Event::Deregistered(Outcome::NoCareOfAddress)));
}

#[test]
fn detach_sends_nothing_ever_again() {
    let mut bench = Bench::bound(150);
    bench.node.detach(GUEST, bench.now);
    bench.at(10_000.0);
    assert_eq!((bench.state(), bench.binding, bench.updates.len()), ("detached", None, 0));
    bench.care_of(Some(there()));
    assert!(bench.updates.is_empty());
}

#[test]
fn hints_refresh_at_once_but_not_too_often() {
    let hints = [
        Message::BindingRefreshRequest,
        Message::BindingError(BindingError { status: 1, home_address: home() }),
        Message::BindingError(BindingError { status: 1, home_address: Ipv6Addr::UNSPECIFIED }),
    ];
    for hint in hints {
        let mut bench = Bench::bound(150);
        bench.receive(hint.clone());
        assert_eq!((bench.state(), bench.sequences().as_slice()), ("refreshing", [2].as_slice()));
        assert!(bench.binding.is_some());
        bench.answer(Status::ACCEPTED, 150);
        bench.receive(hint.clone());
        assert_eq!(bench.state(), "bound", "too soon");
        bench.at(5.0);
        bench.receive(hint);
        assert_eq!(bench.state(), "refreshing");
    }
    let mut bench = Bench::bound(150);
    bench.receive(Message::BindingError(BindingError { status: 1, home_address: there() }));
    bench.receive(Message::BindingError(BindingError { status: 2, home_address: home() }));
    assert_eq!(bench.state(), "bound");
    assert_eq!(bench.events.last(), Some(&Event::BindingError { status: 2 }));
    assert_eq!(bench.node.counters().discarded[&DiscardReason::OtherHomeAddress], 1);
}

#[test]
fn no_more_than_three_updates_leave_in_a_second() {
    let mut bench = Bench::new(150);
    bench.attach(here());
    for n in 0..5 {
        bench.care_of(Some(if n % 2 == 0 { there() } else { here() }));
    }
    assert_eq!(bench.updates.len(), 3);
    assert_eq!(bench.next_in(), 1.0);
    bench.at(1.0);
    assert_eq!(bench.updates.last().unwrap().alternate_care_of_address(), Some(there()));
}

#[test]
fn status_1_is_an_acceptance() {
    let mut bench = Bench::new(150);
    bench.attach(here());
    bench.answer(Status::ACCEPTED_PREFIX_DISCOVERY_NECESSARY, 150);
    assert_eq!(bench.state(), "bound");
    assert_eq!(bench.events.last(), Some(&Event::PrefixDiscoveryNecessary));
}

#[test]
fn sequence_numbers_continue_from_storage_and_wrap() {
    let mut node = MobileNode::new();
    let config = GuestConfig {
        home_address: home(),
        home_agent: home_agent(),
        lifetime: Lifetime::ZERO,
        last_sequence: SequenceNumber(65535),
        key_management_mobility: true,
    };
    node.add_guest(GUEST, config);
    let mut bench = Bench { node, ..Bench::new(1) };
    bench.attach(here());
    assert_eq!(bench.sequences(), [0]);
    assert!(bench.updates[0].flags.key_management_mobility);
    assert_eq!(bench.updates[0].lifetime, Lifetime(1), "zero would be a de-registration");
}
