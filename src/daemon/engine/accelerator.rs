//! What moves packets in front of the threads.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv6Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::core::Core;
use super::paths::Ends;
use super::tier::{Accelerate, Tier};
use crate::tunnel::accelerated::Carried;
use crate::tunnel::{HomeAgentTable, Table};
use crate::vocabulary::MacAddress;

/// The tunnels that may be carried past the kernel's own output: by Ethernet, wide enough for whole packets, and no policy of IPsec
/// covers it.
pub type Ways = BTreeMap<Ends, WayOut>;

/// The way that packets of one tunnel leave by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WayOut {
    /// Interface index.
    pub interface: u32,
    /// The neighbour there that they are handed to: a router, or the other end itself.
    pub neighbour: Ipv6Addr,
    /// The longest inner packet that the path takes.
    pub inner_mtu: usize,
}

/// Something in the kernel that carries packets before userland sees them. It is told every new table before the threads
/// read it, holds no packet itself, and leaves to the threads what it does not decide: errors, unknown packets, everything
/// during a hand-over, and every tunnel without a way. When it is dropped, the threads have everything.
pub trait Accelerator: fmt::Debug + Send {
    /// What it does, in words, for log and status.
    fn description(&self) -> String;

    /// The ports at the host of guests, by port number, as they are now: interfaces come again under other indices. Whether that changes anything;
    /// then the table is told once more.
    fn ports_changed(&mut self, ports: &[GuestPort<'_>]) -> bool;

    /// The table at the host of guests has changed, or the ways.
    fn guests_changed(&mut self, table: &Table, ways: &Ways);

    /// The table at a home agent has changed, or the ways.
    fn bindings_changed(&mut self, table: &HomeAgentTable, ways: &Ways);

    /// What it has done so far, by home address; `None` is about packets of nobody known.
    fn carried(&self) -> Vec<(Option<Ipv6Addr>, Carried)>;
}

/// An accelerator with what it was told last, so that a change of either the table or the ways is told with the other.
#[derive(Debug, Default)]
pub struct Acceleration(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    accelerator: Option<Box<dyn Accelerator>>,
    table: Option<Told>,
    ways: Ways,
}

#[derive(Debug)]
enum Told {
    Guests(Table),
    Bindings(HomeAgentTable),
}

impl State {
    fn tell(&mut self) {
        match (&mut self.accelerator, &self.table) {
            (Some(accelerator), Some(Told::Guests(table))) => accelerator.guests_changed(table, &self.ways),
            (Some(accelerator), Some(Told::Bindings(table))) => accelerator.bindings_changed(table, &self.ways),
            _ => {}
        }
    }
}

impl Acceleration {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on this one carries.
    pub fn begin(&self, accelerator: Box<dyn Accelerator>) {
        let mut state = self.lock();
        state.accelerator = Some(accelerator);
        state.tell();
    }

    /// Others may have changed the ports at the host of guests, or a changed policy has.
    pub fn ports_changed(&self, ports: &[GuestPort<'_>]) {
        let mut state = self.lock();
        if state.accelerator.as_mut().is_some_and(|accelerator| accelerator.ports_changed(ports)) {
            state.tell();
        }
    }

    /// A new table at the host of guests.
    pub fn guests_changed(&self, table: &Table) {
        let mut state = self.lock();
        state.table = Some(Told::Guests(table.clone()));
        state.tell();
    }

    /// A new table at a home agent.
    pub fn bindings_changed(&self, table: &HomeAgentTable) {
        let mut state = self.lock();
        state.table = Some(Told::Bindings(table.clone()));
        state.tell();
    }

    /// The kernel was asked for the ways again. Until it was, a tunnel has none.
    pub fn ways_changed(&self, ways: Ways) {
        let mut state = self.lock();
        if state.ways != ways {
            state.ways = ways;
            state.tell();
        }
    }

    /// See [`Accelerator::carried`].
    pub fn carried(&self) -> Vec<(Option<Ipv6Addr>, Carried)> {
        self.lock().accelerator.as_ref().map_or_else(Vec::new, |accelerator| accelerator.carried())
    }
}

/// A port of guests.
#[derive(Debug, Clone, Copy)]
pub struct GuestPort<'a> {
    /// Our TAP.
    pub tap: &'a str,
    /// The guest's own tap, where it has one that is in no bridge but a private one of ours: the short way leads past that
    /// bridge. `None` for guests on a bridge of somebody else, who may have rules there.
    pub own: Option<&'a str>,
    /// The MAC address of the router on this port.
    pub router_mac: MacAddress,
}

/// Starts the eBPF tier at the host of guests if that is wanted and to be had; otherwise the log says why not.
pub fn at_mobile_node(core: &mut Core, wanted: Accelerate, ports: &[GuestPort<'_>], guests: usize) {
    start(core, wanted, || ebpf::at_mobile_node(ports, guests));
}

/// Starts the eBPF tier at a home agent, likewise.
pub fn at_home_agent(core: &mut Core, wanted: Accelerate, tun: &str, guests: usize) {
    start(core, wanted, || ebpf::at_home_agent(tun, guests));
}

fn start(core: &mut Core, wanted: Accelerate, load: impl FnOnce() -> Result<Box<dyn Accelerator>, String>) {
    if wanted.highest() != Tier::Ebpf {
        return;
    }
    match load() {
        Ok(accelerator) => {
            tracing::info!("tunnel engine: {}", accelerator.description());
            core.accelerate(accelerator);
        }
        Err(why) => {
            match wanted {
                Accelerate::Ebpf => tracing::warn!("no eBPF tier: {why}; the next lower one carries"),
                _ => tracing::info!("no eBPF tier: {why}"),
            }
            core.refused.push((Tier::Ebpf, why));
        }
    }
}

#[cfg(feature = "ebpf")]
mod ebpf {
    use super::{Accelerator, GuestPort};
    use crate::daemon::ebpf::Ebpf;

    pub(super) fn at_mobile_node(ports: &[GuestPort<'_>], guests: usize) -> Result<Box<dyn Accelerator>, String> {
        Ebpf::mobile_node(ports, guests).map(|ebpf| Box::new(ebpf) as _).map_err(|error| error.to_string())
    }

    pub(super) fn at_home_agent(tun: &str, guests: usize) -> Result<Box<dyn Accelerator>, String> {
        Ebpf::home_agent(tun, guests).map(|ebpf| Box::new(ebpf) as _).map_err(|error| error.to_string())
    }
}

#[cfg(not(feature = "ebpf"))]
mod ebpf {
    use super::{Accelerator, GuestPort};

    const NOT_BUILT: &str = "this program was built without the feature ebpf";

    pub(super) fn at_mobile_node(_: &[GuestPort<'_>], _: usize) -> Result<Box<dyn Accelerator>, String> {
        Err(NOT_BUILT.to_owned())
    }

    pub(super) fn at_home_agent(_: &str, _: usize) -> Result<Box<dyn Accelerator>, String> {
        Err(NOT_BUILT.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[derive(Debug, Default)]
    struct Log(Arc<Mutex<Vec<(usize, usize)>>>);

    impl Accelerator for Log {
        fn description(&self) -> String {
            String::new()
        }

        fn ports_changed(&mut self, ports: &[GuestPort<'_>]) -> bool {
            !ports.is_empty()
        }

        fn guests_changed(&mut self, table: &Table, ways: &Ways) {
            self.0.lock().unwrap().push((table.entries().len(), ways.len()));
        }

        fn bindings_changed(&mut self, _: &HomeAgentTable, _: &Ways) {}

        fn carried(&self) -> Vec<(Option<Ipv6Addr>, Carried)> {
            Vec::new()
        }
    }

    #[test]
    fn a_change_of_either_is_told_with_the_other() {
        let log = Log::default();
        let told = Arc::clone(&log.0);
        let acceleration = Acceleration::default();
        acceleration.guests_changed(&Table::default());
        assert!(told.lock().unwrap().is_empty());
        acceleration.begin(Box::new(log));
        let ends = Ends { source: Ipv6Addr::LOCALHOST, destination: Ipv6Addr::LOCALHOST };
        let way = WayOut { interface: 3, neighbour: Ipv6Addr::LOCALHOST, inner_mtu: 1460 };
        acceleration.ways_changed(Ways::from([(ends, way)]));
        acceleration.ways_changed(Ways::from([(ends, way)]));
        acceleration.guests_changed(&Table::default());
        assert_eq!(*told.lock().unwrap(), [(0, 0), (0, 1), (0, 1)], "first without a way, and nothing twice");
        acceleration.ports_changed(&[]);
        assert_eq!(told.lock().unwrap().len(), 3);
        acceleration.ports_changed(&[GuestPort { tap: "kgtap0", own: None, router_mac: MacAddress([2; 6]) }]);
        assert_eq!(told.lock().unwrap().len(), 4, "entries name interfaces, and are told again with other ones");
    }
}
