//! The super-packet tier: a TUN of our own whose routes encapsulate. What is written there, up to 64 KiB with its segment size, gets
//! the outer header from the kernel (`seg6 encap.red` with one segment, which is plain IPv6 in IPv6) and is cut behind it, by the
//! network card where it can.
//!
//! Rules send TCP and UDP that come in by the TUN to a table with nothing but the encapsulating routes; what has the outer header, of
//! protocol 41, falls through them to the host's own routes.

use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::Ipv6Addr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use netlink_packet_route::route::{
    RouteAttribute, RouteLwEnCapType, RouteLwTunnelEncap, RouteMessage, RouteProtocol, RouteScope, RouteSeg6IpTunnel,
    RouteType, Seg6Header, Seg6Mode,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::keeper::Wanted;
use crate::daemon::clock;
use crate::daemon::netlink::query::{Query, Source};
use crate::daemon::tap::{self, Device, VNET_HEADER_LENGTH};
use crate::tunnel::{Offload, vnet};
use crate::wire::numbers::protocol;
use crate::wire::{ipv6, tunnel};

/// Name of the TUN.
pub const LINK: &str = "kage-super";
/// Preference of the rules: before every rule of signaling, which are from 0x4b00 on.
const RULE: u32 = 0x4af0;
/// The table of the encapsulating routes.
const TABLE: u32 = 0x4b50;
/// Protocol number of the routes and rules: not that of signaling's (0x4b), which removes what it does not know.
const PROTOCOL: u8 = 0x4c;
/// `SEG6_IPTUN_MODE_ENCAP_RED` of `linux/seg6_iptunnel.h`.
const ENCAP_RED: u32 = 3;
/// For trying: an inner destination and the other end of a tunnel in the discard-only prefix (RFC 6666 §2).
const TRIAL: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 1);
const TRIAL_END: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 2);
/// A route by the loopback interface is one that refuses (`LOOPBACK_IFINDEX` of `net/flow.h`).
const LOOPBACK: u32 = 1;
/// How long the kernel may take for the trial.
const TRIAL_TIME: Duration = Duration::from_millis(200);

/// The keeper's side: routes and rules.
#[derive(Debug)]
pub struct SuperPackets {
    device: Arc<Device>,
    /// The routes there are, with the interface that each names.
    routes: BTreeMap<Wanted, u32>,
}

impl SuperPackets {
    /// Makes the TUN with its rules, and tries a route.
    ///
    /// # Errors
    /// Why this kernel, or this configuration of it, cannot.
    pub fn open() -> io::Result<Self> {
        let device = Arc::new(Device::tun(LINK)?);
        tap::no_link_local(LINK)?;
        tap::let_forward(LINK)?;
        let mut query = Query::open()?;
        let index = nix::net::if_::if_nametoindex(LINK).map_err(io::Error::from)?;
        // As long as packets can be; the routes' own interface says what fits.
        query.bring_up(LINK, 65_535)?;
        remove_leftovers(&mut query);
        for number in [protocol::TCP, protocol::UDP] {
            query.put(RouteNetlinkMessage::NewRule(rule(number)))?;
        }
        let tried = try_out(&mut query, &device, index);
        remove_trial(&mut query, index);
        tried?;
        Ok(Self { device, routes: BTreeMap::new() })
    }

    /// Where super-packets are written.
    pub fn entrance(&self) -> Entrance {
        Entrance(Arc::clone(&self.device))
    }

    /// Makes the kernel encapsulate for a tunnel that leaves by `uplink`; whether it does, with the right source address. `speaker` is what
    /// [`speaker`] says of that address.
    pub fn route(&mut self, query: &mut Query, wanted: &Wanted, uplink: u32, speaker: Option<u32>) -> bool {
        let preferred = match query.way(None, wanted.ends.destination) {
            Ok(Some(way)) if way.interface == uplink => way.preferred_source,
            _ => None,
        };
        let named = named_interface(uplink, preferred, wanted.ends.source, speaker);
        if named.is_some() && self.routes.get(wanted) == named.as_ref() {
            return true;
        }
        if let Some(interface) = self.routes.remove(wanted) {
            forget(query, wanted, interface);
        }
        let Some(named) = named else { return false };
        let message = route(to(wanted), wanted.ends.source, wanted.ends.destination, named);
        if query.put(RouteNetlinkMessage::NewRoute(message)).is_err() {
            return false;
        }
        self.routes.insert(*wanted, named);
        true
    }

    /// Removes the routes of tunnels that are not among these, which are in order.
    pub fn forget_all_but(&mut self, query: &mut Query, wanted: &[Wanted]) {
        self.routes.retain(|known, interface| {
            let stays = wanted.binary_search(known).is_ok();
            if !stays {
                forget(query, known, *interface);
            }
            stays
        });
    }
}

