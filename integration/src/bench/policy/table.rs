//! The results beside their aims.

use super::measure::Samples;
use crate::inner::tell as tell_line;

/// Ratio to iproute2 that a full installation may have.
const INSTALL: f64 = 1.0;
/// ... and a look at everything with nothing to do.
const NOTHING_TO_DO: f64 = 0.5;

/// Median of samples; 0 of none.
pub(super) fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |index: usize| sorted.get(index).copied().unwrap_or_default();
    let half = sorted.len() / 2;
    if sorted.len() % 2 == 1 { at(half) } else { (at(half.saturating_sub(1)) + at(half)) / 2.0 }
}

/// Shows all.
pub(super) fn tell(results: &[Samples]) {
    tell_line("");
    tell_line(&format!("{:<46} {:>11} {:>11} {:>7}  aim", "median", "kagemusha", "iproute2", "ratio"));
    for samples in results {
        let objects = format!("{} SAs, {} policies", samples.associations, samples.policies);
        tell_line(&format!("{} ({objects})", samples.role));
        compare("  full installation", &samples.install, "ip -batch", &samples.ip_batch, INSTALL);
        compare("  nothing to do", &samples.nothing_to_do, "ip xfrm", &samples.ip_dump, NOTHING_TO_DO);
        let change = median(&samples.one_guest);
        let whole = median(&samples.nothing_to_do);
        tell_line(&format!(
            "{:<46} {change:>8.2} ms {:>11} {:>7.4}  only its objects: {} touched at most",
            "  one guest goes away or comes home",
            "÷ a look",
            change / whole.max(f64::MIN_POSITIVE),
            samples.touched
        ));
        tell_line(&format!("{:<46} {:>8.0} ms", "  taking all down", median(&samples.removal)));
        let [before, configured, in_force] = samples.resident.map(|kilobytes| kilobytes as f64 / 1024.0);
        tell_line(&format!(
            "{:<46} {before:.0} MB, with the policy {configured:.0} MB, all in force {in_force:.0} MB",
            "  resident memory"
        ));
    }
}

fn compare(what: &str, ours: &[f64], other: &str, theirs: &[f64], aim: f64) {
    let (ours, theirs) = (median(ours), median(theirs));
    let ratio = ours / theirs.max(f64::MIN_POSITIVE);
    let verdict = if ratio <= aim { "met" } else { "MISSED" };
    let what = format!("{what} ÷ {other}");
    tell_line(&format!("{what:<46} {ours:>8.0} ms {theirs:>8.0} ms {ratio:>7.3}  ≤ {aim}: {verdict}"));
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
    }
}
