//! One line for a packet, in the words of tcpdump.

use std::fmt::{self, Write};
use std::net::Ipv6Addr;

use super::mobility::{BindingUpdateFlags, Message, MobilityOption};
use super::ndisc::NeighborOption;
use super::numbers::{icmpv6_type, mobility_type, protocol};
use super::{checksum, extension, icmpv6, ipv6, ndisc};

/// How many packets within packets are told.
const MAXIMUM_DEPTH: usize = 4;

/// One line that tells what `packet`, a whole IPv6 packet, is. Any octets give a line; what cannot be read is named with the reason.
pub fn describe(packet: &[u8]) -> String {
    let mut line = String::new();
    // Writing to a String does not fail.
    let _ = write_packet(&mut line, packet, 0);
    line
}

fn write_packet(out: &mut String, packet: &[u8], depth: usize) -> fmt::Result {
    let (header, payload) = match ipv6::Header::parse(packet) {
        Ok(parsed) => parsed,
        Err(error) => return write!(out, "[{error}]"),
    };
    write!(out, "IP6 {} > {}: ", header.source, header.destination)?;
    let chain = match extension::walk(header.next_header, payload) {
        Ok(chain) => chain,
        Err(error) => return write!(out, "[{error}], length {}", payload.len()),
    };
    for header in &chain.headers {
        match header.header_type {
            protocol::HOP_BY_HOP_OPTIONS => out.write_str("HBH ")?,
            protocol::DESTINATION_OPTIONS => match chain.home_address {
                Some(home_address) if has_home_address(payload, header) => {
                    write!(out, "DSTOPT (homeaddr: {home_address}) ")?;
                }
                _ => out.write_str("DSTOPT ")?,
            },
            protocol::ROUTING => write_routing_header(out, payload.get(header.range.clone()).unwrap_or_default())?,
            _ => {
                if let Some(fragment) = chain.fragment {
                    let end = payload.len().saturating_sub(header.range.end);
                    write!(out, "frag ({:#010x}:{}|{end}) ", fragment.identification, fragment.offset)?;
                }
            }
        }
    }
    let upper_layer = payload.get(chain.offset..).unwrap_or_default();
    if !chain.has_upper_layer_header() {
        return write!(out, "length {}", upper_layer.len());
    }
    write_upper_layer(out, chain.upper_layer, upper_layer, depth)?;
    // Of TCP and UDP a capture on the sending machine shows sums that the device has still to complete.
    let summed = matches!(chain.upper_layer, protocol::ICMPV6 | protocol::MOBILITY) && chain.fragment.is_none();
    let (source, destination) = chain.checksum_addresses(&header);
    if summed && !checksum::verify(source, destination, chain.upper_layer, upper_layer) {
        out.write_str(" [bad checksum]")?;
    }
    Ok(())
}

fn has_home_address(payload: &[u8], header: &extension::ExtensionHeader) -> bool {
    let octets = payload.get(header.range.clone()).unwrap_or_default();
    matches!(extension::home_address_in_destination_options(octets), Ok(Some(_)))
}

fn write_routing_header(out: &mut String, header: &[u8]) -> fmt::Result {
    let at = |offset: usize| header.get(offset).copied().unwrap_or_default();
    write!(out, "RT6 (len={}, type={}, segleft={}", at(1), at(2), at(3))?;
    if let Ok(routing) = extension::Type2RoutingHeader::parse(header) {
        write!(out, ", [0]{}", routing.address)?;
    }
    out.write_str(") ")
}

fn write_upper_layer(out: &mut String, protocol: u8, octets: &[u8], depth: usize) -> fmt::Result {
    let word =
        |offset: usize| octets.get(offset..).and_then(|rest| rest.first_chunk()).copied().map(u32::from_be_bytes);
    let half =
        |offset: usize| octets.get(offset..).and_then(|rest| rest.first_chunk()).copied().map(u16::from_be_bytes);
    let length = octets.len();
    match protocol {
        protocol::IPV6 if depth < MAXIMUM_DEPTH => write_packet(out, octets, depth + 1),
        protocol::ESP => match (word(0), word(4)) {
            (Some(spi), Some(sequence)) => write!(out, "ESP(spi={spi:#010x},seq={sequence:#x}), length {length}"),
            _ => write!(out, "ESP cut short, length {length}"),
        },
        protocol::MOBILITY => write_mobility(out, octets),
        protocol::ICMPV6 => write_icmpv6(out, octets),
        protocol::NO_NEXT_HEADER => out.write_str("no next header"),
        protocol::UDP | protocol::TCP => match (half(0), half(2)) {
            (Some(from), Some(to)) => {
                let name = if protocol == protocol::UDP { "UDP" } else { "TCP" };
                write!(out, "{name}, port {from} > {to}, length {length}")
            }
            _ => write!(out, "ip-proto-{protocol} cut short, length {length}"),
        },
        other => write!(out, "ip-proto-{other}, length {length}"),
    }
}

