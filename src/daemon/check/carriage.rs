//! What follows from what was seen of packets through a tier of the tunnel engine. Pure, like [`super::exchange`].

use super::verdict::{Finding, TierReport};
use crate::daemon::engine::Tier;

/// What was seen of a tier.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Carriage {
    /// Why the engine of this machine's role does not take the tier.
    pub(super) refused: Option<String>,
    /// A packet of the guest came to its correspondent.
    pub(super) out: bool,
    /// A packet for the guest came to it.
    pub(super) back: bool,
    /// Those were carried by what makes the tier, and not by what it leaves to a lower one.
    pub(super) by_itself: bool,
}

/// A line about a tier, and what programs are told of it. `Err`: the stage could not be made.
pub(super) fn judge(tier: Tier, seen: &Result<Carriage, String>) -> (Finding, TierReport) {
    let subject = format!("tunnel engine, tier {tier}: a packet each way");
    let fault = |carriage: &Carriage| match carriage {
        Carriage { out: false, .. } => Some("a packet of the guest has not come to its correspondent"),
        Carriage { back: false, .. } => Some("a packet for the guest has not come to it"),
        _ => None,
    };
    let finding = match seen {
        Err(why) => Finding::untried(&subject, why),
        Ok(Carriage { refused: Some(why), .. }) => {
            let remedy = format!("not to be had: {why}");
            match tier {
                Tier::Portable => Finding::missing(&subject, remedy),
                _ => Finding::warning(&subject, format!("{remedy}; a lower tier carries")),
            }
        }
        Ok(carriage) => match (fault(carriage), carriage.by_itself) {
            (Some(fault), _) => Finding::missing(&subject, format!("{fault}; {}", instead(tier))),
            (None, false) => {
                Finding::warning(&subject, "it is there, and has left the packets to a lower tier; that carries")
            }
            (None, true) => Finding::ok(&subject),
        },
    };
    let works = finding.remedy.is_empty();
    let report = TierReport { tier: tier.name(), works, reason: finding.remedy.clone() };
    (finding, report)
}

fn instead(tier: Tier) -> String {
    let lower = Tier::ALL.into_iter().rfind(|lower| *lower < tier);
    match lower {
        Some(Tier::Portable) => "set `accelerate = \"off\"`, and report this".to_owned(),
        Some(lower) => format!("set `accelerate = \"{lower}\"`, and report this"),
        None => "report this".to_owned(),
    }
}

/// The tier that `auto` takes: the highest one that the engine is not refused, whether it carries or not.
pub(super) fn automatic(seen: &[(Tier, Result<Carriage, String>)]) -> Option<Tier> {
    let to_be_had = |carriage: &Result<Carriage, String>| carriage.as_ref().is_ok_and(|seen| seen.refused.is_none());
    seen.iter().filter(|(_, carriage)| to_be_had(carriage)).map(|(tier, _)| *tier).max()
}

#[cfg(test)]
mod tests {
    use super::super::verdict::Outcome;
    use super::*;

    const GOOD: Carriage = Carriage { refused: None, out: true, back: true, by_itself: true };

    fn line(tier: Tier, seen: Carriage) -> (Outcome, String, bool) {
        let (finding, report) = judge(tier, &Ok(seen));
        (finding.outcome, finding.remedy, report.works)
    }

    #[test]
    fn a_tier_works_when_it_has_carried_a_packet_each_way_by_itself() {
        assert_eq!(line(Tier::Ebpf, GOOD), (Outcome::Ok, String::new(), true));
        let (outcome, remedy, works) = line(Tier::Ebpf, Carriage { by_itself: false, ..GOOD });
        assert_eq!((outcome, works), (Outcome::Warning, false), "{remedy}");
        let (outcome, remedy, works) = line(Tier::Ebpf, Carriage { back: false, ..GOOD });
        assert_eq!((outcome, works), (Outcome::Missing, false));
        assert!(remedy.contains("for the guest") && remedy.contains("accelerate = \"super-packet\""), "{remedy}");
        let (outcome, remedy, _) = line(Tier::SuperPacket, Carriage { out: false, ..GOOD });
        assert_eq!(outcome, Outcome::Missing);
        assert!(remedy.contains("of the guest") && remedy.contains("accelerate = \"off\""), "{remedy}");
    }

    #[test]
    fn a_tier_that_is_not_to_be_had_is_missed_only_when_it_is_the_last() {
        let refused = || Carriage { refused: Some("no TCX".to_owned()), ..Carriage::default() };
        assert_eq!(line(Tier::Ebpf, refused()).0, Outcome::Warning);
        assert!(line(Tier::Ebpf, refused()).1.contains("no TCX"));
        assert_eq!(line(Tier::Portable, refused()).0, Outcome::Missing);
        let (finding, report) = judge(Tier::Portable, &Err("there is no veth".to_owned()));
        assert_eq!((finding.outcome, report.works), (Outcome::Warning, false));
        assert_eq!(report.reason, "not tried, because there is no veth");
    }

    #[test]
    fn auto_takes_the_highest_that_is_to_be_had() {
        let refused = Carriage { refused: Some("no".to_owned()), ..Carriage::default() };
        let seen = |ebpf: Result<Carriage, String>| {
            vec![(Tier::Portable, Ok(GOOD)), (Tier::SuperPacket, Ok(GOOD)), (Tier::Ebpf, ebpf)]
        };
        assert_eq!(automatic(&seen(Ok(refused))), Some(Tier::SuperPacket));
        assert_eq!(automatic(&seen(Ok(Carriage { out: false, ..GOOD }))), Some(Tier::Ebpf), "it does not know better");
        assert_eq!(automatic(&seen(Err("stage".to_owned()))), Some(Tier::SuperPacket));
        assert_eq!(automatic(&[]), None);
    }
}
