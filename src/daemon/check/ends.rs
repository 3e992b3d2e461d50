//! The two ends of the stage, each with the very parts that the daemon of its role is made of: the reconciler of kernel state, the mobility
//! socket, the signaling engine.

use std::collections::BTreeSet;
use std::io::{self, IoSlice};
use std::net::Ipv6Addr;
use std::os::fd::AsFd;
use std::time::Duration;

use super::exchange::{Passage, Sighting};
use super::packets::{self, Ends};
use super::sample::{CARE_OF, CORRESPONDENT, Samples};
use super::stage::{Ground, Hopeless, counted, index_of, take, tun, until};
use crate::daemon::mobility_socket::{Arrival, MobilitySocket};
use crate::daemon::packet_socket::{Filter, PacketSocket};
use crate::daemon::ports::EthernetLink;
use crate::daemon::raw_socket::ReceiveBuffer;
use crate::daemon::reconcile::Reconciler;
use crate::daemon::tap::{Device, VNET_HEADER_LENGTH};
use crate::daemon::{clock, esp_tunnel, tunnel6_loaded};
use crate::ipsec::{Class, Statistics};
use crate::kernel_state::{Bindings, Configuration, HOME_AGENT_TUNNEL_LINK, Site, at_rest, compile};
use crate::policy::Role;
use crate::signaling::home_agent::{self, HomeAgent};
use crate::signaling::mobile_node::{self, GuestConfig, MobileNode};
use crate::vocabulary::{GuestId, Lifetime, MacAddress, Prefix, SequenceNumber};

/// The ends of the cable.
pub(super) const UPLINK: &str = "uplink";
pub(super) const OUTSIDE: &str = "outside";
/// Behind it are correspondents, at the home agent.
const HOME_LINK: &str = "home-link";
/// Longer than any message of a probe.
const BUFFER: usize = 4096;
const LIFETIME: Duration = Duration::from_secs(600);

/// What both ends have.
pub(super) struct End {
    pub(super) ground: Ground,
    reconciler: Reconciler,
    socket: MobilitySocket,
    /// Hears what the other end has sent, and sends what no stack would.
    wire: PacketSocket,
    link: EthernetLink,
    configuration: Configuration,
    bindings: Bindings,
    site: Site,
    buffer: ReceiveBuffer,
    /// Where data of guests under ESP comes and goes: at the host the way to the guest, at the home agent that to the correspondent.
    data: Option<Device>,
    patience: Duration,
}

/// Where a message of a registration goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Toward {
    HomeAgent,
    Guest,
}

/// Source and destination.
type Between = (Ipv6Addr, Ipv6Addr);

/// What was seen of a message that was waited for.
#[derive(Debug, Default)]
struct Seen {
    sighting: Option<Sighting>,
    /// Its octets, and where it really came from.
    arrived: Option<(Vec<u8>, Option<Ipv6Addr>)>,
}

impl End {
    fn open(
        ground: Ground,
        interface: &str,
        configuration: Configuration,
        data: Option<Device>,
        patience: Duration,
    ) -> Result<Self, String> {
        let link = ground.link(interface)?;
        let reconciler = ground.block_on(async { Reconciler::new(configuration.clone()) });
        let failed = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
        let uplink = (configuration.role == Role::MobileNode).then(|| interface.to_owned());
        let mut end = Self {
            reconciler: reconciler.map_err(|error| error.to_string())?,
            socket: MobilitySocket::open().map_err(failed("the raw socket for mobility headers"))?,
            wire: PacketSocket::open(link.index, Filter::Everything).map_err(failed("a packet socket"))?,
            ground,
            link,
            configuration,
            bindings: Bindings::default(),
            site: Site { uplink, tunnel6_loaded: tunnel6_loaded() },
            buffer: ReceiveBuffer::new(BUFFER),
            data,
            patience,
        };
        end.begin()?;
        Ok(end)
    }

    /// As the daemon begins: with what does not depend on bindings.
    fn begin(&mut self) -> Result<(), String> {
        let desired = match self.configuration.role {
            Role::MobileNode => at_rest(&self.configuration),
            Role::HomeAgent => compile(&self.configuration, &self.bindings, &self.site),
        };
        let applied = self.ground.block_on(self.reconciler.apply(&desired));
        applied.map(drop).map_err(|error| error.to_string())
    }

