//! The ports of the pseudo home network on this host: for every bridge or tap that the policy names, a TAP of ours on the same link.
//!
//! `port = { bridge = "br-home" }` puts the TAP on that bridge. `port = { tap = "vnet0" }` joins the two in a private bridge, so that
//! there is one packet path, and the kernel segments and completes checksums before a frame is read.

use std::io;
use std::sync::Arc;

use futures::TryStreamExt;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::{Handle, LinkBridge, LinkUnspec};

use super::tap::{self, Device};
use crate::policy::{Policy, Port};
use crate::vocabulary::{GuestId, MacAddress};

/// Prefix of the names of our TAPs.
const TAP_PREFIX: &str = "kgtap";
/// Prefix of the names of our private bridges.
const BRIDGE_PREFIX: &str = "kgbr";

/// Why a port cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The interface of the policy is not there.
    #[error("the interface {0} of the policy's port is not there: make it, or name another port")]
    Missing(String),
    /// `port = { bridge }` names something else.
    #[error("{0} is not a bridge: write port = {{ tap = {0:?} }} for the host's end of a guest's own link")]
    NotABridge(String),
    /// `port = { tap }` names an interface that belongs to a bridge already.
    #[error(
        "{tap} already belongs to another bridge (interface index {controller}): write port = {{ bridge = … }} with that bridge"
    )]
    Taken {
        /// The tap.
        tap: String,
        /// Index of the bridge.
        controller: u32,
    },
    /// A TAP could not be made.
    #[error("cannot make the TAP {name}: {source}; /dev/net/tun and CAP_NET_ADMIN are needed")]
    Tap {
        /// Its name.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The kernel refused a change of links.
    #[error("cannot {action} {name}: {source}")]
    Link {
        /// What was tried.
        action: &'static str,
        /// On which interface.
        name: String,
        /// Why.
        source: rtnetlink::Error,
    },
}

/// A port in use.
#[derive(Debug)]
pub struct OpenPort {
    /// What the policy says.
    pub port: Port,
    /// Our TAP on the link.
    pub device: Arc<Device>,
    /// MTU of the link, in octets.
    pub mtu: u32,
    /// The guests of the policy on this port.
    pub guests: Vec<GuestId>,
    /// Whether the interface of the policy was as it has to be when it was last looked at.
    pub is_whole: bool,
    private_bridge: Option<String>,
}

struct Link {
    index: u32,
    up: bool,
    mtu: u32,
    controller: Option<u32>,
    is_bridge: bool,
}

/// Opens a port for each distinct `port` of the policy.
///
/// # Errors
/// When a port's interface is missing or unfit, or the kernel refuses; what was made so far is taken down again.
pub async fn open(handle: &Handle, policy: &Policy) -> Result<Vec<OpenPort>, Error> {
    let mut ports: Vec<OpenPort> = Vec::new();
    for (index, guest) in policy.guests.iter().enumerate() {
        let (id, Some(attachment)) = (GuestId(index), &guest.attachment) else { continue };
        if let Some(open) = ports.iter_mut().find(|open| open.port == attachment.port) {
            open.guests.push(id);
            continue;
        }
        match open_one(handle, &attachment.port, ports.len()).await {
            Ok(mut open) => {
                open.guests.push(id);
                ports.push(open);
            }
            Err(error) => {
                close(handle, ports).await;
                return Err(error);
            }
        }
    }
    Ok(ports)
}

/// Takes the ports down again: private bridges are removed, TAPs vanish with their descriptors.
pub async fn close(handle: &Handle, ports: Vec<OpenPort>) {
    for port in ports {
        if let Some(bridge) = &port.private_bridge {
            discard(handle, bridge).await;
        }
    }
}

async fn discard(handle: &Handle, bridge: &str) {
    if let Err(error) = remove_link(handle, bridge).await {
        tracing::warn!(%error, "a private bridge stays behind");
    }
}

/// Opens one more port, without guests yet.
///
/// # Errors
/// As [`open`].
pub async fn open_one(handle: &Handle, port: &Port, number: usize) -> Result<OpenPort, Error> {
    let theirs = find(handle, port.interface()).await?.ok_or_else(|| Error::Missing(port.interface().to_owned()))?;
    let (bridge, private_bridge) = match port {
        Port::Bridge(name) if !theirs.is_bridge => return Err(Error::NotABridge(name.clone())),
        Port::Bridge(_) => (theirs.index, None),
        Port::Tap(name) => {
            let bridge = private_bridge(handle, name, &theirs, number).await?;
            (bridge, Some(format!("{BRIDGE_PREFIX}{number}")))
        }
    };
    match our_tap(handle, number, theirs.mtu, bridge).await {
        Ok(device) => {
            let (port, device) = (port.clone(), Arc::new(device));
            Ok(OpenPort { port, device, mtu: theirs.mtu, guests: Vec::new(), is_whole: true, private_bridge })
        }
        Err(error) => {
            if let Some(bridge) = &private_bridge {
                discard(handle, bridge).await;
            }
            Err(error)
        }
    }
}

