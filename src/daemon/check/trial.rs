//! Kernel features, by doing in a network namespace of its own what the daemon would do in this one.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::path::Path;

use nix::sched::{CloneFlags, unshare};

use super::Finding;
use crate::daemon::esp_tunnel;
use crate::daemon::reconcile::{Error, Reconciler};
use crate::ipsec::{
    AssociationKey, AssociationLifetime, Class, Encryption, Esp, EspMode, Integrity, SecretKey, SecurityAssociation,
    Transform,
};
use crate::kernel_state::{
    Bindings, Configuration, Guest, HOME_ADDRESS_LINK, KernelState, Link, LinkKind, SINK_LINK, Site, Step, compile,
    diff,
};
use crate::policy::{Policy, Protection, Reqids, Role};
use crate::vocabulary::GuestId;

const DISTRIBUTION: &str = "(Debian: linux-image-amd64)";

pub(super) fn findings(policy: Option<&Policy>) -> Vec<Finding> {
    let configuration = sample(policy);
    let tried = std::thread::spawn(move || {
        // Of this thread alone; the namespace goes when the thread and its sockets are gone.
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
            let subject = "kernel features, tried in a network namespace";
            return vec![Finding::warning(
                subject,
                format!("not tried: {error}; run the check as root (CAP_SYS_ADMIN)"),
            )];
        }
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return vec![Finding::missing("an event loop", error.to_string())],
        };
        runtime.block_on(attempt(configuration))
    });
    tried
        .join()
        .unwrap_or_else(|_| vec![Finding::missing("kernel features", "the trial ended unexpectedly: report this")])
}

/// Takes every step from nothing to a state like the daemon's and on through a move, then reads it back.
async fn attempt(configuration: Configuration) -> Vec<Finding> {
    let mut reconciler = match Reconciler::new(configuration.clone()) {
        Ok(reconciler) => reconciler,
        Err(error) => return vec![Finding::missing("netlink for IPsec and routes", error.to_string())],
    };
    if let Err(error) = reconciler.route().set_up("lo").await {
        return vec![Finding::missing("loopback link", error.to_string())];
    }
    let protections = configuration.guests.iter().map(|guest| &guest.protection);
    let wanted_tun = esp_tunnel::is_wanted_by(configuration.role, protections).then(esp_tunnel::make);
    let _tun = match wanted_tun.transpose() {
        Ok(tun) => tun,
        Err(error) => return vec![Finding::missing("TUN of ESP tunnels", error.to_string())],
    };
    let [desired, moved] = [1, 2].map(|place| wanted(&configuration, place));
    let mut findings = Findings::default();
    let mut without_home_link = false;
    let plans = [diff(&desired, &KernelState::default()), diff(&moved, &desired)];
    for step in plans.iter().flat_map(|plan| &plan.steps) {
        if without_home_link && on_home_link(step) {
            continue;
        }
        let result = reconciler.step(step).await;
        without_home_link |= result.is_err() && matches!(step, Step::AddLink(Link { kind: LinkKind::Dummy, .. }));
        findings.record(step, result);
    }
    let mut findings = findings.into_lines();
    if findings.iter().all(|finding| finding.remedy.is_empty()) {
        let subject = "the kernel's state reads back as it was written, and goes away again";
        let kept = match reconciler.apply(&moved).await {
            Ok(report) if report.steps.is_empty() => {
                reconciler.apply(&KernelState::default()).await.map_err(|e| e.to_string())
            }
            Ok(report) => {
                let steps: Vec<_> = report.steps.iter().map(Step::to_string).collect();
                Err(format!("still to do: {}", steps.join(", ")))
            }
            Err(error) => Err(error.to_string()),
        };
        findings.push(match kept {
            Ok(_) => Finding::ok(subject),
            Err(error) => {
                Finding::missing(subject, format!("{error}; this kernel is too old or not understood: report this"))
            }
        });
    }
    findings
}

/// One line per subject, in the order of the first step, with the first failure.
#[derive(Default)]
struct Findings {
    order: Vec<String>,
    failures: BTreeMap<String, String>,
}

impl Findings {
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

