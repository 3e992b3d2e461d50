//! What follows from what was seen of packets under way: whether they were carried, and if not, where they stayed and why.
//!
//! Pure: the probes see, this judges.

use std::fmt;

use super::verdict::Finding;
use crate::ipsec::statistics::{self, Rise};

/// How a packet looked on the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sighting {
    /// ESP is the first thing behind its extension headers.
    pub(super) esp: bool,
    /// It has the Home Address option, or the type 2 routing header, of its guest.
    pub(super) by_care_of_address: bool,
}

/// How far a registration came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// Not even the host's kernel state could be made.
    Begun,
    /// The host's policies and states are in force.
    Secured,
    /// The host's kernel has accepted the binding update.
    UpdateSent,
    /// It was seen on the link.
    UpdateLeft,
    /// It was delivered at the home agent.
    UpdateArrived,
    /// The home agent's kernel has accepted the acknowledgement.
    AcknowledgementSent,
    /// It was seen on the link.
    AcknowledgementLeft,
    /// It was delivered at the host.
    AcknowledgementArrived,
    /// The guest is bound.
    Bound,
}

/// What was seen of a registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Exchange {
    /// The last step that was seen.
    pub(super) reached: Step,
    /// What a call or a message said that kept the next one from being done.
    pub(super) trouble: Option<String>,
    pub(super) update: Option<Sighting>,
    pub(super) acknowledgement: Option<Sighting>,
    /// Counters that went up meanwhile.
    pub(super) at_host: Vec<Rise>,
    pub(super) at_home_agent: Vec<Rise>,
}

/// Which end of the stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Host,
    HomeAgent,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "the host",
            Self::HomeAgent => "the home agent",
        })
    }
}

impl Exchange {
    pub(super) fn new() -> Self {
        Self {
            reached: Step::Begun,
            trouble: None,
            update: None,
            acknowledgement: None,
            at_host: Vec::new(),
            at_home_agent: Vec::new(),
        }
    }

    /// A line about a registration that is to be protected or not.
    pub(super) fn judge(&self, subject: &str, protected: bool) -> Finding {
        match self.fault(protected) {
            None => Finding::ok(subject),
            Some(fault) => Finding::missing(subject, fault),
        }
    }

    fn fault(&self, protected: bool) -> Option<String> {
        let sent = [("binding update", self.update), ("acknowledgement", self.acknowledgement)];
        let wrong = sent.into_iter().find_map(|(what, sighting)| wrong_form(what, sighting?, protected));
        if wrong.is_some() {
            return wrong.map(|wrong| format!("{wrong}; report this, and do not use this kernel"));
        }
        let (told, place) = match self.reached {
            Step::Begun => ("the kernel does not take the host's policies and states", None),
            Step::Secured => ("the kernel refuses to send the binding update", Some(Place::Host)),
            Step::UpdateSent => ("the binding update has not left the host", Some(Place::Host)),
            Step::UpdateLeft => {
                ("the binding update has left, and has not arrived at the home agent", Some(Place::HomeAgent))
            }
            Step::UpdateArrived => {
                ("the binding update has arrived, and the home agent has not answered", Some(Place::HomeAgent))
            }
            Step::AcknowledgementSent => (
                "the binding update has arrived, and the acknowledgement has not left the home agent",
                Some(Place::HomeAgent),
            ),
            Step::AcknowledgementLeft => (
                "the binding update has arrived, the acknowledgement has left, and has not arrived at the host",
                Some(Place::Host),
            ),
            Step::AcknowledgementArrived => ("the acknowledgement has arrived, and the guest is not bound by it", None),
            Step::Bound => return None,
        };
        let trouble = self.trouble.as_ref().map_or_else(String::new, |trouble| format!(": {trouble}"));
        let reason = match place {
            None => String::new(),
            Some(place) => reason(place, self.rises(place), self.trouble.is_some()),
        };
        Some(format!("{told}{trouble}{reason}"))
    }

    fn rises(&self, place: Place) -> &[Rise] {
        match place {
            Place::Host => &self.at_host,
            Place::HomeAgent => &self.at_home_agent,
        }
    }
}

fn wrong_form(what: &str, sighting: Sighting, protected: bool) -> Option<String> {
    match (sighting.esp, sighting.by_care_of_address) {
        (false, _) if protected => Some(format!("the {what} has left without ESP, which the policy wants for it")),
        (true, _) if !protected => Some(format!("the {what} has left under ESP, which nobody wanted for it")),
        (_, false) => Some(format!("the {what} has left without the header of Mobile IPv6 that names the guest")),
        _ => None,
    }
}

