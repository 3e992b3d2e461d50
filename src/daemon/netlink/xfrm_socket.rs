//! The socket of the XFRM client: requests that go out together, dumps, and the kernel's answers. Blocking, with time limits. Messages are
//! wiped and never logged: they hold keys.

use std::io;
use std::time::Duration;

use netlink_packet_core::{
    DecodeError, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_xfrm::XfrmMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_XFRM};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use zeroize::Zeroizing;

use super::xfrm_codec as codec;
use super::{Refusal, extended_text};

/// The kernel answers while `send` runs; the limit is for the day it does not.
const TIME_LIMIT: Duration = Duration::from_secs(2);
/// The kernel fills dumps up to the size of the reader's buffer, and up to 32 KiB.
const RECEIVE_BUFFER: usize = 64 * 1024;
/// How often a dump that was interrupted by a change is made again.
const DUMP_ATTEMPTS: usize = 5;
/// Requests that go out with one `send`, and their octets: the socket must hold an answer to each of them at once.
const BATCH: usize = 64;
const BATCH_OCTETS: usize = 64 * 1024;
/// What the kernel takes of a socket's receive buffer for an answer with an object in it, with room to spare.
const ANSWER_OCTETS: usize = 16 * 1024;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_HEADER_LENGTH: usize = 16;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;

