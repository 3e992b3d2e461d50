//! What the mobile node engine takes in, gives out and shows.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv6Addr;
use std::time::Instant;

use crate::signaling::describe;
use crate::vocabulary::{Generation, GuestId, Lifetime, SequenceNumber};
use crate::wire::mobility::Status;

/// What is known of a guest before its first binding update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestConfig {
    /// The guest's home address.
    pub home_address: Ipv6Addr,
    /// The address of its home agent.
    pub home_agent: Ipv6Addr,
    /// The lifetime to ask for, at least one unit of 4 seconds.
    pub lifetime: Lifetime,
    /// The last sequence number that was sent for this home address, from durable storage; 0 if there is none.
    pub last_sequence: SequenceNumber,
    /// K: the key management mobility capability flag of binding updates. Some home agents want it to equal their own.
    pub key_management_mobility: bool,
}

/// A registered care-of address, as the data path uses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Binding {
    /// The care-of address that the home agent has accepted.
    pub care_of: Ipv6Addr,
    /// The home agent.
    pub home_agent: Ipv6Addr,
    /// When the home agent is going to forget it, unless refreshed.
    pub expires: Instant,
}

/// What the shell is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// The kernel state wanted for the guest has changed; answer with `applied` or `securing_failed`.
    Secure {
        /// The generation to acknowledge.
        generation: Generation,
        /// The guest.
        guest: GuestId,
        /// The care-of address to secure; the home address: the guest is de-registered from home; `None`: nothing of this guest is registered
        /// from here.
        care_of: Option<Ipv6Addr>,
    },
    /// Send a mobility header. Store `sequence` durably before it leaves.
    Transmit {
        /// The generation that must be in force; it already is when this comes out.
        after: Generation,
        /// The guest.
        guest: GuestId,
        /// The sequence number in the message.
        sequence: SequenceNumber,
        /// The home address; the kernel puts the care-of address in its place on the wire.
        source: Ipv6Addr,
        /// The home agent.
        destination: Ipv6Addr,
        /// The mobility header, checksum not filled in.
        message: Vec<u8>,
    },
    /// What the data path carries for the guest has changed; `None`: nothing.
    Binding {
        /// The guest.
        guest: GuestId,
        /// The binding to use.
        binding: Option<Binding>,
    },
    /// Something to tell.
    Event {
        /// The guest.
        guest: GuestId,
        /// What happened.
        event: Event,
    },
}

/// Why a guest is stopped until it is attached again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// The home agent has accepted binding updates newer than ours: another host has the guest.
    TakenOver {
        /// The sequence number the home agent has last accepted.
        last_accepted: SequenceNumber,
    },
}

/// How a de-registration ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The home agent has deleted the binding.
    Acknowledged,
    /// The home agent had no binding (status 133).
    NoBinding,
    /// No binding update had been sent since `attach`: there was nothing to delete.
    NothingSent,
    /// The home agent refused; its binding ends with its lifetime.
    Refused(Status),
    /// Another host has the guest; its binding was left alone.
    TakenOver,
    /// No acknowledgement after the last retransmission; the binding ends with its lifetime.
    Unanswered,
    /// There is no care-of address to send from; the binding ends with its lifetime.
    NoCareOfAddress,
}

/// Something to log, to show, to watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Registered, after having had no binding at this care-of address.
    Registered {
        /// The care-of address.
        care_of: Ipv6Addr,
        /// The lifetime granted.
        lifetime: Lifetime,
    },
    /// The binding was refreshed.
    Refreshed {
        /// The lifetime granted.
        lifetime: Lifetime,
    },
    /// A binding update was sent again for want of an answer.
    Retransmitted {
        /// The transmissions so far of this binding update.
        attempts: u32,
    },
    /// The home agent refused.
    Refused {
        /// Why.
        status: Status,
        /// When the next attempt is made.
        retry_at: Instant,
    },
    /// The home agent wanted a newer sequence number and got it (status 135 at the first registration since `attach`).
    SequenceAdopted {
        /// The last one the home agent had accepted.
        last_accepted: SequenceNumber,
    },
    /// The lifetime of the binding ended without an acknowledged refresh; registration goes on.
    Expired,
    /// Stopped until attached again.
    Stopped(StopReason),
    /// De-registration ended.
    Deregistered(Outcome),
    /// The kernel state could not be brought into force; nothing is sent meanwhile.
    SecuringFailed {
        /// When it is tried again.
        retry_at: Instant,
    },
    /// No uplink: waiting for a care-of address.
    WaitingForCareOfAddress,
    /// The home agent accepted but asks for prefix discovery (status 1), which is not done.
    PrefixDiscoveryNecessary,
    /// A binding error of the home agent. Status 1 starts a registration.
    BindingError {
        /// 1: unknown binding; 2: unrecognised mobility header type.
        status: u8,
    },
    /// A binding refresh request of the home agent.
    RefreshRequested,
    /// A message was thrown away.
    Discarded(DiscardReason),
}

