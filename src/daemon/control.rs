//! Ancillary data of sockets (`cmsg(3)`) as bytes: building and walking, without pointers.

use std::mem::size_of;
use std::net::Ipv6Addr;

use libc::c_int;

/// The kernel aligns headers and data of ancillary messages to the machine word.
const ALIGNMENT: usize = size_of::<usize>();
/// `struct cmsghdr`: length (word), level and type (ints).
const HEADER_LENGTH: usize = ALIGNMENT + 2 * size_of::<c_int>();

fn aligned(length: usize) -> usize {
    length.next_multiple_of(ALIGNMENT)
}

/// Ancillary data under construction.
#[derive(Debug, Default, Clone)]
pub struct ControlBuilder(Vec<u8>);

impl ControlBuilder {
    /// Appends a message.
    pub fn push(&mut self, level: c_int, kind: c_int, data: &[u8]) {
        let length = aligned(HEADER_LENGTH) + data.len();
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&level.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(ALIGNMENT), 0);
        self.0.extend_from_slice(data);
        self.0.resize(aligned(self.0.len()), 0);
    }

    /// The source address to send from, on any interface (`IPV6_PKTINFO`, RFC 3542 §6).
    pub fn source(mut self, address: Ipv6Addr) -> Self {
        let mut data = [0; 20];
        data[..16].copy_from_slice(&address.octets());
        self.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &data);
        self
    }

    /// The traffic class to send with (`IPV6_TCLASS`, RFC 3542 §6.5).
    pub fn traffic_class(mut self, class: u8) -> Self {
        self.push(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &c_int::from(class).to_ne_bytes());
        self
    }

    /// A routing header to send with (`IPV6_RTHDR`, RFC 3542 §7).
    pub fn routing_header(mut self, header: &[u8]) -> Self {
        self.push(libc::IPPROTO_IPV6, libc::IPV6_RTHDR, header);
        self
    }

    /// The octets for `sendmsg(2)`.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Walks received ancillary data: `(level, type, data)` of each message. Stops at anything malformed.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (c_int, c_int, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from_ne_bytes(bytes.get(..ALIGNMENT)?.try_into().ok()?);
        let level = c_int::from_ne_bytes(bytes.get(ALIGNMENT..ALIGNMENT + 4)?.try_into().ok()?);
        let kind = c_int::from_ne_bytes(bytes.get(ALIGNMENT + 4..ALIGNMENT + 8)?.try_into().ok()?);
        let data = bytes.get(aligned(HEADER_LENGTH)..length)?;
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some((level, kind, data))
    })
}

/// The destination address of a received packet and its interface (`IPV6_PKTINFO`).
pub fn packet_info(bytes: &[u8]) -> Option<(Ipv6Addr, u32)> {
    messages(bytes).find_map(|(level, kind, data)| {
        if (level, kind) != (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) {
            return None;
        }
        let address: [u8; 16] = data.get(..16)?.try_into().ok()?;
        let interface = u32::from_ne_bytes(data.get(16..20)?.try_into().ok()?);
        Some((Ipv6Addr::from(address), interface))
    })
}

/// The traffic class of a received packet (`IPV6_TCLASS`); 0 where the socket was not told to give it.
pub fn traffic_class(bytes: &[u8]) -> u8 {
    let found = messages(bytes)
        .find(|(level, kind, _)| (*level, *kind) == (libc::IPPROTO_IPV6, libc::IPV6_TCLASS))
        .and_then(|(_, _, data)| Some(c_int::from_ne_bytes(data.get(..4)?.try_into().ok()?)));
    found.and_then(|class| u8::try_from(class).ok()).unwrap_or(0)
}

/// The destination options headers of a received packet (`IPV6_DSTOPTS`).
pub fn destination_options(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    messages(bytes)
        .filter(|(level, kind, _)| (*level, *kind) == (libc::IPPROTO_IPV6, libc::IPV6_DSTOPTS))
        .map(|(_, _, data)| data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_built_is_walked() {
        let address: Ipv6Addr = "2001:db8::1".parse().unwrap();
        let control = ControlBuilder::default().source(address).traffic_class(0x20).routing_header(&[1; 24]);
        let kinds: Vec<_> = messages(control.as_bytes()).map(|(_, kind, data)| (kind, data.len())).collect();
        assert_eq!(kinds, [(libc::IPV6_PKTINFO, 20), (libc::IPV6_TCLASS, 4), (libc::IPV6_RTHDR, 24)]);
        assert_eq!(packet_info(control.as_bytes()), Some((address, 0)));
        assert_eq!(traffic_class(control.as_bytes()), 0x20);
        assert_eq!(destination_options(control.as_bytes()).count(), 0);
    }

    proptest! {
        #[test]
        fn any_bytes_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(messages(&bytes).count() <= bytes.len());
        }
    }
}
