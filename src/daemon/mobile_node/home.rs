//! This host is on the home link: guests on the bridge by which it is there are at home. A guest that arrives is de-registered with a binding
//! update from its home address, and its neighbours are told where it is (RFC 6275 §11.5.5); when it leaves, that they find it at the home agent.
//!
//! The binding acknowledgement is sent to the home address, which the guest has and defends: it passes by this host, from one port of the bridge to
//! another. So while one is waited for, the bridge shows this host all that passes, and the acknowledgement is given to the kernel a second time,
//! by our TAP, in a frame to the bridge itself. There it goes the way of any acknowledgement: the delivery rule, ESP, the mobility socket.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use futures::FutureExt;

use super::{Runner, write_frame};
use crate::daemon::netlink::bridge;
use crate::daemon::netlink::route::Uplink;
use crate::daemon::pace::{self, Drained};
use crate::daemon::packet_socket::{Filter, PacketSocket};
use crate::daemon::{ports, sys};
use crate::home_network::Announcement;
use crate::policy::Port;
use crate::signaling::Attachment;
use crate::signaling::attachment::Action;
use crate::signaling::mobile_node::Outcome;
use crate::vocabulary::{GuestId, MacAddress};
use crate::wire::numbers::{ether_type, protocol};
use crate::wire::{ethernet, ipv6};

/// Until the home agent's own duplicate address detection, which takes whatever is advertised of the home address for a conflict, must be over.
const SILENCE: Duration = Duration::from_secs(2);

/// The home link, as this host is on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AtHome {
    /// The bridge.
    pub(super) uplink: Uplink,
    mac: MacAddress,
    /// Number of our port on it.
    port: usize,
}

impl Runner {
    /// Whether the guest's port is on the home link.
    pub(super) fn is_at_home(&self, guest: GuestId) -> bool {
        let port = self.at_home.as_ref().and_then(|home| self.ports.get(home.port));
        port.is_some_and(|port| port.guests.contains(&guest))
    }

    /// What follows from where the way to the home agent leads when that is the home link. Whether anything has changed.
    pub(super) async fn look_at_home_link(&mut self, uplink: Option<Uplink>, now: Instant) -> bool {
        let found = match uplink {
            Some(uplink) => self.recognise(uplink).await,
            None => None,
        };
        let bridge = |home: &AtHome| (home.uplink.index, home.port);
        if found.as_ref().map(bridge) == self.at_home.as_ref().map(bridge) {
            // A bridge takes on the MAC address of a port that comes, and its MTU.
            self.at_home = found;
            return false;
        }
        let left: Vec<_> = self.roster.ids().iter().copied().filter(|guest| self.is_at_home(*guest)).collect();
        self.at_home = found;
        for (number, network) in self.networks.iter_mut().enumerate() {
            network.listen_only(self.at_home.as_ref().is_some_and(|home| home.port == number));
        }
        if let Some(home) = &self.at_home {
            let text = format!("on the home link by the bridge {}: guests on it are at home", home.uplink.name);
            tracing::info!("{text}");
            self.herald.tell(None, "at-home", &text, None);
        }
        for guest in self.roster.ids().to_vec() {
            let Some(attachment) = self.attachments.get_mut(&guest) else { continue };
            let speaks = attachment.state().speaks();
            if self.is_at_home(guest) && speaks {
                // The host has come home with its guest.
                self.act(guest, Some(Action::Attach), now);
            } else if left.contains(&guest) && !self.is_at_home(guest) {
                self.home_link.hush(guest);
                let begins = self.attachments.get_mut(&guest).and_then(Attachment::left_home_link);
                self.act(guest, if speaks { Some(Action::Attach) } else { begins }, now);
            }
        }
        true
    }

