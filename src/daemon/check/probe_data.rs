//! Packets of a guest through the tunnel engine in each of its tiers: a guest's tap on a private bridge at the host, a cable, a home agent, and
//! a correspondent behind it.

use std::collections::BTreeSet;
use std::io::{self, IoSlice};
use std::net::Ipv6Addr;
use std::os::fd::AsFd;
use std::time::Duration;

use super::carriage::{self, Carriage};
use super::ends::{OUTSIDE, UPLINK};
use super::packets::{self, PIECES};
use super::sample::{CARE_OF, CORRESPONDENT, HOME_AGENT, UNPROTECTED};
use super::stage::{Ground, Plot, index_of, take, tun, until};
use super::verdict::{Finding, Tried};
use crate::daemon::clock;
use crate::daemon::engine::{Engine, GuestPort, HomeAgentEnd, Tier, super_packet};
use crate::daemon::ports::{self, OpenPort};
use crate::daemon::tap::{self, Device, VNET_HEADER_LENGTH};
use crate::home_network::config::{ROUTER_LINK_LOCAL, ROUTER_MAC};
use crate::kernel_state::HOME_AGENT_TUNNEL_LINK;
use crate::policy::{Port, Role};
use crate::tunnel::{Carrier, Entry, HomeAgentEntry, HomeAgentTable, Protected, Table, inner_mtu, vnet};
use crate::vocabulary::{GuestId, MacAddress, Prefix};
use crate::wire::{ethernet, numbers::ether_type};

/// The guest's tap, as a hypervisor would have it: this end is its virtual machine.
const GUEST_TAP: &str = "guest";
const GUEST_MAC: MacAddress = MacAddress([0x52, 0x54, 0, 0, 0, 0x10]);
const HOME_LINK: &str = "home-link";
const MTU: usize = 1500;
/// After so long another packet is sent: the first ones go a slower way, until the engine knows a neighbour.
const ROUND: Duration = Duration::from_millis(250);
/// Numbers of a round: a datagram and the pieces of a whole.
const NUMBERS: u16 = 1 + PIECES as u16;

/// Tries every tier, and says which one the daemon would take.
pub(super) fn run(role: Role, forwarding: bool, patience: Duration) -> (Vec<Finding>, Tried) {
    let seen: Vec<_> = Tier::ALL.into_iter().map(|tier| (tier, attempt(tier, role, forwarding, patience))).collect();
    let (mut findings, tiers): (Vec<_>, Vec<_>) =
        seen.iter().map(|(tier, carriage)| carriage::judge(*tier, carriage)).unzip();
    let auto = carriage::automatic(&seen);
    if let Some(tier) = auto {
        findings.push(Finding::ok(format!("accelerate = \"auto\" chooses the tier {tier}")));
    }
    (findings, Tried { tiers, auto: auto.map(Tier::name), ..Tried::default() })
}

fn attempt(tier: Tier, role: Role, forwarding: bool, patience: Duration) -> Result<Carriage, String> {
    let [at_host, at_agent] = [Plot::clear()?, Plot::clear()?];
    Plot::cable((&at_host, UPLINK), (&at_agent, OUTSIDE))?;
    // What this machine's own role may do depends on whether this machine forwards; a home agent always does.
    let forwards = forwarding || role == Role::HomeAgent;
    let host = at_host.build(move |ground| Host::open(&ground, tier, forwards).map(|host| (ground, host)))?;
    let agent = at_agent.build(move |ground| Agent::open(&ground, tier).map(|agent| (ground, agent)))?;
    let refused = match role {
        Role::MobileNode => host.run(move |(_, host)| host.engine.lacks(tier))?,
        Role::HomeAgent => agent.run(move |(_, agent)| agent.engine.lacks(tier))?,
    };
    if refused.is_some() {
        return Ok(Carriage { refused, ..Carriage::default() });
    }
    let mut carriage = Carriage::default();
    let deadline = clock::now() + patience;
    let mut number = 0;
    while clock::now() < deadline && !(carriage.out && carriage.back && carriage.by_itself) {
        host.run(move |(_, host)| host.send(number))??;
        carriage.out |= agent.run(move |(_, agent)| agent.ear.hears(&agent.correspondent, number))?;
        agent.run(move |(_, agent)| agent.send(number))??;
        carriage.back |= host.run(move |(_, host)| host.ear.hears(&host.guest, number))?;
        let carried = (host.run(|(_, host)| host.engine.carried())?, agent.run(|(_, agent)| agent.engine.carried())?);
        carriage.by_itself = carried.0 && carried.1;
        number += NUMBERS;
    }
    Ok(carriage)
}

