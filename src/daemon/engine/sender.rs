//! How tunnel packets leave: many with one system call, by a packet socket when the neighbour is known, otherwise by a raw one.

use std::io::{self, IoSlice};
use std::net::SocketAddrV6;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;

use socket2::{Domain, SockAddr, Socket, Type};

use super::keeper::Keeper;
use super::paths::{Ends, NextHop};
use crate::daemon::control::ControlBuilder;
use crate::daemon::pace;
use crate::daemon::sys::{self, MESSAGES, Outgoing};
use crate::daemon::tunnel_socket::{HOP_LIMIT, Sent, TunnelSocket};
use crate::tunnel::{Counters, Reason};
use crate::wire::{ethernet, ipv6, tunnel};

/// Room in front of an inner packet for an Ethernet header and the outer header.
pub const ROOM: usize = ethernet::HEADER_LENGTH + ipv6::HEADER_LENGTH;
/// Octets asked for as send buffer.
const SEND_BUFFER: libc::c_int = 4 << 20;

/// What the outer header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encapsulation {
    /// Between which addresses.
    pub ends: Ends,
    /// Its traffic class.
    pub traffic_class: u8,
    /// Its flow label.
    pub flow_label: u32,
}

impl Encapsulation {
    /// Writes the Ethernet header, where the neighbour is known, and the outer header to `room`.
    pub fn write(&self, room: &mut [u8], next_hop: Option<&NextHop>, inner_length: usize) {
        let Ends { source, destination } = self.ends;
        let outer =
            tunnel::outer_header(source, destination, self.traffic_class, self.flow_label, HOP_LIMIT, inner_length);
        if let Some(room) = room.first_chunk_mut::<ROOM>() {
            let (link, header) = room.split_at_mut(ethernet::HEADER_LENGTH);
            header.copy_from_slice(&outer.octets());
            if let Some(next_hop) = next_hop {
                link.copy_from_slice(&next_hop.header);
            }
        }
    }
}

/// A packet ready to leave.
#[derive(Debug, Clone, Copy)]
pub struct Piece<'a> {
    /// What its outer header says.
    pub encapsulation: Encapsulation,
    /// Where it goes, if that is known; then the first [`ROOM`] octets of `head` are written.
    pub next_hop: Option<&'a NextHop>,
    /// Room, and the beginning of the inner packet.
    pub head: &'a [u8],
    /// The rest of the inner packet.
    pub rest: &'a [u8],
}

/// A packet that does not fit its path, by its number among those given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooBig {
    /// Which.
    pub piece: usize,
    /// The path MTU in octets.
    pub mtu: u32,
}

/// One thread's way out.
#[derive(Debug)]
pub struct Sender {
    tunnel: Arc<TunnelSocket>,
    frames: Option<Socket>,
    keeper: Arc<Keeper>,
    counters: Arc<Counters>,
}

impl Sender {
    /// A way out; without a packet socket when the system has none to give.
    pub fn new(tunnel: Arc<TunnelSocket>, keeper: Arc<Keeper>, counters: Arc<Counters>) -> Self {
        // Protocol 0: it receives nothing.
        let frames = Socket::new(Domain::PACKET, Type::RAW, None)
            .and_then(|socket| sys::set_send_buffer(socket.as_fd(), SEND_BUFFER).map(|()| socket));
        Self { tunnel, frames: frames.ok(), keeper, counters }
    }

