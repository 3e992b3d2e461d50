//! XFRM client: what the kernel holds, all of it or some objects, and changes, many of them together.

use std::collections::BTreeMap;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_xfrm::{XFRM_MSG_NEWPOLICY, XFRM_MSG_NEWSA, XfrmMessage};

use super::Refusal;
use super::xfrm_codec::{self as codec, ObservedAssociation, ObservedPolicy};
pub use super::xfrm_socket::Error;
use super::xfrm_socket::{Request, XfrmSocket};
use super::{xfrm_holder as holder, xfrm_names as names};
use crate::ipsec::{AssociationKey, PolicyKey, ReplayState, SecurityAssociation, SecurityPolicy};
use crate::kernel_state::{KernelState, Migration};

/// A client in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Client {
    pub(super) socket: XfrmSocket,
}

/// One request of change.
#[derive(Debug, Clone, Copy)]
pub enum Change<'a> {
    /// A policy that was not there. `EEXIST` when another program has one with the same selector.
    AddPolicy(&'a SecurityPolicy),
    /// Another action or other templates, in one go.
    UpdatePolicy(&'a SecurityPolicy),
    /// None there is fine.
    RemovePolicy(&'a PolicyKey),
    /// An association whose sequence numbers go on from there. A route optimization state that appeared meanwhile (an ACQUIRE makes larval
    /// ones) is updated. `ENOENT` or `ENOSYS` also for a missing algorithm or protocol module.
    AddAssociation(&'a SecurityAssociation, ReplayState),
    /// Another care-of address for a route optimization state, in place; it is made when it has gone meanwhile.
    UpdateAssociation(&'a SecurityAssociation),
    /// None there is fine.
    RemoveAssociation(&'a AssociationKey),
    /// Other ends for a policy of a tunnel and the SA that serves it, which goes on with its sequence numbers. `ENOENT` without such a
    /// policy, `ENODATA` when its template has other ends, `ENOPROTOOPT` without `CONFIG_XFRM_MIGRATE`.
    Migrate(&'a Migration),
}

impl Change<'_> {
    fn request(self) -> Request {
        match self {
            Self::AddPolicy(policy) => (codec::put_policy(policy, false), NLM_F_CREATE | NLM_F_EXCL),
            Self::UpdatePolicy(policy) => (codec::put_policy(policy, true), 0),
            Self::RemovePolicy(key) => (codec::delete_policy(key), 0),
            Self::AddAssociation(sa, replay) => (codec::add_association(sa, replay), NLM_F_CREATE | NLM_F_EXCL),
            Self::UpdateAssociation(sa) => (codec::put_association(sa, true), 0),
            Self::RemoveAssociation(key) => (codec::delete_association(key), 0),
            Self::Migrate(migration) => (codec::migrate(migration), 0),
        }
    }

    /// What to ask instead, when the object has come or gone since the tables were read.
    fn other_way(self, refusal: &Refusal) -> Option<Request> {
        match (self, refusal.errno) {
            (Self::AddAssociation(sa, _), libc::EEXIST) if sa.key.spi == 0 => {
                Some((codec::put_association(sa, true), 0))
            }
            (Self::UpdateAssociation(sa), libc::ESRCH) => {
                Some((codec::put_association(sa, false), NLM_F_CREATE | NLM_F_EXCL))
            }
            _ => None,
        }
    }

    fn is_done_by(self, refusal: &Refusal) -> bool {
        matches!(self, Self::RemovePolicy(_) | Self::RemoveAssociation(_))
            && matches!(refusal.errno, libc::ENOENT | libc::ESRCH)
    }
}

impl Client {
    /// Opens a socket.
    ///
    /// # Errors
    /// The kernel has no XFRM netlink, or a socket option is refused.
    pub fn open() -> Result<Self, Error> {
        Ok(Self { socket: XfrmSocket::open()? })
    }

    /// The port by which the kernel names this client in notifications about what it did.
    pub fn port(&self) -> u32 {
        self.socket.port()
    }

    /// All IPv6 associations and all MAIN policies that we have words for.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn observe(&mut self) -> Result<KernelState, Error> {
        let states = XfrmMessage::GetDumpSa(Default::default());
        let mut state: KernelState = self.socket.dump(&states, XFRM_MSG_NEWSA, add_association)?;
        let policies = XfrmMessage::GetPolicy(Default::default());
        let found: KernelState = self.socket.dump(&policies, XFRM_MSG_NEWPOLICY, add_policy)?;
        (state.policies, state.foreign_policies) = (found.policies, found.foreign_policies);
        Ok(state)
    }

    /// Of the associations and policies under these names those that are there, without reading any others.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn read(&mut self, named: &[&KernelState]) -> Result<KernelState, Error> {
        let associations = names::associations(named).into_iter().map(codec::get_association);
        let policies = names::policies(named).into_iter().map(names::get_policy);
        let requests = associations.chain(policies).map(|message| (message, 0)).collect();
        let mut state = KernelState::default();
        let refusals = self.socket.exchange(requests, |_, kind, payload| match kind {
            XFRM_MSG_NEWSA => add_association(&mut state, payload),
            XFRM_MSG_NEWPOLICY => add_policy(&mut state, payload),
            _ => Ok(()),
        })?;
        let absent = |refusal: &Refusal| matches!(refusal.errno, libc::ENOENT | libc::ESRCH);
        match refusals.into_iter().flatten().find(|refusal| !absent(refusal)) {
            Some(refusal) => Err(refusal.into()),
            None => Ok(state),
        }
    }

    /// The names of the MAIN policies that we have words for.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn policy_keys(&mut self) -> Result<Vec<PolicyKey>, Error> {
        let policies = XfrmMessage::GetPolicy(Default::default());
        self.socket.dump(&policies, XFRM_MSG_NEWPOLICY, |found: &mut Vec<_>, payload| {
            match codec::parse_policy(payload)? {
                ObservedPolicy::Known(policy) => found.push(policy.key),
                ObservedPolicy::Foreign(key) => found.push(key),
                ObservedPolicy::Alien => {}
            }
            Ok(())
        })
    }

    /// Where the sequence numbers of all ESP associations stand.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn replay_states(&mut self) -> Result<BTreeMap<AssociationKey, ReplayState>, Error> {
        let states = XfrmMessage::GetDumpSa(Default::default());
        self.socket.dump(&states, XFRM_MSG_NEWSA, |found: &mut BTreeMap<_, _>, payload| {
            found.extend(codec::parse_replay_state(payload)?);
            Ok(())
        })
    }

    /// Makes changes in their order, and says of each what the kernel refused. One that is refused holds up no other.
    ///
    /// # Errors
    /// The kernel does not answer; what it was given before may be done.
    pub fn change(&mut self, changes: &[Change<'_>]) -> Result<Vec<Option<Refusal>>, Error> {
        let requests = changes.iter().map(|change| change.request()).collect();
        let mut refusals = self.socket.exchange(requests, |_, _, _| Ok(()))?;
        let mut again = vec![];
        for (place, (change, slot)) in changes.iter().zip(&mut refusals).enumerate() {
            let Some(refusal) = slot else { continue };
            if change.is_done_by(refusal) {
                *slot = None;
            } else if let Some(request) = change.other_way(refusal) {
                again.push((place, request));
            }
        }
        let (places, requests): (Vec<_>, Vec<_>) = again.into_iter().unzip();
        for (place, refusal) in places.into_iter().zip(self.socket.exchange(requests, |_, _, _| Ok(()))?) {
            if let Some(slot) = refusals.get_mut(place) {
                *slot = refusal;
            }
        }
        Ok(refusals)
    }

    /// Which object of another program is in the way of one that is to be added, in the words of `ip xfrm` and without keys. None when it has
    /// gone.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn holder(&mut self, change: Change<'_>) -> Result<Option<String>, Error> {
        let request = match change {
            Change::AddAssociation(sa, _) => codec::get_association(&sa.key),
            Change::AddPolicy(policy) => names::get_policy(&policy.key),
            _ => return Ok(None),
        };
        let mut found = None;
        self.socket.exchange(vec![(request, 0)], |_, kind, payload| {
            match kind {
                XFRM_MSG_NEWSA => found = Some(holder::association(payload)?),
                XFRM_MSG_NEWPOLICY => found = Some(holder::policy(payload)?),
                _ => {}
            }
            Ok(())
        })?;
        Ok(found)
    }
}

fn add_association(state: &mut KernelState, payload: &[u8]) -> Result<(), Error> {
    match codec::parse_association(payload)? {
        Some(ObservedAssociation::Known(sa)) => drop(state.associations.insert(sa.key, sa)),
        Some(ObservedAssociation::Foreign(key)) => drop(state.foreign_associations.insert(key)),
        None => {}
    }
    Ok(())
}

fn add_policy(state: &mut KernelState, payload: &[u8]) -> Result<(), Error> {
    match codec::parse_policy(payload)? {
        ObservedPolicy::Known(policy) => drop(state.policies.insert(policy.key, policy)),
        ObservedPolicy::Foreign(key) => drop(state.foreign_policies.insert(key)),
        ObservedPolicy::Alien => {}
    }
    Ok(())
}
