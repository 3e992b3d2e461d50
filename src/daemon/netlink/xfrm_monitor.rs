//! "Look again" for IPsec: notifications about security associations and policies. They are not read, only counted as one: the kernel puts keys
//! into them, so the buffer is wiped, and what is true now is in the tables.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_XFRM};
use tokio::io::unix::AsyncFd;
use zeroize::Zeroize;

use crate::daemon::sys;

/// Groups `XFRMNLGRP_EXPIRE`, `XFRMNLGRP_SA` and `XFRMNLGRP_POLICY` of `linux/xfrm.h` as a bit mask. Not `XFRMNLGRP_ACQUIRE`: with a listener on
/// that, the kernel makes larval states. Not `XFRMNLGRP_AEVENTS`: every few packets are no change.
const GROUPS: u32 = 1 << 1 | 1 << 2 | 1 << 3;
/// A notification about an SA with every attribute is well below this.
const RECEIVE_BUFFER: usize = 16 * 1024;

/// Watches the namespace in which it was opened.
#[derive(Debug)]
pub struct XfrmMonitor {
    socket: Socket,
    watch: AsyncFd<OwnedFd>,
}

impl XfrmMonitor {
    /// Starts watching, in the current tokio runtime.
    ///
    /// # Errors
    /// No socket.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_XFRM)?;
        // The groups go with `bind`: a membership added before it receives nothing.
        socket.bind(&SocketAddr::new(0, GROUPS))?;
        socket.set_non_blocking(true)?;
        let watch = sys::watch(socket.as_fd())?;
        Ok(Self { socket, watch })
    }

    /// Waits for a change. An overrun is one: what was lost may matter.
    ///
    /// Cancel safe: what has arrived stays in the socket until it is noticed.
    ///
    /// # Errors
    /// The event loop refuses to wait.
    pub async fn changed(&mut self) -> io::Result<()> {
        loop {
            let mut guard = self.watch.readable().await?;
            guard.clear_ready();
            if drain(&self.socket) {
                return Ok(());
            }
        }
    }
}

/// The same about policies only, for a thread that waits by itself.
#[derive(Debug)]
pub struct PolicyChanges(Socket);

impl PolicyChanges {
    /// Starts watching.
    ///
    /// # Errors
    /// No socket.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_XFRM)?;
        socket.bind(&SocketAddr::new(0, 1 << 3))?;
        socket.set_non_blocking(true)?;
        Ok(Self(socket))
    }

    /// Takes what came.
    pub fn drain(&self) {
        drain(&self.0);
    }
}

impl AsFd for PolicyChanges {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Empties the socket; whether anything was in it.
fn drain(socket: &Socket) -> bool {
    let mut any = false;
    let mut buffer = Vec::with_capacity(RECEIVE_BUFFER);
    loop {
        buffer.clear();
        match socket.recv(&mut buffer, 0) {
            Ok(_) => any = true,
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => any = true,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    buffer.zeroize();
    any
}
