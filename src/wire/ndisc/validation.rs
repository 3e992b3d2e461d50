//! What makes a neighbour discovery message one that must be discarded.

use crate::wire::numbers::{icmpv6_type, protocol};
use crate::wire::{Error, checksum, ipv6, octets};

use super::Message;
use super::message::OBJECT;

/// The clause with the rules for a type.
fn clause(message_type: u8) -> &'static str {
    match message_type {
        icmpv6_type::ROUTER_SOLICITATION => "RFC 4861 §6.1.1",
        icmpv6_type::ROUTER_ADVERTISEMENT => "RFC 4861 §6.1.2",
        icmpv6_type::NEIGHBOR_SOLICITATION => "RFC 4861 §7.1.1",
        icmpv6_type::NEIGHBOR_ADVERTISEMENT => "RFC 4861 §7.1.2",
        _ => "RFC 4861 §8.1",
    }
}

/// The rules all types share. The length rules are in the parser.
pub(super) fn before(header: &ipv6::Header, message_type: u8, message: &[u8]) -> Result<(), Error> {
    if header.hop_limit != 255 {
        return Err(Error::Field {
            object: OBJECT,
            field: "Hop Limit",
            offset: 7,
            expected: "255",
            found: header.hop_limit.into(),
            clause: clause(message_type),
        });
    }
    if !checksum::verify(header.source, header.destination, protocol::ICMPV6, message) {
        return Err(Error::Checksum { object: OBJECT });
    }
    let code = octets::u8_at(message, 1, OBJECT)?;
    if code != 0 {
        return Err(Error::Field {
            object: OBJECT,
            field: "Code",
            offset: 1,
            expected: "0",
            found: code.into(),
            clause: clause(message_type),
        });
    }
    Ok(())
}

/// The rules about addresses and options of each type.
pub(super) fn after(header: &ipv6::Header, message: &Message) -> Result<(), Error> {
    let (source, destination) = (header.source, header.destination);
    let anonymous = source.is_unspecified();
    let broken = match message {
        Message::RouterSolicitation { .. } if anonymous && message.source_link_layer_address().is_some() => {
            "no source link-layer address option may come from the unspecified address"
        }
        Message::RouterAdvertisement(_) if !source.is_unicast_link_local() => "the source must be link-local",
        Message::NeighborSolicitation(solicitation) if solicitation.target.is_multicast() => {
            "the target must not be multicast"
        }
        Message::NeighborSolicitation(_) if anonymous && !is_solicited_node_multicast(destination) => {
            "from the unspecified address the destination must be a solicited-node multicast address"
        }
        Message::NeighborSolicitation(_) if anonymous && message.source_link_layer_address().is_some() => {
            "no source link-layer address option may come from the unspecified address"
        }
        Message::NeighborAdvertisement(advertisement) if advertisement.target.is_multicast() => {
            "the target must not be multicast"
        }
        Message::NeighborAdvertisement(advertisement) if destination.is_multicast() && advertisement.solicited => {
            "the solicited flag must be 0 to a multicast destination"
        }
        Message::Redirect(_) if !source.is_unicast_link_local() => "the source must be link-local",
        Message::Redirect(redirect) if redirect.destination.is_multicast() => {
            "the redirected destination must not be multicast"
        }
        Message::Redirect(redirect)
            if !redirect.target.is_unicast_link_local() && redirect.target != redirect.destination =>
        {
            "the target must be link-local or the destination itself"
        }
        _ => return Ok(()),
    };
    Err(Error::Rule { object: OBJECT, rule: broken, clause: clause(message.message_type()) })
}