    /// Guests are at home on the bridge that this host itself is on the home link by: of another one nothing says where it leads.
    async fn recognise(&self, uplink: Uplink) -> Option<AtHome> {
        let port = self.ports.iter().position(|open| open.port == Port::Bridge(uplink.name.clone()))?;
        match ports::ethernet_link(self.kernel.route().handle(), &uplink.name).await {
            Ok(link) => Some(AtHome { uplink, mac: link.mac, port }),
            Err(error) => {
                tracing::warn!("{error}: guests at home are not de-registered; trying again");
                None
            }
        }
    }

    /// While a guest is de-registered from home its acknowledgement is listened for.
    pub(super) fn listen_at_home(&mut self, guest: GuestId, care_of: Option<Ipv6Addr>) {
        let home_address = self.roster.get(guest).map(|guest| guest.home_address);
        match home_address.filter(|address| Some(*address) == care_of) {
            Some(_) => self.returning.insert(guest),
            None => self.returning.remove(&guest),
        };
        let Some(home) = self.at_home.as_ref().filter(|_| !self.returning.is_empty()) else {
            self.ear = None;
            return;
        };
        if self.ear.is_some() {
            return;
        }
        let opened = PacketSocket::open(home.uplink.index, Filter::MobilityFrames).and_then(|socket| {
            sys::show_everything(socket.as_fd(), home.uplink.index)?;
            Ok((sys::watch(socket.as_fd())?, socket))
        });
        match opened {
            Ok((watch, socket)) => self.ear = Some((socket, watch)),
            Err(error) => tracing::warn!(
                interface = home.uplink.name,
                "acknowledgements to guests at home cannot be heard: {error}; trying again with the next guest"
            ),
        }
    }

    /// Gives what was heard to the kernel.
    pub(super) fn hear_home_link(&mut self, buffer: &mut [u8]) {
        let (Some((socket, watch)), Some(home)) = (&self.ear, &self.at_home) else { return };
        let address = |guest: &GuestId| Some(self.roster.get(*guest)?.home_address);
        let waiting: BTreeSet<_> = self.returning.iter().filter_map(address).collect();
        let drained = pace::drain(|| {
            let length = socket.receive(buffer)?;
            let frame = buffer.get(..length).unwrap_or_default();
            let to_bridge = (ports::tap_address(home.port), home.mac);
            if let Some(frame) = redirected(frame, self.roster.policy().home_agent.address, &waiting, to_bridge) {
                write_frame(&self.ports, home.port, &frame);
            }
            Ok(())
        });
        if drained == Drained::Empty
            && let Some(Ok(mut guard)) = watch.readable().now_or_never()
        {
            guard.clear_ready();
        }
    }

    /// De-registration has ended. Whether that was from home, and leaves the guest there.
    pub(super) fn came_home(&mut self, guest: GuestId, outcome: Outcome, now: Instant) -> bool {
        let done = matches!(outcome, Outcome::Acknowledged | Outcome::NoBinding);
        if !done || !self.is_at_home(guest) || self.leaving.is_some() || self.removing.contains(&guest) {
            return false;
        }
        let Some(attachment) = self.attachments.get_mut(&guest) else { return false };
        attachment.came_home(now);
        if let Some(policy) = self.roster.get(guest)
            && let Some(attachment) = &policy.attachment
        {
            let home_address = policy.home_address;
            let announcement = Announcement { home_address, mac: attachment.mac, source: home_address };
            self.home_link.announce(guest, announcement, now);
        }
        self.tell_state(guest);
        true
    }

    /// The guest leaves its home link.
    pub(super) async fn see_off(&mut self, guest: GuestId, now: Instant) {
        let (Some(home), Some(policy)) = (&self.at_home, self.roster.get(guest)) else { return };
        let home_agent = self.roster.policy().home_agent.address;
        match bridge::neighbour(self.kernel.route().handle(), home.uplink.index, home_agent).await {
            Some(mac) => {
                let announcement = Announcement { home_address: policy.home_address, mac, source: home.uplink.source };
                self.home_link.announce(guest, announcement, now + SILENCE);
            }
            // Then it is left to the home agent, which announces itself.
            None => tracing::debug!(guest = self.name(guest), "the MAC address of the home agent is not known"),
        }
    }