fn write_mobility(out: &mut String, octets: &[u8]) -> fmt::Result {
    out.write_str("mobility: ")?;
    let message = match Message::parse(octets) {
        Ok(message) => message,
        Err(error) => return write!(out, "[{error}], length {}", octets.len()),
    };
    match message {
        Message::BindingRefreshRequest => out.write_str("BRR"),
        Message::BindingUpdate(update) => {
            let flags = flag_letters(update.flags);
            let seconds = update.lifetime.as_duration().as_secs();
            write!(out, "BU seq#={}{flags} lifetime={seconds}", update.sequence)?;
            write_mobility_options(out, &update.options)
        }
        Message::BindingAcknowledgement(acknowledgement) => {
            write!(out, "BA status={}", acknowledgement.status.0)?;
            if let Some(name) = acknowledgement.status.name().filter(|_| acknowledgement.status.0 != 0) {
                write!(out, " ({name})")?;
            }
            let flags = if acknowledgement.key_management_mobility { " K" } else { "" };
            let seconds = acknowledgement.lifetime.as_duration().as_secs();
            write!(out, " seq#={}{flags} lifetime={seconds}", acknowledgement.sequence)?;
            write_mobility_options(out, &acknowledgement.options)
        }
        Message::BindingError(error) => write!(out, "BE status={} homeaddr {}", error.status, error.home_address),
        Message::ReturnRoutability { mh_type } => out.write_str(match mh_type {
            mobility_type::HOME_TEST_INIT => "HoTI",
            mobility_type::CARE_OF_TEST_INIT => "CoTI",
            mobility_type::HOME_TEST => "HoT",
            _ => "CoT",
        }),
        Message::Unknown { mh_type } => write!(out, "type-#{mh_type}, length {}", octets.len()),
    }
}

fn flag_letters(flags: BindingUpdateFlags) -> String {
    let letters = [
        (flags.acknowledge, 'A'),
        (flags.home_registration, 'H'),
        (flags.link_local_compatibility, 'L'),
        (flags.key_management_mobility, 'K'),
    ];
    let set: String = letters.iter().filter(|(set, _)| *set).map(|(_, letter)| letter).collect();
    if set.is_empty() { set } else { format!(" {set}") }
}

fn write_mobility_options(out: &mut String, options: &[MobilityOption]) -> fmt::Result {
    for option in options {
        match option {
            MobilityOption::BindingRefreshAdvice(interval) => {
                write!(out, " (refresh: {})", u32::from(*interval) * 4)?;
            }
            MobilityOption::AlternateCareOfAddress(address) => write!(out, " (alt-CoA: {address})")?,
            MobilityOption::NonceIndices { home, care_of } => {
                write!(out, " (ni: ho={home:#06x} co={care_of:#06x})")?;
            }
            MobilityOption::BindingAuthorizationData(_) => out.write_str(" (auth)")?,
            MobilityOption::Unknown { option_type, data } => {
                write!(out, " (type-{option_type:#04x}: len={})", data.len())?;
            }
        }
    }
    Ok(())
}

fn write_icmpv6(out: &mut String, octets: &[u8]) -> fmt::Result {
    out.write_str("ICMP6, ")?;
    let length = octets.len();
    let message_type = octets.first().copied().unwrap_or_default();
    if ndisc::Message::is_neighbor_discovery(message_type) {
        return match ndisc::Message::parse_unchecked(octets) {
            Ok(message) => write_neighbor_discovery(out, &message, length),
            Err(error) => write!(out, "[{error}], length {length}"),
        };
    }
    match icmpv6::Message::parse(octets) {
        Err(error) => write!(out, "[{error}], length {length}"),
        Ok(icmpv6::Message::EchoRequest { identifier, sequence, .. }) => {
            write!(out, "echo request, id {identifier}, seq {sequence}, length {length}")
        }
        Ok(icmpv6::Message::EchoReply { identifier, sequence, .. }) => {
            write!(out, "echo reply, id {identifier}, seq {sequence}, length {length}")
        }
        Ok(icmpv6::Message::PacketTooBig { mtu, .. }) => write!(out, "packet too big, mtu {mtu}, length {length}"),
        Ok(icmpv6::Message::DestinationUnreachable { code, original }) => {
            write!(out, "destination unreachable, {}", unreachable(code))?;
            write_original(out, original, length)
        }
        Ok(icmpv6::Message::TimeExceeded { code, original }) => {
            write!(out, "time exceeded, {}", if code == 0 { "hop limit" } else { "reassembly" })?;
            write_original(out, original, length)
        }
        Ok(icmpv6::Message::ParameterProblem { code, pointer, .. }) => {
            write!(out, "parameter problem, code {code}, octet {pointer}, length {length}")
        }
        Ok(icmpv6::Message::Other { message_type: icmpv6_type::MULTICAST_LISTENER_REPORT_V2, body, .. }) => {
            let records = body.get(2..4).and_then(|octets| octets.first_chunk()).copied().map_or(0, u16::from_be_bytes);
            write!(out, "multicast listener report v2, {records} group record(s), length {length}")
        }
        Ok(icmpv6::Message::Other { message_type, .. }) => match other_name(message_type) {
            Some(name) => write!(out, "{name}, length {length}"),
            None => write!(out, "type-#{message_type}, length {length}"),
        },
    }
}

