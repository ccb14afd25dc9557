//! MoveSchedule: how compaction beside commits is throttled.
//!
//! Owns three rules:
//!
//! 1. **Schedule.** A compaction may take until commits have written the bytes that it frees, so
//!    that the log does not grow meanwhile. The excess over the goal must be gone within [`DRAIN`].
//!    A compaction ahead of both pauses after each [`STEP_LEN`].
//! 2. **Share.** A compaction that is late still moves at most [`SHARE`] of the bytes that commits
//!    write, plus [`RATE`] a second.
//! 3. **Pressure** begins if a segment was late by [`LATE_SHARE`] and the excess is above
//!    [`ON_SHARE`] of the allowed dead bytes. Then compaction does not pause, and the system reads
//!    ahead megabytes at once, which slows commits down. It ends with the excess below
//!    [`OFF_SHARE`].
//!
//! So commits are hardly slowed while there is time, and the log does not grow without bound.

use std::time::Duration;

use crate::local::format::checkpoint::SegmentUse;
use crate::local::maintenance::throttle::PAUSE;

/// The time in which the excess of the log is freed.
const DRAIN: Duration = Duration::from_secs(4);
/// Bytes of a segment between two pauses.
const STEP_LEN: u64 = 64 << 10;
/// Bytes moved for each byte that commits write meanwhile.
const SHARE: u64 = 1;
/// Bytes moved a second without any commit.
const RATE: u64 = 32 << 20;
/// A compaction on schedule may be this much behind at times.
const LATE_SHARE: f64 = 1.25;
const ON_SHARE: f64 = 1.0 / 3.0;
const OFF_SHARE: f64 = 1.0 / 6.0;

/// The dead bytes of the log beyond its goal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::local::maintenance) struct Excess {
    pub(super) len: u64,
    /// The dead bytes that the goal allows.
    pub(super) allowed_len: u64,
}

/// Whether compaction keeps up with commits.
#[derive(Debug, Default)]
pub(in crate::local::maintenance) struct Pressure {
    was_late: bool,
    is_on: bool,
}

impl Pressure {
    /// Decides whether the next segment is compacted without pauses.
    pub(super) fn decide_pressure(&mut self, excess: Excess) -> bool {
        let share = excess.len as f64 / excess.allowed_len.max(1) as f64;
        self.is_on = match self.is_on {
            true => share > OFF_SHARE,
            false => self.was_late && share > ON_SHARE,
        };
        self.is_on
    }

    /// Notes whether a compaction was late.
    pub(super) fn note_lateness(&mut self, schedule: &MoveSchedule) {
        self.was_late = schedule.is_late;
    }
}

/// The schedule for compacting one segment.
pub(super) struct MoveSchedule {
    started: Duration,
    written_before: u64,
    /// Log bytes of moves so far.
    moved_len: u64,
    /// Bytes of commits at the last pause.
    seen_len: u64,
    /// Where the next step begins.
    step_at: u64,
    /// Bytes freed for each byte read.
    yields: f64,
    /// Bytes a second by which the log must shrink.
    drain: f64,
    is_pressed: bool,
    is_late: bool,
}

impl MoveSchedule {
    /// Begins the compaction of a segment.
    pub(super) fn for_victim(
        now: Duration,
        written_len: u64,
        victim: &SegmentUse,
        excess: Excess,
        is_pressed: bool,
    ) -> MoveSchedule {
        let dead_len = victim.used_len - victim.live_log_len();
        MoveSchedule {
            started: now,
            written_before: written_len,
            moved_len: 0,
            seen_len: 0,
            step_at: STEP_LEN,
            yields: dead_len as f64 / victim.used_len.max(1) as f64,
            drain: excess.len as f64 / DRAIN.as_secs_f64(),
            is_pressed,
            is_late: false,
        }
    }

    /// Whether it runs without pauses.
    pub(super) fn is_pressed(&self) -> bool {
        self.is_pressed
    }

    /// Adds log bytes of moves.
    pub(super) fn count_moved(&mut self, len: u64) {
        self.moved_len += len;
    }

