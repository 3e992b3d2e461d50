//! Asking for single objects: the names in states, and the requests for what is under them. The kernel has them as they are deleted, so the
//! requests are made of those.

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

/// `GETSA`.
pub(super) fn get_association(key: &AssociationKey) -> XfrmMessage {
    match codec::delete_association(key) {
        XfrmMessage::DeleteSa(message) => XfrmMessage::GetSa(message),
        other => other,
    }
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
        let (source, destination) = ("2001:db8::10".parse().unwrap(), "2001:db8::1".parse().unwrap());
        let key = AssociationKey { source, destination, protocol: 50, spi: 1000 };
        assert!(matches!(get_association(&key), XfrmMessage::GetSa(_)));
        let selector =
            Selector { source: Prefix::host(source), destination: Prefix::ANY, upper_layer: UpperLayer::Any };
        let key = PolicyKey { direction: Direction::Out, selector, priority: 1 };
        assert!(matches!(get_policy(&key), XfrmMessage::GetPolicy(_)));
    }
}
