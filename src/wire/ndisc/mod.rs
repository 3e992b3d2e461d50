//! Neighbour discovery (RFC 4861), with the additions of RFC 6275 §7.

mod message;
mod option;
mod validation;

pub use message::{Message, NeighborAdvertisement, NeighborSolicitation, Redirect, RouterAdvertisement};
pub use option::{NeighborOption, PrefixInformation};
