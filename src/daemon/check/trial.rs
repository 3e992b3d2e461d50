//! Kernel features, by doing in a network namespace of its own what the daemon would do in this one.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use super::sample::Samples;
use super::stage::Ground;
use super::verdict::Finding;
use crate::daemon::esp_tunnel;
use crate::daemon::reconcile::{Error, Reconciler};
use crate::daemon::tunnel6_loaded;
use crate::ipsec::{Esp, Transform};
use crate::kernel_state::{
    Bindings, Configuration, Guest, HOME_ADDRESS_LINK, KernelState, Link, LinkKind, SINK_LINK, Site, Step, compile,
    diff,
};
use crate::policy::Role;
use crate::vocabulary::GuestId;

const DISTRIBUTION: &str = "(Debian: linux-image-amd64)";
const MOVING: &str = "moving tunnels";

/// What the trials have shown.
#[derive(Debug, Default)]
pub(super) struct Trials {
    pub(super) findings: Vec<Finding>,
    /// What was refused, by subject.
    failures: BTreeMap<String, String>,
    /// Why nothing else can be tried.
    nothing_else: Option<String>,
}

impl Trials {
    /// Something without which nothing can be tried.
    fn end(finding: Finding) -> Self {
        let nothing_else = Some(format!("of \"{}\"", finding.subject));
        Self { findings: vec![finding], nothing_else, ..Self::default() }
    }

    /// Why packets of a guest cannot be tried: the first thing that it needs and that was refused.
    pub(super) fn obstacle(&self, guest: &Guest, home_agent: Ipv6Addr) -> Option<String> {
        if self.nothing_else.is_some() {
            return self.nothing_else.clone();
        }
        let states = [Role::MobileNode, Role::HomeAgent]
            .map(|role| wanted(&Configuration { role, home_agent, guests: vec![guest.clone()] }, 1));
        let plans = states.map(|state| diff(&state, &KernelState::default()));
        let mut subjects = plans.iter().flat_map(|plan| &plan.steps).map(|step| subject(step).0);
        subjects.find(|subject| self.failures.contains_key(subject)).map(|subject| format!("\"{subject}\" is missing"))
    }

    /// Why tunnels cannot be moved.
    pub(super) fn obstacle_to_moving(&self) -> Option<String> {
        self.failures.contains_key(MOVING).then(|| format!("\"{MOVING}\" is missing"))
    }
}

/// Tries every object that the daemon would make for these guests.
pub(super) fn run(samples: &Samples) -> Trials {
    let samples = samples.clone();
    let tried = std::thread::spawn(move || {
        let ground = match Ground::break_new() {
            Ok(ground) => ground,
            Err(error) => {
                let subject = "kernel features, tried in a network namespace";
                return Trials::end(Finding::warning(subject, format!("not tried: {error}")));
            }
        };
        ground.block_on(attempt(&samples))
    });
    tried.join().unwrap_or_else(|_| {
        Trials::end(Finding::missing("kernel features", "the trial ended unexpectedly: report this"))
    })
}

/// Takes every step from nothing to a state like the daemon's and on through a move, then reads it back.
async fn attempt(samples: &Samples) -> Trials {
    let configuration = samples.configuration(samples.role);
    let mut reconciler = match Reconciler::new(configuration.clone()) {
        Ok(reconciler) => reconciler,
        Err(error) => return Trials::end(Finding::missing("netlink for IPsec and routes", error.to_string())),
    };
    if let Err(error) = reconciler.route().set_up("lo").await {
        return Trials::end(Finding::missing("loopback link", error.to_string()));
    }
    let protections = configuration.guests.iter().map(|guest| &guest.protection);
    let wanted_tun = esp_tunnel::is_wanted_by(configuration.role, protections).then(esp_tunnel::make);
    let _tun = match wanted_tun.transpose() {
        Ok(tun) => tun,
        Err(error) => return Trials::end(Finding::missing("TUN of ESP tunnels", error.to_string())),
    };
    let [desired, moved] = [1, 2].map(|place| wanted(&configuration, place));
    let mut lines = Lines::default();
    let (mut without_home_link, mut without_esp) = (false, false);
    let plans = [diff(&desired, &KernelState::default()), diff(&moved, &desired)];
    for step in plans.iter().flat_map(|plan| &plan.steps) {
        // What cannot be because something else is missing is not missing itself.
        if without_home_link && on_home_link(step) || without_esp && matches!(step, Step::Migrate(_)) {
            continue;
        }
        let result = reconciler.step(step).await;
        without_home_link |= result.is_err() && matches!(step, Step::AddLink(Link { kind: LinkKind::Dummy, .. }));
        without_esp |=
            result.is_err() && matches!(step, Step::AddAssociation(sa) if matches!(sa.transform, Transform::Esp(_)));
        lines.record(step, result);
    }
    let mut findings = lines.findings(samples.needs_tunnels());
    if lines.failures.is_empty() {
        findings.push(read_back(&mut reconciler, &moved).await);
    }
    Trials { findings, failures: lines.failures, nothing_else: None }
}

async fn read_back(reconciler: &mut Reconciler, state: &KernelState) -> Finding {
    let subject = "the kernel's state reads back as it was written, and goes away again";
    let kept = match reconciler.apply(state).await {
        Ok(report) if report.steps.iter().all(Step::is_late) => {
            reconciler.apply(&KernelState::default()).await.map_err(|e| e.to_string())
        }
        Ok(report) => {
            let steps: Vec<_> = report.steps.iter().map(Step::to_string).collect();
            Err(format!("still to do: {}", steps.join(", ")))
        }
        Err(error) => Err(error.to_string()),
    };
    match kept {
        Ok(_) => Finding::ok(subject),
        Err(error) => {
            Finding::missing(subject, format!("{error}; this kernel is too old or not understood: report this"))
        }
    }
}