    /// Brings the kernel to what the bindings ask for, as the daemon does.
    fn secure(&mut self, guest: GuestId, care_of: Option<Ipv6Addr>) -> Result<(), String> {
        match care_of {
            Some(care_of) => self.bindings.0.insert(guest, care_of),
            None => self.bindings.0.remove(&guest),
        };
        let asked = BTreeSet::from([guest]);
        let brought = self.ground.block_on(self.reconciler.bring(&self.bindings, &self.site, &asked));
        let failures = brought.map_err(|error| error.to_string())?.failures;
        failures.into_iter().next().map_or(Ok(()), |failure| Err(failure.error.to_string()))
    }

    /// Looks at everything again, as the daemon does when the kernel tells that something has changed: some time after an address was added, the
    /// kernel adds a route to it.
    pub(super) fn look(&mut self) -> Result<(), String> {
        let brought = self.ground.block_on(self.reconciler.bring(&self.bindings, &self.site, &BTreeSet::new()));
        brought.map(drop).map_err(|error| error.to_string())
    }

    pub(super) fn mac(&self) -> MacAddress {
        self.link.mac
    }

    /// Puts a frame on the link.
    pub(super) fn inject(&self, to: MacAddress, packet: &[u8]) -> Result<(), String> {
        let sent = self.wire.send(&packets::frame(self.link.mac, to, packet));
        sent.map_err(|error| format!("a frame cannot be sent: {error}"))
    }

    /// Waits for the message of a registration that is on its way here.
    fn wait_for(&mut self, ends: Ends, toward: Toward, before: &Statistics) -> Seen {
        let (mut seen, mut hopeless) = (Seen::default(), Hopeless::after(self.patience));
        let Self { socket, wire, buffer, patience, .. } = self;
        until(&[socket.as_fd(), wire.as_fd()], *patience, || {
            let mut frame = [0; BUFFER];
            while let Ok(length) = wire.receive(&mut frame) {
                let frame = frame.get(..length).unwrap_or_default();
                let sighted = || packets::sighted(frame, ends, toward == Toward::HomeAgent);
                seen.sighting = seen.sighting.or_else(sighted);
            }
            while let Ok(arrival) = socket.receive(buffer) {
                if is_of(&arrival, ends, toward) {
                    seen.arrived = Some((arrival.message.to_vec(), arrival.care_of_address));
                }
            }
            // What was delivered has been on the link before.
            let is_over = seen.arrived.is_some() || hopeless.is_so(seen.sighting.is_some(), before);
            is_over.then_some(())
        });
        seen
    }

    /// Waits for a forged message about a guest, and says whether it came, and whether that about another guest, sent before it, did.
    pub(super) fn which_arrive(&mut self, control: Ipv6Addr, other: Ipv6Addr, number: SequenceNumber) -> (bool, bool) {
        let (mut control_arrived, mut arrived) = (false, false);
        let Self { socket, buffer, patience, .. } = self;
        until(&[socket.as_fd()], *patience, || {
            while let Ok(arrival) = socket.receive(buffer) {
                let numbered = packets::sequence_of(arrival.message) == Some(number);
                let is_of = |guest| numbered && [arrival.source, arrival.destination].contains(&guest);
                (control_arrived, arrived) = (control_arrived || is_of(control), arrived || is_of(other));
            }
            control_arrived.then_some(())
        });
        (control_arrived, arrived)
    }

    /// Sends a datagram into the tunnel, as if it came from the guest, or from its correspondent.
    pub(super) fn send_data(&self, (source, destination): Between, number: u16) -> Result<(), String> {
        let device = self.data.as_ref().ok_or("there is no device for data")?;
        let packet = packets::datagram(source, destination, number);
        let sent = device.write_parts(&[IoSlice::new(&[0; VNET_HEADER_LENGTH]), IoSlice::new(&packet)]);
        sent.map_err(|error| format!("the packet cannot be handed to the kernel: {error}"))
    }

    /// The addresses of a guest's packets that this end sends: with the tunnel, and without.
    pub(super) fn way(&self, ends: Ends) -> (Between, Between) {
        match self.configuration.role {
            Role::MobileNode => ((ends.care_of, ends.home_agent), (ends.home_address, CORRESPONDENT)),
            Role::HomeAgent => ((ends.home_agent, ends.care_of), (CORRESPONDENT, ends.home_address)),
        }
    }

