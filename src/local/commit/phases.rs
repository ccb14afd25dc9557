//! Phases: where the time of commits goes, and how large groups are.
//!
//! Owns the counters. The leader adds each group once, after its callers were answered. Each commit
//! counts the whole of a phase, because its caller waits for all of it.

use std::time::Duration;

use crate::stats::{GROUP_SIZES, StorageStats};
use crate::sync::{AtomicU64, Ordering};

/// Sums over the commits of all groups, in nanoseconds, and groups by size.
#[derive(Debug)]
pub(crate) struct Phases {
    write: AtomicU64,
    sync: AtomicU64,
    wake: AtomicU64,
    sizes: [AtomicU64; GROUP_SIZES],
}

impl Default for Phases {
    fn default() -> Phases {
        let zero = || AtomicU64::new(0);
        let sizes = std::array::from_fn(|_| zero());
        Phases { write: zero(), sync: zero(), wake: zero(), sizes }
    }
}

/// The time that each phase of a group took.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Took {
    pub(crate) write: Duration,
    pub(crate) sync: Duration,
    pub(crate) wake: Duration,
}

impl Phases {
    /// Adds a group of `commit_count` commits.
    pub(crate) fn add_group(&self, commit_count: usize, took: Took) {
        if commit_count == 0 {
            return;
        }
        let add = |sum: &AtomicU64, time: Duration| {
            let ns = (time.as_nanos() as u64).saturating_mul(commit_count as u64);
            sum.fetch_add(ns, Ordering::Relaxed);
        };
        add(&self.write, took.write);
        add(&self.sync, took.sync);
        add(&self.wake, took.wake);
        self.sizes[size_class(commit_count)].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn write_to_stats(&self, stats: &mut StorageStats) {
        let time = |sum: &AtomicU64| Duration::from_nanos(sum.load(Ordering::Relaxed));
        stats.write_time = time(&self.write);
        stats.sync_time = time(&self.sync);
        stats.wake_time = time(&self.wake);
        for (told, count) in stats.group_sizes.iter_mut().zip(&self.sizes) {
            *told = count.load(Ordering::Relaxed);
        }
    }
}

/// 0 for one commit, 1 for two and three, 2 for four to seven, and so on.
fn size_class(commit_count: usize) -> usize {
    (commit_count.ilog2() as usize).min(GROUP_SIZES - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_counted_by_powers_of_two() {
        let classes = [1, 2, 3, 4, 7, 8, 4096, usize::MAX].map(size_class);
        assert_eq!(classes, [0, 1, 1, 2, 2, 3, 12, GROUP_SIZES - 1]);
    }

    #[test]
    fn every_commit_of_a_group_has_waited_for_all_of_it() {
        let (phases, mut stats) = (Phases::default(), StorageStats::default());
        let us = Duration::from_micros;
        phases.add_group(3, Took { write: us(10), sync: us(20), wake: us(5) });
        phases.add_group(0, Took { write: us(10), sync: us(20), wake: us(5) });
        phases.write_to_stats(&mut stats);
        let told = (stats.write_time, stats.sync_time, stats.wake_time);
        assert_eq!(told, (us(30), us(60), us(15)));
        assert_eq!(stats.group_sizes.iter().sum::<u64>(), 1);
    }
}