    /// Sends pieces in order. One that does not fit its path ends it.
    ///
    /// # Errors
    /// Which piece did not fit. Those before it were sent, those behind it were not.
    pub fn send(&self, pieces: &[Piece<'_>]) -> Result<(), TooBig> {
        let mut at = 0;
        while let Some(first) = pieces.get(at) {
            let straight = self.frames.is_some() && first.next_hop.is_some();
            let run = pieces
                .get(at..)
                .unwrap_or_default()
                .iter()
                .take(MESSAGES)
                .take_while(|piece| (self.frames.is_some() && piece.next_hop.is_some()) == straight)
                .count();
            let run = pieces.get(at..at + run).unwrap_or_default();
            match &self.frames {
                Some(frames) if straight => self.send_frames(frames, run),
                _ => self.send_raw(run).map_err(|too_big| TooBig { piece: at + too_big.piece, ..too_big })?,
            }
            at += run.len();
        }
        Ok(())
    }

    fn send_frames(&self, socket: &Socket, pieces: &[Piece<'_>]) {
        let parts = pieces.iter().map(|piece| [IoSlice::new(piece.head), IoSlice::new(piece.rest)]);
        let mut both = [[IoSlice::new(&[]), IoSlice::new(&[])]; MESSAGES];
        both.iter_mut().zip(parts).for_each(|(to, from)| *to = from);
        let messages = pieces.iter().zip(&both).filter_map(|(piece, parts)| {
            let parts = if piece.rest.is_empty() { parts.get(..1)? } else { &parts[..] };
            Some(Outgoing { address: &piece.next_hop?.socket_address, parts, control: &[] })
        });
        let messages: Vec<_> = messages.collect();
        let mut left = &messages[..];
        while !left.is_empty() {
            match send_some(socket, left) {
                Ok(sent) => left = left.get(sent.max(1)..).unwrap_or_default(),
                Err(error) => {
                    tracing::debug!(%error, "a frame could not be sent");
                    // The link is another one than the keeper knew: it looks again.
                    if error.raw_os_error() != Some(libc::ENOBUFS) {
                        self.keeper.look();
                    }
                    self.counters.count(Reason::SendFailed);
                    left = left.get(1..).unwrap_or_default();
                }
            }
        }
    }

    fn send_raw(&self, pieces: &[Piece<'_>]) -> Result<(), TooBig> {
        let prepared: Vec<_> = pieces
            .iter()
            .map(|piece| {
                let Encapsulation { ends, traffic_class, flow_label } = piece.encapsulation;
                let address = SockAddr::from(SocketAddrV6::new(ends.destination, 0, flow_label.to_be(), 0));
                let control = ControlBuilder::default().source(ends.source).traffic_class(traffic_class);
                let head = piece.head.get(ROOM..).unwrap_or_default();
                (address, control, [IoSlice::new(head), IoSlice::new(piece.rest)])
            })
            .collect();
        let messages: Vec<_> = prepared
            .iter()
            .map(|(address, control, parts)| Outgoing { address, parts, control: control.as_bytes() })
            .collect();
        let mut at = 0;
        while at < messages.len() {
            let left = messages.get(at..).unwrap_or_default();
            match send_some(self.tunnel.as_fd(), left) {
                Ok(sent) => at += sent.max(1),
                Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
                    if let Some(piece) = pieces.get(at) {
                        self.send_short(piece).map_err(|mtu| TooBig { piece: at, mtu })?;
                    }
                    at += 1;
                }
                Err(error) => {
                    tracing::debug!(%error, "a packet could not be sent through the tunnel");
                    self.counters.count(Reason::SendFailed);
                    at += 1;
                }
            }
        }
        Ok(())
    }

    /// One of at most 1280 octets leaves in fragments (RFC 2473 §7.1).
    fn send_short(&self, piece: &Piece<'_>) -> Result<(), u32> {
        self.keeper.look();
        let Encapsulation { ends, traffic_class, .. } = piece.encapsulation;
        let packet = [piece.head.get(ROOM..).unwrap_or_default(), piece.rest].concat();
        match self.tunnel.send(ends.source, ends.destination, traffic_class, &packet) {
            Sent::Yes => Ok(()),
            Sent::TooBig(mtu) => Err(mtu),
            Sent::No(error) => {
                tracing::debug!(%error, "a packet could not be sent through the tunnel");
                self.counters.count(Reason::SendFailed);
                Ok(())
            }
        }
    }
}

/// Sends, and waits a little while the queue of the way out is full.
fn send_some(socket: impl AsFd, messages: &[Outgoing<'_>]) -> io::Result<usize> {
    let mut sent = 0;
    pace::send_when_there_is_room(
        || {
            sent = sys::send_messages(socket.as_fd(), messages)?;
            Ok(())
        },
        thread::sleep,
    )?;
    Ok(sent)
}
