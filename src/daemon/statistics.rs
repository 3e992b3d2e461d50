//! The kernel's IPsec counters of a network namespace.

use std::io;

use crate::ipsec::Statistics;

/// Reads those of the calling thread's namespace.
///
/// # Errors
/// There are none without `CONFIG_XFRM_STATISTICS`.
pub fn read() -> io::Result<Statistics> {
    // `/proc/net` is that of the process' first thread.
    Ok(Statistics::parse(&std::fs::read_to_string("/proc/thread-self/net/xfrm_stat")?))
}
