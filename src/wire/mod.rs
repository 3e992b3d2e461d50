//! Total codecs: bytes to values and back. Nothing here panics, allocates without bound, or knows what a value means
//! to the protocol machines.
//!
//! | module | what |
//! |---|---|
//! | [`ipv6`], [`extension`], [`checksum`] | RFC 8200; the Home Address option and the type 2 routing header (RFC 6275 §6.3, §6.4) |
//! | [`mobility`] | mobility headers (RFC 6275 §6.1, §6.2) |
//! | [`icmpv6`], [`ndisc`] | RFC 4443; RFC 4861 with the checks of its §6.1.1 to §8.1 |
//! | [`mod@tunnel`], [`ethernet`] | RFC 2473; RFC 2464 |
//! | [`numbers`], [`octets`], [`describe()`] | IANA's numbers; reading fields; a packet in one line |
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
