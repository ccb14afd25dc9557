//! Stalls: why writers waited, when they waited long.
//!
//! Owns a count, the time in all and the longest time for each cause. A wait is measured where it happens
//! and only once it happens, by whoever waits; one shorter than [`STALL_MIN`] is forgotten. What holds the
//! log up holds up everybody in the queue, and is counted once. With the feature `tracing` each stall is an
//! event, too.

use std::sync::Arc;
use std::time::Duration;

use crate::io::Env;
use crate::stats::{STALL_CAUSE_COUNT, Stall, StallCause, Stalls};
use crate::sync::{AtomicU64, Ordering};

/// Shorter waits are the disk's daily business.
pub(crate) const STALL_MIN: Duration = Duration::from_millis(10);

/// Counts the stalls of one store.
pub(crate) struct StallLog {
    clock: Arc<dyn Env>,
    cells: [Cell; STALL_CAUSE_COUNT],
}

impl std::fmt::Debug for StallLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("StallLog").field(&self.all()).finish()
    }
}

#[derive(Default)]
struct Cell {
    count: AtomicU64,
    total_nanos: AtomicU64,
    longest_nanos: AtomicU64,
}

impl StallLog {
    pub(crate) fn new(clock: Arc<dyn Env>) -> StallLog {
        StallLog { clock, cells: std::array::from_fn(|_| Cell::default()) }
    }

    /// The time that stalls are measured by.
    pub(crate) fn now(&self) -> Duration {
        self.clock.now()
    }

    /// Runs what a writer waits for.
    pub(crate) fn wait<R>(&self, cause: StallCause, body: impl FnOnce() -> R) -> R {
        let started = self.clock.now();
        let result = body();
        self.note(cause, self.clock.now().saturating_sub(started));
        result
    }

    /// A writer has waited so long.
    pub(crate) fn note(&self, cause: StallCause, time: Duration) {
        if time < STALL_MIN {
            return;
        }
        let (cell, nanos) = (&self.cells[cause as usize], time.as_nanos() as u64);
        cell.count.fetch_add(1, Ordering::Relaxed);
        cell.total_nanos.fetch_add(nanos, Ordering::Relaxed);
        cell.longest_nanos.fetch_max(nanos, Ordering::Relaxed);
        #[cfg(feature = "tracing")]
        tracing::warn!(%cause, waited_us = nanos / 1000, "writers waited");
    }

    /// All since open.
    pub(crate) fn all(&self) -> Stalls {
        let read = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        Stalls::from_fn(|cause| {
            let cell = &self.cells[cause as usize];
            Stall {
                count: read(&cell.count),
                total: Duration::from_nanos(read(&cell.total_nanos)),
                longest: Duration::from_nanos(read(&cell.longest_nanos)),
            }
        })
    }
}
