//! Assigned numbers, one module per IANA registry. Only what this implementation reads or writes.

/// "Protocol Numbers" and "IPv6 Extension Header Types": values of Next Header fields.
pub mod protocol {
    /// Hop-by-hop options header (RFC 8200 §4.3).
    pub const HOP_BY_HOP_OPTIONS: u8 = 0;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 encapsulation (RFC 2473 §3).
    pub const IPV6: u8 = 41;
    /// Routing header (RFC 8200 §4.4).
    pub const ROUTING: u8 = 43;
    /// Fragment header (RFC 8200 §4.5).
    pub const FRAGMENT: u8 = 44;
    /// Encapsulating security payload (RFC 4303 §2).
    pub const ESP: u8 = 50;
    /// Authentication header (RFC 4302 §2).
    pub const AH: u8 = 51;
    /// ICMPv6 (RFC 4443 §2.1).
    pub const ICMPV6: u8 = 58;
    /// No next header (RFC 8200 §4.7).
    pub const NO_NEXT_HEADER: u8 = 59;
    /// Destination options header (RFC 8200 §4.6).
    pub const DESTINATION_OPTIONS: u8 = 60;
    /// Mobility header (RFC 6275 §6.1).
    pub const MOBILITY: u8 = 135;
}

/// "Destination Options and Hop-by-Hop Options".
pub mod ipv6_option {
    /// One octet of padding (RFC 8200 §4.2).
    pub const PAD1: u8 = 0x00;
    /// Two or more octets of padding (RFC 8200 §4.2).
    pub const PADN: u8 = 0x01;
    /// Tunnel encapsulation limit (RFC 2473 §4.1.1).
    pub const TUNNEL_ENCAPSULATION_LIMIT: u8 = 0x04;
    /// Router alert (RFC 2711 §2.1).
    pub const ROUTER_ALERT: u8 = 0x05;
    /// Home address (RFC 6275 §6.3).
    pub const HOME_ADDRESS: u8 = 0xc9;
}

/// "IPv6 Routing Types".
pub mod routing_type {
    /// Type 2 routing header (RFC 6275 §6.4).
    pub const TYPE_2: u8 = 2;
}

/// "Mobility Header Types".
pub mod mobility_type {
    /// Binding refresh request (RFC 6275 §6.1.2).
    pub const BINDING_REFRESH_REQUEST: u8 = 0;
    /// Home test init (RFC 6275 §6.1.3).
    pub const HOME_TEST_INIT: u8 = 1;
    /// Care-of test init (RFC 6275 §6.1.4).
    pub const CARE_OF_TEST_INIT: u8 = 2;
    /// Home test (RFC 6275 §6.1.5).
    pub const HOME_TEST: u8 = 3;
    /// Care-of test (RFC 6275 §6.1.6).
    pub const CARE_OF_TEST: u8 = 4;
    /// Binding update (RFC 6275 §6.1.7).
    pub const BINDING_UPDATE: u8 = 5;
    /// Binding acknowledgement (RFC 6275 §6.1.8).
    pub const BINDING_ACKNOWLEDGEMENT: u8 = 6;
    /// Binding error (RFC 6275 §6.1.9).
    pub const BINDING_ERROR: u8 = 7;
}

/// "Mobility Options".
pub mod mobility_option {
    /// One octet of padding (RFC 6275 §6.2.2).
    pub const PAD1: u8 = 0;
    /// Two or more octets of padding (RFC 6275 §6.2.3).
    pub const PADN: u8 = 1;
    /// Binding refresh advice (RFC 6275 §6.2.4).
    pub const BINDING_REFRESH_ADVICE: u8 = 2;
    /// Alternate care-of address (RFC 6275 §6.2.5).
    pub const ALTERNATE_CARE_OF_ADDRESS: u8 = 3;
    /// Nonce indices (RFC 6275 §6.2.6).
    pub const NONCE_INDICES: u8 = 4;
    /// Binding authorization data (RFC 6275 §6.2.7).
    pub const BINDING_AUTHORIZATION_DATA: u8 = 5;
}

/// "Status Codes" of binding errors (RFC 6275 §6.1.9).
pub mod binding_error_status {
    /// Unknown binding for a home address destination option.
    pub const UNKNOWN_BINDING: u8 = 1;
    /// Unrecognized mobility header type.
    pub const UNRECOGNIZED_TYPE: u8 = 2;
}

