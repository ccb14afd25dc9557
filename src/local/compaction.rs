//! Compaction: empties segments that are mostly dead, so that they can go.
//!
//! Owns the choice of the *victim* and the way of its blocks: each one that is still in force is read,
//! verified, and written again through the log as a move, which takes effect only if the block is
//! still what it was. So compaction competes with nobody for anything but bandwidth, and crash
//! recovery knows nothing of it. The emptied segment goes with the next checkpoint (`upkeep`).
//!
//! The victim is the segment with the greatest benefit for its cost, `(1 - u) * age / (1 + u)`, where
//! `u` is the share of it that is in force and its age the number of segments begun since (Rosenblum
//! and Ousterhout, *The design and implementation of a log-structured file system*, 1992).
//!
//! Segments are emptied while the log takes more than `amplification_max` times the bytes in force,
//! and down to [`idle_max`] of it while nobody writes; beside commits at a [`pace`].

mod moves;
mod pace;

use std::collections::BTreeSet;

use pace::Excess;
pub(super) use pace::Pressure;

use crate::block::Lsn;
use crate::error::{Error, Result};
use crate::io::Disk;
use crate::local::format::PAGE;
use crate::local::format::frame::{ENTRY_LEN, HEADER_LEN};
use crate::local::upkeep::{Haste, State, Upkeep};
use crate::local::usage::SegmentUse;
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
    /// The first error that is of one place, and stands in the way of nothing else.
    first_error: Option<Error>,
}

