//! Compaction: empties segments that are mostly dead, so that they can go.
//!
//! Owns the runs of compaction and the way of a *victim*'s blocks: each one that is still in force is read,
//! verified, and written again through the log as a move, which takes effect only if the block is
//! still what it was. So compaction competes with nobody for anything but bandwidth, and crash
//! recovery knows nothing of it. The emptied segment goes with the next checkpoint (`upkeep`).
//!
//! The victim ([`choice`]) is the segment with the greatest benefit for its cost, `(1 - u) * age / (1 + u)`,
//! where `u` is the share of it that is needed and its age the number of segments begun since (Rosenblum
//! and Ousterhout, *The design and implementation of a log-structured file system*, 1992).
//!
//! Segments are emptied while the log takes more than `amplification_max` times the bytes that are needed,
//! and down to [`idle_max`] of it while nobody writes; beside commits at a [`schedule`]. After the last commit of
//! a user no more bytes are moved than twice those that are needed, whatever the options.

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

/// Dead bytes that are not worth a segment's emptying.
const DEAD_LEN_MIN: u64 = 256 << 10;

/// What emptying a segment takes besides the moves: a checkpoint, its confirmation, and a page or two that
/// are not filled.
const MAKE_ROOM_LEN: u64 = 8 * PAGE;

/// What the log holds.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Totals {
    /// Bytes of all segments with frames.
    pub(crate) used_len: u64,
    /// Bytes of those that are in force: payloads, with their share of headers.
    pub(crate) live_len: u64,
    /// Bytes of sealed segments with nothing in force.
    pub(crate) dead_len: u64,
}

/// What a segment is emptied for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// Somebody called for it, and goes on though compaction is paused.
    Told,
    /// Too much is dead, while others write.
    Due(Excess),
    /// Too much is dead, while nobody writes.
    Idle,
    /// There is no space.
    Need,
}

/// One run of emptying segments.
#[derive(Debug)]
pub(super) struct Run {
    cause: Cause,
    /// Segments that were gone through, and hold something that could not be moved.
    passed: BTreeSet<u64>,
    /// Old versions that snapshots see, in segments that were not gone through.
    kept: PinnedBySegment,
    /// The first error that is of one place, and stands in the way of nothing else.
    first_error: Option<Error>,
}

impl Run {
    /// A segment, with what of it snapshots see.
    fn victim(&self, segment: SegmentUse) -> Victim {
        Victim { segment, kept: self.kept.get(&segment.sequence).copied().unwrap_or_default() }
    }

    /// Whether somebody called for it.
    fn is_told(&self) -> bool {
        self.cause == Cause::Told
    }

    /// What there is to say in the end.
    fn end(self) -> Result<()> {
        self.first_error.map_or(Ok(()), Err)
    }
}

/// Segments with nothing in force that went with no checkpoint.
#[derive(Debug)]
pub(super) struct PinnedDead {
    len: u64,
    /// The snapshots that there were, some of which see versions in them.
    pins: Vec<Lsn>,
}

/// The amplification that compaction works down to while nobody writes.
fn idle_max(amplification_max: f64) -> f64 {
    1.0 + (amplification_max - 1.0) / 6.0
}

impl<D: Disk> Maintenance<D> {
    /// What the log holds now.
    pub(crate) fn totals(&self) -> Totals {
        let segments = self.shared.usage.all_segments();
        let active = segments.last().map_or(0, |segment| segment.sequence);
        let mut totals = Totals::default();
        for segment in &segments {
            totals.used_len += segment.used_len;
            totals.live_len += segment.in_force();
            if segment.live_count == 0 && segment.sequence != active {
                totals.dead_len += segment.used_len;
            }
        }
        totals
    }

