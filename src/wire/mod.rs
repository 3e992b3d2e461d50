//! Total codecs: bytes to values and back. Nothing here panics, allocates without bound, or knows what a value means
//! to the protocol machines.

pub mod mobility;
