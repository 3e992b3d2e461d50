//! The way of a packet through a kernel, as Linux goes it: SPD lookup, templates, SAs and the routes on the way out (`xfrm_lookup`,
//! `xfrm_state_find`); Home Address option, type 2 routing header, ESP and the policy check on the way in (`ipv6_dest_hao`,
//! `ipv6_rthdr_rcv`, `xfrm_input`, `__xfrm_policy_check`).

use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use kagemusha::ipsec::{
    Action, AssociationKey, Direction, EspMode, Level, Mode, SecurityAssociation, SecurityPolicy, Template,
    TemplateProtocol, Transform, UpperLayer,
};
use kagemusha::kernel_state::{LOCAL_TABLE, MAIN_TABLE, RouteKind};

use crate::machine::Machine;
use crate::wire::{Header, Message, Packet, Payload, secret};

/// The device of everything that no route of ours takes.
pub const UPLINK: &str = "eth0";

/// Why a packet goes no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// `XfrmOutPolBlock`, `XfrmInPolBlock`
    PolicyBlocks,
    /// `XfrmOutNoStates`
    NoAssociation,
    /// The 2^32 numbers of an SA are used up.
    UsedUp,
    /// Routed into our dummy link.
    Buried,
    /// `XfrmInNoStates`
    UnknownSpi,
    /// `XfrmInStateProtoError`: the ICV is wrong.
    WrongKey,
    /// `XfrmInStateSeqError`
    Replayed,
    /// `XfrmInStateMismatch`
    NotForThisSa,
    /// `XfrmInTmplMismatch`
    NotAsThePolicyWants,
    /// Not for this machine: a home address without its flag, a care-of address that no state expects.
    NotOurs,
}

/// What a policy makes of a message, when nothing else is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// Discarded.
    Discarded,
    /// In ESP, or not at all.
    Esp,
    /// As it is.
    Clear,
}

/// What the SPD is asked for: as a message, but with the type that the kernel takes it for.
type Flow = Message;

fn matches(upper_layer: UpperLayer, payload: Payload) -> bool {
    match upper_layer {
        UpperLayer::Any => true,
        UpperLayer::Protocol(number) => number == payload.protocol(),
        UpperLayer::MobilityHeader(number) => payload == Payload::Mobility(number),
        UpperLayer::Icmpv6(number) => payload == Payload::Icmpv6(number),
    }
}

impl Machine {
    /// The policy that decides: of those that match, the one with the lowest priority value.
    pub fn policy(&self, direction: Direction, flow: Flow) -> Option<&SecurityPolicy> {
        let matching = |policy: &&SecurityPolicy| {
            let selector = policy.key.selector;
            policy.key.direction == direction
                && selector.source.contains(flow.source)
                && selector.destination.contains(flow.destination)
                && matches(selector.upper_layer, flow.payload)
        };
        self.state.policies.values().filter(matching).min_by_key(|policy| policy.key.priority)
    }

    /// Whether it is a socket of this machine that sends from there.
    fn speaks_from(&self, source: Ipv6Addr) -> bool {
        self.own.contains(&source) || self.state.addresses.contains_key(&source)
    }

    /// What the policies make of a message, when nothing else is looked at; the worst that whoever sends it can bring about by what stands
    /// before and behind it. No policy: RFC 4301 would discard, Linux lets it pass.
    pub fn fate(&self, direction: Direction, message: Message) -> Fate {
        let named = self.state.policies.keys().map(|key| key.selector.upper_layer);
        let mut seen = match direction == Direction::Out && self.speaks_from(message.source) {
            true => BTreeSet::new(),
            false => self.kernel.may_see(message.payload, named),
        };
        if direction == Direction::In {
            seen.extend(self.kernel.stops_at());
        }
        // A socket may speak from there later on.
        if direction == Direction::Out {
            seen.insert(message.payload);
        }
        let fates = seen.into_iter().map(|payload| self.fate_of(direction, Message { payload, ..message }));
        fates.max().unwrap_or(Fate::Clear)
    }

    /// The same for one that looks like this to the kernel.
    pub fn fate_of(&self, direction: Direction, flow: Flow) -> Fate {
        match self.policy(direction, flow) {
            None => Fate::Clear,
            Some(policy) if policy.action == Action::Block => Fate::Discarded,
            Some(policy) if policy.templates.iter().any(is_required_esp) => Fate::Esp,
            Some(_) => Fate::Clear,
        }
    }

