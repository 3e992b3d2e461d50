//! The only `unsafe` of the crate: system calls that no library wraps. Everything here is a thin, checked function over one call.
#![allow(unsafe_code)]

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::{self, MaybeUninit};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use libc::{c_int, c_void};
use socket2::{MaybeUninitSlice, MsgHdrMut, SockAddr, Socket};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Sets an integer socket option.
///
/// # Errors
/// The error of `setsockopt(2)`.
pub fn set_integer_option(socket: BorrowedFd<'_>, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: the descriptor is borrowed, hence open; pointer and length describe `value`, which lives across the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast::<c_void>(),
            mem::size_of::<c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Asks for a receive buffer of `octets`, beyond the system's limit where privileges allow.
///
/// # Errors
/// The error of `setsockopt(2)` when neither way works.
pub fn set_receive_buffer(socket: BorrowedFd<'_>, octets: c_int) -> io::Result<()> {
    set_integer_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, octets)
        .or_else(|_| set_integer_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, octets))
}

/// The same for what is sent.
///
/// # Errors
/// The error of `setsockopt(2)` when neither way works.
pub fn set_send_buffer(socket: BorrowedFd<'_>, octets: c_int) -> io::Result<()> {
    set_integer_option(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, octets)
        .or_else(|_| set_integer_option(socket, libc::SOL_SOCKET, libc::SO_SNDBUF, octets))
}

/// Reads an integer socket option.
///
/// # Errors
/// The error of `getsockopt(2)`.
pub fn integer_option(socket: BorrowedFd<'_>, level: c_int, name: c_int) -> io::Result<c_int> {
    let mut value: c_int = 0;
    let mut length = mem::size_of::<c_int>() as libc::socklen_t;
    // SAFETY: the descriptor is open; `value` and `length` are valid for writes of the sizes given.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut value).cast::<c_void>(), &raw mut length)
    };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

/// Longest interface name the kernel takes, without the terminating zero (`IFNAMSIZ` - 1).
pub const INTERFACE_NAME_LIMIT: usize = libc::IFNAMSIZ - 1;

/// Turns an open `/dev/net/tun` into the interface `name` (`TUNSETIFF` with `flags` of `linux/if_tun.h`).
///
/// # Errors
/// `InvalidInput` for a name the kernel cannot hold, otherwise the error of `ioctl(2)`.
pub fn set_tun_interface(device: BorrowedFd<'_>, name: &str, flags: c_int) -> io::Result<()> {
    if name.is_empty() || name.len() > INTERFACE_NAME_LIMIT || name.bytes().any(|b| b == 0) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} cannot name an interface")));
    }
    let flags = libc::c_short::try_from(flags)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "TUN flags wider than 16 bits"))?;
    // SAFETY: an all-zero `ifreq` is a valid value of it.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *slot = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = flags;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which outlives the call.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets the length of the virtio-net header in front of each frame of a TUN device (`TUNSETVNETHDRSZ`).
///
/// # Errors
/// The error of `ioctl(2)`.
pub fn set_tun_header_length(device: BorrowedFd<'_>, length: c_int) -> io::Result<()> {
    // SAFETY: TUNSETVNETHDRSZ reads one int, which outlives the call.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Says which offloads the reader of a TAP or TUN takes (`TUNSETOFFLOAD` with flags of `linux/if_tun.h`).
///
/// # Errors
/// The error of `ioctl(2)`; `EINVAL` for a flag that the kernel does not know.
pub fn set_tun_offload(device: BorrowedFd<'_>, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its flags by value.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(flags)) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reads from a device what is there now, into several buffers one after another.
///
/// # Errors
/// The error of `preadv2(2)` with `RWF_NOWAIT`: `WouldBlock` when there is nothing.
pub fn read_now(device: BorrowedFd<'_>, parts: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
    let count = c_int::try_from(parts.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: `IoSliceMut` has the layout of `iovec`, and each describes a buffer borrowed for writing across the call.
    let result = unsafe {
        libc::preadv2(device.as_raw_fd(), parts.as_mut_ptr().cast::<libc::iovec>(), count, -1, libc::RWF_NOWAIT)
    };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Messages that one call sends or receives at most.
pub const MESSAGES: usize = 64;

/// A message to be sent.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    /// Where to; its length is part of it.
    pub address: &'a SockAddr,
    /// What, gathered.
    pub parts: &'a [IoSlice<'a>],
    /// Ancillary data.
    pub control: &'a [u8],
}

/// Sends the first of `messages`, [`MESSAGES`] at most, and returns how many were sent: fewer when one was refused.
///
/// # Errors
/// The error of `sendmmsg(2)` about the first.
pub fn send_messages(socket: BorrowedFd<'_>, messages: &[Outgoing<'_>]) -> io::Result<usize> {
    // SAFETY: an all-zero `mmsghdr` is a valid value of it: no address, no parts.
    let mut headers: [libc::mmsghdr; MESSAGES] = unsafe { mem::zeroed() };
    for (header, message) in headers.iter_mut().zip(messages) {
        let header = &mut header.msg_hdr;
        header.msg_name = message.address.as_ptr().cast_mut().cast();
        header.msg_namelen = message.address.len();
        header.msg_iov = message.parts.as_ptr().cast_mut().cast();
        header.msg_iovlen = message.parts.len();
        if !message.control.is_empty() {
            header.msg_control = message.control.as_ptr().cast_mut().cast();
            header.msg_controllen = message.control.len();
        }
    }
    let count = messages.len().min(MESSAGES) as libc::c_uint;
    // SAFETY: the first `count` headers point to addresses, parts (`IoSlice` has the layout of `iovec`) and ancillary data
    // borrowed across the call, which the kernel only reads.
    let result = unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count, 0) };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// What came with one message of [`receive_messages`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Incoming {
    /// Octets of payload.
    pub length: usize,
    /// Octets of ancillary data.
    pub control_length: usize,
    /// Who sent it, where that is an IPv6 address.
    pub source: Option<Ipv6Addr>,
    /// Whether the payload or the ancillary data was longer than its buffer.
    pub truncated: bool,
}

