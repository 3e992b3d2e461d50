//! What the home agent engine takes in, gives out and shows.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use crate::signaling::describe;
use crate::vocabulary::{Generation, GuestId, Lifetime, MacAddress, Prefix, SequenceNumber};
use crate::wire::mobility::Status;

/// What the home agent is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Its address on the home link, to which binding updates are sent.
    pub address: Ipv6Addr,
    /// The home subnet prefix.
    pub home_link: Prefix,
    /// The MAC address of its interface on the home link.
    pub link_layer_address: MacAddress,
    /// The longest lifetime granted; cut down to a multiple of 4 s, at least 4 s.
    pub maximum_lifetime: Duration,
    /// Whether duplicate address detection precedes a new binding (RFC 6275 §10.3.1 asks for it).
    pub detect_duplicates: bool,
    /// Whether a new binding is accepted, for a short time first, while duplicate address detection goes on.
    pub optimistic_detection: bool,
    /// Whether K is set in acknowledgements of updates that have it set (RFC 6275 §10.3.1).
    pub key_management_mobility: bool,
    /// How many bindings there can be at a time; more are refused with status 130.
    pub maximum_bindings: usize,
}

/// Where a binding update came from, after home address option and ESP have been processed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// The home address: from the home address option, or the source address when there was none.
    pub source: Ipv6Addr,
    /// The address it was sent to.
    pub destination: Ipv6Addr,
    /// The source address of the packet when it had a home address option. `None`: sent from home.
    pub care_of: Option<Ipv6Addr>,
}

/// A live binding, as the data path uses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Binding {
    /// The home address.
    pub home_address: Ipv6Addr,
    /// Where to tunnel to.
    pub care_of: Ipv6Addr,
    /// When it ends unless refreshed.
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
        /// The care-of address; `None`: no binding.
        care_of: Option<Ipv6Addr>,
    },
    /// Send a binding acknowledgement. Store `accepted` before it leaves.
    Transmit {
        /// The generation that must be in force; it already is when this comes out.
        after: Generation,
        /// The home address: where it goes to in the end.
        home_address: Ipv6Addr,
        /// The sequence number that it accepts.
        accepted: Option<SequenceNumber>,
        /// The address of the type 2 routing header's first hop; `None`: without routing header, to the home address.
        via_care_of: Option<Ipv6Addr>,
        /// The mobility header, checksum not filled in.
        message: Vec<u8>,
    },
    /// Send this Ethernet frame on the home link.
    HomeLinkFrame(Vec<u8>),
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

/// Something to log, to show, to watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Duplicate address detection of the home address has begun.
    DetectingDuplicates,
    /// A binding was made.
    Registered {
        /// The care-of address.
        care_of: Ipv6Addr,
        /// The lifetime granted.
        lifetime: Lifetime,
    },
    /// The care-of address of a binding has changed.
    Moved {
        /// The one before.
        from: Ipv6Addr,
        /// The one from now on.
        to: Ipv6Addr,
        /// The lifetime granted.
        lifetime: Lifetime,
    },
    /// A binding was refreshed.
    Refreshed {
        /// The lifetime granted.
        lifetime: Lifetime,
    },
    /// A binding update was refused.
    Refused {
        /// Why.
        status: Status,
        /// Its sequence number.
        sequence: SequenceNumber,
        /// Where it came from, if not from home.
        from: Option<Ipv6Addr>,
    },
    /// The binding was deleted by the mobile node.
    Deregistered,
    /// The binding's lifetime has ended.
    Expired,
    /// Another node on the home link uses the home address of a binding.
    AddressConflict {
        /// Its MAC address.
        link_layer_address: MacAddress,
    },
    /// The kernel state of a binding could not be brought into force: the binding was given up.
    SecuringFailed,
    /// A message was thrown away.
    Discarded(DiscardReason),
}

impl Event {
    /// A sentence for people.
    pub fn describe(&self) -> String {
        match self {
            Self::DetectingDuplicates => "first binding update: detecting duplicates of the home address".to_owned(),
            Self::Registered { care_of, lifetime } => {
                format!("registered with care-of address {care_of}, lifetime {lifetime}")
            }
            Self::Moved { from, to, lifetime } => {
                format!("moved from care-of address {from} to {to}, lifetime {lifetime}")
            }
            Self::Refreshed { lifetime } => format!("binding refreshed, lifetime {lifetime}"),
            Self::Refused { status, sequence, from: Some(from) } => {
                format!("binding update {sequence} from {from} refused: {status}")
            }
            Self::Refused { status, sequence, from: None } => {
                format!("binding update {sequence} from the home link refused: {status}")
            }
            Self::Deregistered => "de-registered by the mobile node".to_owned(),
            Self::Expired => "the binding's lifetime has ended without a refresh".to_owned(),
            Self::AddressConflict { link_layer_address } => {
                format!("{link_layer_address} on the home link uses the home address of a guest that is away")
            }
            Self::SecuringFailed => {
                "the kernel does not hold what the binding needs: the binding was given up".to_owned()
            }
            Self::Discarded(reason) => format!("message thrown away: {reason}"),
        }
    }