    /// Waits for it to come out; `outer` and `inner` are its addresses on the link, with the tunnel and without.
    pub(super) fn receive_data(&self, (outer, inner): (Between, Between), number: u16, before: &Statistics) -> Passage {
        let (mut passage, mut hopeless) = (Passage::default(), Hopeless::after(self.patience));
        let Some(device) = &self.data else { return passage };
        until(&[device.as_fd(), self.wire.as_fd()], self.patience, || {
            let mut octets = [0; BUFFER];
            while let Ok(length) = self.wire.receive(&mut octets) {
                let frame = octets.get(..length).unwrap_or_default();
                // The first: what comes out of ESP is shown once more, as if it had come by the link like that.
                passage.left = passage.left.or_else(|| packets::tunnel_sighted(frame, outer, inner));
            }
            while let Some(length) = take(device, &mut octets) {
                passage.arrived |= packets::holds(octets.get(..length).unwrap_or_default(), number);
            }
            (passage.arrived || hopeless.is_so(passage.left.is_some(), before)).then_some(())
        });
        passage.at_receiver = counted().since(before);
        passage
    }
}

fn is_of(arrival: &Arrival<'_>, ends: Ends, toward: Toward) -> bool {
    let between = (arrival.source, arrival.destination);
    match toward {
        Toward::HomeAgent => between == (ends.home_address, ends.home_agent),
        Toward::Guest => between == (ends.home_agent, ends.home_address),
    }
}

/// The host of the guests.
pub(super) struct Host {
    pub(super) end: End,
    engine: MobileNode,
}

impl Host {
    pub(super) fn open(ground: Ground, samples: &Samples, patience: Duration) -> Result<Self, String> {
        let configuration = samples.configuration(Role::MobileNode);
        let index = index_of(UPLINK)?;
        for care_of in CARE_OF {
            ground.address(index, care_of, 64)?;
        }
        ground.route(index, Prefix::host(samples.home_agent))?;
        let protections = configuration.guests.iter().map(|guest| &guest.protection);
        let wanted = esp_tunnel::is_wanted_by(configuration.role, protections);
        let data = wanted.then(|| ground.forward().and_then(|()| esp_tunnel::make().map_err(|e| e.to_string())));
        let data = data.transpose()?;
        let mut engine = MobileNode::new();
        for (number, guest) in configuration.guests.iter().enumerate() {
            let (home_address, home_agent) = (guest.home_address, samples.home_agent);
            let (lifetime, last_sequence) = (Lifetime::from_duration(LIFETIME), SequenceNumber(number as u16));
            let config =
                GuestConfig { home_address, home_agent, lifetime, last_sequence, key_management_mobility: false };
            engine.add_guest(GuestId(number), config);
        }
        Ok(Self { end: End::open(ground, UPLINK, configuration, data, patience)?, engine })
    }

    /// Has the engine register the guest from this care-of address, up to the binding update.
    pub(super) fn register(&mut self, guest: GuestId, care_of: Ipv6Addr) -> Registering {
        let now = clock::now();
        match self.engine.state(guest).is_some_and(|view| view.binding.is_some()) {
            true => self.engine.care_of_changed(guest, Some(care_of), now),
            false => self.engine.attach(guest, care_of, now),
        }
        let mut registering = Registering { secured: false, sent: false, trouble: None };
        while let Some(output) = self.engine.poll_output() {
            match output {
                mobile_node::Output::Secure { generation, guest, care_of } => match self.end.secure(guest, care_of) {
                    Ok(()) => {
                        registering.secured = true;
                        self.engine.applied(generation, now);
                    }
                    Err(error) => {
                        registering.trouble = Some(error);
                        return registering;
                    }
                },
                mobile_node::Output::Transmit { source, destination, message, .. } => {
                    match self.end.socket.send(source, destination, &message) {
                        Ok(()) => registering.sent = true,
                        Err(error) => registering.trouble = Some(error.to_string()),
                    }
                }
                mobile_node::Output::Binding { .. } | mobile_node::Output::Event { .. } => {}
            }
        }
        registering
    }

    /// Waits for the acknowledgement, and gives it to the engine.
    pub(super) fn conclude(&mut self, guest: GuestId, ends: Ends, before: &Statistics) -> Concluded {
        let seen = self.end.wait_for(ends, Toward::Guest, before);
        let mut concluded = Concluded { sighting: seen.sighting, ..Concluded::default() };
        if let Some((message, _)) = seen.arrived {
            concluded.arrived = true;
            self.engine.handle_message(ends.home_agent, ends.home_address, &message, clock::now());
        }
        while let Some(output) = self.engine.poll_output() {
            if let mobile_node::Output::Event { event, .. } = output {
                concluded.trouble = Some(event.describe(clock::now()));
            }
        }
        let binding = self.engine.state(guest).and_then(|view| view.binding);
        concluded.bound = binding.is_some_and(|binding| binding.care_of == ends.care_of);
        concluded
    }
}

