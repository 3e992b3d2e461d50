//! The shell: the only layer with tokio, sockets, netlink, files, clocks and randomness.

pub mod check;
pub mod keys;
pub mod netlink;
pub mod reconcile;
