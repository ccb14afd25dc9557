//! MemoryBudget: how the memory that a store may take is divided.
//!
//! Owns the division of [`Options::memory_len_max`](crate::Options::memory_len_max) and what follows from
//! it while the store runs:
//!
//! | share | for                                   | kept by                                          |
//! |------:|---------------------------------------|--------------------------------------------------|
//! |   1/2 | entries of the index and old versions | a checkpoint, after which entries are in its image |
//! |   1/4 | commits in flight                     | callers that wait (`budget`)                     |
//! |   1/8 | recent bytes                          | forgetting the oldest (`recent`)                 |
//! |   1/8 | entries made while an image is written, and small things that nobody counts              ||
//!
//! While a store is opened, entries of the log on their way into the index take half the share of commits in
//! flight, of which there are none yet: the vector that holds them may grow to twice that.
//!
//! Old versions are the snapshots' and no checkpoint drops them: what the first share does not hold of
//! them is taken from the recent bytes. An option that names a share by itself wins, and the others stay.

use crate::local::options::{Options, WriteMode};

/// Checkpoints that leave fewer entries than this part of their share behind are not worth making: old
/// versions take the rest of it then.
const WORTH_SHARE: u64 = 8;
/// Looks at the store while a share fills up.
const LOOK_SHARE: u64 = 16;

/// The shares of one store, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MemoryBudget {
    /// Entries of the index in memory, and old versions.
    pub(crate) index_len_max: u64,
    pub(crate) in_flight_len_max: u64,
    /// Entries on their way into the index, while the store is opened.
    pub(crate) replay_len_max: u64,
    pub(crate) recent_len: u64,
    /// Nobody asked for just so many recent bytes.
    recent_gives_way: bool,
}

impl MemoryBudget {
    pub(crate) fn from_options(options: &Options) -> MemoryBudget {
        let all_len = options.memory_len_max;
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

    /// Recent bytes to keep beside what the index takes.
    pub(crate) fn recent_len_beside(&self, index_len: u64) -> u64 {
        match self.recent_gives_way {
            true => self.recent_len.saturating_sub(index_len.saturating_sub(self.index_len_max)),
            false => self.recent_len,
        }
    }

    /// Log bytes between two looks: the dearest entry, of an empty block far from any other, takes about six
    /// times the log of its commit.
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
        let shares = MemoryBudget::from_options(&LocalBackend::options());
        assert_eq!((shares.in_flight_len_max, shares.recent_len), (64 << 20, 32 << 20));
        assert_eq!(shares.index_len_max, 128 << 20);
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
        let shares = MemoryBudget::from_options(&LocalBackend::options().memory_len_max(8 << 20));
        assert!(!shares.needs_checkpoint(4 << 20, 0) && shares.needs_checkpoint(4 << 20, 1));
        assert!(!shares.needs_checkpoint(shares.index_len_max / WORTH_SHARE - 1, 100 << 20));
        assert_eq!(shares.recent_len_beside(4 << 20), 1 << 20);
        assert_eq!(shares.recent_len_beside((4 << 20) + 300), (1 << 20) - 300);
        assert_eq!(shares.recent_len_beside(100 << 20), 0);
    }
}
