//! What the RFCs demand of both engines, clause by clause, in octets on the wire; and their lives replayed against what umip sent.
//! A test is named after its clause: `rfc6275_11_8_…` is RFC 6275 §11.8.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, missing_docs)]

#[allow(dead_code, reason = "shared with other tests")]
mod captures;
#[path = "conformance/home_agent.rs"]
mod home_agent;
#[path = "conformance/mobile_node.rs"]
mod mobile_node;
#[path = "conformance/noise.rs"]
mod noise;
#[path = "conformance/replay.rs"]
mod replay;

use std::net::Ipv6Addr;

use kagemusha::vocabulary::GuestId;

const GUEST: GuestId = GuestId(0);

fn address(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

fn home_address() -> Ipv6Addr {
    address("2001:db8:2000::10")
}

fn home_agent_address() -> Ipv6Addr {
    address("2001:db8:2000::1")
}

fn care_of_address() -> Ipv6Addr {
    address("2001:db8:3000::3")
}
