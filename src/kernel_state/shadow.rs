//! Security policies of other programs that come before ours: the kernel takes the one with the lowest priority number that fits.

use super::{KernelState, PROTECTING_PRIORITY};
use crate::ipsec::{PolicyKey, UpperLayer};

/// Types of neighbour discovery (RFC 4861 §4), which never leaves its link: others let it pass their policies, and ours do not need it.
const NEIGHBOR_DISCOVERY: std::ops::RangeInclusive<u8> = 133..=137;

/// A policy of ours that does not decide on all its packets, for one of another program comes before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shadow {
    /// Ours.
    pub ours: PolicyKey,
    /// Theirs.
    pub theirs: PolicyKey,
}

/// The policies of others that come before ours, of all that the kernel holds.
pub fn before_ours(observed: &KernelState) -> Vec<PolicyKey> {
    let neighbors = |layer| matches!(layer, UpperLayer::Icmpv6(kind) if NEIGHBOR_DISCOVERY.contains(&kind));
    let all = observed.policies.keys().chain(&observed.foreign_policies);
    all.filter(|key| key.priority < PROTECTING_PRIORITY && !neighbors(key.selector.upper_layer)).copied().collect()
}

/// Which of the wanted policies do not decide alone.
pub fn shadows<'a>(desired: &'a KernelState, theirs: &'a [PolicyKey]) -> impl Iterator<Item = Shadow> + 'a {
    theirs.iter().flat_map(|theirs| {
        let taken = |ours: &&PolicyKey| ours.direction == theirs.direction && ours.selector.overlaps(&theirs.selector);
        desired.policies.keys().filter(taken).map(|ours| Shadow { ours: *ours, theirs: *theirs })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipsec::{Action, Direction, SecurityPolicy, Selector};
    use crate::kernel_state::FAILSAFE_PRIORITY;
    use crate::vocabulary::Prefix;

    fn policy(direction: Direction, from: &str, to: &str, upper_layer: UpperLayer, priority: u32) -> SecurityPolicy {
        let prefix = |text: &str| text.parse::<Prefix>().unwrap();
        let selector = Selector { source: prefix(from), destination: prefix(to), upper_layer };
        SecurityPolicy { key: PolicyKey { direction, selector, priority }, action: Action::Allow, templates: vec![] }
    }

    #[test]
    fn who_comes_first_and_takes_the_same_packets_is_found() {
        let (home, agent) = ("2001:db8:2000::10/128", "2001:db8:2000::1/128");
        let update = UpperLayer::MobilityHeader(5);
        let ours = policy(Direction::Out, home, agent, update, PROTECTING_PRIORITY);
        let desired = KernelState { policies: [(ours.key, ours.clone())].into(), ..Default::default() };
        let found = |theirs: SecurityPolicy| {
            let policies = [(theirs.key, theirs), (ours.key, ours.clone())].into();
            let observed = KernelState { policies, ..Default::default() };
            shadows(&desired, &before_ours(&observed)).count()
        };
        let out = |from, to, layer, priority| found(policy(Direction::Out, from, to, layer, priority));
        assert_eq!(out("::/0", "::/0", UpperLayer::Any, 0), 1);
        assert_eq!(out("2001:db8:2000::/64", agent, UpperLayer::Protocol(135), PROTECTING_PRIORITY - 1), 1);
        assert_eq!(out(home, agent, update, 7), 1);
        assert_eq!(out(home, agent, UpperLayer::MobilityHeader(1), 7), 0);
        assert_eq!(out(home, agent, UpperLayer::Protocol(58), 7), 0);
        assert_eq!(out("2001:db8:2000::11/128", agent, update, 7), 0);
        assert_eq!(out("::/0", "2001:db8:3000::/64", UpperLayer::Any, 7), 0);
        assert_eq!(out("::/0", "::/0", UpperLayer::Any, FAILSAFE_PRIORITY + 1), 0);
        assert_eq!(found(policy(Direction::In, "::/0", "::/0", UpperLayer::Any, 0)), 0);
    }

    #[test]
    fn neighbour_discovery_of_others_is_left_alone() {
        let ours = policy(Direction::Out, "2001:db8:2000::10/128", "::/0", UpperLayer::Any, PROTECTING_PRIORITY);
        let desired = KernelState { policies: [(ours.key, ours)].into(), ..Default::default() };
        let theirs = |kind| policy(Direction::Out, "::/0", "::/0", UpperLayer::Icmpv6(kind), 0);
        for (kind, expected) in [(135, 0), (136, 0), (128, 1)] {
            let policies = [(theirs(kind).key, theirs(kind))].into();
            let observed = KernelState { policies, ..Default::default() };
            assert_eq!(shadows(&desired, &before_ours(&observed)).count(), expected, "{kind}");
        }
    }
}
