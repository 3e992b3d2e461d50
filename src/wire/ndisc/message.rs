//! Neighbour discovery messages (RFC 4861 §4).

use std::net::Ipv6Addr;

use crate::vocabulary::MacAddress;
use crate::wire::numbers::{icmpv6_type, protocol};
use crate::wire::{Error, checksum, ipv6, octets};

use super::validation;
use super::{NeighborOption, option};

pub(super) const OBJECT: &str = "neighbour discovery message";

/// A router advertisement (RFC 4861 §4.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouterAdvertisement {
    /// Hop limit for the hosts' packets; 0: not said.
    pub hop_limit: u8,
    /// M: addresses come by DHCPv6.
    pub managed: bool,
    /// O: other configuration comes by DHCPv6.
    pub other_configuration: bool,
    /// H: the router is a home agent on this link (RFC 6275 §7.1).
    pub home_agent: bool,
    /// The other five bits of the flags octet as they came, the default router preference (RFC 4191 §2.2) among them.
    pub other_flags: u8,
    /// Lifetime as a default router, in seconds; 0: not a default router.
    pub router_lifetime: u16,
    /// Reachable time in milliseconds; 0: not said.
    pub reachable_time: u32,
    /// Retransmission timer in milliseconds; 0: not said.
    pub retransmission_timer: u32,
    /// Options in order.
    pub options: Vec<NeighborOption>,
}

/// A neighbour solicitation (RFC 4861 §4.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeighborSolicitation {
    /// Whose link-layer address is asked for.
    pub target: Ipv6Addr,
    /// Options in order.
    pub options: Vec<NeighborOption>,
}

/// A neighbour advertisement (RFC 4861 §4.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeighborAdvertisement {
    /// R: the sender is a router.
    pub router: bool,
    /// S: it answers a solicitation.
    pub solicited: bool,
    /// O: it replaces a cached link-layer address.
    pub override_cache: bool,
    /// The address advertised.
    pub target: Ipv6Addr,
    /// Options in order.
    pub options: Vec<NeighborOption>,
}

/// A redirect (RFC 4861 §4.5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// The better first hop.
    pub target: Ipv6Addr,
    /// For this destination.
    pub destination: Ipv6Addr,
    /// Options in order.
    pub options: Vec<NeighborOption>,
}

/// A neighbour discovery message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Type 133 (RFC 4861 §4.1).
    RouterSolicitation {
        /// Options in order.
        options: Vec<NeighborOption>,
    },
    /// Type 134.
    RouterAdvertisement(RouterAdvertisement),
    /// Type 135.
    NeighborSolicitation(NeighborSolicitation),
    /// Type 136.
    NeighborAdvertisement(NeighborAdvertisement),
    /// Type 137.
    Redirect(Redirect),
}

const MANAGED: u8 = 0x80;
const OTHER_CONFIGURATION: u8 = 0x40;
const HOME_AGENT: u8 = 0x20;
const OTHER_FLAGS: u8 = 0x1f;

const ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

impl Message {
    /// Whether an ICMPv6 type is one of neighbour discovery.
    pub fn is_neighbor_discovery(icmpv6_type: u8) -> bool {
        (icmpv6_type::ROUTER_SOLICITATION..=icmpv6_type::REDIRECT).contains(&icmpv6_type)
    }

    /// Reads and validates a message. `message` is what follows the IPv6 header `header` (and any extension headers, which hosts do
    /// not send here), from the ICMPv6 type on, without padding of the link.
    ///
    /// Checked are the rules of RFC 4861 §6.1.1, §6.1.2, §7.1.1, §7.1.2 and §8.1: hop limit 255 (so no router forwarded it),
    /// checksum, code 0, length, options with a length, and the rules about addresses of each type.
    ///
    /// # Errors
    /// Any of them broken: the packet must be discarded silently. [`Error::Field`] on "Type" for other ICMPv6 messages.
    pub fn parse(header: &ipv6::Header, message: &[u8]) -> Result<Self, Error> {
        let message_type = octets::u8_at(message, 0, OBJECT)?;
        validation::before(header, message_type, message)?;
        let parsed = Self::parse_unchecked(message)?;
        validation::after(header, &parsed)?;
        Ok(parsed)
    }

