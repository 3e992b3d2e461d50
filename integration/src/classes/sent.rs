//! What a program on the host sends in the name of the guest's home address.

use std::net::{Ipv6Addr, SocketAddrV6};
use std::time::Duration;

use kagemusha::vocabulary::{Lifetime, SequenceNumber};
use kagemusha::wire::mobility::{BindingUpdate, BindingUpdateFlags, Message, MobilityOption};
use socket2::{Domain, Protocol, Socket, Type};

use super::{ICMPV6, MOBILITY};
use crate::failure::{Outcome, While};
use crate::node::Node;
use crate::topology::cast::{GUEST, HOME_AGENT};

/// A binding update of the guest's home address, as a program on the host sends it.
pub(crate) fn send_binding_update(host: &Node, care_of: Ipv6Addr) -> Outcome {
    let flags = BindingUpdateFlags { acknowledge: true, home_registration: true, ..Default::default() };
    let options = vec![MobilityOption::AlternateCareOfAddress(care_of)];
    let (sequence, lifetime) = (SequenceNumber(1), Lifetime::from_duration(Duration::from_secs(400)));
    let update = Message::BindingUpdate(BindingUpdate { sequence, flags, lifetime, options }).emit();
    host.run(move || -> Outcome {
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::from(i32::from(MOBILITY))))?;
        socket.bind(&SocketAddrV6::new(GUEST, 0, 0, 0).into())?;
        socket.send_to(&update, &SocketAddrV6::new(HOME_AGENT, 0, 0, 0).into())?;
        Ok(())
    })?
    .during(|| "a binding update".into())
}

/// A mobile prefix solicitation of the guest's home address (RFC 6275 §6.7), as a program on the host sends it.
pub(crate) fn solicit_prefixes(host: &Node) -> Outcome {
    host.run(|| -> Outcome {
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::from(i32::from(ICMPV6))))?;
        socket.bind(&SocketAddrV6::new(GUEST, 0, 0, 0).into())?;
        socket.send_to(&[146, 0, 0, 0, 0x4b, 0x61, 0, 0], &SocketAddrV6::new(HOME_AGENT, 0, 0, 0).into())?;
        Ok(())
    })?
    .during(|| "a mobile prefix solicitation".into())
}
