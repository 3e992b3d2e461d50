//! Which tier has carried the guests' packets, by what the daemons themselves have counted. A tier that was not to be had falls back to the next
//! one in silence, and all that a scenario looks for is there: only the counters tell.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use kagemusha::daemon::control_socket::protocol::Status;
use kagemusha::daemon::engine::Tier;
use kagemusha::daemon::report::{CUT, LEFT_WHOLE};

use super::setting::Setting;
use crate::failure::{Failure, Outcome, While, ensure};

/// What files with the last status of a daemon are named: `<daemon>.status-<n>.json`.
const MARK: &str = ".status-";

/// Keeps what `kagemusha status --json` said when a daemon was about to end.
pub(crate) fn keep(directory: &Path, daemon: &str, status: &str) -> Outcome {
    let free = (0..).map(|n| directory.join(format!("{daemon}{MARK}{n}.json"))).find(|file| !file.exists());
    let file = free.ok_or_else(|| Failure::new("no name is left for a status"))?;
    fs::write(&file, status).during(|| file.display().to_string())
}

/// What daemons of one role have carried, all together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Carried {
    /// By the threads, or handed to the kernel whole by them: packets into the tunnel, and out of it.
    threads: [u64; 2],
    /// By programs in the kernel.
    kernel: [u64; 2],
    /// Packets longer than the path takes, into the tunnel: left to the kernel, and cut.
    left_whole: u64,
    cut: u64,
}

impl Carried {
    fn add(&mut self, status: &Status) {
        let count = |name: &str| status.counters.get(name).copied().unwrap_or_default();
        let mut both = |to: fn(&mut Self) -> &mut [u64; 2], names: [&str; 2]| {
            for (to, name) in to(self).iter_mut().zip(names) {
                *to += count(name);
            }
        };
        both(|own| &mut own.threads, ["tunnel: packets in", "tunnel: packets out"]);
        let in_kernel = ["tunnel, in the kernel: into-tunnel-packets", "tunnel, in the kernel: out-of-tunnel-packets"];
        both(|own| &mut own.kernel, in_kernel);
        self.left_whole += count(LEFT_WHOLE);
        self.cut += count(CUT);
    }

    /// Why it was not this tier.
    fn other_than(&self, tier: Tier) -> Option<&'static str> {
        let [threads, kernel] = [self.threads, self.kernel];
        let both = |counts: [u64; 2]| counts.iter().all(|count| *count > 0);
        let none = |counts: [u64; 2]| counts.iter().all(|count| *count == 0);
        match tier {
            Tier::Portable if !none(kernel) => Some("programs in the kernel have carried packets"),
            Tier::Portable if self.left_whole > 0 => Some("packets were left whole for the kernel"),
            Tier::Portable if self.cut == 0 => Some("no packet longer than the path takes was cut"),
            Tier::SuperPacket if !none(kernel) => Some("programs in the kernel have carried packets"),
            Tier::SuperPacket if self.left_whole == 0 => Some("no packet was left whole for the kernel"),
            // Until the way is known, and while it changes, they are cut.
            Tier::SuperPacket if self.left_whole <= self.cut => {
                Some("more packets were cut than left whole for the kernel")
            }
            Tier::Portable | Tier::SuperPacket if !both(threads) => Some("not both ways"),
            Tier::Ebpf if !both(kernel) => Some("programs in the kernel have not carried packets both ways"),
            // The first packets of a tunnel, and what is unusual, they leave.
            Tier::Ebpf if (0..2).any(|way| threads.get(way) >= kernel.get(way)) => {
                Some("programs in the kernel have left most packets to userland")
            }
            Tier::Portable | Tier::SuperPacket | Tier::Ebpf => None,
        }
    }
}

/// Fails if another tier than the one that was asked for has carried packets in a scenario. What it tells: the tier of each role.
pub(crate) fn judge(setting: Setting, directory: &Path) -> Outcome<String> {
    let mut statuses = vec![];
    for entry in fs::read_dir(directory).during(|| directory.display().to_string())? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().contains(MARK)) {
            let text = fs::read(&path).during(|| path.display().to_string())?;
            statuses.push(serde_json::from_slice(&text).during(|| path.display().to_string())?);
        }
    }
    decide(setting, &statuses)
}