fn unreachable(code: u8) -> String {
    match code {
        0 => "no route".to_owned(),
        1 => "administratively prohibited".to_owned(),
        2 => "beyond scope".to_owned(),
        3 => "address unreachable".to_owned(),
        4 => "port unreachable".to_owned(),
        5 => "source address failed policy".to_owned(),
        6 => "reject route".to_owned(),
        other => format!("code {other}"),
    }
}

fn write_original(out: &mut String, original: &[u8], length: usize) -> fmt::Result {
    let destination = original.get(24..40).and_then(|octets| octets.first_chunk::<16>()).copied().map(Ipv6Addr::from);
    if let Some(destination) = destination {
        write!(out, " {destination}")?;
    }
    write!(out, ", length {length}")
}

fn other_name(message_type: u8) -> Option<&'static str> {
    Some(match message_type {
        icmpv6_type::MULTICAST_LISTENER_QUERY => "multicast listener query",
        icmpv6_type::MULTICAST_LISTENER_REPORT => "multicast listener report",
        icmpv6_type::MULTICAST_LISTENER_DONE => "multicast listener done",
        icmpv6_type::HOME_AGENT_ADDRESS_DISCOVERY_REQUEST => "home agent address discovery request",
        icmpv6_type::HOME_AGENT_ADDRESS_DISCOVERY_REPLY => "home agent address discovery reply",
        icmpv6_type::MOBILE_PREFIX_SOLICITATION => "mobile prefix solicitation",
        icmpv6_type::MOBILE_PREFIX_ADVERTISEMENT => "mobile prefix advertisement",
        _ => return None,
    })
}