    fn into_lines(self) -> Vec<Finding> {
        let line = |subject: String| match self.failures.get(&subject) {
            None => Finding::ok(subject),
            Some(why) => Finding::missing(subject, why.clone()),
        };
        self.order.into_iter().map(line).collect()
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
        Step::Migrate(_) => ("moving tunnels".to_owned(), module("xfrm_user", "CONFIG_XFRM_MIGRATE")),
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
    let tunnel6_loaded = Path::new("/sys/module/tunnel6").exists();
    compile(configuration, &bindings, &Site { uplink: Some("uplink".to_owned()), tunnel6_loaded })
}

/// One guest for every combination of algorithms in the policy; without one, the usual combination. All keys are zeros: this is
/// about algorithms.
fn sample(policy: Option<&Policy>) -> Configuration {
    let Some(policy) = policy else { return default_sample() };
    let mut suites: Vec<Vec<_>> = vec![];
    let mut configuration = Configuration { guests: vec![], ..Configuration::from(policy) };
    for mut guest in Configuration::from(policy).guests {
        let mut suite = vec![];
        for association in &mut guest.protection.associations {
            suite.push(without_key(association));
        }
        if !suites.contains(&suite) {
            suites.push(suite);
            configuration.guests.push(guest);
        }
    }
    configuration
}

type Suite = Option<(Encryption, usize, Option<Integrity>, u32)>;

/// Puts zeros in the place of the keys; gives what makes a trial of its own.
fn without_key(association: &mut SecurityAssociation) -> Suite {
    let Transform::Esp(Esp { encryption, integrity, replay_window, .. }) = &mut association.transform else {
        return None;
    };
    let zeros = |key: &SecretKey| SecretKey::new(vec![0; key.length()]);
    encryption.1 = zeros(&encryption.1);
    if let Some((_, key)) = integrity {
        *key = zeros(key);
    }
    Some((encryption.0, encryption.1.length(), integrity.as_ref().map(|i| i.0), *replay_window))
}

fn default_sample() -> Configuration {
    let address = |last| Ipv6Addr::new(0x2001, 0xdb8, 0x2000, 0, 0, 0, 0, last);
    let (home_agent, home_address) = (address(1), address(0x10));
    let association = |source, destination, spi, reqid| {
        let (encryption, integrity) = (Encryption::AesCbc, Integrity::HmacSha256);
        let zeros = |octets| SecretKey::new(vec![0; octets]);
        SecurityAssociation {
            key: AssociationKey { source, destination, protocol: 50, spi },
            transform: Transform::Esp(Esp {
                mode: EspMode::Transport,
                reqid,
                encryption: (encryption, zeros(encryption.generated_key_octets())),
                integrity: Some((integrity, zeros(integrity.key_octets()))),
                replay_window: 32,
                extended_sequence_numbers: false,
                lifetime: AssociationLifetime::default(),
            }),
        }
    };
    let protection = Protection {
        classes: [(Class::HomeRegistration, Reqids { to_home_agent: 1, to_guest: 2 })].into(),
        associations: vec![
            association(home_address, home_agent, 1000, 1),
            association(home_agent, home_address, 1001, 2),
        ],
    };
    let guests =
        vec![Guest { home_address, protection }, Guest { home_address: address(0x11), protection: Protection::NONE }];
    Configuration { role: Role::MobileNode, home_agent, guests }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever of the kernel's state is made, its trial has a line with a cure.
    #[test]
    fn every_step_has_a_subject_and_a_cure() {
        let configuration = sample(None);
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

    #[test]
    fn no_key_of_a_policy_is_tried() {
        let mut configuration = default_sample();
        for guest in &mut configuration.guests {
            for association in &mut guest.protection.associations {
                let Transform::Esp(Esp { encryption, integrity, .. }) = &mut association.transform else { panic!() };
                encryption.1 = SecretKey::new(vec![7; 16]);
                *integrity = Some((Integrity::HmacSha1, SecretKey::new(vec![7; 20])));
                assert_eq!(without_key(association), Some((Encryption::AesCbc, 16, Some(Integrity::HmacSha1), 32)));
                let Transform::Esp(Esp { encryption, integrity, .. }) = &association.transform else { panic!() };
                assert_eq!(encryption.1.expose(), [0; 16]);
                assert_eq!(integrity.as_ref().unwrap().1.expose(), [0; 20]);
            }
        }
    }
}
