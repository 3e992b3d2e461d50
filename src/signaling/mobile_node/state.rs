//! The states of a home registration.

use std::net::Ipv6Addr;
use std::time::Instant;

use super::exchange::Exchange;
use super::output::{Binding, StopReason};
use crate::signaling::backoff::Backoff;
use crate::vocabulary::Generation;
use crate::wire::mobility::Status;

/// What securing a care-of address is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To have everything in place, and say nothing.
    Prepare,
    /// To register it.
    Register,
    /// To de-register from it.
    Deregister,
}

/// A home registration (RFC 6275 §11.7.1).
///
/// ```text
///     Prepared ◄── applied ── Securing ◄── prepare, from any state; an attach from here finds everything in force
///
///              attach            applied          accepted           refresh_at
///  Detached ─────────► Securing ────────► Registering ────────► Bound ─────────► Refreshing
///     ▲                 ▲  │ failed          │    ▲               ▲                 │  │
///     │     care-of     │  ▼                 ▼    │ retry_at      └─────────────────┘  │ expired: Registering
///     │     changed     SecuringFailed    Refused─┘                    accepted        │ 135: Stopped
///     │   (any state; without one: Waiting)
///     └──────────────── Deregistering ◄── deregister, return_home, from any state
/// ```
///
/// `held` is a binding that the data path still carries while another care-of address is registered, or while a refresh
/// was refused. It ends with its lifetime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// Not ours to register.
    Detached,
    /// Silent, with the kernel state of the care-of address in force; without one there is nothing to prepare.
    Prepared { care_of: Option<Ipv6Addr> },
    /// There is no care-of address.
    Waiting,
    /// The kernel state for the care-of address is being brought into force.
    Securing { care_of: Ipv6Addr, generation: Generation, purpose: Purpose, held: Option<Binding>, backoff: Backoff },
    /// That failed and is tried again.
    SecuringFailed { care_of: Ipv6Addr, purpose: Purpose, held: Option<Binding>, backoff: Backoff, retry_at: Instant },
    /// The home agent has no binding with this care-of address that we know of; a binding update is outstanding.
    Registering { exchange: Exchange, held: Option<Binding> },
    /// Registered, nothing outstanding.
    Bound { binding: Binding, generation: Generation, refresh_at: Instant },
    /// Registered, a binding update that refreshes is outstanding.
    Refreshing { binding: Binding, exchange: Exchange },
    /// A binding update that deletes the binding is outstanding.
    Deregistering { exchange: Exchange, held: Option<Binding> },
    /// The home agent refused; tried again later.
    Refused { care_of: Ipv6Addr, generation: Generation, status: Status, retry_at: Instant, held: Option<Binding> },
    /// Nothing is sent until attached again.
    Stopped { reason: StopReason },
}

impl State {
    /// The name for people and for `View`.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Detached => "detached",
            Self::Prepared { .. } => "prepared",
            Self::Waiting => "waiting",
            Self::Securing { .. } => "securing",
            Self::SecuringFailed { .. } => "securing-failed",
            Self::Registering { .. } => "registering",
            Self::Bound { .. } => "bound",
            Self::Refreshing { .. } => "refreshing",
            Self::Deregistering { .. } => "deregistering",
            Self::Refused { .. } => "refused",
            Self::Stopped { .. } => "stopped",
        }
    }

    /// The care-of address being secured, registered or used.
    pub(super) fn care_of(&self) -> Option<Ipv6Addr> {
        match self {
            Self::Detached | Self::Waiting | Self::Stopped { .. } => None,
            Self::Prepared { care_of } => *care_of,
            Self::Securing { care_of, .. } | Self::SecuringFailed { care_of, .. } | Self::Refused { care_of, .. } => {
                Some(*care_of)
            }
            Self::Registering { exchange, .. }
            | Self::Refreshing { exchange, .. }
            | Self::Deregistering { exchange, .. } => Some(exchange.care_of),
            Self::Bound { binding, .. } => Some(binding.care_of),
        }
    }

    /// What the data path carries.
    pub(super) fn binding(&self) -> Option<Binding> {
        match self {
            Self::Detached | Self::Prepared { .. } | Self::Waiting | Self::Stopped { .. } => None,
            Self::Securing { held, .. }
            | Self::SecuringFailed { held, .. }
            | Self::Registering { held, .. }
            | Self::Deregistering { held, .. }
            | Self::Refused { held, .. } => *held,
            Self::Bound { binding, .. } | Self::Refreshing { binding, .. } => Some(*binding),
        }
    }

    /// The outstanding binding update.
    pub(super) fn exchange(&self) -> Option<&Exchange> {
        match self {
            Self::Registering { exchange, .. }
            | Self::Refreshing { exchange, .. }
            | Self::Deregistering { exchange, .. } => Some(exchange),
            _ => None,
        }
    }

    /// The outstanding binding update.
    pub(super) fn exchange_mut(&mut self) -> Option<&mut Exchange> {
        match self {
            Self::Registering { exchange, .. }
            | Self::Refreshing { exchange, .. }
            | Self::Deregistering { exchange, .. } => Some(exchange),
            _ => None,
        }
    }

    /// Whether the guest is on its way out.
    pub(super) fn is_deregistering(&self) -> bool {
        self.purpose() == Purpose::Deregister
    }

    /// What a care-of address is secured for in this state.
    pub(super) fn purpose(&self) -> Purpose {
        match self {
            Self::Securing { purpose, .. } | Self::SecuringFailed { purpose, .. } => *purpose,
            Self::Prepared { .. } => Purpose::Prepare,
            Self::Deregistering { .. } => Purpose::Deregister,
            _ => Purpose::Register,
        }
    }

    /// What the machine itself does next, apart from the end of the binding's lifetime.
    pub(super) fn timer(&self) -> Option<(Instant, &'static str)> {
        match self {
            Self::Detached | Self::Prepared { .. } | Self::Waiting | Self::Securing { .. } | Self::Stopped { .. } => {
                None
            }
            Self::SecuringFailed { retry_at, .. } => Some((*retry_at, "secure the care-of address again")),
            Self::Registering { exchange, .. } => Some((exchange.next, "retransmit the binding update")),
            Self::Bound { refresh_at, .. } => Some((*refresh_at, "refresh the binding")),
            Self::Refreshing { exchange, .. } => Some((exchange.next, "retransmit the refresh")),
            Self::Deregistering { exchange, .. } => Some((exchange.next, "retransmit the de-registration")),
            Self::Refused { retry_at, .. } => Some((*retry_at, "register again after a refusal")),
        }
    }
}
