//! A host and its home agent, and the wire between them.

use std::net::Ipv6Addr;
use std::sync::Arc;

use kagemusha::ipsec::{Class, Direction, SecurityAssociation};
use kagemusha::kernel_state::{Bindings, Configuration, KernelState, Site};
use kagemusha::policy::{Protection, Role};
use kagemusha::vocabulary::GuestId;

use crate::cast::{
    acknowledgement, bindings, care_of, configuration_of, home_address, home_agent, site, traffic, update, with_payload,
};
use crate::damage::{aliens, damage, holds_all};
use crate::host::{Host, Phase, Rules};
use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::path::{Dropped, Fate};
use crate::wire::{Header, Message, Packet, Payload, secret};

/// The two ends.
#[derive(Debug, Clone)]
pub struct Pair {
    rules: Rules,
    /// Host, then home agent.
    pub ends: [Host; 2],
    configurations: [Arc<Configuration>; 2],
    /// Where each guest is.
    places: Vec<Option<u16>>,
    /// Bindings that the home agent took.
    accepted: Bindings,
    /// Somebody changed contents of policies at this end, and the daemon has not seen it.
    emptied: [bool; 2],
    /// Numbers received so far; for messages that say what a life was like.
    pub received: [u32; 2],
}

/// The end of the guests' host.
pub const HOST: usize = 0;
/// The end of the home agent.
pub const AGENT: usize = 1;

impl Pair {
    /// Both with what was there before; no daemon runs yet.
    pub fn new(
        rules: Rules,
        classes: &[Vec<Class>],
        places: Vec<Option<u16>>,
        before: [(Kernel, KernelState); 2],
    ) -> Self {
        let [(one, there), (other, here)] = before;
        let mut host = Host::new(Machine::new(there, (1..5).map(care_of)).on(one));
        let mut agent = Host::new(Machine::new(here, [home_agent()]).on(other));
        for end in [&mut host, &mut agent] {
            end.machine.unselective = rules.unselective;
        }
        let configurations =
            [Role::MobileNode, Role::HomeAgent].map(|role| Arc::new(configuration_of(role, classes, 1, 1000)));
        let accepted = Bindings::default();
        Self { rules, ends: [host, agent], configurations, places, accepted, emptied: [false; 2], received: [0; 2] }
    }

    fn wanted(&self, end: usize) -> (Bindings, Site) {
        match end {
            HOST => (bindings(&self.places), site(Some("eth0"), true)),
            _ => (self.accepted.clone(), site(None, true)),
        }
    }

    /// A daemon starts when none runs.
    pub fn start(&mut self, end: usize) {
        let (bindings, site) = self.wanted(end);
        if self.ends[end].daemon.is_none() {
            self.ends[end].start(&self.configurations[end], bindings, site, &self.rules);
        }
    }

    /// The daemon takes up to this many steps, and looks again when somebody changed something.
    pub fn steps(&mut self, end: usize, count: usize) {
        for _ in 0..count {
            let host = &mut self.ends[end];
            let Some(daemon) = &host.daemon else { return };
            match daemon.next_step() {
                Some(_) => host.step(&self.rules),
                None if host.stale => host.look(&self.rules),
                None => return,
            }
            self.emptied[end] &= self.ends[end].wounded;
        }
    }

    /// Numbers are reserved, as they are every now and then.
    pub fn reserve(&mut self, end: usize) {
        if self.ends[end].daemon.as_ref().is_some_and(|daemon| daemon.phase() == Phase::Running) {
            self.ends[end].reserve(&self.rules);
        }
    }

    /// The daemon is killed.
    pub fn kill(&mut self, end: usize) {
        self.ends[end].crash();
    }

    /// Power is lost; what others configure at boot is there again.
    pub fn lose_power(&mut self, end: usize) {
        self.ends[end].reboot(aliens());
        self.emptied[end] = false;
        if end == AGENT {
            self.accepted = Bindings::default();
        }
    }

    /// The daemon ends in good order.
    pub fn leave(&mut self, end: usize) {
        if self.ends[end].daemon.as_ref().is_some_and(|daemon| daemon.phase() == Phase::Running) {
            self.ends[end].leave(&self.rules);
        }
    }

    /// A guest goes somewhere.
    pub fn go(&mut self, guest: usize, place: Option<u16>) {
        let guest = guest % self.places.len();
        self.places[guest] = place;
        let (bindings, site) = self.wanted(HOST);
        self.ends[HOST].move_to(bindings, site, &self.rules);
    }

