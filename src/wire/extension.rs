//! IPv6 extension headers (RFC 8200 §4), and the two of Mobile IPv6: the Home Address option (RFC 6275 §6.3) and the type 2
//! routing header (RFC 6275 §6.4).

use std::net::Ipv6Addr;
use std::ops::Range;

use super::numbers::{ipv6_option, protocol, routing_type};
use super::{Error, ipv6, octets};

const ROUTING: &str = "type 2 routing header";
const OPTIONS: &str = "options header";
const FRAGMENT: &str = "fragment header";

/// How many extension headers are walked before a packet is given up. RFC 8200 §4.1 names six in all, two of them twice at most.
pub const MAXIMUM_HEADERS: usize = 8;

/// Length in octets of a destination options header with a Home Address option, and of a type 2 routing header.
pub const MOBILE_HEADER_LENGTH: usize = 24;

/// One extension header of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtensionHeader {
    /// Its type: the Next Header value that led to it (0, 43, 44 or 60).
    pub header_type: u8,
    /// Where it is, from the start of the octets walked.
    pub range: Range<usize>,
}

/// A fragment header (RFC 8200 §4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// Offset of this fragment in octets, a multiple of 8.
    pub offset: u16,
    /// Whether more fragments follow.
    pub more: bool,
    /// Identification of the packet that was fragmented.
    pub identification: u32,
}

impl Fragment {
    /// Reads the header from its first octet.
    ///
    /// # Errors
    /// [`Error::Truncated`] below 8 octets.
    pub fn parse(octets: &[u8]) -> Result<Self, Error> {
        let word = octets::u16_at(octets, 2, FRAGMENT)?;
        let identification = octets::u32_at(octets, 4, FRAGMENT)?;
        Ok(Self { offset: word & 0xfff8, more: word & 1 == 1, identification })
    }
}

/// An option that this implementation does not know and whose type asks the receiver to discard the packet (RFC 8200 §4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnrecognizedOption {
    /// Option type; its two highest bits (1, 2 or 3) say what to do besides discarding.
    pub option_type: u8,
    /// Where it is, from the start of the octets walked.
    pub offset: usize,
}

/// What stands between the IPv6 header and the upper layer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Chain {
    /// The extension headers in order.
    pub headers: Vec<ExtensionHeader>,
    /// The address of a Home Address option.
    pub home_address: Option<Ipv6Addr>,
    /// A type 2 routing header.
    pub type_2_routing_header: Option<Type2RoutingHeader>,
    /// A fragment header.
    pub fragment: Option<Fragment>,
    /// The limit of a tunnel encapsulation limit option (RFC 2473 §4.1.1).
    pub tunnel_encapsulation_limit: Option<u8>,
    /// The first option that makes a receiver discard the packet when it does not know it.
    pub unrecognized_option: Option<UnrecognizedOption>,
    /// The upper-layer protocol: the first Next Header value that is not walked (among them ESP, AH and no next header).
    pub upper_layer: u8,
    /// Where the upper layer begins, from the start of the octets walked. In a fragment that is not the first one, fragment data.
    pub offset: usize,
}

impl Chain {
    /// Whether what is at `offset` is the start of an upper-layer header, not the middle of a fragmented packet.
    pub fn has_upper_layer_header(&self) -> bool {
        self.fragment.is_none_or(|fragment| fragment.offset == 0)
    }

    /// The source and destination that the checksum of the upper layer is over: the home address in the place of the care-of address,
    /// on the side of a Home Address option (RFC 6275 §6.3) or of a type 2 routing header not yet processed (RFC 8200 §8.1).
    pub fn checksum_addresses(&self, header: &ipv6::Header) -> (Ipv6Addr, Ipv6Addr) {
        let routed = self.type_2_routing_header.filter(|routing| routing.segments_left > 0);
        (self.home_address.unwrap_or(header.source), routed.map_or(header.destination, |routing| routing.address))
    }
}