    /// Reads a message without the checks of [`Message::parse`] on hop limit, checksum and addresses.
    ///
    /// # Errors
    /// [`Error::Truncated`], [`Error::OptionLength`], [`Error::Field`] on "Type".
    pub fn parse_unchecked(message: &[u8]) -> Result<Self, Error> {
        let address = |offset| octets::address_at(message, offset, OBJECT);
        let message_type = octets::u8_at(message, 0, OBJECT)?;
        Ok(match message_type {
            icmpv6_type::ROUTER_SOLICITATION => {
                octets::u32_at(message, 4, OBJECT)?;
                Self::RouterSolicitation { options: option::parse_all(message, 8)? }
            }
            icmpv6_type::ROUTER_ADVERTISEMENT => {
                let flags = octets::u8_at(message, 5, OBJECT)?;
                Self::RouterAdvertisement(RouterAdvertisement {
                    hop_limit: octets::u8_at(message, 4, OBJECT)?,
                    managed: flags & MANAGED != 0,
                    other_configuration: flags & OTHER_CONFIGURATION != 0,
                    home_agent: flags & HOME_AGENT != 0,
                    other_flags: flags & OTHER_FLAGS,
                    router_lifetime: octets::u16_at(message, 6, OBJECT)?,
                    reachable_time: octets::u32_at(message, 8, OBJECT)?,
                    retransmission_timer: octets::u32_at(message, 12, OBJECT)?,
                    options: option::parse_all(message, 16)?,
                })
            }
            icmpv6_type::NEIGHBOR_SOLICITATION => Self::NeighborSolicitation(NeighborSolicitation {
                target: address(8)?,
                options: option::parse_all(message, 24)?,
            }),
            icmpv6_type::NEIGHBOR_ADVERTISEMENT => {
                let flags = octets::u8_at(message, 4, OBJECT)?;
                Self::NeighborAdvertisement(NeighborAdvertisement {
                    router: flags & ROUTER != 0,
                    solicited: flags & SOLICITED != 0,
                    override_cache: flags & OVERRIDE != 0,
                    target: address(8)?,
                    options: option::parse_all(message, 24)?,
                })
            }
            icmpv6_type::REDIRECT => Self::Redirect(Redirect {
                target: address(8)?,
                destination: address(24)?,
                options: option::parse_all(message, 40)?,
            }),
            other => {
                return Err(Error::Field {
                    object: OBJECT,
                    field: "Type",
                    offset: 0,
                    expected: "133 to 137",
                    found: other.into(),
                    clause: "RFC 4861 §4",
                });
            }
        })
    }

    /// The ICMPv6 type.
    pub fn message_type(&self) -> u8 {
        match self {
            Self::RouterSolicitation { .. } => icmpv6_type::ROUTER_SOLICITATION,
            Self::RouterAdvertisement(_) => icmpv6_type::ROUTER_ADVERTISEMENT,
            Self::NeighborSolicitation(_) => icmpv6_type::NEIGHBOR_SOLICITATION,
            Self::NeighborAdvertisement(_) => icmpv6_type::NEIGHBOR_ADVERTISEMENT,
            Self::Redirect(_) => icmpv6_type::REDIRECT,
        }
    }

    /// The options.
    pub fn options(&self) -> &[NeighborOption] {
        match self {
            Self::RouterSolicitation { options } => options,
            Self::RouterAdvertisement(message) => &message.options,
            Self::NeighborSolicitation(message) => &message.options,
            Self::NeighborAdvertisement(message) => &message.options,
            Self::Redirect(message) => &message.options,
        }
    }

    /// The address of the first source link-layer address option.
    pub fn source_link_layer_address(&self) -> Option<MacAddress> {
        self.options().iter().find_map(|option| match option {
            NeighborOption::SourceLinkLayerAddress(mac) => Some(*mac),
            _ => None,
        })
    }

    /// The address of the first target link-layer address option.
    pub fn target_link_layer_address(&self) -> Option<MacAddress> {
        self.options().iter().find_map(|option| match option {
            NeighborOption::TargetLinkLayerAddress(mac) => Some(*mac),
            _ => None,
        })
    }

    /// The message from its ICMPv6 type on, with its checksum over `source` and `destination`.
    pub fn emit_icmpv6(&self, source: Ipv6Addr, destination: Ipv6Addr) -> Vec<u8> {
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        let mut message = vec![self.message_type(), 0, 0, 0];
        match self {
            Self::RouterSolicitation { .. } => message.extend([0; 4]),
            Self::RouterAdvertisement(advertisement) => {
                let flags = bit(advertisement.managed, MANAGED)
                    | bit(advertisement.other_configuration, OTHER_CONFIGURATION)
                    | bit(advertisement.home_agent, HOME_AGENT)
                    | advertisement.other_flags & OTHER_FLAGS;
                message.extend([advertisement.hop_limit, flags]);
                message.extend(advertisement.router_lifetime.to_be_bytes());
                message.extend(advertisement.reachable_time.to_be_bytes());
                message.extend(advertisement.retransmission_timer.to_be_bytes());
            }
            Self::NeighborSolicitation(solicitation) => {
                message.extend([0; 4]);
                message.extend(solicitation.target.octets());
            }
            Self::NeighborAdvertisement(advertisement) => {
                let flags = bit(advertisement.router, ROUTER)
                    | bit(advertisement.solicited, SOLICITED)
                    | bit(advertisement.override_cache, OVERRIDE);
                message.extend([flags, 0, 0, 0]);
                message.extend(advertisement.target.octets());
            }
            Self::Redirect(redirect) => {
                message.extend([0; 4]);
                message.extend(redirect.target.octets());
                message.extend(redirect.destination.octets());
            }
        }
        option::emit_all(&mut message, self.options());
        checksum::fill(source, destination, protocol::ICMPV6, &mut message);
        message
    }

