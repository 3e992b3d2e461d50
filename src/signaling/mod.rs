//! Signaling of Mobile IPv6 (RFC 6275): the mobile node role played for the guests of a host, and the home agent role.
//!
//! * [`MobileNode`]: home registration (RFC 6275 §11.7.1), acknowledgements (§11.7.3), refresh requests (§11.7.4), retransmission and rates (§11.8, §12).
//! * [`HomeAgent`]: binding updates (RFC 6275 §9.5.1, §10.3.1, §10.3.2), acknowledgements (§9.5.4), neighbour discovery for those away (§10.4.1).
//! * [`Attachment`]: whether this host speaks for a guest, and from when on.
//!
//! Both engines are sans-IO: inputs and the time come in, [`poll_output`](MobileNode::poll_output) gives what is to be
//! done, [`poll_timeout`](MobileNode::poll_timeout) tells when to call again and why. Call `poll_output` until it gives
//! `None` after every input. A bad packet is never an error: it becomes a counter and an event.

pub mod attachment;
mod backoff;
mod describe;
mod engine;
pub mod home_agent;
pub mod mobile_node;

pub use attachment::Attachment;
pub use home_agent::HomeAgent;
pub use mobile_node::MobileNode;