/// An engine with what tells whether its tier carries by itself.
struct Running {
    engine: Engine,
    /// Packets that the entrance of super-packets had taken at the start.
    entered: u64,
}

impl Running {
    fn new(engine: Engine) -> Self {
        Self { engine, entered: entered() }
    }

    /// Why the engine has not taken this tier.
    fn lacks(&self, tier: Tier) -> Option<String> {
        let refused = || self.engine.refused(tier).unwrap_or("the engine does not say why").to_owned();
        (self.engine.tier() != tier).then(refused)
    }

    /// Whether packets both ways went by what makes the tier that is in force at this end. Super-packets are on the way in alone.
    fn carried(&self) -> bool {
        match self.engine.tier() {
            Tier::Portable => true,
            Tier::SuperPacket => entered() > self.entered,
            Tier::Ebpf => self.engine.carried().iter().any(|(home_address, carried)| {
                *home_address == Some(UNPROTECTED) && carried.into_packets > 0 && carried.out_packets > 0
            }),
        }
    }
}

fn entered() -> u64 {
    // `/proc/net` is that of the process' first thread.
    let text = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    packets::received_by(&text, super_packet::LINK)
}

/// The host of the guest.
struct Host {
    engine: Running,
    guest: Device,
    ear: Ear,
    _port: OpenPort,
}

impl Host {
    fn open(ground: &Ground, tier: Tier, forwards: bool) -> Result<Self, String> {
        let [care_of, _] = CARE_OF;
        ground.address(index_of(UPLINK)?, care_of, 64)?;
        if forwards {
            ground.forward()?;
        }
        let failed = |error: io::Error| format!("the guest's tap cannot be made: {error}");
        let guest = Device::tap(GUEST_TAP).map_err(failed)?;
        tap::disable_ipv6(GUEST_TAP).map_err(failed)?;
        let port = Port::Tap(GUEST_TAP.to_owned());
        let port = ground.block_on(ports::open_one(ground.handle(), &port, 0)).map_err(|error| error.to_string())?;
        let carrier = Carrier { care_of, home_agent: HOME_AGENT };
        let table = Table::new([Entry {
            guest: GuestId(0),
            home_address: UNPROTECTED,
            home_agent: HOME_AGENT,
            mac: GUEST_MAC,
            port: 0,
            carrier: Some(carrier),
            arriving: None,
            mtu: inner_mtu(MTU),
            link_mtu: MTU,
            router: ROUTER_LINK_LOCAL,
            protected: Protected::default(),
        }]);
        let mut engine = Engine::at_port(port.device.clone(), ROUTER_MAC, table, tier.setting()).map_err(no_engine)?;
        if tier == Tier::Ebpf {
            let own = Some(GUEST_TAP);
            engine.start_programs(Some(GuestPort { tap: port.device.name(), own, router_mac: ROUTER_MAC }), 1);
        }
        Ok(Self { engine: Running::new(engine), guest, ear: Ear::default(), _port: port })
    }

    /// As the guest's virtual network card would.
    fn send(&self, number: u16) -> Result<(), String> {
        let header =
            ethernet::Frame { destination: ROUTER_MAC, source: GUEST_MAC, ether_type: ether_type::IPV6, payload: &[] };
        send(&self.guest, (UNPROTECTED, CORRESPONDENT), &header.emit(), number)
    }
}

