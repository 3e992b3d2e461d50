//! What a lab step says when it fails.

use std::any::Any;
use std::fmt;
use std::io;

/// Why a scenario or the lab itself failed: one sentence, with what was being done in front of it.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    kind: Kind,
    text: String,
}

/// What kind of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Something is not as it must be.
    Wrong,
    /// Something that was waited for has not come in time.
    Timeout,
}

/// Result of a lab step.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self { kind: Kind::Wrong, text: what.into() }
    }

    /// Something that was waited for has not come in time.
    pub(crate) fn timeout(what: impl Into<String>) -> Self {
        Self { kind: Kind::Timeout, text: what.into() }
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new(error.to_string())
    }
}

impl From<std::net::AddrParseError> for Failure {
    fn from(error: std::net::AddrParseError) -> Self {
        Self::new(error.to_string())
    }
}

impl From<nix::Error> for Failure {
    fn from(error: nix::Error) -> Self {
        Self::new(error.to_string())
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::new(error.to_string())
    }
}

/// Puts what was being done in front of an error.
pub(crate) trait While<T> {
    fn during(self, what: impl FnOnce() -> String) -> Outcome<T>;
}

impl<T, E: fmt::Display + 'static> While<T> for Result<T, E> {
    fn during(self, what: impl FnOnce() -> String) -> Outcome<T> {
        self.map_err(|error| {
            let own = (&error as &dyn Any).downcast_ref::<Failure>();
            Failure { kind: own.map_or(Kind::Wrong, Failure::kind), text: format!("{}: {error}", what()) }
        })
    }
}

/// Fails with `what` unless `condition` holds.
pub(crate) fn ensure(condition: bool, what: impl FnOnce() -> String) -> Outcome {
    if condition { Ok(()) } else { Err(Failure::new(what())) }
}

/// Fails with `what`, for want of time, unless `condition` holds.
pub(crate) fn in_time(condition: bool, what: impl FnOnce() -> String) -> Outcome {
    if condition { Ok(()) } else { Err(Failure::timeout(what())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_of_a_failure_stays_whatever_is_put_in_front() {
        let late: Outcome = Err(Failure::timeout("no answer"));
        let late = late.during(|| "asking".into()).unwrap_err();
        assert_eq!((late.kind(), late.to_string().as_str()), (Kind::Timeout, "asking: no answer"));
        let wrong = Err::<(), _>(io::Error::other("broken")).during(|| "asking".into()).unwrap_err();
        assert_eq!(wrong.kind(), Kind::Wrong);
    }
}
