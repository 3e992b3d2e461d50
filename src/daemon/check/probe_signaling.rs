//! Registrations between a host and a home agent that are both this machine: every way of being protected that the policy has, at one
//! care-of address and after a move at another, and forged messages that must not get through.

use std::net::Ipv6Addr;
use std::time::Duration;

use super::ends::{Agent, End, Host, OUTSIDE, UPLINK};
use super::exchange::{Exchange, Intrusion, Step};
use super::packets::{self, Ends};
use super::probe_tunnel;
use super::sample::{self, CARE_OF, Sample, Samples};
use super::stage::{Node, Plot, counted};
use super::trial::Trials;
use super::verdict::Finding;
use crate::ipsec::Class;
use crate::vocabulary::{GuestId, SequenceNumber};

/// Unlike those of the registrations, which begin at the number of the guest.
const FORGED: SequenceNumber = SequenceNumber(0x4b00);
/// What a policy that does not have it does without.
const NOT_NEEDED: &str = "no guest of the policy needs it";

/// The stage with both ends.
pub(super) struct Pair {
    pub(super) host: Node<Host>,
    pub(super) agent: Node<Agent>,
    pub(super) samples: Samples,
}

/// What was found, and whether any registration was tried.
pub(super) fn run(samples: &Samples, trials: &Trials, patience: Duration) -> (Vec<Finding>, bool) {
    let obstacle = |sample: &Sample| trials.obstacle(&sample.guest, samples.home_agent);
    let impossible =
        samples.guests.iter().filter_map(|sample| Some(Finding::untried(subject(sample), obstacle(sample)?)));
    let mut findings: Vec<_> = impossible.collect();
    let possible = samples.only(|sample| obstacle(sample).is_none());
    if possible.guests.is_empty() {
        return (findings, false);
    }
    match Pair::open(possible, patience) {
        Ok(pair) => {
            let mut bound = Vec::new();
            for number in 0..pair.samples.guests.len() {
                let (found, was_bound) = pair.try_guest(number, trials);
                findings.extend(found);
                bound.push(was_bound);
            }
            findings.extend(pair.forge(&bound));
            (findings, true)
        }
        Err(why) => {
            findings.push(Finding::untried("registrations, between two network namespaces", why));
            (findings, false)
        }
    }
}

fn subject(sample: &Sample) -> String {
    format!("registration {}", sample::describe(&sample.guest.protection))
}

impl Pair {
    fn open(samples: Samples, patience: Duration) -> Result<Self, String> {
        let (for_host, for_agent) = (samples.clone(), samples.clone());
        let [at_host, at_agent] = [Plot::clear()?, Plot::clear()?];
        Plot::cable((&at_host, UPLINK), (&at_agent, OUTSIDE))?;
        let host = at_host.build(move |ground| Host::open(ground, &for_host, patience))?;
        let agent = at_agent.build(move |ground| Agent::open(ground, &for_agent, patience))?;
        Ok(Self { host, agent, samples })
    }

    fn ends(&self, number: usize, care_of: Ipv6Addr) -> Option<Ends> {
        let home_address = self.samples.guests.get(number)?.guest.home_address;
        Some(Ends { home_address, home_agent: self.samples.home_agent, care_of })
    }

    /// Registers a guest, at one place and at the next, and carries its data where that goes under ESP. Whether it was bound in the end.
    fn try_guest(&self, number: usize, trials: &Trials) -> (Vec<Finding>, bool) {
        let Some(sample) = self.samples.guests.get(number) else { return (vec![], false) };
        let protection = &sample.guest.protection;
        let (tunnel, moves) = (protection.has(Class::TunnelPayload), protection.classes.keys().any(|c| c.is_tunnel()));
        let mut findings = Vec::new();
        for (place, care_of) in CARE_OF.into_iter().enumerate() {
            let what = subject(sample) + if place == 0 { "" } else { ", after a move" };
            let data = format!("data in an ESP tunnel{}", if place == 0 { "" } else { ", after it was moved" });
            let obstacle = trials.obstacle_to_moving().filter(|_| moves && place > 0);
            let Some(ends) = self.ends(number, care_of) else { continue };
            let outcome = match obstacle {
                Some(why) => Err(why),
                None => {
                    self.exchange(GuestId(number), ends).map(|exchange| (exchange.reached == Step::Bound, exchange))
                }
            };
            let bound = match outcome {
                Err(why) => {
                    findings.push(Finding::untried(what, why));
                    false
                }
                Ok((bound, exchange)) => {
                    let finding = exchange.judge(&what, !protection.is_none());
                    findings.push(finding.unless_needed(sample.needed, NOT_NEEDED));
                    bound
                }
            };
            if tunnel && bound {
                findings.push(probe_tunnel::run(self, &data, ends).unless_needed(sample.needed, NOT_NEEDED));
            } else if tunnel {
                findings.push(Finding::untried(data, "its guest is not registered"));
            }
            if !bound {
                return (findings, false);
            }
        }
        (findings, true)
    }