    /// Says on the home link where a guest is: to this host, and by every port of the bridge but the guest's own, for it would take it for a
    /// conflict about its address.
    pub(super) async fn say_at_home(&self, guest: GuestId, announcement: Announcement) {
        let Some(home) = &self.at_home else { return };
        let Some(mac) = self.roster.get(guest).and_then(|guest| guest.attachment.as_ref()).map(|guest| guest.mac)
        else {
            return;
        };
        let own = ports::tap_address(home.port);
        write_frame(&self.ports, home.port, &announcement.frame(own, Some(home.mac)));
        let handle = self.kernel.route().handle();
        let guests_port = bridge::port_of(handle, home.uplink.index, mac).await;
        let frame = announcement.frame(home.mac, None);
        for port in bridge::ports(handle, home.uplink.index).await {
            // Our TAP among them: what goes out there comes to us, and is of no guest.
            if Some(port) == guests_port {
                continue;
            }
            let sent = PacketSocket::open(port, Filter::Nothing).and_then(|socket| socket.send(&frame));
            if let Err(error) = sent {
                tracing::debug!(%error, port, "not announced by a port of the home bridge");
            }
        }
        let (home_address, at) = (announcement.home_address, announcement.mac);
        tracing::debug!(guest = self.name(guest), "said on the home link: {home_address} is at {at}");
    }
}

/// A binding acknowledgement, protected or not, in a frame to one of the guests `waiting`, as a frame to the bridge.
fn redirected(
    frame: &[u8],
    home_agent: Ipv6Addr,
    waiting: &BTreeSet<Ipv6Addr>,
    (source, destination): (MacAddress, MacAddress),
) -> Option<Vec<u8>> {
    let frame = ethernet::Frame::parse(frame).ok()?;
    let (header, _) = ipv6::Header::parse(frame.payload).ok()?;
    let is_meant = frame.ether_type == ether_type::IPV6
        && matches!(header.next_header, protocol::ESP | protocol::MOBILITY)
        && header.source == home_agent
        && waiting.contains(&header.destination)
        // It has reached this host already.
        && frame.destination != destination;
    is_meant.then(|| ethernet::Frame { destination, source, ..frame }.emit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_home_agent_sends_to_a_guest_on_its_return_is_redirected_and_nothing_else() {
        let address = |text: &str| text.parse::<Ipv6Addr>().unwrap();
        let (home_agent, guest) = (address("2001:db8:2000::1"), address("2001:db8:2000::10"));
        let [own, bridge, guests] = [1, 2, 3].map(|last| MacAddress([2, 0, 0, 0, 0, last]));
        let frame = |source, destination, next_header, to| {
            let packet = ipv6::Header::new(source, destination, next_header).emit(&[7; 16]);
            ethernet::Frame { destination: to, source: own, ether_type: ether_type::IPV6, payload: &packet }.emit()
        };
        let redirect = |frame: &[u8]| redirected(frame, home_agent, &[guest].into(), (own, bridge));
        for next_header in [protocol::ESP, protocol::MOBILITY] {
            let heard = frame(home_agent, guest, next_header, guests);
            assert_eq!(redirect(&heard), Some(frame(home_agent, guest, next_header, bridge)));
        }
        for other in [
            frame(home_agent, guest, protocol::ESP, bridge),
            frame(home_agent, guest, protocol::ICMPV6, guests),
            frame(guest, home_agent, protocol::ESP, guests),
            frame(home_agent, address("2001:db8:2000::11"), protocol::ESP, guests),
        ] {
            assert_eq!(redirect(&other), None);
        }
        let whole = frame(home_agent, guest, protocol::ESP, guests);
        (0..whole.len()).for_each(|length| assert_eq!(redirect(&whole[..length]), None));
    }
}
