//! What is said over the control socket: one JSON object a line, each way. No key is ever part of it: there is no type here that could hold one.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};

/// A client's request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "request", deny_unknown_fields)]
pub enum Request {
    /// Everything there is to know. Answered by [`Reply::Status`].
    Status,
    /// Events from now on, each as [`Reply::Event`], until the client goes.
    Watch,
    /// Read the policy file again. Answered by [`Reply::Done`] with what has changed.
    Reload,
    /// Speak for a guest.
    Attach {
        /// Its name.
        guest: String,
    },
    /// Stop speaking for a guest, without de-registration.
    Detach {
        /// Its name.
        guest: String,
        /// It goes home, where nobody speaks for it: de-register it.
        #[serde(default)]
        home: bool,
    },
    /// Have everything in place for a guest.
    Prepare {
        /// Its name.
        guest: String,
    },
    /// How far the sequence numbers have come. Answered by [`Reply::Sequences`].
    SaExport {
        /// Names of guests; none: all of them.
        guests: Vec<String>,
    },
    /// Go on where another host has stopped.
    SaImport {
        /// What that host has exported.
        sequences: Sequences,
    },
}

/// The daemon's answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// See [`Request::Status`].
    Status(Box<Status>),
    /// See [`Request::Watch`].
    Event(Event),
    /// Events that a slow client has missed.
    Missed(u64),
    /// See [`Request::SaExport`].
    Sequences(Sequences),
    /// It was done; a sentence about it.
    Done(String),
    /// It was not; a sentence that says why, and what to do.
    Error(String),
}

/// The state of a daemon.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// `mobile-node` or `home-agent`.
    pub role: String,
    /// The version of the program.
    pub version: String,
    /// Seconds since the start.
    pub running_for: u64,
    /// The home agent's address.
    pub home_agent: Option<Ipv6Addr>,
    /// The link to the home agent (mobile node) or the interface on the home link (home agent).
    pub interface: Option<String>,
    /// Care-of address of this host (mobile node).
    pub care_of: Option<Ipv6Addr>,
    /// Why there is none.
    pub without_care_of: Option<String>,
    /// The newest generation of kernel state in force.
    pub generation: u64,
    /// How many objects were put right in the kernel that others had changed.
    pub repairs: u64,
    /// How packets are carried.
    pub tier: String,
    /// The guests, in the order of their ids.
    pub guests: Vec<Guest>,
    /// Counters that are not zero, by name.
    pub counters: BTreeMap<String, u64>,
    /// The last events that somebody should know of, the newest last.
    pub troubles: Vec<Event>,
}

/// A guest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Guest {
    /// Its name.
    pub name: String,
    /// Its home address.
    pub home_address: Ipv6Addr,
    /// Mobile node: `absent`, `prepared`, `attached`, `bound`, `taken-over` or `departed`. Home agent: `none`, `detecting` or `bound`.
    pub state: String,
    /// Mobile node: what the registration does, in one word.
    pub registration: Option<String>,
    /// The bridge or tap.
    pub port: Option<String>,
    /// The care-of address that is registered or tried.
    pub care_of: Option<Ipv6Addr>,
    /// Seconds that the binding lasts without a refresh.
    pub expires_in: Option<f64>,
    /// The last sequence number of a binding update.
    pub sequence: Option<u16>,
    /// Why the home agent may not answer, when it has not for a while: what the kernel has dropped meanwhile.
    pub unanswered: Option<String>,
    /// The last refusal of the home agent since its last acceptance.
    pub refused: Option<String>,
    /// What happens next of itself, and in how many seconds.
    pub next: Option<Next>,
    /// The ESP SAs.
    pub associations: Vec<Association>,
    /// Counters of its packets that are not zero, by name.
    pub counters: BTreeMap<String, u64>,
}

impl Guest {
    /// A guest of whom nothing more is known.
    pub fn new(name: &str, home_address: Ipv6Addr, state: &str) -> Self {
        Self {
            name: name.to_owned(),
            home_address,
            state: state.to_owned(),
            registration: None,
            port: None,
            care_of: None,
            expires_in: None,
            sequence: None,
            unanswered: None,
            refused: None,
            next: None,
            associations: Vec::new(),
            counters: BTreeMap::new(),
        }
    }
}

/// What is due.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Next {
    /// Seconds from now.
    pub within: f64,
    /// In words.
    pub what: String,
}

/// An ESP SA, without its keys.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Association {
    /// `out` or `in`, as seen from this machine.
    pub direction: String,
    /// SPI.
    pub spi: u32,
    /// Reqid.
    pub reqid: u32,
    /// The algorithms.
    pub algorithms: String,
    /// The last sequence number sent, or the highest received; none: the kernel does not have the SA.
    pub sequence: Option<u64>,
    /// How it ends, as configured; none: never.
    pub lifetime: Option<String>,
    /// When the kernel has said that it ends soon, in milliseconds since 1970.
    pub ends_soon: Option<u64>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Milliseconds since 1970.
    pub at: u64,
    /// What, in kebab case: `guest-seen`, `binding-update`, `registered`, `first-packet-out`, `repaired`, …
    pub what: String,
    /// The guest's name.
    pub guest: Option<String>,
    /// Its home address.
    pub home_address: Option<Ipv6Addr>,
    /// A sentence.
    pub text: String,
    /// Whether somebody should look at it.
    pub trouble: bool,
    /// Milliseconds since the guest was seen, or its attachment began.
    pub after: Option<f64>,
}

/// The only version of [`Sequences`].
pub const SEQUENCES_VERSION: u32 = 1;

/// How far the sequence numbers of some guests have come, for the next host. Keys are no part of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sequences {
    /// [`SEQUENCES_VERSION`].
    pub version: u32,
    /// The home agent of these guests.
    pub home_agent: Option<Ipv6Addr>,
    /// The guests.
    pub guests: Vec<GuestSequences>,
}

/// How far the sequence numbers of a guest have come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestSequences {
    /// Its home address, by which the next host knows it.
    pub home_address: Ipv6Addr,
    /// The last sequence number of a binding update.
    pub binding_update: u16,
    /// Its ESP SAs.
    pub associations: Vec<AssociationSequence>,
}

/// How far the sequence numbers of an ESP SA have come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AssociationSequence {
    /// Source address.
    pub source: Ipv6Addr,
    /// Destination address.
    pub destination: Ipv6Addr,
    /// SPI.
    pub spi: u32,
    /// The last number sent, or the highest received.
    pub sequence: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn requests_are_as_documented() {
        for (text, request) in [
            (r#"{"request":"status"}"#, Request::Status),
            (r#"{"request":"attach","guest":"vm1"}"#, Request::Attach { guest: "vm1".to_owned() }),
            (r#"{"request":"sa-export","guests":[]}"#, Request::SaExport { guests: vec![] }),
        ] {
            assert_eq!(serde_json::from_str::<Request>(text).unwrap(), request);
            assert_eq!(serde_json::to_string(&request).unwrap(), text);
        }
        assert!(serde_json::from_str::<Request>(r#"{"request":"attach","guest":"vm1","key":"0x00"}"#).is_err());
    }

    proptest! {
        /// Whatever a client sends, it is a request or an error.
        #[test]
        fn any_line_is_read(line in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = serde_json::from_slice::<Request>(&line);
        }
    }
}
