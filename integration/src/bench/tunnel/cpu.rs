//! CPU time: where threads run, and what the whole machine has spent on what is measured.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::failure::{Outcome, While};

/// Ticks of `/proc` in a second: `USER_HZ` is 100 on every architecture that Linux has for user programs.
const TICKS: f64 = 100.0;
/// Process id of `kthreadd`, the parent of all threads of the kernel.
const KERNEL_THREADS: u32 = 2;

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

/// Puts this process and its children before others, but not instead of them. With `sched_autogroup` the kernel shares out among
/// sessions first, so this one becomes a session of its own; it ends when its parent does.
pub(super) fn before_others() -> Outcome {
    const NICE: &str = "-10";
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM)?;
    // The leader of a session has one already.
    let _ = nix::unistd::setsid();
    let group = std::path::Path::new("/proc/self/autogroup");
    if group.exists() {
        std::fs::write(group, NICE).during(|| group.display().to_string())?;
    }
    Ok(())
}

/// A moment of the machine.
pub(super) struct Moment {
    at: Instant,
    /// Seconds that our processes and the kernel's network threads have run since they began.
    ours: f64,
    /// Seconds that the CPUs together were idle, waited, or were taken by the hypervisor.
    idle: f64,
}

/// What happened between two moments.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spent {
    pub(super) seconds: f64,
    /// CPU seconds on every CPU of the machine: of this benchmark's threads, with what the kernel did for them in system calls and
    /// software interrupts, and of the kernel's own network threads. What others computed meanwhile is not in it.
    pub(super) cpu: f64,
    /// CPU seconds of everything else.
    pub(super) foreign: f64,
}

impl Moment {
    pub(super) fn now() -> Outcome<Self> {
        let stat = std::fs::read_to_string("/proc/stat")?;
        let ours = our_nanoseconds()? as f64 / 1e9;
        Ok(Self { at: Instant::now(), ours, idle: idle_seconds(&stat) })
    }

    pub(super) fn since(&self, earlier: &Self) -> Spent {
        let seconds = (self.at - earlier.at).as_secs_f64();
        let cpu = self.ours - earlier.ours;
        let busy = seconds * count() as f64 - (self.idle - earlier.idle);
        Spent { seconds, cpu, foreign: (busy - cpu).max(0.0) }
    }
}

/// Idle, waiting for devices, stolen: fields 4, 5 and 8 of the line of all CPUs.
fn idle_seconds(stat: &str) -> f64 {
    let line = stat.lines().next().unwrap_or_default();
    let fields: Vec<f64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    [3, 4, 7].iter().filter_map(|field| fields.get(*field)).sum::<f64>() / TICKS
}

/// The parent and the name of a process: a line of `/proc/<pid>/stat`; the name in brackets may hold anything.
fn parse(stat: &str) -> Option<(u32, &str)> {
    let (before, after) = stat.rsplit_once(')')?;
    let (_, name) = before.split_once('(')?;
    let parent = after.split_whitespace().nth(1)?.parse().ok()?;
    Some((parent, name))
}

/// How long all threads of this process, of its children, and of the kernel's network have run (`/proc/<pid>/task/<tid>/schedstat`,
/// exact where ticks are not).
fn our_nanoseconds() -> Outcome<u64> {
    let mut processes = BTreeMap::new();
    let mut ours = BTreeSet::from([std::process::id()]);
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // One that has ended meanwhile was none of ours: those live as long as their path.
        let stat = std::fs::read(entry.path().join("stat")).unwrap_or_default();
        if let Some((parent, name)) = parse(&String::from_utf8_lossy(&stat)) {
            if parent == KERNEL_THREADS && (name.starts_with("ksoftirqd/") || name.starts_with("napi/")) {
                ours.insert(id);
            }
            processes.insert(id, parent);
        }
    }
    loop {
        let is_child = |(id, parent): &(&u32, &u32)| ours.contains(parent) && !ours.contains(id);
        let children: Vec<u32> = processes.iter().filter(is_child).map(|(id, _)| *id).collect();
        if children.is_empty() {
            break;
        }
        ours.extend(children);
    }
    Ok(ours.into_iter().map(nanoseconds_of).sum())
}

fn nanoseconds_of(id: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
    let of_task = |task: std::fs::DirEntry| -> Option<u64> {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse().ok()
    };
    tasks.filter_map(of_task).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_an_odd_name() {
        assert_eq!(parse("77 (a) b (c)) S 12 77 77 0"), Some((12, "a) b (c)")));
        assert_eq!(parse("2 (kthreadd) S 0 0 0"), Some((0, "kthreadd")));
        assert_eq!(parse(""), None);
    }

    #[test]
    fn time_that_was_spent_is_seen() {
        let before = our_nanoseconds().unwrap();
        let begin = Instant::now();
        let mut n = 1u64;
        while begin.elapsed().as_millis() < 20 {
            n = std::hint::black_box(n.wrapping_mul(3));
        }
        assert!(our_nanoseconds().unwrap() > before);
    }

    #[test]
    fn idle_time_is_idle_waiting_and_stolen() {
        assert_eq!(idle_seconds("cpu  1 2 3 400 500 6 7 800 9 10\ncpu0 1"), 17.0);
    }
}