    /// One binding update and its acknowledgement.
    fn exchange(&self, guest: GuestId, ends: Ends) -> Result<Exchange, String> {
        let mut exchange = Exchange::new();
        let at_agent = self.agent.run(|_| counted())?;
        let (at_host, registering) = self.host.run(move |host| (counted(), host.register(guest, ends.care_of)))?;
        exchange.trouble = registering.trouble;
        if registering.secured {
            exchange.reached = Step::Secured;
        }
        if registering.sent {
            exchange.reached = Step::UpdateSent;
            let before = at_agent.clone();
            let answered = self.agent.run(move |agent| agent.answer(ends, &before))?;
            exchange.update = answered.sighting;
            exchange.trouble = answered.trouble;
            exchange.reached = match (answered.sighting, answered.arrived, answered.sent) {
                (_, true, true) => Step::AcknowledgementSent,
                (_, true, false) => Step::UpdateArrived,
                (Some(_), false, _) => Step::UpdateLeft,
                (None, false, _) => Step::UpdateSent,
            };
        }
        if exchange.reached == Step::AcknowledgementSent {
            let before = at_host.clone();
            let concluded = self.host.run(move |host| host.conclude(guest, ends, &before))?;
            exchange.acknowledgement = concluded.sighting;
            exchange.trouble = concluded.trouble;
            exchange.reached = match (concluded.sighting, concluded.arrived, concluded.bound) {
                (_, true, true) => Step::Bound,
                (_, true, false) => Step::AcknowledgementArrived,
                (Some(_), false, _) => Step::AcknowledgementLeft,
                (None, false, _) => Step::AcknowledgementSent,
            };
        }
        exchange.at_host = self.host.run(move |_| counted().since(&at_host))?;
        exchange.at_home_agent = self.agent.run(move |_| counted().since(&at_agent))?;
        Ok(exchange)
    }

    /// Forged messages in the clear: what is delivered for a guest without protection must not be for one with it.
    fn forge(&self, bound: &[bool]) -> Vec<Finding> {
        let guests =
            || self.samples.guests.iter().enumerate().map(|(number, sample)| (number, &sample.guest.protection));
        let protected = guests().find(|(_, protection)| !protection.is_none()).map(|(number, _)| number);
        let plain = guests().find(|(_, protection)| protection.is_none()).map(|(number, _)| number);
        let Some(protected) = protected else { return vec![] };
        let control = plain.filter(|plain| bound.get(*plain) == Some(&true));
        [true, false].map(|update| self.forge_one(control, protected, update)).into()
    }

    fn forge_one(&self, control: Option<usize>, protected: usize, update: bool) -> Finding {
        let what = if update { "binding update" } else { "binding acknowledgement" };
        let subject = format!("protection holds: a {what} in the clear is refused for a guest with protection");
        let [_, care_of] = CARE_OF;
        let ends = control.and_then(|control| Some([self.ends(control, care_of)?, self.ends(protected, care_of)?]));
        let Some([control, protected]) = ends else {
            return Finding::untried(subject, "no guest without protection is registered to compare with");
        };
        let intrusion = match update {
            true => intrude(
                &self.host,
                |host| &mut host.end,
                &self.agent,
                |agent| &mut agent.end,
                |forged| packets::plain_update(if forged { protected } else { control }, FORGED),
                (control, protected),
            ),
            false => intrude(
                &self.agent,
                |agent| &mut agent.end,
                &self.host,
                |host| &mut host.end,
                |forged| packets::plain_acknowledgement(if forged { protected } else { control }, FORGED),
                (control, protected),
            ),
        };
        intrusion.judge(&subject)
    }
}

/// Sends both forged messages from one end, first that for the protected guest, and looks which of them are delivered at the other.
fn intrude<A: 'static, B: 'static>(
    from: &Node<A>,
    sender: fn(&mut A) -> &mut End,
    to: &Node<B>,
    receiver: fn(&mut B) -> &mut End,
    forge: impl Fn(bool) -> Vec<u8>,
    (control, protected): (Ends, Ends),
) -> Intrusion {
    let packets = [forge(true), forge(false)];
    let attempt = || {
        let (mac, before) = to.run(move |state| (receiver(state).mac(), counted()))?;
        from.run(move |state| packets.iter().try_for_each(|packet| sender(state).inject(mac, packet)))??;
        to.run(move |state| {
            let end = receiver(state);
            let (control_arrived, arrived) = end.which_arrive(control.home_address, protected.home_address, FORGED);
            Ok(Intrusion { control_arrived, arrived, rises: counted().since(&before), trouble: None })
        })?
    };
    attempt().unwrap_or_else(|error: String| Intrusion {
        control_arrived: false,
        arrived: false,
        rises: vec![],
        trouble: Some(error),
    })
}
