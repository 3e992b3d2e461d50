//! The state machine of a port: answers, advertisements, arrivals.

use std::collections::VecDeque;
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::advertisement::Schedule;
use super::classify::{self, Verdict};
use super::config::{Config, GuestConfig};
use super::guests::{PortGuest, PortGuests};
use super::messages::{self, Heard};
use super::reason::{Counters, Reason};
use crate::vocabulary::{GuestId, MacAddress};
use crate::wire::ndisc::Message;
use crate::wire::numbers::ether_type;
use crate::wire::{ethernet, ipv6};

/// A guest that goes on to send while it is not attached is told again after this time, and announcements within it
/// count as one.
const SIGHTING_INTERVAL: Duration = Duration::from_secs(1);

/// How many link-local addresses of one guest are remembered.
const LEARNT_ADDRESSES: usize = 4;

/// What the network wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Write this Ethernet frame to the port.
    ToPort(Vec<u8>),
    /// A guest was seen or announced here.
    GuestSeen {
        /// The guest.
        guest: GuestId,
        /// What it was seen by.
        how: Sighting,
    },
}

/// What a guest was seen by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sighting {
    /// A frame while it was not attached.
    Frame,
    /// Reverse ARP: its hypervisor announces it after a migration. Also while attached.
    Rarp,
    /// An unsolicited neighbor advertisement: it announces itself. Also while attached.
    UnsolicitedAdvertisement,
}

#[derive(Debug)]
struct Guest {
    config: GuestConfig,
    attached: bool,
    schedule: Schedule,
    last_sighting: Option<Instant>,
    /// Link-local addresses it was heard to use, the newest last.
    link_locals: VecDeque<Ipv6Addr>,
}

impl Guest {
    fn new(config: GuestConfig) -> Self {
        Self { config, attached: false, schedule: Schedule::Silent, last_sighting: None, link_locals: VecDeque::new() }
    }

    /// Whether this guest, being here, answers for `address` itself.
    fn owns(&self, address: Ipv6Addr) -> bool {
        let formed = messages::link_local(self.config.mac);
        self.attached
            && (address == self.config.home_address || address == formed || self.link_locals.contains(&address))
    }
}

/// What a guest sees instead of its home link: one per port.
#[derive(Debug)]
pub struct PseudoHomeNetwork {
    config: Config,
    guests: Vec<Guest>,
    view: Arc<PortGuests>,
    counters: Arc<Counters>,
    outputs: VecDeque<Output>,
    /// The port is on the home link.
    listens_only: bool,
}

impl PseudoHomeNetwork {
    /// A network on which no guest is attached.
    pub fn new(config: Config) -> Self {
        let guests = config.guests.iter().cloned().map(Guest::new).collect();
        let view = Arc::new(PortGuests::new(config.router_link_local, []));
        let (counters, outputs) = (Arc::default(), VecDeque::new());
        let mut network = Self { config, guests, view, counters, outputs, listens_only: false };
        network.refresh_view();
        network
    }

    /// The view for [`super::classify()`]. A new one after each [`Self::attached`] and [`Self::detached`].
    pub fn guests(&self) -> Arc<PortGuests> {
        Arc::clone(&self.view)
    }

    /// The counters of this port; the packet path counts [`Verdict::Drop`] here too.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// The port is on the home link itself: who is there answers for themselves. Guests are seen, and nothing is said. Or not any more.
    pub fn listen_only(&mut self, listens_only: bool) {
        self.listens_only = listens_only;
        if listens_only {
            let guests: Vec<_> = self.guests.iter().map(|guest| guest.config.guest).collect();
            guests.into_iter().for_each(|guest| self.detached(guest));
        }
    }

    /// One more guest on the port, not attached.
    pub fn add_guest(&mut self, guest: GuestConfig) {
        self.remove_guest(guest.guest);
        self.config.guests.push(guest.clone());
        self.guests.push(Guest::new(guest));
        self.refresh_view();
    }

    /// A guest that is not of this port any more.
    pub fn remove_guest(&mut self, guest: GuestId) {
        self.config.guests.retain(|other| other.guest != guest);
        self.guests.retain(|other| other.config.guest != guest);
        self.refresh_view();
    }