/// Walks the extension headers of `payload`, the octets behind an IPv6 header whose Next Header is `next_header`.
///
/// Hop-by-hop options, destination options, routing and fragment headers are walked; at anything else the upper layer begins.
///
/// # Errors
/// [`Error::Truncated`] when a header is not all there; [`Error::OptionLength`] when an option leaves its header;
/// [`Error::Field`] when a type 2 routing header is not one address long; [`Error::Rule`] for a second Home Address option
/// (RFC 6275 §6.3) or a second type 2 routing header (RFC 6275 §6.4.1), and for hop-by-hop options that are not first;
/// [`Error::ChainTooLong`].
pub fn walk(next_header: u8, payload: &[u8]) -> Result<Chain, Error> {
    let mut chain = Chain { upper_layer: next_header, ..Chain::default() };
    loop {
        let header_type = chain.upper_layer;
        if !is_walked(header_type) || !chain.has_upper_layer_header() {
            return Ok(chain);
        }
        if chain.headers.len() == MAXIMUM_HEADERS {
            return Err(Error::ChainTooLong { limit: MAXIMUM_HEADERS });
        }
        if header_type == protocol::HOP_BY_HOP_OPTIONS && !chain.headers.is_empty() {
            return Err(Error::Rule {
                object: OPTIONS,
                rule: "hop-by-hop options may only follow the IPv6 header itself",
                clause: "RFC 8200 §4.1",
            });
        }
        let start = chain.offset;
        let header = whole_header(header_type, payload.get(start..).unwrap_or_default())?;
        chain.headers.push(ExtensionHeader { header_type, range: start..start + header.len() });
        chain.upper_layer = octets::u8_at(header, 0, OPTIONS)?;
        chain.offset = start + header.len();
        match header_type {
            protocol::FRAGMENT => chain.fragment = Some(Fragment::parse(header)?),
            protocol::ROUTING => note_routing_header(&mut chain, header)?,
            _ => note_options(&mut chain, header, start)?,
        }
    }
}

fn is_walked(header_type: u8) -> bool {
    matches!(
        header_type,
        protocol::HOP_BY_HOP_OPTIONS | protocol::ROUTING | protocol::FRAGMENT | protocol::DESTINATION_OPTIONS
    )
}

/// Cuts the header that begins `octets` to its length.
fn whole_header(header_type: u8, octets: &[u8]) -> Result<&[u8], Error> {
    let object = match header_type {
        protocol::ROUTING => "routing header",
        protocol::FRAGMENT => FRAGMENT,
        _ => OPTIONS,
    };
    let length = match header_type {
        protocol::FRAGMENT => 8, // the second octet is reserved there
        _ => (usize::from(octets::u8_at(octets, 1, object)?) + 1) * 8,
    };
    octets::slice(octets, 0, length, object)
}

fn note_routing_header(chain: &mut Chain, header: &[u8]) -> Result<(), Error> {
    if octets::u8_at(header, 2, ROUTING)? != routing_type::TYPE_2 {
        return Ok(());
    }
    if chain.type_2_routing_header.is_some() {
        return Err(Error::Rule { object: ROUTING, rule: "there may be only one", clause: "RFC 6275 §6.4.1" });
    }
    chain.type_2_routing_header = Some(Type2RoutingHeader::parse(header)?);
    Ok(())
}

fn note_options(chain: &mut Chain, header: &[u8], start: usize) -> Result<(), Error> {
    let destination_options =
        chain.headers.last().is_some_and(|header| header.header_type == protocol::DESTINATION_OPTIONS);
    for option in Options::new(header) {
        let option = option?;
        match option.option_type {
            ipv6_option::HOME_ADDRESS if destination_options => {
                let address = home_address(&option)?;
                if chain.home_address.replace(address).is_some() {
                    return Err(Error::Rule {
                        object: OPTIONS,
                        rule: "the Home Address option may appear only once",
                        clause: "RFC 6275 §6.3",
                    });
                }
            }
            ipv6_option::TUNNEL_ENCAPSULATION_LIMIT if destination_options => {
                let [limit] = option
                    .data
                    .first_chunk()
                    .copied()
                    .filter(|_| option.data.len() == 1)
                    .ok_or(option.wrong_length("1 (RFC 2473 §4.1.1)"))?;
                chain.tunnel_encapsulation_limit.get_or_insert(limit);
            }
            other if other >> 6 != 0 && chain.unrecognized_option.is_none() => {
                chain.unrecognized_option =
                    Some(UnrecognizedOption { option_type: other, offset: start + option.offset });
            }
            _ => {}
        }
    }
    Ok(())
}

/// One option of a hop-by-hop or destination options header, other than padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawOption<'a> {
    /// Option type.
    pub option_type: u8,
    /// Offset from the start of the options header, in octets.
    pub offset: usize,
    /// Option data.
    pub data: &'a [u8],
}

