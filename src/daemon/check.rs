//! `kagemusha check`: whether this machine can run it, and how to get what is missing.
//!
//! Nothing is changed: kernel features are tried, and packets sent, in network namespaces that go away with the threads that made them. Trying may
//! make the kernel load its modules, as running would.

mod carriage;
mod ends;
mod exchange;
mod host;
mod packets;
mod probe_data;
mod probe_signaling;
mod probe_tunnel;
mod sample;
mod stage;
mod trial;
mod verdict;

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

pub(super) use host::missing_capabilities;

use super::keys::{self, PolicyFileError};
use super::{clock, tap};
use crate::policy::{self, Policy, Role};
use sample::Samples;
use verdict::{Finding, Report, Tried};

/// Examines this machine, with `policy` its algorithms and interfaces too, and prints what was found: a line for each thing, or one JSON
/// document. The exit code is 0 when nothing is missing, 1 when something is or nothing could be tried.
///
/// # Errors
/// The policy file is wrong, and nothing was tried: the exit code is [`super::EXIT_BAD_INPUT`]. The JSON document is printed.
pub fn run(policy: Option<&Path>, json: bool) -> Result<ExitCode, PolicyFileError> {
    let kernel = nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned());
    let kernel = kernel.unwrap_or_default();
    let (policy, mut findings) = match policy.map(|file| (file, load(file))) {
        None => (None, vec![]),
        Some((file, Ok(policy))) => {
            let findings = about(file, &policy);
            (Some(policy), findings)
        }
        Some((file, Err(error))) => {
            let finding = Finding::missing(subject(file), error.to_string());
            // The role is known where the text can be read at all.
            let role = keys::read_policy_text(file).map_or(Role::MobileNode, |text| policy::role_of(&text));
            let report = Report::of_bad_policy(role, kernel, finding);
            if json {
                print(&report, true);
            }
            return Err(error);
        }
    };
    let role = policy.as_ref().map_or(Role::MobileNode, |policy| policy.role);
    findings.extend(host::findings(role, policy.as_ref()));
    let samples = Samples::of(policy.as_ref());
    let begin = clock::now();
    let mut trials = trial::run(&samples);
    let patience = stage::patience(clock::now().saturating_duration_since(begin));
    findings.append(&mut trials.findings);
    let (found, registration) = probe_signaling::run(&samples, &trials, patience);
    findings.extend(found);
    let (found, tried) = probe_data::run(role, tap::forwards().unwrap_or(false), patience);
    findings.extend(found);
    let report = Report::new(role, kernel, findings, Tried { registration, ..tried });
    let printed = print(&report, json);
    Ok(if printed { report.exit_code() } else { ExitCode::FAILURE })
}

fn print(report: &Report, json: bool) -> bool {
    let text = if json { serde_json::to_string(report).map(|text| text + "\n") } else { Ok(report.to_string()) };
    text.is_ok_and(|text| std::io::stdout().write_all(text.as_bytes()).is_ok())
}

fn subject(file: &Path) -> String {
    format!("policy file {}", file.display())
}

fn load(file: &Path) -> Result<Policy, PolicyFileError> {
    let text = keys::read_policy_text(file)?;
    keys::load_policy(policy::role_of(&text), file)
}

fn about(file: &Path, policy: &Policy) -> Vec<Finding> {
    let plural = if policy.guests.len() == 1 { "" } else { "s" };
    let about = format!("{} ({}, {} guest{plural})", subject(file), policy.role, policy.guests.len());
    let warnings = policy.warnings.iter().map(|warning| Finding::warning("policy", warning.to_string()));
    std::iter::once(Finding::ok(about)).chain(warnings).collect()
}
