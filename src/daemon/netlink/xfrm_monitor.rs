//! "Look again" for IPsec: notifications about security associations and policies. Of each only the header is read, which says whose change it
//! was, and of those about SAs that end the name; the rest has keys in it, so the buffer is wiped, and what is true now is in the tables.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use netlink_packet_core::NetlinkBuffer;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_XFRM};
use tokio::io::unix::AsyncFd;
use zeroize::Zeroizing;

use super::{Expiry, parse_expiry};
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
    own: u32,
}

impl XfrmMonitor {
    /// Starts watching, in the current tokio runtime. What the client with the port `own` does is no news.
    ///
    /// # Errors
    /// No socket.
    pub fn open(own: u32) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_XFRM)?;
        // The groups go with `bind`: a membership added before it receives nothing.
        socket.bind(&SocketAddr::new(0, GROUPS))?;
        socket.set_non_blocking(true)?;
        let watch = sys::watch(socket.as_fd())?;
        Ok(Self { socket, watch, own })
    }

    /// Waits for a change by others, and gives the SAs that have ended or end soon. An overrun is a change without any: what was lost may matter.
    ///
    /// Cancel safe: what has arrived stays in the socket until it is noticed.
    ///
    /// # Errors
    /// The event loop refuses to wait.
    pub async fn changed(&mut self) -> io::Result<Vec<Expiry>> {
        loop {
            let mut guard = self.watch.readable().await?;
            guard.clear_ready();
            if let Some(expiries) = drain(&self.socket, Some(self.own)) {
                return Ok(expiries);
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

    /// Takes what came; whether anything did.
    pub fn drain(&self) -> bool {
        drain(&self.0, None).is_some()
    }
}

impl AsFd for PolicyChanges {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Empties the socket; none when nothing was in it but what `own` has done.
fn drain(socket: &Socket, own: Option<u32>) -> Option<Vec<Expiry>> {
    let mut any = None;
    let mut buffer = Zeroizing::new(Vec::with_capacity(RECEIVE_BUFFER));
    loop {
        buffer.clear();
        match socket.recv(&mut *buffer, 0) {
            Ok(_) if own.is_some_and(|own| is_of(&buffer, own)) => {}
            Ok(_) => {
                let expiries: &mut Vec<Expiry> = any.get_or_insert_default();
                // A datagram that cannot be read is a change all the same.
                expiries.extend(parse_expiry(&buffer).unwrap_or_default());
            }
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => drop(any.get_or_insert_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return any,
        }
    }
}

/// Whether a notification is about a change that was asked for by that port (`nlmsg_pid`). What cannot be told is not.
fn is_of(notification: &[u8], own: u32) -> bool {
    NetlinkBuffer::new_checked(notification).is_ok_and(|message| message.port_number() == own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_we_did_is_no_news() {
        let mut notification = [0; 20];
        notification[0] = 20;
        notification[12..16].copy_from_slice(&77u32.to_ne_bytes());
        assert!(is_of(&notification, 77) && !is_of(&notification, 78));
        for length in 0..20 {
            assert!(!is_of(&notification[..length], 77), "{length}");
        }
    }
}
