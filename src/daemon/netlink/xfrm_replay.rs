//! Sequence numbers of one SA: read, and set while it is in use.

use netlink_packet_core::NLM_F_REPLACE;
use netlink_packet_xfrm as nl;
use netlink_packet_xfrm::{XFRM_MSG_NEWSA, XfrmMessage};

use super::xfrm::{Client, Error};
use super::xfrm_codec as codec;
use crate::ipsec::{AssociationKey, Esp, ReplayState};

impl Client {
    /// Where the sequence numbers of one ESP SA stand; none when it is not there.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn replay_state(&mut self, key: &AssociationKey) -> Result<Option<ReplayState>, Error> {
        let mut found = None;
        let asked = vec![(codec::get_association(key), 0)];
        let refusals = self.socket.exchange(asked, |_, kind, payload| {
            if kind == XFRM_MSG_NEWSA {
                found = codec::parse_replay_state(payload)?;
            }
            Ok(())
        })?;
        match refusals.into_iter().flatten().next() {
            None => Ok(found.filter(|(observed, _)| observed == key).map(|(_, state)| state)),
            Some(refusal) if refusal.errno == libc::ESRCH => Ok(None),
            Some(refusal) => Err(refusal.into()),
        }
    }

    /// Lets the sequence numbers of an ESP SA go on from `state`. What was received up to `state.input` counts as seen.
    ///
    /// # Errors
    /// The kernel refuses; `ESRCH` when there is no such SA, `EINVAL` when it has another replay window.
    pub fn set_replay_state(&mut self, key: &AssociationKey, esp: &Esp, state: ReplayState) -> Result<(), Error> {
        let asked = vec![(set_replay_state(key, esp, state), NLM_F_REPLACE)];
        let refusals = self.socket.exchange(asked, |_, _, _| Ok(()))?;
        refusals.into_iter().flatten().next().map_or(Ok(()), |refusal| Err(refusal.into()))
    }
}

fn identity(key: &AssociationKey) -> nl::UserSaId {
    nl::UserSaId {
        daddr: nl::Address::from_ipv6(&key.destination),
        spi: key.spi,
        family: nl::AF_INET6,
        proto: key.protocol,
    }
}

fn set_replay_state(key: &AssociationKey, esp: &Esp, state: ReplayState) -> XfrmMessage {
    let saddr = nl::Address::from_ipv6(&key.source);
    let id = nl::AsyncEventId { sa_id: identity(key), saddr, ..Default::default() };
    let nlas = codec::replay_attribute(esp, state).into_iter().collect();
    XfrmMessage::NewAsyncEvent(nl::monitor::NewAsyncEventMessage { id, nlas })
}