impl Event {
    /// A sentence for people, as seen at `now`.
    pub fn describe(&self, now: Instant) -> String {
        match self {
            Self::Registered { care_of, lifetime } => {
                format!("registered with care-of address {care_of}, lifetime {lifetime}")
            }
            Self::Refreshed { lifetime } => format!("binding refreshed, lifetime {lifetime}"),
            Self::Retransmitted { attempts } => {
                format!("no answer from the home agent: binding update sent again, transmission {attempts}")
            }
            Self::Refused { status, retry_at } => {
                format!("refused by the home agent: {status}; next try {}", describe::until(*retry_at, now))
            }
            Self::SequenceAdopted { last_accepted } => {
                format!("the home agent has accepted sequence number {last_accepted} before: going on beyond it")
            }
            Self::Expired => "the binding's lifetime has ended without a refresh; registering again".to_owned(),
            Self::Stopped(StopReason::TakenOver { last_accepted }) => format!(
                "stopped: another host speaks for this guest now, the home agent has accepted its sequence number \
                 {last_accepted}; nothing is sent until the guest is attached again"
            ),
            Self::Deregistered(outcome) => format!("de-registration: {outcome}"),
            Self::SecuringFailed { retry_at } => format!(
                "the kernel does not hold what protects this guest's binding updates: none is sent; next try {}",
                describe::until(*retry_at, now)
            ),
            Self::WaitingForCareOfAddress => "not registered: waiting for a care-of address".to_owned(),
            Self::PrefixDiscoveryNecessary => {
                "the home agent asks for mobile prefix discovery, which is not done; registered all the same".to_owned()
            }
            Self::BindingError { status: 1 } => {
                "binding error: the home agent has no binding; registering again".to_owned()
            }
            Self::BindingError { status: 2 } => {
                "binding error: the home agent does not know a mobility header type of ours".to_owned()
            }
            Self::BindingError { status } => format!("binding error with the unassigned status {status}"),
            Self::RefreshRequested => "the home agent asks for a refresh".to_owned(),
            Self::Discarded(reason) => format!("message thrown away: {reason}"),
        }
    }

    /// Its name for programs, in kebab case.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Registered { .. } => "registered",
            Self::Refreshed { .. } => "refreshed",
            Self::Retransmitted { .. } => "retransmitted",
            Self::Refused { .. } => "refused",
            Self::SequenceAdopted { .. } => "sequence-adopted",
            Self::Expired => "expired",
            Self::Stopped(_) => "taken-over",
            Self::Deregistered(_) => "de-registered",
            Self::SecuringFailed { .. } => "securing-failed",
            Self::WaitingForCareOfAddress => "waiting",
            Self::PrefixDiscoveryNecessary => "prefix-discovery-necessary",
            Self::BindingError { .. } => "binding-error",
            Self::RefreshRequested => "refresh-requested",
            Self::Discarded(_) => "discarded",
        }
    }

    /// Whether somebody should look at it: the guest is not reachable, or will not be for long.
    pub fn is_trouble(&self) -> bool {
        match self {
            Self::Refused { .. }
            | Self::Expired
            | Self::Stopped(_)
            | Self::SecuringFailed { .. }
            | Self::WaitingForCareOfAddress
            | Self::BindingError { .. } => true,
            Self::Deregistered(outcome) => {
                !matches!(outcome, Outcome::Acknowledged | Outcome::NoBinding | Outcome::NothingSent)
            }
            Self::Registered { .. }
            | Self::Refreshed { .. }
            | Self::Retransmitted { .. }
            | Self::SequenceAdopted { .. }
            | Self::PrefixDiscoveryNecessary
            | Self::RefreshRequested
            | Self::Discarded(_) => false,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Acknowledged => f.write_str("the home agent has deleted the binding"),
            Self::NoBinding => f.write_str("the home agent had no binding"),
            Self::NothingSent => f.write_str("not needed, nothing was registered from here"),
            Self::Refused(status) => {
                write!(f, "refused by the home agent: {status}; the binding ends with its lifetime")
            }
            Self::TakenOver => f.write_str("left out, another host has the guest"),
            Self::Unanswered => f.write_str("no answer from the home agent; the binding ends with its lifetime"),
            Self::NoCareOfAddress => {
                f.write_str("not possible without a care-of address; the binding ends with its lifetime")
            }
        }
    }
}

