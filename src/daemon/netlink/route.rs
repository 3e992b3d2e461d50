//! Links, addresses, routes and rules of the namespace in which the client was opened.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::time::Duration;

use futures::TryStreamExt;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::{LinkAttribute, LinkFlags};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteProtocol, RouteType};
use netlink_sys::AsyncSocket;
use rtnetlink::{Handle, IpVersion, LinkDummy, LinkIp6Tnl, LinkUnspec};

use super::route_codec::{self as codec, IndexedLink};
use super::{Refusal, extended_text};
use crate::kernel_state::{
    Address, HOME_ADDRESS_LINK, KernelState, LOCAL_TABLE, Link, LinkKind, ROUTE_PROTOCOL, Route, RouteKey, Rule,
};

const TIME_LIMIT: Duration = Duration::from_secs(5);
const NLMSG_HEADER_LENGTH: usize = 16;
/// `RTPROT_KERNEL`.
const KERNEL: u8 = 2;

/// Errors of the route client.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No socket.
    #[error("cannot open a route netlink socket: {0}")]
    Open(#[source] io::Error),
    /// The kernel refused the request.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// No answer in time.
    #[error("route netlink: no answer from the kernel within {} s", TIME_LIMIT.as_secs())]
    Late,
    /// The connection to the kernel broke, or its answer makes no sense.
    #[error("route netlink: {0}")]
    Other(String),
    /// A link that is needed is not there.
    #[error("there is no link named {0}")]
    NoLink(String),
    /// A setting without netlink.
    #[error("cannot write {value} to {}: {source}", path.display())]
    Setting {
        /// File under `/proc/sys`.
        path: PathBuf,
        /// What was to be written.
        value: &'static str,
        /// Why not.
        source: io::Error,
    },
}

impl From<rtnetlink::Error> for Error {
    fn from(error: rtnetlink::Error) -> Self {
        match error {
            rtnetlink::Error::NetlinkError(message) => {
                let text = message.header.get(NLMSG_HEADER_LENGTH..).and_then(extended_text);
                Refusal { errno: message.raw_code().saturating_abs(), text }.into()
            }
            other => Self::Other(other.to_string()),
        }
    }
}

/// The way to a home agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// Index of the link.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// The source address the kernel would choose: the care-of address.
    pub source: Ipv6Addr,
    /// MTU of the route if it has one, otherwise of the link, in octets.
    pub mtu: u32,
}

/// A client. Dropping it closes its connection.
#[derive(Debug)]
pub struct Client {
    handle: Handle,
    connection: tokio::task::JoinHandle<()>,
    /// See [`Self::port`].
    port: u32,
    /// Indices of links by name, as they were last observed: a route more is one request, not two.
    indices: RefCell<HashMap<String, u32>>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Client {
    /// Opens a connection in the current namespace, served by a task of the current tokio runtime.
    ///
    /// # Errors
    /// No socket.
    pub fn open() -> Result<Self, Error> {
        let (mut connection, handle, _) = rtnetlink::new_connection_with_strict_check().map_err(Error::Open)?;
        let socket = connection.socket_mut().socket_mut();
        socket.set_ext_ack(true).and_then(|()| socket.set_cap_ack(true)).map_err(Error::Open)?;
        // Unbound it has port 0, which is the kernel's own in notifications.
        let address = socket.bind_auto().map_err(Error::Open)?;
        let (port, indices) = (address.port_number(), RefCell::default());
        Ok(Self { handle, connection: tokio::spawn(connection), port, indices })
    }

    /// The port by which the kernel names this client in notifications about what it did.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// The connection, for links that belong to packet paths and not to the reconciled state.
    pub fn handle(&self) -> &rtnetlink::Handle {
        &self.handle
    }

    /// Adds what is observed of links, addresses, routes and rules to `state`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn observe(&self, state: &mut KernelState) -> Result<(), Error> {
        let links = self.links().await?;
        let names: HashMap<u32, String> = links.iter().map(|l| (l.index, l.link.name.clone())).collect();
        let home = links.iter().find(|l| l.link.name == HOME_ADDRESS_LINK).map(|l| l.index);
        *self.indices.borrow_mut() = links.iter().map(|l| (l.link.name.clone(), l.index)).collect();
        state.links.extend(links.into_iter().map(|l| (l.link.name.clone(), l.link)));
        for message in limited(self.handle.address().get().execute().try_collect::<Vec<_>>()).await? {
            if Some(message.header.index) == home {
                state.addresses.extend(codec::parse_address(&message).map(|a| (a.address, a)));
            }
        }
        for (table, protocol) in [(0, ROUTE_PROTOCOL), (LOCAL_TABLE, KERNEL)] {
            let mut filter = RouteMessage::default();
            filter.header.address_family = AddressFamily::Inet6;
            filter.header.protocol = RouteProtocol::from(protocol);
            filter.header.table = u8::try_from(table).unwrap_or(0);
            let routes: Vec<_> = limited(self.handle.route().get(filter).execute().try_collect()).await?;
            for message in routes {
                let route = codec::parse_route(&message, |index| names.get(&index).cloned());
                // A kernel without strict checks shows all routes.
                let route = route.filter(|r| r.protocol == protocol && (table == 0 || r.key.table == table));
                let route = route.filter(|r| protocol != KERNEL || r.key.device == HOME_ADDRESS_LINK);
                state.routes.extend(route.filter(|r| !automatic(r)).map(|r| (r.key.clone(), r)));
            }
        }
        let rules: Vec<_> = limited(self.handle.rule().get(IpVersion::V6).execute().try_collect()).await?;
        state.rules.extend(rules.iter().filter_map(codec::parse_rule));
        Ok(())
    }