/// "ICMPv6 Type Numbers".
pub mod icmpv6_type {
    /// Destination unreachable (RFC 4443 §3.1).
    pub const DESTINATION_UNREACHABLE: u8 = 1;
    /// Packet too big (RFC 4443 §3.2).
    pub const PACKET_TOO_BIG: u8 = 2;
    /// Time exceeded (RFC 4443 §3.3).
    pub const TIME_EXCEEDED: u8 = 3;
    /// Parameter problem (RFC 4443 §3.4).
    pub const PARAMETER_PROBLEM: u8 = 4;
    /// Echo request (RFC 4443 §4.1).
    pub const ECHO_REQUEST: u8 = 128;
    /// Echo reply (RFC 4443 §4.2).
    pub const ECHO_REPLY: u8 = 129;
    /// Multicast listener query (RFC 3810 §5.1).
    pub const MULTICAST_LISTENER_QUERY: u8 = 130;
    /// Version 1 multicast listener report (RFC 2710 §3).
    pub const MULTICAST_LISTENER_REPORT: u8 = 131;
    /// Version 1 multicast listener done (RFC 2710 §3).
    pub const MULTICAST_LISTENER_DONE: u8 = 132;
    /// Router solicitation (RFC 4861 §4.1).
    pub const ROUTER_SOLICITATION: u8 = 133;
    /// Router advertisement (RFC 4861 §4.2).
    pub const ROUTER_ADVERTISEMENT: u8 = 134;
    /// Neighbor solicitation (RFC 4861 §4.3).
    pub const NEIGHBOR_SOLICITATION: u8 = 135;
    /// Neighbor advertisement (RFC 4861 §4.4).
    pub const NEIGHBOR_ADVERTISEMENT: u8 = 136;
    /// Redirect (RFC 4861 §4.5).
    pub const REDIRECT: u8 = 137;
    /// Version 2 multicast listener report (RFC 3810 §5.2).
    pub const MULTICAST_LISTENER_REPORT_V2: u8 = 143;
    /// Home agent address discovery request (RFC 6275 §6.5).
    pub const HOME_AGENT_ADDRESS_DISCOVERY_REQUEST: u8 = 144;
    /// Home agent address discovery reply (RFC 6275 §6.6).
    pub const HOME_AGENT_ADDRESS_DISCOVERY_REPLY: u8 = 145;
    /// Mobile prefix solicitation (RFC 6275 §6.7).
    pub const MOBILE_PREFIX_SOLICITATION: u8 = 146;
    /// Mobile prefix advertisement (RFC 6275 §6.8).
    pub const MOBILE_PREFIX_ADVERTISEMENT: u8 = 147;
}

/// "ICMPv6 'Code' Fields", type 1, destination unreachable (RFC 4443 §3.1).
pub mod unreachable_code {
    /// No route to destination.
    pub const NO_ROUTE: u8 = 0;
    /// Communication with destination administratively prohibited.
    pub const ADMINISTRATIVELY_PROHIBITED: u8 = 1;
    /// Beyond scope of source address.
    pub const BEYOND_SCOPE: u8 = 2;
    /// Address unreachable.
    pub const ADDRESS_UNREACHABLE: u8 = 3;
    /// Port unreachable.
    pub const PORT_UNREACHABLE: u8 = 4;
    /// Source address failed ingress/egress policy.
    pub const SOURCE_ADDRESS_FAILED_POLICY: u8 = 5;
    /// Reject route to destination.
    pub const REJECT_ROUTE: u8 = 6;
}

/// "ICMPv6 'Code' Fields", type 4, parameter problem (RFC 4443 §3.4).
pub mod parameter_problem_code {
    /// Erroneous header field encountered.
    pub const ERRONEOUS_HEADER_FIELD: u8 = 0;
    /// Unrecognized next header type encountered.
    pub const UNRECOGNIZED_NEXT_HEADER: u8 = 1;
    /// Unrecognized IPv6 option encountered.
    pub const UNRECOGNIZED_OPTION: u8 = 2;
}

/// "IPv6 Neighbor Discovery Option Formats".
pub mod neighbor_option {
    /// Source link-layer address (RFC 4861 §4.6.1).
    pub const SOURCE_LINK_LAYER_ADDRESS: u8 = 1;
    /// Target link-layer address (RFC 4861 §4.6.1).
    pub const TARGET_LINK_LAYER_ADDRESS: u8 = 2;
    /// Prefix information (RFC 4861 §4.6.2, RFC 6275 §7.2).
    pub const PREFIX_INFORMATION: u8 = 3;
    /// Redirected header (RFC 4861 §4.6.3).
    pub const REDIRECTED_HEADER: u8 = 4;
    /// MTU (RFC 4861 §4.6.4).
    pub const MTU: u8 = 5;
    /// Advertisement interval (RFC 6275 §7.3).
    pub const ADVERTISEMENT_INTERVAL: u8 = 7;
    /// Home agent information (RFC 6275 §7.4).
    pub const HOME_AGENT_INFORMATION: u8 = 8;
    /// Nonce (RFC 3971 §5.3.2), used by duplicate address detection against loops (RFC 7527 §4).
    pub const NONCE: u8 = 14;
}

/// "ETHER TYPES".
pub mod ether_type {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// Reverse ARP: what hypervisors send for a guest that arrived.
    pub const RARP: u16 = 0x8035;
    /// A VLAN tag follows (IEEE 802.1Q).
    pub const VLAN: u16 = 0x8100;
    /// IPv6 (RFC 2464 §3).
    pub const IPV6: u16 = 0x86dd;
}