    /// The newest SA that serves a template for these addresses.
    fn find(&self, template: &Template, source: Ipv6Addr, destination: Ipv6Addr) -> Option<&SecurityAssociation> {
        let serves = |sa: &&SecurityAssociation| {
            sa.key.destination == destination
                && (sa.key.source == source || sa.key.source.is_unspecified())
                && serves(template, sa)
                // In the SAD a reqid of 0 is a reqid like others.
                && reqid(sa) == template.reqid
        };
        self.order.iter().rev().filter_map(|key| self.state.associations.get(key)).find(serves)
    }

    /// Sends a message; `via` is the care-of address that a home agent gives as ancillary data for a type 2 routing header.
    pub fn send(&mut self, message: Message, via: Option<Ipv6Addr>) -> Result<Packet, Dropped> {
        let mut packet = Packet::plain(message);
        let flow = match self.speaks_from(message.source) {
            true => message,
            false => Message { payload: self.kernel.seen(message.payload, &[]), ..message },
        };
        let (action, templates) = match self.policy(Direction::Out, flow) {
            None => (Action::Allow, vec![]),
            Some(policy) => (policy.action, policy.templates.clone()),
        };
        if action == Action::Block {
            return Err(Dropped::PolicyBlocks);
        }
        let (mut found, mut ends) = (vec![], (message.source, message.destination));
        for template in &templates {
            // A tunnel has its own ends, and what is put around it goes between those.
            if template.mode == Mode::Tunnel {
                ends = (template.source, template.destination);
            }
            match self.find(template, ends.0, ends.1) {
                Some(sa) => found.push(sa.clone()),
                None if template.level == Level::Use => {}
                None => return Err(Dropped::NoAssociation),
            }
        }
        for sa in &found {
            self.transform(sa, &mut packet)?;
        }
        if let Some(care_of) = via {
            packet.headers.insert(0, Header::Routing(packet.destination));
            packet.destination = care_of;
        }
        match self.route(packet.source, packet.destination, None, packet_protocol(&packet)) {
            Route::Device(device) if device == UPLINK => Ok(packet),
            _ => Err(Dropped::Buried),
        }
    }

    fn transform(&mut self, sa: &SecurityAssociation, packet: &mut Packet) -> Result<(), Dropped> {
        match &sa.transform {
            Transform::RouteOptimization { care_of_address, .. } if sa.key.protocol == 60 => {
                packet.headers.insert(0, Header::HomeAddressOption(packet.source));
                packet.source = *care_of_address;
            }
            Transform::RouteOptimization { care_of_address, .. } => {
                packet.headers.insert(0, Header::Routing(packet.destination));
                packet.destination = *care_of_address;
            }
            Transform::Esp(esp) => {
                let numbers = self.numbers.entry(sa.key).or_default();
                let last = if esp.extended_sequence_numbers { u64::MAX } else { u64::from(u32::MAX) };
                if numbers.output == last {
                    return Err(Dropped::UsedUp);
                }
                numbers.output += 1;
                if esp.mode == EspMode::Tunnel {
                    let (source, destination) = (packet.source, packet.destination);
                    packet.headers.insert(0, Header::Inner { source, destination });
                    (packet.source, packet.destination) = (sa.key.source, sa.key.destination);
                }
                let secret = secret(sa).unwrap_or_default();
                packet.headers.insert(0, Header::Esp { spi: sa.key.spi, sequence: numbers.output, secret });
            }
        }
        Ok(())
    }

