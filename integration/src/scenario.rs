//! What a scenario is, and what it has to work with.

use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::agent::Agent;
use crate::capture::{Capture, Observer};
use crate::dissect::Layer;
use crate::expect::{self, SOON};
use crate::failure::{Failure, Outcome, While, ensure, in_time};
use crate::job::{Job, LINE};
use crate::node::Node;
use crate::policy;
use crate::process::{Daemon, wait_until};
use crate::sys;
use crate::tiers::exchange::exchange;
use crate::tiers::setting::Setting;
use crate::topology::cast::{CORRESPONDENT, FAR, GUEST, GUEST2};
use crate::topology::{Link, Topology};

/// The seed that the user wants to be repeated.
pub(crate) fn seed() -> Outcome<Option<u64>> {
    const NAME: &str = "KAGEMUSHA_LAB_SEED";
    let Ok(text) = std::env::var(NAME) else { return Ok(None) };
    text.parse().map(Some).during(|| format!("{NAME}={text:?} is no seed: a number, as a run has told it"))
}

/// A scenario: a directory `integration/scenarios/<name>/` with its text, its code, and the policies that only it uses.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// `README.md`; its first line is the title.
    pub(crate) readme: &'static str,
    pub(crate) peer: Peer,
    /// Whether every packet is meant to be well-formed, so that tshark must have nothing to say against it.
    pub(crate) well_formed: bool,
    pub(crate) run: fn(&Lab) -> Outcome,
}

/// Who else takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    None,
    /// umip's `mip6d` as home agent, in the node `ha`.
    UmipHomeAgent,
    /// umip's `mip6d` as mobile node, in the node `host`.
    UmipMobileNode,
    /// A guest in QEMU beside the lab's machine, which takes minutes.
    Qemu,
}

impl Peer {
    /// The node that umip runs in.
    pub(crate) fn umip_node(self) -> Option<&'static str> {
        match self {
            Self::UmipHomeAgent => Some("ha"),
            Self::UmipMobileNode => Some("host"),
            Self::None | Self::Qemu => None,
        }
    }
}

impl Scenario {
    /// The first line of its README, without its name.
    pub(crate) fn title(&self) -> &'static str {
        let line = self.readme.lines().next().unwrap_or_default();
        line.split_once(": ").map_or(line, |(_, title)| title)
    }
}

/// The topology with everything that runs in it, made anew for every scenario.
pub(crate) struct Lab {
    pub(crate) net: Topology,
    /// Where the captures, logs and policies of this scenario are.
    pub(crate) directory: PathBuf,
    pub(crate) kagemusha: PathBuf,
    pub(crate) mip6d: Option<PathBuf>,
    /// What daemons are started with, in a run by tiers.
    tier: Option<Setting>,
    started: Instant,
}

impl Lab {
    /// The lab of one scenario or bench in `directory`.
    /// A node of the name may be in another machine.
    pub(crate) fn new(directory: &Path, job: &Job, away: Option<(&str, &Arc<Agent>)>) -> Outcome<Self> {
        let started = Instant::now();
        std::fs::create_dir_all(directory).during(|| directory.display().to_string())?;
        let net = Topology::build(directory, job.gather(), away)?;
        let lab = Self {
            net,
            directory: directory.to_owned(),
            kagemusha: job.kagemusha.clone(),
            mip6d: job.mip6d.clone(),
            tier: job.tier,
            started,
        };
        if lab.tier.is_some() {
            for node in [&lab.net.guest, &lab.net.guest2, &lab.net.cn] {
                node.run(|| sys::leave_to_network_card("eth0"))?.during(|| format!("offloads of {}", node.name()))?;
            }
        }
        [&lab.net.host, &lab.net.host2].into_iter().try_for_each(|host| lab.prepare_host(host))?;
        Ok(lab)
    }

    /// From now on daemons are started with another tier.
    pub(crate) fn use_tier(&mut self, tier: Setting) -> Outcome {
        self.tier = Some(tier);
        for host in [&self.net.host, &self.net.host2] {
            host.sysctl("conf/all/forwarding", "0")?;
            self.prepare_host(host)?;
        }
        Ok(())
    }

    /// What an administrator has to set on a host for the tier of this run (README, "Running it").
    pub(crate) fn prepare_host(&self, host: &Node) -> Outcome {
        // Since Linux 6.17 the daemon lets its own TUN forward.
        let by_interface = || host.run(|| Path::new("/proc/sys/net/ipv6/conf/all/force_forwarding").exists());
        if self.tier == Some(Setting::SuperPacket) && !by_interface()? {
            host.command("sysctl", &["-q", "-w", "net.ipv6.conf.all.forwarding=1"])?;
        }
        Ok(())
    }

