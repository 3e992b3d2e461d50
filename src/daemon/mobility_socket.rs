//! The raw `IPPROTO_MH` socket of both roles. The kernel fills and verifies the checksum over the home address and the home agent
//! (it knows the protocol), adds the Home Address option and ESP by security policy, and takes them off again.

use std::io;
use std::net::Ipv6Addr;
use std::os::fd::{AsFd, BorrowedFd};

use super::control::{self, ControlBuilder};
use super::raw_socket::{RawSocket, ReceiveBuffer};
use crate::wire::extension;
use crate::wire::numbers::protocol;

/// A mobility header as it arrived.
#[derive(Debug)]
pub struct Arrival<'a> {
    /// Source: the home address where a Home Address option was taken off.
    pub source: Ipv6Addr,
    /// Destination: the home address where a type 2 routing header was taken off.
    pub destination: Ipv6Addr,
    /// The address the packet really came from, where a Home Address option told.
    pub care_of_address: Option<Ipv6Addr>,
    /// The mobility header from its first octet.
    pub message: &'a [u8],
}

/// The socket.
#[derive(Debug)]
pub struct MobilitySocket(RawSocket);

impl MobilitySocket {
    /// Opens the socket; needs `CAP_NET_RAW`.
    ///
    /// # Errors
    /// The error of the system calls.
    pub fn open() -> io::Result<Self> {
        let socket = RawSocket::open(protocol::MOBILITY, true)?;
        socket.set_ipv6_option(libc::IPV6_RECVDSTOPTS, 1)?;
        Ok(Self(socket))
    }

    /// Opens a socket that sends by this interface, whatever the routes beyond it say, and receives nothing; needs `CAP_NET_RAW`.
    ///
    /// # Errors
    /// The error of the system calls.
    pub fn open_on(interface: &str) -> io::Result<Self> {
        let socket = RawSocket::open(protocol::MOBILITY, true)?;
        socket.receive_nothing()?;
        socket.bind_to(interface)?;
        Ok(Self(socket))
    }

    /// Sends a mobility header.
    ///
    /// # Errors
    /// The error of `sendmsg(2)`. Success does not mean that a packet left: without an SA the kernel drops it in silence.
    pub fn send(&self, source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> io::Result<()> {
        self.0.send(destination, message, &ControlBuilder::default().source(source))
    }

    /// Sends a mobility header to a home address by way of its care-of address (type 2 routing header).
    ///
    /// # Errors
    /// As for [`Self::send`].
    pub fn send_via(
        &self,
        source: Ipv6Addr,
        home_address: Ipv6Addr,
        care_of_address: Ipv6Addr,
        message: &[u8],
    ) -> io::Result<()> {
        // The kernel swaps addresses when it sends: `sendto` names the final destination, the header the first one
        // (RFC 3542 §7, RFC 6275 §6.4).
        let header = extension::Type2RoutingHeader::new(care_of_address).emit(0);
        let control = ControlBuilder::default().source(source).routing_header(&header);
        self.0.send(home_address, message, &control)
    }

    /// Receives one mobility header.
    ///
    /// # Errors
    /// The error of `recvmsg(2)`; `WouldBlock` when there is none.
    pub fn receive<'a>(&self, buffer: &'a mut ReceiveBuffer) -> io::Result<Arrival<'a>> {
        let received = self.0.receive(buffer)?;
        let (destination, _) = control::packet_info(received.control)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no destination address with the packet"))?;
        let care_of_address = control::destination_options(received.control)
            .find_map(|header| extension::home_address_in_destination_options(header).ok().flatten());
        Ok(Arrival { source: received.source, destination, care_of_address, message: received.payload })
    }
}

impl AsFd for MobilitySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
