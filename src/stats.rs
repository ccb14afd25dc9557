//! Statistics of a store: counters since open, and sizes as of now.
//!
//! One call tells of one moment what commits change: totals, writes, deletes, commits, groups, the
//! visible and the durable LSN (`mvcc/state` says how). The rest is read beside them, one after the
//! other.

use std::time::Duration;

use crate::block::Lsn;

/// Sizes that groups are told apart by, in [`StorageStats::group_sizes`].
pub const GROUP_SIZES: usize = 16;

/// Counters since open, and sizes as of now.
///
/// `total_blocks`, `total_bytes`, `write_ops`, `delete_ops`, `commits`, `groups`, `visible_lsn` and
/// `durable_lsn` are of one moment: they tell of all commits up to `visible_lsn`, and of no later
/// one. `durable_lsn` is never above it. The others are read at about the same time.
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
    /// Heap bytes of the index, measured from its own allocations, older versions included.
    pub index_bytes: u64,
    /// Bytes of the log's end that are kept in memory for readers.
    pub recent_bytes: u64,
    /// Bytes of commits on their way to the disk.
    pub in_flight_bytes: u64,
    /// The three together: what a local store counts against its `memory_len_max`. 0 for others.
    pub memory_bytes: u64,
    /// Older versions kept for open transactions and snapshots.
    pub undo_entries: u64,
    /// Bytes that those versions cost: their payloads (memory, or space of the log that cannot be
    /// used again) and an entry of the index for each. The disk space that a local store keeps for
    /// them, whole segments among it, is [`SpaceReport::pinned_bytes`](crate::SpaceReport).
    pub pinned_bytes: u64,
    /// Lengths of segments that are deleted, and on the disk because readers hold bytes of them
    /// ([`ReadMode::Mapped`](crate::ReadMode::Mapped)). 0 for other stores.
    pub held_bytes: u64,
    /// The oldest snapshot that an open transaction reads.
    pub oldest_snapshot: Option<Lsn>,
    /// How long ago that transaction began.
    pub oldest_snapshot_age: Duration,
    /// Commit groups written to the log.
    pub groups: u64,
    /// Those groups by the number of their commits: of 1 commit, of 2 to 3, of 4 to 7, and so on;
    /// the last also counts larger ones.
    pub group_sizes: [u64; GROUP_SIZES],
    /// Time in which the group of each commit was laid out and written, summed over commits. As
    /// every commit of a group waits for all of it, this over `commits` is a commit's share of its
    /// latency.
    pub write_time: Duration,
    /// Time of the sync of each commit's group, summed over commits.
    pub sync_time: Duration,
    /// Groups that started while another one was on its way to the disk.
    pub overlapped_groups: u64,
    /// Time in which each commit's group was published and its callers woken, summed over commits.
    pub wake_time: Duration,
    /// Syncs of the log that commits waited for.
    pub log_syncs: u64,
    /// Bytes written to the log: frames and padding.
    pub log_bytes: u64,
    /// Payload bytes of blocks that compaction has written to the log again; part of `log_bytes`,
    /// which has their headers too.
    pub moved_bytes: u64,
    /// Bytes of zeros written ahead of the log's tail, outside the way of commits.
    pub zeroed_bytes: u64,
    /// Bytes of the checkpoints in use.
    pub checkpoint_bytes: u64,
    /// Bytes that are kept for deletes, compaction and recovery on a full disk, as of now.
    pub reserve_bytes: u64,
    /// Bytes of them that were used since open.
    pub reserve_drawn_bytes: u64,
    /// Log files, the active one and those prepared ahead included.
    pub segments: u64,
    /// Waits of writers, by cause.
    pub stalls: Stalls,
}

/// The oldest snapshot that an open transaction reads: what older versions are kept for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OldestSnapshot {
    /// The newest commit that it sees.
    pub lsn: Lsn,
    /// How long ago its transaction began.
    pub age: Duration,
}

/// Why writers waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum StallCause {
    /// As many bytes of commits were under way as may be (`in_flight_len_max`).
    InFlight,
    /// The commit queue was full: as many commits were submitted and not taken up as may be.
    Queue,
    /// The log had caught up with the space zeroed ahead: it waited for a worker, or took space
    /// itself.
    SpaceAhead,
    /// The next segment was not ready.
    NextSegment,
    /// Writing a group took long.
    Write,
    /// Syncing a group took long.
    Sync,
    /// A checkpoint or compaction held the log between two groups.
    Upkeep,
    /// The disk or the quota is full: space had to be reclaimed, or the reserve filled up, first.
    Full,
}

/// How many causes there are.
pub(crate) const STALL_CAUSE_COUNT: usize = 8;

impl StallCause {
    /// All causes.
    pub const ALL: [StallCause; STALL_CAUSE_COUNT] = [
        StallCause::InFlight,
        StallCause::Queue,
        StallCause::SpaceAhead,
        StallCause::NextSegment,
        StallCause::Write,
        StallCause::Sync,
        StallCause::Upkeep,
        StallCause::Full,
    ];
}

impl std::fmt::Display for StallCause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            StallCause::InFlight => "bytes in flight",
            StallCause::Queue => "full queue",
            StallCause::SpaceAhead => "no space ahead",
            StallCause::NextSegment => "no next segment",
            StallCause::Write => "slow write",
            StallCause::Sync => "slow sync",
            StallCause::Upkeep => "upkeep",
            StallCause::Full => "full disk",
        })
    }
}

/// Waits of 10 ms and more, of one cause.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stall {
    /// How many there were.
    pub count: u64,
    /// How long they took in all.
    pub total: Duration,
    /// How long the longest one took.
    pub longest: Duration,
}

/// Waits of writers of 10 ms and more since open, by cause. A wait that holds up the log holds up
/// every commit in its queue, and is counted once.
///
/// # Examples
/// ```
/// use aegis_blocks::{MemoryBackend, StallCause, StorageBackend};
/// let stalls = MemoryBackend::new().stats().stalls;
/// assert_eq!(stalls.of(StallCause::Sync).count, 0);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stalls([Stall; STALL_CAUSE_COUNT]);

impl Stalls {
    pub(crate) fn from_fn(of: impl Fn(StallCause) -> Stall) -> Stalls {
        Stalls(StallCause::ALL.map(of))
    }

    /// Those of one cause.
    pub fn of(&self, cause: StallCause) -> Stall {
        self.0[cause as usize]
    }

    /// The causes that there were stalls of.
    pub fn iter(&self) -> impl Iterator<Item = (StallCause, Stall)> {
        let all = StallCause::ALL.into_iter().zip(self.0);
        all.filter(|(_, stall)| stall.count > 0)
    }
}