    /// Empties segments while there is too much that is dead.
    pub(super) fn compact_due(&self, state: &mut MaintenanceState, is_idle: bool) -> Result<()> {
        if state.hold_count > 0 {
            // What is emptied could not go.
            return Ok(());
        }
        if is_idle && state.idle_at.is_some_and(|at| self.user_len() - at < DEAD_LEN_MIN) {
            // Blocks that do not fill pages and segments keep the log above the goal for ever.
            return Ok(());
        }
        if !is_idle && self.shared.usage.segment_count() < 2 {
            // This is asked with every commit that calls, and the segment in use is neither emptied nor let go.
            state.idle_at = None;
            return Ok(());
        }
        let max = self.options.amplification_max;
        let mut run = self.run(Cause::Idle);
        let mut goal = Goal {
            amplification_max: if is_idle { idle_max(max) } else { max },
            dead_len_max: DEAD_LEN_MIN,
            before: u64::MAX,
            fits_len: u64::MAX,
        };
        if is_idle && !self.must_stop(run.cause) && self.standing(&run).is_beyond(&goal) {
            self.seal_dead_tail(&run, DEAD_LEN_MIN)?;
        }
        // What is written from here on is as dense as it gets.
        goal.before = self.shared.usage.all_segments().last().map_or(0, |segment| segment.sequence);
        loop {
            self.drop_dead(state, false)?;
            let victim = self.victim(state, &run, goal).and_then(|_| {
                // Only where there is one at all.
                self.victim(state, &run, Goal { fits_len: self.fits_len(), ..goal })
            });
            let Some(victim) = victim else {
                if is_idle {
                    state.idle_at = Some(self.user_len());
                    self.drop_dead(state, true)?;
                } else {
                    state.idle_at = None;
                }
                return run.end();
            };
            if !is_idle {
                run.cause = Cause::Due(self.excess(&run, goal));
            }
            if self.must_stop(run.cause) {
                return run.end();
            }
            self.empty(state, &mut run, victim)?;
            self.let_go_if_full(state)?;
            if self.is_awaited() {
                // The next look goes on with it; nobody else may call for one while nobody writes.
                self.shared.wake_up.call();
                return run.end();
            }
        }
    }

    /// Empties segments that stay for the sake of snapshots alone, and lets them go.
    ///
    /// # Errors
    /// As [`Maintenance::empty`].
    pub(super) fn empty_for_snapshots(&self, state: &mut MaintenanceState) -> Result<()> {
        let mut run = self.run(Cause::Idle);
        let before = self.shared.usage.all_segments().last().map_or(0, |segment| segment.sequence);
        loop {
            let fits_len = self.fits_len();
            let goal = Goal { amplification_max: 1.0, dead_len_max: 0, before, fits_len };
            let mut victims = self.victims(state, &run, goal);
            victims.retain(|victim| {
                victim.segment.live_count == 0 && victim.needed_len() <= goal.fits_len
            });
            let best = victims.into_iter().max_by_key(|victim| self.gain_of(victim));
            let Some(victim) = best.filter(|_| !self.must_stop(run.cause)) else { break };
            self.empty(state, &mut run, victim)?;
            self.let_go_if_full(state)?;
        }
        self.checkpoint_with(state, Haste::Room)?;
        run.end()
    }

    /// Lets segments go that are dead as a whole: that needs no moves, only a checkpoint.
    fn drop_dead(&self, state: &mut MaintenanceState, is_idle: bool) -> Result<()> {
        let totals = self.totals();
        let share = totals.live_len as f64 * (idle_max(self.options.amplification_max) - 1.0);
        let dead_len_max = (share as u64).max(self.space.segment_capacity() / 2);
        let dead_len_max = if is_idle { 0 } else { dead_len_max };
        if totals.dead_len <= dead_len_max {
            return Ok(());
        }
        // What snapshots see stays, however often a checkpoint is made, until one of them goes.
        let pins = self.shared.mvcc.index.pins().held_lsns();
        let seen = state.pinned_dead.as_ref().filter(|seen| seen.pins == pins);
        let stays_len = seen.map_or(0, |seen| seen.len);
        if totals.dead_len.saturating_sub(stays_len) > dead_len_max {
            self.checkpoint_with(state, Haste::Room)?;
            state.pinned_dead = Some(PinnedDead { len: self.totals().dead_len, pins });
        }
        Ok(())
    }

    /// Whether what moves blocks for that cause has to end.
    pub(super) fn must_stop(&self, cause: Cause) -> bool {
        self.shared.wake_up.is_stopped() || (cause != Cause::Told && self.pauses.is_on())
    }

    /// Gives a segment that was emptied back at once where the next one is emptied out of the reserve.
    pub(super) fn let_go_if_full(&self, state: &mut MaintenanceState) -> Result<()> {
        if self.space.is_disk_or_quota_full() {
            self.checkpoint_with(state, Haste::Room)?;
            self.space.reserve.refill_best_effort();
        }
        Ok(())
    }

    /// What the log has beyond a goal.
    fn excess(&self, run: &Run, goal: Goal) -> Excess {
        let standing = self.standing(run);
        let allowed_len = standing.allowed_len(goal.amplification_max);
        Excess { len: standing.dead_len().saturating_sub(allowed_len), allowed_len }
    }

    /// A run, with what snapshots see now.
    pub(super) fn run(&self, cause: Cause) -> Run {
        let (passed, first_error) = (BTreeSet::new(), None);
        Run { cause, passed, kept: self.kept_by_segment(), first_error }
    }

    /// Log bytes of users' commits since open.
    pub(super) fn user_len(&self) -> u64 {
        self.shared.user_len.load(Ordering::Relaxed)
    }

    pub(crate) fn written_len(&self) -> u64 {
        self.shared.written_len.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests;
