//! CPU time: where threads run, and what the whole machine has spent on what is measured.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::failure::{Outcome, While};

/// Ticks of `/proc` in a second: `USER_HZ` is 100 on every architecture that Linux has for user programs.
const TICKS: f64 = 100.0;
/// `PF_KTHREAD` of `include/linux/sched.h`, in the ninth field of `/proc/<pid>/stat`.
const KERNEL_THREAD: u64 = 0x0020_0000;

/// On which CPUs threads may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cpus {
    All,
    One,
}

impl Cpus {
    fn set(self) -> Outcome<CpuSet> {
        let count = count();
        let mut set = CpuSet::new();
        let chosen = match self {
            Self::All => 0..count,
            // The last one: interrupts of devices tend to be on the first.
            Self::One => count - 1..count,
        };
        for cpu in chosen {
            set.set(cpu)?;
        }
        Ok(set)
    }
}

/// How many CPUs the machine has.
pub(super) fn count() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

pub(super) fn pin_this_thread(cpus: Cpus) -> Outcome {
    Ok(sched_setaffinity(Pid::from_raw(0), &cpus.set()?)?)
}

/// Moves every thread of a process.
pub(super) fn pin_process(id: u32, cpus: Cpus) -> Outcome {
    let directory = format!("/proc/{id}/task");
    let set = cpus.set()?;
    for task in std::fs::read_dir(&directory).during(|| directory.clone())?.flatten() {
        if let Some(thread) = task.file_name().to_str().and_then(|name| name.parse().ok()) {
            sched_setaffinity(Pid::from_raw(thread), &set).during(|| format!("thread {thread}"))?;
        }
    }
    Ok(())
}

/// A moment of the machine.
pub(super) struct Moment {
    at: Instant,
    /// Seconds that the CPUs together were idle, waited, or were taken by the hypervisor.
    idle: f64,
    /// Seconds of user processes that do not belong to this benchmark, since the machine started.
    foreign: f64,
}

/// What happened between two moments.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spent {
    pub(super) seconds: f64,
    /// CPU seconds of the whole machine, kernel included, without those of processes that are not ours.
    pub(super) cpu: f64,
    /// CPU seconds of those.
    pub(super) foreign: f64,
}

impl Moment {
    pub(super) fn now() -> Outcome<Self> {
        let stat = std::fs::read_to_string("/proc/stat")?;
        let foreign = foreign_seconds()?;
        Ok(Self { at: Instant::now(), idle: idle_seconds(&stat), foreign })
    }

    pub(super) fn since(&self, earlier: &Self) -> Spent {
        let seconds = (self.at - earlier.at).as_secs_f64();
        let foreign = (self.foreign - earlier.foreign).max(0.0);
        let busy = seconds * count() as f64 - (self.idle - earlier.idle);
        Spent { seconds, cpu: (busy - foreign).max(0.0), foreign }
    }
}

/// Idle, waiting for devices, stolen: fields 4, 5 and 8 of the line of all CPUs.
fn idle_seconds(stat: &str) -> f64 {
    let line = stat.lines().next().unwrap_or_default();
    let fields: Vec<f64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    [3, 4, 7].iter().filter_map(|field| fields.get(*field)).sum::<f64>() / TICKS
}

struct Process {
    parent: u32,
    kernel: bool,
    ticks: u64,
}

/// A line of `/proc/<pid>/stat`; the name in brackets may hold anything. Time of children that have ended is counted with
/// their parent, so that nothing is lost when one ends.
fn parse(stat: &str) -> Option<Process> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    let ticks = number(11)? + number(12)? + number(13)? + number(14)?;
    let parent = u32::try_from(number(1)?).ok()?;
    Some(Process { parent, kernel: number(6)? & KERNEL_THREAD != 0, ticks })
}

fn foreign_seconds() -> Outcome<f64> {
    let mut processes = BTreeMap::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // One that has ended meanwhile is with its parent.
        let stat = std::fs::read(entry.path().join("stat")).unwrap_or_default();
        if let Some(process) = parse(&String::from_utf8_lossy(&stat)) {
            processes.insert(id, process);
        }
    }
    let mut ours = BTreeSet::from([std::process::id()]);
    loop {
        let children: Vec<u32> = processes
            .iter()
            .filter(|(id, p)| ours.contains(&p.parent) && !ours.contains(id))
            .map(|(id, _)| *id)
            .collect();
        if children.is_empty() {
            break;
        }
        ours.extend(children);
    }
    let foreign = processes.iter().filter(|(id, process)| !process.kernel && !ours.contains(id));
    Ok(foreign.map(|(_, process)| process.ticks).sum::<u64>() as f64 / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_an_odd_name() {
        let stat = "77 (a) b (c)) S 12 77 77 0 -1 4194304 1 2 3 4 100 20 3 4 20 0 1 0 5 6 7";
        let process = parse(stat).unwrap();
        assert_eq!((process.parent, process.kernel, process.ticks), (12, false, 127));
        assert!(parse("2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 9 0 0 20").unwrap().kernel);
        assert!(parse("").is_none());
    }

    #[test]
    fn idle_time_is_idle_waiting_and_stolen() {
        assert_eq!(idle_seconds("cpu  1 2 3 400 500 6 7 800 9 10\ncpu0 1"), 17.0);
    }
}
