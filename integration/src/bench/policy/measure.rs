//! What is measured, and in which order.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;
use std::time::Instant;

use kagemusha::daemon::reconcile::Reconciler;
use kagemusha::ipsec::{
    AssociationKey, AssociationLifetime, Class, Encryption, Esp, Integrity, SecretKey, SecurityAssociation, Transform,
};
use kagemusha::kernel_state::{Bindings, Configuration, Guest, KernelState, Site, compile, diff};
use kagemusha::policy::{Protection, Reqids, Role};
use kagemusha::vocabulary::GuestId;
use serde::Serialize;

use super::ip;
use crate::failure::{Failure, Outcome, While, ensure};
use crate::inner::tell;
use crate::node::Node;

pub(super) const ROLES: [Role; 2] = [Role::HomeAgent, Role::MobileNode];
/// Changes of single guests in a round.
const CHANGES: usize = 20;
/// Dumps and reconciliations without anything to do in a round.
const LOOKS: usize = 2;

/// Milliseconds of each sample, and kilobytes.
#[derive(Debug, Default, Serialize)]
pub(super) struct Samples {
    pub(super) role: &'static str,
    pub(super) associations: usize,
    pub(super) policies: usize,
    pub(super) install: Vec<f64>,
    pub(super) ip_batch: Vec<f64>,
    pub(super) nothing_to_do: Vec<f64>,
    pub(super) ip_dump: Vec<f64>,
    pub(super) one_guest: Vec<f64>,
    /// Objects that a change of one guest touched, at most.
    pub(super) touched: usize,
    pub(super) removal: Vec<f64>,
    /// Resident before the configuration, with it, and with everything in force.
    pub(super) resident: [u64; 3],
}

/// Measures one role.
pub(super) fn measure(role: Role, guests: usize, rounds: usize) -> Outcome<Samples> {
    let node = Node::new("bench")?;
    node.ip("link set lo up\nlink add kage-ha type dummy\nlink set kage-ha up\naddr add 2001:db8:2000::1/128 dev kage-ha nodad\nlink add uplink type dummy\nlink set uplink up")?;
    let before = resident()?;
    let configuration = configuration(role, guests);
    let configured = resident()?;
    let mut samples = Samples { resident: [before, configured, 0], ..Samples::default() };
    samples.role = match role {
        Role::HomeAgent => "home agent",
        Role::MobileNode => "mobile node",
    };
    let mut worker = Worker::start(&node, configuration.clone())?;
    let wanted = compile(&configuration, &Bindings::default(), &site());
    (samples.associations, samples.policies) = (wanted.associations.len(), wanted.policies.len());
    let batch = ip::batch(&wanted);
    for round in 1..=rounds {
        tell(&format!("{}, round {round} of {rounds}: the reconciler", samples.role));
        samples.install.push(worker.bring(None)?.0);
        if round == 1 {
            samples.resident[2] = resident()?;
        }
        for _ in 0..LOOKS {
            let (time, touched) = worker.bring(None)?;
            ensure(touched == 0, || format!("nothing was to be done, and {touched} steps were taken"))?;
            samples.nothing_to_do.push(time);
            samples.ip_dump.push(milliseconds(ip::dump(&node)?));
        }
        for change in 0..CHANGES {
            let (time, touched) = worker.bring(Some(GuestId(change * guests / CHANGES)))?;
            samples.one_guest.push(time);
            samples.touched = samples.touched.max(touched);
        }
        samples.removal.push(worker.remove()?);
        tell(&format!("{}, round {round} of {rounds}: ip -batch", samples.role));
        samples.ip_batch.push(milliseconds(ip::install(&node, &batch)?));
        if round == 1 {
            worker.must_hold(&wanted)?;
        }
        ip::flush(&node)?;
    }
    Ok(samples)
}

fn site() -> Site {
    Site { uplink: Some("uplink".to_owned()), tunnel6_loaded: false }
}

/// A reconciler on a thread in the namespace, with its event loop.
struct Worker<'a> {
    node: &'a Node,
    state: Option<Held>,
}

struct Held {
    runtime: tokio::runtime::Runtime,
    reconciler: Reconciler,
    bindings: Bindings,
}