    /// Its name for programs, in kebab case.
    pub fn name(&self) -> &'static str {
        match self {
            Self::DetectingDuplicates => "detecting-duplicates",
            Self::Registered { .. } => "registered",
            Self::Moved { .. } => "moved",
            Self::Refreshed { .. } => "refreshed",
            Self::Refused { .. } => "refused",
            Self::Deregistered => "de-registered",
            Self::Expired => "expired",
            Self::AddressConflict { .. } => "address-conflict",
            Self::SecuringFailed => "securing-failed",
            Self::Discarded(_) => "discarded",
        }
    }

    /// Whether somebody should look at it: a guest is not reachable, or somebody has its address.
    pub fn is_trouble(&self) -> bool {
        match self {
            Self::Refused { .. } | Self::Expired | Self::AddressConflict { .. } | Self::SecuringFailed => true,
            Self::DetectingDuplicates
            | Self::Registered { .. }
            | Self::Moved { .. }
            | Self::Refreshed { .. }
            | Self::Deregistered
            | Self::Discarded(_) => false,
        }
    }
}

/// Why a binding update was thrown away without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DiscardReason {
    /// Not a well-formed mobility header.
    Malformed,
    /// Not sent to the home agent's address.
    NotForUs,
    /// A message that home agents do not receive.
    UnexpectedMessage,
    /// A mobility header type this implementation does not know.
    UnknownType,
    /// The home address is not unicast routable (RFC 6275 §9.5.1).
    InvalidHomeAddress,
    /// A registration without home address option (RFC 6275 §10.3.1).
    MissingHomeAddressOption,
    /// The care-of address, or the address the packet came from, is not unicast routable, or is the home agent's own.
    InvalidCareOfAddress,
    /// H is clear: a correspondent registration, which would need return routability (RFC 6275 §9.5.1).
    NotHomeRegistration,
    /// Nonce indices or binding authorisation data in a home registration (RFC 6275 §9.5.1), or an option twice.
    ForbiddenOption,
    /// A copy of a binding update that duplicate address detection is under way for.
    DetectionUnderWay,
}

impl fmt::Display for DiscardReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "malformed",
            Self::NotForUs => "not sent to the home agent's address",
            Self::UnexpectedMessage => "not for home agents",
            Self::UnknownType => "unknown mobility header type",
            Self::InvalidHomeAddress => "home address not unicast routable",
            Self::MissingHomeAddressOption => "registration without Home Address option",
            Self::InvalidCareOfAddress => "care-of address not unicast routable, or the home agent's own",
            Self::NotHomeRegistration => "not a home registration",
            Self::ForbiddenOption => "an option that home registrations do not have, or one twice",
            Self::DetectionUnderWay => "copy while duplicates are being detected",
        })
    }
}

/// What was counted since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Binding acknowledgements by status.
    pub answered: BTreeMap<u8, u64>,
    /// Binding updates thrown away, by reason.
    pub discarded: BTreeMap<DiscardReason, u64>,
    /// Neighbour solicitations answered for mobile nodes.
    pub solicitations_answered: u64,
    /// Bindings that ended with their lifetime.
    pub expired: u64,
    /// Advertisements and probes of others for a home address of ours.
    pub conflicts: u64,
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { answered, discarded, solicitations_answered, expired, conflicts } = self;
        f.write_str("binding updates answered: ")?;
        if answered.is_empty() {
            f.write_str("none")?;
        }
        for (position, (status, count)) in answered.iter().enumerate() {
            let separator = if position == 0 { "" } else { ", " };
            write!(f, "{separator}{count} with {}", Status(*status))?;
        }
        write!(
            f,
            "; {solicitations_answered} neighbour solicitations answered, {expired} bindings expired, {conflicts} address conflicts"
        )?;
        describe::discarded(f, discarded)
    }
}

/// A binding cache entry as it is to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// The home address.
    pub home_address: Ipv6Addr,
    /// `none`, `detecting` or `bound`.
    pub state: &'static str,
    /// The care-of address registered or asked for.
    pub care_of: Option<Ipv6Addr>,
    /// The last sequence number accepted, also of a binding that has ended.
    pub sequence: Option<SequenceNumber>,
    /// When the binding ends.
    pub expires: Option<Instant>,
    /// When something is next to be done, and what.
    pub next: Option<(Instant, &'static str)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_and_counters_are_sentences() {
        let from: Ipv6Addr = "2001:db8:3000::3".parse().unwrap();
        let refused = Event::Refused { status: Status(135), sequence: SequenceNumber(7), from: Some(from) };
        let expected = "binding update 7 from 2001:db8:3000::3 refused: 135 (Sequence number out of window)";
        assert_eq!(refused.describe(), expected);
        assert!(refused.is_trouble() && !Event::Deregistered.is_trouble());
        let counters = Counters { answered: [(0, 3), (135, 1)].into(), ..Counters::default() };
        let text = counters.to_string();
        assert!(text.contains("3 with 0 (") && text.contains("1 with 135 (Sequence"), "{text}");
        assert!(Counters::default().to_string().starts_with("binding updates answered: none; 0 "));
    }
}