/// The interface that an encapsulating route has to name so that the outer source is `source`; none: it would be another.
///
/// The kernel chooses that source as if the packet left by this interface (`set_tun_src` of `net/ipv6/seg6_iptunnel.c`), and afterwards routes what has
/// the outer header by the host's own routes, whatever interface was named. So it need not be the uplink: that of a home agent has its own addresses, as a
/// rule, and the home agent's is on the home link.
fn named_interface(uplink: u32, preferred: Option<Ipv6Addr>, source: Ipv6Addr, speaker: Option<u32>) -> Option<u32> {
    match preferred {
        None => None,
        Some(preferred) if preferred == source => Some(uplink),
        Some(_) => speaker,
    }
}

/// The interface whose packets have this source address whatever the destination, among all global addresses of this host: the only one there that can be
/// chosen. RFC 6724 §5 then decides by its rules 3 to 5, unless some interface has a home address in use.
pub fn speaker(address: Ipv6Addr, all: &[Source]) -> Option<u32> {
    let mut owners = all.iter().filter(|source| source.address == address);
    let own = owners.next().filter(|own| !own.deprecated && !own.tentative && own.interface != LOOPBACK)?;
    let is_rival = |other: &Source| {
        !other.deprecated && other.address != address && (other.interface == own.interface || other.home)
    };
    (owners.next().is_none() && !all.iter().any(is_rival)).then_some(own.interface)
}

fn forget(query: &mut Query, wanted: &Wanted, interface: u32) {
    let message = route(to(wanted), wanted.ends.source, wanted.ends.destination, interface);
    // One that is gone with its interface is gone.
    let _ = query.remove(RouteNetlinkMessage::DelRoute(message));
}

/// Takes routes and rules out again; the TUN goes with its descriptor.
pub fn close() {
    if let Ok(mut query) = Query::open() {
        remove_leftovers(&mut query);
    }
}

/// The threads' side.
#[derive(Debug, Clone)]
pub struct Entrance(Arc<Device>);

impl Entrance {
    /// Hands a whole packet to the kernel.
    ///
    /// # Errors
    /// The error of `writev(2)`.
    pub fn write(&self, packet: &[u8], offload: &Offload) -> io::Result<()> {
        let header = vnet::header(Some(offload), 0);
        self.0.write_parts(&[IoSlice::new(&header), IoSlice::new(packet)])
    }
}

/// What goes into a tunnel: packets to one home address, or everything.
fn to(wanted: &Wanted) -> (Ipv6Addr, u8) {
    wanted.home_address.map_or((Ipv6Addr::UNSPECIFIED, 0), |home_address| (home_address, 128))
}

fn route((to, length): (Ipv6Addr, u8), source: Ipv6Addr, segment: Ipv6Addr, interface: u32) -> RouteMessage {
    let mut header = Seg6Header::default();
    header.mode = Seg6Mode::Other(ENCAP_RED);
    header.segments = vec![segment];
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet6;
    message.header.protocol = RouteProtocol::from(PROTOCOL);
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message.header.destination_prefix_length = length;
    message.attributes = vec![
        RouteAttribute::Table(TABLE),
        RouteAttribute::Oif(interface),
        RouteAttribute::EncapType(RouteLwEnCapType::Seg6),
        RouteAttribute::Encap(vec![
            RouteLwTunnelEncap::Seg6(RouteSeg6IpTunnel::Seg6(header)),
            // Kernels that do not know this choose by themselves, which was looked at.
            RouteLwTunnelEncap::Seg6(RouteSeg6IpTunnel::Src(source)),
        ]),
    ];
    if length > 0 {
        message.attributes.push(RouteAttribute::Destination(to.into()));
    }
    message
}

/// Sends a packet through, out of the same TUN again: the kernel may know the routes, and a firewall may still drop what is forwarded.
fn try_out(query: &mut Query, device: &Device, index: u32) -> io::Result<()> {
    query.put(RouteNetlinkMessage::NewRoute(route((TRIAL, 128), TRIAL, TRIAL_END, index)))?;
    query.put(RouteNetlinkMessage::NewRoute(plain(TRIAL_END, index)))?;
    query.put(RouteNetlinkMessage::NewRule(rule(protocol::IPV6)))?;
    let inner = ipv6::Header::new(TRIAL_END, TRIAL, protocol::UDP).emit(&[0, 9, 0, 9, 0, 8, 0, 1]);
    device.write_parts(&[IoSlice::new(&vnet::header(None, 0)), IoSlice::new(&inner)])?;
    let mut octets = [0; 256];
    let until = clock::now() + TRIAL_TIME;
    while let Ok(left @ 1..) = u16::try_from(until.saturating_duration_since(clock::now()).as_millis()) {
        let mut source = [PollFd::new(device.as_fd(), PollFlags::POLLIN)];
        if poll(&mut source, PollTimeout::from(left)).is_ok_and(|ready| ready > 0) {
            let length = device.read_parts(&mut [IoSliceMut::new(&mut octets)])?;
            let packet = octets.get(VNET_HEADER_LENGTH..length).unwrap_or_default();
            if let Ok(Some(found)) = tunnel::parse(packet)
                && found.outer.destination == TRIAL_END
                && packet.get(found.inner) == Some(inner.as_slice())
            {
                return Ok(());
            }
        }
    }
    let reason = "the kernel has not forwarded a packet that it was to encapsulate (a firewall may have dropped it)";
    Err(io::Error::new(io::ErrorKind::Unsupported, reason))
}

