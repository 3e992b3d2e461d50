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

/// An ESP SA whose keys are this octet over and over.
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

/// Guests as `protected` says; SPIs from `spi`, and all keys from `key`, another octet for each SA.
pub fn configuration(role: Role, protected: &[bool], key: u8, spi: u32) -> Configuration {
    let guest = |(index, protected): (usize, &bool)| {
        let (address, number) = (home_address(index), 2 * index as u32);
        let (to_home_agent, to_guest) = (number + 1, number + 2);
        let octet = |direction: u8| key.wrapping_add(16 * (2 * index as u8 + direction));
        let out = sa(address, home_agent(), spi + number, to_home_agent, octet(0));
        let back = sa(home_agent(), address, spi + number + 1, to_guest, octet(1));
        let associations = match role {
            Role::MobileNode => vec![out, with_window(back)],
            Role::HomeAgent => vec![with_window(out), back],
        };
        let protection = if *protected {
            let classes = [(Class::HomeRegistration, Reqids { to_home_agent, to_guest })].into();
            Protection { classes, associations }
        } else {
            Protection::NONE
        };
        Guest { home_address: address, protection }
    };
    Configuration { role, home_agent: home_agent(), guests: protected.iter().enumerate().map(guest).collect() }
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

/// What the RFCs want protected in this configuration, each with its direction at this side. Written down from RFC 3776 §3.1, not from what
/// the code under test makes of it.
pub fn protected_messages(configuration: &Configuration) -> Vec<(Direction, Message)> {
    let (to_home_agent, to_guest) = match configuration.role {
        Role::MobileNode => (Direction::Out, Direction::In),
        Role::HomeAgent => (Direction::In, Direction::Out),
    };
    let guests = configuration.guests.iter().enumerate();
    let protected = guests.filter(|(_, guest)| !guest.protection.is_none());
    protected.flat_map(|(index, _)| [(to_home_agent, update(index)), (to_guest, acknowledgement(index))]).collect()
}