    /// The message as a whole IPv6 packet with hop limit 255.
    pub fn emit(&self, source: Ipv6Addr, destination: Ipv6Addr) -> Vec<u8> {
        let header = ipv6::Header { hop_limit: 255, ..ipv6::Header::new(source, destination, protocol::ICMPV6) };
        header.emit(&self.emit_icmpv6(source, destination))
    }
}

#[cfg(test)]
mod tests {
    use super::super::PrefixInformation;
    use super::*;
    use proptest::prelude::*;

    fn any_address() -> impl Strategy<Value = Ipv6Addr> {
        any::<u128>().prop_map(Ipv6Addr::from_bits)
    }

    fn any_option() -> impl Strategy<Value = NeighborOption> {
        let mac = || any::<[u8; 6]>().prop_map(MacAddress);
        prop_oneof![
            mac().prop_map(NeighborOption::SourceLinkLayerAddress),
            mac().prop_map(NeighborOption::TargetLinkLayerAddress),
            (any_address(), 0u8..=128, any::<(bool, bool, bool)>(), any::<(u32, u32)>()).prop_map(
                |(prefix, prefix_length, (on_link, autonomous, router_address), lifetimes)| {
                    NeighborOption::PrefixInformation(PrefixInformation {
                        prefix,
                        prefix_length,
                        on_link,
                        autonomous,
                        router_address,
                        valid_lifetime: lifetimes.0,
                        preferred_lifetime: lifetimes.1,
                    })
                }
            ),
            (0usize..6, any::<u8>()).prop_map(|(n, fill)| NeighborOption::RedirectedHeader(vec![fill; n * 8])),
            any::<u32>().prop_map(NeighborOption::Mtu),
            any::<u32>().prop_map(NeighborOption::AdvertisementInterval),
            any::<(i16, u16)>()
                .prop_map(|(preference, lifetime)| { NeighborOption::HomeAgentInformation { preference, lifetime } }),
            any::<[u8; 6]>().prop_map(NeighborOption::Nonce),
            (15u8.., 0usize..4, any::<u8>()).prop_map(|(option_type, n, fill)| {
                NeighborOption::Unknown { option_type, data: vec![fill; n * 8 + 6] }
            }),
        ]
    }

    fn any_message() -> impl Strategy<Value = Message> {
        let options = || proptest::collection::vec(any_option(), 0..5);
        prop_oneof![
            options().prop_map(|options| Message::RouterSolicitation { options }),
            (any::<(u8, u8, u16, u32, u32)>(), options()).prop_map(|((hop_limit, flags, lifetime, a, b), options)| {
                Message::RouterAdvertisement(RouterAdvertisement {
                    hop_limit,
                    managed: flags & 1 != 0,
                    other_configuration: flags & 2 != 0,
                    home_agent: flags & 4 != 0,
                    other_flags: flags >> 3,
                    router_lifetime: lifetime,
                    reachable_time: a,
                    retransmission_timer: b,
                    options,
                })
            }),
            (any_address(), options()).prop_map(|(target, options)| {
                Message::NeighborSolicitation(NeighborSolicitation { target, options })
            }),
            (any_address(), any::<(bool, bool, bool)>(), options()).prop_map(
                |(target, (router, solicited, override_cache), options)| {
                    Message::NeighborAdvertisement(NeighborAdvertisement {
                        router,
                        solicited,
                        override_cache,
                        target,
                        options,
                    })
                }
            ),
            (any_address(), any_address(), options()).prop_map(|(target, destination, options)| {
                Message::Redirect(Redirect { target, destination, options })
            }),
        ]
    }

    proptest! {
        #[test]
        fn round_trip(message in any_message(), source in any_address(), destination in any_address()) {
            let packet = message.emit(source, destination);
            let (header, payload) = ipv6::Header::parse(&packet).unwrap();
            prop_assert_eq!(header.hop_limit, 255);
            prop_assert!(checksum::verify(source, destination, protocol::ICMPV6, payload));
            prop_assert_eq!(Message::parse_unchecked(payload), Ok(message));
            let _ = Message::parse(&header, payload);
        }

        #[test]
        fn any_octets(mut message in proptest::collection::vec(any::<u8>(), 0..100), message_type in 132u8..139,
                      source in any_address(), destination in any_address()) {
            let header = ipv6::Header { hop_limit: 255, ..ipv6::Header::new(source, destination, protocol::ICMPV6) };
            let _ = Message::parse(&header, &message);
            if message.len() > 4 {
                message[..2].copy_from_slice(&[message_type, 0]);
                checksum::fill(source, destination, protocol::ICMPV6, &mut message);
            }
            let _ = Message::parse(&header, &message);
        }
    }
}
