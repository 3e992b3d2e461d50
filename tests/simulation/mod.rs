//! The simulated world: hosts, a home agent, the network, and what must always be true.

mod network;
mod random;

use std::collections::BTreeSet;
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use kagemusha::signaling::home_agent::{self, HomeAgent, Received};
use kagemusha::signaling::mobile_node::{self, GuestConfig, MobileNode};
use kagemusha::vocabulary::{Generation, GuestId, Lifetime, MacAddress, SequenceNumber};
use kagemusha::wire::ethernet::Frame;
use kagemusha::wire::ipv6::{self, ALL_NODES};
use kagemusha::wire::mobility::{Message, MobilityOption};
use kagemusha::wire::ndisc::{self, NeighborAdvertisement};
use kagemusha::wire::numbers::ether_type;

pub use network::{Happening, Network};
pub use random::Random;

const GUEST: GuestId = GuestId(3);
const HOSTS: usize = 3;
const HOME_AGENT_MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
const NEIGHBOR_MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 2]);

fn home_address() -> Ipv6Addr {
    "2001:db8:2000::10".parse().unwrap()
}

fn home_agent_address() -> Ipv6Addr {
    "2001:db8:2000::1".parse().unwrap()
}

/// A host and what its shell knows.
struct Host {
    node: MobileNode,
    /// Counts restarts, so that answers to an earlier process are not given to a later one.
    life: u32,
    care_of: Option<Ipv6Addr>,
    /// The durable sequence number.
    stored: SequenceNumber,
    /// What `Secure` asked for last, and the generation in force.
    wanted: (Generation, Option<Ipv6Addr>),
    applied: Generation,
    secured_until: Instant,
    /// The guest is here, or the host has not heard that it has left.
    attached: bool,
    stopped: bool,
    /// A binding update was accepted since the guest came.
    accepted: bool,
    binding: Option<mobile_node::Binding>,
}

