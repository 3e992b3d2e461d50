//! Raw `IPPROTO_IPV6` sockets: the wire end of the tunnel. The kernel writes and takes off the outer header.

use std::io;
use std::net::Ipv6Addr;
use std::os::fd::{AsFd, BorrowedFd};

use socket2::SockFilter;

use super::control::ControlBuilder;
use super::pace;
use super::raw_socket::{self, RawSocket};
use crate::wire::ipv6;
use crate::wire::numbers::protocol;

/// Hop limit of outer headers; RFC 2473 §6.3 leaves it to the entry point.
pub const HOP_LIMIT: u8 = 64;
/// Octets asked for as receive buffer: about 20 ms at 1 Gb/s.
const RECEIVE_BUFFER: libc::c_int = 4 << 20;

/// What became of a packet that was to be sent.
#[derive(Debug)]
pub enum Sent {
    /// It left, whole or (when it was no longer than 1280 octets) in fragments.
    Yes,
    /// It does not fit the path; the path MTU in octets.
    TooBig(u32),
    /// The kernel's queue was full or it refused for another reason.
    No(io::Error),
}

/// The two sockets of the tunnel: one that never fragments, and one for packets that no one may refuse.
#[derive(Debug)]
pub struct TunnelSocket {
    whole: RawSocket,
    fragmenting: RawSocket,
}

impl TunnelSocket {
    /// Opens the sockets; needs `CAP_NET_RAW`.
    ///
    /// # Errors
    /// The error of the system calls.
    pub fn open() -> io::Result<Self> {
        let whole = RawSocket::open(protocol::IPV6, false)?;
        whole.set_ipv6_option(libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO)?;
        whole.set_ipv6_option(libc::IPV6_UNICAST_HOPS, libc::c_int::from(HOP_LIMIT))?;
        // The label is that of each packet's flow (RFC 6438 §3), not one for the whole tunnel.
        whole.set_ipv6_option(libc::IPV6_FLOWINFO_SEND, 1)?;
        whole.set_ipv6_option(libc::IPV6_RECVTCLASS, 1)?;
        whole.set_receive_buffer(RECEIVE_BUFFER)?;
        let fragmenting = RawSocket::open(protocol::IPV6, false)?;
        fragmenting.receive_nothing()?;
        fragmenting.set_ipv6_option(libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT)?;
        fragmenting.set_ipv6_option(libc::IPV6_UNICAST_HOPS, libc::c_int::from(HOP_LIMIT))?;
        Ok(Self { whole, fragmenting })
    }

    /// Sends an inner packet. One of at most 1280 octets is fragmented when the path asks for it, since its sender may not be told to
    /// make it smaller (RFC 2473 §7.1). Waits up to some milliseconds while the queue of the uplink is full.
    pub fn send(&self, source: Ipv6Addr, destination: Ipv6Addr, traffic_class: u8, packet: &[u8]) -> Sent {
        let control = ControlBuilder::default().source(source).traffic_class(traffic_class);
        let send = |socket: &RawSocket| {
            pace::send_when_there_is_room(|| socket.send(destination, packet, &control), std::thread::sleep)
        };
        match send(&self.whole) {
            Ok(()) => Sent::Yes,
            Err(error) if error.raw_os_error() != Some(libc::EMSGSIZE) => Sent::No(error),
            Err(_) if packet.len() <= ipv6::MINIMUM_MTU => match send(&self.fragmenting) {
                Ok(()) => Sent::Yes,
                Err(error) => Sent::No(error),
            },
            Err(_) => match raw_socket::path_mtu(source, destination) {
                Ok(mtu) => Sent::TooBig(mtu),
                Err(error) => Sent::No(error),
            },
        }
    }

    /// Receives only what this program lets through.
    ///
    /// # Errors
    /// The error of `setsockopt(2)`.
    pub fn filter(&self, program: &[SockFilter]) -> io::Result<()> {
        self.whole.filter(program)
    }
}

/// The socket that receives, and never fragments.
impl AsFd for TunnelSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.whole.as_fd()
    }
}
