//! A packet each way through the ESP tunnel of a guest whose data goes under ESP (RFC 3776 §3.4).

use std::net::Ipv6Addr;

use super::exchange::{Passage, Place};
use super::packets::Ends;
use super::probe_signaling::Pair;
use super::sample::CORRESPONDENT;
use super::stage::counted;
use super::verdict::Finding;

/// A line about the tunnel of a registered guest.
pub(super) fn run(pair: &Pair, subject: &str, ends: Ends) -> Finding {
    let there = passage(pair, ends, Place::Host);
    let back = passage(pair, ends, Place::HomeAgent);
    let fault = |passage: Result<Passage, String>, what, from| match passage {
        Ok(passage) => passage.fault(what, from),
        Err(error) => Some(error),
    };
    let faults =
        [fault(there, "a packet of the guest", Place::Host), fault(back, "a packet for the guest", Place::HomeAgent)];
    match faults.into_iter().flatten().next() {
        None => Finding::ok(subject),
        Some(fault) => Finding::missing(subject, fault),
    }
}

/// Sends a packet at one end, and waits for it at the other.
fn passage(pair: &Pair, ends: Ends, from: Place) -> Result<Passage, String> {
    // Every packet of this tunnel has a number of its own.
    let [.., last] = ends.care_of.segments();
    let reverse = |(source, destination): (Ipv6Addr, Ipv6Addr)| (destination, source);
    let (outer, inner) = ((ends.care_of, ends.home_agent), (ends.home_address, CORRESPONDENT));
    match from {
        Place::Host => {
            let number = last * 2;
            let agent = pair.agent.run(|_| counted())?;
            let (host, sent) = pair.host.run(move |host| (counted(), host.end.send_data(inner.0, inner.1, number)))?;
            sent?;
            let passage = pair.agent.run(move |there| there.end.receive_data((outer, inner), number, &agent))?;
            Ok(Passage { at_sender: pair.host.run(move |_| counted().since(&host))?, ..passage })
        }
        Place::HomeAgent => {
            let (number, outer, inner) = (last * 2 + 1, reverse(outer), reverse(inner));
            let host = pair.host.run(|_| counted())?;
            let (agent, sent) =
                pair.agent.run(move |agent| (counted(), agent.end.send_data(inner.0, inner.1, number)))?;
            sent?;
            let passage = pair.host.run(move |there| there.end.receive_data((outer, inner), number, &host))?;
            Ok(Passage { at_sender: pair.agent.run(move |_| counted().since(&agent))?, ..passage })
        }
    }
}