/// Why a message was thrown away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DiscardReason {
    /// No guest has the home address it was sent to.
    UnknownHomeAddress,
    /// Not a well-formed mobility header.
    Malformed,
    /// Not from the guest's home agent (RFC 6275 §11.7.3).
    NotFromHomeAgent,
    /// A binding acknowledgement while no binding update was outstanding.
    NothingOutstanding,
    /// The sequence number is none of those outstanding (RFC 6275 §11.7.3).
    SequenceMismatch,
    /// Status 135 with a sequence number that is not newer than ours: an echo of a duplicated or overtaken update.
    StaleOutOfWindow,
    /// The lifetime granted had passed when the acknowledgement came.
    AlreadyExpired,
    /// A hint (binding error, refresh request) too soon after the last one, or when there was no binding.
    UnneededHint,
    /// A binding error about another home address.
    OtherHomeAddress,
    /// A message that mobile nodes do not receive.
    UnexpectedMessage,
    /// A mobility header type this implementation does not know.
    UnknownType,
}

impl fmt::Display for DiscardReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownHomeAddress => "no guest has this home address",
            Self::Malformed => "malformed",
            Self::NotFromHomeAgent => "not from the home agent",
            Self::NothingOutstanding => "no binding update was outstanding",
            Self::SequenceMismatch => "no outstanding binding update has its sequence number",
            Self::StaleOutOfWindow => "an echo of an overtaken binding update",
            Self::AlreadyExpired => "the lifetime it grants has passed",
            Self::UnneededHint => "a hint too soon or without a binding",
            Self::OtherHomeAddress => "about another home address",
            Self::UnexpectedMessage => "not for mobile nodes",
            Self::UnknownType => "unknown mobility header type",
        })
    }
}

/// What was counted since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Binding updates given out for transmission.
    pub binding_updates: u64,
    /// Of those, retransmissions.
    pub retransmissions: u64,
    /// Binding acknowledgements that accepted.
    pub accepted: u64,
    /// Binding acknowledgements that refused.
    pub refused: u64,
    /// Messages thrown away, by reason.
    pub discarded: BTreeMap<DiscardReason, u64>,
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { binding_updates, retransmissions, accepted, refused, discarded } = self;
        write!(
            f,
            "{binding_updates} binding updates sent ({retransmissions} of them again), {accepted} accepted, {refused} refused"
        )?;
        describe::discarded(f, discarded)
    }
}

/// A guest's registration as it is to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// The home address.
    pub home_address: Ipv6Addr,
    /// The home agent.
    pub home_agent: Ipv6Addr,
    /// The state's name, in lower case: `detached`, `prepared`, `waiting`, `securing`, `securing-failed`, `registering`, `bound`,
    /// `refreshing`, `deregistering`, `refused` or `stopped`.
    pub state: &'static str,
    /// The care-of address being secured, registered or used.
    pub care_of: Option<Ipv6Addr>,
    /// The last sequence number used.
    pub sequence: SequenceNumber,
    /// What the data path carries.
    pub binding: Option<Binding>,
    /// Transmissions of the outstanding binding update.
    pub attempts: u32,
    /// The last refusal since the last acceptance.
    pub refused: Option<Status>,
    /// Why it is stopped.
    pub stopped: Option<StopReason>,
    /// When something is next to be done, and what.
    pub next: Option<(Instant, &'static str)>,
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "an Instant to count from")]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn events_are_sentences_with_times_from_now() {
        let now = Instant::now();
        let care_of = "2001:db8:3000::3".parse().unwrap();
        let registered = Event::Registered { care_of, lifetime: Lifetime(150) };
        assert_eq!(registered.describe(now), "registered with care-of address 2001:db8:3000::3, lifetime 600 s");
        let retry_at = now + Duration::from_millis(12_400);
        let refused = Event::Refused { status: Status(134), retry_at };
        let expected = "refused by the home agent: 134 (Duplicate Address Detection failed); next try in 13 s";
        assert_eq!(refused.describe(now).to_lowercase(), expected.to_lowercase());
        assert!(refused.is_trouble() && !registered.is_trouble());
        assert!(refused.describe(retry_at).ends_with("next try now"));
        assert!(Event::Deregistered(Outcome::Unanswered).is_trouble());
        assert!(!Event::Deregistered(Outcome::Acknowledged).is_trouble());
    }

    #[test]
    fn counters_name_every_reason() {
        let discarded = [(DiscardReason::Malformed, 2), (DiscardReason::UnknownType, 1)].into();
        let counters = Counters { binding_updates: 3, retransmissions: 1, accepted: 2, refused: 0, discarded };
        assert_eq!(
            counters.to_string(),
            "3 binding updates sent (1 of them again), 2 accepted, 0 refused; thrown away: 2 malformed, 1 unknown mobility header type"
        );
    }
}
