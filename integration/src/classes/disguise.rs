//! What stands before a message in the clear, so that a kernel might not find out what it is.

use std::net::Ipv6Addr;

use kagemusha::ipsec::Toward;

use crate::craft;
use crate::topology::cast::{GUEST, HOME_AGENT};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Disguise {
    None,
    /// The Home Address option, or the type 2 routing header.
    MobileIpv6,
    /// A fragment header with all of the packet behind it, and an extension header: since Linux 6.7 policies see no further.
    Fragment,
    /// More extension headers than policies see past since Linux 6.7.
    ManyOptions,
}

impl Disguise {
    pub(super) const ALL: [Self; 4] = [Self::None, Self::MobileIpv6, Self::Fragment, Self::ManyOptions];

    /// A message between two ends of which the guest's is away at a care-of address, behind these headers.
    pub(super) fn packet(
        self,
        toward: Toward,
        (source, destination, care_of): (Ipv6Addr, Ipv6Addr, Ipv6Addr),
        protocol: u8,
        message: &[u8],
    ) -> Vec<u8> {
        let behind = |headers: &[u8]| [headers, message].concat();
        match (self, toward) {
            (Self::None, _) => craft::ipv6(source, destination, protocol, message),
            (Self::MobileIpv6, Toward::HomeAgent) => {
                let option = [&[protocol, 2, 1, 2, 0, 0, 201, 16][..], &GUEST.octets()].concat();
                craft::ipv6(care_of, HOME_AGENT, 60, &behind(&option))
            }
            (Self::MobileIpv6, Toward::Guest) => {
                let header = [&[protocol, 2, 2, 1, 0, 0, 0, 0][..], &GUEST.octets()].concat();
                craft::ipv6(HOME_AGENT, care_of, 43, &behind(&header))
            }
            (Self::Fragment, _) => {
                let headers = [[60, 0, 0, 0, 0, 0, 0, 77], padding(protocol)].concat();
                craft::ipv6(source, destination, 44, &behind(&headers))
            }
            (Self::ManyOptions, _) => {
                let headers = [padding(60).repeat(19), padding(protocol).to_vec()].concat();
                craft::ipv6(source, destination, 60, &behind(&headers))
            }
        }
    }
}

/// Destination options that mean nothing.
fn padding(next_header: u8) -> [u8; 8] {
    [next_header, 0, 1, 4, 0, 0, 0, 0]
}
