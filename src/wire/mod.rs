//! Total codecs: bytes to values and back. Nothing here panics, allocates without bound, or knows what a value means
//! to the protocol machines.
//!
//! Parsers take the octets of one object and give a value or an [`Error`] that says which object, which field, what was
//! expected and what came. Emitters cannot fail: what does not fit the format is cut, and their documentation says how.

pub mod checksum;
pub mod describe;
mod error;
pub mod ethernet;
pub mod extension;
pub mod icmpv6;
pub mod ipv6;
pub mod mobility;
pub mod ndisc;
pub mod numbers;
pub mod octets;
pub mod tunnel;

pub use describe::describe;
pub use error::Error;
