//! The tunnel engine as a value of its own: one end of a tunnel with its threads, whoever fills its table. The roles fill
//! it from signaling; a benchmark fills it with fixed care-of addresses and needs no signaling, no policy and no IPsec.

pub mod accelerator;
pub mod core;
pub mod ear;
pub mod keeper;
pub mod paths;
pub mod receive;
pub mod sender;
pub mod super_packet;
mod tier;
pub mod transmit;
pub mod writer;

use std::io;
use std::net::Ipv6Addr;
use std::sync::Arc;

use tokio::sync::{Notify, mpsc};

use self::core::Core;
use super::home_agent::path::Path;
use super::packet_path::{PacketPath, View};
use super::shared::Shared;
use super::tap::Device;
use crate::home_network::{self, PortGuest, PortGuests};
use crate::tunnel::accelerated::Carried;
use crate::tunnel::{Counters, HomeAgentTable, Table};
use crate::vocabulary::{GuestId, MacAddress};

pub use accelerator::{Accelerator, GuestPort};
pub use tier::{Accelerate, Tier};

/// Stack of a thread of the packet path in octets; what is not used takes no memory.
pub const STACK: usize = 256 << 10;

/// The end at the host of guests, all of them on one port.
#[derive(Debug, Clone)]
pub struct MobileNodeEnd {
    /// Name of the TAP to make. Whoever starts the engine puts it on the guests' link and sets it up.
    pub tap: String,
    /// Source MAC address of frames to the guests.
    pub router_mac: MacAddress,
    /// The guests; `port` of every entry is 0.
    pub table: Table,
    /// Which tier.
    pub accelerate: Accelerate,
}

/// The end at the home agent.
#[derive(Debug, Clone)]
pub struct HomeAgentEnd {
    /// Name of the TUN to make. Whoever starts the engine sets it up and routes home addresses to it.
    pub tun: String,
    /// The bindings.
    pub table: HomeAgentTable,
    /// Which tier.
    pub accelerate: Accelerate,
}

#[derive(Debug)]
enum End {
    MobileNode { path: PacketPath, like: Box<View> },
    HomeAgent { path: Path },
}

/// A running engine. Its threads go on until the process ends or the device is removed.
#[derive(Debug)]
pub struct Engine {
    end: End,
    core: Core,
    device: Arc<Device>,
}

impl Engine {
    /// Starts the end at the host of guests. Neighbour discovery is nobody's here: guests need fixed neighbour entries.
    ///
    /// # Errors
    /// The error of the system calls; needs `CAP_NET_ADMIN` and `CAP_NET_RAW`.
    pub fn mobile_node(end: MobileNodeEnd) -> io::Result<Self> {
        let device = Arc::new(Device::tap(&end.tap)?);
        Self::at_port(device, end.router_mac, end.table, end.accelerate)
    }

    /// The same on a TAP that is there.
    ///
    /// # Errors
    /// As [`Self::mobile_node`].
    pub fn at_port(
        device: Arc<Device>,
        router_mac: MacAddress,
        table: Table,
        accelerate: Accelerate,
    ) -> io::Result<Self> {
        let entries = table.entries();
        let router = entries.first().map_or(home_network::config::ROUTER_LINK_LOCAL, |entry| entry.router);
        let guests = entries.iter().map(|entry| PortGuest {
            guest: entry.guest,
            mac: entry.mac,
            home_address: entry.home_address,
            attached: true,
        });
        let view = View {
            ports: vec![Arc::new(PortGuests::new(router, guests))],
            devices: vec![Arc::clone(&device)],
            router_macs: vec![router_mac],
            esp_tunnels: None,
            table: table.clone(),
        };
        let (reports, _) = mpsc::channel(1);
        let core = Core::start(accelerate)?;
        let path = PacketPath {
            core: core.clone(),
            view: Shared::new(View { table: Table::default(), ..view.clone() }),
            frames: vec![Arc::default()],
            reports,
        };
        path.publish(view.clone(), std::iter::empty());
        path.start_port(0, Arc::clone(&device))?;
        path.start_tunnel()?;
        Ok(Self { end: End::MobileNode { path, like: Box::new(view) }, core, device })
    }

    /// Starts the end at the home agent.
    ///
    /// # Errors
    /// The error of the system calls; needs `CAP_NET_ADMIN` and `CAP_NET_RAW`.
    pub fn home_agent(end: HomeAgentEnd) -> io::Result<Self> {
        let device = Arc::new(Device::tun(&end.tun)?);
        let core = Core::start(end.accelerate)?;
        let path = Path {
            core: core.clone(),
            tun: Arc::clone(&device),
            table: Shared::new(end.table.clone()),
            lost: Arc::new(Notify::new()),
        };
        path.publish(end.table);
        path.start()?;
        Ok(Self { end: End::HomeAgent { path }, core, device })
    }

    /// Replaces the table at the host of guests; nothing happens at a home agent.
    pub fn replace_guests(&self, table: Table) {
        if let End::MobileNode { path, like } = &self.end {
            path.publish(View { table, ..View::clone(like) }, std::iter::empty());
        }
    }

    /// Replaces the table at a home agent; nothing happens at the host of guests.
    pub fn replace_bindings(&self, bindings: HomeAgentTable) {
        if let End::HomeAgent { path } = &self.end {
            path.publish(bindings);
        }
    }

    /// Hands packets to an accelerator from now on. What it leaves goes through the threads as before.
    pub fn accelerate(&mut self, accelerator: Box<dyn Accelerator>) {
        self.core.accelerate(accelerator);
    }

    /// Starts the eBPF tier as the daemon does, for so many guests on this port; none: a home agent. Why it is not to be had, [`Self::refused`]
    /// says then.
    pub fn start_programs(&mut self, port: Option<GuestPort<'_>>, guests: usize) {
        match port {
            Some(port) => accelerator::at_mobile_node(&mut self.core, Accelerate::Ebpf, &[port], guests),
            None => accelerator::at_home_agent(&mut self.core, Accelerate::Ebpf, self.device.name(), guests),
        }
    }

    /// Why a tier above the chosen one is not to be had here, if it was tried.
    pub fn refused(&self, tier: Tier) -> Option<&str> {
        self.core.refused.iter().find(|(refused, _)| *refused == tier).map(|(_, why)| why.as_str())
    }

    /// The port of the guests is another one now, for an accelerator; nothing happens at a home agent.
    pub fn port_changed(&self, port: GuestPort<'_>) {
        if let End::MobileNode { .. } = &self.end {
            self.core.keeper.acceleration().ports_changed(&[port]);
        }
    }

    /// What an accelerator has carried so far, by home address; nothing of the threads is in it.
    pub fn carried(&self) -> Vec<(Option<Ipv6Addr>, Carried)> {
        self.core.keeper.acceleration().carried()
    }

    /// The TAP or TUN.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// What it has counted so far, of all packets.
    pub fn counters(&self) -> &Counters {
        &self.core.tally.all
    }

    /// What it has counted so far, of the packets of one guest.
    pub fn guest_counters(&self, guest: GuestId) -> Option<&Counters> {
        self.core.tally.guest(guest)
    }

    /// The tier that was chosen.
    pub fn tier(&self) -> Tier {
        self.core.tier
    }

    /// The tier and what it does with this kernel, in words.
    pub fn description(&self) -> &str {
        &self.core.description
    }
}
