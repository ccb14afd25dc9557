//! Compaction that somebody calls for, and what came of it.
//!
//! Owns [`CompactionReport`], and the order in which segments are emptied where space is scarce: the one with
//! the least to be written again first. It goes at once, and what it gives back is room for the next one. A run
//! ends when no segment is left whose emptying would make the log shorter, or when none of them fits into what
//! is free and half of the reserve. The latter is an error that names the bytes that are missing.

use super::choice::{Goal, Victim};
use super::{Cause, MAKE_ROOM_LEN, Run};
use crate::error::{Error, Result};
use crate::io::Disk;
use crate::local::maintenance::{Haste, Maintenance, MaintenanceState};

/// Why a compaction that somebody called for went no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum CompactionEnd {
    /// Emptying another segment would not make the log shorter.
    #[default]
    Dense,
    /// A backup reads the files of the store: none of them may go before it is done, so nothing was moved.
    Backup,
}

/// What a compaction gave back, and why it went no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CompactionReport {
    /// Bytes of the log before.
    pub log_bytes_before: u64,
    /// Bytes of the log now.
    pub log_bytes: u64,
    /// Bytes of that that are in force.
    pub live_bytes: u64,
    /// Bytes of that that are kept for snapshots.
    pub snapshot_bytes: u64,
    /// Payload bytes that were moved.
    pub moved_bytes: u64,
    /// Why it went no further.
    pub end: CompactionEnd,
}

impl CompactionReport {
    /// Bytes by which the log got shorter.
    pub fn given_back_bytes(&self) -> u64 {
        self.log_bytes_before.saturating_sub(self.log_bytes)
    }
}

impl<D: Disk> Maintenance<D> {
    /// Empties segments until what is in force takes all but a little of the log, and lets them go.
    pub(crate) fn compact_now(&self) -> Result<CompactionReport> {
        let mut state = self.take_turn()?;
        let (log_bytes_before, moved_before) = (self.totals().used_len, self.moved_len());
        let end = match state.hold_count {
            0 => CompactionEnd::Dense,
            _ => CompactionEnd::Backup,
        };
        if end == CompactionEnd::Dense {
            self.compact_all(&mut state)?;
        }
        let totals = self.totals();
        Ok(CompactionReport {
            log_bytes_before,
            log_bytes: totals.used_len,
            live_bytes: totals.live_len,
            snapshot_bytes: self.snapshot_len(),
            moved_bytes: self.moved_len() - moved_before,
            end,
        })
    }

    fn compact_all(&self, state: &mut MaintenanceState) -> Result<()> {
        // Who calls for it has what could not be read tried again.
        state.stuck.clear();
        let mut run = self.run(Cause::Told);
        self.seal_dead_tail(&run, MAKE_ROOM_LEN)?;
        self.checkpoint_with(state, Haste::Room)?;
        // What is written from here on is as dense as it gets.
        let before = self.shared.usage.all_segments().last().map_or(0, |segment| segment.sequence);
        let goal = Goal { amplification_max: 1.0, dead_len_max: 0, before, fits_len: u64::MAX };
        // How long the log was when space was missing last.
        let mut stopped_at = u64::MAX;
        while let Some(victim) = self.next_told(state, &run, goal) {
            if self.shared.wake_up.is_stopped() {
                return Err(Error::Closed);
            }
            let needed_len = victim.needed_len() + MAKE_ROOM_LEN;
            let emptied = match needed_len.saturating_sub(self.fits_len()) {
                0 => self.empty(state, &mut run, victim),
                missing_len => Err(self.space.storage_full_error(missing_len)),
            };
            match emptied {
                Ok(()) => self.let_go_if_full(state)?,
                Err(full @ Error::StorageFull { .. }) => {
                    // What was emptied so far goes; the log got shorter, or there is no use in going on.
                    self.checkpoint_with(state, Haste::Room)?;
                    self.space.reserve.refill_best_effort();
                    let used_len = self.totals().used_len;
                    if used_len >= stopped_at {
                        self.shrink(false)?;
                        return Err(full);
                    }
                    stopped_at = used_len;
                }
                Err(error) => return Err(error),
            }
        }
        self.checkpoint_with(state, Haste::Room)?;
        self.shrink(false)?;
        run.end()
    }

    /// The best victim while there is room for it; else the one that takes least.
    fn next_told(&self, state: &MaintenanceState, run: &Run, goal: Goal) -> Option<Victim> {
        let best = self.victim(state, run, goal)?;
        let fits_len = self.fits_len().saturating_sub(MAKE_ROOM_LEN);
        if best.needed_len() <= fits_len && !self.space.is_disk_or_quota_full() {
            return Some(best);
        }
        self.victims(state, run, goal).into_iter().min_by_key(Victim::needed_len)
    }
}