    /// Somebody else does damage, one at a time.
    pub fn tamper(&mut self, end: usize, what: u8, index: usize) {
        if self.ends[end].wounded {
            return;
        }
        self.emptied[end] = what == 7;
        self.ends[end].tamper(|machine| {
            let mut state = machine.state.clone();
            let before = (self.rules.owned)(&self.configurations[end], &state);
            let mut ours = before.clone();
            damage(&mut ours, what, index);
            replace(&mut state, &before, &ours);
            machine.state = state;
            machine.forget_what_is_gone();
        });
    }

    fn sends(&self, end: usize, guest: usize) -> bool {
        let may = self.ends[end].daemon.as_ref().is_some_and(|daemon| daemon.may_send);
        let bound = match end {
            HOST => self.places[guest].is_some(),
            _ => self.accepted.0.contains_key(&GuestId(guest)),
        };
        may && bound && !self.emptied[end]
    }

    fn classes(&self, guest: usize) -> Vec<Class> {
        self.configurations[HOST].guests[guest].protection.classes.keys().copied().collect()
    }

    /// Whether its binding updates and acknowledgements are.
    fn is_protected(&self, guest: usize) -> bool {
        self.classes(guest).into_iter().any(Class::protects_registrations)
    }

    /// A binding update, and the acknowledgement when it arrives.
    pub fn register(&mut self, guest: usize) {
        let guest = guest % self.places.len();
        if !self.sends(HOST, guest) {
            return;
        }
        let protected = self.is_protected(guest);
        self.ends[HOST].keep_ahead(&self.rules);
        let Ok(packet) = self.ends[HOST].send(update(guest), None, protected) else { return };
        // Without a daemon at the other end nobody has a socket there.
        if self.ends[AGENT].daemon.is_none() || self.ends[AGENT].machine.receive(&packet).is_err() {
            return;
        }
        self.received[AGENT] += 1;
        self.accepted.0.insert(GuestId(guest), packet.source);
        let (bindings, site) = self.wanted(AGENT);
        self.ends[AGENT].move_to(bindings, site, &self.rules);
    }

    /// The home agent says something to a bound guest.
    pub fn acknowledge(&mut self, guest: usize) {
        let guest = guest % self.places.len();
        if !self.sends(AGENT, guest) {
            return;
        }
        self.ends[AGENT].keep_ahead(&self.rules);
        let (protected, via) = (self.is_protected(guest), self.accepted.0[&GuestId(guest)]);
        let Ok(packet) = self.ends[AGENT].send(acknowledgement(guest), Some(via), protected) else { return };
        self.received[HOST] += u32::from(self.ends[HOST].machine.receive(&packet).is_ok());
    }

    /// What must hold at any moment.
    pub fn is_sound(&self) -> Result<(), String> {
        for (end, host) in self.ends.iter().enumerate() {
            let leaks = host.guarded && !host.wounded && host.would_leak(&self.configurations[end]);
            for (wrong, what) in [
                (leaks, "the policies let something protected out or in in the clear"),
                (host.leaked, "something protected was on the wire in the clear"),
                (host.repeated, "a number of an SA was used again"),
                (host.stuck, "a tunnel does not move"),
                (!holds_all(&host.machine.state, &aliens()), "what others own was touched"),
            ] {
                if wrong {
                    return Err(format!("end {end}: {what}"));
                }
            }
        }
        Ok(())
    }

    /// Both daemons run on until nothing is left to do.
    pub fn settle(&mut self) -> Result<(), String> {
        for end in [HOST, AGENT] {
            self.steps(end, 500);
            self.start(end);
            self.steps(end, 500);
            let daemon = self.ends[end].daemon.as_ref().ok_or("no daemon")?;
            let observed = (self.rules.owned)(&self.configurations[end], &self.ends[end].machine.state);
            if !daemon.in_force || observed != daemon.desired() {
                let plan = (self.rules.order)(&daemon.desired(), &observed);
                let left: Vec<_> = plan.steps.iter().map(ToString::to_string).collect();
                return Err(format!("end {end} is not as it should be after 500 steps; still to do: {left:?}"));
            }
            self.is_sound()?;
        }
        Ok(())
    }

