//! What does not belong changes nothing but counters.

use proptest::prelude::*;

use super::home_agent::Agent;
use super::mobile_node::Node;
use super::{GUEST, address, care_of_address, home_address};

/// Octets that may or may not look like a mobility header of this type.
fn noise(mh_type: impl Strategy<Value = u8>) -> impl Strategy<Value = Vec<u8>> {
    (prop::collection::vec(any::<u8>(), 0..64), mh_type, any::<bool>()).prop_map(
        |(mut octets, mh_type, well_formed)| {
            if well_formed {
                octets.resize(octets.len().next_multiple_of(8).max(8), 0);
                octets[0] = 59;
                octets[1] = (octets.len() / 8 - 1) as u8;
            }
            if let Some(octet) = octets.get_mut(2) {
                *octet = mh_type;
            }
            octets
        },
    )
}

proptest! {
    #[test]
    fn a_bound_mobile_node_is_not_moved_by_noise(
        messages in prop::collection::vec(noise(prop_oneof![1..=6u8, 8..=255u8]), 1..20)
    ) {
        let mut node = Node::attached(0, 150);
        node.receive(&[59, 1, 6, 0, 0, 0, 0, 0, 0, 1, 0, 150, 1, 2, 0, 0]);
        let before = node.engine.state(GUEST);
        for message in &messages {
            node.receive(message);
        }
        prop_assert_eq!(node.engine.state(GUEST), before);
        prop_assert_eq!(node.sent.len(), 1);
        let counted: u64 = node.engine.counters().discarded.values().sum();
        prop_assert_eq!(counted, messages.len() as u64);
    }

    #[test]
    fn a_home_agent_is_not_moved_by_noise_and_never_panics(
        messages in prop::collection::vec(noise(any::<u8>()), 1..20),
        frame in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let mut agent = Agent::bound();
        let before = agent.engine.state(GUEST);
        for message in &messages {
            agent.receive_from(address("2001:db8:2000::77"), Some(care_of_address()), message);
            // From home, without Home Address option, only a deletion counts, and only with H.
            if message.get(2) != Some(&5) {
                agent.receive_from(home_address(), None, message);
            }
        }
        agent.engine.handle_home_link_frame(&frame, agent.now);
        prop_assert_eq!(agent.engine.state(GUEST), before);
        prop_assert_eq!(agent.engine.poll_output(), None);
    }
}
