//! See `README.md`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Output;

use kagemusha::ipsec::Class;
use kagemusha::policy::Role;
use serde::Deserialize;

use crate::classes::policy_file;
use crate::failure::While;
use crate::prelude::*;

pub(crate) const SCENARIO: Scenario =
    Scenario { name: "check-command", readme: include_str!("README.md"), peer: Peer::None, well_formed: true, run };

/// `kagemusha check --json`, as its README has it.
#[derive(Debug, Deserialize)]
struct Document {
    verdict: String,
    role: String,
    kernel: String,
    findings: Vec<Finding>,
    tiers: Vec<Tier>,
    auto: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Finding {
    outcome: String,
    subject: String,
    remedy: String,
}

#[derive(Debug, Deserialize)]
struct Tier {
    tier: String,
    works: bool,
    reason: String,
}

struct Bench<'lab> {
    lab: &'lab Lab,
    program: String,
}

fn run(lab: &Lab) -> Outcome {
    let bench = Bench { lab, program: lab.kagemusha.display().to_string() };
    let policy = lab.policy("mobile-node.toml", policies::ESP_HOST)?;
    bench.a_fit_machine(&policy)?;
    bench.for_programs(&policy)?;
    bench.every_class()?;
    bench.what_is_wrong(&policy)
}

impl Bench<'_> {
    fn check(&self, arguments: &[&str]) -> Outcome<(Output, String)> {
        let output = self.lab.net.host.try_command(&self.program, &[&["check"], arguments].concat())?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        Ok((output, text))
    }

    /// The text of a check that ends with this exit code.
    fn ends(&self, arguments: &[&str], code: i32) -> Outcome<String> {
        let (output, text) = self.check(arguments)?;
        let wrong = || format!("kagemusha check {}: {}:\n{text}", arguments.join(" "), output.status);
        ensure(output.status.code() == Some(code), wrong)?;
        Ok(text)
    }

    fn a_fit_machine(&self, policy: &std::path::Path) -> Outcome {
        self.lab.step("a fit machine");
        let host = &self.lab.net.host;
        let before = (crate::process::traces(host)?, namespaces()?);
        let foreign = self.lab.watch(FOREIGN)?;
        let text = self.ends(&["--ipsec", &policy.to_string_lossy()], 0)?;
        for (number, what) in [
            (1, "ok       registration under ESP with aes-cbc and hmac-sha256-128 (home-registration)\n"),
            (1, "ok       registration under ESP with aes-cbc and hmac-sha256-128 (home-registration), after a move\n"),
            (1, "ok       protection holds: a binding update in the clear is refused"),
            (1, "ok       protection holds: a binding acknowledgement in the clear is refused"),
            (1, "ok       tunnel engine, tier portable: a packet each way\n"),
            (0, "MISSING"),
            (0, "not tried"),
        ] {
            let found = text.matches(what).count();
            ensure(found == number, || format!("{what:?} {found} times and not {number}:\n{text}"))?;
        }
        let after = (crate::process::traces(host)?, namespaces()?);
        ensure(before == after, || format!("there was\n{before:?}\nand now is\n{after:?}"))?;
        foreign.must_not_have_seen("a packet of the host for the home agent", |packet| {
            packet.is_from_to(CARE_OF, HOME_AGENT)
        })
    }

    fn for_programs(&self, policy: &std::path::Path) -> Outcome {
        self.lab.step("the document for programs");
        let (output, text) = self.check(&["--json", "--ipsec", &policy.to_string_lossy()])?;
        let document: Document = serde_json::from_slice(&output.stdout).during(|| text.clone())?;
        let kernel = nix::sys::utsname::uname()?.release().to_string_lossy().into_owned();
        let portable = document.tiers.iter().find(|tier| tier.tier == "portable");
        let consistent = document.verdict == "can-run"
            && document.role == "mobile-node"
            && document.kernel == kernel
            && document.findings.iter().all(|finding| finding.outcome != "missing" && !finding.subject.is_empty())
            && document.findings.iter().all(|finding| (finding.outcome == "ok") == finding.remedy.is_empty())
            && portable.is_some_and(|tier| tier.works)
            && document.tiers.iter().all(|tier| tier.works == tier.reason.is_empty())
            && document.auto.as_ref().is_some_and(|auto| document.tiers.iter().any(|tier| tier.tier == *auto));
        ensure(consistent && output.status.success(), || format!("{}: {document:#?}", output.status))
    }

    fn every_class(&self) -> Outcome {
        self.lab.step("every class of protection, before and after the host forwards");
        let classes: Vec<_> = Class::ALL.into_iter().filter(|class| *class != Class::TunnelMobilityHeaders).collect();
        let all = policy_file(self.lab, &classes, Role::MobileNode, "")?;
        let arguments = ["--ipsec", &all.to_string_lossy()];
        let text = self.ends(&arguments, 1)?;
        ensure(text.contains("net.ipv6.conf.all.forwarding=1"), || text.clone())?;
        self.lab.net.host.sysctl("conf/all/forwarding", "1")?;
        let text = self.ends(&arguments, 0)?;
        for what in [
            "ok       moving tunnels\n",
            "ok       data in an ESP tunnel\n",
            "ok       data in an ESP tunnel, after it was moved\n",
        ] {
            ensure(text.contains(what), || format!("no {what:?}:\n{text}"))?;
        }
        Ok(())
    }

    fn what_is_wrong(&self, policy: &std::path::Path) -> Outcome {
        self.lab.step("a machine with a sysctl that would break it");
        self.lab.net.host.sysctl("conf/all/accept_source_route", "-1")?;
        let text = self.ends(&["--ipsec", &policy.to_string_lossy()], 1)?;
        ensure(text.contains("accept_source_route"), || text.clone())?;

        self.lab.step("a policy file with a mistake");
        let wrong = self.lab.policy("wrong.toml", "guests = 1\n")?;
        self.ends(&["--ipsec", &wrong.to_string_lossy()], 2)?;
        let (output, text) = self.check(&["--json", "--ipsec", &wrong.to_string_lossy()])?;
        let document: Document = serde_json::from_slice(&output.stdout).during(|| text.clone())?;
        ensure(output.status.code() == Some(2) && document.verdict == "bad-policy", || format!("{document:#?}"))
    }
}

/// The network namespaces that processes are in, or that are mounted somewhere.
fn namespaces() -> Outcome<BTreeSet<PathBuf>> {
    let processes = std::fs::read_dir("/proc")?.flatten().map(|entry| entry.path());
    // A process may end meanwhile.
    let used = processes.filter_map(|process| std::fs::read_link(process.join("ns/net")).ok());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let mounted = mounts.lines().filter(|line| line.contains(" - nsfs ")).map(PathBuf::from);
    Ok(used.chain(mounted).collect())
}
