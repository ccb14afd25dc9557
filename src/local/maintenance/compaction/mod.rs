//! Compaction: relocates the live blocks of segments that are mostly dead, so that these can be
//! released.
//!
//! Owns the runs of compaction. Each live block of a *victim* is read, verified, and written again
//! through the log as a move. The move takes effect only if the block has not changed meanwhile. So
//! compaction takes only bandwidth from commits, and recovery needs no rule for it. The next
//! checkpoint releases the victim.
//!
//! The victim ([`choice`]) is the segment with the greatest benefit for its cost, `(1 - u) * age /
//! (1 + u)`: `u` is the share of needed bytes, and the age counts the segments begun since.
//! (Rosenblum and Ousterhout, *The design and implementation of a log-structured file system*,
//! 1992.)
//!
//! A run starts while the log takes more than `amplification_max` times the needed bytes, and
//! follows a [`schedule`] beside commits. On an idle store the limit is [`idle_amplification_max`].
//! After the last commit of a user, at most twice the needed bytes are moved, whatever the options.

mod choice;
mod relocation;
mod schedule;
mod told;

use std::collections::BTreeSet;

use choice::{Goal, PinnedBySegment, Victim};
use schedule::Excess;
pub(super) use schedule::Pressure;
pub use told::{CompactionEnd, CompactionReport};

use crate::block::Lsn;
use crate::error::{Error, Result};
use crate::io::Disk;
use crate::local::format::PAGE;
use crate::local::format::checkpoint::SegmentUse;
use crate::local::maintenance::{Haste, Maintenance, MaintenanceState};
use crate::sync::Ordering;

/// Dead bytes that are not worth a compaction.
const DEAD_LEN_MIN: u64 = 256 << 10;

/// Space that the compaction of a segment takes besides its moves: a checkpoint, its confirmation,
/// and up to two pages that are not filled.
const RECLAIM_LEN_MIN: u64 = 8 * PAGE;

/// The use of the log's bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Totals {
    /// Bytes of all segments with frames.
    pub(crate) used_len: u64,
    /// Live bytes in them: payloads, with their share of headers.
    pub(crate) live_len: u64,
    /// Bytes of sealed segments without live blocks.
    pub(crate) dead_len: u64,
}

/// The reason for a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// A caller's request, which a pause of compaction does not stop.
    Requested,
    /// Too many dead bytes, beside commits.
    Due(Excess),
    /// Too many dead bytes, on an idle store.
    Idle,
    /// A full disk.
    Need,
}

/// One run of compaction over several segments.
#[derive(Debug)]
pub(super) struct Run {
    cause: Cause,
    /// Segments that were read and still hold a block that could not be moved.
    passed: BTreeSet<u64>,
    /// Old versions that snapshots see, in segments that were not read yet.
    kept: PinnedBySegment,
    /// The first error of a single place, which does not stop the run.
    first_error: Option<Error>,
}

impl Run {
    /// A segment, with the versions in it that snapshots see.
    fn victim_of(&self, segment: SegmentUse) -> Victim {
        Victim { segment, kept: self.kept.get(&segment.sequence).copied().unwrap_or_default() }
    }

    /// Whether a caller requested the run.
    fn is_requested(&self) -> bool {
        self.cause == Cause::Requested
    }

    /// Ends the run and returns its first error.
    fn into_result(self) -> Result<()> {
        self.first_error.map_or(Ok(()), Err)
    }
}

/// Segments without live blocks that a checkpoint did not release.
#[derive(Debug)]
pub(super) struct PinnedDead {
    len: u64,
    /// The snapshots then, some of which see versions in them.
    pins: Vec<Lsn>,
}

/// The amplification limit on an idle store.
fn idle_amplification_max(amplification_max: f64) -> f64 {
    1.0 + (amplification_max - 1.0) / 6.0
}

impl<D: Disk> Maintenance<D> {
    /// Sums the use of all_segments segments.
    pub(crate) fn usage_totals(&self) -> Totals {
        let segments = self.parts.shared.usage.all_segments();
        let active = segments.last().map_or(0, |segment| segment.sequence);
        let mut totals = Totals::default();
        for segment in &segments {
            totals.used_len += segment.used_len;
            totals.live_len += segment.live_log_len();
            if segment.live_count == 0 && segment.sequence != active {
                totals.dead_len += segment.used_len;
            }
        }
        totals
    }

