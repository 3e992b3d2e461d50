//! What goes over the wire between two machines.

use std::net::Ipv6Addr;

use kagemusha::ipsec::{Esp, SecurityAssociation};

/// What is behind all headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Payload {
    /// A mobility header of this type.
    Mobility(u8),
    /// An ICMPv6 message of this type.
    Icmpv6(u8),
    /// Anything else.
    Data,
    /// Something behind so many extension headers, or such ones, that the kernel took it for this one of them.
    Extension(u8),
    /// No protocol at all: what `XFRM_MSG_MIGRATE` looks for when a policy is for every one.
    Unknown,
}

impl Payload {
    /// Its protocol number.
    pub fn protocol(self) -> u8 {
        match self {
            Self::Mobility(_) => 135,
            Self::Icmpv6(_) => 58,
            Self::Data => 17,
            Self::Extension(number) => number,
            Self::Unknown => 0,
        }
    }
}

/// What a socket sends or receives: home address and not care-of address, as IPsec policies see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Message {
    /// Source.
    pub source: Ipv6Addr,
    /// Destination.
    pub destination: Ipv6Addr,
    /// What it is.
    pub payload: Payload,
}

/// A header of a packet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Header {
    /// Destination options with a Home Address option (RFC 6275 §6.3).
    HomeAddressOption(Ipv6Addr),
    /// Type 2 routing header (RFC 6275 §6.4).
    Routing(Ipv6Addr),
    /// ESP; behind it, in tunnel mode, another packet.
    Esp {
        /// SPI.
        spi: u32,
        /// Sequence number.
        sequence: u64,
        /// What it was encrypted with; a receiver with anything else cannot read it.
        secret: Vec<u8>,
    },
    /// The IPv6 header of a packet in a tunnel.
    Inner {
        /// Its source.
        source: Ipv6Addr,
        /// Its destination.
        destination: Ipv6Addr,
    },
}

/// A packet, headers in the order of the wire.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Packet {
    /// Source address.
    pub source: Ipv6Addr,
    /// Destination address.
    pub destination: Ipv6Addr,
    /// Between IPv6 header and payload.
    pub headers: Vec<Header>,
    /// The payload.
    pub payload: Payload,
}

impl Packet {
    /// A message as it is without any protection.
    pub fn plain(message: Message) -> Self {
        Self { source: message.source, destination: message.destination, headers: vec![], payload: message.payload }
    }

    /// Whether the payload can be read by all.
    pub fn is_clear(&self) -> bool {
        !self.headers.iter().any(|header| matches!(header, Header::Esp { .. }))
    }

    /// The extension headers that still stand before the payload when the SPD is asked about it: ESP is off, and so is all of a tunnel.
    pub fn extension_headers(&self) -> Vec<u8> {
        let tunnelled = self.headers.iter().rposition(|header| matches!(header, Header::Inner { .. }));
        let own = self.headers.iter().skip(tunnelled.map_or(0, |at| at + 1));
        own.filter_map(|header| match header {
            Header::HomeAddressOption(_) => Some(60),
            Header::Routing(_) => Some(43),
            Header::Esp { .. } | Header::Inner { .. } => None,
        })
        .collect()
    }

    /// Whether it has another packet in it.
    pub fn is_tunnelled(&self) -> bool {
        self.headers.iter().any(|header| matches!(header, Header::Inner { .. }))
    }

    /// SPI, sequence number and secret of its ESP header.
    pub fn esp(&self) -> Option<(u32, u64, &[u8])> {
        self.headers.iter().find_map(|header| match header {
            Header::Esp { spi, sequence, secret } => Some((*spi, *sequence, &**secret)),
            _ => None,
        })
    }
}

/// Algorithms and keys of an SA as one value: equal for two ends that understand each other.
pub fn secret(sa: &SecurityAssociation) -> Option<Vec<u8>> {
    let Esp { encryption, integrity, .. } = sa.transform.esp()?;
    let mut all = format!("{:?} {:?} ", encryption.0, integrity.as_ref().map(|one| one.0)).into_bytes();
    all.extend(encryption.1.expose());
    all.extend(integrity.iter().flat_map(|one| one.1.expose()));
    Some(all)
}
