//! CompactionPauses: whether compaction may relocate blocks without a request.
//!
//! Owns a count of pauses. Blocks are relocated again once all have ended, so independent parts of
//! a program can pause without ending each other's pause.

use crate::sync::{AtomicU64, Ordering};

/// The pauses that have begun and not ended.
#[derive(Debug, Default)]
pub(crate) struct CompactionPauses {
    count: AtomicU64,
}

impl CompactionPauses {
    /// Begins a pause.
    pub(crate) fn begin_pause(&self) {
        self.count.fetch_add(1, Ordering::SeqCst);
    }

    /// Ends a pause, if there is one. Returns whether it was the last.
    pub(crate) fn end_pause(&self) -> bool {
        let one_less = |count: u64| count.checked_sub(1);
        self.count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less) == Ok(1)
    }

    /// Whether a pause is in effect.
    pub(crate) fn is_paused(&self) -> bool {
        self.count.load(Ordering::SeqCst) > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pause_lasts_until_as_many_have_ended_as_were_begun() {
        let pauses = CompactionPauses::default();
        assert!(!pauses.end_pause() && !pauses.is_paused(), "an end too many pauses nothing");
        pauses.begin_pause();
        pauses.begin_pause();
        assert!(!pauses.end_pause() && pauses.is_paused());
        assert!(pauses.end_pause() && !pauses.is_paused());
    }
}
