//! What moves packets in front of the threads.

use std::fmt;
use std::net::Ipv6Addr;

use crate::tunnel::accelerated::Carried;
use crate::tunnel::{HomeAgentTable, Table};

/// Something in the kernel that carries packets before userland sees them. It is told every new table before the threads
/// read it, holds no packet itself, and leaves to the threads what it does not decide: errors, unknown packets,
/// everything during a hand-over. When it is dropped, the threads have everything.
pub trait Accelerator: fmt::Debug + Send {
    /// What it does, in words, for log and status.
    fn description(&self) -> String;

    /// The table at the host of guests has changed.
    fn guests_changed(&mut self, table: &Table);

    /// The table at a home agent has changed.
    fn bindings_changed(&mut self, table: &HomeAgentTable);

    /// What it has done so far, by home address; `None` is about packets of nobody known.
    fn carried(&self) -> Vec<(Option<Ipv6Addr>, Carried)>;
}
