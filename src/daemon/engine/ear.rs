//! Packet sockets that tunnel packets are received by: the kernel's receive offload hands over what it has merged as one packet,
//! with the size it was merged from.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::{Domain, SockFilter, Socket, Type};

use crate::daemon::shared::{Reader, Shared};
use crate::daemon::sys;

/// `ETH_P_ALL`: also before the kernel's own IPv6.
const EVERYTHING: u16 = 3;
/// Octets asked for as receive buffer: about 20 ms at 3 Gb/s.
const RECEIVE_BUFFER: libc::c_int = 8 << 20;

// Classic BPF opcodes (`linux/filter.h`), and where the kernel keeps what is not in the packet (`SKF_AD_OFF`).
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
const LOAD_WORD: u16 = 0x20;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
const PACKET_TYPE: u32 = 0xffff_f000 + 4;
const INTERFACE: u32 = 0xffff_f000 + 8;
const VLAN_TAG_PRESENT: u32 = 0xffff_f000 + 48;
const WHOLE_PACKET: u32 = 0x0004_0000;
/// What is enough of a fragment to know it as one.
const NOTICE: u32 = 96;

/// Opcode, jump if true, jump if false, operand.
type Instruction = (u16, u8, u8, u32);

/// An open ear.
#[derive(Debug)]
pub struct Ear {
    /// Interface index.
    pub interface: u32,
    socket: Socket,
}

/// Frames to this host that carry IPv6 in IPv6, also behind destination options, and the beginnings of its fragments. No frame
/// of a VLAN: its interface has an ear of its own.
fn filter() -> [Instruction; 17] {
    let end = 16;
    [
        (LOAD_WORD, 0, 0, PACKET_TYPE),
        (JUMP_IF_EQUAL, 0, end - 2, 0),
        (LOAD_WORD, 0, 0, VLAN_TAG_PRESENT),
        (JUMP_IF_EQUAL, 0, end - 4, 0),
        (LOAD_HALF, 0, 0, 12),
        (JUMP_IF_EQUAL, 0, end - 6, 0x86dd),
        (LOAD_BYTE, 0, 0, 20),
        (JUMP_IF_EQUAL, 6, 0, 41),
        (JUMP_IF_EQUAL, 1, 0, 60),
        (JUMP_IF_EQUAL, 2, end - 10, 44),
        (LOAD_BYTE, 0, 0, 54),
        (JUMP_IF_EQUAL, 2, end - 12, 41),
        (LOAD_BYTE, 0, 0, 54),
        (JUMP_IF_EQUAL, 1, end - 14, 41),
        (RETURN, 0, 0, WHOLE_PACKET),
        (RETURN, 0, 0, NOTICE),
        (RETURN, 0, 0, 0),
    ]
}

fn program(instructions: &[Instruction]) -> Vec<SockFilter> {
    instructions.iter().map(|&(code, jt, jf, k)| SockFilter::new(code, jt, jf, k)).collect()
}

fn not_from(interfaces: impl Iterator<Item = u32>) -> Vec<Instruction> {
    let drop = |interface| [(JUMP_IF_EQUAL, 0, 1, interface), (RETURN, 0, 0, 0)];
    let load = std::iter::once((LOAD_WORD, 0, 0, INTERFACE));
    load.chain(interfaces.flat_map(drop)).chain([(RETURN, 0, 0, WHOLE_PACKET)]).collect()
}

/// For a raw socket: nothing that came by one of these interfaces.
pub fn all_but(interfaces: impl Iterator<Item = u32>) -> Vec<SockFilter> {
    program(&not_from(interfaces))
}

impl Ear {
    fn open(interface: u32) -> io::Result<Self> {
        // Protocol 0 receives nothing until `bind` names one, so that nothing gets past the filter in between.
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        socket.set_nonblocking(true)?;
        let set = |name, value| sys::set_integer_option(socket.as_fd(), libc::SOL_PACKET, name, value);
        set(libc::PACKET_IGNORE_OUTGOING, 1)?;
        set(libc::PACKET_VNET_HDR, 1)?;
        sys::set_receive_buffer(socket.as_fd(), RECEIVE_BUFFER)?;
        socket.attach_filter(&program(&filter()))?;
        sys::bind_packet_socket(&socket, interface, EVERYTHING)?;
        Ok(Self { interface, socket })
    }
}