    /// This host carries the guest from now on: its data passes, it is advertised to at once, and what it remembers
    /// of the routers of its home link is corrected. Called again for a guest that is attached, it tells it all of
    /// this again.
    pub fn attached(&mut self, guest: GuestId, now: Instant) {
        for guest in self.guests.iter_mut().filter(|other| other.config.guest == guest) {
            guest.attached = true;
            guest.schedule = Schedule::start(now);
        }
        self.refresh_view();
        let (agent, router) = (self.config.home_agent, self.config.router_link_local);
        if let Some(mac) = self.guests.iter().find(|other| other.config.guest == guest).map(|g| g.config.mac) {
            // The guest may hold the real MAC addresses of its home link, which the bridge here has never heard.
            // Unsolicited, they change entries that exist and make none (RFC 4861 §7.2.5).
            for target in [agent, router] {
                let packet = messages::neighbor_advertisement(&self.config, target, ipv6::ALL_NODES, false);
                self.send(mac, &packet, |counters| &counters.neighbor_advertisements);
            }
        }
        self.handle_timeout(now);
    }

    /// The guest has left, or this host carries it no more: its data is dropped, and its next frame is a sighting
    /// again.
    pub fn detached(&mut self, guest: GuestId) {
        for guest in self.guests.iter_mut().filter(|other| other.config.guest == guest) {
            *guest = Guest::new(guest.config.clone());
        }
        self.refresh_view();
    }

    /// Tells the guests another MTU, at once when it is another one. In octets; taken as 1280 when lower.
    pub fn set_mtu(&mut self, mtu: u32, now: Instant) {
        if self.config.mtu == mtu {
            return;
        }
        self.config.mtu = mtu;
        for guest in self.guests.iter_mut().filter(|guest| guest.attached) {
            guest.schedule = Schedule::start(now);
        }
        self.handle_timeout(now);
    }

    /// Takes a frame that [`super::classify()`] gave to the network (or any other: it is classified again).
    pub fn handle_frame(&mut self, frame: &[u8], now: Instant) {
        if let Err(reason) = self.take_frame(frame, now) {
            self.counters.count(reason);
        }
    }

