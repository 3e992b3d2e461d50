//! Binding updates that nobody answers, and what the kernel's IPsec has counted meanwhile. It drops in silence what its policies do not
//! let pass, so that a registration that cannot succeed looks like one that is on its way.
//!
//! Pure: the event loop reads the counters.

use std::collections::BTreeMap;

use crate::ipsec::statistics::{self, Rise, Statistics};
use crate::vocabulary::GuestId;

/// Transmissions of a binding update before a hint is given: the first three are 4.5 seconds apart, and one may be lost.
const TRANSMISSIONS: u32 = 4;

/// The guests that wait for an answer.
#[derive(Debug, Default)]
pub(super) struct Unanswered(BTreeMap<GuestId, Waiting>);

#[derive(Debug)]
struct Waiting {
    /// The counters before the first retransmission: from then on everything happens again.
    before: Option<Statistics>,
    hint: Option<String>,
    /// The counters that were told of.
    told: Option<Vec<String>>,
}

impl Unanswered {
    /// A binding update of this guest is about to be sent again, the `transmission`-th time; `counters` are the kernel's now, where it has some.
    /// Gives a hint that is news.
    pub(super) fn again(&mut self, guest: GuestId, transmission: u32, counters: Option<Statistics>) -> Option<&str> {
        if transmission <= 2 {
            self.0.remove(&guest);
        }
        let counted = counters.clone();
        let waiting = self.0.entry(guest).or_insert_with(|| Waiting { before: counters, hint: None, told: None });
        if transmission < TRANSMISSIONS {
            return None;
        }
        let rises = counted.zip(waiting.before.as_ref()).map(|(now, before)| now.since(before));
        let names = rises.iter().flatten().map(|rise| rise.counter.clone()).collect();
        waiting.hint = Some(hint(transmission - 1, rises.as_deref()));
        let is_news = waiting.told.as_ref() != Some(&names);
        waiting.told = Some(names);
        waiting.hint.as_deref().filter(|_| is_news)
    }

    /// The home agent has answered, or nothing is asked any more.
    pub(super) fn over(&mut self, guest: GuestId) {
        self.0.remove(&guest);
    }

    /// Why the home agent may not have answered.
    pub(super) fn hint(&self, guest: GuestId) -> Option<&str> {
        self.0.get(&guest)?.hint.as_deref()
    }
}

fn hint(transmissions: u32, rises: Option<&[Rise]>) -> String {
    let since = format!("no answer from the home agent to {transmissions} transmissions");
    match rises {
        None => format!(
            "{since}, and this kernel does not count what its IPsec drops (CONFIG_XFRM_STATISTICS); `kagemusha check` tries \
             whether it lets registrations through"
        ),
        Some([]) => format!(
            "{since}, and the IPsec of this machine has dropped nothing meanwhile: look at the way to the home agent, and at what that one says"
        ),
        Some(rises) => format!(
            "{since}, and the IPsec of this machine has dropped packets meanwhile: {}; `kagemusha check` tries whether this kernel lets \
             registrations through",
            statistics::describe(rises)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUEST: GuestId = GuestId(3);

    fn counters(blocked: u64, mismatched: u64) -> Option<Statistics> {
        Some(Statistics::parse(&format!("XfrmInPolBlock {blocked}\nXfrmInTmplMismatch {mismatched}\n")))
    }

    #[test]
    fn the_counter_that_the_acknowledgement_raised_is_named_once() {
        let mut unanswered = Unanswered::default();
        assert_eq!(unanswered.again(GUEST, 2, counters(7, 0)), None);
        assert_eq!(unanswered.again(GUEST, 3, counters(8, 0)), None);
        assert_eq!(unanswered.hint(GUEST), None, "an answer may be on its way yet");
        let told = unanswered.again(GUEST, 4, counters(9, 0)).map(str::to_owned);
        assert_eq!(
            told.as_deref(),
            Some(
                "no answer from the home agent to 3 transmissions, and the IPsec of this machine has dropped packets meanwhile: \
                 XfrmInPolBlock +2 (a blocking security policy took what came in, the failsafe: no protecting one did so before); \
                 see `ip xfrm policy`: a policy of ours is missing, or this kernel sees something else in the packet; \
                 `kagemusha check` tries whether this kernel lets registrations through"
            )
        );
        assert_eq!(unanswered.hint(GUEST), told.as_deref());
        assert_eq!(unanswered.again(GUEST, 5, counters(10, 0)), None, "the same again is no news");
        assert!(unanswered.hint(GUEST).is_some_and(|hint| hint.contains("4 transmissions") && hint.contains("+3")));
        assert!(unanswered.again(GUEST, 6, counters(10, 1)).is_some_and(|hint| hint.contains("XfrmInTmplMismatch +1")));
    }

    #[test]
    fn an_answer_and_another_binding_update_begin_anew() {
        let mut unanswered = Unanswered::default();
        for transmission in 2..=4 {
            unanswered.again(GUEST, transmission, counters(u64::from(transmission), 0));
        }
        assert!(unanswered.hint(GUEST).is_some());
        unanswered.over(GUEST);
        assert_eq!(unanswered.hint(GUEST), None);
        unanswered.again(GUEST, 2, counters(9, 0));
        assert!(unanswered.again(GUEST, 4, counters(9, 0)).is_some_and(|hint| hint.contains("dropped nothing")));
        unanswered.again(GUEST, 2, counters(20, 0));
        assert_eq!(unanswered.hint(GUEST), None);
        assert!(unanswered.again(GUEST, 4, counters(21, 0)).is_some_and(|hint| hint.contains("XfrmInPolBlock +1")));
        assert_eq!(unanswered.hint(GuestId(0)), None);
    }

    #[test]
    fn a_kernel_that_does_not_count_is_told_of() {
        let mut unanswered = Unanswered::default();
        unanswered.again(GUEST, 2, None);
        assert!(unanswered.again(GUEST, 4, None).is_some_and(|hint| hint.contains("CONFIG_XFRM_STATISTICS")));
    }
}
