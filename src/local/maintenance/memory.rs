//! MemoryBudget: the division of the memory that a store may take.
//!
//! Owns the division of [`Options::memory_len_max`](crate::Options::memory_len_max):
//!
//! | share | for                                   | kept by                              |
//! |------:|---------------------------------------|--------------------------------------|
//! |   1/2 | entries of the index and old versions | a checkpoint, which takes entries    |
//! |   1/4 | commits in flight                     | callers that wait (`budget`)         |
//! |   1/8 | recent bytes                          | dropping the oldest (`recent`)       |
//! |   1/8 | entries made while an image is written, and small uncounted buffers         ||
//!
//! During recovery, replay takes half the share of commits in flight, of which there are none yet.
//! The vector of its batch may grow to twice that.
//!
//! A checkpoint does not drop old versions, because snapshots need them. If they exceed the first
//! share, they take from the recent bytes. An option that names a share overrides it; the other
//! shares stay.

use crate::local::options::{Options, WriteMode};

/// A checkpoint for memory is made only if entries take this part of their share. Below it, old
/// versions take the rest.
const WORTH_SHARE: u64 = 8;
/// Checks of the store while the share of the index fills.
const LOOK_SHARE: u64 = 16;

/// The memory budget of one store, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MemoryBudget {
    /// Entries of the index in memory, and old versions.
    pub(crate) index_len_max: u64,
    pub(crate) in_flight_len_max: u64,
    /// Entries of a replay batch, during recovery.
    pub(crate) replay_len_max: u64,
    pub(crate) recent_len: u64,
    /// No option sets `recent_len`, so old versions may take from it.
    recent_gives_way: bool,
}

impl MemoryBudget {
    pub(crate) fn from_options(options: &Options) -> MemoryBudget {
        let all_len = options.memory_len_max;
        debug_assert!(all_len >= 1 << 20, "options are checked before they are used");
        let recent_len = options.recent_len.unwrap_or(all_len / 8);
        MemoryBudget {
            index_len_max: all_len / 2,
            in_flight_len_max: options.in_flight_len_max.unwrap_or(all_len / 4),
            replay_len_max: all_len / 8,
            recent_len: if options.write_mode == WriteMode::Direct { recent_len } else { 0 },
            recent_gives_way: options.recent_len.is_none(),
        }
    }

    /// Whether a checkpoint should take entries out of memory.
    pub(crate) fn needs_checkpoint(&self, entries_len: u64, undo_len: u64) -> bool {
        entries_len + undo_len > self.index_len_max
            && entries_len >= self.index_len_max / WORTH_SHARE
    }

    /// Recent bytes to keep beside an index of this length.
    pub(crate) fn recent_len_beside(&self, index_len: u64) -> u64 {
        match self.recent_gives_way {
            true => self.recent_len.saturating_sub(index_len.saturating_sub(self.index_len_max)),
            false => self.recent_len,
        }
    }

    /// Log bytes between two checks. The largest entry, of an empty block far from all others,
    /// takes about six times the log bytes of its commit.
    pub(crate) fn check_interval_len(&self) -> u64 {
        self.index_len_max / LOOK_SHARE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LocalBackend;

    #[test]
    fn default_shares_are_what_each_option_defaulted_to_by_itself() {
        let budget = MemoryBudget::from_options(&LocalBackend::options());
        assert_eq!((budget.in_flight_len_max, budget.recent_len), (64 << 20, 32 << 20));
        assert_eq!(budget.index_len_max, 128 << 20);
    }

    #[test]
    fn option_that_names_a_share_wins_and_leaves_the_others_alone() {
        let options = || LocalBackend::options().memory_len_max(8 << 20);
        let derived = MemoryBudget::from_options(&options());
        assert_eq!((derived.in_flight_len_max, derived.recent_len), (2 << 20, 1 << 20));
        let named = MemoryBudget::from_options(&options().recent_len(5 << 20));
        assert_eq!((named.in_flight_len_max, named.recent_len), (2 << 20, 5 << 20));
        assert_eq!(named.recent_len_beside(100 << 20), 5 << 20);
        let named = MemoryBudget::from_options(&options().in_flight_len_max(7));
        assert_eq!((named.in_flight_len_max, named.recent_len), (7, 1 << 20));
        let buffered = MemoryBudget::from_options(&options().write_mode(WriteMode::Buffered));
        assert_eq!(buffered.recent_len, 0, "the page cache has them");
    }

    #[test]
    fn recent_bytes_give_way_to_old_versions_and_checkpoints_are_made_only_for_entries() {
        let budget = MemoryBudget::from_options(&LocalBackend::options().memory_len_max(8 << 20));
        assert!(!budget.needs_checkpoint(4 << 20, 0) && budget.needs_checkpoint(4 << 20, 1));
        assert!(!budget.needs_checkpoint(budget.index_len_max / WORTH_SHARE - 1, 100 << 20));
        assert_eq!(budget.recent_len_beside(4 << 20), 1 << 20);
        assert_eq!(budget.recent_len_beside((4 << 20) + 300), (1 << 20) - 300);
        assert_eq!(budget.recent_len_beside(100 << 20), 0);
    }
}