    /// What one end protects the other accepts, and nothing else: not in the clear, not again, not under another SA. Both have settled.
    pub fn mirror(&mut self) -> Result<(), String> {
        for guest in 0..self.places.len() {
            let Some(place) = self.places[guest] else {
                self.policies_mirror(guest)?;
                continue;
            };
            self.accepted.0.insert(GuestId(guest), care_of(place));
            let (bindings, site) = self.wanted(AGENT);
            self.ends[AGENT].move_to(bindings, site, &self.rules);
            self.settle()?;
            self.policies_mirror(guest)?;
            let via = Some(care_of(place));
            let protected = self.is_protected(guest);
            let there = self.exchange(HOST, (update(guest), None, protected))?;
            let back = self.exchange(AGENT, (acknowledgement(guest), via, protected))?;
            if there.source != care_of(place) || back.destination != care_of(place) {
                return Err("not by the care-of address".to_owned());
            }
            for class in self.classes(guest) {
                let (far, to, from) = traffic(class);
                let home = home_address(guest);
                for payload in to {
                    self.exchange(HOST, (with_payload(home, far, payload), None, true))?;
                }
                for payload in from {
                    let via = via.filter(|_| !class.is_tunnel());
                    self.exchange(AGENT, (with_payload(far, home, payload), via, true))?;
                }
            }
        }
        Ok(())
    }

    /// Policies of both ends say the same of every message between a guest and its home agent.
    fn policies_mirror(&self, guest: usize) -> Result<(), String> {
        let (home, agent) = (home_address(guest), home_agent());
        let bound = self.places[guest].is_some();
        let kinds = (0..=255).map(Payload::Mobility).chain((128..=255).map(Payload::Icmpv6)).chain([Payload::Data]);
        for payload in kinds {
            for (source, destination, sender) in [(home, agent, HOST), (agent, home, AGENT)] {
                let message = with_payload(source, destination, payload);
                let machines = [&self.ends[sender].machine, &self.ends[1 - sender].machine];
                let out = machines[0].fate_of(Direction::Out, message);
                // Away from home, it comes with one of the two headers of RFC 6275 §6.3 and §6.4.
                let headers: &[u8] = if sender == HOST { &[60] } else { &[43] };
                let headers = if bound { headers } else { &[] };
                let seen = with_payload(source, destination, machines[1].kernel.seen(payload, headers));
                let into = machines[1].fate_of(Direction::In, seen);
                // Neighbours at home cannot do without: a home agent lets neighbour discovery through that a host away protects.
                let neighbors = matches!(payload, Payload::Icmpv6(133..=137));
                let agree = match (out, into) {
                    (Fate::Esp, Fate::Esp) => true,
                    // At home a guest's host sends nothing and takes nothing.
                    (Fate::Esp, Fate::Discarded) => sender == AGENT && !bound,
                    // What the sender keeps back does no harm.
                    (Fate::Discarded, _) => true,
                    // What nobody protects is refused together with what somebody does, where of what comes in the type is not known.
                    (Fate::Clear, Fate::Esp) => {
                        neighbors || matches!(payload, Payload::Mobility(_)) || seen.payload != payload
                    }
                    (Fate::Esp, Fate::Clear) => neighbors,
                    (Fate::Clear, _) => true,
                };
                if !agree {
                    return Err(format!("{message:?}: {out:?} at the sender, {into:?} at the receiver"));
                }
            }
        }
        Ok(())
    }

    /// One message as it should be, and then all that it should not be.
    fn exchange(
        &mut self,
        sender: usize,
        (message, via, protected): (Message, Option<Ipv6Addr>, bool),
    ) -> Result<Packet, String> {
        self.ends[sender].keep_ahead(&self.rules);
        let packet = self.ends[sender].send(message, via, protected).map_err(|why| format!("{message:?}: {why:?}"))?;
        let receiver = &mut self.ends[1 - sender].machine;
        let arrived = receiver.receive(&packet).map_err(|why| format!("{packet:?} is refused: {why:?}"))?;
        if arrived != message || packet.is_clear() == protected {
            return Err(format!("{message:?} went as {packet:?} and came as {arrived:?}"));
        }
        if protected {
            self.nothing_else_is_taken(sender, &packet)?;
        }
        Ok(packet)
    }