/// Receives what is there now: each message into the next `size` octets of `payloads`, its ancillary data into the next
/// `control_size` octets of `controls`. Returns how many came.
///
/// # Errors
/// The error of `recvmmsg(2)`: `WouldBlock` when there is nothing.
pub fn receive_messages(
    socket: BorrowedFd<'_>,
    (payloads, size): (&mut [u8], usize),
    (controls, control_size): (&mut [u8], usize),
    incoming: &mut [Incoming; MESSAGES],
) -> io::Result<usize> {
    // SAFETY: an all-zero `mmsghdr` and an all-zero `iovec` are valid values: no buffers.
    let (mut headers, mut parts): ([libc::mmsghdr; MESSAGES], [libc::iovec; MESSAGES]) = unsafe { mem::zeroed() };
    // SAFETY: plain integers; a family of zero is none.
    let mut names: [libc::sockaddr_in6; MESSAGES] = unsafe { mem::zeroed() };
    let mut count: libc::c_uint = 0;
    let mut controls = controls.chunks_exact_mut(control_size.max(1));
    let buffers = payloads.chunks_exact_mut(size.max(1));
    for (((header, part), name), payload) in headers.iter_mut().zip(&mut parts).zip(&mut names).zip(buffers) {
        header.msg_hdr.msg_name = std::ptr::from_mut(name).cast();
        header.msg_hdr.msg_namelen = mem::size_of::<libc::sockaddr_in6>() as libc::socklen_t;
        (part.iov_base, part.iov_len) = (payload.as_mut_ptr().cast(), payload.len());
        (header.msg_hdr.msg_iov, header.msg_hdr.msg_iovlen) = (part, 1);
        if let Some(control) = controls.next() {
            header.msg_hdr.msg_control = control.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = control.len();
        }
        count += 1;
    }
    // SAFETY: the first `count` headers point to buffers of their own, borrowed for writing across the call.
    let result = unsafe {
        libc::recvmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count, libc::MSG_DONTWAIT, std::ptr::null_mut())
    };
    let received = usize::try_from(result).map_err(|_| io::Error::last_os_error())?;
    for ((incoming, header), name) in incoming.iter_mut().zip(&headers).zip(&names).take(received) {
        let internet = name.sin6_family == libc::AF_INET6 as libc::sa_family_t;
        let source = internet.then(|| Ipv6Addr::from(name.sin6_addr.s6_addr));
        let truncated = header.msg_hdr.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0;
        let (length, control_length) = (header.msg_len as usize, header.msg_hdr.msg_controllen);
        *incoming = Incoming { length, control_length, source, truncated };
    }
    Ok(received)
}

/// Gives memory that was freed back to the system: what starting and large changes take is not needed again soon.
pub fn release_freed() {
    // SAFETY: takes no pointers, and may be called at any time.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0)
    };
}

/// Gives the memory of whole pages of `buffer` back to the system; their octets are zero afterwards.
pub fn release_pages(buffer: &mut [u8]) {
    const PAGE: usize = 4096;
    let from = buffer.as_ptr().align_offset(PAGE).min(buffer.len());
    let length = (buffer.len() - from) / PAGE * PAGE;
    let Some(whole) = buffer.get_mut(from..from + length).filter(|whole| !whole.is_empty()) else { return };
    // SAFETY: whole pages of anonymous private memory that is borrowed for writing; they read as zeros afterwards. A system
    // with larger pages refuses, and nothing happens.
    unsafe { libc::madvise(whole.as_mut_ptr().cast(), whole.len(), libc::MADV_DONTNEED) };
}

