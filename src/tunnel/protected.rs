//! Which packets of a guest a plain tunnel must not carry, because a class of protection wants them under ESP.
//!
//! The kernel's security policies say the same (`kernel_state`), but what goes through a tunnel of ours never meets them with its inner
//! addresses. And the kernel does not find the type of every message that it forwards; here it is found.

use std::net::Ipv6Addr;

use super::inspect::Inner;
use crate::ipsec::{Class, Toward, UpperLayer};
use crate::wire::numbers::protocol;

/// The classes of protection of one guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Protected(u8);

impl FromIterator<Class> for Protected {
    fn from_iter<T: IntoIterator<Item = Class>>(classes: T) -> Self {
        Self(classes.into_iter().fold(0, |set, class| set | bit(class)))
    }
}

fn bit(class: Class) -> u8 {
    1 << class as u8
}

impl Protected {
    /// Whether the guest has the class.
    pub fn has(self, class: Class) -> bool {
        self.0 & bit(class) != 0
    }

    /// Whether ordinary data may be among what is protected, so that not even TCP, UDP or an echo may be carried without a look at this.
    pub fn may_be_data(self) -> bool {
        [Class::Icmpv6, Class::Any, Class::TunnelPayload].into_iter().any(|class| self.has(class))
    }

    /// The class that protects a packet of the guest, or for it: the first by precedence.
    pub(super) fn class_of(self, inner: &Inner, packet: &[u8], toward: Toward, home_agent: Ipv6Addr) -> Option<Class> {
        if self.0 == 0 {
            return None;
        }
        let other = match toward {
            Toward::HomeAgent => inner.header.destination,
            Toward::Guest => inner.header.source,
        };
        let between_hosts = other == home_agent && inner.chain.upper_layer != protocol::ESP;
        Class::ALL.into_iter().filter(|class| self.has(*class)).find(|class| {
            (class.is_tunnel() || between_hosts)
                && match class.upper_layer(toward) {
                    UpperLayer::Any => true,
                    UpperLayer::Protocol(number) => inner.chain.upper_layer == number,
                    UpperLayer::Icmpv6(kind) => inner.icmpv6_type(packet) == Some(kind),
                    UpperLayer::MobilityHeader(kind) => inner.mobility_type(packet) == Some(kind),
                }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::inspect::tests::{echo, icmp, packet};
    use crate::tunnel::table::tests::address;

    const HOME: &str = "2001:db8:2000::10";
    const AGENT: &str = "2001:db8:2000::1";
    const ELSEWHERE: &str = "2001:db8::2";

    fn found(classes: &[Class], octets: &[u8], toward: Toward) -> Option<Class> {
        let protected: Protected = classes.iter().copied().collect();
        protected.class_of(&Inner::read(octets).unwrap(), octets, toward, address(AGENT))
    }

    fn mobility(to: &str, kind: u8) -> Vec<u8> {
        packet(address(HOME), address(to), protocol::MOBILITY, &[59, 0, kind, 0, 0, 0, 0, 0])
    }

    #[test]
    fn each_class_has_its_packets_and_no_others() {
        let (home, agent, far) = (address(HOME), address(AGENT), address(ELSEWHERE));
        let packets = [
            ("update", mobility(AGENT, 5), vec![Class::HomeRegistration, Class::MobilityHeaders]),
            ("solicitation", icmp(home, agent, 146, 64), vec![Class::MobilePrefixDiscovery, Class::Icmpv6]),
            ("error to the home agent", mobility(AGENT, 7), vec![Class::MobilityHeaders]),
            ("echo to the home agent", echo(home, agent, 64), vec![Class::Icmpv6]),
            ("home test init", mobility(ELSEWHERE, 1), vec![Class::ReturnRoutability]),
            ("home test", mobility(ELSEWHERE, 3), vec![]),
            ("echo", echo(home, far, 64), vec![]),
        ];
        for (name, octets, mut expected) in packets {
            let to_home_agent = Inner::read(&octets).unwrap().header.destination == agent;
            let is_mobility = octets[6] == protocol::MOBILITY;
            expected.extend(to_home_agent.then_some(Class::Any));
            expected.extend(is_mobility.then_some(Class::TunnelMobilityHeaders));
            expected.push(Class::TunnelPayload);
            for class in Class::ALL {
                let wanted = expected.contains(&class).then_some(class);
                assert_eq!(found(&[class], &octets, Toward::HomeAgent), wanted, "{name} {class}");
            }
        }
    }

    #[test]
    fn the_other_way_it_is_the_source_and_the_answer() {
        let (home, agent, far) = (address(HOME), address(AGENT), address(ELSEWHERE));
        let home_test = packet(far, home, protocol::MOBILITY, &[59, 0, 3, 0, 0, 0, 0, 0]);
        assert_eq!(found(&Class::ALL, &home_test, Toward::Guest), Some(Class::ReturnRoutability));
        assert_eq!(found(&[Class::Icmpv6], &echo(agent, home, 64), Toward::Guest), Some(Class::Icmpv6));
        assert_eq!(found(&[Class::Icmpv6], &echo(far, home, 64), Toward::Guest), None);
    }

    #[test]
    fn what_is_under_esp_between_the_hosts_needs_no_other() {
        let esp = packet(address(HOME), address(AGENT), protocol::ESP, &[0; 32]);
        assert_eq!(found(&[Class::Any], &esp, Toward::HomeAgent), None);
        assert_eq!(found(&[Class::TunnelPayload], &esp, Toward::HomeAgent), Some(Class::TunnelPayload));
    }

    #[test]
    fn without_classes_nothing_is_protected() {
        assert_eq!(found(&[], &mobility(AGENT, 5), Toward::HomeAgent), None);
        assert!(!Protected::default().may_be_data());
        assert!(![Class::HomeRegistration, Class::ReturnRoutability].into_iter().collect::<Protected>().may_be_data());
        assert!([Class::TunnelPayload].into_iter().collect::<Protected>().may_be_data());
    }
}
