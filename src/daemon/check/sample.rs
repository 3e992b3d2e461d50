//! What is tried: guests as the policy has them, one for each way of being protected, with keys that are nobody's.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use crate::ipsec::{
    AssociationKey, AssociationLifetime, Class, Encryption, Esp, EspMode, Integrity, SecretKey, SecurityAssociation,
    Transform,
};
use crate::kernel_state::{Configuration, Guest};
use crate::policy::{Policy, Protection, Reqids, Role};

/// Addresses that no policy has: those for benchmarks (RFC 5180 §8).
const fn made_up(subnet: u16, last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 2, 0, subnet, 0, 0, 0, last)
}

/// Where the host is, one place after another.
pub(super) const CARE_OF: [Ipv6Addr; 2] = [made_up(1, 0xa), made_up(1, 0xb)];
/// Whom guests talk to.
pub(super) const CORRESPONDENT: Ipv6Addr = made_up(3, 2);
/// The home agent where there is no IPsec, in the network of the host.
pub(super) const HOME_AGENT: Ipv6Addr = made_up(1, 1);
/// The home address of a guest without protection, which is among the samples always.
pub(super) const UNPROTECTED: Ipv6Addr = made_up(2, 0x10);

/// A guest to be tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) guest: Guest,
    /// Whether the policy has a guest like this; without a policy, whether an ordinary one does.
    pub(super) needed: bool,
}

/// What is tried on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Samples {
    pub(super) role: Role,
    pub(super) home_agent: Ipv6Addr,
    pub(super) guests: Vec<Sample>,
}

impl Samples {
    /// One guest for every combination of classes and algorithms in the policy; without one, the usual combination, data in an ESP tunnel, and
    /// no protection. All keys are zeros: this is about algorithms.
    pub(super) fn of(policy: Option<&Policy>) -> Self {
        let mut samples = policy.map_or_else(usual, of_policy);
        if !samples.guests.iter().any(|sample| sample.guest.protection.is_none()) {
            let guest = Guest { home_address: UNPROTECTED, protection: Protection::NONE };
            samples.guests.push(Sample { guest, needed: false });
        }
        samples
    }

    /// The configuration of one end. A host has one SA to the home agent for each class, a home agent one for each host.
    pub(super) fn configuration(&self, role: Role) -> Configuration {
        let mut guests: Vec<Guest> = self.guests.iter().map(|sample| sample.guest.clone()).collect();
        if role == Role::MobileNode {
            for guest in &mut guests {
                let mut seen = BTreeSet::new();
                guest.protection.associations.retain(|sa| seen.insert(sa.reqid()));
            }
        }
        Configuration { role, home_agent: self.home_agent, guests }
    }

    /// The guests without those that cannot be tried.
    pub(super) fn only(&self, keep: impl Fn(&Sample) -> bool) -> Self {
        let guests = self.guests.iter().filter(|sample| keep(sample)).cloned().collect();
        Self { guests, ..self.clone() }
    }

    /// Whether a guest that is needed has a class in tunnel mode.
    pub(super) fn needs_tunnels(&self) -> bool {
        let has_tunnel = |guest: &Guest| guest.protection.classes.keys().any(|class| class.is_tunnel());
        self.guests.iter().any(|sample| sample.needed && has_tunnel(&sample.guest))
    }
}

/// A guest's protection in words.
pub(super) fn describe(protection: &Protection) -> String {
    if protection.is_none() {
        return "in the clear".to_owned();
    }
    let mut algorithms: Vec<String> = Vec::new();
    for Esp { encryption, integrity, .. } in protection.associations().iter().filter_map(|sa| sa.transform.esp()) {
        let integrity = integrity.as_ref().map_or_else(String::new, |(i, _)| format!(" and {}", i.name()));
        let text = format!("{}{integrity}", encryption.0.name());
        if !algorithms.contains(&text) {
            algorithms.push(text);
        }
    }
    let classes: Vec<&str> = protection.classes.keys().map(|class| class.name()).collect();
    format!("under ESP with {} ({})", algorithms.join(", "), classes.join(", "))
}

fn of_policy(policy: &Policy) -> Samples {
    let mut suites: Vec<(Vec<Class>, Vec<Suite>)> = vec![];
    let Configuration { role, home_agent, guests: all } = Configuration::from(policy);
    let mut guests = vec![];
    for mut guest in all {
        let classes = guest.protection.classes.keys().copied().collect();
        let suite = (classes, guest.protection.associations.iter_mut().map(without_key).collect());
        if !suites.contains(&suite) {
            suites.push(suite);
            guests.push(Sample { guest, needed: true });
        }
    }
    Samples { role, home_agent, guests }
}

type Suite = Option<(Encryption, usize, Option<Integrity>, u32)>;