    /// A daemon of either role by its command line, without the policy.
    fn daemon(&self, role: &[&str]) -> Command {
        let mut command = Command::new(&self.kagemusha);
        command.args(role);
        if let Some(tier) = self.tier {
            command.args(["--accelerate", tier.option()]);
        }
        command.arg("--ipsec");
        command
    }

    fn keep_status<'lab>(&self, daemon: Daemon<'lab>) -> Daemon<'lab> {
        if self.tier.is_some() { daemon.keeping_status(&self.kagemusha) } else { daemon }
    }

    /// Tells the user what comes now.
    pub(crate) fn step(&self, what: &str) {
        println!("{LINE}    {:6.2} s  {what}", self.started.elapsed().as_secs_f64());
    }

    /// Starts `kagemusha --ipsec POLICY` in `host`. The policy is a file of `integration/policies`.
    pub(crate) fn start_mobile_node<'lab>(&'lab self, host: &'lab Node, policy: &str) -> Outcome<Daemon<'lab>> {
        let name = format!("mobile-node-{}", host.name());
        let file = self.policy(&format!("{name}.toml"), policy)?;
        let mut command = self.daemon(&[]);
        command.arg(file);
        Ok(self.keep_status(Daemon::start(host, &name, &self.directory, command)?))
    }

    /// Runs a command of `kagemusha` in `node`, such as `status`; fails unless it exits with 0. What it prints.
    pub(crate) fn command(&self, node: &Node, arguments: &[&str]) -> Outcome<String> {
        node.command(&self.kagemusha.to_string_lossy(), arguments)
    }

    /// The same for a command that has to fail: what it says on standard error.
    pub(crate) fn refused_command(&self, node: &Node, arguments: &[&str]) -> Outcome<String> {
        let output = node.try_command(&self.kagemusha.to_string_lossy(), arguments)?;
        ensure(output.status.code() == Some(1), || format!("kagemusha {}: {:?}", arguments.join(" "), output.status))?;
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Waits until `kagemusha status` in `node` has this line about a guest.
    pub(crate) fn wait_for_status(&self, node: &Node, line: &str, timeout: Duration) -> Outcome {
        wait_until(&format!("the status of {} has the line {line:?}", node.name()), timeout, || {
            // A daemon that has just been started does not listen yet.
            let output = node.try_command(&self.kagemusha.to_string_lossy(), &["status"])?;
            Ok(String::from_utf8_lossy(&output.stdout).lines().any(|found| found.trim() == line))
        })
    }

    /// The command with which a mobile node is started again, by the name of its policy in the scenario's directory.
    pub(crate) fn mobile_node_command(&self, policy: &str) -> Command {
        let mut command = self.daemon(&[]);
        command.arg(self.directory.join(policy)).current_dir(&self.directory);
        command
    }

    /// Starts `kagemusha home-agent --ipsec POLICY` in `ha` and waits until it listens.
    pub(crate) fn start_home_agent(&self, policy: &str) -> Outcome<Daemon<'_>> {
        let file = self.policy("home-agent.toml", policy)?;
        let mut command = self.daemon(&["home-agent"]);
        command.arg(file);
        let mut daemon = self.keep_status(Daemon::start(&self.net.ha, "home-agent", &self.directory, command)?);
        wait_until("the home agent listens for mobility headers", expect::FIRST_REGISTRATION, || {
            daemon.must_run()?;
            // Local port of a raw socket is its protocol number; 0x87 is the mobility header.
            Ok(self.net.ha.read("/proc/thread-self/net/raw6")?.contains(":0087 "))
        })?;
        Ok(daemon)
    }

    /// Writes a policy into the directory of this scenario and makes its keys.
    pub(crate) fn policy(&self, name: &str, text: &str) -> Outcome<PathBuf> {
        policy::write(&self.kagemusha, &self.directory, name, text)
    }

    /// Waits until the guest has a default router, which only a router advertisement can have given it.
    pub(crate) fn wait_for_router(&self, guest: &Node) -> Outcome {
        wait_until(&format!("{} has a default router", guest.name()), SOON, || {
            Ok(guest.command("ip", &["-6", "route", "show", "default"])?.contains("default via fe80::"))
        })
    }

    /// Ends daemons as an administrator would, in that order. Each must still run, end with exit code 0 within its time,
    /// have logged no error, and leave nothing of its own behind in the kernel.
    pub(crate) fn end<const N: usize>(&self, daemons: [Daemon<'_>; N]) -> Outcome {
        for mut daemon in daemons {
            daemon.terminate()?;
            daemon.log_must_be_clean()?;
            daemon.must_have_left_nothing()?;
        }
        Ok(())
    }

    /// Fails if any link has ever carried a mobility header that can be read.
    pub(crate) fn no_readable_mobility_header(&self) -> Outcome {
        expect::no_readable_mobility_header(self.net.captures().map(Capture::observer_of_all))
    }

    /// Fails if any link has ever carried a readable mobility header with a wrong checksum.
    pub(crate) fn checksums_must_be_good(&self) -> Outcome {
        self.net.captures().try_for_each(|capture| {
            let all = capture.observer_of_all();
            all.must_not_have_seen("a wrong checksum", |packet| packet.layers.contains(&Layer::BadChecksum))
        })
    }

    /// The capture of a link.
    pub(crate) fn on(&self, link: Link) -> Outcome<&Capture> {
        self.net.on(link)
    }

    /// An observer of what a link carries from now on.
    pub(crate) fn watch(&self, link: Link) -> Outcome<Observer> {
        Ok(self.on(link)?.new_observer())
    }

    /// One echo request from `node` to `destination` that must be answered.
    pub(crate) fn ping(&self, node: &Node, destination: Ipv6Addr) -> Outcome {
        let answered = ping_once(node, destination, ANSWER)?;
        in_time(answered, || format!("{}: no echo reply from {destination}", node.name()))?;
        if self.tier.is_some() { self.exchange(node, destination) } else { Ok(()) }
    }

    /// More than an echo, between a guest and a correspondent.
    fn exchange(&self, node: &Node, destination: Ipv6Addr) -> Outcome {
        let net = &self.net;
        let to = [(GUEST, &net.guest), (GUEST2, &net.guest2), (CORRESPONDENT, &net.cn), (FAR, &net.far)];
        let is_guest = |node: &Node| node.name().starts_with("guest");
        match to.into_iter().find(|(address, _)| *address == destination) {
            Some((_, to)) if node.name() != net.ha.name() && (is_guest(node) || is_guest(to)) => {
                exchange(node, to, destination)
            }
            _ => Ok(()),
        }
    }

    /// Echo requests from `node` to `destination` until one is answered.
    pub(crate) fn ping_until_answered(&self, node: &Node, destination: Ipv6Addr, timeout: Duration) -> Outcome {
        let deadline = Instant::now() + timeout;
        while !ping_once(node, destination, Duration::from_secs(1))? {
            in_time(Instant::now() < deadline, || {
                format!("{}: no echo reply from {destination} within {:.1} s", node.name(), timeout.as_secs_f64())
            })?;
        }
        Ok(())
    }

    /// Echo requests whose whole packet has `size` octets, until one is answered: the first ones only teach the path MTU.
    pub(crate) fn ping_of_size_until_answered(&self, node: &Node, destination: Ipv6Addr, size: usize) -> Outcome {
        // IPv6 header and ICMPv6 header.
        let to = destination;
        let (payload, destination) = ((size - 48).to_string(), destination.to_string());
        let arguments = ["-6", "-n", "-q", "-c", "1", "-W", "1", "-s", &payload, &destination];
        wait_until(&format!("{}: {size} octets to {destination} are answered", node.name()), SOON, || {
            Ok(node.try_command("ping", &arguments)?.status.success())
        })?;
        if self.tier.is_some() { self.exchange(node, to) } else { Ok(()) }
    }

    /// One echo request from `node` to `destination` that nobody may answer.
    pub(crate) fn ping_unanswered(&self, node: &Node, destination: Ipv6Addr) -> Outcome {
        let answered = ping_once(node, destination, Duration::from_secs(1))?;
        ensure(!answered, || format!("{}: an echo reply came from {destination}", node.name()))
    }

    /// Ends the captures, so that their files are complete.
    pub(crate) fn finish(&mut self) -> Outcome {
        self.net.stop_captures()
    }
}

/// One echo request is answered in this time, also by an emulated machine beside others.
const ANSWER: Duration = Duration::from_secs(15);

fn ping_once(node: &Node, destination: Ipv6Addr, wait: Duration) -> Outcome<bool> {
    let (wait, destination) = (wait.as_secs().to_string(), destination.to_string());
    let output = node.try_command("ping", &["-6", "-n", "-q", "-c", "1", "-W", &wait, &destination])?;
    match output.status.code() {
        Some(0) => Ok(true),
        Some(1) => Ok(false),
        _ => {
            Err(Failure::new(format!("{}: ping: {}", node.name(), String::from_utf8_lossy(&output.stderr).trim_end())))
        }
    }
}
