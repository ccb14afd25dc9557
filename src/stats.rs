//! Statistics of a store: counters since open, and sizes as of now.

use std::time::Duration;

use crate::block::Lsn;

/// Sizes that groups are told apart by, in [`StorageStats::group_sizes`].
pub const GROUP_SIZES: usize = 16;

/// Counters since open, and sizes as of now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StorageStats {
    /// Committed blocks.
    pub total_blocks: u64,
    /// Sum of the payload lengths of all committed blocks, in bytes.
    pub total_bytes: u64,
    /// Blocks read, in and out of transactions.
    pub read_ops: u64,
    /// Block writes committed.
    pub write_ops: u64,
    /// Block deletes committed.
    pub delete_ops: u64,
    /// Transactions committed, single writes and deletes among them.
    pub commits: u64,
    /// Commits refused because another transaction came first.
    pub conflicts: u64,
    /// Transactions rolled back, by the caller or by a refused commit.
    pub rollbacks: u64,
    /// Transactions open now.
    pub open_transactions: u64,
    /// The newest commit that readers see.
    pub visible_lsn: Lsn,
    /// The newest commit that survives power loss.
    pub durable_lsn: Lsn,
    /// Heap bytes of the index, measured from its own allocations.
    pub index_bytes: u64,
    /// Older versions kept for open transactions and snapshots.
    pub undo_entries: u64,
    /// What keeping those versions costs in bytes: their payloads (memory, or space of the log that
    /// cannot be used again) and an entry of the index for each.
    pub pinned_bytes: u64,
    /// The oldest snapshot that an open transaction reads.
    pub oldest_snapshot: Option<Lsn>,
    /// How long ago that transaction began.
    pub oldest_snapshot_age: Duration,
    /// Commit groups written to the log.
    pub groups: u64,
    /// Those groups by the number of their commits: of 1 commit, of 2 to 3, of 4 to 7, and so on; the
    /// last also counts larger ones.
    pub group_sizes: [u64; GROUP_SIZES],
    /// What the group of each commit took to be laid out and written, summed over commits. As every commit
    /// of a group waits for all of it, this over `commits` is a commit's share of its latency.
    pub write_time: Duration,
    /// What the sync of its group took, summed over commits.
    pub sync_time: Duration,
    /// What publishing its group and waking its callers took, summed over commits.
    pub wake_time: Duration,
    /// Syncs of the log that commits waited for.
    pub log_syncs: u64,
    /// Bytes written to the log: frames and padding.
    pub log_bytes: u64,
    /// Bytes of zeros written ahead of the log's tail, outside the way of commits.
    pub zeroed_bytes: u64,
    /// Bytes of the checkpoints in use.
    pub checkpoint_bytes: u64,
    /// Log files, the active one and those prepared ahead included.
    pub segments: u64,
}

/// The oldest snapshot that an open transaction reads: what older versions are kept for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OldestSnapshot {
    /// The newest commit that it sees.
    pub lsn: Lsn,
    /// How long ago its transaction began.
    pub age: Duration,
}
