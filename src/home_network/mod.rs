//! The pseudo home network: what a guest sees instead of its home link.
//!
//! One [`PseudoHomeNetwork`] stands behind each *port*, a bridge with one or several guests on it. It is the router
//! and every other host of the home link at one constant MAC address. Frames come in two ways:
//!
//! * [`classify()`] looks at each frame the port gives, on the packet path, against an immutable view ([`PortGuests`]): data for the
//!   tunnel, or a frame for the network, or nothing.
//! * [`PseudoHomeNetwork::handle_frame`] takes the frames for the network: neighbor and router discovery, the arrival of guests.
//!
//! On the home link itself nothing is pretended: the network is made to listen only ([`PseudoHomeNetwork::listen_only`]), and [`HomeLink`] announces there where
//! guests are.
//!
//! Towards the guest it is a router and its neighbours by RFC 4861: router advertisements and their timers (§6.2.4), their prefix, MTU and lifetime (§4.2, §4.6),
//! answers to router and neighbour solicitations (§6.2, §7.2), nothing to duplicate address detection of the guest's own addresses (RFC 4862 §5.4).
//! It answers echo requests to the router (RFC 4443 §4.2), and swallows multicast listener reports (RFC 2710 §3, RFC 3810 §5.2).

pub mod advertisement;
pub mod classify;
pub mod config;
pub mod guests;
pub mod home_link;
mod messages;
pub mod network;
pub mod reason;

pub use classify::{Verdict, classify};
pub use config::{Config, GuestConfig, Lifetimes};
pub use guests::{PortGuest, PortGuests};
pub use home_link::{Announcement, HomeLink};
pub use network::{Output, PseudoHomeNetwork, Sighting};
pub use reason::{Counters, Reason};

#[cfg(test)]
mod tests;
