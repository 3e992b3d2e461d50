//! What the packet path and the guests are shown: tables, and the pseudo home network of each port.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;

use super::Runner;
use crate::daemon::Error;
use crate::daemon::engine::Accelerate;
use crate::daemon::engine::accelerator::{self, GuestPort};
use crate::daemon::engine::core::Core;
use crate::daemon::packet_path::{PacketPath, Report, View};
use crate::daemon::ports::OpenPort;
use crate::daemon::roster::Roster;
use crate::daemon::shared::Shared;
use crate::daemon::tap::Device;
use crate::home_network::{self, PseudoHomeNetwork};
use crate::ipsec::Class;
use crate::policy::{Attachment, GuestPolicy, Port, RouterPolicy};
use crate::tunnel::{self, Carrier, Entry, Table};
use crate::vocabulary::{GuestId, MacAddress};

/// What the guests of a port are shown. One port is one link, so it has one router: that of its first guest.
pub(super) fn network(roster: &Roster, port: &OpenPort) -> PseudoHomeNetwork {
    let attachments: Vec<_> = port
        .guests
        .iter()
        .filter_map(|id| Some((*id, roster.get(*id)?)))
        .filter_map(|(id, guest)| Some((id, guest, guest.attachment.as_ref()?)))
        .collect();
    let guests = attachments.iter().map(|(id, guest, attachment)| guest_config(*id, guest, attachment));
    let home_agent = &roster.policy().home_agent;
    let mut config = home_network::Config::new(home_agent.home_link, home_agent.address, guests.collect());
    if let Some((_, _, attachment)) = attachments.first() {
        config.router_link_local = attachment.router.link_local;
        config.router_mac = attachment.router.mac;
    }
    PseudoHomeNetwork::new(config)
}

/// One guest as its port's network knows it.
pub(super) fn guest_config(id: GuestId, guest: &GuestPolicy, attachment: &Attachment) -> home_network::GuestConfig {
    home_network::GuestConfig {
        autonomous: attachment.router.autonomous,
        ..home_network::GuestConfig::new(id, guest.home_address, attachment.mac)
    }
}

impl Runner {
    /// Gives the packet path a new table.
    pub(super) fn publish(&mut self, now: Instant) {
        let path_mtu = self.uplink.as_ref().map_or(1500, |uplink| uplink.mtu as usize);
        let mut entries = Vec::new();
        for (port, open) in self.ports.iter().enumerate() {
            let link_mtu = open.mtu as usize;
            let mut smallest = tunnel::inner_mtu(path_mtu).min(link_mtu);
            for id in &open.guests {
                let Some(guest) = self.roster.get(*id) else { continue };
                let mtu = self.path_mtus.get(id).map_or(usize::MAX, |mtu| tunnel::inner_mtu(*mtu as usize));
                let mtu = mtu.min(tunnel::inner_mtu(path_mtu));
                let in_esp = guest.protection.has(Class::TunnelPayload);
                let mtu = if in_esp { tunnel::mtu_in_esp(mtu) } else { mtu };
                smallest = smallest.min(mtu);
                entries.extend(self.entry(*id, guest, port, mtu, link_mtu));
            }
            if let Some(network) = self.networks.get_mut(port) {
                network.set_mtu(u32::try_from(smallest).unwrap_or(u32::MAX), now);
            }
        }
        let esp_tunnels = self.esp_tunnels.as_ref();
        let view = view(&self.roster, &self.ports, &self.networks, Table::new(entries), esp_tunnels);
        self.path.publish(view, self.expected());
    }

    /// Tells what carries in front of the threads where guests are.
    pub(super) fn tell_ports(&self) {
        self.path.core.keeper.acceleration().ports_changed(&guest_ports(&self.roster, &self.ports));
    }

    /// The tunnels of guests that are here, or expected: all is in force for them, or soon.
    fn expected(&self) -> impl Iterator<Item = Carrier> {
        let home_agent = self.roster.policy().home_agent.address;
        let away = self.bindings.0.iter().filter(|(guest, _)| !self.returning.contains(guest));
        away.map(move |(_, care_of)| Carrier { care_of: *care_of, home_agent })
    }

    fn entry(&self, id: GuestId, guest: &GuestPolicy, port: usize, mtu: usize, link_mtu: usize) -> Option<Entry> {
        let attachment = guest.attachment.as_ref()?;
        Some(Entry {
            guest: id,
            home_address: guest.home_address,
            home_agent: self.roster.policy().home_agent.address,
            mac: attachment.mac,
            port,
            carrier: self.carriers.get(&id).copied(),
            arriving: self.arriving.get(&id).copied(),
            mtu,
            link_mtu,
            router: attachment.router.link_local,
            protected: guest.protection.classes.keys().copied().collect(),
        })
    }
}

/// Starts the threads between the ports and the tunnel.
pub(super) fn packet_path(
    roster: &Roster,
    ports: &[OpenPort],
    networks: &[PseudoHomeNetwork],
    reports: mpsc::Sender<Report>,
    accelerate: Accelerate,
    esp_tunnels: Option<&Arc<Device>>,
) -> Result<PacketPath, Error> {
    let guests = roster.guests().count();
    let mut core =
        Core::start(accelerate).map_err(|source| Error::socket("the sockets of the tunnel engine", source))?;
    accelerator::at_mobile_node(&mut core, accelerate, &guest_ports(roster, ports), guests);
    let path = PacketPath {
        core,
        view: Shared::new(view(roster, ports, networks, Table::new([]), esp_tunnels)),
        frames: networks.iter().map(PseudoHomeNetwork::counters).collect(),
        reports,
    };
    let thread = |source| Error::socket("a thread", source);
    for (number, port) in ports.iter().enumerate() {
        path.start_port(number, Arc::clone(&port.device)).map_err(thread)?;
    }
    path.start_tunnel().map_err(thread)?;
    if let Some(device) = esp_tunnels {
        path.start_esp_tunnels(Arc::clone(device)).map_err(thread)?;
    }
    Ok(path)
}

/// The ports as an accelerator is to know them.
pub(super) fn guest_ports<'a>(roster: &Roster, ports: &'a [OpenPort]) -> Vec<GuestPort<'a>> {
    let guest_port = |(open, router_mac): (&'a OpenPort, MacAddress)| {
        let own = match &open.port {
            Port::Tap(own) if open.is_whole => Some(own.as_str()),
            // Nobody's now, or on a bridge of somebody else.
            Port::Tap(_) | Port::Bridge(_) => None,
        };
        GuestPort { tap: open.device.name(), own, router_mac }
    };
    ports.iter().zip(router_macs(roster, ports)).map(guest_port).collect()
}

fn view(
    roster: &Roster,
    ports: &[OpenPort],
    networks: &[PseudoHomeNetwork],
    table: Table,
    esp_tunnels: Option<&Arc<Device>>,
) -> View {
    View {
        table,
        ports: networks.iter().map(PseudoHomeNetwork::guests).collect(),
        devices: ports.iter().map(|port| Arc::clone(&port.device)).collect(),
        router_macs: router_macs(roster, ports),
        esp_tunnels: esp_tunnels.cloned(),
    }
}

fn router_macs(roster: &Roster, ports: &[OpenPort]) -> Vec<MacAddress> {
    let first = |port: &OpenPort| roster.get(*port.guests.first()?)?.attachment.as_ref();
    ports.iter().map(|port| first(port).map_or(RouterPolicy::DEFAULT_MAC, |attachment| attachment.router.mac)).collect()
}
