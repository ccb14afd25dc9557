//! What a store takes on disk, and what for.
//!
//! Owns nothing: adds up what usage, snapshots, checkpoints and the space ahead of the tail say of
//! themselves. The parts are read one after the other while commits go on, so they need not agree to
//! the byte.

use crate::block::Lsn;
use crate::error::{Error, IoOp, Result};
use crate::io::{Disk, Entry};
use crate::local::session::OpenStore;
use crate::local::space::quota::Quota;

/// What a store takes on disk, in bytes, and what for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpaceReport {
    /// Log bytes of the blocks that are in force, with their share of headers.
    pub live_bytes: u64,
    /// Log bytes that are not in force, in segments where others are, or that the log is writing to.
    /// Compaction moves the others out of them.
    pub dead_bytes: u64,
    /// Sealed segments with nothing in force: the next checkpoint lets those go that no snapshot needs.
    pub empty_bytes: u64,
    /// What is kept for snapshots alone, part of the two above: segments in which nothing is in force, as a
    /// whole, and elsewhere the payloads of old versions. [`StorageStats::pinned_bytes`](crate::StorageStats)
    /// counts their payloads and entries only.
    pub pinned_bytes: u64,
    /// Segments that are deleted, and on the disk because readers hold bytes of them
    /// ([`ReadMode::Mapped`](crate::ReadMode::Mapped)); they go when the last of those bytes do. Their
    /// files have no names any more, so they are in none of the other figures. Those that an earlier handle
    /// of the store lent are not counted.
    pub held_bytes: u64,
    /// The oldest snapshot that is held.
    pub oldest_snapshot: Option<Lsn>,
    /// Commits since that snapshot was taken; 0 without one.
    pub oldest_snapshot_age: u64,
    /// Zeroed ahead of the log's tail, and segments out of use that are kept to be written again.
    pub free_bytes: u64,
    /// Checkpoints in use.
    pub checkpoint_bytes: u64,
    /// Kept for deletes, compaction and recovery on a full disk.
    pub reserve_bytes: u64,
    /// The most that the store may take ([`Options::max_bytes`](crate::Options::max_bytes)), if there is
    /// such a limit.
    pub max_bytes: Option<u64>,
    /// What ordinary writes may still take: of that, and of the disk. `u64::MAX` where neither has a limit
    /// that is told.
    pub left_bytes: u64,
    /// Lengths of all files of the store.
    pub file_bytes: u64,
    /// How many files that is.
    pub files: u64,
}

pub(super) fn space<D: Disk>(inner: &OpenStore<Quota<D>>) -> Result<SpaceReport> {
    let index = &inner.shared.mvcc.index;
    let totals = inner.maintenance.totals();
    let oldest_snapshot = index.oldest_pin();
    let age = oldest_snapshot.map_or(0, |oldest| index.visible_lsn().0 - oldest.0);
    let (mut file_bytes, mut files) = (0, 0);
    let listed = inner.disk.list();
    for entry in listed.map_err(|e| Error::io(IoOp::List, inner.disk.path(), e))? {
        if let Entry::File { len, .. } = entry {
            file_bytes += len;
            files += 1;
        }
    }
    let left = inner.disk.free_space();
    let left_bytes = left.map_err(|e| Error::io(IoOp::List, inner.disk.path(), e))?;
    Ok(SpaceReport {
        live_bytes: totals.live_len,
        dead_bytes: totals.used_len - totals.live_len - totals.dead_len,
        empty_bytes: totals.dead_len,
        pinned_bytes: inner.maintenance.snapshot_len(),
        held_bytes: inner.views.held_by_readers_len(),
        oldest_snapshot,
        oldest_snapshot_age: age,
        free_bytes: inner.space.free_len(),
        checkpoint_bytes: inner.maintenance.checkpoint_len(),
        reserve_bytes: inner.space.reserve.len(),
        max_bytes: inner.disk.ledger().map(|ledger| ledger.quota_len_max()),
        left_bytes,
        file_bytes,
        files,
    })
}
