//! Snapshots: what of the log is kept for them alone, and the limit on it.
//!
//! Owns the count of those bytes, and what is done where they are more than
//! [`Options::snapshot_pinned_max`](crate::Options::snapshot_pinned_max):
//!
//! 1. A sealed segment in which nothing is in force, and of which a snapshot sees something, counts as a whole.
//!    Elsewhere what snapshots see counts by itself.
//! 2. Beyond the limit such segments are emptied first, unless compaction is paused: what snapshots see of them
//!    is moved. What remains is counted again.
//! 3. Then the oldest snapshot is given up, and the next one, until the rest is within the limit.
//!
//! Callers see to the payloads alone, with each operation (`mvcc::state`): those are known without a look at
//! each version.

use super::{Haste, Maintenance, MaintenanceState};
use crate::error::{Result, SnapshotLimit};
use crate::io::Disk;
use crate::local::format::checkpoint::SegmentUse;
use crate::local::maintenance::compaction::Cause;

impl<D: Disk> Maintenance<D> {
    /// Bytes of the log that are kept for snapshots alone.
    pub(crate) fn snapshot_len(&self) -> u64 {
        let kept = self.kept_by_segment();
        if kept.is_empty() {
            return 0;
        }
        let segments = self.shared.usage.all_segments();
        let active = segments.last().map_or(0, |segment| segment.sequence);
        let kept_of = |segment: &SegmentUse| {
            let kept_len = kept.get(&segment.sequence).map_or(0, |kept| kept.len);
            let is_whole = segment.live_count == 0 && segment.sequence != active && kept_len > 0;
            if is_whole { segment.used_len } else { kept_len }
        };
        segments.iter().map(kept_of).sum()
    }

    /// Brings what is kept for snapshots within its limit.
    ///
    /// # Errors
    /// As [`Maintenance::checkpoint`]; no snapshot is given up for that.
    pub(super) fn limit_snapshots(&self, state: &mut MaintenanceState) -> Result<()> {
        let max = self.shared.mvcc.limits.snapshot_pinned_max;
        if max == u64::MAX || state.hold_count > 0 || self.snapshot_len() <= max {
            return Ok(());
        }
        // Segments may have fallen out of use since the last checkpoint.
        self.checkpoint_with(state, Haste::Room)?;
        if self.snapshot_len() > max && !self.must_stop(Cause::Idle) {
            self.empty_for_snapshots(state)?;
        }
        let mut has_given_up = false;
        while self.snapshot_len() > max
            && self.shared.mvcc.give_up_oldest_snapshot(SnapshotLimit::PinnedBytes(max))
        {
            has_given_up = true;
        }
        match has_given_up {
            true => self.checkpoint_with(state, Haste::Room),
            false => Ok(()),
        }
    }
}