    /// The receiver of `packet`, which has had it, takes nothing that is like it but for its protection.
    fn nothing_else_is_taken(&self, sender: usize, packet: &Packet) -> Result<(), String> {
        let refused =
            |packet: &Packet, expected: &[Dropped]| match self.ends[1 - sender].machine.clone().receive(packet) {
                Err(why) if expected.contains(&why) => Ok(()),
                other => Err(format!("{packet:?} should be refused, and gives {other:?}")),
            };
        refused(packet, &[Dropped::Replayed])?;
        let unwanted = [Dropped::NotAsThePolicyWants, Dropped::Buried, Dropped::PolicyBlocks];
        refused(&without_esp(packet), &unwanted)?;
        for (spi, secret, expected) in wrong(packet) {
            refused(&under(packet, spi, &secret), expected)?;
        }
        // A good SA, but of another guest, or of another class of this one, unless the kernel cannot tell the two in what it receives.
        let configuration = &self.configurations[sender];
        let outbound = |guest: usize| {
            let all = configuration.guests[guest].protection.associations().iter();
            all.filter(|sa| (sa.key.source == home_agent()) == (sender == AGENT)).map(move |sa| (guest, sa))
        };
        let class = |(guest, sa): (usize, &SecurityAssociation)| {
            let protection = &configuration.guests[guest].protection;
            let served = sa.reqid().and_then(|reqid| protection.serves(reqid)).map(|(class, _)| class);
            served.map(|class| (guest, judge(protection, class)))
        };
        let outbound: Vec<_> = (0..configuration.guests.len()).flat_map(outbound).collect();
        let its = outbound.iter().copied().find(|(_, sa)| Some(sa.key.spi) == packet.esp().map(|(spi, ..)| spi));
        let its = its.and_then(class).ok_or("no SA of the policy")?;
        for (_, sa) in outbound.iter().filter(|other| class(**other) != Some(its)) {
            let forged = under(packet, sa.key.spi, &secret(sa).ok_or("no ESP")?);
            refused(
                &forged,
                &[
                    Dropped::NotAsThePolicyWants,
                    Dropped::NotForThisSa,
                    Dropped::UnknownSpi,
                    Dropped::NotOurs,
                    Dropped::PolicyBlocks,
                ],
            )?;
        }
        Ok(())
    }
}

/// The class whose inbound policy decides on received packets of this one: a wider one that takes the same packets as far as the kernel can tell.
fn judge(protection: &Protection, class: Class) -> Class {
    let first = |wider: &[Class]| wider.iter().copied().find(|wider| protection.has(*wider)).unwrap_or(class);
    match class {
        Class::HomeRegistration => first(&[Class::MobilityHeaders, Class::Any]),
        Class::MobilePrefixDiscovery => first(&[Class::Icmpv6, Class::Any]),
        _ => class,
    }
}

type Wrong = (u32, Vec<u8>, &'static [Dropped]);

fn wrong(packet: &Packet) -> Vec<Wrong> {
    let Some((spi, _, secret)) = packet.esp() else { return vec![] };
    let other = secret.iter().map(|octet| octet ^ 1).collect();
    vec![(spi, other, &[Dropped::WrongKey]), (spi + 0x4000, secret.to_vec(), &[Dropped::UnknownSpi])]
}

/// The packet with a fresh number under another SA.
fn under(packet: &Packet, spi: u32, secret: &[u8]) -> Packet {
    let mut packet = packet.clone();
    for header in &mut packet.headers {
        if let Header::Esp { sequence, .. } = header {
            *header = Header::Esp { spi, sequence: *sequence + 1000, secret: secret.to_vec() };
        }
    }
    packet
}

fn without_esp(packet: &Packet) -> Packet {
    let mut packet = packet.clone();
    packet.headers.retain(|header| !matches!(header, Header::Esp { .. }));
    packet
}

/// Puts `after` in the place of `before`, a part of `state`.
fn replace(state: &mut KernelState, before: &KernelState, after: &KernelState) {
    state.associations.retain(|key, _| !before.associations.contains_key(key));
    state.policies.retain(|key, _| !before.policies.contains_key(key));
    state.links.retain(|key, _| !before.links.contains_key(key));
    state.addresses.retain(|key, _| !before.addresses.contains_key(key));
    state.routes.retain(|key, _| !before.routes.contains_key(key));
    state.rules.retain(|rule| !before.rules.contains(rule));
    state.foreign_associations.retain(|key| !before.foreign_associations.contains(key));
    state.foreign_policies.retain(|key| !before.foreign_policies.contains(key));
    *state = crate::damage::union(std::mem::take(state), after);
}
