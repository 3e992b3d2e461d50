//! What is reported of a check, for people and for programs, and what follows from it.

use std::fmt;
use std::process::ExitCode;

use serde::Serialize;

use crate::daemon::EXIT_BAD_INPUT;
use crate::policy::Role;

/// How a thing stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Outcome {
    Ok,
    Warning,
    Missing,
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) outcome: Outcome,
    pub(super) subject: String,
    /// Why, and what to do; empty when all is well.
    pub(super) remedy: String,
}

impl Finding {
    pub(super) fn ok(subject: impl Into<String>) -> Self {
        Self { outcome: Outcome::Ok, subject: subject.into(), remedy: String::new() }
    }

    pub(super) fn missing(subject: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { outcome: Outcome::Missing, subject: subject.into(), remedy: remedy.into() }
    }

    pub(super) fn warning(subject: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { outcome: Outcome::Warning, subject: subject.into(), remedy: remedy.into() }
    }

    /// A line about something that could not be found out.
    pub(super) fn untried(subject: impl Into<String>, why: impl fmt::Display) -> Self {
        Self::warning(subject, format!("not tried, because {why}"))
    }

    /// What no guest of this machine needs is nothing that is missing.
    pub(super) fn unless_needed(self, needed: bool, by: &str) -> Self {
        match (self.outcome, needed) {
            (Outcome::Missing, false) => {
                Self { outcome: Outcome::Warning, remedy: format!("{} ({by})", self.remedy.trim_end()), ..self }
            }
            _ => self,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = match self.outcome {
            Outcome::Ok => "ok",
            Outcome::Warning => "warning",
            Outcome::Missing => "MISSING",
        };
        write!(f, "{outcome:<8} {}", self.subject)?;
        if self.remedy.is_empty() { Ok(()) } else { write!(f, ": {}", self.remedy.trim_end()) }
    }
}

/// A tier of the tunnel engine, as it was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct TierReport {
    pub(super) tier: &'static str,
    /// Whether it has carried a packet each way.
    pub(super) works: bool,
    /// Why not; empty when it works.
    pub(super) reason: String,
}

/// What a check comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Verdict {
    /// Nothing is missing, and packets have been carried.
    CanRun,
    /// Something is missing.
    CannotRun,
    /// Nothing that was tried is missing, but no registration was tried.
    Untried,
    /// The policy file is wrong; nothing was tried.
    BadPolicy,
}

impl Verdict {
    /// The exit code of the program.
    pub(super) fn exit_code(self) -> u8 {
        match self {
            Self::CanRun => 0,
            Self::CannotRun | Self::Untried => 1,
            Self::BadPolicy => EXIT_BAD_INPUT,
        }
    }
}

/// Everything that a check has found out. Its fields are those of `check --json`.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Report {
    pub(super) verdict: Verdict,
    /// The role that was asked about.
    pub(super) role: &'static str,
    /// The kernel's release, as `uname -r` says it.
    pub(super) kernel: String,
    pub(super) findings: Vec<Finding>,
    pub(super) tiers: Vec<TierReport>,
    /// The tier that `accelerate = "auto"` takes here; none: no tier was tried, or none works.
    pub(super) auto: Option<&'static str>,
}

impl Report {
    /// `registered`: whether a registration was tried at all.
    pub(super) fn new(role: Role, kernel: String, findings: Vec<Finding>, tried: Tried) -> Self {
        let missing = findings.iter().any(|finding| finding.outcome == Outcome::Missing);
        let verdict = match (missing, tried.registration) {
            (true, _) => Verdict::CannotRun,
            (false, true) => Verdict::CanRun,
            (false, false) => Verdict::Untried,
        };
        let Tried { tiers, auto, .. } = tried;
        Self { verdict, role: role_name(role), kernel, findings, tiers, auto }
    }

    /// Of a policy file with mistakes.
    pub(super) fn of_bad_policy(role: Role, kernel: String, finding: Finding) -> Self {
        let (findings, tiers) = (vec![finding], Vec::new());
        Self { verdict: Verdict::BadPolicy, role: role_name(role), kernel, findings, tiers, auto: None }
    }