/// Makes a TAP of ours and plugs it into a bridge.
async fn our_tap(handle: &Handle, number: usize, mtu: u32, bridge: u32) -> Result<Device, Error> {
    let name = format!("{TAP_PREFIX}{number}");
    let device = Device::tap(&name).map_err(|source| Error::Tap { name: name.clone(), source })?;
    tap::disable_ipv6(&name).map_err(|source| Error::Tap { name: name.clone(), source })?;
    plug_in(handle, number, mtu, bridge).await?;
    Ok(device)
}

async fn plug_in(handle: &Handle, number: usize, mtu: u32, bridge: u32) -> Result<(), Error> {
    let name = format!("{TAP_PREFIX}{number}");
    let message = LinkUnspec::new_with_name(&name).address(tap_address(number).0.to_vec()).mtu(mtu);
    set(handle, "plug in", &name, message.controller(bridge).up().build()).await
}

/// Puts right what others did to the ports meanwhile: interfaces that were made anew (a guest that was started again, a network manager
/// that built its bridge again), TAPs of ours that were unplugged, set down or removed. Gives the numbers of ports with a new
/// [`OpenPort::device`]; what cannot be put right now is in the log, and tried again next time.
pub async fn mend(handle: &Handle, ports: &mut [OpenPort]) -> Vec<usize> {
    let mut renewed = Vec::new();
    // Nobody misses a port that a changed policy has left without guests.
    for (number, port) in ports.iter_mut().enumerate().filter(|(_, port)| !port.guests.is_empty()) {
        let mended = mend_one(handle, port, number).await;
        port.is_whole = mended.is_ok();
        match mended {
            Ok(None) => {}
            Ok(Some(device)) => {
                tracing::info!(port = port.port.interface(), "our TAP was made again");
                port.device = Arc::new(device);
                renewed.push(number);
            }
            Err(error) => tracing::warn!(port = port.port.interface(), "guests on this port are cut off: {error}"),
        }
    }
    renewed
}

async fn mend_one(handle: &Handle, port: &OpenPort, number: usize) -> Result<Option<Device>, Error> {
    let name = port.port.interface();
    let theirs = find(handle, name).await?.ok_or_else(|| Error::Missing(name.to_owned()))?;
    let bridge = match &port.private_bridge {
        None if !theirs.is_bridge => return Err(Error::NotABridge(name.to_owned())),
        None => theirs.index,
        Some(bridge) => match find(handle, bridge).await? {
            Some(bridge) if theirs.controller == Some(bridge.index) => bridge.index,
            Some(bridge) if theirs.controller.is_none() => {
                tracing::info!(tap = name, "plugged in again");
                set(
                    handle,
                    "plug in",
                    name,
                    LinkUnspec::new_with_index(theirs.index).controller(bridge.index).up().build(),
                )
                .await?;
                bridge.index
            }
            _ => private_bridge(handle, name, &theirs, number).await?,
        },
    };
    let tap = find(handle, port.device.name()).await?;
    match tap {
        Some(tap) if tap.controller == Some(bridge) && tap.up => Ok(None),
        Some(_) => {
            tracing::info!(port = name, "our TAP was unplugged or set down: plugged in again");
            plug_in(handle, number, port.mtu, bridge).await?;
            Ok(None)
        }
        None => our_tap(handle, number, port.mtu, bridge).await.map(Some),
    }
}

/// The MAC address of a TAP of ours. A bridge takes the lowest address of its ports as its own, so it is a high one. Frames
/// have it as their source on the home link alone.
pub fn tap_address(number: usize) -> MacAddress {
    let [.., high, low] = number.to_be_bytes();
    MacAddress([0xfe, 0x4b, 0x47, 0x4d, high, low])
}

