//! Asking for single objects: the names in states, and the requests for what is under them. The kernel asks
//! for the same to delete a policy and to show it, so the one request is made of the other.

use std::collections::BTreeSet;

use netlink_packet_xfrm::XfrmMessage;

use super::xfrm_codec as codec;
use crate::ipsec::{AssociationKey, PolicyKey};
use crate::kernel_state::KernelState;

/// The names of associations in any of these states.
pub(super) fn associations<'a>(states: &[&'a KernelState]) -> BTreeSet<&'a AssociationKey> {
    states.iter().flat_map(|state| state.associations.keys().chain(&state.foreign_associations)).collect()
}

/// The names of policies in any of these states.
pub(super) fn policies<'a>(states: &[&'a KernelState]) -> BTreeSet<&'a PolicyKey> {
    states.iter().flat_map(|state| state.policies.keys().chain(&state.foreign_policies)).collect()
}

/// `GETPOLICY`.
pub(super) fn get_policy(key: &PolicyKey) -> XfrmMessage {
    match codec::delete_policy(key) {
        XfrmMessage::DeletePolicy(message) => XfrmMessage::GetPolicy(message),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipsec::{Direction, Selector, UpperLayer};
    use crate::vocabulary::Prefix;

    /// A request that deletes where it should ask would be the worst of mistakes.
    #[test]
    fn asking_deletes_nothing() {
        let source = Prefix::host("2001:db8::10".parse().unwrap());
        let selector = Selector { source, destination: Prefix::ANY, upper_layer: UpperLayer::Any };
        let key = PolicyKey { direction: Direction::Out, selector, priority: 1 };
        assert!(matches!(get_policy(&key), XfrmMessage::GetPolicy(_)));
    }
}
