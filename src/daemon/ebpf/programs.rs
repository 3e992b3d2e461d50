//! The programs in the kernel: loading, where they hang, their maps.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv6Addr;

use aya::maps::{HashMap, MapData, PerCpuArray};
use aya::programs::tc::{SchedClassifierLinkId, TcAttachOptions, TcAttachType};
use aya::programs::{LinkOrder, SchedClassifier};
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfLoader};

use super::Error;
use crate::daemon::sys;
use crate::tunnel::accelerated::{self, COUNTERS_LENGTH, Carried, ENTRY_LENGTH, KEY_LENGTH};

#[cfg(ebpf_programs)]
const OBJECT: Option<&[u8]> = Some(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tunnel.bpf.o")));
#[cfg(not(ebpf_programs))]
const OBJECT: Option<&[u8]> = None;

/// TCX links, and their order.
const FIRST_KERNEL: KernelVersion = KernelVersion::new(6, 6, 0);

pub(super) struct Programs {
    loaded: Ebpf,
    guests: HashMap<MapData, [u8; KEY_LENGTH], [u8; ENTRY_LENGTH]>,
    counters: PerCpuArray<MapData, [u8; COUNTERS_LENGTH]>,
    /// Where the program of the uplink hangs, by interface.
    uplinks: BTreeMap<u32, Hook>,
}

/// A program where it hangs.
#[derive(Debug)]
pub(super) struct Hook {
    name: String,
    link: SchedClassifierLinkId,
}

impl fmt::Debug for Programs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Programs").field("uplinks", &self.uplinks).finish_non_exhaustive()
    }
}

fn refused<E: std::error::Error>(what: impl Into<String>) -> impl FnOnce(E) -> Error {
    let what = what.into();
    move |error| {
        let mut why = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            why = format!("{why}: {error}");
            source = error.source();
        }
        Error::Refused { what, why }
    }
}

impl Programs {
    pub(super) fn load(names: [&str; 2], guests: usize) -> Result<Self, Error> {
        let object =
            OBJECT.ok_or(Error::NotBuilt("clang was missing when this program was built with the feature ebpf"))?;
        if !KernelVersion::current().is_ok_and(|version| version >= FIRST_KERNEL) {
            return Err(Error::Kernel);
        }
        // Slot 0 is nobody's, and some room for guests that come later.
        let slots = u32::try_from(guests.max(32) * 2).unwrap_or(u32::MAX);
        let mut loaded = EbpfLoader::new()
            .map_max_entries("counters", slots)
            // No structure of the kernel is read: its type information is several megabytes.
            .btf(None)
            .load(object)
            .map_err(refused("the maps of the eBPF tier"))?;
        for name in names {
            program(&mut loaded, name)?.load().map_err(refused(format!("the program {name}")))?;
        }
        let map = |loaded: &mut Ebpf, name: &str| loaded.take_map(name).ok_or_else(|| Error::Missing(name.to_owned()));
        let (guests, counters) = (map(&mut loaded, "guests")?, map(&mut loaded, "counters")?);
        let guests = guests.try_into().map_err(refused("the map of guests"))?;
        let counters = counters.try_into().map_err(refused("the map of counters"))?;
        sys::give_back_memory();
        Ok(Self { loaded, guests, counters, uplinks: BTreeMap::new() })
    }

    /// Nothing happens where it hangs already.
    pub(super) fn attach_where_it_receives(&mut self, name: &str, interface: u32) -> Result<(), Error> {
        if !self.uplinks.contains_key(&interface) {
            let hook = self.attach(name, interface, TcAttachType::Ingress)?;
            self.uplinks.insert(interface, hook);
        }
        Ok(())
    }

    /// Hangs a program where an interface sends (egress) or receives (ingress).
    pub(super) fn attach(&mut self, name: &str, interface: u32, side: TcAttachType) -> Result<Hook, Error> {
        let interface = nix::net::if_::if_indextoname(interface)
            .ok()
            .and_then(|name| name.into_string().ok())
            .ok_or_else(|| Error::Missing(format!("number {interface}")))?;
        // Programs of others, such as a firewall's, come first.
        let options = TcAttachOptions::TcxOrder(LinkOrder::last());
        let link = program(&mut self.loaded, name)?
            .attach_with_options(&interface, side, options)
            .map_err(refused(format!("the program {name} at {interface}")))?;
        Ok(Hook { name: name.to_owned(), link })
    }

    /// Takes a program off again.
    pub(super) fn detach(&mut self, hook: Hook) {
        let Hook { name, link } = hook;
        let detached = program(&mut self.loaded, &name).and_then(|p| p.detach(link).map_err(refused("to detach")));
        if let Err(error) = detached {
            tracing::debug!(%error, "an interface that is gone takes its programs with it");
        }
    }

    pub(super) fn detach_all_but(&mut self, wanted: &[u32]) {
        let gone: Vec<_> = self.uplinks.keys().copied().filter(|interface| !wanted.contains(interface)).collect();
        for interface in gone {
            self.uplinks.remove(&interface).into_iter().for_each(|hook| self.detach(hook));
        }
    }

    pub(super) fn tell(&mut self, home_address: Ipv6Addr, entry: &[u8; ENTRY_LENGTH]) -> Result<(), Error> {
        self.guests.insert(accelerated::key(home_address), *entry, 0).map_err(refused("one more guest"))
    }

    pub(super) fn forget(&mut self, home_address: Ipv6Addr) {
        // An error says that it was not there.
        let _ = self.guests.remove(&accelerated::key(home_address));
    }

    /// The sum over all CPUs; zeros for a slot that is not there.
    pub(super) fn counters(&self, slot: u32) -> Carried {
        let mut carried = Carried::default();
        if let Ok(values) = self.counters.get(&slot, 0) {
            values.iter().for_each(|octets| carried.add(octets));
        }
        carried
    }
}

fn program<'a>(loaded: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier, Error> {
    let program = loaded.program_mut(name).ok_or_else(|| Error::Missing(name.to_owned()))?;
    program.try_into().map_err(refused(format!("the program {name}")))
}
