//! The tunnel engine: IPv6 in IPv6 (RFC 2473) between a guest and its home agent. Pure transforms; the threads that
//! read and write are the daemon's.
//!
//! | direction | host of the guest (mobile node) | home agent |
//! |---|---|---|
//! | into the tunnel | [`ingress::process`]: packet of a guest | [`home_agent::to_mobile_node`]: packet read from the TUN |
//! | out of the tunnel | [`egress::process`]: payload of a raw socket | [`home_agent::from_mobile_node`]: payload of a raw socket |
//! | beside the tunnel | [`routing_header::strip_type2_routing_header`]: the home agent's own packets | |
//! | out of the kernel's ESP tunnel | [`egress::from_kernel`]: packet read from the TUN | the kernel's alone |
//!
//! The hop limit and Packet Too Big follow RFC 2473 §3, §6.3 and §7.1, congestion notification RFC 6040 §4, errors RFC 4443 §2.4; which addresses may
//! enter and leave, RFC 6275 §10.4.5 and §11.3.1.
//!
//! Each looks its guest up in an immutable table ([`Table`], [`home_agent::HomeAgentTable`]) that the daemon swaps as
//! a whole, edits the packet in place, and says what to do with it. Nothing is counted here but by [`Counters`],
//! which every result can be given to.

pub mod accelerated;
pub mod coalesce;
pub mod counters;
pub mod ecn;
pub mod egress;
pub mod hold;
pub mod home_agent;
pub mod ingress;
pub mod inspect;
pub mod limit;
pub mod offload;
pub mod protected;
pub mod reason;
pub mod routing_header;
pub mod segment;
pub mod table;
pub mod vnet;

pub use counters::Counters;
pub use egress::{Egress, Outer};
pub use home_agent::{HomeAgentEntry, HomeAgentTable};
pub use ingress::Ingress;
pub use limit::ErrorLimits;
pub use offload::{Kind, Offload, Segments};
pub use protected::Protected;
pub use reason::Reason;
pub use table::{Carrier, Entry, Table, inner_mtu, mtu_in_esp};