fn decide(setting: Setting, statuses: &[Status]) -> Outcome<String> {
    let mut roles: BTreeMap<&str, (Tier, Carried)> = BTreeMap::new();
    for status in statuses {
        let tier = tier_of(status)?;
        let wanted = setting.tier().unwrap_or(tier);
        ensure(tier == wanted, || {
            format!("the {} was to carry by {wanted}, and its tier is: {}", status.role, status.tier)
        })?;
        let (first, carried) = roles.entry(&status.role).or_insert((tier, Carried::default()));
        ensure(*first == tier, || format!("one {} has chosen {first}, another one {tier}", status.role))?;
        carried.add(status);
    }
    let mut told = vec![];
    for role in ["mobile-node", "home-agent"] {
        let (tier, carried) =
            roles.get(role).ok_or_else(|| Failure::new(format!("no {role} has told its counters")))?;
        if let Some(why) = carried.other_than(*tier) {
            return Err(Failure::new(format!("{tier} has not carried what the {role} carried: {why}; {carried:?}")));
        }
        let Carried { threads, kernel, left_whole, cut } = carried;
        told.push(format!(
            "{role}: {tier} (threads {}/{}, in the kernel {}/{}, left whole {left_whole}, cut {cut})",
            threads[0], threads[1], kernel[0], kernel[1]
        ));
    }
    Ok(told.join(", "))
}

/// The tier that a status begins its description with.
fn tier_of(status: &Status) -> Outcome<Tier> {
    let name = status.tier.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '-').next();
    let tiers = [Tier::Portable, Tier::SuperPacket, Tier::Ebpf];
    let found = tiers.into_iter().find(|tier| Some(tier.name()) == name);
    found.ok_or_else(|| Failure::new(format!("the {} names no tier: {:?}", status.role, status.tier)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(role: &str, tier: &str, counters: &[(&str, u64)]) -> Status {
        let counters = counters.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        Status { role: role.into(), tier: tier.into(), counters, ..Status::default() }
    }

    fn both(tier: &str, counters: &[(&str, u64)]) -> [Status; 2] {
        ["mobile-node", "home-agent"].map(|role| status(role, tier, counters))
    }

    const THREADS: [(&str, u64); 2] = [("tunnel: packets in", 50), ("tunnel: packets out", 60)];
    const KERNEL: [(&str, u64); 2] =
        [("tunnel, in the kernel: into-tunnel-packets", 51), ("tunnel, in the kernel: out-of-tunnel-packets", 61)];

    #[test]
    fn each_tier_is_known_by_its_counters() {
        let [cut, whole] = [CUT, LEFT_WHOLE].map(|name| [&THREADS[..], &[(name, 5)]].concat());
        let programs = [THREADS, KERNEL].concat();
        let cases = [("portable: cut", cut), ("super-packet: whole", whole), ("ebpf: programs", programs)];
        let settings = [Setting::Portable, Setting::SuperPacket, Setting::Ebpf];
        for (setting, (tier, _)) in settings.iter().zip(&cases) {
            for (other, (_, counters)) in settings.iter().zip(&cases) {
                let verdict = decide(*setting, &both(tier, counters));
                assert_eq!(
                    verdict.is_ok(),
                    setting == other,
                    "{setting:?} with the counters of {other:?}: {verdict:?}"
                );
            }
        }
        for (tier, counters) in cases {
            assert!(decide(Setting::Auto, &both(tier, &counters)).is_ok(), "auto may find {tier}");
        }
    }

    #[test]
    fn a_tier_that_fell_back_is_noticed() {
        let counters = [&THREADS[..], &[(CUT, 5)]].concat();
        let why = decide(Setting::Ebpf, &both("portable: cut", &counters)).unwrap_err().to_string();
        assert!(why.contains("its tier is: portable: cut"), "{why}");
        let [_, home_agent] = both("ebpf: programs", &[THREADS, KERNEL].concat());
        let idle = status("mobile-node", "ebpf: programs", &THREADS);
        let why = decide(Setting::Ebpf, &[idle, home_agent.clone()]).unwrap_err().to_string();
        assert!(why.contains("have not carried packets both ways"), "{why}");
        assert!(decide(Setting::Ebpf, &[home_agent]).is_err(), "a role that has told nothing");
    }

    #[test]
    fn several_daemons_of_a_role_count_together() {
        let [host, home_agent] = both("ebpf: programs", &[THREADS, KERNEL].concat());
        let other = status("mobile-node", "ebpf: programs", &[]);
        assert!(decide(Setting::Ebpf, &[host, other, home_agent.clone()]).is_ok());
        let one = status("mobile-node", "ebpf: programs", &KERNEL[..1]);
        let two = status("mobile-node", "ebpf: programs", &KERNEL[1..]);
        assert!(decide(Setting::Ebpf, &[one, two, home_agent]).is_ok());
    }
}
