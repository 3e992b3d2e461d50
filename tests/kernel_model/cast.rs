//! Who takes part: addresses, guests, security associations, and what must be protected.

use std::net::Ipv6Addr;

use kagemusha::ipsec::{
    AssociationKey, AssociationLifetime, Class, Direction, Encryption, Esp, EspMode, Integrity, SecretKey,
    SecurityAssociation, Transform,
};
use kagemusha::kernel_state::{Bindings, Configuration, Guest, Site};
use kagemusha::policy::{Protection, Reqids, Role};
use kagemusha::vocabulary::GuestId;

use crate::wire::{Message, Payload};

/// Mobility header type of binding updates.
pub const UPDATE: u8 = 5;
/// Mobility header type of binding acknowledgements.
pub const ACKNOWLEDGEMENT: u8 = 6;

/// Both sides.
pub const ROLES: [Role; 2] = [Role::MobileNode, Role::HomeAgent];

/// The home agent.
pub fn home_agent() -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0x2000, 0, 0, 0, 0, 1)
}

/// Home address of a guest.
pub fn home_address(guest: usize) -> Ipv6Addr {
    Ipv6Addr::from_bits(Ipv6Addr::new(0x2001, 0xdb8, 0x2000, 0, 0, 0, 0, 0x10).to_bits() + guest as u128)
}

/// A care-of address.
pub fn care_of(number: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0x3000, 0, 0, 0, 0, number)
}

/// A correspondent of guests.
pub fn correspondent() -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0x4000, 0, 0, 0, 0, 2)
}

/// An ESP SA in transport mode whose keys are this octet over and over.
pub fn sa(source: Ipv6Addr, destination: Ipv6Addr, spi: u32, reqid: u32, key: u8) -> SecurityAssociation {
    SecurityAssociation {
        key: AssociationKey { source, destination, protocol: 50, spi },
        transform: Transform::Esp(Esp {
            mode: EspMode::Transport,
            reqid,
            encryption: (Encryption::AesCbc, SecretKey::new(vec![key; 16])),
            integrity: Some((Integrity::HmacSha256, SecretKey::new(vec![key; 32]))),
            replay_window: 0,
            extended_sequence_numbers: false,
            lifetime: AssociationLifetime::default(),
        }),
    }
}

/// The same SA as its receiver has it.
fn with_window(mut sa: SecurityAssociation) -> SecurityAssociation {
    if let Transform::Esp(esp) = &mut sa.transform {
        esp.replay_window = 32;
    }
    sa
}

/// Guests whose registrations are protected, or not at all; SPIs from `spi`, and all keys from `key`, another octet for each SA.
pub fn configuration(role: Role, protected: &[bool], key: u8, spi: u32) -> Configuration {
    let classes = |protected: &bool| if *protected { vec![Class::HomeRegistration] } else { vec![] };
    let classes: Vec<Vec<Class>> = protected.iter().map(classes).collect();
    configuration_of(role, &classes, key, spi)
}

/// Guests with these classes of protection.
pub fn configuration_of(role: Role, classes: &[Vec<Class>], key: u8, spi: u32) -> Configuration {
    let guests = classes.iter().enumerate();
    let guests = guests.map(|(index, classes)| guest(role, index, classes, (key, spi)));
    Configuration { role, home_agent: home_agent(), guests: guests.collect() }
}

fn guest(role: Role, index: usize, classes: &[Class], (key, spi): (u8, u32)) -> Guest {
    let mut protection = Protection::NONE;
    for class in classes {
        let place = Class::ALL.iter().position(|one| one == class).unwrap();
        let number = (16 * index + 2 * place) as u32;
        // As a policy file may: those of tunnels are unique in it, others in a guest.
        let first = if class.is_tunnel() { number } else { 2 * place as u32 };
        let reqids = Reqids { to_home_agent: first + 1, to_guest: first + 2 };
        let octet = key.wrapping_add((17 * number) as u8);
        let out = sa(home_address(index), home_agent(), spi + number, reqids.to_home_agent, octet);
        let back = sa(home_agent(), home_address(index), spi + number + 1, reqids.to_guest, octet.wrapping_add(7));
        let mut pair = match role {
            Role::MobileNode => [out, with_window(back)],
            Role::HomeAgent => [with_window(out), back],
        };
        for sa in &mut pair {
            if let Transform::Esp(esp) = &mut sa.transform {
                esp.mode = class.mode();
            }
        }
        protection.classes.insert(*class, reqids);
        protection.associations.extend(pair);
    }
    Guest { home_address: home_address(index), protection }
}

