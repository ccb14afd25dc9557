//! The throttle: pauses background work while commits run.
//!
//! Owns the length of a pause and its rule: pause after a step of work if commits were written
//! since the step before. The length of a step and the time limit belong to each schedule
//! (`checkpoint::schedule`, `compaction::schedule`).

use std::cell::Cell;
use std::time::Duration;

use crate::local::commit::shared::Shared;
use crate::sync::Ordering;

/// Between two steps of work, while others commit.
pub(crate) const PAUSE: Duration = Duration::from_millis(1);

/// Pauses between the steps of one job.
pub(crate) struct Throttle<'a> {
    shared: &'a Shared,
    seen_len: Cell<u64>,
}

impl<'a> Throttle<'a> {
    pub(crate) fn new(shared: &'a Shared) -> Throttle<'a> {
        let seen_len = Cell::new(shared.written_len.load(Ordering::Relaxed));
        Throttle { shared, seen_len }
    }

    /// Pauses if commits were written since the last call.
    pub(crate) fn pause_if_others_commit(&self) {
        let written_len = self.shared.written_len.load(Ordering::Relaxed);
        debug_assert!(self.seen_len.get() <= written_len, "the written length only grows");
        if self.seen_len.replace(written_len) != written_len {
            self.shared.wake_up.pause(PAUSE);
        }
    }
}