impl RawOption<'_> {
    fn wrong_length(&self, expected: &'static str) -> Error {
        Error::OptionLength {
            object: OPTIONS,
            option_type: self.option_type,
            offset: self.offset,
            length: self.data.len(),
            expected,
        }
    }
}

/// The options of one options header. After an error there are no more.
#[derive(Debug, Clone)]
pub struct Options<'a> {
    header: &'a [u8],
    at: usize,
}

impl<'a> Options<'a> {
    /// Iterates over the options of `header`, which begins with its Next Header and Hdr Ext Len octets and has been cut to its length.
    pub fn new(header: &'a [u8]) -> Self {
        Self { header, at: 2 }
    }
}

impl<'a> Iterator for Options<'a> {
    type Item = Result<RawOption<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let offset = self.at;
            let option_type = *self.header.get(offset)?;
            if option_type == ipv6_option::PAD1 {
                self.at += 1;
                continue;
            }
            let length = self.header.get(offset + 1).map_or(usize::MAX, |length| usize::from(*length));
            let data = self.header.get(offset + 2..).and_then(|rest| rest.get(..length));
            let Some(data) = data else {
                self.at = self.header.len();
                return Some(Err(Error::OptionLength {
                    object: OPTIONS,
                    option_type,
                    offset,
                    length: if length == usize::MAX { 0 } else { length },
                    expected: "one that stays within the header",
                }));
            };
            self.at = offset + 2 + length;
            if option_type != ipv6_option::PADN {
                return Some(Ok(RawOption { option_type, offset, data }));
            }
        }
    }
}

fn home_address(option: &RawOption<'_>) -> Result<Ipv6Addr, Error> {
    let octets: [u8; 16] = option.data.try_into().map_err(|_| option.wrong_length("16 (RFC 6275 §6.3)"))?;
    Ok(Ipv6Addr::from(octets))
}

/// The home address in a destination options header that stands alone: `header` begins with the header's Next Header octet, as in
/// the data of an `IPV6_DSTOPTS` control message (RFC 3542 §9.2). `None` when there is no Home Address option.
///
/// # Errors
/// As [`walk`] for this one header.
pub fn home_address_in_destination_options(header: &[u8]) -> Result<Option<Ipv6Addr>, Error> {
    let header = whole_header(protocol::DESTINATION_OPTIONS, header)?;
    let mut found = None;
    for option in Options::new(header) {
        let option = option?;
        if option.option_type == ipv6_option::HOME_ADDRESS && found.replace(home_address(&option)?).is_some() {
            return Err(Error::Rule {
                object: OPTIONS,
                rule: "the Home Address option may appear only once",
                clause: "RFC 6275 §6.3",
            });
        }
    }
    Ok(found)
}

/// The Home Address option (RFC 6275 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HomeAddressOption {
    /// The home address of the sender, who is at the source address of the packet.
    pub home_address: Ipv6Addr,
}

impl HomeAddressOption {
    /// A destination options header with this option alone: 24 octets, the option at its alignment of 8n+6 after a PadN of 4.
    pub fn emit(&self, next_header: u8) -> [u8; MOBILE_HEADER_LENGTH] {
        let mut header = [0; MOBILE_HEADER_LENGTH];
        header[..8].copy_from_slice(&[next_header, 2, ipv6_option::PADN, 2, 0, 0, ipv6_option::HOME_ADDRESS, 16]);
        header[8..].copy_from_slice(&self.home_address.octets());
        header
    }
}

/// The type 2 routing header (RFC 6275 §6.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Type2RoutingHeader {
    /// On the wire the home address. In control messages of a Linux socket the address that is not the socket's: the kernel swaps it with
    /// the destination on the way out and on the way in.
    pub address: Ipv6Addr,
    /// 1 on the wire; 0 once the kernel has processed the header.
    pub segments_left: u8,
}

impl Type2RoutingHeader {
    /// A header as it is sent, with one segment left.
    pub fn new(address: Ipv6Addr) -> Self {
        Self { address, segments_left: 1 }
    }