    pub(super) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.verdict.exit_code())
    }
}

/// What was tried with packets.
#[derive(Debug, Clone, Default)]
pub(super) struct Tried {
    /// Whether binding updates were sent.
    pub(super) registration: bool,
    pub(super) tiers: Vec<TierReport>,
    pub(super) auto: Option<&'static str>,
}

/// As in `status --json`.
fn role_name(role: Role) -> &'static str {
    match role {
        Role::MobileNode => "mobile-node",
        Role::HomeAgent => "home-agent",
    }
}

/// For people: a line for each thing, and one about all.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.findings.iter().try_for_each(|finding| writeln!(f, "{finding}"))?;
        let missing = self.findings.iter().filter(|finding| finding.outcome == Outcome::Missing).count();
        let role = self.role.replace('-', " ");
        match self.verdict {
            Verdict::CanRun => writeln!(f, "This machine can run the {role} role."),
            Verdict::CannotRun if missing == 1 => writeln!(f, "One thing is missing to run the {role} role."),
            Verdict::CannotRun => writeln!(f, "{missing} things are missing to run the {role} role."),
            Verdict::Untried => {
                writeln!(f, "Nothing that was tried is missing to run the {role} role, but no registration was tried.")
            }
            Verdict::BadPolicy => writeln!(f, "The policy file is wrong: nothing was tried."),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(findings: Vec<Finding>, registration: bool) -> Report {
        let tiers = vec![TierReport { tier: "portable", works: true, reason: String::new() }];
        let tried = Tried { registration, tiers, auto: Some("portable") };
        Report::new(Role::MobileNode, "6.12.1".to_owned(), findings, tried)
    }

    #[test]
    fn lines_say_what_and_how() {
        let lines = [Finding::ok("a"), Finding::warning("b", "c\n"), Finding::missing("d", "e")];
        assert_eq!(lines.map(|line| line.to_string()), ["ok       a", "warning  b: c", "MISSING  d: e"]);
        let optional = Finding::missing("d", "e\n").unless_needed(false, "no guest needs it");
        assert_eq!(optional.to_string(), "warning  d: e (no guest needs it)");
        assert_eq!(Finding::missing("d", "e").unless_needed(true, ""), Finding::missing("d", "e"));
        assert_eq!(Finding::ok("d").unless_needed(false, "x"), Finding::ok("d"));
    }

    #[test]
    fn what_is_missing_or_was_not_tried_is_no_success() {
        let cases = [
            (vec![Finding::ok("a"), Finding::warning("b", "c")], true, Verdict::CanRun, 0),
            (vec![Finding::ok("a"), Finding::missing("b", "c")], true, Verdict::CannotRun, 1),
            (vec![Finding::missing("b", "c")], false, Verdict::CannotRun, 1),
            (vec![Finding::untried("registration", "there is no veth")], false, Verdict::Untried, 1),
        ];
        for (findings, registration, verdict, code) in cases {
            let report = report(findings, registration);
            assert_eq!((report.verdict, report.verdict.exit_code()), (verdict, code), "{report}");
        }
        let bad = Report::of_bad_policy(Role::HomeAgent, String::new(), Finding::missing("policy file x", "y"));
        assert_eq!(bad.verdict.exit_code(), 2);
    }

    /// The names are a promise to programs (README, "Running it").
    #[test]
    fn the_document_for_programs_has_stable_names() {
        let report = report(vec![Finding::missing("ESP over IPv6", "modprobe esp6")], false);
        let expected = r#"{"verdict":"cannot-run","role":"mobile-node","kernel":"6.12.1","findings":[{"outcome":"missing","subject":"ESP over IPv6","remedy":"modprobe esp6"}],"tiers":[{"tier":"portable","works":true,"reason":""}],"auto":"portable"}"#;
        assert_eq!(serde_json::to_string(&report).unwrap(), expected);
    }
}
