//! By which interface the kernel sends, asked without an event loop.

use std::io;
use std::net::Ipv6Addr;
use std::time::Duration;

use netlink_packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::route::{RouteAttribute, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use socket2::SockRef;

/// The kernel answers at once; longer than this means that it will not.
const TIME_LIMIT: Duration = Duration::from_secs(1);

/// Index of the interface by which packets from `source` to `destination` leave.
///
/// # Errors
/// No route, or no answer.
pub fn outgoing_interface(source: Ipv6Addr, destination: Ipv6Addr) -> io::Result<u32> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    SockRef::from(&socket).set_read_timeout(Some(TIME_LIMIT))?;
    let mut question = RouteMessage::default();
    question.header.address_family = AddressFamily::Inet6;
    question.header.destination_prefix_length = 128;
    question.header.source_prefix_length = 128;
    question.attributes.push(RouteAttribute::Destination(destination.into()));
    question.attributes.push(RouteAttribute::Source(source.into()));
    let mut message = NetlinkMessage::from(RouteNetlinkMessage::GetRoute(question));
    message.header.flags = NLM_F_REQUEST;
    message.finalize();
    let mut octets = vec![0; message.buffer_len()];
    message.serialize(&mut octets);
    socket.send_to(&octets, &SocketAddr::new(0, 0), 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).map_err(io::Error::other)?;
    match answer.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) => {
            let output = route.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Oif(index) => Some(*index),
                _ => None,
            });
            output.ok_or_else(|| io::Error::from(io::ErrorKind::NetworkUnreachable))
        }
        NetlinkPayload::Error(error) => Err(error.to_io()),
        _ => Err(io::Error::from(io::ErrorKind::InvalidData)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_address_is_behind_the_first_interface() {
        match outgoing_interface(Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST) {
            Ok(index) => assert_eq!(index, 1),
            // A machine without IPv6.
            Err(error) => assert!(error.raw_os_error().is_some(), "{error}"),
        }
    }
}
