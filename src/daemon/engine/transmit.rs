//! The thread from a device into the tunnel: it reads what is there, has every packet judged, and sends what passed together.

use std::io::{self, IoSliceMut};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::core::address_at;
use super::paths::{Ends, Path, Paths};
use super::sender::{Encapsulation, Piece, ROOM, Sender, TooBig};
use super::super_packet::Entrance;
use crate::daemon::clock;
use crate::daemon::pace::Patience;
use crate::daemon::shared::Reader;
use crate::daemon::sys;
use crate::daemon::tap::{self, Device, VNET_HEADER_LENGTH};
use crate::tunnel::ingress::Forward;
use crate::tunnel::segment::{self, HEADER_LIMIT, Segmentation};
use crate::tunnel::{Counters, Offload, Reason, vnet};
use crate::vocabulary::GuestId;
use crate::wire::ipv6;

/// Packets read before they are sent.
const BATCH: usize = sys::MESSAGES;
/// Room of one packet that is kept until the batch is sent; a longer one is sent by itself.
const SLOT: usize = 2048;
/// Where what is read begins in a slot: there is [`ROOM`] in front of the packet, whatever the link.
const READ_AT: usize = 48;
/// Longest packet, with everything in front of it.
const LONGEST: usize = 65_536 + 64;
/// Room of the headers of one piece.
const HEAD: usize = ROOM + HEADER_LIMIT;
/// The kernel gives the outer header of a super-packet the inner hop limit and takes one from it: one that could end on the way goes
/// the other way.
const SUPER_HOP_LIMIT: u8 = 48;
/// How often held packets are looked at.
const HOLD_TICK: Duration = Duration::from_millis(2);
/// Without packets for so long, memory is given back.
const IDLE: Duration = Duration::from_secs(2);

/// Decides on what was read. One for each role.
pub trait Judge {
    /// Octets in front of the packet in what the device gives, beside the virtio-net header.
    const LINK_HEADER: usize;

    /// Decides, and does by itself what is not sending. The packet sent begins [`Judge::LINK_HEADER`] octets into the frame.
    fn judge<'a>(
        &mut self,
        frame: &'a mut [u8],
        offload: Result<Option<Offload>, Reason>,
        paths: &Paths,
        now: Instant,
    ) -> Option<Forward<'a>>;

    /// A packet that passed, with the hop limit it came with, did not fit a path of `mtu` octets.
    fn too_big(&mut self, packet: &mut [u8], guest: GuestId, offload: Option<Offload>, mtu: u32, now: Instant);

    /// Something kept earlier, with its virtio-net header, that is to be judged now.
    fn released(&mut self, now: Instant) -> Option<Vec<u8>>;

    /// Whether something is kept, so that [`Judge::released`] must be asked soon.
    fn is_holding(&self) -> bool;

    /// The device is gone.
    fn lost(&mut self);
}

/// A packet that waits in its slot.
#[derive(Debug, Clone, Copy)]
struct Pending {
    slot: usize,
    length: usize,
    guest: GuestId,
    encapsulation: Encapsulation,
}

/// What judging left to do with one packet.
#[derive(Debug, Clone, Copy)]
struct Passed {
    length: usize,
    guest: GuestId,
    encapsulation: Encapsulation,
    offload: Option<Offload>,
}

/// A thread's buffers and its way out.
pub struct Lane<J> {
    judge: J,
    device: Arc<Device>,
    sender: Sender,
    paths: Reader<Paths>,
    entrance: Option<Entrance>,
    counters: Arc<Counters>,
    slots: Vec<u8>,
    /// The rest of what is longer than a slot; its first [`SLOT`] octets are free for what is in the slot.
    overflow: Vec<u8>,
    heads: Vec<u8>,
    pending: Vec<Pending>,
    used: bool,
    /// Whether the kernel reads from a TUN without waiting when asked to (not before Linux 6.4).
    reads_now: bool,
}

