//! Packet sockets (`AF_PACKET`) on one interface, with a filter in the kernel: the home agent's ear on the home link, and the host's on
//! packets that a home agent sends to a guest by type 2 routing header, or to a guest at home.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use socket2::{Domain, SockFilter, Socket, Type};

use super::sys;

/// EtherType of IPv6 (RFC 2464 §3).
const ETHER_TYPE_IPV6: u16 = 0x86dd;

// Classic BPF opcodes (`linux/filter.h`).
const LOAD_BYTE: u16 = 0x30;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_GREATER_OR_EQUAL: u16 = 0x35;
const JUMP_IF_GREATER: u16 = 0x25;
const RETURN: u16 = 0x06;
const WHOLE_PACKET: u32 = 0x0004_0000;

/// Opcode, jump if true, jump if false, operand.
type Instruction = (u16, u8, u8, u32);

/// What a socket lets through. Offsets in the filters are those of an Ethernet frame or of a bare IPv6 packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// Ethernet frames with neighbour solicitations and advertisements.
    NeighborDiscovery,
    /// Bare IPv6 packets whose first extension header is a type 2 routing header (RFC 6275 §6.4).
    Type2RoutingHeader,
    /// Ethernet frames whose IPv6 packet holds ESP or a mobility header and nothing in front of it.
    MobilityFrames,
    /// All Ethernet frames with IPv6.
    Everything,
    /// Nothing: for sockets that only send frames.
    Nothing,
}

impl Filter {
    fn program(self) -> &'static [Instruction] {
        match self {
            // Next header at 14 + 6, ICMPv6 type at 14 + 40: 135 and 136.
            Self::NeighborDiscovery => &[
                (LOAD_BYTE, 0, 0, 20),
                (JUMP_IF_EQUAL, 0, 4, 58),
                (LOAD_BYTE, 0, 0, 54),
                (JUMP_IF_GREATER_OR_EQUAL, 0, 2, 135),
                (JUMP_IF_GREATER, 1, 0, 136),
                (RETURN, 0, 0, WHOLE_PACKET),
                (RETURN, 0, 0, 0),
            ],
            // Next header at 6, routing type at 40 + 2.
            Self::Type2RoutingHeader => &[
                (LOAD_BYTE, 0, 0, 6),
                (JUMP_IF_EQUAL, 0, 3, 43),
                (LOAD_BYTE, 0, 0, 42),
                (JUMP_IF_EQUAL, 0, 1, 2),
                (RETURN, 0, 0, WHOLE_PACKET),
                (RETURN, 0, 0, 0),
            ],
            // Next header at 14 + 6.
            Self::MobilityFrames => &[
                (LOAD_BYTE, 0, 0, 20),
                (JUMP_IF_EQUAL, 1, 0, 50),
                (JUMP_IF_EQUAL, 0, 1, 135),
                (RETURN, 0, 0, WHOLE_PACKET),
                (RETURN, 0, 0, 0),
            ],
            Self::Everything => &[(RETURN, 0, 0, WHOLE_PACKET)],
            Self::Nothing => &[(RETURN, 0, 0, 0)],
        }
    }

    fn socket_type(self) -> Type {
        match self {
            Self::NeighborDiscovery | Self::MobilityFrames | Self::Everything | Self::Nothing => Type::RAW,
            Self::Type2RoutingHeader => Type::DGRAM,
        }
    }
}

/// A packet socket on one interface, not blocking.
#[derive(Debug)]
pub struct PacketSocket(Socket);

impl PacketSocket {
    /// Opens the socket; needs `CAP_NET_RAW`.
    ///
    /// # Errors
    /// The error of the system calls.
    pub fn open(interface: u32, filter: Filter) -> io::Result<Self> {
        // Protocol 0 receives nothing until `bind` names one, so that nothing gets past the filter in between.
        let socket = Socket::new(Domain::PACKET, filter.socket_type(), None)?;
        socket.set_nonblocking(true)?;
        sys::set_integer_option(socket.as_fd(), libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)?;
        let program: Vec<_> =
            filter.program().iter().map(|&(code, jt, jf, k)| SockFilter::new(code, jt, jf, k)).collect();
        socket.attach_filter(&program)?;
        sys::bind_packet_socket(&socket, interface, ETHER_TYPE_IPV6)?;
        Ok(Self(socket))
    }

    /// Receives one frame or packet.
    ///
    /// # Errors
    /// The error of `recv(2)`; `WouldBlock` when there is none.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.0).read(buffer)
    }

    /// Sends one Ethernet frame on the interface.
    ///
    /// # Errors
    /// The error of `send(2)`.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        (&self.0).write(frame).map(|_| ())
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a filter the way the kernel does, to know it before root does.
    fn passes(filter: Filter, packet: &[u8]) -> bool {
        let program = filter.program();
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let (code, jt, jf, k) = program[at];
            at += 1;
            match code {
                LOAD_BYTE => match packet.get(k as usize) {
                    Some(byte) => accumulator = u32::from(*byte),
                    None => return false,
                },
                JUMP_IF_EQUAL => at += usize::from(if accumulator == k { jt } else { jf }),
                JUMP_IF_GREATER_OR_EQUAL => at += usize::from(if accumulator >= k { jt } else { jf }),
                JUMP_IF_GREATER => at += usize::from(if accumulator > k { jt } else { jf }),
                RETURN => return k != 0,
                other => panic!("opcode {other:#x}"),
            }
        }
    }

    #[test]
    fn neighbour_discovery_passes_and_nothing_else() {
        for (next_header, kind, expected) in
            [(58, 135, true), (58, 136, true), (58, 134, false), (58, 137, false), (58, 128, false), (6, 135, false)]
        {
            let mut frame = [0; 86];
            (frame[20], frame[54]) = (next_header, kind);
            assert_eq!(passes(Filter::NeighborDiscovery, &frame), expected, "{next_header} {kind}");
        }
        assert!(!passes(Filter::NeighborDiscovery, &[0; 20]));
    }

    #[test]
    fn mobility_headers_and_esp_pass_and_nothing_else() {
        for (next_header, expected) in [(50, true), (135, true), (58, false), (43, false), (0, false)] {
            let mut frame = [0; 86];
            frame[20] = next_header;
            assert_eq!(passes(Filter::MobilityFrames, &frame), expected, "{next_header}");
            assert!(passes(Filter::Everything, &frame) && !passes(Filter::Nothing, &frame));
        }
    }

    #[test]
    fn type_2_routing_headers_pass_and_nothing_else() {
        for (next_header, kind, expected) in [(43, 2, true), (43, 4, false), (60, 2, false), (50, 2, false)] {
            let mut packet = [0; 80];
            (packet[6], packet[42]) = (next_header, kind);
            assert_eq!(passes(Filter::Type2RoutingHeader, &packet), expected, "{next_header} {kind}");
        }
    }
}