/// What follows when the kernel has dropped a packet here.
const OURS: &str = "both ends are this program's own here, so this kernel sees something else in the packet than the security policies are \
    made for: use another kernel, and report this";

/// The kernel's own words about a packet that stayed at a place.
fn reason(place: Place, rises: &[Rise], explained: bool) -> String {
    match rises {
        [] if explained => String::new(),
        [] => format!("; the IPsec of {place} has counted nothing"),
        rises => format!("; at {place} {}; {OURS}", statistics::list(rises)),
    }
}

/// What became of a message in the clear, sent to where it must not be delivered, and of the same message where it may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Intrusion {
    /// The one for a guest without protection was delivered: such a message gets there.
    pub(super) control_arrived: bool,
    /// The one for a protected guest was delivered.
    pub(super) arrived: bool,
    /// Counters that went up meanwhile.
    pub(super) rises: Vec<Rise>,
    /// A call that failed.
    pub(super) trouble: Option<String>,
}

impl Intrusion {
    pub(super) fn judge(&self, subject: &str) -> Finding {
        if self.arrived {
            return Finding::missing(
                subject,
                "it was delivered, so anybody could register the guest somewhere else; see sysctl net.ipv6.conf.*.disable_policy, \
                 otherwise report this and do not use this kernel",
            );
        }
        match (&self.trouble, self.control_arrived) {
            (Some(trouble), _) => Finding::untried(subject, trouble),
            (None, false) => Finding::untried(subject, "one for a guest without protection does not arrive either"),
            (None, true) => match self.rises.as_slice() {
                [] => Finding::ok(subject),
                rises => {
                    let names: Vec<&str> = rises.iter().map(|rise| rise.counter.as_str()).collect();
                    Finding::ok(format!("{subject} ({})", names.join(", ")))
                }
            },
        }
    }
}

/// What was seen of a packet through an ESP tunnel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Passage {
    pub(super) left: Option<Sighting>,
    pub(super) arrived: bool,
    pub(super) trouble: Option<String>,
    pub(super) at_sender: Vec<Rise>,
    pub(super) at_receiver: Vec<Rise>,
}

