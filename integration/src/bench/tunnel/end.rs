//! One end of a tunnel as a process of its own, so that its memory and threads are those of an engine and nothing else.

use std::io::{BufRead, Write};
use std::net::Ipv6Addr;
use std::process::ExitCode;

use kagemusha::daemon::engine::{self, GuestPort, HomeAgentEnd, MobileNodeEnd};
use kagemusha::home_network::config::{ROUTER_LINK_LOCAL, ROUTER_MAC};
use kagemusha::tunnel::{Carrier, Entry, HomeAgentEntry, HomeAgentTable, Protected, Table, inner_mtu};
use kagemusha::vocabulary::{GuestId, MacAddress};
use serde::{Deserialize, Serialize};

use super::naive::Naive;
use super::path::{CARE_OF, GUEST, GUEST_LINK, HOME_AGENT, TAP, TUN};
use super::variant::Engine;
use crate::failure::{Outcome, While};

/// Which end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Role {
    MobileNode,
    HomeAgent,
}

/// What to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Specification {
    pub(crate) engine: Engine,
    pub(crate) role: Role,
    /// Of the underlay, in octets.
    pub(crate) mtu: usize,
    /// How many guests are in the table; the first is the one that is there.
    pub(crate) guests: usize,
}

/// The question for the counters on standard input.
pub(crate) const COUNTERS: &str = "counters";
/// That the guest's link was made again.
pub(crate) const PORT: &str = "port";

/// The process: says what it is, then answers until its standard input ends.
pub(crate) fn main(specification: &str) -> Outcome<ExitCode> {
    let specification: Specification = serde_json::from_str(specification)?;
    let running = Running::start(specification)?;
    println!("{}", running.description());
    for line in std::io::stdin().lock().lines() {
        match line?.as_str() {
            COUNTERS => println!("{}", running.counters()),
            PORT => println!("{}", running.port_changed(specification)),
            _ => continue,
        }
        std::io::stdout().flush()?;
    }
    Ok(ExitCode::SUCCESS)
}

enum Running {
    Ours(Box<engine::Engine>),
    Naive(Naive),
}

impl Running {
    fn start(specification: Specification) -> Outcome<Self> {
        let Some(accelerate) = specification.engine.accelerate() else {
            return Ok(Self::Naive(Naive::start(specification.role).during(|| "the naive engine".into())?));
        };
        let engine = match specification.role {
            Role::MobileNode => {
                let table = guests(specification)?;
                engine::Engine::mobile_node(MobileNodeEnd {
                    tap: TAP.into(),
                    router_mac: ROUTER_MAC,
                    table,
                    accelerate,
                })
            }
            Role::HomeAgent => {
                let table = bindings(specification)?;
                engine::Engine::home_agent(HomeAgentEnd { tun: TUN.into(), table, accelerate })
            }
        };
        let engine = engine.during(|| "the tunnel engine".into())?;
        let engine = if specification.engine == Engine::Ebpf { accelerated(engine, specification)? } else { engine };
        Ok(Self::Ours(Box::new(engine)))
    }

    fn description(&self) -> String {
        match self {
            Self::Ours(engine) => engine.description().to_owned(),
            Self::Naive(_) => "one packet per system call".to_owned(),
        }
    }

    fn port_changed(&self, specification: Specification) -> &'static str {
        match self {
            Self::Ours(engine) => engine.port_changed(port(specification)),
            Self::Naive(_) => {}
        }
        "told"
    }

    fn counters(&self) -> String {
        match self {
            Self::Ours(engine) => {
                let mut text = words(engine.counters().all());
                for (whose, carried) in engine.carried() {
                    let whose = whose.map_or("nobody".to_owned(), |home_address| home_address.to_string());
                    text.push_str(&format!("; in the kernel for {whose}: {}", words(carried.all())));
                }
                text
            }
            Self::Naive(_) => String::new(),
        }
    }
}

/// The numbers that are not zero.
fn words<'a>(numbers: impl Iterator<Item = (&'a str, u64)>) -> String {
    let shown = numbers.filter(|(_, number)| *number > 0).map(|(name, number)| format!("{name}={number}"));
    shown.collect::<Vec<_>>().join(" ")
}

/// Where the guests are.
fn port(specification: Specification) -> GuestPort<'static> {
    // A guest alone is on a private bridge; where there is no link, memory is measured without a guest.
    let link = std::path::Path::new("/sys/class/net").join(GUEST_LINK);
    let own = (specification.guests == 1 && link.exists()).then_some(GUEST_LINK);
    GuestPort { tap: TAP, own, router_mac: ROUTER_MAC }
}

#[cfg(feature = "ebpf")]
fn accelerated(mut engine: engine::Engine, specification: Specification) -> Outcome<engine::Engine> {
    use kagemusha::daemon::ebpf::Ebpf;

    let ebpf = match specification.role {
        Role::MobileNode => Ebpf::mobile_node(&[port(specification)], specification.guests),
        Role::HomeAgent => Ebpf::home_agent(TUN, specification.guests),
    };
    let ebpf = ebpf.during(|| "the eBPF tier".into())?;
    engine.accelerate(Box::new(ebpf));
    Ok(engine)
}

#[cfg(not(feature = "ebpf"))]
fn accelerated(_: engine::Engine, _: Specification) -> Outcome<engine::Engine> {
    Err(crate::failure::Failure::new("built without the feature ebpf"))
}

fn address(text: &str) -> Outcome<Ipv6Addr> {
    text.parse().during(|| text.to_owned())
}

/// The guest that is there, and others that never speak.
fn home_addresses(count: usize) -> Outcome<Vec<(Ipv6Addr, MacAddress)>> {
    let first = address(GUEST)?.to_bits();
    let numbered = |n: usize| {
        let [.., a, b] = (0x10 + n).to_be_bytes();
        (Ipv6Addr::from_bits(first + n as u128), MacAddress([0x52, 0x54, 0, 0, a, b]))
    };
    Ok((0..count).map(numbered).collect())
}

/// The table at the host of guests.
pub(crate) fn guests(specification: Specification) -> Outcome<Table> {
    let (care_of, home_agent) = (address(CARE_OF)?, address(HOME_AGENT)?);
    let mtu = inner_mtu(specification.mtu);
    let entries = home_addresses(specification.guests)?.into_iter().enumerate().map(|(n, (home_address, mac))| Entry {
        guest: GuestId(n),
        home_address,
        home_agent,
        mac,
        port: 0,
        carrier: Some(Carrier { care_of, home_agent }),
        arriving: None,
        mtu,
        link_mtu: mtu,
        router: ROUTER_LINK_LOCAL,
        protected: Protected::default(),
    });
    Ok(Table::new(entries))
}

/// The table at the home agent.
pub(crate) fn bindings(specification: Specification) -> Outcome<HomeAgentTable> {
    let care_of = address(CARE_OF)?;
    let mtu = inner_mtu(specification.mtu);
    let addresses = home_addresses(specification.guests)?.into_iter().enumerate();
    let entries = addresses.map(|(n, (home_address, _))| HomeAgentEntry {
        guest: GuestId(n),
        home_address,
        care_of: Some(care_of),
        mtu,
        protected: Protected::default(),
    });
    Ok(HomeAgentTable::new(address(HOME_AGENT)?, mtu, entries))
}
