//! "Look again": change notifications of links, addresses, routes, rules, security associations and policies, many of them in one.

use std::io;
use std::time::Duration;

use super::Expiry;
use super::xfrm_monitor::XfrmMonitor;
use futures::StreamExt;
use futures::channel::mpsc::UnboundedReceiver;
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{AsyncSocket, SocketAddr};
use rtnetlink::MulticastGroup;
use tokio::time::{Instant, sleep, sleep_until};

/// Changes of links and routes come in bursts; this long after the first one the observer looks once.
const SETTLING: Duration = Duration::from_millis(20);
/// Changes of IPsec matter at once; a plan of steps is mostly done within this time.
const IPSEC_SETTLING: Duration = Duration::from_millis(2);
/// Pause before a broken connection is opened again.
const REOPENING: Duration = Duration::from_secs(1);

/// What has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Links, addresses, routes or rules: on some machines all the time, and mostly not ours.
    Routing,
    /// Security associations or policies.
    Ipsec,
}

impl Change {
    /// How soon after the last look to look at what is ours. Routing changes that go on for ever must not keep us looking; IPsec changes cannot
    /// wait, for signaling depends on them.
    pub fn look_within(self) -> Duration {
        match self {
            Self::Routing => Duration::from_secs(1),
            Self::Ipsec => Duration::from_millis(20),
        }
    }

    fn settling(self) -> Duration {
        match self {
            Self::Routing => SETTLING,
            Self::Ipsec => IPSEC_SETTLING,
        }
    }
}

/// The netlink ports of our own clients: what the kernel says they did is no news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// Of the XFRM client.
    pub xfrm: u32,
    /// Of the route client.
    pub route: u32,
}

/// Watches the namespace in which it was opened.
#[derive(Debug)]
pub struct Monitor {
    own: Ports,
    /// None while the connection is broken.
    connection: Option<Connection>,
    xfrm: XfrmMonitor,
    /// When to report the change that was noticed.
    due: Option<(Instant, Change)>,
    expiries: Vec<Expiry>,
}

#[derive(Debug)]
struct Connection {
    messages: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Connection {
    fn open() -> io::Result<Self> {
        let groups =
            [MulticastGroup::Link, MulticastGroup::Ipv6Ifaddr, MulticastGroup::Ipv6Route, MulticastGroup::Ipv6Rule];
        let (mut connection, _, messages) = rtnetlink::new_multicast_connection(&groups)?;
        // What does not fit into the receive buffer may be lost without an error: those that fit are read after it, and make
        // the observer look.
        connection.socket_mut().socket_mut().set_no_enobufs(true)?;
        Ok(Self { messages, task: tokio::spawn(connection) })
    }
}

impl Monitor {
    /// Starts watching, served by a task of the current tokio runtime.
    ///
    /// # Errors
    /// No socket.
    pub fn open(own: Ports) -> io::Result<Self> {
        let (connection, xfrm) = (Some(Connection::open()?), XfrmMonitor::open(own.xfrm)?);
        Ok(Self { own, connection, xfrm, due: None, expiries: Vec::new() })
    }

    /// Waits for a change, then a little for others that come with it. A connection that breaks is opened again, and counts as a
    /// change.
    ///
    /// Cancel safe: a change that was noticed when the future was dropped is reported by the next one.
    pub async fn changed(&mut self) -> Change {
        let (due, change) = match self.due {
            Some(due) => due,
            None => {
                let change = self.notice().await;
                *self.due.insert((Instant::now() + change.settling(), change))
            }
        };
        sleep_until(due).await;
        if change == Change::Routing {
            while self.connection.as_mut().is_some_and(|connection| connection.messages.try_recv().is_ok()) {}
        }
        self.due = None;
        change
    }

    /// The SAs that have ended or end soon, since this was last asked.
    pub fn take_expiries(&mut self) -> Vec<Expiry> {
        std::mem::take(&mut self.expiries)
    }

    async fn notice(&mut self) -> Change {
        tokio::select! {
            () = notice(&mut self.connection, self.own.route) => Change::Routing,
            changed = self.xfrm.changed() => {
                match changed {
                    Ok(expiries) => self.expiries.extend(expiries),
                    Err(error) => {
                        tracing::warn!(%error, "cannot watch security associations and policies for changes");
                        notice(&mut self.connection, self.own.route).await;
                        return Change::Routing;
                    }
                }
                Change::Ipsec
            }
        }
    }
}

async fn notice(watched: &mut Option<Connection>, own: u32) {
    while let Some(connection) = watched {
        match connection.messages.next().await {
            None => *watched = None,
            Some((message, _)) if message.header.port_number != own && matters(&message.payload) => return,
            Some(_) => {}
        }
    }
    loop {
        sleep(REOPENING).await;
        match Connection::open() {
            Ok(connection) => {
                *watched = Some(connection);
                return;
            }
            Err(error) => tracing::warn!(%error, "cannot watch links and routes for changes, trying again"),
        }
    }
}

fn matters(payload: &NetlinkPayload<RouteNetlinkMessage>) -> bool {
    match payload {
        NetlinkPayload::InnerMessage(message) => matches!(
            message,
            RouteNetlinkMessage::NewLink(_)
                | RouteNetlinkMessage::DelLink(_)
                | RouteNetlinkMessage::NewAddress(_)
                | RouteNetlinkMessage::DelAddress(_)
                | RouteNetlinkMessage::NewRoute(_)
                | RouteNetlinkMessage::DelRoute(_)
                | RouteNetlinkMessage::NewRule(_)
                | RouteNetlinkMessage::DelRule(_)
        ),
        NetlinkPayload::Overrun(_) => true,
        _ => false,
    }
}
