//! XFRM client: blocking, with time limits, one request at a time. Messages are wiped and never logged: they hold keys.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_xfrm::{XFRM_MSG_NEWPOLICY, XFRM_MSG_NEWSA, XfrmMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_XFRM};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use zeroize::Zeroize;

use super::xfrm_codec::{self as codec, ObservedAssociation, ObservedPolicy};
use super::{Refusal, extended_text};
use crate::ipsec::{AssociationKey, PolicyKey, ReplayState, SecurityAssociation, SecurityPolicy};
use crate::kernel_state::KernelState;

/// The kernel answers while `send` runs; the limit is for the day it does not.
const TIME_LIMIT: Duration = Duration::from_secs(2);
/// The kernel fills dumps up to the size of the reader's buffer.
const RECEIVE_BUFFER: usize = 64 * 1024;
/// How often a dump that was interrupted by a change is made again.
const DUMP_ATTEMPTS: usize = 5;

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

impl Error {
    fn is(&self, errno: i32) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.errno == errno)
    }
}

/// A client in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Client {
    socket: Socket,
    sequence: u32,
}

impl Client {
    /// Opens a socket.
    ///
    /// # Errors
    /// The kernel has no XFRM netlink, or a socket option is refused.
    pub fn open() -> Result<Self, Error> {
        let mut socket = Socket::new(NETLINK_XFRM).map_err(Error::Open)?;
        configure(&mut socket).map_err(Error::Socket)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// All IPv6 associations and all MAIN policies that we have words for.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn observe(&mut self) -> Result<KernelState, Error> {
        let mut state = KernelState::default();
        let states = XfrmMessage::GetDumpSa(Default::default());
        for observed in self.dump(states, XFRM_MSG_NEWSA, codec::parse_association)?.into_iter().flatten() {
            match observed {
                ObservedAssociation::Known(sa) => drop(state.associations.insert(sa.key, sa)),
                ObservedAssociation::Foreign(key) => drop(state.foreign_associations.insert(key)),
            }
        }
        let policies = XfrmMessage::GetPolicy(Default::default());
        for observed in self.dump(policies, XFRM_MSG_NEWPOLICY, codec::parse_policy)? {
            match observed {
                ObservedPolicy::Known(policy) => drop(state.policies.insert(policy.key, policy)),
                ObservedPolicy::Foreign(key) => drop(state.foreign_policies.insert(key)),
                ObservedPolicy::Alien => {}
            }
        }
        Ok(state)
    }

