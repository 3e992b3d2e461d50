//! Classes of protection whose packets the daemon's own packet path would have to hand to the kernel.
//!
//! The kernel state of every class is complete (`kernel_state`). But the packet path puts the packets of guests into a plain
//! IPv6-in-IPv6 tunnel by itself, past the kernel's security policies. As long as that is so, a policy that wants some of them under
//! ESP is refused, at the start and at every reload: nothing that shall be protected leaves plain.

use crate::ipsec::Class;
use crate::policy::Policy;

/// A policy with a class of protection that the packet path does not carry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "guest {guest}: the class {class} ({}) is not carried yet: the packet path would send such packets of the guest in a plain tunnel; \
     take [guest.protect.{class}] and its security associations out, on both sides (umip: IPsecPolicy {})",
    class.traffic(),
    class.umip_name()
)]
pub struct NotCarried {
    /// Name of the guest.
    pub guest: String,
    /// The class.
    pub class: Class,
}

/// Refuses a policy whose guests have protection that the daemon cannot give.
///
/// # Errors
/// The first guest with such a class.
pub fn must_be_carried(policy: &Policy) -> Result<(), NotCarried> {
    for guest in &policy.guests {
        if let Some(class) = guest.protection.classes.keys().find(|class| !is_carried(**class)) {
            return Err(NotCarried { guest: guest.name.clone(), class: *class });
        }
    }
    Ok(())
}

/// Whether all packets of a class come from sockets of the host or the home agent, never from a guest.
fn is_carried(class: Class) -> bool {
    match class {
        Class::HomeRegistration | Class::MobilePrefixDiscovery | Class::MobilityHeaders => true,
        Class::Icmpv6 | Class::Any | Class::ReturnRoutability | Class::TunnelMobilityHeaders | Class::TunnelPayload => {
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::load_mobile_node;
    use crate::policy::testing::SomeKeys;

    #[test]
    fn classes_that_would_leave_plain_are_refused() {
        let text = include_str!("../../policies/ha.toml");
        let mut policy = load_mobile_node("ha.toml", text, &SomeKeys).unwrap();
        assert_eq!(must_be_carried(&policy), Ok(()));
        let reqids = policy.guests[0].protection.classes[&Class::HomeRegistration];
        for class in [Class::Icmpv6, Class::Any, Class::ReturnRoutability, Class::TunnelPayload] {
            policy.guests[0].protection.classes.insert(class, reqids);
            let refused = must_be_carried(&policy).unwrap_err();
            assert_eq!(refused.class, class);
            assert!(refused.to_string().contains("plain tunnel"), "{refused}");
            policy.guests[0].protection.classes.remove(&class);
        }
    }
}
