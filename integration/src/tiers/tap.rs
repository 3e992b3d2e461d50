//! Frames put on a link, and frames taken off it.

use std::net::Ipv6Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use kagemusha::tunnel::{Offload, vnet};
use kagemusha::wire::ethernet;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt};

use super::cases;
use crate::failure::{Failure, Outcome, While};
use crate::node::Node;
use crate::sys;

/// Nothing more comes when nothing has come for so long.
const QUIET: Duration = Duration::from_millis(150);
/// What must come comes within this.
const PATIENCE: Duration = Duration::from_secs(3);
const LONGEST: usize = 65_536;

pub(super) type Mac = [u8; 6];

/// An Ethernet header in front of an IPv6 packet.
pub(super) fn link_header(destination: Mac, source: Mac) -> Vec<u8> {
    [&destination[..], &source, &[0x86, 0xdd]].concat()
}

pub(super) fn mac_of(node: &Node, interface: &str) -> Outcome<Mac> {
    let text = node.read(&format!("/sys/class/net/{interface}/address"))?;
    let octets: Vec<u8> = text.trim().split(':').filter_map(|octet| u8::from_str_radix(octet, 16).ok()).collect();
    octets.try_into().map_err(|_| Failure::new(format!("{interface}: no MAC address in {text:?}")))
}

pub(super) fn send(node: &Node, interface: &str, frame: &[u8]) -> Outcome {
    put(node, interface, frame.to_vec(), false)
}

/// A frame as a driver leaves it: with what is still to be done.
pub(super) fn send_whole(node: &Node, interface: &str, frame: &[u8], offload: &Offload) -> Outcome {
    let header = vnet::header(Some(offload), ethernet::HEADER_LENGTH as u16);
    put(node, interface, [&header[..], frame].concat(), true)
}

fn put(node: &Node, interface: &str, frame: Vec<u8>, has_vnet_header: bool) -> Outcome {
    let interface = interface.to_owned();
    node.run(move || -> Outcome {
        let socket = sys::packet_socket(&interface)?;
        if has_vnet_header {
            sys::expect_vnet_header(&socket)?;
        }
        nix::unistd::write(&socket, &frame).during(|| format!("{} octets to {interface}", frame.len()))?;
        Ok(())
    })?
}

/// Hears the frames of one sender on a link.
pub(super) struct Listener {
    socket: OwnedFd,
    from: Mac,
    /// Only packets with this IPv6 source.
    source: Option<Ipv6Addr>,
    name: &'static str,
}

impl Listener {
    pub(super) fn start(node: &Node, interface: &str, from: Mac, name: &'static str) -> Outcome<Self> {
        let interface = interface.to_owned();
        let socket = node.run(move || sys::packet_socket(&interface))?.during(|| format!("listening: {name}"))?;
        setsockopt(&socket, sockopt::RcvBufForce, &(8 << 20))?;
        Ok(Self { socket, from, source: None, name })
    }

    /// Leaves out what has another IPv6 source: answers of other nodes that were carried on.
    pub(super) fn only_from(self, source: Ipv6Addr) -> Self {
        Self { source: Some(source), ..self }
    }

    fn concerns(&self, frame: &[u8]) -> bool {
        let source = self.source.map(|source| source.octets());
        frame.get(6..12) == Some(&self.from[..]) && source.is_none_or(|source| frame.get(22..38) == Some(&source[..]))
    }

    /// What it heard of each case, in order; ends when all that is expected is there and nothing more comes.
    pub(super) fn until_quiet(self, cases: usize, expected: usize) -> Outcome<Vec<Vec<Vec<u8>>>> {
        let mut heard = vec![vec![]; cases];
        let (begin, mut last, mut count) = (Instant::now(), Instant::now(), 0);
        let mut buffer = vec![0; LONGEST];
        while last.elapsed() < QUIET || (count < expected && begin.elapsed() < PATIENCE) {
            let wait = PollTimeout::try_from(20).unwrap_or(PollTimeout::ZERO);
            poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], wait)?;
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => {
                    let frame = &buffer[..length];
                    if self.concerns(frame)
                        && let Some(case) = cases::number_in(frame).and_then(|number| heard.get_mut(number))
                    {
                        case.push(frame.to_vec());
                        (last, count) = (Instant::now(), count + 1);
                    }
                }
                Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(Failure::new(format!("{}: {error}", self.name))),
            }
        }
        Ok(heard)
    }
}

/// The beginning of a frame, for whoever has to find the difference.
pub(super) fn show(frame: &[u8]) -> String {
    let hex: String = frame.iter().take(100).map(|octet| format!("{octet:02x}")).collect();
    format!("{} octets {hex}", frame.len())
}
