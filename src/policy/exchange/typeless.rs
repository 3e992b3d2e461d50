//! Security policies that those of umip's `mip6d` need beside them.
//!
//! Its policies for binding updates and acknowledgements name the type of the mobility header, and the kernel does not know the types of
//! what it receives and forwards: from 6.7 on of none (every mobility header counts as type 0), and up to 6.6 only behind exactly one
//! extension header, so that an update without Home Address option passes umip's policies on these, too. Since 6.12 it looks for
//! the policy that an `XFRM_MSG_MIGRATE` means in the same way, without a type, of mobility headers and of ICMPv6
//! (`xfrm_migrate_policy_find` of `net/xfrm/xfrm_policy.c`); umip takes a refused one for a failure of its own, and refuses the
//! registration with status 130. So next to each of umip's policies of a type stands one that is found without.

use std::net::Ipv6Addr;

use crate::ipsec::{Class, Toward};
use crate::policy::{GuestPolicy, Policy, Reqids, Role};

/// Behind umip's own policies for binding updates (9), before those of a live binding (16), which want the care-of address that it
/// already has.
const FROM_ANY_CARE_OF_ADDRESS: u32 = 10;
/// Behind umip's own for mobility headers between home address and home agent (2), before all others.
const MOBILITY_HEADERS: u32 = 3;
/// Before umip's for ICMPv6 (5): one for all of it may be among them, with another SA.
const ICMPV6: u32 = 4;
/// Before umip's for what is in the tunnel (10).
const IN_THE_TUNNEL: u32 = 9;
/// All of them: what of them is of another type than umip's policies name is under ESP, too.
const ANY_MOBILITY_HEADER: &str = "135";
/// What those count as that a kernel from 6.7 on receives. To older ones such a policy is nothing: umip's own policies do what they did.
const MOBILITY_HEADER_WITHOUT_TYPE: &str = "135 type 0";
/// What `XFRM_MSG_MIGRATE` looks for instead of mobile prefix discovery. There are no such messages.
const ICMPV6_WITHOUT_TYPE: &str = "58 type 0";

/// What these policies are for, as a comment.
pub(super) const PURPOSE: &str = "\
# Beside mip6d's own policies, which go by the type of a message. Of mobility headers that it received Linux knows no type
# from 6.7 on, and up to 6.6 not always: alone, mip6d gets no binding updates there, and takes some in the clear here.
";

/// The policies that `other`, with umip's `mip6d`, needs for a guest, as lines of `ip -batch`.
pub(super) fn policies(policy: &Policy, guest: &GuestPolicy, other: Role) -> Vec<String> {
    let ends = Ends { home: guest.home_address, agent: policy.home_agent.address };
    let mut lines = Vec::new();
    if other == Role::HomeAgent {
        let (home, agent) = (ends.home, ends.agent);
        lines.push(format!(
            "xfrm policy add src {home} dst {agent} proto {MOBILITY_HEADER_WITHOUT_TYPE} dir in ptype sub priority {FROM_ANY_CARE_OF_ADDRESS} \
             tmpl src :: dst :: proto hao mode ro level use"
        ));
    }
    for (class, reqids) in &guest.protection.classes {
        match (class, other) {
            (Class::HomeRegistration, _) => {
                lines.extend(ends.transport(ANY_MOBILITY_HEADER, MOBILITY_HEADERS, *reqids, other));
            }
            (Class::MobilePrefixDiscovery, Role::HomeAgent) => {
                lines.extend(ends.transport(ICMPV6_WITHOUT_TYPE, ICMPV6, *reqids, other));
            }
            (Class::ReturnRoutability, Role::HomeAgent) => lines.extend(ends.tunnel(*reqids)),
            _ => {}
        }
    }
    lines
}

/// The two ends of a registration.
#[derive(Clone, Copy)]
struct Ends {
    home: Ipv6Addr,
    agent: Ipv6Addr,
}

impl Ends {
    /// One policy each way in ESP transport mode.
    fn transport(self, proto: &str, priority: u32, reqids: Reqids, other: Role) -> [String; 2] {
        Toward::BOTH.map(|toward| {
            let (from, to) = self.way(toward);
            let received = (toward == Toward::HomeAgent) == (other == Role::HomeAgent);
            let (direction, reqid) = (if received { "in" } else { "out" }, reqids.toward(toward));
            format!(
                "xfrm policy add src {from} dst {to} proto {proto} dir {direction} priority {priority} \
                 tmpl proto esp reqid {reqid} mode transport"
            )
        })
    }

    /// What the home agent lets through and sends in ESP tunnels. They begin between home address and home agent, as the SAs
    /// do: umip moves them to the care-of address.
    fn tunnel(self, reqids: Reqids) -> [String; 3] {
        [("in", Toward::HomeAgent), ("fwd", Toward::HomeAgent), ("out", Toward::Guest)].map(|(direction, toward)| {
            let (from, to) = self.way(toward);
            let selector = match toward {
                Toward::HomeAgent => format!("src {} dst ::/0", self.home),
                Toward::Guest => format!("src ::/0 dst {}", self.home),
            };
            format!(
                "xfrm policy add {selector} proto {MOBILITY_HEADER_WITHOUT_TYPE} dir {direction} priority {IN_THE_TUNNEL} \
                 tmpl src {from} dst {to} proto esp reqid {} mode tunnel",
                reqids.toward(toward)
            )
        })
    }

