//! What became of a run, for the eye: scenarios, on one kernel or on several.

use crate::job::{ScenarioResult, Verdict};

/// The second opinion, as a row of the table.
pub(crate) const TSHARK: &str = "captures-by-tshark";

/// What became of the scenarios on one kernel.
#[derive(Debug, Clone)]
pub(crate) struct KernelReport {
    /// As the user named it.
    pub(crate) label: String,
    /// As `uname -r` tells it.
    pub(crate) release: String,
    pub(crate) results: Vec<ScenarioResult>,
}

/// How many of each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sum {
    passed: usize,
    failed: usize,
    skipped: usize,
    second: usize,
}

/// Prints the table, whose last line sums up.
pub(crate) fn show(reports: &[KernelReport]) {
    print!("{}", text(reports));
}

fn text(reports: &[KernelReport]) -> String {
    let mut text = String::from("\n");
    match reports {
        [one] => one_kernel(one, &mut text),
        several => matrix(several, &mut text),
    }
    let sum = sum(reports);
    if sum.second > 0 {
        text.push_str(&format!("{} OF THEM AT A SECOND ATTEMPT ONLY\n", sum.second));
    }
    text.push_str(&format!("{} passed, {} failed, {} skipped\n", sum.passed, sum.failed, sum.skipped));
    text
}

fn one_kernel(report: &KernelReport, text: &mut String) {
    text.push_str(&format!("Linux {}\n", report.release));
    let width = names(std::slice::from_ref(report)).iter().map(|name| name.len()).max().unwrap_or_default();
    for result in &report.results {
        let (name, seconds) = (&result.name, result.seconds);
        let why = reason(&result.verdict);
        text.push_str(&format!("{name:width$}  {:<7}  {seconds:7.2} s  {why}\n", word(&result.verdict)));
    }
}

/// A row for each scenario, a column for each kernel.
fn matrix(reports: &[KernelReport], text: &mut String) {
    let names = names(reports);
    let width = names.iter().map(|name| name.len()).chain(["kernel".len()]).max().unwrap_or_default();
    let cells: Vec<usize> = reports.iter().map(|report| report.release.len().max(15)).collect();
    let line = |first: &str, rest: Vec<String>| {
        let rest: String = rest.iter().zip(&cells).map(|(cell, width)| format!("  {cell:<width$}")).collect();
        format!("{first:width$}{}\n", rest.trim_end())
    };
    text.push_str(&line("kernel", reports.iter().map(|report| report.label.clone()).collect()));
    text.push_str(&line("", reports.iter().map(|report| report.release.clone()).collect()));
    for name in &names {
        let cell = |report: &KernelReport| match report.results.iter().find(|result| result.name == *name) {
            Some(result) => format!("{:<7} {:5.0} s", word(&result.verdict), result.seconds),
            None => "-".to_owned(),
        };
        text.push_str(&line(name, reports.iter().map(cell).collect()));
    }
    for report in reports {
        for result in report.results.iter().filter(|result| !matches!(result.verdict, Verdict::Passed)) {
            let (label, name) = (&report.label, &result.name);
            text.push_str(&format!("{label}: {name}: {}: {}\n", word(&result.verdict), reason(&result.verdict)));
        }
    }
}

/// All names, each once, in the order in which they come.
fn names(reports: &[KernelReport]) -> Vec<&str> {
    let mut names: Vec<&str> = vec![];
    for result in reports.iter().flat_map(|report| &report.results) {
        if !names.contains(&result.name.as_str()) {
            names.push(&result.name);
        }
    }
    names
}

fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Passed => "passed",
        Verdict::PassedLate(_) => "2ND",
        Verdict::TimedOut(_) => "TIMEOUT",
        Verdict::Failed(_) => "FAILED",
        Verdict::Skipped(_) => "SKIP",
    }
}

fn reason(verdict: &Verdict) -> &str {
    match verdict {
        Verdict::Passed => "",
        Verdict::PassedLate(why) | Verdict::TimedOut(why) | Verdict::Failed(why) | Verdict::Skipped(why) => {
            why.lines().next().unwrap_or_default()
        }
    }
}

fn sum(reports: &[KernelReport]) -> Sum {
    let mut sum = Sum::default();
    for result in reports.iter().flat_map(|report| &report.results) {
        match result.verdict {
            Verdict::Passed => sum.passed += 1,
            Verdict::PassedLate(_) => {
                sum.passed += 1;
                sum.second += 1;
            }
            Verdict::TimedOut(_) | Verdict::Failed(_) => sum.failed += 1,
            Verdict::Skipped(_) => sum.skipped += 1,
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(label: &str, results: &[(&str, Verdict)]) -> KernelReport {
        let result = |(name, verdict): &(&str, Verdict)| ScenarioResult {
            name: (*name).to_owned(),
            verdict: verdict.clone(),
            seconds: 1.25,
        };
        let results = results.iter().map(result).collect();
        KernelReport { label: label.into(), release: format!("{label}.9"), results }
    }

    #[test]
    fn several_kernels_are_columns_and_what_did_not_run_is_told() {
        let late = Verdict::PassedLate("slow".into());
        let reports = [
            report("6.12", &[("one", Verdict::Passed), ("two", late), ("three", Verdict::Skipped("no peer".into()))]),
            report("6.1", &[("one", Verdict::Failed("wrong\nmore".into()))]),
        ];
        let text = text(&reports);
        assert!(text.contains("two     2ND         1 s  -\n"), "{text}");
        assert!(text.contains("6.1: one: FAILED: wrong\n"), "{text}");
        assert!(text.ends_with("1 OF THEM AT A SECOND ATTEMPT ONLY\n2 passed, 1 failed, 1 skipped\n"), "{text}");
    }

    #[test]
    fn one_kernel_is_a_list_with_reasons() {
        let text = text(&[report("6.1", &[("one", Verdict::TimedOut("late".into()))])]);
        assert_eq!(text, "\nLinux 6.1.9\none  TIMEOUT     1.25 s  late\n0 passed, 1 failed, 0 skipped\n");
    }
}