/// Errors of the XFRM client.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No socket.
    #[error("cannot open an XFRM netlink socket ({0}): the kernel needs XFRM_USER (`modprobe xfrm_user`)")]
    Open(#[source] io::Error),
    /// Sending or receiving failed, or took too long.
    #[error("XFRM netlink: {0}")]
    Socket(#[source] io::Error),
    /// The kernel refused the request.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// The answer makes no sense.
    #[error("XFRM netlink: the kernel's answer is malformed: {0}")]
    Malformed(String),
    /// The tables changed all the time during dumps.
    #[error("XFRM netlink: no consistent dump in {DUMP_ATTEMPTS} attempts, another program is changing the tables")]
    Interrupted,
}

impl From<DecodeError> for Error {
    fn from(error: DecodeError) -> Self {
        Self::Malformed(error.to_string())
    }
}

/// A request with its flags beside `NLM_F_REQUEST`.
pub(super) type Request = (XfrmMessage, u16);

#[derive(Debug)]
pub(super) struct XfrmSocket {
    socket: Socket,
    sequence: u32,
    port: u32,
}

impl XfrmSocket {
    pub(super) fn open() -> Result<Self, Error> {
        let mut socket = Socket::new(NETLINK_XFRM).map_err(Error::Open)?;
        let port = configure(&mut socket).map_err(Error::Socket)?;
        Ok(Self { socket, sequence: 0, port })
    }

    /// The port by which the kernel names this socket in notifications about what it did.
    pub(super) fn port(&self) -> u32 {
        self.port
    }

    /// Sends requests, many with one system call, and says of each whether the kernel refused it. `answer` is shown the messages
    /// that answer a request: its place, their type and payload.
    pub(super) fn exchange(
        &mut self,
        requests: Vec<Request>,
        mut answer: impl FnMut(usize, u16, &[u8]) -> Result<(), Error>,
    ) -> Result<Vec<Option<Refusal>>, Error> {
        let mut refusals = vec![None; requests.len()];
        let mut requests = requests.into_iter().peekable();
        let mut first = 0;
        while requests.peek().is_some() {
            let base = self.sequence;
            let sent = self.send_batch(&mut requests)?;
            let mut buffer = receive_buffer();
            let mut done = false;
            while !done {
                self.receive(&mut buffer)?;
                done = split(&buffer, |message| {
                    let place = message.sequence.wrapping_sub(base).wrapping_sub(1) as usize;
                    if place >= sent {
                        return Ok(false);
                    }
                    if message.kind != NLMSG_ERROR {
                        answer(first + place, message.kind, message.payload)?;
                        return Ok(false);
                    }
                    match acknowledgement(message) {
                        Ok(()) => {}
                        Err(Error::Refused(refusal)) => {
                            if let Some(slot) = refusals.get_mut(first + place) {
                                *slot = Some(refusal);
                            }
                        }
                        Err(error) => return Err(error),
                    }
                    // Only the last one asked for an acknowledgement, and the kernel takes them in order.
                    Ok(place + 1 == sent)
                })?;
            }
            first += sent;
        }
        Ok(refusals)
    }

    /// Sends the next requests, as many as go together; gives their number. Errors come for each of them, an acknowledgement for the last.
    fn send_batch(
        &mut self,
        requests: &mut std::iter::Peekable<impl Iterator<Item = Request>>,
    ) -> Result<usize, Error> {
        let mut batch = Zeroizing::new(Vec::with_capacity(BATCH_OCTETS));
        let (mut sent, mut last) = (0, 0);
        while let Some((message, flags)) = requests.next_if(|(message, _)| {
            use netlink_packet_core::Emitable;
            let length = (NLMSG_HEADER_LENGTH + message.buffer_len()).next_multiple_of(4);
            // One that is larger than all goes alone.
            sent == 0 || sent < BATCH && batch.len() + length <= BATCH_OCTETS
        }) {
            last = batch.len();
            self.emit(message, NLM_F_REQUEST | flags, &mut batch);
            sent += 1;
        }
        if let Some(flags) = batch.get_mut(last + 6..last + 8) {
            let with_ack = u16::from_ne_bytes([flags[0], flags[1]]) | NLM_F_ACK;
            flags.copy_from_slice(&with_ack.to_ne_bytes());
        }
        self.socket.send(&batch, 0).map_err(Error::Socket)?;
        Ok(sent)
    }

    /// Dumps a table and folds what is found into a state. One that was interrupted by a change is made again from the beginning.
    pub(super) fn dump<S: Default>(
        &mut self,
        request: &XfrmMessage,
        kind: u16,
        mut each: impl FnMut(&mut S, &[u8]) -> Result<(), Error>,
    ) -> Result<S, Error> {
        let mut buffer = receive_buffer();
        for _ in 0..DUMP_ATTEMPTS {
            let mut batch = Zeroizing::new(Vec::new());
            self.emit(request.clone(), NLM_F_REQUEST | NLM_F_DUMP, &mut batch);
            self.socket.send(&batch, 0).map_err(Error::Socket)?;
            let (mut done, mut interrupted, mut state) = (false, false, S::default());
            let sequence = self.sequence;
            while !done {
                self.receive(&mut buffer)?;
                done = split(&buffer, |message| {
                    if message.sequence != sequence {
                        return Ok(false);
                    }
                    interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                    match message.kind {
                        NLMSG_DONE => dump_end(message).map(|()| true),
                        NLMSG_ERROR => acknowledgement(message).map(|()| true),
                        other if other == kind => each(&mut state, message.payload).map(|()| false),
                        _ => Ok(false),
                    }
                })?;
            }
            if !interrupted {
                return Ok(state);
            }
        }
        Err(Error::Interrupted)
    }

    /// Appends a request to a buffer and wipes it.
    fn emit(&mut self, message: XfrmMessage, flags: u16, buffer: &mut Zeroizing<Vec<u8>>) {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::new(Default::default(), NetlinkPayload::InnerMessage(message));
        message.header.flags = flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let (start, length) = (buffer.len(), message.buffer_len());
        // Within the capacity, or the first: nothing moves and leaves a copy behind.
        buffer.resize(start + length.next_multiple_of(4), 0);
        if let Some(place) = buffer.get_mut(start..start + length) {
            message.serialize(place);
        }
        if let NetlinkPayload::InnerMessage(message) = &mut message.payload {
            codec::wipe(message);
        }
    }

    /// Reads one datagram into the buffer, over the one before; the buffer wipes itself when it is dropped.
    fn receive(&self, buffer: &mut Zeroizing<Vec<u8>>) -> Result<(), Error> {
        buffer.clear();
        let received = self.socket.recv(&mut **buffer, 0).map_err(|error| {
            let late = error.kind() == io::ErrorKind::WouldBlock;
            Error::Socket(if late {
                io::Error::new(io::ErrorKind::TimedOut, "no answer from the kernel")
            } else {
                error
            })
        })?;
        if received > buffer.len() {
            return Err(Error::Malformed(format!("a datagram of {received} octets is longer than any should be")));
        }
        Ok(())
    }
}

fn receive_buffer() -> Zeroizing<Vec<u8>> {
    Zeroizing::new(Vec::with_capacity(RECEIVE_BUFFER))
}

fn configure(socket: &mut Socket) -> io::Result<u32> {
    let limit = TimeVal::milliseconds(i64::try_from(TIME_LIMIT.as_millis()).unwrap_or(i64::MAX));
    socket.bind(&SocketAddr::new(0, 0))?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.set_ext_ack(true)?;
    // Errors without the request in them: it holds keys.
    socket.set_cap_ack(true)?;
    // Needs CAP_NET_ADMIN, as all that follows does; without it the kernel refuses that with a better message.
    let _ = setsockopt(&*socket, sockopt::RcvBufForce, &(BATCH * ANSWER_OCTETS));
    setsockopt(&*socket, sockopt::ReceiveTimeout, &limit)?;
    setsockopt(&*socket, sockopt::SendTimeout, &limit)?;
    let mut address = SocketAddr::new(0, 0);
    socket.get_address(&mut address)?;
    Ok(address.port_number())
}

/// One message of a datagram.
struct Received<'a> {
    sequence: u32,
    kind: u16,
    flags: u16,
    payload: &'a [u8],
}