    /// Reads a routing header from its Next Header octet on, as it stands in a packet or as the data of an `IPV6_RTHDR`
    /// control message (RFC 3542 §7).
    ///
    /// # Errors
    /// [`Error::Truncated`]; [`Error::Field`] when it is not of type 2, its length not 2 (in units of 8 octets) or
    /// more than one segment is left (RFC 6275 §6.4.1).
    pub fn parse(header: &[u8]) -> Result<Self, Error> {
        let field = |field, offset, expected| -> Result<u8, Error> {
            let found = octets::u8_at(header, offset, ROUTING)?;
            let right = match offset {
                3 => found <= 1,
                _ => found == 2,
            };
            if right {
                return Ok(found);
            }
            let (found, clause) = (u32::from(found), "RFC 6275 §6.4.1");
            Err(Error::Field { object: ROUTING, field, offset, expected, found, clause })
        };
        field("Routing Type", 2, "2")?;
        field("Hdr Ext Len", 1, "2")?;
        let segments_left = field("Segments Left", 3, "1 (or 0 once processed)")?;
        Ok(Self { address: octets::address_at(header, 8, ROUTING)?, segments_left })
    }

    /// The header's 24 octets, in a packet before a header of type `next_header`, or as the data of an `IPV6_RTHDR` control message,
    /// where the kernel fills the Next Header in.
    pub fn emit(&self, next_header: u8) -> [u8; MOBILE_HEADER_LENGTH] {
        let mut header = [0; MOBILE_HEADER_LENGTH];
        header[..4].copy_from_slice(&[next_header, 2, routing_type::TYPE_2, self.segments_left]);
        header[8..].copy_from_slice(&self.address.octets());
        header
    }
}