impl<J: Judge> Lane<J> {
    /// From `device` through `sender`; whole TCP and UDP packets through `entrance` where there is one.
    pub fn new(
        judge: J,
        device: Arc<Device>,
        sender: Sender,
        paths: Reader<Paths>,
        entrance: Option<Entrance>,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            judge,
            device,
            sender,
            paths,
            entrance,
            counters,
            slots: vec![0; BATCH * SLOT],
            overflow: vec![0; SLOT + LONGEST],
            heads: vec![0; BATCH * HEAD],
            pending: Vec::with_capacity(BATCH),
            used: false,
            reads_now: true,
        }
    }

    /// Goes on until the device is gone.
    pub fn run(&mut self) {
        let mut patience = Patience::default();
        loop {
            let waited = self.wait();
            self.release();
            if !waited {
                continue;
            }
            match self.take_batch() {
                Ok(()) => patience.renew(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if tap::is_gone(&error) => {
                    self.judge.lost();
                    return;
                }
                Err(error) => {
                    tracing::debug!(device = self.device.name(), %error, "cannot read");
                    thread::sleep(patience.take());
                }
            }
        }
    }

    /// Waits for something to read; false when held packets are due, or memory was given back.
    fn wait(&mut self) -> bool {
        let time = match (self.judge.is_holding(), self.used) {
            (true, _) => HOLD_TICK,
            (false, true) => IDLE,
            // Nothing to do meanwhile: the read itself waits.
            (false, false) => return true,
        };
        let milliseconds = u16::try_from(time.as_millis()).unwrap_or(u16::MAX);
        let mut source = [PollFd::new(self.device.as_fd(), PollFlags::POLLIN)];
        match poll(&mut source, PollTimeout::from(milliseconds)) {
            Ok(0) if !self.judge.is_holding() => {
                sys::release_pages(&mut self.slots);
                sys::release_pages(&mut self.overflow);
                sys::release_pages(&mut self.heads);
                self.used = false;
                false
            }
            Ok(ready) => ready > 0,
            Err(_) => true,
        }
    }

    /// Judges what was kept, in order.
    fn release(&mut self) {
        while let Some(frame) = self.judge.released(clock::now()) {
            if self.pending.len() == BATCH {
                self.flush();
            }
            let slot = self.pending.len();
            let (first, rest) = frame.split_at(frame.len().min(SLOT - READ_AT));
            let from = slot * SLOT + READ_AT;
            if let Some(to) = self.slots.get_mut(from..from + first.len()) {
                to.copy_from_slice(first);
            }
            if let Some(to) = self.overflow.get_mut(SLOT..SLOT + rest.len()) {
                to.copy_from_slice(rest);
            }
            self.take(frame.len());
        }
        self.flush();
    }

    /// Reads what is there, until there is nothing or the batch is full, and sends.
    fn take_batch(&mut self) -> io::Result<()> {
        let mut first = !self.used;
        self.used = true;
        let mut result = Ok(());
        for _ in 0..BATCH {
            match self.read(first) {
                Ok(length) => self.take(length),
                Err(error) if !first && error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
            first = false;
        }
        self.flush();
        result
    }

    fn read(&mut self, wait: bool) -> io::Result<usize> {
        let from = self.pending.len() * SLOT + READ_AT;
        let slot = self.slots.get_mut(from..from + SLOT - READ_AT).unwrap_or_default();
        let overflow = self.overflow.get_mut(SLOT..).unwrap_or_default();
        let mut parts = [IoSliceMut::new(slot), IoSliceMut::new(overflow)];
        if wait {
            return self.device.read_parts(&mut parts);
        }
        if self.reads_now {
            match self.device.read_now(&mut parts) {
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => self.reads_now = false,
                result => return result,
            }
        }
        // Nobody else reads here: what is ready stays so.
        let mut source = [PollFd::new(self.device.as_fd(), PollFlags::POLLIN)];
        match poll(&mut source, PollTimeout::ZERO) {
            Ok(0) => Err(io::Error::from(io::ErrorKind::WouldBlock)),
            _ => self.device.read_parts(&mut parts),
        }
    }

    /// Has the next slot's frame of `length` octets judged, and sends it or lets it wait for others.
    fn take(&mut self, length: usize) {
        let slot = self.pending.len();
        let in_slot = length <= SLOT - READ_AT;
        let from = slot * SLOT + READ_AT;
        if !in_slot
            && let Some(start) = self.slots.get(from..(slot + 1) * SLOT)
            && let Some(to) = self.overflow.get_mut(READ_AT..SLOT)
        {
            to.copy_from_slice(start);
        }
        let (buffer, from) = if in_slot { (&mut self.slots, from) } else { (&mut self.overflow, READ_AT) };
        let Some(read) = buffer.get_mut(from..from + length) else { return };
        let Some((header, frame)) = read.split_at_mut_checked(VNET_HEADER_LENGTH) else { return };
        let offload = vnet::parse(header, J::LINK_HEADER as u16);
        let Some(forward) = self.judge.judge(frame, offload, self.paths.get(), clock::now()) else { return };
        let passed = Passed {
            length: forward.packet.len(),
            guest: forward.guest,
            encapsulation: Encapsulation {
                ends: Ends { source: forward.source, destination: forward.destination },
                traffic_class: forward.traffic_class,
                flow_label: forward.flow_label,
            },
            offload: forward.offload,
        };
        let packet = from + VNET_HEADER_LENGTH + J::LINK_HEADER;
        match passed.offload {
            Some(Offload { segments: Some(_), .. }) => {
                self.flush_behind(slot);
                self.send_whole(passed, in_slot, packet);
            }
            offload => {
                let octets = buffer.get_mut(packet..packet + passed.length).unwrap_or_default();
                if let Some(offload) = offload
                    && let Err(reason) = segment::complete_checksum(octets, &offload)
                {
                    return self.counters.count(reason);
                }
                let Passed { length, guest, encapsulation, .. } = passed;
                if in_slot {
                    self.pending.push(Pending { slot, length, guest, encapsulation });
                } else {
                    self.flush_behind(slot);
                    self.send_long(passed, packet);
                }
            }
        }
    }

    /// Sends what waits, so that what comes next stays behind it.
    fn flush_behind(&mut self, slot: usize) {
        if slot > 0 {
            self.flush();
        }
    }

    /// Sends what waits.
    fn flush(&mut self) {
        let paths = self.paths.get();
        for Pending { slot, length, encapsulation, .. } in &self.pending {
            let from = slot * SLOT + READ_AT + VNET_HEADER_LENGTH + J::LINK_HEADER - ROOM;
            let next_hop = next_hop(paths.get(encapsulation.ends));
            encapsulation.write(self.slots.get_mut(from..).unwrap_or_default(), next_hop, *length);
        }
        let mut at = 0;
        while at < self.pending.len() {
            let pieces: Vec<_> = self
                .pending
                .iter()
                .skip(at)
                .map(|Pending { slot, length, encapsulation, .. }| {
                    let from = slot * SLOT + READ_AT + VNET_HEADER_LENGTH + J::LINK_HEADER - ROOM;
                    let head = self.slots.get(from..from + ROOM + length).unwrap_or_default();
                    Piece {
                        encapsulation: *encapsulation,
                        next_hop: next_hop(paths.get(encapsulation.ends)),
                        head,
                        rest: &[],
                    }
                })
                .collect();
            match self.sender.send(&pieces) {
                Ok(()) => break,
                Err(TooBig { piece, mtu }) => {
                    at += piece;
                    if let Some(Pending { slot, length, guest, .. }) = self.pending.get(at) {
                        let from = slot * SLOT + READ_AT + VNET_HEADER_LENGTH + J::LINK_HEADER;
                        let packet = self.slots.get_mut(from..from + length).unwrap_or_default();
                        self.judge.too_big(packet, *guest, None, mtu, clock::now());
                    }
                    at += 1;
                }
            }
        }
        self.pending.clear();
    }

    /// Sends a packet in the overflow that is longer than a slot and is not to be cut.
    fn send_long(&mut self, passed: Passed, packet: usize) {
        let next_hop = next_hop(self.paths.get().get(passed.encapsulation.ends));
        let (Some(head), Some(rest)) =
            (self.heads.get_mut(..ROOM), self.overflow.get_mut(packet..packet + passed.length))
        else {
            return;
        };
        passed.encapsulation.write(head, next_hop, rest.len());
        let piece = Piece { encapsulation: passed.encapsulation, next_hop, head, rest };
        if let Err(TooBig { mtu, .. }) = self.sender.send(&[piece]) {
            self.judge.too_big(rest, passed.guest, None, mtu, clock::now());
        }
    }

    /// Hands a whole packet to the kernel, or cuts it and sends the pieces.
    fn send_whole(&mut self, passed: Passed, in_slot: bool, from: usize) {
        let buffer = if in_slot { &mut self.slots } else { &mut self.overflow };
        let (Some(packet), Some(offload)) = (buffer.get_mut(from..from + passed.length), passed.offload) else {
            return;
        };
        let paths = self.paths.get();
        let path = paths.get(passed.encapsulation.ends);
        if let Some(entrance) = &self.entrance
            && path.is_some_and(|path| path.encapsulates)
            && may_be_routed(packet, &offload, paths)
            && entrance.write(packet, &offload).is_ok()
        {
            return self.counters.count_left_whole();
        }
        let next_hop = next_hop(path);
        let segmentation = match Segmentation::new(packet, &offload) {
            Ok(segmentation) => segmentation,
            Err(reason) => return self.counters.count(reason),
        };
        self.counters.count_cut();
        let count = segmentation.count();
        let mut at = 0;
        while at < count {
            let batch = (count - at).min(BATCH);
            let mut lengths = [0; BATCH];
            for ((n, head), length) in (at..).zip(self.heads.chunks_exact_mut(HEAD)).zip(&mut lengths).take(batch) {
                let Some((room, headers)) = head.split_at_mut_checked(ROOM) else { return };
                match segmentation.write_headers(n, headers) {
                    Ok(written) => *length = written,
                    Err(reason) => return self.counters.count(reason),
                }
                passed.encapsulation.write(room, next_hop, *length + segmentation.payload(n).len());
            }
            let mut pieces = [Piece { encapsulation: passed.encapsulation, next_hop, head: &[], rest: &[] }; BATCH];
            let heads = self.heads.chunks_exact(HEAD).zip(&lengths);
            for ((piece, (head, length)), n) in pieces.iter_mut().zip(heads).zip(at..).take(batch) {
                piece.head = head.get(..ROOM + length).unwrap_or_default();
                piece.rest = segmentation.payload(n);
            }
            if let Err(TooBig { mtu, .. }) = self.sender.send(pieces.get(..batch).unwrap_or_default()) {
                return self.judge.too_big(packet, passed.guest, Some(offload), mtu, clock::now());
            }
            at += batch;
        }
    }
}

fn next_hop(path: Option<&Path>) -> Option<&super::paths::NextHop> {
    path?.next_hop.as_ref()
}

/// Whether the kernel's routing takes a whole packet to the tunnel: plain TCP or UDP, far from the end of its hop limit, and not to
/// this host itself.
fn may_be_routed(packet: &[u8], offload: &Offload, paths: &Paths) -> bool {
    let destination = address_at(packet, ipv6::offset::DESTINATION);
    usize::from(offload.checksum_start) == ipv6::HEADER_LENGTH
        && packet.get(ipv6::offset::HOP_LIMIT).is_some_and(|hop_limit| *hop_limit >= SUPER_HOP_LIMIT)
        && destination.is_some_and(|address| !paths.is_own(address))
}
