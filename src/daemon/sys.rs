//! The only `unsafe` of the crate: system calls that no library wraps. Everything here is a thin, checked function over one call.
#![allow(unsafe_code)]

use std::io;
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

/// Binds a packet socket to an interface and an EtherType.
///
/// # Errors
/// The error of `bind(2)`.
pub fn bind_packet_socket(socket: BorrowedFd<'_>, interface: u32, ether_type: u16) -> io::Result<()> {
    let index = c_int::try_from(interface).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: an all-zero `sockaddr_ll` is a valid value of it.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as libc::c_ushort;
    address.sll_protocol = ether_type.to_be();
    address.sll_ifindex = index;
    // SAFETY: pointer and length describe `address`, which lives across the call.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast::<libc::sockaddr>(),
            mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t,
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
