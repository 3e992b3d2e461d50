//! What a lab step says when it fails.

use std::fmt;
use std::io;

/// Why a scenario or the lab itself failed: one sentence, with what was being done in front of it.
#[derive(Debug, Clone)]
pub(crate) struct Failure(String);

/// Result of a lab step.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<std::net::AddrParseError> for Failure {
    fn from(error: std::net::AddrParseError) -> Self {
        Self(error.to_string())
    }
}

impl From<nix::Error> for Failure {
    fn from(error: nix::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self(error.to_string())
    }
}

/// Puts what was being done in front of an error.
pub(crate) trait While<T> {
    fn during(self, what: impl FnOnce() -> String) -> Outcome<T>;
}

impl<T, E: fmt::Display> While<T> for Result<T, E> {
    fn during(self, what: impl FnOnce() -> String) -> Outcome<T> {
        self.map_err(|error| Failure(format!("{}: {error}", what())))
    }
}

/// Fails with `what` unless `condition` holds.
pub(crate) fn ensure(condition: bool, what: impl FnOnce() -> String) -> Outcome {
    if condition { Ok(()) } else { Err(Failure(what())) }
}