/// How far the host came.
#[derive(Debug)]
pub(super) struct Registering {
    pub(super) secured: bool,
    pub(super) sent: bool,
    pub(super) trouble: Option<String>,
}

/// What came of it at the host.
#[derive(Debug, Default)]
pub(super) struct Concluded {
    pub(super) sighting: Option<Sighting>,
    pub(super) arrived: bool,
    pub(super) bound: bool,
    pub(super) trouble: Option<String>,
}

/// The home agent, with a correspondent behind it.
pub(super) struct Agent {
    pub(super) end: End,
    engine: HomeAgent,
    _tun: Device,
}

impl Agent {
    pub(super) fn open(ground: Ground, samples: &Samples, patience: Duration) -> Result<Self, String> {
        let configuration = samples.configuration(Role::HomeAgent);
        ground.set_up(OUTSIDE)?;
        let index = index_of(OUTSIDE)?;
        ground.address(index, samples.home_agent, 128)?;
        ground.route(index, Prefix::of(CARE_OF[0], 64))?;
        let tunnels = configuration.guests.iter().any(|guest| guest.protection.has(Class::TunnelPayload));
        let data = tunnels.then(|| {
            ground.forward()?;
            let device = tun(&ground, HOME_LINK, 1500)?;
            ground.route(index_of(HOME_LINK)?, Prefix::host(CORRESPONDENT))?;
            Ok::<_, String>(device)
        });
        let (data, tun) = (data.transpose()?, tun(&ground, HOME_AGENT_TUNNEL_LINK, 1460)?);
        let config = home_agent::Config {
            address: samples.home_agent,
            home_link: Prefix::ANY,
            link_layer_address: ground.link(OUTSIDE)?.mac,
            maximum_lifetime: LIFETIME,
            // Nobody is there to ask, and it takes a second.
            detect_duplicates: false,
            optimistic_detection: false,
            key_management_mobility: false,
            maximum_bindings: configuration.guests.len(),
        };
        let mut engine = HomeAgent::new(config);
        for (number, guest) in configuration.guests.iter().enumerate() {
            engine.add_guest(GuestId(number), guest.home_address, None);
        }
        Ok(Self { end: End::open(ground, OUTSIDE, configuration, data, patience)?, engine, _tun: tun })
    }

    /// Waits for the binding update, gives it to the engine and does what that wants, up to the acknowledgement.
    pub(super) fn answer(&mut self, ends: Ends, before: &Statistics) -> Answered {
        let seen = self.end.wait_for(ends, Toward::HomeAgent, before);
        let mut answered = Answered { sighting: seen.sighting, ..Answered::default() };
        let Some((message, care_of)) = seen.arrived else { return answered };
        answered.arrived = true;
        let received = home_agent::Received { source: ends.home_address, destination: ends.home_agent, care_of };
        let now = clock::now();
        self.engine.handle_binding_update(received, &message, now);
        while let Some(output) = self.engine.poll_output() {
            match output {
                home_agent::Output::Secure { generation, guest, care_of } => match self.end.secure(guest, care_of) {
                    Ok(()) => self.engine.applied(generation, now),
                    Err(error) => {
                        answered.trouble = Some(error);
                        self.engine.securing_failed(guest, generation, now);
                    }
                },
                home_agent::Output::Transmit { home_address, via_care_of: Some(care_of), message, .. } => {
                    let sent = self.end.socket.send_via(ends.home_agent, home_address, care_of, &message);
                    answered.sent = sent.is_ok();
                    answered.trouble = answered.trouble.or(sent.err().map(|error| error.to_string()));
                }
                // Sent from home, which nobody was, or about the home link, which is not there.
                _ => {}
            }
        }
        answered
    }
}

/// What the home agent did.
#[derive(Debug, Default)]
pub(super) struct Answered {
    pub(super) sighting: Option<Sighting>,
    pub(super) arrived: bool,
    pub(super) sent: bool,
    pub(super) trouble: Option<String>,
}