    async fn links(&self) -> Result<Vec<IndexedLink>, Error> {
        let messages: Vec<_> = limited(self.handle.link().get().execute().try_collect()).await?;
        Ok(messages.iter().map(codec::parse_link).collect())
    }

    async fn link(&self, name: &str) -> Result<IndexedLink, Error> {
        let missing = || Error::NoLink(name.to_owned());
        match limited(self.handle.link().get().match_name(name).execute().try_next()).await {
            Ok(message) => message.as_ref().map(codec::parse_link).ok_or_else(missing),
            Err(error) if is(&error, &[libc::ENODEV]) => Err(missing()),
            Err(error) => Err(error),
        }
    }

    async fn index(&self, name: &str) -> Result<u32, Error> {
        let known = self.indices.borrow().get(name).copied();
        match known {
            Some(index) => Ok(index),
            None => {
                let index = self.link(name).await?.index;
                self.indices.borrow_mut().insert(name.to_owned(), index);
                Ok(index)
            }
        }
    }

    /// Makes a link as wanted: first down, so that it is never up without its settings.
    ///
    /// # Errors
    /// The kernel refuses; `EOPNOTSUPP` when it has no such kind of link.
    pub async fn add_link(&self, link: &Link) -> Result<(), Error> {
        let message = match &link.kind {
            LinkKind::Dummy => LinkDummy::new(&link.name).build(),
            LinkKind::Ipv6InIpv6 { local, remote } => {
                LinkIp6Tnl::new(&link.name).local(*local).remote(*remote).protocol(libc::IPPROTO_IPV6.into()).build()
            }
            LinkKind::Other(kind) => return Err(Error::Other(format!("links of kind {kind} are not ours to make"))),
        };
        self.indices.borrow_mut().remove(&link.name);
        limited(self.handle.link().add(message).execute()).await?;
        self.update_link(link).await
    }

    /// Gives a link that is there the settings that are wanted.
    ///
    /// # Errors
    /// The kernel refuses, or a file under `/proc/sys` cannot be written.
    pub async fn update_link(&self, wanted: &Link) -> Result<(), Error> {
        let IndexedLink { index, link, .. } = self.link(&wanted.name).await?;
        if link.generates_link_local && !wanted.generates_link_local {
            let message = LinkUnspec::new_with_index(index).append_extra_attribute(codec::no_link_local()).build();
            limited(self.handle.link().set(message).execute()).await?;
        }
        if link.ipv6_disabled != wanted.ipv6_disabled {
            disable_ipv6(&wanted.name, wanted.ipv6_disabled)?;
        }
        let message = LinkUnspec::new_with_index(index);
        let message = if wanted.up { message.up() } else { message.down() };
        limited(self.handle.link().set(message.build()).execute()).await
    }

    /// Sets a link up.
    ///
    /// # Errors
    /// It is not there, or the kernel refuses.
    pub async fn set_up(&self, name: &str) -> Result<(), Error> {
        let index = self.link(name).await?.index;
        limited(self.handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute()).await
    }

    /// Removes a link; none there is fine.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn remove_link(&self, name: &str) -> Result<(), Error> {
        self.indices.borrow_mut().remove(name);
        match self.link(name).await {
            Ok(link) => absent_is_fine(limited(self.handle.link().del(link.index).execute()).await),
            Err(Error::NoLink(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Puts a home address on our dummy link, or gives the one that is there other flags.
    ///
    /// # Errors
    /// The link is not there, or the kernel refuses.
    pub async fn set_address(&self, address: &Address) -> Result<(), Error> {
        let index = self.index(HOME_ADDRESS_LINK).await?;
        let mut request = self.handle.address().add(index, address.address.into(), 128).replace();
        *request.message_mut() = codec::address(address, index);
        limited(request.execute()).await
    }

    /// Takes a home address off; none there is fine.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn remove_address(&self, address: Ipv6Addr) -> Result<(), Error> {
        let index = match self.index(HOME_ADDRESS_LINK).await {
            Err(Error::NoLink(_)) => return Ok(()),
            index => index?,
        };
        absent_is_fine(limited(self.handle.address().del(codec::address_name(address, index)).execute()).await)
    }

    /// Adds a route.
    ///
    /// # Errors
    /// Its link is not there, or the kernel refuses.
    pub async fn add_route(&self, route: &Route) -> Result<(), Error> {
        let index = self.index(&route.key.device).await?;
        limited(self.handle.route().add(codec::new_route(route, index)).execute()).await
    }

    /// Removes a route; none there is fine.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn remove_route(&self, key: &RouteKey) -> Result<(), Error> {
        let index = match self.index(&key.device).await {
            Err(Error::NoLink(_)) => return Ok(()),
            index => index?,
        };
        absent_is_fine(limited(self.handle.route().del(codec::route(key, index)).execute()).await)
    }

    /// Adds a rule; one that is there is fine.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn add_rule(&self, rule: &Rule) -> Result<(), Error> {
        let mut request = self.handle.rule().add().v6();
        *request.message_mut() = codec::rule(rule);
        match limited(request.execute()).await {
            Err(error) if is(&error, &[libc::EEXIST]) => Ok(()),
            other => other,
        }
    }

