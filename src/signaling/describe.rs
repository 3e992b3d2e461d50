//! Words that the events and counters of both roles share.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

/// When something is due, as seen at `now`: "in 12 s", "now". Whole seconds, rounded up.
pub(crate) fn until(at: Instant, now: Instant) -> String {
    match at.saturating_duration_since(now).as_millis().div_ceil(1000) {
        0 => "now".to_owned(),
        seconds => format!("in {seconds} s"),
    }
}

/// "; thrown away: 2 malformed, 1 ...", or nothing.
pub(crate) fn discarded<R: fmt::Display>(f: &mut fmt::Formatter<'_>, counts: &BTreeMap<R, u64>) -> fmt::Result {
    for (position, (reason, count)) in counts.iter().enumerate() {
        write!(f, "{}{count} {reason}", if position == 0 { "; thrown away: " } else { ", " })?;
    }
    Ok(())
}