/// Puts zeros in the place of the keys; gives what makes a trial of its own.
fn without_key(association: &mut SecurityAssociation) -> Suite {
    let Transform::Esp(Esp { encryption, integrity, replay_window, lifetime, .. }) = &mut association.transform else {
        return None;
    };
    let zeros = |key: &SecretKey| SecretKey::new(vec![0; key.length()]);
    encryption.1 = zeros(&encryption.1);
    if let Some((_, key)) = integrity {
        *key = zeros(key);
    }
    // A trial is no time to end in.
    *lifetime = AssociationLifetime::default();
    Some((encryption.0, encryption.1.length(), integrity.as_ref().map(|i| i.0), *replay_window))
}

fn usual() -> Samples {
    let address = |last| Ipv6Addr::new(0x2001, 0xdb8, 0x2000, 0, 0, 0, 0, last);
    let home_agent = address(1);
    let guest = |home_address, classes: &[Class]| {
        let (mut protection, mut number) = (Protection::NONE, 1);
        for class in classes {
            let reqids = Reqids { to_home_agent: number, to_guest: number + 1 };
            protection.classes.insert(*class, reqids);
            for (source, destination, reqid) in
                [(home_address, home_agent, reqids.to_home_agent), (home_agent, home_address, reqids.to_guest)]
            {
                let [.., last] = home_address.segments();
                let spi = 0x1000 + u32::from(last) * 16 + reqid;
                let key = AssociationKey { source, destination, protocol: 50, spi };
                let transform = Transform::Esp(usual_esp(class.mode(), reqid));
                protection.associations.push(SecurityAssociation { key, transform });
            }
            number += 2;
        }
        Guest { home_address, protection }
    };
    let guests = vec![
        Sample { guest: guest(address(0x10), &[Class::HomeRegistration]), needed: true },
        Sample { guest: guest(address(0x11), &[]), needed: true },
        Sample { guest: guest(address(0x12), &[Class::HomeRegistration, Class::TunnelPayload]), needed: false },
    ];
    Samples { role: Role::MobileNode, home_agent, guests }
}

fn usual_esp(mode: EspMode, reqid: u32) -> Esp {
    let (encryption, integrity) = (Encryption::AesCbc, Integrity::HmacSha256);
    let zeros = |octets| SecretKey::new(vec![0; octets]);
    Esp {
        mode,
        reqid,
        encryption: (encryption, zeros(encryption.generated_key_octets())),
        integrity: Some((integrity, zeros(integrity.key_octets()))),
        replay_window: 32,
        extended_sequence_numbers: false,
        lifetime: AssociationLifetime::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_of_a_policy_is_tried() {
        for sample in &mut usual().guests {
            for association in &mut sample.guest.protection.associations {
                let Transform::Esp(Esp { encryption, integrity, .. }) = &mut association.transform else { panic!() };
                encryption.1 = SecretKey::new(vec![7; 16]);
                *integrity = Some((Integrity::HmacSha1, SecretKey::new(vec![7; 20])));
                assert_eq!(without_key(association), Some((Encryption::AesCbc, 16, Some(Integrity::HmacSha1), 32)));
                let Transform::Esp(Esp { encryption, integrity, .. }) = &association.transform else { panic!() };
                assert_eq!(encryption.1.expose(), [0; 16]);
                assert_eq!(integrity.as_ref().unwrap().1.expose(), [0; 20]);
            }
        }
    }

    #[test]
    fn without_a_policy_there_is_one_guest_of_each_kind() {
        let samples = Samples::of(None);
        let described: Vec<String> = samples.guests.iter().map(|sample| describe(&sample.guest.protection)).collect();
        assert_eq!(
            described,
            [
                "under ESP with aes-cbc and hmac-sha256-128 (home-registration)",
                "in the clear",
                "under ESP with aes-cbc and hmac-sha256-128 (home-registration, tunnel-payload)",
            ]
        );
        assert!(!samples.needs_tunnels());
        let spis: BTreeSet<_> = samples.configuration(Role::HomeAgent).associations().map(|sa| sa.key.spi).collect();
        assert_eq!(spis.len(), 6);
    }

    /// A home agent has an SA from each host of a guest; a host uses its own, and none has two for one purpose.
    #[test]
    fn a_host_has_one_association_for_each_purpose() {
        let mut samples = usual();
        let protection = &mut samples.guests[0].guest.protection;
        let mut second = protection.associations[0].clone();
        second.key.spi += 100;
        protection.associations.insert(1, second);
        let count = |role| samples.configuration(role).guests[0].protection.associations.len();
        assert_eq!((count(Role::HomeAgent), count(Role::MobileNode)), (3, 2));
    }
}