    fn way(self, toward: Toward) -> (Ipv6Addr, Ipv6Addr) {
        match toward {
            Toward::HomeAgent => (self.home, self.agent),
            Toward::Guest => (self.agent, self.home),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::SomeKeys;
    use crate::policy::{load_home_agent, load_mobile_node};

    /// What our policy of `role`, with these classes, tells the other side.
    fn told(role: Role, classes: &[Class]) -> Vec<String> {
        let mut text = "[home_agent]\naddress = \"2001:db8::1\"\nhome_link = \"2001:db8::/64\"\n".to_owned();
        if role == Role::HomeAgent {
            text.push_str("interface = \"eth0\"\n");
        }
        text.push_str("[[guest]]\nname = \"vm1\"\nhome_address = \"2001:db8::10\"\n");
        if role == Role::MobileNode {
            text.push_str("mac = \"52:54:00:00:00:10\"\nport = { bridge = \"br-home\" }\n");
        }
        if classes.is_empty() {
            text.push_str("protect = \"none\"\n");
        }
        for (n, class) in (1..).step_by(2).zip(classes) {
            text += &format!("[guest.protect.{class}]\nreqid = {{ to_home_agent = {n}, to_guest = {} }}\n", n + 1);
        }
        for (n, class) in (0x1000..).step_by(2).zip(classes) {
            for (spi, toward) in (n..).zip(Toward::BOTH) {
                text += &format!(
                    "[[guest.security_association]]\nclass = \"{class}\"\ndirection = \"{toward}\"\nspi = {spi}\n\
                     encryption = {{ algorithm = \"aes-cbc\", key_file = \"{spi}.enc\" }}\n\
                     integrity = {{ algorithm = \"hmac-sha256-128\", key_file = \"{spi}.auth\" }}\n"
                );
            }
        }
        let load = if role == Role::HomeAgent { load_home_agent } else { load_mobile_node };
        let policy = load("p.toml", &text, &SomeKeys).unwrap_or_else(|report| panic!("{report}\n{text}"));
        let other = if role == Role::HomeAgent { Role::MobileNode } else { Role::HomeAgent };
        policies(&policy, &policy.guests[0], other)
    }

    const OPTION: &str = "xfrm policy add src 2001:db8::10 dst 2001:db8::1 proto 135 type 0 dir in ptype sub priority 10 \
                          tmpl src :: dst :: proto hao mode ro level use";

    #[test]
    fn a_home_agent_takes_updates_from_any_care_of_address_whatever_protects_them() {
        for classes in
            [&[][..], &[Class::MobilityHeaders], &[Class::Any], &[Class::MobilityHeaders, Class::TunnelPayload]]
        {
            assert_eq!(told(Role::MobileNode, classes), [OPTION], "{classes:?}");
        }
    }

    #[test]
    fn registrations_and_prefix_discovery_at_a_home_agent() {
        let there = "src 2001:db8::10 dst 2001:db8::1 proto";
        let back = "src 2001:db8::1 dst 2001:db8::10 proto";
        let registration = [
            OPTION.to_owned(),
            format!("xfrm policy add {there} 135 dir in priority 3 tmpl proto esp reqid 1 mode transport"),
            format!("xfrm policy add {back} 135 dir out priority 3 tmpl proto esp reqid 2 mode transport"),
        ];
        let discovery = [
            format!("xfrm policy add {there} 58 type 0 dir in priority 4 tmpl proto esp reqid 3 mode transport"),
            format!("xfrm policy add {back} 58 type 0 dir out priority 4 tmpl proto esp reqid 4 mode transport"),
        ];
        assert_eq!(told(Role::MobileNode, &[Class::HomeRegistration]), registration);
        assert_eq!(told(Role::MobileNode, &[Class::HomeRegistration, Class::TunnelPayload]), registration);
        let both = told(Role::MobileNode, &[Class::HomeRegistration, Class::MobilePrefixDiscovery]);
        assert_eq!(both, [&registration[..], &discovery[..]].concat());
    }

    #[test]
    fn tests_of_the_home_address_begin_where_their_associations_do() {
        let told = told(Role::MobileNode, &[Class::MobilityHeaders, Class::ReturnRoutability]);
        let through = |selector: &str, direction: &str, tunnel: &str| {
            format!("xfrm policy add {selector} proto 135 type 0 dir {direction} priority 9 tmpl {tunnel} mode tunnel")
        };
        let there = "src 2001:db8::10 dst 2001:db8::1 proto esp reqid 3";
        let back = "src 2001:db8::1 dst 2001:db8::10 proto esp reqid 4";
        assert_eq!(
            told,
            [
                OPTION.to_owned(),
                through("src 2001:db8::10 dst ::/0", "in", there),
                through("src 2001:db8::10 dst ::/0", "fwd", there),
                through("src ::/0 dst 2001:db8::10", "out", back),
            ]
        );
    }

    #[test]
    fn a_mobile_node_takes_acknowledgements_in_esp_only() {
        assert_eq!(
            told(Role::HomeAgent, &[Class::HomeRegistration, Class::MobilePrefixDiscovery]),
            [
                "xfrm policy add src 2001:db8::10 dst 2001:db8::1 proto 135 dir out priority 3 \
                 tmpl proto esp reqid 1 mode transport",
                "xfrm policy add src 2001:db8::1 dst 2001:db8::10 proto 135 dir in priority 3 \
                 tmpl proto esp reqid 2 mode transport",
            ]
        );
        assert_eq!(told(Role::HomeAgent, &[Class::MobilityHeaders]), [""; 0]);
    }
}