    /// The length of the pause behind this offset of the segment.
    pub(super) fn pause_after(&mut self, now: Duration, written_len: u64, offset: u64) -> Duration {
        if offset < self.step_at {
            return Duration::ZERO;
        }
        self.step_at = offset + STEP_LEN;
        debug_assert!(self.written_before <= written_len, "the written length only grows");
        // The written bytes include the moves.
        let commits_len = (written_len - self.written_before).saturating_sub(self.moved_len);
        let elapsed = now.saturating_sub(self.started);
        let due_len = commits_len as f64 + self.drain * elapsed.as_secs_f64();
        let given_len = offset as f64 * self.yields;
        self.is_late = given_len * LATE_SHARE < due_len;
        let others_write = commits_len > std::mem::replace(&mut self.seen_len, commits_len);
        let has_time = others_write && given_len > due_len && !self.is_pressed;
        let beyond_share = self.moved_len.saturating_sub(commits_len * SHARE);
        let share = Duration::from_secs_f64(beyond_share as f64 / RATE as f64);
        share.saturating_sub(elapsed).max(if has_time { PAUSE } else { Duration::ZERO })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const LEN: u64 = 64 << 20;

    fn schedule(live_len: u64, excess_len: u64, is_pressed: bool) -> MoveSchedule {
        let (sequence, number, used_len, live_count) = (1, 1, LEN, 0);
        let victim = SegmentUse { sequence, number, used_len, live_len, live_count };
        let excess = Excess { len: excess_len, allowed_len: LEN };
        MoveSchedule::for_victim(SECOND, 100, &victim, excess, is_pressed)
    }

    #[test]
    fn moves_may_take_a_byte_a_byte_and_a_little_a_second() {
        let rest = |now, commits_len| {
            let mut schedule = schedule(LEN, 0, false);
            schedule.count_moved(RATE * 2);
            schedule.pause_after(now, 100 + RATE * 2 + commits_len, STEP_LEN)
        };
        assert_eq!(rest(SECOND, 0), SECOND * 2);
        assert_eq!(rest(SECOND * 2, 0), SECOND);
        assert_eq!(rest(SECOND * 2, RATE), Duration::ZERO);
    }

    #[test]
    fn compaction_ahead_of_commits_pauses_after_each_step() {
        let mut schedule = schedule(LEN / 2, 0, false);
        assert_eq!(
            schedule.pause_after(SECOND, 101, STEP_LEN - 1),
            Duration::ZERO,
            "within a step"
        );
        assert_eq!(schedule.pause_after(SECOND, 101, STEP_LEN), PAUSE);
        assert_eq!(
            schedule.pause_after(SECOND, 101, 2 * STEP_LEN),
            Duration::ZERO,
            "no caller writes"
        );
        let behind = 100 + 2 * STEP_LEN;
        assert_eq!(schedule.pause_after(SECOND, behind, 3 * STEP_LEN), Duration::ZERO);
    }

    #[test]
    fn what_the_log_has_beyond_its_goal_is_given_back_in_time() {
        let excess_len = 10 * STEP_LEN * DRAIN.as_secs();
        let mut schedule = schedule(0, excess_len, false);
        assert_eq!(
            schedule.pause_after(SECOND * 2, 101, STEP_LEN),
            Duration::ZERO,
            "a tenth of what is due"
        );
        assert_eq!(schedule.pause_after(SECOND * 2, 102, 20 * STEP_LEN), PAUSE);
    }

    #[test]
    fn pressure_begins_with_a_late_segment_of_a_long_log_and_ends_with_the_log_at_its_goal() {
        let excess = |share: f64| Excess { len: (LEN as f64 * share) as u64, allowed_len: LEN };
        let mut pressure = Pressure::default();
        assert!(!pressure.decide_pressure(excess(9.0)), "nothing was late");
        let mut late = schedule(LEN / 2, 0, false);
        late.pause_after(SECOND, 100 + LEN, STEP_LEN);
        pressure.note_lateness(&late);
        assert!(!pressure.decide_pressure(excess(0.3)), "there is time");
        assert!(pressure.decide_pressure(excess(0.4)));
        assert!(pressure.decide_pressure(excess(0.2)));
        assert!(!pressure.decide_pressure(excess(0.1)));
        let mut pressed = schedule(LEN / 2, 0, true);
        assert_eq!(
            pressed.pause_after(SECOND, 101, STEP_LEN),
            Duration::ZERO,
            "no rests under pressure"
        );
    }
}
