//! The home agent, driven with octets.

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use kagemusha::signaling::home_agent::{Config, HomeAgent, Output, Received};
use kagemusha::vocabulary::MacAddress;

use super::{GUEST, address, care_of_address, home_address, home_agent_address};

const OUR_MAC: MacAddress = MacAddress([0x02, 0, 0, 0, 0, 0x01]);

pub(crate) struct Agent {
    pub engine: HomeAgent,
    pub now: Instant,
    pub answers: Vec<Vec<u8>>,
    pub vias: Vec<Option<Ipv6Addr>>,
    frames: Vec<Vec<u8>>,
}

impl Agent {
    pub(crate) fn new(detect_duplicates: bool) -> Self {
        let mut engine = HomeAgent::new(Config {
            address: home_agent_address(),
            home_link: "2001:db8:2000::/64".parse().unwrap(),
            link_layer_address: OUR_MAC,
            maximum_lifetime: Duration::from_secs(600),
            detect_duplicates,
            optimistic_detection: false,
            key_management_mobility: false,
            maximum_bindings: 100,
        });
        engine.add_guest(GUEST, home_address(), None);
        Self { engine, now: Instant::now(), answers: Vec::new(), vias: Vec::new(), frames: Vec::new() }
    }

    pub(crate) fn bound() -> Self {
        let mut agent = Self::new(false);
        agent.receive(&update(15, 0xc000, 100));
        agent.frames.clear();
        agent.answers.clear();
        agent
    }

    fn drain(&mut self) {
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Secure { generation, .. } => self.engine.applied(generation, self.now),
                Output::Transmit { message, via_care_of, .. } => {
                    self.answers.push(message);
                    self.vias.push(via_care_of);
                }
                Output::HomeLinkFrame(frame) => self.frames.push(frame),
                Output::Binding { .. } | Output::Event { .. } => {}
            }
        }
    }

    pub(crate) fn receive(&mut self, message: &[u8]) {
        self.receive_from(home_address(), Some(care_of_address()), message);
    }

    pub(crate) fn receive_from(&mut self, source: Ipv6Addr, care_of: Option<Ipv6Addr>, message: &[u8]) {
        let received = Received { source, destination: home_agent_address(), care_of };
        self.engine.handle_binding_update(received, message, self.now);
        self.drain();
    }

    pub(crate) fn wait(&mut self, duration: Duration) {
        let end = self.now + duration;
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

    /// Status, sequence number and lifetime of the last answer.
    pub(crate) fn last(&self) -> Option<(u8, u16, u16)> {
        let message = self.answers.last()?;
        assert_eq!((message[2], message.len()), (6, 16), "a binding acknowledgement");
        Some((message[6], u16::from_be_bytes([message[8], message[9]]), u16::from_be_bytes([message[10], message[11]])))
    }
}

/// A binding update without options. `flags` as in the message: A 0x8000, H 0x4000, L 0x2000, K 0x1000, R 0x0400.
fn update(sequence: u16, flags: u16, lifetime: u16) -> Vec<u8> {
    let mut message = vec![59, 1, 5, 0, 0, 0];
    for word in [sequence, flags, lifetime] {
        message.extend(word.to_be_bytes());
    }
    message.extend([1, 2, 0, 0]);
    message
}

#[test]
fn rfc6275_6_1_8_an_acknowledgement_octet_by_octet() {
    let mut agent = Agent::new(false);
    agent.receive(&update(0x1234, 0xc000, 0x0021));
    assert_eq!(agent.answers, [[59, 1, 6, 0, 0, 0, 0, 0, 0x12, 0x34, 0x00, 0x21, 1, 2, 0, 0]]);
}

/// The example of the clause: after 15, 0 to 15 and 32783 to 65535 count as less than or equal.
#[test]
fn rfc6275_9_5_1_sequence_numbers_are_compared_modulo_2_16() {
    for old in [0, 14, 15, 32_783, 65_535] {
        let mut agent = Agent::bound();
        agent.receive(&update(old, 0xc000, 100));
        assert_eq!(agent.last(), Some((135, 15, 0)), "{old}");
    }
    for new in [16, 17, 32_782] {
        let mut agent = Agent::bound();
        agent.receive(&update(new, 0xc000, 100));
        assert_eq!(agent.last(), Some((0, new, 100)), "{new}");
    }
}

#[test]
fn rfc6275_9_5_1_without_a_binding_ever_any_sequence_number_is_accepted() {
    for any in [0, 1, 32_768, 65_535] {
        let mut agent = Agent::new(false);
        agent.receive(&update(any, 0xc000, 100));
        assert_eq!(agent.last(), Some((0, any, 100)));
    }
}

#[test]
fn rfc6275_9_5_1_a_correspondent_registration_without_nonces_is_silently_discarded() {
    let mut agent = Agent::new(false);
    agent.receive(&update(1, 0x8000, 100));
    assert_eq!((agent.last(), agent.state()), (None, "none"));
}

#[test]
fn rfc6275_9_5_1_addresses_must_be_unicast_routable() {
    for bad in ["ff0e::1", "fe80::1", "::", "::1"] {
        let mut agent = Agent::new(false);
        agent.receive_from(address(bad), Some(care_of_address()), &update(1, 0xc000, 100));
        agent.receive_from(home_address(), Some(address(bad)), &update(1, 0xc000, 100));
        assert_eq!((agent.last(), agent.state()), (None, "none"), "{bad}");
    }
}