fn is_solicited_node_multicast(address: std::net::Ipv6Addr) -> bool {
    ipv6::solicited_node_multicast(address) == address
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use super::*;
    use crate::vocabulary::MacAddress;
    use std::net::Ipv6Addr;

    const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);

    fn address(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    fn parse(packet: &[u8]) -> Result<Message, Error> {
        let (header, payload) = ipv6::Header::parse(packet).unwrap();
        Message::parse(&header, payload)
    }

    fn check(message: &Message, source: &str, destination: &str) -> Result<(), Error> {
        parse(&message.emit(address(source), address(destination))).map(|parsed| assert_eq!(&parsed, message))
    }

    fn refused_by_rule(message: &Message, source: &str, destination: &str) {
        let error = check(message, source, destination).unwrap_err();
        assert!(matches!(error, Error::Rule { .. }), "{message:?} from {source} to {destination}: {error}");
    }

    fn solicitation(target: &str, options: Vec<NeighborOption>) -> Message {
        Message::NeighborSolicitation(NeighborSolicitation { target: address(target), options })
    }

    fn advertisement(target: &str, solicited: bool) -> Message {
        let options = vec![NeighborOption::TargetLinkLayerAddress(MAC)];
        let target = address(target);
        Message::NeighborAdvertisement(NeighborAdvertisement {
            router: false,
            solicited,
            override_cache: true,
            target,
            options,
        })
    }

    #[test]
    fn hop_limit_checksum_code_and_length() {
        let packet = solicitation("2001:db8::1", vec![]).emit(address("2001:db8::2"), address("2001:db8::1"));
        assert!(parse(&packet).is_ok());
        let mut forwarded = packet.clone();
        forwarded[7] = 254;
        assert!(matches!(parse(&forwarded), Err(Error::Field { field: "Hop Limit", found: 254, .. })));
        let mut wrong = packet.clone();
        wrong[42] ^= 1;
        assert_eq!(parse(&wrong), Err(Error::Checksum { object: OBJECT }));
        let again = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut message = packet[40..].to_vec();
            change(&mut message);
            let header = ipv6::Header::parse(&packet).unwrap().0;
            checksum::fill(header.source, header.destination, 58, &mut message);
            parse(&header.emit(&message)).unwrap_err()
        };
        assert!(matches!(again(&|message| message[1] = 1), Error::Field { field: "Code", found: 1, .. }));
        let truncated = again(&|message| message.truncate(20));
        assert_eq!(truncated, Error::Truncated { object: OBJECT, needed: 24, available: 20 });
        let empty_option = again(&|message| message.extend([1, 0, 0, 0, 0, 0, 0, 0]));
        assert!(matches!(empty_option, Error::OptionLength { offset: 24, length: 0, .. }));
        let long_option = again(&|message| message.extend([1, 2, 0, 0, 0, 0, 0, 0]));
        assert!(matches!(long_option, Error::OptionLength { offset: 24, length: 2, .. }));
    }

    #[test]
    fn solicitations() {
        let source = || vec![NeighborOption::SourceLinkLayerAddress(MAC)];
        let plain = solicitation("2001:db8::10", vec![]);
        assert_eq!(check(&plain, "::", "ff02::1:ff00:10"), Ok(()));
        refused_by_rule(&plain, "::", "2001:db8::10");
        refused_by_rule(&plain, "::", "ff02::1");
        refused_by_rule(&solicitation("2001:db8::10", source()), "::", "ff02::1:ff00:10");
        assert_eq!(check(&solicitation("2001:db8::10", source()), "2001:db8::2", "2001:db8::10"), Ok(()));
        refused_by_rule(&solicitation("ff02::1", vec![]), "2001:db8::2", "ff02::1");
        let router_solicitation = Message::RouterSolicitation { options: source() };
        assert_eq!(check(&router_solicitation, "fe80::1", "ff02::2"), Ok(()));
        refused_by_rule(&router_solicitation, "::", "ff02::2");
    }

    #[test]
    fn advertisements_and_redirects() {
        assert_eq!(check(&advertisement("2001:db8::10", true), "2001:db8::10", "2001:db8::2"), Ok(()));
        assert_eq!(check(&advertisement("2001:db8::10", false), "2001:db8::10", "ff02::1"), Ok(()));
        refused_by_rule(&advertisement("2001:db8::10", true), "2001:db8::10", "ff02::1");
        refused_by_rule(&advertisement("ff02::1", false), "2001:db8::10", "ff02::1");
        let router = Message::RouterAdvertisement(RouterAdvertisement {
            hop_limit: 64,
            managed: false,
            other_configuration: false,
            home_agent: true,
            other_flags: 0,
            router_lifetime: 0,
            reachable_time: 0,
            retransmission_timer: 0,
            options: vec![],
        });
        assert_eq!(check(&router, "fe80::1", "ff02::1"), Ok(()));
        refused_by_rule(&router, "2001:db8::1", "ff02::1");
        let redirect = |target: &str, destination: &str| {
            Message::Redirect(Redirect { target: address(target), destination: address(destination), options: vec![] })
        };
        assert_eq!(check(&redirect("fe80::2", "2001:db8::2"), "fe80::1", "2001:db8::10"), Ok(()));
        assert_eq!(check(&redirect("2001:db8::2", "2001:db8::2"), "fe80::1", "2001:db8::10"), Ok(()));
        refused_by_rule(&redirect("2001:db8::3", "2001:db8::2"), "fe80::1", "2001:db8::10");
        refused_by_rule(&redirect("fe80::2", "ff0e::2"), "fe80::1", "2001:db8::10");
        refused_by_rule(&redirect("fe80::2", "2001:db8::2"), "2001:db8::1", "2001:db8::10");
    }

    #[test]
    fn options_of_other_sizes_are_kept_and_ignored() {
        let infiniband = NeighborOption::Unknown { option_type: 1, data: vec![7; 22] };
        let message = solicitation("2001:db8::1", vec![infiniband]);
        assert_eq!(check(&message, "2001:db8::2", "2001:db8::1"), Ok(()));
        assert_eq!(message.source_link_layer_address(), None);
    }
}
