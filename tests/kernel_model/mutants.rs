//! Orders of plans, and wanted states, with a mistake in them, for showing that the model finds it.

use kagemusha::ipsec::{Action, Direction, Mode, PolicyKey, SecurityPolicy, UpperLayer};
use kagemusha::kernel_state::{FAILSAFE_PRIORITY, KernelState, Migration, PROTECTING_PRIORITY, Plan, Step, diff};

use crate::cast::{ACKNOWLEDGEMENT, UPDATE, home_agent};

fn adds_failsafe(step: &Step) -> bool {
    matches!(step, Step::AddPolicy(policy) if policy.key.priority == FAILSAFE_PRIORITY)
}

fn removes(step: &Step, priority: u32) -> Option<PolicyKey> {
    match step {
        Step::RemovePolicy(key) if key.priority == priority => Some(*key),
        _ => None,
    }
}

fn ordered(desired: &KernelState, observed: &KernelState, first: impl Fn(&Step) -> bool) -> Plan {
    let (mut steps, rest): (Vec<_>, Vec<_>) = diff(desired, observed).steps.into_iter().partition(first);
    steps.extend(rest);
    Plan { steps }
}

/// The failsafe policies are removed first instead of last.
pub fn failsafe_goes_first(desired: &KernelState, observed: &KernelState) -> Plan {
    ordered(desired, observed, |step| removes(step, FAILSAFE_PRIORITY).is_some())
}

/// The failsafe policies come last instead of first.
pub fn failsafe_comes_last(desired: &KernelState, observed: &KernelState) -> Plan {
    ordered(desired, observed, |step| !adds_failsafe(step))
}

/// There are no failsafe policies.
pub fn no_failsafe(desired: &KernelState, observed: &KernelState) -> Plan {
    let mut plan = diff(desired, observed);
    plan.steps.retain(|step| !adds_failsafe(step));
    plan
}

/// There are no rules.
pub fn no_rules(desired: &KernelState, observed: &KernelState) -> Plan {
    let mut plan = diff(desired, observed);
    plan.steps.retain(|step| !matches!(step, Step::AddRule(_)));
    plan
}

/// A protecting policy loses its templates before it is removed.
pub fn emptied_before_it_goes(desired: &KernelState, observed: &KernelState) -> Plan {
    let emptied = |step: Step| match removes(&step, PROTECTING_PRIORITY) {
        Some(key) => {
            let empty = SecurityPolicy { key, action: Action::Allow, templates: vec![] };
            vec![Step::UpdatePolicy(empty), step]
        }
        None => vec![step],
    };
    Plan { steps: diff(desired, observed).steps.into_iter().flat_map(emptied).collect() }
}

/// An inbound policy by type: what protects registrations names the type of those that it receives.
pub fn inbound_by_type(wanted: KernelState) -> KernelState {
    let named = |mut policy: SecurityPolicy| {
        let selector = &mut policy.key.selector;
        let protects = policy.key.direction == Direction::In && policy.key.priority == PROTECTING_PRIORITY;
        if protects && selector.upper_layer == UpperLayer::Protocol(135) {
            let to_home_agent = selector.destination.contains(home_agent());
            selector.upper_layer = UpperLayer::MobilityHeader(if to_home_agent { UPDATE } else { ACKNOWLEDGEMENT });
        }
        policy
    };
    let policies = wanted.policies.into_values().map(named).map(|policy| (policy.key, policy)).collect();
    KernelState { policies, ..wanted }
}

/// Tunnels whose policies name a type migrate as well.
pub fn moves_by_type(desired: &KernelState, observed: &KernelState) -> Plan {
    let migrated = |step: Step| {
        let Step::UpdatePolicy(wanted) = &step else { return step };
        let there = observed.policies.get(&wanted.key).map(|there| &there.templates[..]);
        let (Some([old]), [new]) = (there, &wanted.templates[..]) else { return step };
        if new.mode != Mode::Tunnel {
            return step;
        }
        let (from, to) = ((old.source, old.destination), (new.source, new.destination));
        Step::Migrate(Migration { policy: wanted.key, reqid: new.reqid, from, to })
    };
    Plan { steps: diff(desired, observed).steps.into_iter().map(migrated).collect() }
}

/// What the kernel does not read to its end is not discarded.
pub fn unread_is_let_in(mut wanted: KernelState) -> KernelState {
    let unread = [UpperLayer::Protocol(43), UpperLayer::Protocol(60)];
    wanted.policies.retain(|key, _| !unread.contains(&key.selector.upper_layer));
    wanted
}
