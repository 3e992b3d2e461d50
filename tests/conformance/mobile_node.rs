//! The mobile node, driven with octets.

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use kagemusha::signaling::mobile_node::{GuestConfig, MobileNode, Output};
use kagemusha::vocabulary::{Lifetime, SequenceNumber};

use super::{GUEST, care_of_address, home_address, home_agent_address};

/// A mobile node with one guest, and the mobility headers it sends with their time in milliseconds.
pub(crate) struct Node {
    pub engine: MobileNode,
    start: Instant,
    now: Instant,
    pub sent: Vec<(u128, Vec<u8>)>,
}

impl Node {
    pub(crate) fn attached(last_sequence: u16, lifetime: u16) -> Self {
        Self::attached_at(care_of_address(), last_sequence, lifetime)
    }

    /// Attached at time 0. `lifetime` in units of 4 seconds.
    pub(crate) fn attached_at(care_of: Ipv6Addr, last_sequence: u16, lifetime: u16) -> Self {
        let mut engine = MobileNode::new();
        let config = GuestConfig {
            home_address: home_address(),
            home_agent: home_agent_address(),
            lifetime: Lifetime(lifetime),
            last_sequence: SequenceNumber(last_sequence),
            key_management_mobility: false,
        };
        engine.add_guest(GUEST, config);
        let start = Instant::now();
        engine.attach(GUEST, care_of, start);
        let mut node = Self { engine, start, now: start, sent: Vec::new() };
        node.drain();
        node
    }

    fn drain(&mut self) {
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Secure { generation, .. } => self.engine.applied(generation, self.now),
                Output::Transmit { message, .. } => {
                    self.sent.push((self.now.duration_since(self.start).as_millis(), message));
                }
                Output::Binding { .. } | Output::Event { .. } => {}
            }
        }
    }

    pub(crate) fn receive(&mut self, message: &[u8]) {
        self.engine.handle_message(home_agent_address(), home_address(), message, self.now);
        self.drain();
    }

    fn until(&mut self, milliseconds: u64) {
        let end = self.start + Duration::from_millis(milliseconds);
        while let Some((next, _)) = self.engine.poll_timeout().filter(|(next, _)| *next <= end) {
            self.now = next;
            self.engine.handle_timeout(next);
            self.drain();
        }
        self.now = end;
    }

    pub(crate) fn state(&self) -> &'static str {
        self.engine.state(GUEST).unwrap().state
    }

    fn sequences(&self) -> Vec<u16> {
        self.sent.iter().map(|(_, message)| u16::from_be_bytes([message[6], message[7]])).collect()
    }

    fn times(&self) -> Vec<u128> {
        self.sent.iter().map(|(at, _)| *at).collect()
    }
}

/// A binding acknowledgement: no next header, 16 octets, type 6, PadN.
fn acknowledgement(status: u8, sequence: u16, lifetime: u16) -> Vec<u8> {
    let [s1, s0] = sequence.to_be_bytes();
    let [l1, l0] = lifetime.to_be_bytes();
    vec![59, 1, 6, 0, 0, 0, status, 0, s1, s0, l1, l0, 1, 2, 0, 0]
}

#[test]
fn rfc6275_11_7_1_a_home_registration_has_h_and_a_and_the_care_of_address_in_a_protected_option() {
    let node = Node::attached(0x1233, 0x0096);
    let [(0, message)] = node.sent.as_slice() else { panic!("{:?}", node.sent) };
    let mut expected = vec![59, 3, 5, 0, 0, 0, 0x12, 0x34, 0xc0, 0x00, 0x00, 0x96, 1, 0, 3, 16];
    expected.extend(care_of_address().octets());
    assert_eq!(message, &expected, "type 5, sequence, A and H, lifetime, Pad(N) to 8n+6, alternate care-of address");
}

#[test]
fn rfc6275_11_8_retransmission_starts_with_1_5_s_doubles_and_stays_at_32_s() {
    let mut node = Node::attached(0, 150);
    node.until(142_500);
    assert_eq!(node.times(), [0, 1_500, 4_500, 10_500, 22_500, 46_500, 78_500, 110_500, 142_500]);
}

#[test]
fn rfc6275_11_8_a_retransmission_has_a_greater_sequence_number() {
    let mut node = Node::attached(65_534, 150);
    node.until(12_000);
    assert_eq!(node.sequences(), [65_535, 0, 1, 2], "modulo 2^16");
}

