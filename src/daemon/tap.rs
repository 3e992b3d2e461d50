//! TAP and TUN devices, and what a port of the pseudo home network is made of.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use super::sys;

/// Octets of the virtio-net header in front of each frame or packet (`linux/virtio_net.h`, legacy layout).
pub const VNET_HEADER_LENGTH: usize = 10;

/// An open TUN or TAP device; the interface lives as long as this value.
#[derive(Debug)]
pub struct Device {
    file: File,
    name: String,
    datagrams: bool,
}

impl Device {
    /// Every frame or packet has a virtio-net header in front, which tells what is left to do: of one that is read, for us; of one that
    /// is written, for the kernel.
    fn open(name: &str, kind: libc::c_int) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
        sys::set_tun_interface(file.as_fd(), name, kind | libc::IFF_NO_PI | libc::IFF_VNET_HDR)?;
        sys::set_tun_header_length(file.as_fd(), VNET_HEADER_LENGTH as libc::c_int)?;
        let datagrams = take_whole(&file)?;
        Ok(Self { file, name: name.to_owned(), datagrams })
    }

    /// Makes a TAP: Ethernet frames.
    ///
    /// # Errors
    /// The error of the system calls; `EBUSY` when the interface exists already.
    pub fn tap(name: &str) -> io::Result<Self> {
        Self::open(name, libc::IFF_TAP)
    }

    /// Makes a TUN: bare IPv6 packets.
    ///
    /// # Errors
    /// The error of the system calls; `EBUSY` when the interface exists already.
    pub fn tun(name: &str) -> io::Result<Self> {
        Self::open(name, libc::IFF_TUN)
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether whole UDP packets go either way, which the kernel cuts (Linux 6.2).
    pub fn takes_whole_datagrams(&self) -> bool {
        self.datagrams
    }

    /// Reads one frame or packet into several buffers, one after another.
    ///
    /// # Errors
    /// The error of `readv(2)`.
    pub fn read_parts(&self, parts: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        (&self.file).read_vectored(parts)
    }

    /// The same, of what is there now.
    ///
    /// # Errors
    /// The error of `preadv2(2)`; `WouldBlock` when there is nothing, `Unsupported` when the kernel cannot do this.
    pub fn read_now(&self, parts: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        sys::read_now(self.file.as_fd(), parts)
    }

    /// Writes one frame or packet gathered from parts: virtio-net header, Ethernet header for a TAP, packet.
    ///
    /// # Errors
    /// The error of `writev(2)`.
    pub fn write_parts(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        (&self.file).write_vectored(parts).map(|_| ())
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Takes packets whole that the kernel would otherwise cut, and checksums that it would otherwise complete. Whether UDP is among them.
fn take_whole(file: &File) -> io::Result<bool> {
    let tcp = libc::TUN_F_CSUM | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
    // The kernel allows UDP of both versions of IP or of none.
    let all = tcp | libc::TUN_F_USO4 | libc::TUN_F_USO6;
    match sys::set_tun_offload(file.as_fd(), all) {
        Ok(()) => Ok(true),
        Err(_) => sys::set_tun_offload(file.as_fd(), tcp).map(|()| false),
    }
}

/// Whether an error of [`Device::read_parts`] says that the interface was removed: every later one does, too. An interface that is only down
/// gives no error to a reader.
pub fn is_gone(error: &io::Error) -> bool {
    // `EBADFD`: detached; `EFAULT`: shut down while it was waited for (`drivers/net/tun.c`, `tun_ring_recv`).
    matches!(error.raw_os_error(), Some(libc::EBADFD | libc::EFAULT))
}

/// Keeps the host's own IPv6 off an interface: it must neither answer nor speak on the guest's link.
///
/// # Errors
/// The error of writing the sysctl.
pub fn disable_ipv6(interface: &str) -> io::Result<()> {
    write_sysctl(interface, "disable_ipv6")
}

/// Keeps the kernel from giving an interface a link-local address of its own (`addr_gen_mode` 1, none).
///
/// # Errors
/// The error of writing the sysctl.
pub fn no_link_local(interface: &str) -> io::Result<()> {
    write_sysctl(interface, "addr_gen_mode")
}

/// Has the kernel forward what comes in by an interface of ours. Where the host is no router, that interface alone may be one (Linux 6.17).
///
/// # Errors
/// The host does not forward, and cannot do so for one interface.
pub fn let_forward(interface: &str) -> io::Result<()> {
    if forwards()? {
        return Ok(());
    }
    write_sysctl(interface, "force_forwarding").map_err(|_| {
        io::Error::new(
            io::ErrorKind::Unsupported,
            "this host does not forward IPv6, and its kernel (before 6.17) cannot do so for one interface alone",
        )
    })
}

/// Whether the kernel forwards IPv6 between all interfaces.
///
/// # Errors
/// The error of reading the sysctl.
pub fn forwards() -> io::Result<bool> {
    Ok(std::fs::read_to_string("/proc/sys/net/ipv6/conf/all/forwarding")?.trim() != "0")
}

fn write_sysctl(interface: &str, name: &str) -> io::Result<()> {
    let path: PathBuf = ["/proc/sys/net/ipv6/conf", interface, name].iter().collect();
    std::fs::write(path, "1")
}
