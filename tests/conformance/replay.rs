//! The engines against the packets of another implementation: umip as mobile node and as home agent.

use std::net::Ipv6Addr;
use std::time::Duration;

use kagemusha::vocabulary::SequenceNumber;
use kagemusha::wire::mobility::{self, Message};
use kagemusha::wire::numbers::{ether_type, protocol};
use kagemusha::wire::{ethernet, extension, ipv6};

use super::home_agent::Agent;
use super::mobile_node::Node;
use super::{captures, home_address, home_agent_address};

/// A mobility header of a capture.
struct Heard {
    /// Source and destination of the packet.
    source: Ipv6Addr,
    destination: Ipv6Addr,
    /// In the Home Address option.
    home_address: Option<Ipv6Addr>,
    octets: Vec<u8>,
}

/// The mobility headers without ESP of the captures of umip, in order.
fn heard(captures: &[&str]) -> Vec<Heard> {
    let mut all = Vec::new();
    for frame in captures.iter().flat_map(|name| captures::frames(name)) {
        let frame = ethernet::Frame::parse(&frame).unwrap();
        if frame.ether_type != ether_type::IPV6 {
            continue;
        }
        let (header, payload) = ipv6::Header::parse(frame.payload).unwrap();
        let packet = header.emit(payload);
        let (_, chain, octets) = extension::dissect(&packet).unwrap();
        if chain.upper_layer == protocol::MOBILITY {
            all.push(Heard {
                source: header.source,
                destination: header.destination,
                home_address: chain.home_address,
                octets: octets.to_vec(),
            });
        }
    }
    all
}

/// Our binding update is octet for octet umip's, for the same sequence number, lifetime and care-of address.
#[test]
fn our_update_is_umips() {
    let mut compared = 0;
    for theirs in heard(&["umip-plain/fore", "host-side/link", "umip-plain/fore2"]) {
        let Ok(Message::BindingUpdate(update)) = Message::parse(&theirs.octets) else { continue };
        let Some(care_of) = update.alternate_care_of_address().filter(|_| !update.lifetime.is_zero()) else { continue };
        let node = Node::attached_at(care_of, update.sequence.0.wrapping_sub(1), update.lifetime.0);
        let mut ours = node.sent[0].1.clone();
        mobility::fill_checksum(&mut ours, home_address(), home_agent_address());
        // L says that umip's home address has the interface identifier of its link-local address; K is umip's setting.
        let mut theirs = theirs.octets.clone();
        theirs[8] &= !0x30;
        let mut update = Message::parse(&theirs).unwrap().emit();
        mobility::fill_checksum(&mut update, home_address(), home_agent_address());
        assert_eq!(ours, update);
        compared += 1;
    }
    assert!(compared > 0, "there is an update in the captures");
}

/// umip's home agent answers; our mobile node with that number outstanding takes it.
#[test]
fn our_mobile_node_takes_umips_acknowledgements() {
    let mut taken = 0;
    for theirs in heard(&["umip-plain/fore", "umip-plain/fore2"]) {
        let Ok(Message::BindingAcknowledgement(acknowledgement)) = Message::parse(&theirs.octets) else { continue };
        assert_eq!(theirs.source, home_agent_address());
        if acknowledgement.lifetime.is_zero() || !acknowledgement.status.is_accepted() {
            continue;
        }
        let mut node = Node::attached(acknowledgement.sequence.0.wrapping_sub(1), acknowledgement.lifetime.0);
        node.receive(&theirs.octets);
        assert_eq!(node.state(), "bound");
        taken += 1;
    }
    assert!(taken > 0, "there is an acknowledgement in the captures");
}

/// umip's mobile node goes to the first foreign network, to the second, and home again: our home agent makes, moves and
/// deletes the binding.
#[test]
fn our_home_agent_follows_umips_mobile_node() {
    let mut agent = Agent::new(true);
    let mut last = None;
    let mut places = Vec::new();
    for theirs in heard(&["umip-plain/fore", "umip-plain/fore2", "umip-plain/home"]) {
        let Ok(Message::BindingUpdate(update)) = Message::parse(&theirs.octets) else { continue };
        // The same update can be seen on two links.
        if theirs.destination != home_agent_address() || last.is_some_and(|last| !update.sequence.is_newer_than(last)) {
            continue;
        }
        last = Some(update.sequence);
        let (source, care_of) = match theirs.home_address {
            Some(home_address) => (home_address, Some(theirs.source)),
            None => (theirs.source, None),
        };
        agent.receive_from(source, care_of, &theirs.octets);
        agent.wait(Duration::from_secs(1));
        let (status, sequence, _) = agent.last().unwrap();
        assert_eq!((status, SequenceNumber(sequence)), (0, update.sequence));
        places.push(care_of.filter(|_| agent.state() == "bound"));
    }
    places.dedup();
    assert!(places.len() >= 3, "{places:?}");
    assert!(places[0].is_some() && places[1].is_some() && places[0] != places[1], "{places:?}");
    assert_eq!((places.last(), agent.state()), (Some(&None), "none"), "home again");
}
