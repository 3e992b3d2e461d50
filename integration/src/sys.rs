//! The only `unsafe` of the lab: packet sockets, one ioctl and one instruction that no safe wrapper of our dependencies offers.

use std::ffi::CString;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// `SIOCETHTOOL` of `linux/sockios.h`.
const SIOCETHTOOL: libc::c_ulong = 0x8946;
/// Commands of `linux/ethtool.h`.
const ETHTOOL_STXCSUM: u32 = 0x17;
const ETHTOOL_STSO: u32 = 0x1f;
const ETHTOOL_SGSO: u32 = 0x24;
const ETHTOOL_SGRO: u32 = 0x2c;
/// `ETH_P_ALL` of `linux/if_ether.h`, in network byte order.
const ETH_P_ALL_BE: u16 = 0x0003_u16.to_be();

/// How long the processor's time stamp counter is compared with the clock. An error of a microsecond in it is one of 0.001 %.
const COMPARISON: Duration = Duration::from_millis(100);

/// The rate of this processor's time stamp counter in kHz, measured once.
pub(crate) fn time_stamp_rate() -> u64 {
    static RATE: OnceLock<u64> = OnceLock::new();
    *RATE.get_or_init(|| {
        // SAFETY: every x86-64 processor has the instruction, and it touches no memory.
        #[cfg(target_arch = "x86_64")]
        let count = || unsafe { std::arch::x86_64::_rdtsc() };
        // The lab's machines are for x86-64 alone.
        #[cfg(not(target_arch = "x86_64"))]
        let count = || 0_u64;
        let (clock, begin) = (Instant::now(), count());
        std::thread::sleep(COMPARISON);
        let (end, passed) = (count(), clock.elapsed());
        u64::try_from(u128::from(end.wrapping_sub(begin)) * 1_000_000 / passed.as_nanos().max(1)).unwrap_or_default()
    })
}

/// Index of an interface in the calling thread's network namespace.
pub(crate) fn interface_index(name: &str) -> io::Result<u32> {
    nix::net::if_::if_nametoindex(name).map_err(io::Error::from)
}

/// A raw packet socket on `interface` of the calling thread's network namespace, which sees every frame in both
/// directions from the moment this returns.
pub(crate) fn packet_socket(interface: &str) -> io::Result<OwnedFd> {
    let index = interface_index(interface)?;
    // SAFETY: no pointers; the result is checked before it is owned.
    let fd = unsafe {
        // Protocol 0: nothing is received before the bind below has named the interface.
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as libc::sa_family_t,
        sll_protocol: ETH_P_ALL_BE,
        sll_ifindex: index as libc::c_int,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: `address` is a whole sockaddr_ll that lives over the call, and the length is its size.
    let result = unsafe {
        libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as libc::socklen_t)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(fd) }
}

/// Lets every frame that is written to a packet socket begin with a `virtio_net_hdr` (`PACKET_VNET_HDR` of `linux/if_packet.h`).
pub(crate) fn expect_vnet_header(socket: &OwnedFd) -> io::Result<()> {
    let yes: libc::c_int = 1;
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the call reads one int, which outlives it, and the length is its size.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, libc::PACKET_VNET_HDR, (&raw const yes).cast(), length)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes the kernel complete checksums (and so segment) before a frame leaves `interface`, as real network cards do,
/// so that captures hold what a wire would carry.
pub(crate) fn complete_checksums(interface: &str) -> io::Result<()> {
    set_ethtool_value(interface, ETHTOOL_STXCSUM, 0)
}

/// Undoes [`complete_checksums`]: `interface` takes whole segments of up to 64 KiB, as a virtual network card does.
pub(crate) fn leave_to_network_card(interface: &str) -> io::Result<()> {
    set_ethtool_value(interface, ETHTOOL_STXCSUM, 1)?;
    set_ethtool_value(interface, ETHTOOL_STSO, 1)
}

/// Whether the kernel's software segments what is longer than the MTU before it leaves `interface`, and merges what
/// it receives there: together they make a veth pair carry what a wire would.
pub(crate) fn like_a_wire(interface: &str) -> io::Result<()> {
    set_ethtool_value(interface, ETHTOOL_STSO, 0)?;
    set_ethtool_value(interface, ETHTOOL_SGSO, 0)?;
    set_ethtool_value(interface, ETHTOOL_SGRO, 1)
}

/// Switches the merging of received packets.
pub(crate) fn set_receive_offload(interface: &str, on: bool) -> io::Result<()> {
    set_ethtool_value(interface, ETHTOOL_SGRO, u32::from(on))
}

fn set_ethtool_value(interface: &str, command: u32, data: u32) -> io::Result<()> {
    #[repr(C)]
    struct EthtoolValue {
        command: u32,
        data: u32,
    }
    let name = CString::new(interface).map_err(io::Error::other)?;
    if name.as_bytes().len() >= libc::IFNAMSIZ {
        return Err(io::Error::other(format!("interface name {interface} is too long")));
    }
    let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::DGRAM, None)?;
    let mut value = EthtoolValue { command, data };
    // SAFETY: an ifreq is plain data for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.as_bytes()) {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: `request` names an interface and points to an ethtool_value, as SIOCETHTOOL with the ETHTOOL_S… commands
    // above wants; both outlive the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The calling thread preempts no other when it is woken (`SCHED_BATCH`).
pub(crate) fn wait_for_others() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the call reads one `sched_param`, which outlives it; 0 is the calling thread.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes `interface` a port of `bridge`, or of none (0), in the calling thread's network namespace: `RTM_NEWLINK` with `IFLA_MASTER`
/// (`linux/rtnetlink.h`), without the time that starting `ip` takes. No `unsafe` in it.
pub(crate) fn set_master(interface: u32, bridge: u32) -> io::Result<()> {
    let mut request = Vec::with_capacity(40);
    request.extend(40_u32.to_ne_bytes());
    request.extend((libc::RTM_NEWLINK).to_ne_bytes());
    request.extend(((libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16).to_ne_bytes());
    // Sequence number and port; then an ifinfomsg: family and type unspecified, the interface, no flags.
    request.extend([0; 8]);
    request.extend([0; 4]);
    request.extend(interface.to_ne_bytes());
    request.extend([0; 8]);
    request.extend(8_u16.to_ne_bytes());
    request.extend(libc::IFLA_MASTER.to_ne_bytes());
    request.extend(bridge.to_ne_bytes());
    let socket = socket2::Socket::new(
        socket2::Domain::from(libc::AF_NETLINK),
        socket2::Type::RAW,
        Some(socket2::Protocol::from(libc::NETLINK_ROUTE)),
    )?;
    socket.send(&request)?;
    let mut answer = [0_u8; 256];
    let length = io::Read::read(&mut &socket, &mut answer)?;
    // An nlmsghdr of 16 octets, then the error: 0 or a negative errno.
    match answer.get(16..20).filter(|_| length >= 20).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok()) {
        Some(code) if i32::from_ne_bytes(code) == 0 => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-i32::from_ne_bytes(code))),
        None => Err(io::Error::other("a short answer of rtnetlink")),
    }
}