impl<'a> Worker<'a> {
    fn start(node: &'a Node, configuration: Configuration) -> Outcome<Self> {
        let made = node.run(move || -> Outcome<Held> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let reconciler = {
                let _inside = runtime.enter();
                Reconciler::new(configuration).during(|| "the reconciler".into())?
            };
            Ok(Held { runtime, reconciler, bindings: Bindings::default() })
        })?;
        Ok(Self { node, state: Some(made?) })
    }

    fn with<T: Send + 'static>(&mut self, work: impl FnOnce(&mut Held) -> Outcome<T> + Send + 'static) -> Outcome<T> {
        let mut held = self.state.take().ok_or_else(|| Failure::new("the reconciler is gone"))?;
        let (held, result) = self.node.run(move || {
            let result = work(&mut held);
            (held, result)
        })?;
        self.state = Some(held);
        result
    }

    /// Brings everything into force, or what one guest needs after it went away or came home; milliseconds and steps.
    fn bring(&mut self, guest: Option<GuestId>) -> Outcome<(f64, usize)> {
        self.with(move |held| {
            if let Some(guest) = guest
                && held.bindings.0.remove(&guest).is_none()
            {
                held.bindings.0.insert(guest, Ipv6Addr::new(0x2001, 0xdb8, 0x3000, 0, 0, 0, 0, 3));
            }
            let asked: BTreeSet<GuestId> = guest.into_iter().collect();
            let started = Instant::now();
            let report = held.runtime.block_on(held.reconciler.bring(&held.bindings, &site(), &asked));
            let time = milliseconds(started.elapsed());
            let report = report.during(|| "reconciling".into())?;
            match report.failures.first() {
                Some(failure) => Err(Failure::new(failure.error.to_string())),
                None => Ok((time, report.steps.len())),
            }
        })
    }

    fn remove(&mut self) -> Outcome<f64> {
        self.with(|held| {
            held.bindings.0.clear();
            let started = Instant::now();
            let result = held.runtime.block_on(held.reconciler.apply(&KernelState::default()));
            result.during(|| "taking down".into())?;
            Ok(milliseconds(started.elapsed()))
        })
    }

    /// That iproute2 has made the same, but for what it has no words for.
    fn must_hold(&mut self, wanted: &KernelState) -> Outcome {
        let wanted = wanted.clone();
        self.with(move |held| {
            let observed = held.runtime.block_on(held.reconciler.observe()).during(|| "reading".into())?;
            let esp = |state: &KernelState| state.associations.values().filter(|sa| sa.reqid().is_some()).count();
            let left = diff(&wanted, &observed).steps.len();
            let shared = wanted.associations.len() - esp(&wanted)
                + wanted.links.len()
                + wanted.routes.len()
                + wanted.rules.len();
            ensure(observed.policies == wanted.policies && esp(&observed) == esp(&wanted) && left <= shared, || {
                format!("ip -batch has not made the same: {left} steps are left, {shared} of them expected")
            })
        })
    }
}

fn milliseconds(time: std::time::Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Resident memory of this process in kB.
fn resident() -> Outcome<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.ok_or_else(|| Failure::new("no VmRSS in /proc/self/status"))
}

/// Guests with a protected registration, each with keys of its own.
fn configuration(role: Role, guests: usize) -> Configuration {
    let home_agent = Ipv6Addr::new(0x2001, 0xdb8, 0x2000, 0, 0, 0, 0, 1);
    let guest = |index: usize| {
        let [high, low] = [index >> 16, index & 0xffff].map(|part| u16::try_from(part).unwrap_or_default());
        let home_address = Ipv6Addr::new(0x2001, 0xdb8, 0x2000, 0, 0, 1, high, low);
        let first = u32::try_from(index).unwrap_or_default() * 2 + 1;
        let key = |octets: usize, salt: u32| {
            let octets = (0..octets).map(|at| ((first ^ salt).rotate_left(at as u32) as u8).wrapping_add(at as u8));
            SecretKey::new(octets.collect())
        };
        let sa = |source, destination, reqid| SecurityAssociation {
            key: AssociationKey { source, destination, protocol: 50, spi: 0x1000 + reqid },
            transform: Transform::Esp(Esp {
                mode: Class::HomeRegistration.mode(),
                reqid,
                encryption: (Encryption::AesCbc, key(16, reqid)),
                integrity: Some((Integrity::HmacSha256, key(32, !reqid))),
                replay_window: 32,
                extended_sequence_numbers: false,
                lifetime: AssociationLifetime::default(),
            }),
        };
        let reqids = Reqids { to_home_agent: first, to_guest: first + 1 };
        let associations = vec![sa(home_address, home_agent, first), sa(home_agent, home_address, first + 1)];
        let protection = Protection { classes: [(Class::HomeRegistration, reqids)].into(), associations };
        Guest { home_address, protection }
    };
    Configuration { role, home_agent, guests: (0..guests).map(guest).collect() }
}
