//! What a bridge has learnt: its ports, which of them leads to a MAC address, and who its neighbours are.

use std::net::Ipv6Addr;
use std::time::Duration;

use futures::TryStreamExt;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::LinkAttribute;
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};
use rtnetlink::Handle;

use super::query::read_neighbour;
use crate::vocabulary::MacAddress;

const TIME_LIMIT: Duration = Duration::from_secs(2);

/// The interfaces on `bridge`, by index; none when the kernel does not tell.
pub async fn ports(handle: &Handle, bridge: u32) -> Vec<u32> {
    let links = handle.link().get().execute().try_collect::<Vec<_>>();
    let links = tokio::time::timeout(TIME_LIMIT, links).await.ok().and_then(Result::ok).unwrap_or_default();
    let on_it = |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::Controller(index) if *index == bridge);
    links.iter().filter(|link| link.attributes.iter().any(on_it)).map(|link| link.header.index).collect()
}

/// The interface behind which `bridge` has learnt this MAC address.
pub async fn port_of(handle: &Handle, bridge: u32, mac: MacAddress) -> Option<u32> {
    let entries = neighbours(handle, AddressFamily::Bridge).await;
    let learnt = entries.iter().find(|entry| {
        let has = |wanted: &dyn Fn(&NeighbourAttribute) -> bool| entry.attributes.iter().any(wanted);
        has(&|attribute| matches!(attribute, NeighbourAttribute::LinkLayerAddress(octets) if octets[..] == mac.0))
            && has(&|attribute| matches!(attribute, NeighbourAttribute::Controller(index) if *index == bridge))
    });
    learnt.map(|entry| entry.header.ifindex)
}

/// The MAC address that this host itself knows for a neighbour on `interface`.
pub async fn neighbour(handle: &Handle, interface: u32, address: Ipv6Addr) -> Option<MacAddress> {
    let wanted = NeighbourAttribute::Destination(NeighbourAddress::Inet6(address));
    let entries = neighbours(handle, AddressFamily::Inet6).await;
    let found = entries.iter().find(|entry| entry.header.ifindex == interface && entry.attributes.contains(&wanted));
    found.and_then(read_neighbour)
}

async fn neighbours(handle: &Handle, family: AddressFamily) -> Vec<NeighbourMessage> {
    let entries = handle.neighbours().get().set_address_family(family).execute().try_collect();
    tokio::time::timeout(TIME_LIMIT, entries).await.ok().and_then(Result::ok).unwrap_or_default()
}