    /// Compacts segments while there are too many dead bytes.
    pub(super) fn compact_due(&self, state: &mut MaintenanceState, is_idle: bool) -> Result<()> {
        if state.hold_count > 0 {
            // No segment could be released.
            return Ok(());
        }
        if is_idle && state.idle_at.is_some_and(|at| self.user_log_len() - at < DEAD_LEN_MIN) {
            // Blocks that do not fill pages and segments may keep the log above the goal for ever.
            return Ok(());
        }
        if !is_idle && self.parts.shared.usage.segment_count() < 2 {
            // The active segment is neither compacted nor released.
            state.idle_at = None;
            return Ok(());
        }
        let max = self.parts.options.amplification_max;
        let mut run = self.begin_run(Cause::Idle);
        let mut goal = Goal {
            amplification_max: if is_idle { idle_amplification_max(max) } else { max },
            dead_len_max: DEAD_LEN_MIN,
            before: u64::MAX,
            fits_len: u64::MAX,
        };
        if is_idle && !self.must_stop(run.cause) && self.log_totals(&run).is_beyond_goal(&goal) {
            self.seal_dead_tail(&run, DEAD_LEN_MIN)?;
        }
        // Segments that are begun from here on hold relocated blocks, and are dense.
        goal.before =
            self.parts.shared.usage.all_segments().last().map_or(0, |segment| segment.sequence);
        loop {
            self.release_dead_segments(state, false)?;
            let victim = self.best_victim(state, &run, goal).and_then(|_| {
                // The free space is asked for only if there is a victim.
                self.best_victim(state, &run, Goal { fits_len: self.space_for_moves(), ..goal })
            });
            let Some(victim) = victim else {
                if is_idle {
                    state.idle_at = Some(self.user_log_len());
                    self.release_dead_segments(state, true)?;
                } else {
                    state.idle_at = None;
                }
                return run.into_result();
            };
            if !is_idle {
                run.cause = Cause::Due(self.excess_over_goal(&run, goal));
            }
            if self.must_stop(run.cause) {
                return run.into_result();
            }
            self.empty_segment(state, &mut run, victim)?;
            self.release_if_full(state)?;
            if self.has_waiting_caller() {
                // The next run continues. On an idle store, no commit would call it.
                self.parts.shared.wake_up.call();
                return run.into_result();
            }
        }
    }

    /// Relocates versions out of segments that are kept for snapshots alone, and releases the
    /// segments.
    ///
    /// # Errors
    /// As [`Maintenance::empty_segment`].
    pub(super) fn relocate_snapshot_versions(&self, state: &mut MaintenanceState) -> Result<()> {
        let mut run = self.begin_run(Cause::Idle);
        let before =
            self.parts.shared.usage.all_segments().last().map_or(0, |segment| segment.sequence);
        loop {
            let fits_len = self.space_for_moves();
            let goal = Goal { amplification_max: 1.0, dead_len_max: 0, before, fits_len };
            let mut victims = self.worthwhile_victims(state, &run, goal);
            victims.retain(|victim| {
                victim.segment.live_count == 0 && victim.needed_len() <= goal.fits_len
            });
            let best = victims.into_iter().max_by_key(|victim| self.gain_of_victim(victim));
            let Some(victim) = best.filter(|_| !self.must_stop(run.cause)) else { break };
            self.empty_segment(state, &mut run, victim)?;
            self.release_if_full(state)?;
        }
        self.make_checkpoint(state, Haste::Space)?;
        run.into_result()
    }

    /// Releases segments without live blocks, by a checkpoint.
    fn release_dead_segments(&self, state: &mut MaintenanceState, is_idle: bool) -> Result<()> {
        let totals = self.usage_totals();
        let share = totals.live_len as f64
            * (idle_amplification_max(self.parts.options.amplification_max) - 1.0);
        let dead_len_max = (share as u64).max(self.parts.space.segment_capacity() / 2);
        let dead_len_max = if is_idle { 0 } else { dead_len_max };
        if totals.dead_len <= dead_len_max {
            return Ok(());
        }
        // Segments that snapshots see outlast every checkpoint until one of the snapshots ends.
        let pins = self.parts.shared.mvcc.index.pins().held_lsns();
        let seen = state.pinned_dead.as_ref().filter(|seen| seen.pins == pins);
        let stays_len = seen.map_or(0, |seen| seen.len);
        if totals.dead_len.saturating_sub(stays_len) > dead_len_max {
            self.make_checkpoint(state, Haste::Space)?;
            state.pinned_dead = Some(PinnedDead { len: self.usage_totals().dead_len, pins });
        }
        Ok(())
    }

    /// Whether a run for this cause must end.
    pub(super) fn must_stop(&self, cause: Cause) -> bool {
        self.parts.shared.wake_up.is_stopped()
            || (cause != Cause::Requested && self.pauses.is_paused())
    }

    /// Releases a compacted segment at once if the next one needs the reserve.
    pub(super) fn release_if_full(&self, state: &mut MaintenanceState) -> Result<()> {
        if self.parts.space.is_disk_or_quota_full() {
            self.make_checkpoint(state, Haste::Space)?;
            self.parts.space.reserve.refill_best_effort();
        }
        Ok(())
    }

    /// The dead bytes of the log beyond a goal.
    fn excess_over_goal(&self, run: &Run, goal: Goal) -> Excess {
        let totals = self.log_totals(run);
        let allowed_len = totals.allowed_len(goal.amplification_max);
        Excess { len: totals.dead_len().saturating_sub(allowed_len), allowed_len }
    }

    /// Begins a run, with the versions that snapshots see now.
    pub(super) fn begin_run(&self, cause: Cause) -> Run {
        let (passed, first_error) = (BTreeSet::new(), None);
        Run { cause, passed, kept: self.pinned_by_segment(), first_error }
    }

    /// Log bytes of users' commits since open.
    pub(super) fn user_log_len(&self) -> u64 {
        self.parts.shared.user_len.load(Ordering::Relaxed)
    }

    pub(crate) fn written_len(&self) -> u64 {
        self.parts.shared.written_len.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests;
