//! The kernel's counters of packets that its IPsec did not let pass (`/proc/net/xfrm_stat`), in words.

use std::collections::BTreeMap;
use std::fmt;

/// The counters at one time, by the kernel's names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Statistics(BTreeMap<String, u64>);

/// A counter that went up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rise {
    /// The kernel's name of it, such as `XfrmInPolBlock`.
    pub counter: String,
    /// By how much.
    pub by: u64,
}

/// Name, what it counts, what to look at. In the order of `net/xfrm/xfrm_proc.c`; the rest has its name alone.
const MEANINGS: [(&str, &str, &str); 19] = [
    ("XfrmInHdrError", "an ESP header was malformed", "look for what changes packets on the way"),
    (
        "XfrmInNoStates",
        "nothing in the kernel has the SPI or the addresses of what came in",
        "compare SPIs and addresses of both sides (`kagemusha policy diff`, `ip xfrm state`)",
    ),
    (
        "XfrmInStateProtoError",
        "what came in does not pass the SA's own check: another key or algorithm",
        "compare the keys of both sides (`kagemusha policy show` gives fingerprints)",
    ),
    ("XfrmInStateModeError", "an SA is in another mode than what came in", "compare the modes of both sides"),
    (
        "XfrmInStateSeqError",
        "a sequence number is outside of the replay window",
        "let both sides start anew, or hand the numbers over (`kagemusha sa export`)",
    ),
    ("XfrmInStateExpired", "an SA has ended by its lifetime", "give both sides new SPIs and keys"),
    (
        "XfrmInStateMismatch",
        "an SA may not be used for what came in by it",
        "compare SPIs and addresses of both sides (`kagemusha policy diff`)",
    ),
    ("XfrmInStateInvalid", "an SA is not usable (yet)", "see `ip xfrm state`"),
    (
        "XfrmInTmplMismatch",
        "what came in was not protected as the security policy wants it",
        "compare the protection of both sides (`kagemusha policy diff`)",
    ),
    (
        "XfrmInNoPols",
        "no security policy lets in what came by an SA, or what was to be protected",
        "see `ip xfrm policy`: a policy of ours is missing, or this kernel sees something else in the packet",
    ),
    (
        "XfrmInPolBlock",
        "a blocking security policy took what came in, the failsafe: no protecting one did so before",
        "see `ip xfrm policy`: a policy of ours is missing, or this kernel sees something else in the packet",
    ),
    ("XfrmInPolError", "a security policy could not be applied to what came in", "see `ip xfrm policy`"),
    ("XfrmOutNoStates", "there is no SA for what was to leave", "see `ip xfrm state`: an SA of ours is missing"),
    ("XfrmOutStateProtoError", "an SA could not protect what was to leave", "see `ip xfrm state`"),
    ("XfrmOutStateModeError", "what was to leave does not fit the mode of its SA", "see `ip xfrm state`"),
    ("XfrmOutStateSeqError", "the sequence numbers of an SA are used up", "give both sides a new SPI and new keys"),
    ("XfrmOutStateExpired", "the SA for what was to leave has ended by its lifetime", "give both sides new keys"),
    (
        "XfrmOutPolBlock",
        "a blocking security policy took what was to leave, the failsafe: no protecting one did so before",
        "see `ip xfrm policy`: a policy of ours is missing",
    ),
    ("XfrmOutPolError", "a security policy could not be applied to what was to leave", "see `ip xfrm policy`"),
];

impl Statistics {
    /// Reads the kernel's text: a name and a number a line. Other lines are left out.
    pub fn parse(text: &str) -> Self {
        let counter = |line: &str| {
            let (name, value) = line.split_once(char::is_whitespace)?;
            Some((name.to_owned(), value.trim().parse().ok()?))
        };
        Self(text.lines().filter_map(counter).collect())
    }

    /// The counters that are higher than `before`.
    pub fn since(&self, before: &Self) -> Vec<Rise> {
        let rise = |(counter, now): (&String, &u64)| {
            let by = now.saturating_sub(before.0.get(counter).copied().unwrap_or(0));
            (by > 0).then(|| Rise { counter: counter.clone(), by })
        };
        self.0.iter().filter_map(rise).collect()
    }
}

impl Rise {
    /// What it counts, in words; none for a counter that is not known.
    pub fn meaning(&self) -> Option<&'static str> {
        MEANINGS.iter().find(|(name, ..)| *name == self.counter).map(|(_, meaning, _)| *meaning)
    }

    /// What to look at.
    pub fn advice(&self) -> Option<&'static str> {
        MEANINGS.iter().find(|(name, ..)| *name == self.counter).map(|(.., advice)| *advice)
    }
}

impl fmt::Display for Rise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} +{}", self.counter, self.by)?;
        self.meaning().map_or(Ok(()), |meaning| write!(f, " ({meaning})"))
    }
}

/// Several of them, each with its meaning.
pub fn list(rises: &[Rise]) -> String {
    rises.iter().map(Rise::to_string).collect::<Vec<_>>().join(", ")
}

/// The same, with what to look at for the first that is known.
pub fn describe(rises: &[Rise]) -> String {
    let advice = rises.iter().find_map(Rise::advice).map_or_else(String::new, |advice| format!("; {advice}"));
    list(rises) + &advice
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_that_rose_are_told_in_words() {
        let before = Statistics::parse("XfrmInError             \t0\nXfrmInPolBlock          \t3\n\nXfrmOutError\tx\n");
        let after = Statistics::parse("XfrmInError \t0\nXfrmInPolBlock \t5\nXfrmNew\t1\n");
        let rises = after.since(&before);
        assert_eq!(
            describe(&rises),
            "XfrmInPolBlock +2 (a blocking security policy took what came in, the failsafe: no protecting one did so before), \
             XfrmNew +1; see `ip xfrm policy`: a policy of ours is missing, or this kernel sees something else in the packet"
        );
        assert!(after.since(&after).is_empty() && before.since(&after).is_empty());
        assert_eq!(describe(&[]), "");
    }

    #[test]
    fn every_counter_has_a_meaning_of_its_own() {
        let names: std::collections::BTreeSet<_> = MEANINGS.iter().map(|(name, ..)| name).collect();
        assert_eq!(names.len(), MEANINGS.len());
        assert!(
            MEANINGS.iter().all(|(name, meaning, advice)| {
                name.starts_with("Xfrm") && !meaning.is_empty() && !advice.is_empty()
            })
        );
    }
}