#[test]
fn rfc6275_11_8_with_a_binding_the_first_timer_is_1_s() {
    let mut node = Node::attached(0, 150);
    node.receive(&acknowledgement(0, 1, 150));
    node.until(577_000);
    assert_eq!(node.times(), [0, 570_000, 571_000, 573_000, 577_000]);
}

#[test]
fn rfc6275_11_7_3_an_acknowledgement_with_another_sequence_number_is_ignored() {
    let mut node = Node::attached(0, 150);
    for wrong in [0, 2, 0x0100, 0xffff] {
        node.receive(&acknowledgement(0, wrong, 150));
        assert_eq!(node.state(), "registering", "{wrong}");
    }
    node.receive(&acknowledgement(0, 1, 150));
    assert_eq!(node.state(), "bound");
}

#[test]
fn rfc6275_11_7_3_a_shorter_lifetime_is_subtracted_from_what_remains_since_sending() {
    let mut node = Node::attached(0, 150);
    node.until(1_000);
    node.receive(&acknowledgement(0, 1, 100));
    let expires = node.engine.state(GUEST).unwrap().binding.unwrap().expires;
    assert_eq!(expires.duration_since(node.start), Duration::from_secs(400));
}

#[test]
fn rfc6275_11_7_3_after_135_the_sequence_number_is_beyond_the_home_agents() {
    for (last, theirs) in [(0, 5), (10, 4_000), (60_000, 65_535), (4, 5)] {
        let mut node = Node::attached(last, 150);
        node.receive(&acknowledgement(135, theirs, 0));
        assert_eq!(node.times(), [0, 0], "at once");
        assert!(SequenceNumber(node.sequences()[1]).is_newer_than(SequenceNumber(theirs)), "{last} {theirs}");
    }
}

#[test]
fn rfc6275_11_7_3_a_refusal_is_not_repeated_at_once() {
    for status in (128..=255).filter(|status| *status != 135) {
        let mut node = Node::attached(0, 150);
        node.receive(&acknowledgement(status, 1, 0));
        node.until(999);
        assert_eq!((node.state(), node.sent.len()), ("refused", 1), "status {status}");
        node.until(61_000);
        assert!(node.sent.len() >= 2, "status {status} is tried again");
    }
}

#[test]
fn rfc6275_6_2_4_the_refresh_interval_is_followed_when_shorter_than_the_lifetime() {
    let mut message = acknowledgement(0, 1, 150);
    message.splice(12.., [2, 2, 0, 50]);
    let mut node = Node::attached(0, 150);
    node.receive(&message);
    node.until(200_000);
    assert_eq!(node.times(), [0, 200_000]);
}

#[test]
fn rfc6275_6_2_1_unknown_options_of_an_acknowledgement_are_skipped() {
    let mut message = acknowledgement(0, 1, 150);
    message.splice(12.., [200, 2, 0xab, 0xcd]);
    let mut node = Node::attached(0, 150);
    node.receive(&message);
    assert_eq!(node.state(), "bound");
}

#[test]
fn rfc6275_11_7_1_de_registration_asks_for_lifetime_zero() {
    let mut node = Node::attached(0, 150);
    node.receive(&acknowledgement(0, 1, 150));
    node.engine.deregister(GUEST, node.now);
    node.drain();
    let (_, message) = node.sent.last().unwrap();
    assert_eq!(message[6..12], [0, 2, 0xc0, 0, 0, 0]);
    node.receive(&acknowledgement(0, 2, 0));
    assert_eq!(node.state(), "detached");
}

#[test]
fn rfc6275_11_7_4_a_binding_refresh_request_is_answered_with_a_binding_update() {
    let mut node = Node::attached(0, 150);
    node.receive(&acknowledgement(0, 1, 150));
    node.until(10_000);
    node.receive(&[59, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(node.times(), [0, 10_000]);
}

#[test]
fn rfc6275_12_no_more_than_three_updates_in_a_second() {
    let mut node = Node::attached(0, 150);
    for n in 0..20 {
        node.until(n * 50);
        let care_of = [super::address("2001:db8:4000::3"), care_of_address()][n as usize % 2];
        node.engine.care_of_changed(GUEST, Some(care_of), node.now);
        node.drain();
    }
    node.until(20_000);
    assert!(node.sent.len() > 4);
    for window in node.times().windows(4) {
        assert!(window[3] - window[0] >= 1_000, "{:?}", node.times());
    }
}