pub struct World {
    seed: u64,
    random: Random,
    pub network: Network,
    start: Instant,
    now: Instant,
    traces: bool,
    hosts: Vec<Host>,
    agent: HomeAgent,
    agent_life: u32,
    agent_secured_until: Instant,
    agent_binding: Option<home_agent::Binding>,
    /// The hosts whose updates the home agent has accepted since its start.
    known: BTreeSet<usize>,
    /// Where the guest is; `None`: at home.
    place: Option<usize>,
    /// Every care-of address that an update has asked for.
    asked: BTreeSet<Ipv6Addr>,
    next_care_of: u16,
    lifetime: Lifetime,
    updates: u64,
    acknowledgements: u64,
    /// How often the guest's own host was told that another has taken over.
    steals: u64,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let now = Instant::now();
        let network = Network::new(Random::new(random.next()));
        // From 4 s (the least there is) to 200 s.
        let lifetime = Lifetime(1 + random.below(50) as u16);
        // The hosts' stored numbers are 0 or some way apart, all in one half of the circle of numbers, as they are when
        // every host has begun with 0 and adopted the home agent's. Being one beyond another host's by chance, or
        // newer in a circle (A than C, C than B, B than A), lets an old host steal: RFC 6275 has no remedy.
        let numbers: Vec<u16> = (0..HOSTS as u16)
            .map(|n| if random.chance(50) { 0 } else { n * 2_000 + random.below(900) as u16 })
            .collect();
        let hosts = numbers.into_iter().map(|n| new_host(SequenceNumber(n), lifetime, now)).collect();
        let agent = new_agent();
        Self {
            seed,
            random,
            network,
            start: now,
            now,
            traces: std::env::var_os("KAGEMUSHA_TRACE").is_some(),
            hosts,
            agent,
            agent_life: 0,
            agent_secured_until: now,
            agent_binding: None,
            known: BTreeSet::new(),
            place: None,
            asked: BTreeSet::new(),
            next_care_of: 0,
            lifetime,
            updates: 0,
            acknowledgements: 0,
            steals: 0,
        }
    }

    /// Replaces the random lifetime and stored numbers.
    pub fn lifetime_and_numbers(&mut self, seconds: u64, numbers: &[u16]) {
        self.lifetime = Lifetime::from_duration(Duration::from_secs(seconds));
        self.hosts = numbers.iter().map(|n| new_host(SequenceNumber(*n), self.lifetime, self.now)).collect();
    }

    #[track_caller]
    fn check(&self, truth: bool, rule: &str) {
        assert!(truth, "{rule} (KAGEMUSHA_SEED={})", self.seed);
    }

    /// With `KAGEMUSHA_TRACE` set, what happens is told.
    fn trace(&self, what: &dyn std::fmt::Debug) {
        if self.traces {
            eprintln!("{:10.3} {what:?}", self.now.duration_since(self.start).as_secs_f64());
        }
    }

    fn fresh_care_of(&mut self, host: usize) -> Ipv6Addr {
        self.next_care_of += 1;
        Ipv6Addr::new(0x2001, 0xdb8, 0x3000 + host as u16, 0, 0, 0, 0, self.next_care_of)
    }

    // What happens to the world.

    /// The guest moves to another host. `told`: the old one hears of it. An old one that does not hear of it must have
    /// been settled, with nothing outstanding, and known to this home agent: otherwise nobody can tell the two apart.
    pub fn migrate(&mut self, told: bool) {
        self.trace(&("migrate", self.place, told));
        let from = self.place;
        let others: Vec<usize> = (0..HOSTS).filter(|host| Some(*host) != from).collect();
        let to = others[self.random.below(others.len() as u64) as usize];
        let unknown = |from: &usize| {
            let settled = self.hosts[*from].node.state(GUEST).unwrap().state == "bound";
            !settled || !self.hosts[*from].accepted || !self.known.contains(from)
        };
        if let Some(from) = from.filter(|from| told || unknown(from)) {
            self.hosts[from].node.detach(GUEST, self.now);
            self.hosts[from].attached = false;
        }
        if from.is_none() {
            // No host is still de-registering a guest that is on its way to another.
            self.tell_all_but(HOSTS);
        }
        self.settle_network();
        let care_of = self.fresh_care_of(to);
        let host = &mut self.hosts[to];
        (host.care_of, host.attached, host.stopped, host.accepted) = (Some(care_of), true, false, false);
        host.node.attach(GUEST, care_of, self.now);
        self.place = Some(to);
        self.drain();
    }

    pub fn change_care_of(&mut self) {
        self.trace(&("change_care_of", self.place));
        let host = self.random.below(HOSTS as u64) as usize;
        let host = self.place.unwrap_or(host);
        let care_of = self.fresh_care_of(host);
        self.hosts[host].care_of = Some(care_of);
        self.hosts[host].node.care_of_changed(GUEST, Some(care_of), self.now);
        self.drain();
    }

    pub fn repeat_care_of(&mut self) {
        for host in &mut self.hosts {
            host.node.care_of_changed(GUEST, host.care_of, self.now);
        }
        self.drain();
    }

    pub fn lose_uplink(&mut self) {
        self.trace(&("lose_uplink", self.place));
        let host = self.random.below(HOSTS as u64) as usize;
        self.hosts[host].care_of = None;
        self.hosts[host].node.care_of_changed(GUEST, None, self.now);
        self.drain();
    }

    /// The daemon of the guest's host starts anew, knowing nothing but the stored sequence number.
    pub fn restart_host(&mut self) {
        self.trace(&("restart_host", self.place));
        let Some(place) = self.place else { return };
        let host = &mut self.hosts[place];
        let mut anew = new_host(host.stored, self.lifetime, self.now);
        (anew.life, anew.care_of, anew.attached) = (host.life + 1, host.care_of, true);
        anew.node.attach(GUEST, anew.care_of, self.now);
        self.hosts[place] = anew;
        self.drain();
    }

    /// The home agent forgets everything. Hosts that do not know that their guest has left are told first: nobody can
    /// tell an old host from a new one when the numbers are forgotten.
    pub fn restart_home_agent(&mut self) {
        self.trace(&("restart_home_agent", self.place));
        self.tell_all_but(self.place.unwrap_or(HOSTS));
        self.settle_network();
        self.agent = new_agent();
        self.known.clear();
        self.agent_life += 1;
        self.agent_binding = None;
    }

    /// Moving a machine and starting a home agent take longer than a packet is under way.
    fn settle_network(&mut self) {
        self.run_for_millis(self.network.slowest.as_millis() as u64 + 1);
    }

    fn tell_all_but(&mut self, place: usize) {
        for host in (0..HOSTS).filter(|host| *host != place) {
            self.hosts[host].node.detach(GUEST, self.now);
            self.hosts[host].attached = false;
        }
        self.drain();
    }

    /// The guest goes home. A host that was never accepted does not touch another host's binding, so in that case the
    /// hosts that do not know that their guest has left are told.
    pub fn deregister(&mut self) {
        self.trace(&("deregister", self.place));
        if let Some(place) = self.place.take() {
            if !self.hosts[place].accepted {
                self.tell_all_but(place);
            }
            self.hosts[place].node.deregister(GUEST, self.now);
            self.hosts[place].attached = false;
            self.drain();
        }
    }

    /// A refresh request arrives, genuine or not.
    pub fn hint(&mut self) {
        for host in &mut self.hosts {
            let message = Message::BindingRefreshRequest.emit();
            host.node.handle_message(home_agent_address(), home_address(), &message, self.now);
        }
        self.drain();
    }

    // How time passes.

    pub fn run_for_millis(&mut self, milliseconds: u64) {
        let end = self.now + Duration::from_millis(milliseconds);
        let mut turns = 0;
        loop {
            let timers = self.hosts.iter().map(|host| host.node.poll_timeout()).chain([self.agent.poll_timeout()]);
            let next = timers.flatten().map(|(at, _)| at).chain(self.network.next()).min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            turns += 1;
            self.check(turns < 200_000, "time goes on");
            self.now = self.now.max(next);
            while let Some(happening) = self.network.take_due(self.now) {
                self.happen(happening);
            }
            for host in &mut self.hosts {
                host.node.handle_timeout(self.now);
            }
            self.agent.handle_timeout(self.now);
            self.drain();
            self.check_always();
        }
        self.now = end;
    }

    /// Until the guest's host is bound, for an hour at most.
    pub fn run_until_bound(&mut self) {
        for _ in 0..3_600 {
            if self.place.is_none_or(|place| self.hosts[place].accepted) {
                return;
            }
            self.run_for_millis(1_000);
        }
        self.check(false, "registration succeeds within an hour");
    }

    /// The network works, every host has an uplink, and there is time for every timer.
    pub fn calm_down(&mut self) {
        self.trace(&("calm_down", self.place));
        self.network.perfect(5);
        for host in 0..HOSTS {
            if self.hosts[host].care_of.is_none() {
                let care_of = self.fresh_care_of(host);
                self.hosts[host].care_of = Some(care_of);
                self.hosts[host].node.care_of_changed(GUEST, Some(care_of), self.now);
            }
        }
        self.drain();
        self.run_for_millis(3 * self.lifetime.as_duration().as_millis() as u64 + 120_000);
    }

    fn happen(&mut self, happening: Happening) {
        let now = self.now;
        match happening {
            Happening::ToHomeAgent { care_of, message } => {
                let (source, destination) = (home_address(), home_agent_address());
                let received = Received { source, destination, care_of: Some(care_of) };
                self.agent.handle_binding_update(received, &message, now);
            }
            Happening::ToCareOf { care_of, message } => {
                for host in self.hosts.iter_mut().filter(|host| host.care_of == Some(care_of)) {
                    host.node.handle_message(home_agent_address(), home_address(), &message, now);
                }
            }
            Happening::OnHomeLink(frame) => self.agent.handle_home_link_frame(&frame, now),
            Happening::HostSecured { host, life, guest, generation, failed } => {
                let host = &mut self.hosts[host];
                if host.life != life {
                } else if failed {
                    host.node.securing_failed(guest, generation, now);
                } else {
                    host.applied = host.applied.max(generation);
                    host.node.applied(generation, now);
                }
            }
            Happening::HomeAgentSecured { life, guest, generation, failed } => {
                if self.agent_life != life {
                } else if failed {
                    self.agent.securing_failed(guest, generation, now);
                } else {
                    self.agent.applied(generation, now);
                }
            }
        }
        self.drain();
    }

    fn drain(&mut self) {
        for host in 0..HOSTS {
            while let Some(output) = self.hosts[host].node.poll_output() {
                self.host_output(host, output);
            }
        }
        while let Some(output) = self.agent.poll_output() {
            self.agent_output(output);
        }
    }

    fn host_output(&mut self, index: usize, output: mobile_node::Output) {
        self.trace(&("host", index, &output));
        let now = self.now;
        let host = &mut self.hosts[index];
        match output {
            mobile_node::Output::Secure { generation, guest, care_of } => {
                host.wanted = (generation, care_of);
                let delay = Duration::from_millis(self.random.below(self.network.slowest_securing));
                host.secured_until = host.secured_until.max(now + delay);
                let failed = self.network.securing_fails();
                let happening = Happening::HostSecured { host: index, life: host.life, guest, generation, failed };
                let at = host.secured_until;
                self.network.at(at, happening);
            }
            mobile_node::Output::Transmit { after, sequence, source, destination, message, .. } => {
                let (applied, wanted, stopped, before) = (host.applied, host.wanted, host.stopped, host.stored);
                host.stored = sequence;
                let care_of = host.care_of;
                self.updates += 1;
                let Message::BindingUpdate(update) = Message::parse(&message).unwrap() else { panic!() };
                self.check(after <= applied, "no update leaves before its generation is in force");
                self.check(
                    wanted == (after, update.alternate_care_of_address()),
                    "the generation is the care-of address's",
                );
                self.check(sequence.is_newer_than(before), "sequence numbers of a host only grow");
                self.check(update.sequence == sequence, "the number stored is the number sent");
                self.check(!stopped, "a stopped host is silent");
                self.check(
                    (source, destination) == (home_address(), home_agent_address()),
                    "from home to the home agent",
                );
                let Some(MobilityOption::AlternateCareOfAddress(asked)) = update.options.first() else { panic!() };
                self.asked.insert(*asked);
                if let Some(care_of) = care_of.filter(|care_of| care_of == asked) {
                    self.network.send(Happening::ToHomeAgent { care_of, message }, now);
                }
            }
            mobile_node::Output::Binding { binding, .. } => {
                host.binding = binding;
                let known = binding.is_none_or(|binding| self.asked.contains(&binding.care_of));
                self.check(known, "a host carries only what it has asked for");
            }
            mobile_node::Output::Event { event, .. } => match event {
                mobile_node::Event::Stopped(_) => {
                    host.stopped = true;
                    host.attached = false;
                    self.steals += u64::from(self.place == Some(index));
                }
                mobile_node::Event::Registered { .. } | mobile_node::Event::Refreshed { .. } => host.accepted = true,
                _ => {}
            },
        }
    }

    fn agent_output(&mut self, output: home_agent::Output) {
        self.trace(&("home agent", &output));
        let now = self.now;
        match output {
            home_agent::Output::Secure { generation, guest, .. } => {
                let delay = Duration::from_millis(self.random.below(self.network.slowest_securing));
                self.agent_secured_until = self.agent_secured_until.max(now + delay);
                let failed = self.network.securing_fails();
                let happening = Happening::HomeAgentSecured { life: self.agent_life, guest, generation, failed };
                self.network.at(self.agent_secured_until, happening);
            }
            home_agent::Output::Transmit { home_address: to, via_care_of, message, .. } => {
                self.acknowledgements += 1;
                self.check(to == home_address(), "acknowledgements go to the home address");
                let care_of = via_care_of.expect("updates come from care-of addresses");
                self.network.send(Happening::ToCareOf { care_of, message }, now);
            }
            home_agent::Output::HomeLinkFrame(frame) => {
                let ours = Frame::parse(&frame).unwrap();
                let (header, payload) = ipv6::Header::parse(ours.payload).unwrap();
                let message = ndisc::Message::parse(&header, payload).unwrap();
                let probe = matches!(message, ndisc::Message::NeighborSolicitation(_));
                if probe && self.network.is_answered_at_home() {
                    self.network.send(Happening::OnHomeLink(answer_from_home()), now);
                }
                if let ndisc::Message::NeighborAdvertisement(advertisement) = message {
                    self.check(self.agent_binding_now(), "only bound addresses are advertised");
                    self.check(advertisement.target == home_address(), "for the home address");
                }
            }
            home_agent::Output::Binding { binding, .. } => {
                self.agent_binding = binding;
                let known = binding.is_none_or(|binding| self.asked.contains(&binding.care_of));
                if let Some(binding) = binding {
                    self.known.insert(usize::from(binding.care_of.segments()[2] - 0x3000));
                }
                self.check(known, "the home agent has no care-of address that nobody asked for");
            }
            home_agent::Output::Event { .. } => {}
        }
    }

    // What must be true.

    fn agent_binding_now(&self) -> bool {
        self.agent.state(GUEST).unwrap().state == "bound"
    }

    fn check_always(&self) {
        for host in &self.hosts {
            let next = host.node.poll_timeout();
            self.check(next.is_none_or(|(at, _)| at > self.now), "nothing due is left undone by a host");
            let live = host.binding.is_none_or(|binding| binding.expires > self.now);
            self.check(live, "no host carries an expired binding");
        }
        let next = self.agent.poll_timeout();
        self.check(next.is_none_or(|(at, _)| at > self.now), "nothing due is left undone by the home agent");
        let live = self.agent_binding.is_none_or(|binding| binding.expires > self.now);
        self.check(live, "the home agent tunnels for no expired binding");
    }

    pub fn check_the_end(&self) {
        match self.place {
            Some(place) if self.hosts[place].stopped => self.check(false, "the guest's own host is not stopped"),
            Some(_) => self.check_bound(),
            None => self.check_unbound(),
        }
        for (index, host) in self.hosts.iter().enumerate().filter(|(index, _)| Some(*index) != self.place) {
            let state = host.node.state(GUEST).unwrap().state;
            self.check(state == "detached" || state == "stopped", &format!("host {index} has given up, not {state}"));
            self.check(host.binding.is_none(), "and carries nothing");
        }
    }

    pub fn check_bound(&self) {
        let host = &self.hosts[self.place.unwrap()];
        let state = host.node.state(GUEST).unwrap();
        let carried = host.binding.map(|binding| binding.care_of);
        self.check(carried == host.care_of, &format!("the host carries its care-of address, but {state:?}"));
        let there = self.agent_binding.map(|binding| binding.care_of);
        self.check(there == host.care_of, &format!("the home agent has the care-of address, but {there:?}, {state:?}"));
        let (ours, theirs) = (host.binding.unwrap().expires, self.agent_binding.unwrap().expires);
        self.check(ours <= theirs, "the host is the first to think its binding over");
    }

    pub fn check_unbound(&self) {
        self.check(self.agent_binding.is_none(), "no binding after de-registration");
        self.check(self.hosts.iter().all(|host| host.binding.is_none()), "and none in the hosts");
    }

    pub fn steals(&self) -> u64 {
        self.steals
    }

    pub fn sent_updates(&self) -> u64 {
        self.updates
    }

    pub fn sent_acknowledgements(&self) -> u64 {
        self.acknowledgements
    }
}