impl AsFd for Ear {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// All ears of an engine; the receiving thread is told when they are other ones.
#[derive(Debug)]
pub struct Ears {
    open: Arc<Shared<Vec<Arc<Ear>>>>,
    bell: UnixStream,
    heard: UnixStream,
    closed: AtomicBool,
}

impl Ears {
    /// None yet.
    ///
    /// # Errors
    /// The error of the system calls.
    pub fn new() -> io::Result<Self> {
        let (bell, heard) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        heard.set_nonblocking(true)?;
        Ok(Self { open: Shared::new(Vec::new()), bell, heard, closed: AtomicBool::new(false) })
    }

    /// From now on none is open: a packet socket would hear also what programs at the interface carry on, and it would come twice.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.listen(&[]);
    }

    /// Opens and closes, so that there is one on each of these interfaces.
    pub fn listen(&self, interfaces: &[u32]) {
        let interfaces = if self.closed.load(Ordering::Relaxed) { &[] } else { interfaces };
        let current = self.open.current();
        if current.iter().map(|ear| ear.interface).eq(interfaces.iter().copied()) {
            return;
        }
        let ears: Vec<_> = interfaces
            .iter()
            .filter_map(|interface| {
                let known = current.iter().find(|ear| ear.interface == *interface);
                known.cloned().or_else(|| match Ear::open(*interface) {
                    Ok(ear) => Some(Arc::new(ear)),
                    Err(error) => {
                        tracing::debug!(interface, %error, "no packet socket: the raw socket receives");
                        None
                    }
                })
            })
            .collect();
        self.open.replace(ears);
        let _ = (&self.bell).write(&[1]);
    }

    /// For the receiving thread.
    pub fn reader(&self) -> Reader<Vec<Arc<Ear>>> {
        self.open.reader()
    }

    /// Readable when the ears are other ones.
    pub fn changed(&self) -> BorrowedFd<'_> {
        self.heard.as_fd()
    }

    /// Takes the notice.
    pub fn noticed(&self) {
        let mut octets = [0; 64];
        while matches!((&self.heard).read(&mut octets), Ok(length) if length > 0) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a filter the way the kernel does; `ancillary` are packet type, VLAN tag and interface.
    fn run(program: &[Instruction], frame: &[u8], (kind, tag, interface): (u32, u32, u32)) -> u32 {
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let (code, jt, jf, k) = program[at];
            at += 1;
            match (code, k) {
                (LOAD_WORD, PACKET_TYPE) => accumulator = kind,
                (LOAD_WORD, VLAN_TAG_PRESENT) => accumulator = tag,
                (LOAD_WORD, INTERFACE) => accumulator = interface,
                (LOAD_HALF, at) => {
                    accumulator = u32::from(u16::from_be_bytes([frame[at as usize], frame[at as usize + 1]]))
                }
                (LOAD_BYTE, at) => accumulator = u32::from(frame[at as usize]),
                (JUMP_IF_EQUAL, k) => at += usize::from(if accumulator == k { jt } else { jf }),
                (RETURN, k) => return k,
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn only_tunnel_packets_to_this_host_are_heard() {
        let frame = |ether_type: u16, next: u8, behind: u8| {
            let mut frame = [0; 100];
            frame[12..14].copy_from_slice(&ether_type.to_be_bytes());
            (frame[20], frame[54]) = (next, behind);
            frame
        };
        let heard = |frame: [u8; 100]| run(&filter(), &frame, (0, 0, 1));
        assert_eq!(heard(frame(0x86dd, 41, 0x60)), WHOLE_PACKET);
        assert_eq!(heard(frame(0x86dd, 60, 41)), WHOLE_PACKET);
        assert_eq!(heard(frame(0x86dd, 44, 41)), NOTICE);
        for other in [frame(0x0800, 41, 0), frame(0x86dd, 6, 41), frame(0x86dd, 60, 6), frame(0x86dd, 44, 6)] {
            assert_eq!(heard(other), 0);
        }
        assert_eq!(run(&filter(), &frame(0x86dd, 41, 0), (3, 0, 1)), 0, "to another host");
        assert_eq!(run(&filter(), &frame(0x86dd, 41, 0), (0, 1, 1)), 0, "of a VLAN");
    }

    #[test]
    fn the_raw_socket_hears_the_rest() {
        let program = not_from([3, 5].into_iter());
        let heard = |interface| run(&program, &[], (0, 0, interface)) != 0;
        assert_eq!([1, 3, 4, 5].map(heard), [true, false, true, false]);
        assert_eq!(run(&not_from(std::iter::empty()), &[], (0, 0, 9)), WHOLE_PACKET);
    }
}
