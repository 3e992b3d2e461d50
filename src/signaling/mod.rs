//! Signaling of Mobile IPv6 (RFC 6275): the mobile node role played for the guests of a host, and the home agent role.
//!
//! Both engines are sans-IO: inputs and the time come in, [`poll_output`](MobileNode::poll_output) gives what is to be
//! done, [`poll_timeout`](MobileNode::poll_timeout) tells when to call again and why. Call `poll_output` until it gives
//! `None` after every input. A bad packet is never an error: it becomes a counter and an event.

mod backoff;
mod engine;
pub mod home_agent;
pub mod mobile_node;

pub use home_agent::HomeAgent;
pub use mobile_node::MobileNode;
