//! CompactionPauses: whether compaction may move blocks by itself.
//!
//! Owns a count: as many pauses as there are, so many have to end before blocks are moved again. So parts
//! of a program that do not know each other can pause without ending each other's pause.

use crate::sync::{AtomicU64, Ordering};

/// How many pauses there are.
#[derive(Debug, Default)]
pub(crate) struct CompactionPauses {
    count: AtomicU64,
}

impl CompactionPauses {
    /// Begins one.
    pub(crate) fn begin_pause(&self) {
        self.count.fetch_add(1, Ordering::SeqCst);
    }

    /// Ends one, if there is one, and says whether it was the last.
    pub(crate) fn end_pause(&self) -> bool {
        let one_less = |count: u64| count.checked_sub(1);
        self.count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less) == Ok(1)
    }

    /// Whether there is one.
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