/// Joins `tap` to a new private bridge and returns the bridge's index. One that an earlier run left behind is made anew.
async fn private_bridge(handle: &Handle, tap: &str, theirs: &Link, number: usize) -> Result<u32, Error> {
    let name = format!("{BRIDGE_PREFIX}{number}");
    if let Some(controller) = theirs.controller {
        if !is_private_bridge(handle, controller).await {
            return Err(Error::Taken { tap: tap.to_owned(), controller });
        }
        tracing::info!(tap, "taken over from an earlier run");
    }
    if find(handle, &name).await?.is_some() {
        remove_link(handle, &name).await?;
    }
    let joined = join(handle, tap, theirs, &name).await;
    if joined.is_err() {
        discard(handle, &name).await;
    }
    joined
}

async fn join(handle: &Handle, tap: &str, theirs: &Link, name: &str) -> Result<u32, Error> {
    let message = LinkBridge::new(name).forward_delay(0).mcast_snooping(false).mtu(theirs.mtu).build();
    handle.link().add(message).execute().await.map_err(|source| Error::Link {
        action: "make the bridge",
        name: name.to_owned(),
        source,
    })?;
    tap::disable_ipv6(name).map_err(|source| Error::Tap { name: name.to_owned(), source })?;
    let index = find(handle, name).await?.ok_or_else(|| Error::Missing(name.to_owned()))?.index;
    set(handle, "bring up", name, LinkUnspec::new_with_index(index).up().build()).await?;
    set(handle, "plug in", tap, LinkUnspec::new_with_index(theirs.index).controller(index).up().build()).await?;
    Ok(index)
}

async fn is_private_bridge(handle: &Handle, index: u32) -> bool {
    let mut links = handle.link().get().match_index(index).execute();
    let Ok(Some(message)) = links.try_next().await else { return false };
    message
        .attributes
        .iter()
        .any(|attribute| matches!(attribute, LinkAttribute::IfName(name) if name.starts_with(BRIDGE_PREFIX)))
}

async fn set(handle: &Handle, action: &'static str, name: &str, message: LinkMessage) -> Result<(), Error> {
    let failed = |source| Error::Link { action, name: name.to_owned(), source };
    handle.link().set(message).execute().await.map_err(failed)
}

async fn remove_link(handle: &Handle, name: &str) -> Result<(), Error> {
    let Some(link) = find(handle, name).await? else { return Ok(()) };
    let failed = |source| Error::Link { action: "remove", name: name.to_owned(), source };
    handle.link().del(link.index).execute().await.map_err(failed)
}

async fn find(handle: &Handle, name: &str) -> Result<Option<Link>, Error> {
    let mut links = handle.link().get().match_name(name.to_owned()).execute();
    match links.try_next().await {
        Ok(message) => Ok(message.map(|message| read(&message))),
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::ENODEV => Ok(None),
        Err(source) => Err(Error::Link { action: "look up", name: name.to_owned(), source }),
    }
}

fn read(message: &LinkMessage) -> Link {
    let up = message.header.flags.contains(LinkFlags::Up);
    let mut link = Link { index: message.header.index, up, mtu: 1500, controller: None, is_bridge: false };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Controller(index) => link.controller = Some(*index),
            LinkAttribute::LinkInfo(infos) => {
                link.is_bridge = infos.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Bridge)));
            }
            _ => {}
        }
    }
    link
}

/// An interface that the daemon speaks Ethernet on.
#[derive(Debug, Clone, Copy)]
pub struct EthernetLink {
    /// Interface index.
    pub index: u32,
    /// Link-layer address.
    pub mac: MacAddress,
    /// MTU in octets.
    pub mtu: u32,
}

/// Looks an Ethernet interface up by name.
///
/// # Errors
/// When it is missing, has no 48-bit address, or the kernel refuses.
pub async fn ethernet_link(handle: &Handle, name: &str) -> Result<EthernetLink, Error> {
    let mut links = handle.link().get().match_name(name.to_owned()).execute();
    let message = match links.try_next().await {
        Ok(Some(message)) => message,
        Ok(None) => return Err(Error::Missing(name.to_owned())),
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::ENODEV => {
            return Err(Error::Missing(name.to_owned()));
        }
        Err(source) => return Err(Error::Link { action: "look up", name: name.to_owned(), source }),
    };
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(octets) => <[u8; 6]>::try_from(octets.as_slice()).ok(),
        _ => None,
    });
    let mac = MacAddress(mac.ok_or_else(|| Error::Missing(format!("{name} (with a MAC address)")))?);
    Ok(EthernetLink { index: message.header.index, mac, mtu: read(&message).mtu })
}

/// Brings an interface up with an MTU.
///
/// # Errors
/// When the kernel refuses.
pub async fn bring_up(handle: &Handle, name: &str, mtu: u32) -> Result<(), Error> {
    set(handle, "bring up", name, LinkUnspec::new_with_name(name).mtu(mtu).up().build()).await
}