impl Run {
    pub(super) fn of(cause: Cause) -> Run {
        Run { cause, passed: BTreeSet::new(), first_error: None }
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

/// How far to go.
#[derive(Debug, Clone, Copy)]
struct Goal {
    /// Bytes of the log for each one in force.
    amplification_max: f64,
    /// Dead bytes that are left alone.
    dead_len_max: u64,
    /// Segments from this one on are left alone.
    before: u64,
    /// And those with more than this in force: the rest of the reserve is the deletes'.
    fits_len: u64,
}

impl SegmentUse {
    /// Bytes that are in force, the rows of their tables and headers of lone commits included.
    pub(crate) fn in_force(&self) -> u64 {
        (self.live_len + self.live_count * (HEADER_LEN + ENTRY_LEN) as u64).min(self.used_len)
    }

    fn benefit(&self, newest: u64) -> f64 {
        let in_force = self.in_force() as f64 / self.used_len.max(1) as f64;
        (1.0 - in_force) * (newest - self.sequence) as f64 / (1.0 + in_force)
    }
}

/// The amplification that compaction works down to while nobody writes.
fn idle_max(amplification_max: f64) -> f64 {
    1.0 + (amplification_max - 1.0) / 6.0
}

impl<D: Disk> Upkeep<D> {
    /// What the log holds now.
    pub(crate) fn totals(&self) -> Totals {
        let segments = self.shared.usage.all();
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

    /// Empties segments until what is in force takes all but a little of the log, and lets them go.
    pub(crate) fn compact_now(&self) -> Result<()> {
        let mut state = self.take_turn()?;
        self.checkpoint_with(&mut state, Haste::Room)?;
        // Who calls for it has what could not be read tried again.
        state.stuck.clear();
        let mut run = Run::of(Cause::Told);
        // What is written from here on is as dense as it gets.
        let active = self.shared.usage.all().last().map_or(0, |segment| segment.sequence);
        let most =
            Goal { amplification_max: 1.0, dead_len_max: 0, before: active, fits_len: u64::MAX };
        loop {
            let goal = Goal { fits_len: self.fits_len(), ..most };
            let Some(victim) = self.victim(&state, &run, goal) else { break };
            if self.shared.upkeep.is_stopped() {
                return Err(Error::Closed);
            }
            self.empty(&mut state, &mut run, victim)?;
            self.let_go_if_full(&mut state)?;
        }
        self.checkpoint_with(&mut state, Haste::Room)?;
        self.shrink(false)?;
        run.end()
    }

    /// Empties segments while there is too much that is dead.
    pub(super) fn compact_due(&self, state: &mut State, is_idle: bool) -> Result<()> {
        if state.hold_count > 0 {
            // What is emptied could not go.
            return Ok(());
        }
        if is_idle && state.idle_at.is_some_and(|at| self.written_len() - at < DEAD_LEN_MIN) {
            // Blocks that do not fill pages and segments keep the log above the goal for ever.
            return Ok(());
        }
        let max = self.options.amplification_max;
        // What is written from here on is as dense as it gets.
        let active = self.shared.usage.all().last().map_or(0, |segment| segment.sequence);
        let goal = Goal {
            amplification_max: if is_idle { idle_max(max) } else { max },
            dead_len_max: DEAD_LEN_MIN,
            before: active,
            fits_len: u64::MAX,
        };
        let mut run = Run::of(Cause::Idle);
        loop {
            self.drop_dead(state, is_idle)?;
            let victim = self.victim(state, &run, goal).and_then(|_| {
                // Only where there is one at all.
                self.victim(state, &run, Goal { fits_len: self.fits_len(), ..goal })
            });
            let Some(victim) = victim else {
                state.idle_at = is_idle.then(|| self.written_len());
                return run.end();
            };
            if !is_idle {
                run.cause = Cause::Due(self.excess(goal));
            }
            if self.must_stop(run.cause) {
                return run.end();
            }
            self.empty(state, &mut run, victim)?;
            self.let_go_if_full(state)?;
            if self.is_awaited() {
                // The next look goes on with it; nobody else may call for one while nobody writes.
                self.shared.upkeep.call();
                return run.end();
            }
        }
    }

    /// Lets segments go that are dead as a whole: that needs no moves, only a checkpoint.
    fn drop_dead(&self, state: &mut State, is_idle: bool) -> Result<()> {
        let totals = self.totals();
        let share = totals.live_len as f64 * (idle_max(self.options.amplification_max) - 1.0);
        let dead_len_max = (share as u64).max(self.space.segment_room() / 2);
        let dead_len_max = if is_idle { 0 } else { dead_len_max };
        if totals.dead_len <= dead_len_max {
            return Ok(());
        }
        // What snapshots see stays, however often a checkpoint is made, until one of them goes.
        let pins = self.shared.mvcc.index.pins().held();
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
        self.shared.upkeep.is_stopped() || (cause != Cause::Told && self.pauses.is_on())
    }

    /// Gives a segment that was emptied back at once where the next one is emptied out of the reserve.
    fn let_go_if_full(&self, state: &mut State) -> Result<()> {
        if self.space.is_full() {
            self.checkpoint_with(state, Haste::Room)?;
            drop(self.space.reserve.refill());
        }
        Ok(())
    }

    /// What the log has beyond a goal.
    fn excess(&self, goal: Goal) -> Excess {
        let totals = self.totals();
        let allowed_len = (totals.live_len as f64 * (goal.amplification_max - 1.0)) as u64;
        let dead_len = totals.used_len - totals.dead_len - totals.live_len;
        Excess { len: dead_len.saturating_sub(allowed_len), allowed_len }
    }

    /// The segment to empty next, if there is too much that is dead.
    fn victim(&self, state: &State, run: &Run, goal: Goal) -> Option<SegmentUse> {
        let totals = self.totals();
        let held = totals.used_len - totals.dead_len;
        let dead_len = held - totals.live_len;
        if held as f64 <= totals.live_len as f64 * goal.amplification_max
            || dead_len <= goal.dead_len_max
        {
            return None;
        }
        let segments = self.shared.usage.all();
        let newest = segments.last()?.sequence;
        let victims = segments.iter().filter(|segment| {
            segment.live_count > 0
                && segment.sequence < newest.min(goal.before)
                && !state.stuck.contains(&segment.sequence)
                && !run.passed.contains(&segment.sequence)
                && segment.in_force() <= goal.fits_len
                && segment.used_len - segment.in_force() > segment.used_len / 50
        });
        victims.copied().max_by(|a, b| a.benefit(newest).total_cmp(&b.benefit(newest)))
    }

    /// A segment to empty for want of space: it gives back at least as much as its moves take.
    pub(super) fn victim_of_need(
        &self,
        state: &State,
        run: &Run,
        before: u64,
    ) -> Option<SegmentUse> {
        let fits_len = self.fits_len();
        let goal = Goal { amplification_max: 1.0, dead_len_max: 0, before, fits_len };
        // Each batch of moves takes a page, and may leave the end of a segment unused.
        let is_worth_it = |victim: &SegmentUse| {
            victim.used_len - victim.in_force() >= (victim.used_len / 8).max(MAKE_ROOM_LEN)
        };
        self.victim(state, run, goal).filter(is_worth_it)
    }

    /// What moves may take: what is free, and half of the reserve.
    fn fits_len(&self) -> u64 {
        let reserve = &self.space.reserve;
        match self.disk.free_space() {
            Ok(free_len) => free_len.saturating_add(reserve.len() / 2),
            Err(_) if reserve.is_short() => reserve.len() / 2,
            Err(_) => u64::MAX,
        }
    }

    /// What stands in the way of moving more: what is emptied goes with a checkpoint only, which needs space.
    fn check_room(&self) -> Result<()> {
        let reserve = &self.space.reserve;
        match reserve.is_short() && reserve.len() < MAKE_ROOM_LEN {
            true => Err(self.space.full(reserve.missing_len())),
            false => Ok(()),
        }
    }

    pub(super) fn written_len(&self) -> u64 {
        self.shared.written_len.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests;