    /// Receives a packet from the uplink; gives the message that a socket gets.
    pub fn receive(&mut self, packet: &Packet) -> Result<Message, Dropped> {
        let (mut source, mut destination) = (packet.source, packet.destination);
        let mut taken_off: Vec<SecurityAssociation> = vec![];
        let mut rest = &packet.headers[..];
        if !self.delivers(source, destination, packet_protocol(packet)) {
            return Err(Dropped::Buried);
        }
        while let Some((header, others)) = rest.split_first() {
            rest = others;
            match header {
                Header::HomeAddressOption(home_address) => {
                    taken_off.push(self.home_address_option(source, destination, *home_address)?);
                    source = *home_address;
                }
                Header::Routing(home_address) => {
                    taken_off.push(self.routing_header(source, destination, *home_address)?);
                    destination = *home_address;
                    let protocol = rest.first().map_or(packet.payload.protocol(), protocol);
                    if !self.delivers(source, destination, protocol) {
                        return Err(Dropped::Buried);
                    }
                }
                Header::Inner { source: from, destination: to } => (source, destination) = (*from, *to),
                Header::Esp { spi, sequence, secret } => {
                    taken_off.push(self.esp(destination, *spi, *sequence, secret)?);
                }
            }
        }
        let message = Message { source, destination, payload: packet.payload };
        // Out of a tunnel it may be for somebody behind this machine.
        let forwarded = !self.delivers(source, destination, packet.payload.protocol()) && packet.is_tunnelled();
        let flow = Message { payload: self.kernel.seen(message.payload, &packet.extension_headers()), ..message };
        self.check(if forwarded { Direction::Forward } else { Direction::In }, flow, &taken_off)?;
        Ok(message)
    }

    fn home_address_option(
        &self,
        source: Ipv6Addr,
        destination: Ipv6Addr,
        home_address: Ipv6Addr,
    ) -> Result<SecurityAssociation, Dropped> {
        let any = Ipv6Addr::UNSPECIFIED;
        let ends = [(home_address, destination), (any, destination), (any, any)];
        let key = |(source, destination)| AssociationKey { source, destination, protocol: 60, spi: 0 };
        let expected = |sa: &&SecurityAssociation| match sa.transform {
            Transform::RouteOptimization { care_of_address, .. } => [any, source].contains(&care_of_address),
            _ => false,
        };
        let found = ends.into_iter().filter_map(|ends| self.state.associations.get(&key(ends))).find(expected);
        found.cloned().ok_or(Dropped::NotOurs)
    }

    fn routing_header(
        &self,
        source: Ipv6Addr,
        destination: Ipv6Addr,
        home_address: Ipv6Addr,
    ) -> Result<SecurityAssociation, Dropped> {
        let key = AssociationKey { source, destination: home_address, protocol: 43, spi: 0 };
        let sa = self.state.associations.get(&key).ok_or(Dropped::NotOurs)?;
        let expected = match sa.transform {
            Transform::RouteOptimization { care_of_address, .. } => care_of_address == destination,
            _ => false,
        };
        let home = self.state.addresses.get(&home_address).is_some_and(|address| address.home);
        if expected && home { Ok(sa.clone()) } else { Err(Dropped::NotOurs) }
    }

    fn esp(
        &mut self,
        destination: Ipv6Addr,
        spi: u32,
        sequence: u64,
        encrypted_with: &[u8],
    ) -> Result<SecurityAssociation, Dropped> {
        let named = |key: &&AssociationKey| (key.destination, key.protocol, key.spi) == (destination, 50, spi);
        let key = *self.state.associations.keys().find(named).ok_or(Dropped::UnknownSpi)?;
        let sa = self.state.associations[&key].clone();
        let window = sa.transform.esp().ok_or(Dropped::UnknownSpi)?.replay_window;
        if secret(&sa).as_deref() != Some(encrypted_with) {
            return Err(Dropped::WrongKey);
        }
        let fresh = self.numbers.entry(key).or_default().receive(sequence, window);
        if fresh { Ok(sa) } else { Err(Dropped::Replayed) }
    }

    /// The policy check of a message that came in, with the SAs that were taken off, outermost first.
    fn check(&self, direction: Direction, flow: Flow, taken_off: &[SecurityAssociation]) -> Result<(), Dropped> {
        let for_it = |sa: &SecurityAssociation| {
            let between_its_ends = (sa.key.source, sa.key.destination) == (flow.source, flow.destination);
            between_its_ends || self.unselective || !is_transport(sa)
        };
        if !taken_off.iter().all(for_it) {
            return Err(Dropped::NotForThisSa);
        }
        let nothing = Action::Allow;
        let policy = self.policy(direction, flow);
        let (action, templates) = policy.map_or((nothing, &[][..]), |policy| (policy.action, &policy.templates[..]));
        if action == Action::Block {
            return Err(Dropped::PolicyBlocks);
        }
        let mut from = 0;
        for template in templates.iter().rev() {
            from = behind(template, taken_off, from).ok_or(Dropped::NotAsThePolicyWants)?;
        }
        let left_over = taken_off[from..].iter().any(|sa| !is_transport(sa));
        if left_over { Err(Dropped::NotAsThePolicyWants) } else { Ok(()) }
    }

