//! CPU time and memory of processes, and of everybody else, from `/proc`.
//!
//! Invariant: reads and never waits; a process that is gone counts as nothing.

use std::fs;

use rustix::param::clock_ticks_per_second;

/// CPU time used so far, in ticks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ticks(u64);

impl Ticks {
    /// None: what a process has at its beginning.
    pub(crate) const ZERO: Self = Self(0);

    /// By a process, its threads, and its children that have ended.
    pub(crate) fn of(pid: u32) -> Self {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // utime, stime, cutime, cstime: words 11 to 14 after the name in brackets.
        Self(after_name(&stat).split_whitespace().skip(11).take(4).filter_map(|word| word.parse::<u64>().ok()).sum())
    }

    /// By several processes.
    pub(crate) fn of_all(pids: &[u32]) -> Self {
        Self(pids.iter().map(|pid| Self::of(*pid).0).sum())
    }

    /// By the whole machine: everything that is not idle or waiting for a disk.
    pub(crate) fn of_machine() -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let line = stat.lines().next().unwrap_or_default().trim_start_matches("cpu");
        let fields: Vec<u64> = numbers(line).take(8).collect();
        Self(fields.iter().enumerate().filter(|(at, _)| !matches!(at, 3 | 4)).map(|(_, ticks)| ticks).sum())
    }

    /// Nanoseconds since an earlier reading.
    pub(crate) fn ns_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0) * (1_000_000_000 / clock_ticks_per_second().max(1))
    }
}

/// A process and its living children.
pub(crate) fn family(pid: u32) -> Vec<u32> {
    let children = parents().into_iter().filter(|(_, parent)| *parent == pid).map(|(child, _)| child);
    std::iter::once(pid).chain(children).collect()
}

/// A process, its living children, theirs, and so on.
pub(crate) fn descendants(pid: u32) -> Vec<u32> {
    let parents = parents();
    let mut found = vec![pid];
    let mut looked_at = 0;
    while let Some(parent) = found.get(looked_at).copied() {
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(child, _)| *child));
        looked_at += 1;
    }
    found
}

/// Every process with its parent.
fn parents() -> Vec<(u32, u32)> {
    let everybody = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = everybody.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let with_parent = pids.filter_map(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some((pid, after_name(&stat).split_whitespace().nth(1)?.parse().ok()?))
    });
    with_parent.collect()
}

/// Resident memory of several processes, in KiB; what they share counts for each.
pub(crate) fn resident_kib(pids: &[u32]) -> u64 {
    let of = |pid: &u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:").map(str::to_owned));
        line.and_then(|line| numbers(&line).next()).unwrap_or_default()
    };
    pids.iter().map(of).sum()
}

/// How often the threads of a process began to wait for something, and were woken.
pub(crate) fn wakeups(pid: u32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let of_thread = |thread: fs::DirEntry| {
        let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:").map(str::to_owned));
        line.and_then(|line| numbers(&line).next()).unwrap_or_default()
    };
    threads.map(of_thread).sum()
}

/// What the kernel holds for its own structures, sockets above all, in KiB.
pub(crate) fn kernel_kib() -> u64 {
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = memory.lines().find_map(|line| line.strip_prefix("SUnreclaim:").map(str::to_owned));
    line.and_then(|line| numbers(&line).next()).unwrap_or_default()
}

fn after_name(stat: &str) -> &str {
    stat.rsplit_once(')').map_or("", |(_, rest)| rest)
}

fn numbers(text: &str) -> impl Iterator<Item = u64> {
    text.split_whitespace().filter_map(|word| word.parse().ok())
}