    /// Removes a rule; none there is fine.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn remove_rule(&self, rule: &Rule) -> Result<(), Error> {
        absent_is_fine(limited(self.handle.rule().del(codec::rule(rule)).execute()).await)
    }

    /// The link and the source address towards `destination`, or `None` without a usable route.
    ///
    /// # Errors
    /// See [`Error`]; a missing route is none.
    pub async fn route_to(&self, destination: Ipv6Addr) -> Result<Option<Uplink>, Error> {
        let mut question = RouteMessage::default();
        question.header.address_family = AddressFamily::Inet6;
        question.header.destination_prefix_length = 128;
        question.attributes.push(RouteAttribute::Destination(destination.into()));
        let answer = match limited(self.handle.route().get(question).execute().try_next()).await {
            Err(error) if is(&error, &[libc::ENETUNREACH, libc::EHOSTUNREACH, libc::EACCES, libc::EINVAL]) => {
                return Ok(None);
            }
            answer => answer?,
        };
        let Some(route) = answer.filter(|route| route.header.kind == RouteType::Unicast) else { return Ok(None) };
        let (mut output, mut source, mut mtu) = (None, None, None);
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Oif(index) => output = Some(*index),
                RouteAttribute::PrefSource(RouteAddress::Inet6(address)) => source = Some(*address),
                RouteAttribute::Metrics(metrics) => {
                    mtu = metrics.iter().find_map(|m| if let RouteMetric::Mtu(mtu) = m { Some(*mtu) } else { None });
                }
                _ => {}
            }
        }
        let (Some(index), Some(source)) = (output, source) else { return Ok(None) };
        if source.is_unicast_link_local() || source.is_unspecified() {
            return Ok(None);
        }
        let message = limited(self.handle.link().get().match_index(index).execute().try_next()).await?;
        let Some(message) = message else { return Ok(None) };
        let usable =
            message.header.flags.contains(LinkFlags::Up) && !message.header.flags.contains(LinkFlags::Loopback);
        let carrier = message.attributes.iter().all(|a| !matches!(a, LinkAttribute::Carrier(0)));
        let link = codec::parse_link(&message);
        let uplink = Uplink { index, name: link.link.name, source, mtu: mtu.unwrap_or(link.mtu) };
        Ok((usable && carrier).then_some(uplink))
    }
}

/// Routes that the kernel makes for any link with IPv6 (multicast, link-local anycast): not of home addresses.
fn automatic(route: &Route) -> bool {
    route.protocol == KERNEL
        && (route.key.destination.length() < 128 || route.key.destination.address().is_unicast_link_local())
}

fn disable_ipv6(link: &str, disabled: bool) -> Result<(), Error> {
    let path = PathBuf::from(format!("/proc/sys/net/ipv6/conf/{link}/disable_ipv6"));
    let value = if disabled { "1" } else { "0" };
    std::fs::write(&path, value).map_err(|source| Error::Setting { path, value, source })
}

async fn limited<T>(request: impl Future<Output = Result<T, rtnetlink::Error>>) -> Result<T, Error> {
    tokio::time::timeout(TIME_LIMIT, request).await.map_err(|_| Error::Late)?.map_err(Error::from)
}

fn is(error: &Error, numbers: &[i32]) -> bool {
    matches!(error, Error::Refused(refusal) if numbers.contains(&refusal.errno))
}

fn absent_is_fine(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(error) if is(&error, &[libc::ENOENT, libc::ESRCH, libc::ENODEV, libc::EADDRNOTAVAIL]) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With port 0 everything that the kernel tells would look like our own doing.
    #[tokio::test]
    async fn a_client_has_a_port_of_its_own() {
        let (one, other) = (Client::open().unwrap(), Client::open().unwrap());
        assert!(one.port() != 0 && other.port() != 0 && one.port() != other.port());
    }
}