/// Walks a whole packet: its header, the chain, and the octets of the upper layer.
///
/// # Errors
/// Those of [`ipv6::Header::parse`] and [`walk`].
pub fn dissect(packet: &[u8]) -> Result<(ipv6::Header, Chain, &[u8]), Error> {
    let (header, payload) = ipv6::Header::parse(packet)?;
    let chain = walk(header.next_header, payload)?;
    let upper_layer = payload.get(chain.offset..).unwrap_or_default();
    Ok((header, chain, upper_layer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn home() -> Ipv6Addr {
        "2001:db8:2000::10".parse().unwrap()
    }

    #[test]
    fn the_two_headers_of_mobile_ipv6() {
        let mut packet = HomeAddressOption { home_address: home() }.emit(protocol::ROUTING).to_vec();
        packet.extend(Type2RoutingHeader::new(home()).emit(protocol::ESP));
        packet.extend([1, 2, 3]);
        let chain = walk(protocol::DESTINATION_OPTIONS, &packet).unwrap();
        assert_eq!(chain.home_address, Some(home()));
        assert_eq!(chain.type_2_routing_header, Some(Type2RoutingHeader { address: home(), segments_left: 1 }));
        assert_eq!((chain.upper_layer, chain.offset), (protocol::ESP, 48));
        assert_eq!(chain.headers[1], ExtensionHeader { header_type: protocol::ROUTING, range: 24..48 });
    }

    #[test]
    fn bare_ancillary_data() {
        let header = HomeAddressOption { home_address: home() }.emit(0);
        assert_eq!(home_address_in_destination_options(&header), Ok(Some(home())));
        assert_eq!(home_address_in_destination_options(&[59, 0, 1, 4, 0, 0, 0, 0]), Ok(None));
        assert!(matches!(home_address_in_destination_options(&header[..20]), Err(Error::Truncated { .. })));
        let mut processed = Type2RoutingHeader::new(home()).emit(0);
        processed[3] = 0;
        assert_eq!(Type2RoutingHeader::parse(&processed).unwrap().segments_left, 0);
    }

    #[test]
    fn a_second_home_address_option_is_refused() {
        let mut packet = HomeAddressOption { home_address: home() }.emit(protocol::DESTINATION_OPTIONS).to_vec();
        packet.extend(HomeAddressOption { home_address: home() }.emit(protocol::NO_NEXT_HEADER));
        assert!(matches!(walk(protocol::DESTINATION_OPTIONS, &packet), Err(Error::Rule { .. })));
    }

    #[test]
    fn wrong_lengths_name_the_option_and_the_field() {
        let mut header = HomeAddressOption { home_address: home() }.emit(59);
        header[7] = 15;
        let error = home_address_in_destination_options(&header).unwrap_err();
        assert_eq!(
            error.to_string(),
            "options header: option type 201 at octet 6 has length 15, expected 16 (RFC 6275 §6.3)"
        );
        header[7] = 17;
        let error = walk(protocol::DESTINATION_OPTIONS, &header).unwrap_err();
        assert_eq!(
            error.to_string(),
            "options header: option type 201 at octet 6 has length 17, expected one that stays within the header"
        );
        let mut routing = Type2RoutingHeader::new(home()).emit(59);
        routing[3] = 2;
        let error = walk(protocol::ROUTING, &routing).unwrap_err();
        assert_eq!(error.pointer(), Some(3));
        routing[2] = 4;
        let chain = walk(protocol::ROUTING, &routing).unwrap();
        assert_eq!(chain.type_2_routing_header, None);
    }

    #[test]
    fn the_middle_of_a_fragmented_packet_has_no_upper_layer() {
        let fragment = |word: u16| [&[60, 0][..], &word.to_be_bytes(), &[0, 0, 0, 9], &[0xff; 4]].concat();
        let chain = walk(protocol::FRAGMENT, &fragment(1232 | 1)).unwrap();
        assert_eq!(chain.fragment, Some(Fragment { offset: 1232, more: true, identification: 9 }));
        assert!(!chain.has_upper_layer_header());
        assert_eq!((chain.upper_layer, chain.offset), (60, 8));
        // In the first fragment the destination options that follow are walked, and these are cut short.
        assert!(matches!(walk(protocol::FRAGMENT, &fragment(1)), Err(Error::Truncated { .. })));
    }

    #[test]
    fn chains_have_an_end() {
        let link = [60, 0, 1, 4, 0, 0, 0, 0];
        let packet = link.repeat(MAXIMUM_HEADERS + 1);
        assert_eq!(walk(protocol::DESTINATION_OPTIONS, &packet), Err(Error::ChainTooLong { limit: MAXIMUM_HEADERS }));
        let mut packet = link.repeat(MAXIMUM_HEADERS);
        packet[8 * (MAXIMUM_HEADERS - 1)] = protocol::NO_NEXT_HEADER;
        assert_eq!(walk(protocol::DESTINATION_OPTIONS, &packet).unwrap().headers.len(), MAXIMUM_HEADERS);
    }

    #[test]
    fn hop_by_hop_options_come_first_or_not_at_all() {
        let packet = [0, 0, 1, 4, 0, 0, 0, 0, 59, 0, 1, 4, 0, 0, 0, 0];
        assert!(matches!(walk(protocol::DESTINATION_OPTIONS, &packet), Err(Error::Rule { .. })));
        let report = [58, 0, 5, 2, 0, 0, 1, 0];
        assert_eq!(walk(protocol::HOP_BY_HOP_OPTIONS, &report).unwrap().upper_layer, protocol::ICMPV6);
    }

    #[test]
    fn options_that_forbid_to_go_on_are_told() {
        let packet = [59, 0, 0x83, 1, 0, 1, 1, 0];
        let chain = walk(protocol::DESTINATION_OPTIONS, &packet).unwrap();
        assert_eq!(chain.unrecognized_option, Some(UnrecognizedOption { option_type: 0x83, offset: 2 }));
        // A Home Address option among hop-by-hop options is no Home Address option.
        let chain = walk(protocol::HOP_BY_HOP_OPTIONS, &HomeAddressOption { home_address: home() }.emit(59)).unwrap();
        assert_eq!((chain.home_address, chain.unrecognized_option.map(|o| o.offset)), (None, Some(6)));
    }

    proptest! {
        #[test]
        fn any_octets(next_header in prop::sample::select(vec![0u8, 43, 44, 60, 41]),
                      octets in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(chain) = walk(next_header, &octets) {
                prop_assert!(chain.offset <= octets.len());
            }
            let _ = home_address_in_destination_options(&octets);
            let _ = Type2RoutingHeader::parse(&octets);
            let _ = dissect(&octets);
        }

        #[test]
        fn any_options(mut octets in proptest::collection::vec(0u8..20, 8..64), home_address: bool) {
            octets[0] = 59;
            octets[1] = (octets.len() / 8 - 1) as u8;
            if home_address { octets[2] = 0xc9; }
            let _ = walk(60, &octets);
        }

        #[test]
        fn round_trips(address: u128, next_header: u8) {
            let address = Ipv6Addr::from_bits(address);
            let routing = Type2RoutingHeader::new(address);
            prop_assert_eq!(Type2RoutingHeader::parse(&routing.emit(next_header)), Ok(routing));
            let option = HomeAddressOption { home_address: address };
            prop_assert_eq!(home_address_in_destination_options(&option.emit(next_header)), Ok(Some(address)));
        }
    }
}