    /// Sends what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let interval = self.config.advertisement_interval;
        let due: Vec<_> = self.guests.iter_mut().map(|guest| guest.schedule.take(now, interval)).collect();
        for (position, _) in due.iter().enumerate().filter(|(_, due)| **due) {
            self.advertise(position, ipv6::ALL_NODES);
        }
    }

    /// When [`Self::handle_timeout`] is due next, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let next = self.guests.iter().filter_map(|guest| guest.schedule.next()).min()?;
        Some((next, "router advertisement"))
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn refresh_view(&mut self) {
        let guests = self.guests.iter().map(|guest| PortGuest {
            guest: guest.config.guest,
            mac: guest.config.mac,
            home_address: guest.config.home_address,
            attached: guest.attached,
        });
        self.view = Arc::new(PortGuests::new(self.config.router_link_local, guests));
    }

    fn take_frame(&mut self, frame: &[u8], now: Instant) -> Result<(), Reason> {
        let frame = ethernet::Frame::parse(frame).map_err(|_| Reason::Malformed)?;
        let view = self.guests();
        let owners = view.by_mac(frame.source);
        if frame.ether_type == ether_type::RARP && !owners.is_empty() {
            self.sighted(frame.source, Sighting::Rarp, now);
            return Err(Reason::Rarp);
        }
        let verdict = classify::examine(&frame, owners, &view);
        let heard = match verdict {
            Ok(Verdict::ToNetwork) => Some(messages::hear(frame.payload)),
            _ => None,
        };
        // An announcement is told as what it is, not as some frame.
        match &heard {
            Some(Ok((header, Heard::Discovery(Message::NeighborAdvertisement(advertisement)))))
                if !advertisement.solicited && header.source == advertisement.target =>
            {
                self.sighted(frame.source, Sighting::UnsolicitedAdvertisement, now);
            }
            _ => self.sighted(frame.source, Sighting::Frame, now),
        }
        match (verdict?, heard) {
            (Verdict::ToNetwork, Some(heard)) if !self.listens_only => {
                let (header, heard) = heard?;
                self.take_message(frame.source, &header, heard)
            }
            (Verdict::Drop(reason), _) => Err(reason),
            _ => Err(Reason::NotAttached),
        }
    }

    fn take_message(&mut self, mac: MacAddress, header: &ipv6::Header, heard: Heard<'_>) -> Result<(), Reason> {
        match heard {
            Heard::Discovery(message) => {
                self.learn(mac, header.source);
                self.take_discovery(mac, header.source, message)
            }
            Heard::EchoRequest(request) if header.destination == self.config.router_link_local => {
                if header.source.is_unspecified() {
                    return Err(Reason::Malformed);
                }
                if let Some(packet) = messages::echo_reply(header.destination, header.source, &request) {
                    self.send(mac, &packet, |counters| &counters.echo_replies);
                }
                Ok(())
            }
            Heard::EchoRequest(_) => Err(Reason::LinkLocal),
            Heard::ListenerReport => Err(Reason::MulticastListenerReport),
            Heard::Other => Err(Reason::Multicast),
        }
    }

    fn take_discovery(&mut self, mac: MacAddress, source: Ipv6Addr, message: Message) -> Result<(), Reason> {
        match message {
            Message::RouterSolicitation { .. } => {
                let to = if source.is_unspecified() { ipv6::ALL_NODES } else { source };
                let asked: Vec<_> = self.positions(mac).collect();
                for position in asked {
                    self.advertise(position, to);
                }
                Ok(())
            }
            Message::NeighborSolicitation(solicitation) if source.is_unspecified() => {
                self.learn(mac, solicitation.target);
                Err(Reason::DuplicateAddressDetection)
            }
            Message::NeighborSolicitation(solicitation) => self.answer_solicitation(mac, source, solicitation.target),
            Message::NeighborAdvertisement(advertisement) => {
                self.learn(mac, advertisement.target);
                Err(Reason::NeighborAdvertisement)
            }
            Message::RouterAdvertisement(_) | Message::Redirect(_) => Err(Reason::GuestAsRouter),
        }
    }

    /// Answers for everyone who is not on this port, whatever the destination MAC address of the frame: a guest
    /// probes the MAC address it remembers from home.
    fn answer_solicitation(&mut self, mac: MacAddress, source: Ipv6Addr, target: Ipv6Addr) -> Result<(), Reason> {
        let own = self.positions(mac).filter_map(|position| self.guests.get(position));
        if own.map(|guest| &guest.config).any(|own| own.home_address == target)
            || self.guests.iter().any(|guest| guest.owns(target))
        {
            return Err(Reason::OnPortTarget);
        }
        let packet = messages::neighbor_advertisement(&self.config, target, source, true);
        self.send(mac, &packet, |counters| &counters.neighbor_advertisements);
        Ok(())
    }

    fn positions(&self, mac: MacAddress) -> impl Iterator<Item = usize> {
        self.guests.iter().enumerate().filter(move |(_, guest)| guest.config.mac == mac).map(|(position, _)| position)
    }

    fn advertise(&mut self, position: usize, destination: Ipv6Addr) {
        let Some(guest) = self.guests.get(position) else { return };
        let packet = messages::router_advertisement(&self.config, &guest.config, destination);
        let mac = guest.config.mac;
        self.send(mac, &packet, |counters| &counters.router_advertisements);
    }

    /// To this guest's MAC address even where the packet is for all nodes, so that each guest hears its own
    /// advertisement (RFC 6085 §2).
    fn send(&mut self, mac: MacAddress, packet: &[u8], counter: impl Fn(&Counters) -> &AtomicU64) {
        let source = self.config.router_mac;
        let frame = ethernet::Frame { destination: mac, source, ether_type: ether_type::IPV6, payload: packet };
        self.outputs.push_back(Output::ToPort(frame.emit()));
        counter(&self.counters).fetch_add(1, Relaxed);
    }

    fn sighted(&mut self, mac: MacAddress, how: Sighting, now: Instant) {
        for guest in self.guests.iter_mut().filter(|guest| guest.config.mac == mac) {
            let recent =
                guest.last_sighting.is_some_and(|last| now.saturating_duration_since(last) < SIGHTING_INTERVAL);
            if recent || (guest.attached && how == Sighting::Frame) {
                continue;
            }
            guest.last_sighting = Some(now);
            self.outputs.push_back(Output::GuestSeen { guest: guest.config.guest, how });
        }
    }

    /// Remembers a link-local address as a guest's own, so that nobody answers for it when another guest asks.
    fn learn(&mut self, mac: MacAddress, address: Ipv6Addr) {
        if !address.is_unicast_link_local() || address == self.config.router_link_local {
            return;
        }
        for guest in self.guests.iter_mut().filter(|guest| guest.config.mac == mac) {
            if !guest.link_locals.contains(&address) {
                if guest.link_locals.len() == LEARNT_ADDRESSES {
                    guest.link_locals.pop_front();
                }
                guest.link_locals.push_back(address);
            }
        }
    }
}