fn remove_trial(query: &mut Query, index: u32) {
    // What was not made cannot be removed.
    let _ = query.remove(RouteNetlinkMessage::DelRule(rule(protocol::IPV6)));
    let _ = query.remove(RouteNetlinkMessage::DelRoute(plain(TRIAL_END, index)));
    let _ = query.remove(RouteNetlinkMessage::DelRoute(route((TRIAL, 128), TRIAL, TRIAL_END, index)));
}

/// A route that encapsulates nothing.
fn plain(to: Ipv6Addr, interface: u32) -> RouteMessage {
    let mut message = route((to, 128), to, to, interface);
    message
        .attributes
        .retain(|attribute| !matches!(attribute, RouteAttribute::EncapType(_) | RouteAttribute::Encap(_)));
    message
}

fn rule(number: u8) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = AddressFamily::Inet6;
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Priority(RULE),
        RuleAttribute::Table(TABLE),
        RuleAttribute::Iifname(LINK.to_owned()),
        RuleAttribute::IpProtocol(i32::from(number).into()),
        RuleAttribute::Protocol(RouteProtocol::from(PROTOCOL)),
    ];
    message
}

/// Rules and routes of an earlier run that was killed.
fn remove_leftovers(query: &mut Query) {
    for number in [protocol::TCP, protocol::UDP, protocol::IPV6] {
        while query.remove(RouteNetlinkMessage::DelRule(rule(number))).is_ok() {}
    }
    for (to, length) in query.routes_of_table(TABLE).unwrap_or_default() {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet6;
        message.header.destination_prefix_length = length;
        message.attributes = vec![RouteAttribute::Table(TABLE)];
        if length > 0 {
            message.attributes.push(RouteAttribute::Destination(to.into()));
        }
        let _ = query.remove(RouteNetlinkMessage::DelRoute(message));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME_LINK: u32 = 2;
    const UPLINK: u32 = 3;

    fn source(interface: u32, address: &str) -> Source {
        Source { interface, address: address.parse().unwrap(), deprecated: false, tentative: false, home: false }
    }

    #[test]
    fn a_home_agents_address_is_that_of_the_home_link_and_not_of_its_uplink() {
        let (agent, other) = (source(HOME_LINK, "2001:db8:2000::1"), source(UPLINK, "2001:db8:1000::1"));
        let found = speaker(agent.address, &[agent, other]);
        assert_eq!(found, Some(HOME_LINK));
        let named = |preferred| named_interface(UPLINK, preferred, agent.address, found);
        assert_eq!(named(Some(other.address)), Some(HOME_LINK), "a packet of its own would have the uplink's address");
        assert_eq!(named(Some(agent.address)), Some(UPLINK));
        assert_eq!(named(None), None, "there is no way by the uplink");
    }

    #[test]
    fn an_address_that_may_not_be_chosen_is_not_relied_on() {
        let (agent, other) = (source(HOME_LINK, "2001:db8:2000::1"), source(UPLINK, "2001:db8:1000::1"));
        let rival = source(HOME_LINK, "2001:db8:2000::a");
        assert_eq!(speaker(agent.address, &[agent, other, rival]), None, "longest matching prefix decides");
        assert_eq!(speaker(agent.address, &[agent, Source { deprecated: true, ..rival }]), Some(HOME_LINK));
        for unusable in [Source { deprecated: true, ..agent }, Source { tentative: true, ..agent }] {
            assert_eq!(speaker(agent.address, &[unusable, other]), None);
        }
        assert_eq!(speaker(agent.address, &[agent, Source { home: true, ..other }]), None, "home addresses come first");
        let old_home = Source { home: true, deprecated: true, ..other };
        assert_eq!(speaker(agent.address, &[agent, old_home]), Some(HOME_LINK));
        assert_eq!(speaker(agent.address, &[agent, Source { interface: UPLINK, ..agent }]), None, "on two interfaces");
        assert_eq!(speaker(agent.address, &[other]), None);
        assert_eq!(speaker(agent.address, &[Source { interface: LOOPBACK, ..agent }, other]), None);
    }
}