/// Care-of addresses of the guests.
pub fn bindings(care_of_addresses: &[Option<u16>]) -> Bindings {
    let bound = |(id, number): (usize, &Option<u16>)| number.map(|n| (GuestId(id), care_of(n)));
    Bindings(care_of_addresses.iter().enumerate().filter_map(bound).collect())
}

/// A machine.
pub fn site(uplink: Option<&str>, tunnel6_loaded: bool) -> Site {
    Site { uplink: uplink.map(str::to_owned), tunnel6_loaded }
}

/// A message.
pub fn with_payload(source: Ipv6Addr, destination: Ipv6Addr, payload: Payload) -> Message {
    Message { source, destination, payload }
}

/// A mobility header.
pub fn mobility(source: Ipv6Addr, destination: Ipv6Addr, kind: u8) -> Message {
    Message { source, destination, payload: Payload::Mobility(kind) }
}

/// A binding update of a guest.
pub fn update(guest: usize) -> Message {
    mobility(home_address(guest), home_agent(), UPDATE)
}

/// A binding acknowledgement to a guest.
pub fn acknowledgement(guest: usize) -> Message {
    mobility(home_agent(), home_address(guest), ACKNOWLEDGEMENT)
}

/// The traffic of a class by its destination, the home agent or somebody behind it: what leaves the guest, and what comes to it. Written down
/// from RFC 3776 §3 and RFC 4877 §5, not from what the code under test makes of it.
pub fn traffic(class: Class) -> (Ipv6Addr, Vec<Payload>, Vec<Payload>) {
    let mobility = |kinds: &[u8]| kinds.iter().map(|kind| Payload::Mobility(*kind)).collect::<Vec<_>>();
    let icmpv6 = |kinds: &[u8]| kinds.iter().map(|kind| Payload::Icmpv6(*kind)).collect::<Vec<_>>();
    let (agent, other) = (home_agent(), correspondent());
    match class {
        Class::HomeRegistration => (agent, mobility(&[5]), mobility(&[6])),
        Class::MobilePrefixDiscovery => (agent, icmpv6(&[146]), icmpv6(&[147])),
        Class::MobilityHeaders => (agent, mobility(&[0, 1, 5, 7]), mobility(&[0, 3, 6, 7])),
        Class::Icmpv6 => (agent, icmpv6(&[1, 128, 146]), icmpv6(&[2, 129, 147])),
        Class::Any => (
            agent,
            vec![Payload::Data, Payload::Icmpv6(128), Payload::Mobility(7)],
            vec![Payload::Data, Payload::Icmpv6(129), Payload::Mobility(0)],
        ),
        Class::ReturnRoutability => (other, mobility(&[1]), mobility(&[3])),
        Class::TunnelMobilityHeaders => (other, mobility(&[1, 2, 5]), mobility(&[3, 4, 6])),
        Class::TunnelPayload => (other, vec![Payload::Data], vec![Payload::Data]),
    }
}

/// What must be protected in this configuration, each with its direction at this side. `bound` are the bindings that are in force; none while
/// they are on their way.
///
/// All of it is, from the first failsafe policy on. At a home agent nothing goes through a tunnel while the guest is at home.
pub fn protected_messages(configuration: &Configuration, bound: Option<&Bindings>) -> Vec<(Direction, Message)> {
    let mut messages = vec![];
    for (index, guest) in configuration.guests.iter().enumerate() {
        for class in guest.protection.classes.keys() {
            let (far, to, from) = traffic(*class);
            let in_force = bound.is_some_and(|bound| bound.0.contains_key(&GuestId(index)));
            if configuration.role == Role::HomeAgent && class.is_tunnel() && !in_force {
                continue;
            }
            let to = to.into_iter().map(|payload| with_payload(guest.home_address, far, payload));
            let from = from.into_iter().map(|payload| with_payload(far, guest.home_address, payload));
            let (out, into): (Vec<_>, Vec<_>) = match configuration.role {
                Role::MobileNode => (to.collect(), from.collect()),
                Role::HomeAgent => (from.collect(), to.collect()),
            };
            messages.extend(out.into_iter().map(|message| (Direction::Out, message)));
            let data = class.is_tunnel() && (configuration.role == Role::HomeAgent || *class == Class::TunnelPayload);
            let direction = if data { Direction::Forward } else { Direction::In };
            messages.extend(into.into_iter().map(|message| (direction, message)));
        }
    }
    messages
}
