//! `kagemusha check`: whether this machine can run it, and how to get what is missing.
//!
//! Nothing is changed: kernel features are tried in a network namespace that goes away with the thread that made it. Trying may
//! make the kernel load its modules, as running would.

mod host;
mod trial;

use std::fmt;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

pub(super) use host::missing_capabilities;

use super::keys;
use crate::policy::{self, Policy, Role};

/// How a thing stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Ok,
    Warning,
    Missing,
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    outcome: Outcome,
    subject: String,
    /// Why, and what to do; empty when all is well.
    remedy: String,
}

impl Finding {
    fn ok(subject: impl Into<String>) -> Self {
        Self { outcome: Outcome::Ok, subject: subject.into(), remedy: String::new() }
    }

    fn missing(subject: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { outcome: Outcome::Missing, subject: subject.into(), remedy: remedy.into() }
    }

    fn warning(subject: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { outcome: Outcome::Warning, subject: subject.into(), remedy: remedy.into() }
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

/// Examines this machine, with `policy` its algorithms and interfaces too, and prints a line for each thing.
/// The exit code is 0 when nothing is missing, otherwise 1.
pub fn run(policy: Option<&Path>) -> ExitCode {
    let mut findings = vec![];
    let policy = policy.and_then(|file| load(file, &mut findings));
    let role = policy.as_ref().map_or(Role::MobileNode, |policy| policy.role);
    findings.extend(host::findings(role, policy.as_ref()));
    findings.extend(trial::findings(policy.as_ref()));
    let missing = findings.iter().filter(|finding| finding.outcome == Outcome::Missing).count();
    let mut text: String = findings.iter().map(|finding| format!("{finding}\n")).collect();
    text.push_str(&match missing {
        0 => format!("This machine can run the {role} role.\n"),
        1 => format!("One thing is missing to run the {role} role.\n"),
        n => format!("{n} things are missing to run the {role} role.\n"),
    });
    let written = std::io::stdout().write_all(text.as_bytes());
    if missing == 0 && written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn load(file: &Path, findings: &mut Vec<Finding>) -> Option<Policy> {
    let subject = format!("policy file {}", file.display());
    let loaded = keys::read_policy_text(file).and_then(|text| keys::load_policy(policy::role_of(&text), file));
    match loaded {
        Ok(policy) => {
            let plural = if policy.guests.len() == 1 { "" } else { "s" };
            findings.push(Finding::ok(format!("{subject} ({}, {} guest{plural})", policy.role, policy.guests.len())));
            findings.extend(policy.warnings.iter().map(|warning| Finding::warning("policy", warning.to_string())));
            Some(policy)
        }
        Err(error) => {
            findings.push(Finding::missing(subject, format!("\n{error}")));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_what_and_how() {
        let lines = [Finding::ok("a"), Finding::warning("b", "c\n"), Finding::missing("d", "e")];
        assert_eq!(lines.map(|line| line.to_string()), ["ok       a", "warning  b: c", "MISSING  d: e"]);
    }
}
