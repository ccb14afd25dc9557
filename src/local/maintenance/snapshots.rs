//! Snapshots: the log bytes that are kept for them alone, and their limit.
//!
//! Owns the count of those bytes, and the steps if it exceeds
//! [`Options::snapshot_pinned_max`](crate::Options::snapshot_pinned_max):
//!
//! 1. Count them. A sealed segment without live blocks counts as a whole if a snapshot sees a
//!    version in it. In other segments, the versions that snapshots see count.
//! 2. Beyond the limit, relocate the versions out of such segments, unless compaction is paused.
//!    Count again.
//! 3. Give up the oldest snapshot, and the next one, until the rest is within the limit.
//!
//! Callers check payload bytes alone with each operation (`mvcc::state`): that count needs no visit
//! of each version.

use super::{Haste, Maintenance, MaintenanceState};
use crate::error::{Result, SnapshotLimit};
use crate::io::Disk;
use crate::local::format::checkpoint::SegmentUse;
use crate::local::maintenance::compaction::Cause;

impl<D: Disk> Maintenance<D> {
    /// Log bytes that are kept for snapshots alone.
    pub(crate) fn snapshot_only_len(&self) -> u64 {
        let kept = self.pinned_by_segment();
        if kept.is_empty() {
            return 0;
        }
        let segments = self.parts.shared.usage.all_segments();
        let active = segments.last().map_or(0, |segment| segment.sequence);
        let kept_of = |segment: &SegmentUse| {
            let kept_len = kept.get(&segment.sequence).map_or(0, |kept| kept.len);
            let is_whole = segment.live_count == 0 && segment.sequence != active && kept_len > 0;
            if is_whole { segment.used_len } else { kept_len }
        };
        segments.iter().map(kept_of).sum()
    }

    /// Brings the bytes kept for snapshots within their limit.
    ///
    /// # Errors
    /// As [`Maintenance::checkpoint`]. No snapshot is given up for an error.
    pub(super) fn limit_snapshots(&self, state: &mut MaintenanceState) -> Result<()> {
        let max = self.parts.shared.mvcc.limits.snapshot_pinned_max;
        if max == u64::MAX || state.hold_count > 0 || self.snapshot_only_len() <= max {
            return Ok(());
        }
        // Segments may have died since the last checkpoint.
        self.make_checkpoint(state, Haste::Space)?;
        if self.snapshot_only_len() > max && !self.must_stop(Cause::Idle) {
            self.relocate_snapshot_versions(state)?;
        }
        let mut has_given_up = false;
        while self.snapshot_only_len() > max
            && self.parts.shared.mvcc.give_up_oldest_snapshot(SnapshotLimit::PinnedBytes(max))
        {
            has_given_up = true;
        }
        match has_given_up {
            true => self.make_checkpoint(state, Haste::Space),
            false => Ok(()),
        }
    }
}
