//! Compaction at a caller's request, and its report.
//!
//! Owns [`CompactionReport`], and the order of segments on a full disk: the one with the fewest
//! needed bytes first. It is released at once, and its space serves the next one. A run ends when
//! no compaction would shorten the log. It also ends when no moves fit into the free space and half
//! of the reserve: that is an error that names the missing bytes.

use super::choice::{Goal, Victim};
use super::{Cause, RECLAIM_LEN_MIN, Run};
use crate::error::{Error, Result};
use crate::io::Disk;
use crate::local::maintenance::{Haste, Maintenance, MaintenanceState};

/// Why a requested compaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum CompactionEnd {
    /// Compacting another segment would not shorten the log.
    #[default]
    Dense,
    /// A backup reads the files of the store, so none can be released. Nothing was moved.
    Backup,
}

/// The outcome of a requested compaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CompactionReport {
    /// Bytes of the log before.
    pub log_bytes_before: u64,
    /// Bytes of the log now.
    pub log_bytes: u64,
    /// Live bytes among them.
    pub live_bytes: u64,
    /// Bytes among them that are kept for snapshots.
    pub snapshot_bytes: u64,
    /// Payload bytes that were moved.
    pub moved_bytes: u64,
    /// Why it ended.
    pub end: CompactionEnd,
}

impl CompactionReport {
    /// Bytes by which the log got shorter.
    pub fn given_back_bytes(&self) -> u64 {
        self.log_bytes_before.saturating_sub(self.log_bytes)
    }
}

impl<D: Disk> Maintenance<D> {
    /// Compacts segments until the log is dense, and releases them.
    pub(crate) fn compact_now(&self) -> Result<CompactionReport> {
        let mut state = self.lock_open_state()?;
        let (log_bytes_before, moved_before) = (self.usage_totals().used_len, self.moved_len());
        let end = match state.hold_count {
            0 => CompactionEnd::Dense,
            _ => CompactionEnd::Backup,
        };
        if end == CompactionEnd::Dense {
            self.compact_until_dense(&mut state)?;
        }
        let totals = self.usage_totals();
        Ok(CompactionReport {
            log_bytes_before,
            log_bytes: totals.used_len,
            live_bytes: totals.live_len,
            snapshot_bytes: self.snapshot_only_len(),
            moved_bytes: self.moved_len() - moved_before,
            end,
        })
    }

    fn compact_until_dense(&self, state: &mut MaintenanceState) -> Result<()> {
        // A request reads damaged segments again.
        state.stuck.clear();
        let mut run = self.begin_run(Cause::Requested);
        self.seal_dead_tail(&run, RECLAIM_LEN_MIN)?;
        self.make_checkpoint(state, Haste::Space)?;
        // Segments that are begun from here on hold relocated blocks, and are dense.
        let before =
            self.parts.shared.usage.all_segments().last().map_or(0, |segment| segment.sequence);
        let goal = Goal { amplification_max: 1.0, dead_len_max: 0, before, fits_len: u64::MAX };
        // The length of the log when space was missing last.
        let mut stopped_at = u64::MAX;
        while let Some(victim) = self.next_requested_victim(state, &run, goal) {
            if self.parts.shared.wake_up.is_stopped() {
                return Err(Error::Closed);
            }
            let needed_len = victim.needed_len() + RECLAIM_LEN_MIN;
            let emptied = match needed_len.saturating_sub(self.space_for_moves()) {
                0 => self.empty_segment(state, &mut run, victim),
                missing_len => Err(self.parts.space.storage_full_error(missing_len)),
            };
            match emptied {
                Ok(()) => self.release_if_full(state)?,
                Err(full @ Error::StorageFull { .. }) => {
                    // Release the segments so far. If the log did not get shorter, more attempts
                    // fail, too.
                    self.make_checkpoint(state, Haste::Space)?;
                    self.parts.space.reserve.refill_best_effort();
                    let used_len = self.usage_totals().used_len;
                    if used_len >= stopped_at {
                        self.shrink_prepared(false)?;
                        return Err(full);
                    }
                    stopped_at = used_len;
                }
                Err(error) => return Err(error),
            }
        }
        self.make_checkpoint(state, Haste::Space)?;
        self.shrink_prepared(false)?;
        run.into_result()
    }

    /// The best victim if its moves fit; otherwise the one with the fewest needed bytes.
    fn next_requested_victim(
        &self,
        state: &MaintenanceState,
        run: &Run,
        goal: Goal,
    ) -> Option<Victim> {
        let best = self.best_victim(state, run, goal)?;
        let fits_len = self.space_for_moves().saturating_sub(RECLAIM_LEN_MIN);
        if best.needed_len() <= fits_len && !self.parts.space.is_disk_or_quota_full() {
            return Some(best);
        }
        self.worthwhile_victims(state, run, goal).into_iter().min_by_key(Victim::needed_len)
    }
}