/// The address of a packet socket's frame: an interface.
///
/// # Errors
/// For an index that is none.
pub fn packet_address(interface: u32, ether_type: u16) -> io::Result<SockAddr> {
    let index = c_int::try_from(interface).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: a `sockaddr_storage` has room for a `sockaddr_ll` and suits its alignment; both are plain integers, and what is
    // not written stays zero.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            storage.write(mem::zeroed());
            let address = &mut *storage.cast::<libc::sockaddr_ll>();
            address.sll_family = libc::AF_PACKET as libc::c_ushort;
            address.sll_protocol = ether_type.to_be();
            address.sll_ifindex = index;
            *length = mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })
    }?;
    Ok(address)
}

/// Binds a packet socket to an interface and an EtherType.
///
/// # Errors
/// The error of `bind(2)`.
pub fn bind_packet_socket(socket: &Socket, interface: u32, ether_type: u16) -> io::Result<()> {
    socket.bind(&packet_address(interface, ether_type)?)
}

/// Lets a packet socket hear all that passes by an interface, whoever it is for (`PACKET_MR_PROMISC`), as long as it is open.
///
/// # Errors
/// The error of `setsockopt(2)`.
pub fn show_everything(socket: BorrowedFd<'_>, interface: u32) -> io::Result<()> {
    let index = c_int::try_from(interface).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let kind = libc::PACKET_MR_PROMISC as libc::c_ushort;
    let request = libc::packet_mreq { mr_ifindex: index, mr_type: kind, mr_alen: 0, mr_address: [0; 8] };
    // SAFETY: the descriptor is borrowed, hence open; pointer and length describe `request`, which lives across the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_ADD_MEMBERSHIP,
            (&raw const request).cast::<c_void>(),
            mem::size_of::<libc::packet_mreq>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Keeps this process' memory out of core dumps and away from other processes of the same user (`PR_SET_DUMPABLE`), since it holds keys. A
/// child that is started would be dumpable again, so its core file has no room, either (`RLIMIT_CORE`).
///
/// # Errors
/// The error of `prctl(2)` or `setrlimit(2)`.
pub fn forbid_core_dumps() -> io::Result<()> {
    // `prctl` is variadic and the kernel reads whole words.
    const NO: libc::c_ulong = 0;
    // SAFETY: PR_SET_DUMPABLE takes plain integers and touches no memory of ours.
    let result = unsafe { libc::prctl(libc::PR_SET_DUMPABLE, NO, NO, NO, NO) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the call reads one `rlimit`, which outlives it.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives freed memory back to the kernel, after something that needed much of it once; nothing where the C library has no such call.
pub fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call takes no pointer and touches only what the allocator itself holds free.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Watches a socket for something to read, in the event loop that calls this.
///
/// # Errors
/// When the descriptor cannot be duplicated or registered.
pub fn watch(socket: BorrowedFd<'_>) -> io::Result<AsyncFd<OwnedFd>> {
    let own = socket.try_clone_to_owned()?;
    // SAFETY: an `OwnedFd` names the same open descriptor until it is dropped, which `AsyncFd` does after its deregistration.
    let watched = unsafe { AsyncFd::register_with_interest(own, Interest::READABLE) };
    Ok(watched?)
}

/// What `recvmsg(2)` reported of one datagram.
#[derive(Debug)]
pub struct ReceivedMessage {
    /// Who sent it.
    pub address: SockAddr,
    /// Octets of payload written to the buffer.
    pub length: usize,
    /// Octets of ancillary data written.
    pub control_length: usize,
    /// Whether the payload was longer than the buffer.
    pub truncated: bool,
}

/// Receives one datagram with its ancillary data.
///
/// # Errors
/// The error of `recvmsg(2)`.
pub fn receive_message(socket: &Socket, payload: &mut [u8], control: &mut [u8]) -> io::Result<ReceivedMessage> {
    let mut address = SockAddr::from(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0));
    let mut slices = [MaybeUninitSlice::new(as_uninitialized(payload))];
    let mut message =
        MsgHdrMut::new().with_addr(&mut address).with_buffers(&mut slices).with_control(as_uninitialized(control));
    let length = socket.recvmsg(&mut message, 0)?;
    let (truncated, control_length) = (message.flags().is_truncated(), message.control_len());
    Ok(ReceivedMessage { address, length, control_length, truncated })
}

fn as_uninitialized(buffer: &mut [u8]) -> &mut [MaybeUninit<u8>] {
    // SAFETY: same layout; the only user hands it to `recvmsg`, through which the kernel writes initialised octets or nothing.
    unsafe { &mut *(std::ptr::from_mut(buffer) as *mut [MaybeUninit<u8>]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_no_core_dumps() {
        forbid_core_dumps().unwrap();
        // SAFETY: PR_GET_DUMPABLE takes no pointer.
        assert_eq!(unsafe { libc::prctl(libc::PR_GET_DUMPABLE, 0, 0, 0, 0) }, 0);
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(line.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{line}");
    }
}