    /// The MAIN policies that we have words for.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn policy_keys(&mut self) -> Result<Vec<PolicyKey>, Error> {
        let policies =
            self.dump(XfrmMessage::GetPolicy(Default::default()), XFRM_MSG_NEWPOLICY, codec::parse_policy)?;
        let keys = policies.into_iter().filter_map(|observed| match observed {
            ObservedPolicy::Known(policy) => Some(policy.key),
            ObservedPolicy::Foreign(key) => Some(key),
            ObservedPolicy::Alien => None,
        });
        Ok(keys.collect())
    }

    /// Where the sequence numbers of all ESP associations stand.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn replay_states(&mut self) -> Result<BTreeMap<AssociationKey, ReplayState>, Error> {
        let states = XfrmMessage::GetDumpSa(Default::default());
        Ok(self.dump(states, XFRM_MSG_NEWSA, codec::parse_replay_state)?.into_iter().flatten().collect())
    }

    /// Adds an association whose sequence numbers go on from `replay`. A route optimization state that appeared meanwhile (an ACQUIRE makes larval ones) is updated.
    ///
    /// # Errors
    /// The kernel refuses; `ENOENT` or `ENOSYS` also for a missing algorithm or protocol module.
    pub fn add_association(&mut self, sa: &SecurityAssociation, replay: ReplayState) -> Result<(), Error> {
        match self.request(codec::add_association(sa, replay), NLM_F_CREATE | NLM_F_EXCL) {
            Err(error) if error.is(libc::EEXIST) && sa.key.spi == 0 => {
                self.request(codec::put_association(sa, true), 0)
            }
            other => other,
        }
    }

    /// Gives a route optimization state another care-of address, in place; makes it when it has gone meanwhile.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn update_association(&mut self, sa: &SecurityAssociation) -> Result<(), Error> {
        match self.request(codec::put_association(sa, true), 0) {
            Err(error) if error.is(libc::ESRCH) => {
                self.request(codec::put_association(sa, false), NLM_F_CREATE | NLM_F_EXCL)
            }
            other => other,
        }
    }

    /// Removes an association; none there is fine.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn remove_association(&mut self, key: &AssociationKey) -> Result<(), Error> {
        absent_is_fine(self.request(codec::delete_association(key), 0))
    }

    /// Adds a policy.
    ///
    /// # Errors
    /// The kernel refuses; `EEXIST` when another program has one with the same selector.
    pub fn add_policy(&mut self, policy: &SecurityPolicy) -> Result<(), Error> {
        self.request(codec::put_policy(policy, false), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Gives a policy another action or other templates, in one go.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn update_policy(&mut self, policy: &SecurityPolicy) -> Result<(), Error> {
        self.request(codec::put_policy(policy, true), 0)
    }

    /// Removes a policy; none there is fine.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn remove_policy(&mut self, key: &PolicyKey) -> Result<(), Error> {
        absent_is_fine(self.request(codec::delete_policy(key), 0))
    }

    fn request(&mut self, message: XfrmMessage, flags: u16) -> Result<(), Error> {
        self.send(message, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        let mut done = false;
        while !done {
            done = self.receive(|message| match message.kind {
                NLMSG_ERROR => acknowledgement(message).map(|()| true),
                _ => Ok(false),
            })?;
        }
        Ok(())
    }

    fn dump<T>(
        &mut self,
        request: XfrmMessage,
        kind: u16,
        parse: impl Fn(&[u8]) -> Result<T, netlink_packet_core::DecodeError>,
    ) -> Result<Vec<T>, Error> {
        for _ in 0..DUMP_ATTEMPTS {
            self.send(request.clone(), NLM_F_REQUEST | NLM_F_DUMP)?;
            let (mut done, mut interrupted, mut found) = (false, false, vec![]);
            while !done {
                done = self.receive(|message| {
                    interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                    match message.kind {
                        NLMSG_DONE => return dump_end(message).map(|()| true),
                        NLMSG_ERROR => return acknowledgement(message).map(|()| true),
                        other if other == kind => {
                            found.push(parse(message.payload).map_err(|e| Error::Malformed(e.to_string()))?);
                        }
                        _ => {}
                    }
                    Ok(false)
                })?;
            }
            if !interrupted {
                return Ok(found);
            }
        }
        Err(Error::Interrupted)
    }

    fn send(&mut self, message: XfrmMessage, flags: u16) -> Result<(), Error> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::new(Default::default(), NetlinkPayload::InnerMessage(message));
        message.header.flags = flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut buffer = vec![0; message.buffer_len()];
        message.serialize(&mut buffer);
        let sent = self.socket.send(&buffer, 0);
        buffer.zeroize();
        if let NetlinkPayload::InnerMessage(message) = &mut message.payload {
            codec::wipe(message);
        }
        sent.map(drop).map_err(Error::Socket)
    }

    /// Reads one datagram and shows each message that answers the last request, until one says that it was the last.
    fn receive(&mut self, mut each: impl FnMut(&Received<'_>) -> Result<bool, Error>) -> Result<bool, Error> {
        let mut buffer = Vec::with_capacity(RECEIVE_BUFFER);
        let received = self.socket.recv(&mut buffer, 0).map_err(|error| {
            let late = error.kind() == io::ErrorKind::WouldBlock;
            Error::Socket(if late {
                io::Error::new(io::ErrorKind::TimedOut, "no answer from the kernel")
            } else {
                error
            })
        });
        let result = received.and_then(|_| split(&buffer, self.sequence, &mut each));
        buffer.zeroize();
        result
    }
}

fn configure(socket: &mut Socket) -> io::Result<()> {
    let limit = TimeVal::milliseconds(i64::try_from(TIME_LIMIT.as_millis()).unwrap_or(i64::MAX));
    socket.bind(&SocketAddr::new(0, 0))?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.set_ext_ack(true)?;
    // Errors without the request in them: it holds keys.
    socket.set_cap_ack(true)?;
    setsockopt(&*socket, sockopt::ReceiveTimeout, &limit)?;
    setsockopt(&*socket, sockopt::SendTimeout, &limit)?;
    Ok(())
}

/// One message of a datagram.
struct Received<'a> {
    kind: u16,
    flags: u16,
    payload: &'a [u8],
}

fn split(
    mut bytes: &[u8],
    sequence: u32,
    each: &mut impl FnMut(&Received<'_>) -> Result<bool, Error>,
) -> Result<bool, Error> {
    while !bytes.is_empty() {
        let message = NetlinkBuffer::new_checked(bytes).map_err(|e| Error::Malformed(e.to_string()))?;
        let length = message.length() as usize;
        let received = Received { kind: message.message_type(), flags: message.flags(), payload: message.payload() };
        if message.sequence_number() == sequence && each(&received)? {
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

fn absent_is_fine(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(error) if error.is(libc::ENOENT) || error.is(libc::ESRCH) => Ok(()),
        other => other,
    }
}