fn new_host(stored: SequenceNumber, lifetime: Lifetime, now: Instant) -> Host {
    let mut node = MobileNode::new();
    let config = GuestConfig {
        home_address: home_address(),
        home_agent: home_agent_address(),
        lifetime,
        last_sequence: stored,
        key_management_mobility: false,
    };
    node.add_guest(GUEST, config);
    Host {
        node,
        life: 0,
        care_of: None,
        stored,
        wanted: (Generation::default(), None),
        applied: Generation::default(),
        secured_until: now,
        attached: false,
        stopped: false,
        accepted: false,
        binding: None,
    }
}

fn new_agent() -> HomeAgent {
    let mut agent = HomeAgent::new(home_agent::Config {
        address: home_agent_address(),
        home_link: "2001:db8:2000::/64".parse().unwrap(),
        link_layer_address: HOME_AGENT_MAC,
        maximum_lifetime: Duration::from_secs(3_600),
        detect_duplicates: true,
        optimistic_detection: false,
        key_management_mobility: false,
        maximum_bindings: 10,
    });
    agent.add_guest(GUEST, home_address(), None);
    agent
}

/// Someone on the home link says that the home address is theirs.
fn answer_from_home() -> Vec<u8> {
    let message = ndisc::Message::NeighborAdvertisement(NeighborAdvertisement {
        router: false,
        solicited: false,
        override_cache: true,
        target: home_address(),
        options: vec![ndisc::NeighborOption::TargetLinkLayerAddress(NEIGHBOR_MAC)],
    });
    let packet = message.emit(home_address(), ALL_NODES);
    let destination = MacAddress::for_multicast(ALL_NODES);
    Frame { destination, source: NEIGHBOR_MAC, ether_type: ether_type::IPV6, payload: &packet }.emit()
}
