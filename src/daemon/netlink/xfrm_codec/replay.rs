//! Where the sequence numbers of ESP associations stand.

use netlink_packet_core::{DecodeError, NlasIterator};
use netlink_packet_xfrm as nl;
use netlink_packet_xfrm::XfrmAttrs;

use super::association_key;
use crate::ipsec::{AssociationKey, Esp, ReplayState};

/// Largest replay window of the plain bitmap (`struct xfrm_replay_state`).
pub(super) const PLAIN_REPLAY_WINDOW: u32 = 32;

/// Where the sequence numbers of one ESP association of a dump stand; `None` for what is not ESP over IPv6.
///
/// # Errors
/// The message is shorter than its parts say.
pub(in super::super) fn parse_replay_state(
    payload: &[u8],
) -> Result<Option<(AssociationKey, ReplayState)>, DecodeError> {
    let info = nl::UserSaInfo::parse(payload)?;
    if info.family != nl::AF_INET6 || info.id.proto != nl::IPPROTO_ESP {
        return Ok(None);
    }
    let mut replay = ReplayState::default();
    for attribute in NlasIterator::new(&payload[nl::XFRM_USER_SA_INFO_LEN..]) {
        let attribute = attribute?;
        let value = attribute.value();
        match attribute.kind() {
            nl::XFRMA_REPLAY_VAL if value.len() >= nl::XFRM_REPLAY_LEN => {
                let state = nl::Replay::parse(value)?;
                replay = ReplayState { output: state.oseq.into(), input: state.seq.into() };
            }
            nl::XFRMA_REPLAY_ESN_VAL if value.len() >= nl::XFRM_REPLAY_ESN_LEN => {
                let state = nl::ReplayEsn::parse(value)?;
                let whole = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
                replay =
                    ReplayState { output: whole(state.oseq_hi, state.oseq), input: whole(state.seq_hi, state.seq) };
                // What the kernel prefers when it reports both.
                break;
            }
            _ => {}
        }
    }
    Ok(Some((association_key(&info), replay)))
}

/// The attribute with which an SA is made: its window when that does not fit into the plain bitmap or when its numbers are extended,
/// and where its sequence numbers go on. None when there is nothing to say.
pub(super) fn attribute(esp: &Esp, replay: ReplayState) -> Option<XfrmAttrs> {
    let low = |number: u64| u32::try_from(number & u64::from(u32::MAX)).unwrap_or(u32::MAX);
    let high = |number: u64| low(number >> 32);
    let fresh = replay == ReplayState::default();
    if esp.replay_window <= PLAIN_REPLAY_WINDOW && !esp.extended_sequence_numbers {
        let plain = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        let state = nl::Replay { oseq: plain(replay.output), seq: plain(replay.input), bitmap: u32::MAX };
        return (!fresh).then_some(XfrmAttrs::ReplayState(state));
    }
    let replay_window = esp.replay_window.min(Esp::WIDEST_WINDOW);
    let words = replay_window.div_ceil(32);
    // All up to `input` counts as seen.
    let seen = if replay.input == 0 { 0 } else { u32::MAX };
    Some(XfrmAttrs::ReplayStateEsn(nl::ReplayEsn {
        bmp_len: words,
        oseq: low(replay.output),
        seq: low(replay.input),
        oseq_hi: high(replay.output),
        seq_hi: high(replay.input),
        replay_window,
        bmp: vec![seen; words as usize],
    }))
}