fn write_neighbor_discovery(out: &mut String, message: &ndisc::Message, length: usize) -> fmt::Result {
    match message {
        ndisc::Message::RouterSolicitation { .. } => write!(out, "router solicitation, length {length}"),
        ndisc::Message::RouterAdvertisement(advertisement) => {
            out.write_str("router advertisement")?;
            for option in &advertisement.options {
                if let NeighborOption::PrefixInformation(information) = option {
                    write!(out, ", prefix {}/{}", information.prefix, information.prefix_length)?;
                }
            }
            write!(out, ", length {length}")
        }
        ndisc::Message::NeighborSolicitation(solicitation) => {
            write!(out, "neighbor solicitation, who has {}, length {length}", solicitation.target)
        }
        ndisc::Message::NeighborAdvertisement(advertisement) => {
            write!(out, "neighbor advertisement, tgt is {}", advertisement.target)?;
            let flags = [
                (advertisement.router, "router"),
                (advertisement.solicited, "solicited"),
                (advertisement.override_cache, "override"),
            ];
            let set: Vec<&str> = flags.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect();
            if !set.is_empty() {
                write!(out, ", flags [{}]", set.join(", "))?;
            }
            if let Some(mac) = message.target_link_layer_address() {
                write!(out, ", at {mac}")?;
            }
            write!(out, ", length {length}")
        }
        ndisc::Message::Redirect(redirect) => {
            write!(out, "redirect, {} to {}, length {length}", redirect.destination, redirect.target)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::{Lifetime, SequenceNumber};
    use crate::wire::extension::{HomeAddressOption, Type2RoutingHeader};
    use crate::wire::mobility::{self, BindingAcknowledgement, BindingUpdate, Status};
    use crate::wire::tunnel;
    use proptest::prelude::*;

    fn address(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    fn home_agent() -> Ipv6Addr {
        address("2001:db8:2000::1")
    }

    fn home() -> Ipv6Addr {
        address("2001:db8:2000::10")
    }

    fn care_of() -> Ipv6Addr {
        address("2001:db8:3000::3")
    }

    fn packet(source: Ipv6Addr, destination: Ipv6Addr, next_header: u8, parts: &[&[u8]]) -> Vec<u8> {
        ipv6::Header::new(source, destination, next_header).emit(&parts.concat())
    }

    #[test]
    fn binding_updates_and_acknowledgements() {
        let mut update = Message::BindingUpdate(BindingUpdate {
            sequence: SequenceNumber(1),
            flags: BindingUpdateFlags { acknowledge: true, home_registration: true, ..Default::default() },
            lifetime: Lifetime(150),
            options: vec![MobilityOption::AlternateCareOfAddress(care_of())],
        })
        .emit();
        mobility::fill_checksum(&mut update, home(), home_agent());
        let option = HomeAddressOption { home_address: home() };
        let line = describe(&packet(care_of(), home_agent(), 60, &[&option.emit(135), &update]));
        assert_eq!(
            line,
            "IP6 2001:db8:3000::3 > 2001:db8:2000::1: DSTOPT (homeaddr: 2001:db8:2000::10) \
             mobility: BU seq#=1 AH lifetime=600 (alt-CoA: 2001:db8:3000::3)"
        );
        let esp = [&[0, 0, 3, 0xe8, 0, 0, 0, 1][..], &[0xaa; 76]].concat();
        let line = describe(&packet(care_of(), home_agent(), 60, &[&option.emit(50), &esp]));
        assert_eq!(
            line,
            "IP6 2001:db8:3000::3 > 2001:db8:2000::1: DSTOPT (homeaddr: 2001:db8:2000::10) \
             ESP(spi=0x000003e8,seq=0x1), length 84"
        );
        let acknowledgement = Message::BindingAcknowledgement(BindingAcknowledgement {
            status: Status::SEQUENCE_NUMBER_OUT_OF_WINDOW,
            key_management_mobility: true,
            sequence: SequenceNumber(7),
            lifetime: Lifetime::ZERO,
            options: vec![],
        });
        let routing = Type2RoutingHeader::new(home());
        let line = describe(&packet(home_agent(), care_of(), 43, &[&routing.emit(135), &acknowledgement.emit()]));
        assert_eq!(
            line,
            "IP6 2001:db8:2000::1 > 2001:db8:3000::3: RT6 (len=2, type=2, segleft=1, [0]2001:db8:2000::10) \
             mobility: BA status=135 (Sequence number out of window) seq#=7 K lifetime=0 [bad checksum]"
        );
    }

    #[test]
    fn tunnels_and_errors() {
        let echo = icmpv6::Message::EchoRequest { identifier: 1, sequence: 2, data: &[0; 56] };
        let inner = echo.emit_packet(home(), home_agent());
        let outer = tunnel::outer_header(care_of(), home_agent(), 0, 0, 64, inner.len());
        let line = describe(&[&outer.octets()[..], &inner].concat());
        assert_eq!(
            line,
            "IP6 2001:db8:3000::3 > 2001:db8:2000::1: IP6 2001:db8:2000::10 > 2001:db8:2000::1: \
             ICMP6, echo request, id 1, seq 2, length 64"
        );
        let line = describe(&icmpv6::destination_unreachable(home_agent(), home(), 3, &inner));
        assert_eq!(
            line,
            "IP6 2001:db8:2000::1 > 2001:db8:2000::10: ICMP6, destination unreachable, \
             address unreachable 2001:db8:2000::1, length 112"
        );
        assert_eq!(describe(&[0x45, 0, 0, 0]), "[IPv6 packet: Version must be 6, 4 came (RFC 8200 §3)]");
        let fragment = [58, 0, 4, 0xd0, 0, 0, 0, 7, 1, 2, 3];
        assert_eq!(
            describe(&packet(home(), home_agent(), 44, &[&fragment])),
            "IP6 2001:db8:2000::10 > 2001:db8:2000::1: frag (0x00000007:1232|3) length 3"
        );
    }

    proptest! {
        #[test]
        fn any_octets(next_header in prop::sample::select(vec![0u8, 6, 17, 41, 43, 44, 50, 58, 59, 60, 135, 200]),
                      octets in proptest::collection::vec(any::<u8>(), 0..120)) {
            describe(&octets);
            prop_assert!(describe(&packet(home(), care_of(), next_header, &[&octets])).starts_with("IP6 2001"));
        }
    }
}