#[test]
fn rfc6275_9_5_4_success_without_a_is_not_answered_and_a_refusal_always_is() {
    let mut agent = Agent::new(false);
    agent.receive(&update(1, 0x4000, 100));
    assert_eq!((agent.last(), agent.state()), (None, "bound"));
    agent.receive(&update(1, 0x4000, 100));
    assert_eq!(agent.last(), Some((135, 1, 0)));
}

#[test]
fn rfc6275_9_5_4_the_answer_goes_where_the_update_came_from() {
    let mut agent = Agent::bound();
    agent.receive(&update(16, 0xc000, 100));
    agent.receive_from(home_address(), None, &update(17, 0xc000, 0));
    assert_eq!(agent.vias[1..], [Some(care_of_address()), None], "type 2 routing header, then from home without");
}

#[test]
fn rfc6275_10_3_1_home_addresses_of_others() {
    let mut agent = Agent::new(false);
    agent.receive_from(address("2001:db8:9000::1"), Some(care_of_address()), &update(1, 0xc000, 100));
    assert_eq!(agent.last(), Some((132, 1, 0)), "not on the home link");
    agent.receive_from(address("2001:db8:2000::99"), Some(care_of_address()), &update(1, 0xc000, 100));
    assert_eq!(agent.last(), Some((133, 1, 0)), "not served");
}

#[test]
fn rfc6275_10_3_1_the_home_address_option_must_be_there() {
    let mut agent = Agent::new(false);
    let mut message = update(1, 0xc000, 100);
    message.splice(12.., [1, 0, 3, 16]);
    message[1] = 3;
    message.extend(care_of_address().octets());
    agent.receive_from(home_address(), None, &message);
    assert_eq!((agent.last(), agent.state()), (None, "none"));
}

#[test]
fn rfc6275_10_3_1_the_lifetime_granted_is_never_longer_than_asked_or_allowed() {
    for (asked, granted) in [(1, 1), (150, 150), (151, 150), (65_535, 150)] {
        let mut agent = Agent::new(false);
        agent.receive(&update(1, 0xc000, asked));
        assert_eq!(agent.last(), Some((0, 1, granted)));
        agent.wait(Duration::from_secs(u64::from(granted) * 4) - Duration::from_millis(1));
        assert_eq!(agent.state(), "bound");
        agent.wait(Duration::from_millis(1));
        assert_eq!(agent.state(), "none");
    }
}

#[test]
fn rfc6275_10_3_1_duplicate_address_detection_comes_before_the_first_acknowledgement() {
    let mut agent = Agent::new(true);
    agent.receive(&update(1, 0xc000, 100));
    // RFC 4862 §5.4.2: from the unspecified address to the solicited-node multicast address, no link-layer option.
    let probe = &agent.frames[0];
    assert_eq!(probe[..6], [0x33, 0x33, 0xff, 0, 0, 0x10]);
    assert_eq!(probe[14 + 8..14 + 24], [0; 16]);
    assert_eq!(probe[14 + 24..14 + 40], address("ff02::1:ff00:10").octets());
    assert_eq!((probe[14 + 7], probe[14 + 40], probe.len()), (255, 135, 14 + 40 + 24));
    agent.wait(Duration::from_millis(999));
    assert_eq!(agent.last(), None);
    agent.wait(Duration::from_millis(1));
    assert_eq!(agent.last(), Some((0, 1, 100)));
    agent.receive(&update(2, 0xc000, 100));
    assert_eq!(agent.last(), Some((0, 2, 100)), "not for a live binding");
}

#[test]
fn rfc6275_10_3_2_deletion() {
    let mut agent = Agent::new(false);
    agent.receive(&update(1, 0xc000, 0));
    assert_eq!(agent.last(), Some((133, 1, 0)), "no binding");
    let mut agent = Agent::bound();
    agent.receive(&update(16, 0xc000, 0));
    assert_eq!((agent.last(), agent.state()), (Some((0, 16, 0)), "none"));
    let mut agent = Agent::bound();
    agent.receive_from(home_address(), None, &update(16, 0xc000, 100));
    assert_eq!((agent.last(), agent.state()), (Some((0, 16, 0)), "none"), "the care-of address is the home address");
}

#[test]
fn rfc6275_10_4_1_interception_is_announced_to_all_nodes_with_override_and_without_router_and_solicited() {
    let mut agent = Agent::new(false);
    agent.receive(&update(1, 0xc000, 100));
    agent.wait(Duration::from_secs(10));
    assert_eq!(agent.frames.len(), 3, "MAX_NEIGHBOR_ADVERTISEMENT");
    for frame in &agent.frames {
        assert_eq!(frame[..14], [0x33, 0x33, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 0x01, 0x86, 0xdd]);
        assert_eq!(frame[14 + 8..14 + 24], home_agent_address().octets(), "from the home agent's own address");
        assert_eq!((frame[14 + 40], frame[14 + 44]), (136, 0x20), "neighbour advertisement, O alone");
        assert_eq!(frame[14 + 48..14 + 64], home_address().octets());
        assert_eq!(frame[14 + 64..], [2, 1, 0x02, 0, 0, 0, 0, 0x01], "the home agent's link-layer address");
    }
}

#[test]
fn rfc3963_5_a_change_of_the_mobile_router_flag_is_refused() {
    let mut agent = Agent::bound();
    agent.receive(&update(16, 0xc400, 100));
    assert_eq!(agent.last(), Some((139, 16, 0)));
}
