//! Raw IPv6 sockets with ancillary data: what the mobility socket and the tunnel sockets have in common.

use std::io::{self, IoSlice};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd};

use libc::c_int;
use socket2::{Domain, MsgHdr, Protocol, SockAddr, Socket, Type};

use super::control::ControlBuilder;
use super::sys;

/// Room for ancillary data: two destination options headers of 2048 octets, the longest there are, beside the small messages. What does
/// not fit the kernel leaves out, and a packet without its Home Address option must not pass for one that had none.
const CONTROL_LENGTH: usize = 8192;
/// Octets of `struct cmsghdr`.
const CONTROL_HEADER: usize = 16;

/// A packet as a raw socket delivers it: the payload behind the IPv6 header is in the caller's buffer.
#[derive(Debug)]
pub struct Received<'a> {
    /// Source address (after the kernel swapped in the home address of a Home Address option).
    pub source: Ipv6Addr,
    /// The payload.
    pub payload: &'a mut [u8],
    /// The ancillary data, to be read with [`super::control`].
    pub control: &'a [u8],
}

/// Buffers for receiving, kept between packets.
#[derive(Debug)]
pub struct ReceiveBuffer {
    payload: Vec<u8>,
    control: Vec<u8>,
}

impl ReceiveBuffer {
    /// Buffers for payloads up to `length` octets. The kernel's receive offload can merge packets up to 64 KiB.
    pub fn new(length: usize) -> Self {
        Self { payload: vec![0; length], control: vec![0; CONTROL_LENGTH] }
    }
}

/// A raw IPv6 socket for one upper-layer protocol.
#[derive(Debug)]
pub struct RawSocket(Socket);

impl RawSocket {
    /// Opens the socket; needs `CAP_NET_RAW`.
    ///
    /// # Errors
    /// The error of `socket(2)` or of an option.
    pub fn open(protocol: u8, nonblocking: bool) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::from(c_int::from(protocol))))?;
        socket.set_nonblocking(nonblocking)?;
        sys::set_integer_option(socket.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
        Ok(Self(socket))
    }

    /// Sets an option of level `IPPROTO_IPV6`.
    ///
    /// # Errors
    /// The error of `setsockopt(2)`.
    pub fn set_ipv6_option(&self, name: c_int, value: c_int) -> io::Result<()> {
        sys::set_integer_option(self.0.as_fd(), libc::IPPROTO_IPV6, name, value)
    }

    /// Asks for a receive buffer of `octets`, beyond the system's limit where privileges allow.
    ///
    /// # Errors
    /// The error of `setsockopt(2)` when neither way works.
    pub fn set_receive_buffer(&self, octets: c_int) -> io::Result<()> {
        sys::set_receive_buffer(self.0.as_fd(), octets)
    }

    /// Throws away everything this socket would receive: for sockets that only send.
    ///
    /// # Errors
    /// The error of `setsockopt(2)`.
    pub fn receive_nothing(&self) -> io::Result<()> {
        // BPF_RET | BPF_K with 0: keep no octet.
        self.0.attach_filter(&[socket2::SockFilter::new(0x06, 0, 0, 0)])
    }

    /// Receives only what this program lets through, instead of what an earlier one did.
    ///
    /// # Errors
    /// The error of `setsockopt(2)`.
    pub fn filter(&self, program: &[socket2::SockFilter]) -> io::Result<()> {
        self.0.attach_filter(program)
    }

    /// Sends, and receives, by this interface alone.
    ///
    /// # Errors
    /// The error of `setsockopt(2)`.
    pub fn bind_to(&self, interface: &str) -> io::Result<()> {
        self.0.bind_device(Some(interface.as_bytes()))
    }

    /// Sends `payload` to `destination`.
    ///
    /// # Errors
    /// The error of `sendmsg(2)`; `EPERM` is a security policy that blocks, `EMSGSIZE` a path MTU.
    pub fn send(&self, destination: Ipv6Addr, payload: &[u8], control: &ControlBuilder) -> io::Result<()> {
        let address = SockAddr::from(SocketAddrV6::new(destination, 0, 0, 0));
        let buffers = [IoSlice::new(payload)];
        let message = MsgHdr::new().with_addr(&address).with_buffers(&buffers).with_control(control.as_bytes());
        let sent = self.0.sendmsg(&message, 0)?;
        if sent == payload.len() { Ok(()) } else { Err(io::Error::from(io::ErrorKind::WriteZero)) }
    }

    /// Receives one packet.
    ///
    /// # Errors
    /// The error of `recvmsg(2)`; `InvalidData` for a truncated packet or a source that is not IPv6.
    pub fn receive<'a>(&self, buffer: &'a mut ReceiveBuffer) -> io::Result<Received<'a>> {
        let message = sys::receive_message(&self.0, &mut buffer.payload, &mut buffer.control)?;
        // Of ancillary data that does not fit the kernel writes what does: less than a header's room is left then.
        if message.truncated || message.control_length + CONTROL_HEADER > buffer.control.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "packet longer than the receive buffer"));
        }
        let source = message
            .address
            .as_socket_ipv6()
            .map(|a| *a.ip())
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "source address is not IPv6"))?;
        Ok(Received {
            source,
            payload: buffer.payload.get_mut(..message.length).unwrap_or_default(),
            control: buffer.control.get(..message.control_length).unwrap_or_default(),
        })
    }
}

impl AsFd for RawSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The path MTU the kernel knows for packets from `source` to `destination`, in octets.
///
/// # Errors
/// The error of the system calls, when there is no route for instance.
pub fn path_mtu(source: Ipv6Addr, destination: Ipv6Addr) -> io::Result<u32> {
    let probe = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
    probe.bind(&SockAddr::from(SocketAddrV6::new(source, 0, 0, 0)))?;
    // Nothing is sent: connecting a datagram socket only looks up the route. Port 9 is "discard".
    probe.connect(&SockAddr::from(SocketAddrV6::new(destination, 9, 0, 0)))?;
    let mtu = sys::integer_option(probe.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_MTU)?;
    u32::try_from(mtu).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}
