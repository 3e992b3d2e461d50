//! A packet each way through the ESP tunnel of a guest whose data goes under ESP (RFC 3776 §3.4).

use super::ends::End;
use super::exchange::{Passage, Place};
use super::packets::Ends;
use super::probe_signaling::Pair;
use super::stage::{Node, counted};
use super::verdict::Finding;

/// How often a packet is sent.
const ROUNDS: u16 = 3;

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

/// Sends a packet at one end, and waits for it at the other; once more if it does not come, when the kernel has not counted it.
fn passage(pair: &Pair, ends: Ends, from: Place) -> Result<Passage, String> {
    let mut passage = Passage::default();
    for round in 0..ROUNDS {
        passage = match from {
            Place::Host => once(&pair.host, |host| &mut host.end, &pair.agent, |agent| &mut agent.end, ends, round),
            Place::HomeAgent => {
                once(&pair.agent, |agent| &mut agent.end, &pair.host, |host| &mut host.end, ends, round)
            }
        }?;
        if passage.arrived || !passage.at_sender.is_empty() || !passage.at_receiver.is_empty() {
            break;
        }
    }
    Ok(passage)
}

fn once<A: 'static, B: 'static>(
    from: &Node<A>,
    sender: fn(&mut A) -> &mut End,
    to: &Node<B>,
    receiver: fn(&mut B) -> &mut End,
    ends: Ends,
    round: u16,
) -> Result<Passage, String> {
    // Every packet of this tunnel has a number of its own.
    let [.., last] = ends.care_of.segments();
    let number = last * ROUNDS + round;
    let at_receiver = to.run(move |state| receiver(state).look().map(|()| counted()))??;
    let (at_sender, way) = from.run(move |state| {
        let end = sender(state);
        end.look()?;
        let (before, way) = (counted(), end.way(ends));
        end.send_data(way.1, number)?;
        Ok::<_, String>((before, way))
    })??;
    let passage = to.run(move |state| receiver(state).receive_data(way, number, &at_receiver))?;
    Ok(Passage { at_sender: from.run(move |_| counted().since(&at_sender))?, ..passage })
}