impl Passage {
    /// Why it does not count as carried; `what` it is, `from` where it came.
    pub(super) fn fault(&self, what: &str, from: Place) -> Option<String> {
        let to = match from {
            Place::Host => Place::HomeAgent,
            Place::HomeAgent => Place::Host,
        };
        if let Some(trouble) = &self.trouble {
            return Some(format!("{what}: {trouble}"));
        }
        match self.left {
            None if self.arrived => Some(format!("{what} has arrived, and was not seen on the link")),
            None => Some(format!("{what} has not left {from}{}", reason(from, &self.at_sender, false))),
            Some(Sighting { esp: false, .. }) => {
                Some(format!("{what} has left without ESP; report this, and do not use this kernel"))
            }
            Some(_) if !self.arrived => Some(format!("{what} has left under ESP, and has not come out at {to}{}", {
                reason(to, &self.at_receiver, false)
            })),
            Some(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::verdict::{Outcome, Report, Tried, Verdict};
    use super::*;
    use crate::policy::Role;

    const PROTECTED: Sighting = Sighting { esp: true, by_care_of_address: true };
    const PLAIN: Sighting = Sighting { esp: false, by_care_of_address: true };

    fn rise(counter: &str) -> Vec<Rise> {
        vec![Rise { counter: counter.to_owned(), by: 1 }]
    }

    fn reached(step: Step) -> Exchange {
        let update = (step >= Step::UpdateLeft).then_some(PROTECTED);
        let acknowledgement = (step >= Step::AcknowledgementLeft).then_some(PROTECTED);
        Exchange { reached: step, update, acknowledgement, ..Exchange::new() }
    }

    /// What kernels since 6.7 did to policies by mobility header type.
    #[test]
    fn an_acknowledgement_that_met_the_failsafe_is_missing_with_the_kernels_reason() {
        let exchange = Exchange {
            at_host: rise("XfrmInPolBlock"),
            at_home_agent: rise("XfrmInNoPols"),
            ..reached(Step::AcknowledgementLeft)
        };
        let finding = exchange.judge("registration", true);
        assert_eq!(
            finding.to_string(),
            "MISSING  registration: the binding update has arrived, the acknowledgement has left, and has not arrived at the host; \
             at the host XfrmInPolBlock +1 (a blocking security policy took what came in, the failsafe: no protecting one did so \
             before); both ends are this program's own here, so this kernel sees something else in the packet than the security \
             policies are made for: use another kernel, and report this"
        );
        let tried = Tried { registration: true, ..Tried::default() };
        let report = Report::new(Role::MobileNode, String::new(), vec![finding], tried);
        assert_eq!((report.verdict, report.verdict.exit_code()), (Verdict::CannotRun, 1));
    }

    #[test]
    fn every_step_but_the_last_is_told_with_the_place_where_the_packet_stayed() {
        use Step::*;
        for (step, place) in [
            (Secured, Some("at the host XfrmIn")),
            (UpdateSent, Some("at the host XfrmIn")),
            (UpdateLeft, Some("at the home agent XfrmOut")),
            (UpdateArrived, Some("at the home agent XfrmOut")),
            (AcknowledgementSent, Some("at the home agent XfrmOut")),
            (AcknowledgementLeft, Some("at the host XfrmIn")),
            (AcknowledgementArrived, None),
            (Begun, None),
        ] {
            let exchange = Exchange { at_host: rise("XfrmIn"), at_home_agent: rise("XfrmOut"), ..reached(step) };
            let finding = exchange.judge("registration", true);
            assert_eq!(finding.outcome, Outcome::Missing, "{step:?}");
            assert_eq!(finding.remedy.contains("; at "), place.is_some(), "{finding}");
            assert!(place.is_none_or(|place| finding.remedy.contains(place)), "{finding}");
        }
        assert_eq!(reached(Bound).judge("registration", true), Finding::ok("registration"));
        let silent = reached(AcknowledgementLeft).judge("registration", true);
        assert!(silent.remedy.ends_with("; the IPsec of the host has counted nothing"), "{silent}");
        let refused = Exchange { trouble: Some("Operation not permitted".to_owned()), ..reached(Secured) };
        assert_eq!(
            refused.judge("registration", true).remedy,
            "the kernel refuses to send the binding update: Operation not permitted"
        );
    }

    #[test]
    fn what_left_in_another_form_than_wanted_is_a_fault_even_when_it_was_answered() {
        let clear = Exchange { update: Some(PLAIN), ..reached(Step::Bound) };
        assert!(clear.judge("r", true).remedy.contains("binding update has left without ESP"));
        assert!(reached(Step::Bound).judge("r", false).remedy.contains("under ESP, which nobody wanted"));
        let native = Sighting { esp: true, by_care_of_address: false };
        let native = Exchange { acknowledgement: Some(native), ..reached(Step::Bound) };
        assert!(native.judge("r", true).remedy.contains("acknowledgement has left without the header of Mobile IPv6"));
        let plain = Exchange { update: Some(PLAIN), acknowledgement: Some(PLAIN), ..reached(Step::Bound) };
        assert_eq!(plain.judge("r", false), Finding::ok("r"));
    }

    #[test]
    fn protection_holds_only_where_the_same_message_gets_through_without_it() {
        let refused =
            Intrusion { control_arrived: true, arrived: false, rises: rise("XfrmInTmplMismatch"), trouble: None };
        assert_eq!(refused.judge("p").to_string(), "ok       p (XfrmInTmplMismatch)");
        let delivered = Intrusion { arrived: true, ..refused.clone() };
        assert_eq!(delivered.judge("p").outcome, Outcome::Missing);
        let nothing = Intrusion { control_arrived: false, ..refused.clone() };
        assert_eq!(nothing.judge("p").outcome, Outcome::Warning);
        let delivered_alone = Intrusion { control_arrived: false, ..delivered };
        assert_eq!(delivered_alone.judge("p").outcome, Outcome::Missing);
        let unsent = Intrusion { trouble: Some("no socket".to_owned()), ..refused };
        assert_eq!(unsent.judge("p").remedy, "not tried, because no socket");
    }

    #[test]
    fn a_packet_through_an_esp_tunnel_has_left_under_esp_and_come_out() {
        let carried = Passage { left: Some(PROTECTED), arrived: true, ..Passage::default() };
        assert_eq!(carried.fault("a packet", Place::Host), None);
        let clear = Passage { left: Some(PLAIN), ..carried.clone() };
        assert!(clear.fault("a packet", Place::Host).unwrap().contains("without ESP"));
        let stayed = Passage { at_sender: rise("XfrmOutNoStates"), ..Passage::default() };
        assert!(
            stayed
                .fault("a packet", Place::HomeAgent)
                .unwrap()
                .starts_with("a packet has not left the home agent; at the home agent XfrmOutNoStates +1")
        );
        let lost = Passage { arrived: false, at_receiver: rise("XfrmInNoStates"), ..carried.clone() };
        assert!(lost.fault("a packet", Place::Host).unwrap().starts_with(
            "a packet has left under ESP, and has not come out at the home agent; at the home agent XfrmInNoStates +1"
        ));
        let unseen = Passage { left: None, ..carried };
        assert!(unseen.fault("a packet", Place::Host).is_some());
    }
}
