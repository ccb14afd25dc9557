//! Stalls: counts the long waits of writers by cause.
//!
//! Owns the count, the total time and the longest time of each cause. The waiting thread measures
//! the wait; waits below [`STALL_MIN`] are not counted. A wait of the log delays all commits in the
//! queue, and counts once. With the feature `tracing`, each stall is also an event.

use std::sync::Arc;
use std::time::Duration;

use crate::io::Env;
use crate::stats::{STALL_CAUSE_COUNT, Stall, StallCause, Stalls};
use crate::sync::{AtomicU64, Ordering};

/// Shorter waits are normal for a disk.
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

    /// The clock that measures stalls.
    pub(crate) fn now(&self) -> Duration {
        self.clock.now()
    }

    /// Runs work that a writer waits for, and measures it.
    pub(crate) fn wait<R>(&self, cause: StallCause, body: impl FnOnce() -> R) -> R {
        let started = self.clock.now();
        let result = body();
        self.note(cause, self.clock.now().saturating_sub(started));
        result
    }

    /// Counts the wait of a writer.
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

    /// All stalls since open.
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