/// One line per subject, in the order of the first step, with the first failure.
#[derive(Default)]
struct Lines {
    order: Vec<String>,
    failures: BTreeMap<String, String>,
}

impl Lines {
    fn record(&mut self, step: &Step, result: Result<(), Error>) {
        let (subject, remedy) = subject(step);
        if !self.order.contains(&subject) {
            self.order.push(subject.clone());
        }
        if let Err(error) = result {
            let reason = match error {
                Error::Step { reason, .. } => reason,
                other => other.to_string(),
            };
            self.failures.entry(subject).or_insert_with(|| format!("{reason}; {remedy}"));
        }
    }

    fn findings(&self, needs_tunnels: bool) -> Vec<Finding> {
        let line = |subject: &String| match self.failures.get(subject) {
            None => Finding::ok(subject),
            Some(why) => {
                let needed = needs_tunnels || subject != MOVING;
                Finding::missing(subject, why).unless_needed(needed, "only the classes in tunnel mode need it")
            }
        };
        self.order.iter().map(line).collect()
    }
}

/// What a step is a trial of, and what to do when it fails.
fn subject(step: &Step) -> (String, String) {
    let module =
        |module: &str, option: &str| format!("`modprobe {module}`, or boot a kernel with {option} {DISTRIBUTION}");
    match step {
        Step::AddPolicy(_) | Step::UpdatePolicy(_) | Step::RemovePolicy(_) => {
            ("IPsec policies for mobility headers".to_owned(), module("xfrm_user", "CONFIG_XFRM_USER"))
        }
        Step::Migrate(_) => (MOVING.to_owned(), module("xfrm_user", "CONFIG_XFRM_MIGRATE")),
        Step::AddAssociation(sa)
        | Step::UpdateAssociation(sa)
        | Step::ReplaceAssociation(sa)
        | Step::MoveAssociation { to: sa, .. } => match &sa.transform {
            Transform::Esp(Esp { encryption, integrity, .. }) => {
                let integrity = integrity.as_ref().map_or_else(String::new, |(i, _)| format!(" and {}", i.name()));
                let remedy =
                    module("-a esp6 authenc echainiv seqiv gcm cbc drbg", "CONFIG_INET6_ESP and these algorithms");
                (format!("ESP over IPv6 with {}{integrity}", encryption.0.name()), remedy)
            }
            Transform::RouteOptimization { .. } => (
                "Home Address option and type 2 routing header states (Mobile IPv6)".to_owned(),
                module("mip6", "CONFIG_IPV6_MIP6"),
            ),
        },
        Step::AddLink(link) | Step::UpdateLink(link) if link.name == SINK_LINK => {
            ("ip6tnl link beside the loaded tunnel receiver".to_owned(), module("ip6_tunnel", "CONFIG_IPV6_TUNNEL"))
        }
        Step::AddLink(_) | Step::UpdateLink(_) => ("dummy link".to_owned(), module("dummy", "CONFIG_DUMMY")),
        Step::SetAddress(_) | Step::RemoveAddress(_) => (
            "home address on it".to_owned(),
            "IPv6 must not be disabled (sysctl net.ipv6.conf.default.disable_ipv6)".to_owned(),
        ),
        Step::AddRule(_) | Step::RemoveRule(_) => (
            "routing rules by protocol".to_owned(),
            format!("boot a kernel from 4.17 on with CONFIG_IPV6_MULTIPLE_TABLES {DISTRIBUTION}"),
        ),
        _ => (
            "routes in tables of our own".to_owned(),
            format!("boot a kernel with CONFIG_IPV6_MULTIPLE_TABLES {DISTRIBUTION}"),
        ),
    }
}

fn on_home_link(step: &Step) -> bool {
    match step {
        Step::SetAddress(_) => true,
        Step::AddRoute(route) => route.key.device == HOME_ADDRESS_LINK,
        Step::RemoveRoute(key) => key.device == HOME_ADDRESS_LINK,
        _ => false,
    }
}

/// The state of a host with every guest away at a place, or of a home agent. Its tunnel link is the daemon's to make, so no guest of a home
/// agent is bound.
fn wanted(configuration: &Configuration, place: u16) -> KernelState {
    let care_of_address = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, place);
    let bound = match configuration.role {
        Role::MobileNode => configuration.guests.len(),
        Role::HomeAgent => 0,
    };
    let bindings = Bindings((0..bound).map(|index| (GuestId(index), care_of_address)).collect());
    compile(configuration, &bindings, &Site { uplink: Some("uplink".to_owned()), tunnel6_loaded: tunnel6_loaded() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever of the kernel's state is made, its trial has a line with a cure.
    #[test]
    fn every_step_has_a_subject_and_a_cure() {
        let configuration = Samples::of(None).configuration(Role::MobileNode);
        let plan = diff(&wanted(&configuration, 1), &KernelState::default());
        let mut subjects: Vec<_> = plan.steps.iter().map(|step| subject(step).0).collect();
        subjects.dedup();
        for expected in ["ESP over IPv6 with aes-cbc and hmac-sha256-128", "dummy link", "home address on it"] {
            assert!(subjects.iter().any(|s| s == expected), "{expected} is not in {subjects:?}");
        }
        for step in &plan.steps {
            assert!(!subject(step).1.is_empty(), "{step}");
        }
    }
}