/// Shows each message of a datagram, until one says that it was the last.
fn split(mut bytes: &[u8], mut each: impl FnMut(&Received<'_>) -> Result<bool, Error>) -> Result<bool, Error> {
    while !bytes.is_empty() {
        let message = NetlinkBuffer::new_checked(bytes)?;
        let length = message.length() as usize;
        let received = Received {
            sequence: message.sequence_number(),
            kind: message.message_type(),
            flags: message.flags(),
            payload: message.payload(),
        };
        if each(&received)? {
            return Ok(true);
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// Reads an `NLMSG_ERROR`: an error number, the header of the request (alone, as we asked for), attributes.
fn acknowledgement(message: &Received<'_>) -> Result<(), Error> {
    let (code, rest) = error_code(message.payload)?;
    if code == 0 {
        return Ok(());
    }
    let request = if message.flags & NLM_F_CAPPED != 0 {
        NLMSG_HEADER_LENGTH
    } else {
        NetlinkBuffer::new_checked(rest).map_or(rest.len(), |b| (b.length() as usize).next_multiple_of(4))
    };
    let attributes = rest.get(request..).filter(|_| message.flags & NLM_F_ACK_TLVS != 0);
    Err(Refusal { errno: code.saturating_neg(), text: attributes.and_then(extended_text) }.into())
}

/// Reads an `NLMSG_DONE`, which may carry an error number.
fn dump_end(message: &Received<'_>) -> Result<(), Error> {
    match error_code(message.payload) {
        Ok((code, _)) if code < 0 => Err(Refusal { errno: code.saturating_neg(), text: None }.into()),
        _ => Ok(()),
    }
}

fn error_code(payload: &[u8]) -> Result<(i32, &[u8]), Error> {
    let (code, rest) = payload
        .split_first_chunk::<4>()
        .ok_or_else(|| Error::Malformed("an acknowledgement without a code".to_owned()))?;
    Ok((i32::from_ne_bytes(*code), rest))
}
