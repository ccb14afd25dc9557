//! The space report: the disk space of a store by purpose.
//!
//! Owns nothing: adds up usage, snapshots, checkpoints and prepared space. The parts are read one
//! after the other while commits continue, so they need not agree to the byte.

use crate::block::Lsn;
use crate::error::{Error, IoOp, Result};
use crate::io::{Disk, Entry};
use crate::local::session::OpenStore;
use crate::local::space::quota::Quota;

/// The disk space of a store by purpose, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpaceReport {
    /// Log bytes of live blocks, with their share of headers.
    pub live_bytes: u64,
    /// Dead log bytes in segments with live blocks, and in the active segment. Compaction frees
    /// them by moving the live blocks.
    pub dead_bytes: u64,
    /// Sealed segments without live blocks. The next checkpoint releases those that no snapshot
    /// needs.
    pub empty_bytes: u64,
    /// Bytes that are kept for snapshots alone, part of the two above: whole segments without live
    /// blocks, and in other segments the payloads of old versions.
    /// [`StorageStats::pinned_bytes`](crate::StorageStats) counts their payloads and entries only.
    pub pinned_bytes: u64,
    /// Removed segments that stay on the disk while readers hold bytes of them
    /// ([`ReadMode::Mapped`](crate::ReadMode::Mapped)). Their files have no names, so no other
    /// figure counts them. Segments held by readers of an earlier session are not counted.
    pub held_bytes: u64,
    /// The oldest snapshot that is held.
    pub oldest_snapshot: Option<Lsn>,
    /// Commits since that snapshot was taken; 0 without one.
    pub oldest_snapshot_age: u64,
    /// Zeroed space ahead of the log's tail, and segment files kept for reuse.
    pub free_bytes: u64,
    /// Checkpoints in use.
    pub checkpoint_bytes: u64,
    /// Kept for deletes, compaction and recovery on a full disk.
    pub reserve_bytes: u64,
    /// The limit [`Options::max_bytes`](crate::Options::max_bytes), if there is one.
    pub max_bytes: Option<u64>,
    /// Bytes that ordinary writes may still take, of that limit and of the disk. `u64::MAX` if
    /// neither has a known limit.
    pub left_bytes: u64,
    /// Lengths of all files of the store.
    pub file_bytes: u64,
    /// Number of those files.
    pub files: u64,
}

pub(super) fn space_report<D: Disk>(inner: &OpenStore<Quota<D>>) -> Result<SpaceReport> {
    let index = &inner.shared.mvcc.index;
    let totals = inner.maintenance.usage_totals();
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
        pinned_bytes: inner.maintenance.snapshot_only_len(),
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
