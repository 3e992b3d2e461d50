//! Kagemusha: Mobile IPv6 on the host, for virtual machines that move. See `ARCHITECTURE.md` for the map.

pub mod cli;
pub mod daemon;
pub mod home_network;
pub mod ipsec;
pub mod kernel_state;
pub mod policy;
pub mod signaling;
pub mod tunnel;
pub mod vocabulary;
pub mod wire;
