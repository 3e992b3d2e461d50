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
use crate::daemon::netlink::query::Query;
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
/// How long the kernel may take for the trial.
const TRIAL_TIME: Duration = Duration::from_millis(200);

/// The keeper's side: routes and rules.
#[derive(Debug)]
pub struct SuperPackets {
    device: Arc<Device>,
    /// The routes there are, with the interface of each.
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

    /// Makes the kernel encapsulate for a tunnel that leaves by `interface`; whether it does, with the right source address.
    pub fn route(&mut self, query: &mut Query, wanted: &Wanted, interface: u32) -> bool {
        let preferred = match query.way(None, wanted.ends.destination) {
            Ok(Some(way)) if way.interface == interface => way.preferred_source,
            _ => None,
        };
        // The kernel chooses the outer source as for any packet of its own.
        let usable = preferred == Some(wanted.ends.source);
        let known = self.routes.get(wanted) == Some(&interface);
        if known && usable {
            return true;
        }
        if let Some(interface) = self.routes.remove(wanted) {
            forget(query, wanted, interface);
        }
        let message = route(to(wanted), wanted.ends.source, wanted.ends.destination, interface);
        if !usable || query.put(RouteNetlinkMessage::NewRoute(message)).is_err() {
            return false;
        }
        self.routes.insert(*wanted, interface);
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
