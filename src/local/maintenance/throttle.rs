//! The throttle: how work in the background gives way to commits.
//!
//! Owns the length of a pause, and the rule when there is one: after a step of the work, if commits were
//! written since the step before. What lies between two pauses, and whether there is time for one, is each
//! work's own schedule (`checkpoint::schedule`, `compaction::schedule`).

use std::cell::Cell;
use std::time::Duration;

use crate::local::commit::shared::Shared;
use crate::sync::Ordering;

/// Between two steps of work, while others commit.
pub(crate) const PAUSE: Duration = Duration::from_millis(1);

/// Gives way to commits between the steps of one piece of work.
pub(crate) struct Throttle<'a> {
    shared: &'a Shared,
    seen_len: Cell<u64>,
}

impl<'a> Throttle<'a> {
    pub(crate) fn new(shared: &'a Shared) -> Throttle<'a> {
        let seen_len = Cell::new(shared.written_len.load(Ordering::Relaxed));
        Throttle { shared, seen_len }
    }

    /// CompactionPauses if commits were written since the last call.
    pub(crate) fn pause_if_others_commit(&self) {
        let written_len = self.shared.written_len.load(Ordering::Relaxed);
        if self.seen_len.replace(written_len) != written_len {
            self.shared.wake_up.rest(PAUSE);
        }
    }
}