    fn delivers(&self, source: Ipv6Addr, destination: Ipv6Addr, protocol: u8) -> bool {
        self.route(source, destination, Some(UPLINK), protocol) == Route::Local
    }

    /// Policy routing: the rule of the kernel for `local`, ours by preference, `main`.
    pub fn route(&self, source: Ipv6Addr, destination: Ipv6Addr, input: Option<&str>, protocol: u8) -> Route {
        if self.own.contains(&destination) {
            return Route::Local;
        }
        let mut rules: Vec<_> = self.state.rules.iter().collect();
        rules.sort_by_key(|rule| rule.preference);
        let ours = rules.into_iter().filter(|rule| {
            rule.source.contains(source)
                && rule.destination.contains(destination)
                && rule.input.as_deref().is_none_or(|wanted| input == Some(wanted))
                && rule.upper_layer.is_none_or(|wanted| wanted == protocol)
        });
        let tables = [LOCAL_TABLE].into_iter().chain(ours.map(|rule| rule.table)).chain([MAIN_TABLE]);
        tables
            .into_iter()
            .find_map(|table| self.look_up(table, destination))
            .unwrap_or(Route::Device(UPLINK.to_owned()))
    }

    fn look_up(&self, table: u32, destination: Ipv6Addr) -> Option<Route> {
        let candidates =
            self.state.routes.keys().filter(|key| key.table == table && key.destination.contains(destination));
        let best = candidates.min_by_key(|key| (u8::MAX - key.destination.length(), key.metric))?;
        Some(match best.kind {
            RouteKind::Local => Route::Local,
            RouteKind::Unicast => Route::Device(best.device.clone()),
        })
    }
}

/// Where a packet is routed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// To this machine.
    Local,
    /// Out of this device.
    Device(String),
}

fn protocol(header: &Header) -> u8 {
    match header {
        Header::HomeAddressOption(_) => 60,
        Header::Routing(_) => 43,
        Header::Esp { .. } => 50,
        Header::Inner { .. } => 41,
    }
}

/// The protocol that rules see: the one behind destination options and routing headers.
fn packet_protocol(packet: &Packet) -> u8 {
    let behind = packet.headers.iter().map(protocol).find(|number| *number == 50);
    behind.unwrap_or(packet.payload.protocol())
}

fn is_required_esp(template: &Template) -> bool {
    template.protocol == TemplateProtocol::Esp && template.level == Level::Required
}

fn is_transport(sa: &SecurityAssociation) -> bool {
    sa.transform.esp().is_some_and(|esp| esp.mode == EspMode::Transport)
}

fn reqid(sa: &SecurityAssociation) -> u32 {
    sa.reqid().unwrap_or(0)
}

/// The place behind the SA that meets a template, from `from` on; what is no transport mode must not be passed over (`xfrm_policy_ok`).
fn behind(template: &Template, taken_off: &[SecurityAssociation], from: usize) -> Option<usize> {
    let optional = template.level == Level::Use;
    if optional && template.mode == Mode::Transport {
        return Some(from);
    }
    for (at, sa) in taken_off.iter().enumerate().skip(from) {
        if meets(template, sa) {
            return Some(at + 1);
        }
        if !is_transport(sa) {
            break;
        }
    }
    optional.then_some(from)
}

/// Protocol and mode.
fn serves(template: &Template, sa: &SecurityAssociation) -> bool {
    let protocol = match template.protocol {
        TemplateProtocol::Esp => 50,
        TemplateProtocol::HomeAddressOption => 60,
        TemplateProtocol::Type2RoutingHeader => 43,
    };
    let mode = sa.transform.esp().map_or(Mode::RouteOptimization, |esp| esp.mode.into());
    protocol == sa.key.protocol && template.mode == mode
}

/// Whether an SA that was taken off is one that a template asks for (`xfrm_state_ok`).
fn meets(template: &Template, sa: &SecurityAssociation) -> bool {
    // An address that is not said is any.
    let source = is_transport(sa) || template.source.is_unspecified() || template.source == sa.key.source;
    serves(template, sa) && (template.reqid == 0 || template.reqid == reqid(sa)) && source
}
