//! "Look again": change notifications of links, addresses, routes and rules, many of them in one.

use std::io;
use std::time::Duration;

use futures::StreamExt;
use futures::channel::mpsc::UnboundedReceiver;
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::SocketAddr;
use rtnetlink::MulticastGroup;

/// Changes come in bursts; this long after the first one the observer looks once.
const SETTLING: Duration = Duration::from_millis(20);

/// Watches the namespace in which it was opened.
#[derive(Debug)]
pub struct Monitor {
    messages: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
    connection: tokio::task::JoinHandle<()>,
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Monitor {
    /// Starts watching, served by a task of the current tokio runtime.
    ///
    /// # Errors
    /// No socket.
    pub fn open() -> io::Result<Self> {
        let groups =
            [MulticastGroup::Link, MulticastGroup::Ipv6Ifaddr, MulticastGroup::Ipv6Route, MulticastGroup::Ipv6Rule];
        let (connection, _, messages) = rtnetlink::new_multicast_connection(&groups)?;
        Ok(Self { messages, connection: tokio::spawn(connection) })
    }

    /// Waits for a change, then a little for others that come with it. Lost notifications are a change, too. `false` when the
    /// connection broke and nothing will come any more.
    ///
    /// Cancel safe: a change that was read before the future was dropped is reported by none; look once when starting over.
    pub async fn changed(&mut self) -> bool {
        loop {
            match self.messages.next().await {
                None => return false,
                Some((message, _)) if matters(&message.payload) => break,
                Some(_) => {}
            }
        }
        tokio::time::sleep(SETTLING).await;
        while let Ok(message) = self.messages.try_recv() {
            drop(message);
        }
        true
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