/// The home agent, with the correspondent behind it.
struct Agent {
    engine: Running,
    correspondent: Device,
    ear: Ear,
}

impl Agent {
    fn open(ground: &Ground, tier: Tier) -> Result<Self, String> {
        ground.address(index_of(OUTSIDE)?, HOME_AGENT, 64)?;
        ground.forward()?;
        let correspondent = tun(ground, HOME_LINK, MTU as u32)?;
        ground.route(index_of(HOME_LINK)?, Prefix::host(CORRESPONDENT))?;
        let [care_of, _] = CARE_OF;
        let entry = HomeAgentEntry {
            guest: GuestId(0),
            home_address: UNPROTECTED,
            care_of: Some(care_of),
            mtu: inner_mtu(MTU),
            protected: Protected::default(),
        };
        let table = HomeAgentTable::new(HOME_AGENT, MTU, [entry]);
        let tun = HOME_AGENT_TUNNEL_LINK.to_owned();
        let mut engine =
            Engine::home_agent(HomeAgentEnd { tun, table, accelerate: tier.setting() }).map_err(no_engine)?;
        tap::no_link_local(HOME_AGENT_TUNNEL_LINK).map_err(no_engine)?;
        let up = ports::bring_up(ground.handle(), HOME_AGENT_TUNNEL_LINK, inner_mtu(MTU) as u32);
        ground.block_on(up).map_err(|error| error.to_string())?;
        ground.route(index_of(HOME_AGENT_TUNNEL_LINK)?, Prefix::host(UNPROTECTED))?;
        if tier == Tier::Ebpf {
            engine.start_programs(None, 1);
        }
        Ok(Self { engine: Running::new(engine), correspondent, ear: Ear::default() })
    }

    fn send(&self, number: u16) -> Result<(), String> {
        send(&self.correspondent, (CORRESPONDENT, UNPROTECTED), &[], number)
    }
}

fn no_engine(error: io::Error) -> String {
    format!("the engine cannot be started: {error}")
}

/// Sends a datagram, and a packet that was left whole.
fn send(device: &Device, (from, to): (Ipv6Addr, Ipv6Addr), link_header: &[u8], number: u16) -> Result<(), String> {
    let datagram = packets::datagram(from, to, number);
    let (whole, offload) = packets::whole(from, to, number + 1);
    let link_length = link_header.len() as u16;
    for (packet, offload) in [(datagram, None), (whole, Some(offload))] {
        let vnet = vnet::header(offload.as_ref(), link_length);
        let parts = [IoSlice::new(&vnet), IoSlice::new(link_header), IoSlice::new(&packet)];
        device.write_parts(&parts).map_err(|error| format!("a packet cannot be handed to the kernel: {error}"))?;
    }
    Ok(())
}

/// What has come out of the tunnel so far.
#[derive(Debug, Default)]
struct Ear(BTreeSet<u16>);

impl Ear {
    /// Waits for the datagram and all pieces of the whole of one round, this one or an earlier one, in whatever form.
    fn hears(&mut self, device: &Device, number: u16) -> bool {
        let Self(heard) = self;
        let heard = until(&[device.as_fd()], ROUND, || {
            let mut octets = [0; VNET_HEADER_LENGTH + ethernet::HEADER_LENGTH + 8192];
            while let Some(length) = take(device, &mut octets) {
                let frame = octets.get(..length).unwrap_or_default();
                heard.extend((0..number + NUMBERS).filter(|number| packets::holds(frame, *number)));
            }
            let mut rounds = (0..=number).step_by(usize::from(NUMBERS));
            rounds.any(|first| (first..first + NUMBERS).all(|number| heard.contains(&number))).then_some(())
        });
        heard.is_some()
    }
}
