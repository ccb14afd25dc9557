//! The choice of the segment to compact next.
//!
//! Owns [`Victim`], a segment and its needed bytes, and [`Goal`], the end of a run. Rules:
//!
//! 1. **Gain.** A segment is compacted only if its bytes outweigh its moves. These count with
//!    unfilled pages and the header of the segment that takes them. So each compaction shortens the
//!    log, even if segments are too short for the goal.
//! 2. **Once.** Moves land behind the last commit of a user. Only a requested run compacts a
//!    segment there, since it holds moves and marks alone. So without new commits, each live byte
//!    is moved at most twice: from an earlier segment to the end of the last one that users wrote
//!    to, and out of that.
//! 3. **Old versions** that snapshots see are moved like live blocks, so that a few of them do not
//!    keep a whole segment.

use std::collections::BTreeMap;

use super::{RECLAIM_LEN_MIN, Run};
use crate::error::{Error, Result};
use crate::io::Disk;
use crate::local::format::checkpoint::SegmentUse;
use crate::local::format::frame::{ENTRY_LEN, HEADER_LEN};
use crate::local::format::{PAGE, page_up};
use crate::local::maintenance::{Maintenance, MaintenanceState};
use crate::sync::Ordering;

/// Log bytes of a block beside its payload: its row, and the header of a lone commit.
const BLOCK_LEN: u64 = (HEADER_LEN + ENTRY_LEN) as u64;
/// A gain of less than this share of a segment is not worth its moves.
const GAIN_SHARE: u64 = 50;
/// Nor is a gain of less than this. Moves may take more than [`Packing::packed_log_len`] if the end
/// of a segment splits a batch: a frame and a page of its own. This gain exceeds that by a page.
const GAIN_LEN_MIN: u64 = 3 * PAGE;
/// On a full disk, a compaction must gain this share of a segment.
const NEED_SHARE: u64 = 8;

/// Old versions in a segment that snapshots see.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::local::maintenance) struct PinnedVersions {
    /// Payload bytes.
    pub(in crate::local::maintenance) len: u64,
    pub(in crate::local::maintenance) count: u64,
}

/// Old versions that snapshots see, by segment.
pub(in crate::local::maintenance) type PinnedBySegment = BTreeMap<u64, PinnedVersions>;

/// A segment, and the versions that must be written again before its release.
#[derive(Debug, Clone, Copy)]
pub(in crate::local::maintenance) struct Victim {
    pub(in crate::local::maintenance) segment: SegmentUse,
    pub(in crate::local::maintenance) kept: PinnedVersions,
}

/// The end of a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Goal {
    /// Log bytes for each needed byte.
    pub(super) amplification_max: f64,
    /// Dead bytes that are tolerated.
    pub(super) dead_len_max: u64,
    /// Segments from this one on are not compacted.
    pub(super) before: u64,
    /// Segments with more needed bytes are not compacted: the rest of the reserve is for deletes.
    pub(super) fits_len: u64,
}

/// The totals of the log that a run compares with its goal.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LogTotals {
    /// Bytes of segments that the next checkpoint does not release anyway.
    held_len: u64,
    /// Bytes in them that are live, or kept for snapshots.
    needed_len: u64,
}

impl LogTotals {
    pub(super) fn dead_len(&self) -> u64 {
        debug_assert!(self.needed_len <= self.held_len, "needed bytes lie in held segments");
        self.held_len - self.needed_len
    }

    pub(super) fn allowed_len(&self, amplification_max: f64) -> u64 {
        (self.needed_len as f64 * (amplification_max - 1.0)) as u64
    }

    pub(super) fn is_beyond_goal(&self, goal: &Goal) -> bool {
        self.dead_len() > self.allowed_len(goal.amplification_max)
            && self.dead_len() > goal.dead_len_max
    }
}

impl SegmentUse {
    /// Log bytes of its live blocks, with their rows and the headers of lone commits.
    pub(crate) fn live_log_len(&self) -> u64 {
        (self.live_len + self.live_count * BLOCK_LEN).min(self.used_len)
    }
}

impl Victim {
    /// Bytes to be written again.
    pub(in crate::local::maintenance) fn needed_len(&self) -> u64 {
        let kept_len = self.kept.len + self.kept.count * BLOCK_LEN;
        (self.segment.live_log_len() + kept_len).min(self.segment.used_len)
    }

    /// Bytes by which its compaction shortens the log.
    pub(super) fn log_len_gained(&self, packing: Packing) -> u64 {
        let count = self.segment.live_count + self.kept.count;
        let payload_len = self.segment.live_len + self.kept.len;
        self.segment.used_len.saturating_sub(packing.packed_log_len(count, payload_len))
    }

    /// The benefit for the cost of its compaction, greater for older segments. `newest` is the
    /// sequence of the active segment.
    pub(super) fn benefit_for_cost(&self, newest: u64) -> f64 {
        debug_assert!(self.segment.sequence <= newest, "a victim is older than the active segment");
        let needed = self.needed_len() as f64 / self.segment.used_len.max(1) as f64;
        (1.0 - needed) * (newest - self.segment.sequence) as f64 / (1.0 + needed)
    }
}

/// The density at which moves are written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packing {
    /// The length of a commit of moves.
    pub(super) batch_len: u64,
    /// Bytes that fit into a segment.
    pub(super) room_len: u64,
}

impl Packing {
    /// Bytes of log that so many blocks of about the same length take when they are moved: with the
    /// ends of pages and segments that they leave unused, and the headers of their segments.
    fn packed_log_len(self, count: u64, payload_len: u64) -> u64 {
        const HEADER: u64 = HEADER_LEN as u64;
        if count == 0 {
            return 0;
        }
        let move_len = 2 * ENTRY_LEN as u64 + payload_len.div_ceil(count);
        let fitting = |len: u64| len.saturating_sub(HEADER) / move_len;
        let in_batch = fitting(self.batch_len).max(1);
        let batch_len = page_up(HEADER + in_batch * move_len);
        let batch_count = self.room_len / batch_len;
        if batch_count == 0 {
            // Longer than a segment: each has one of its own length.
            return count * (PAGE + batch_len);
        }
        // Moves are split at the end of a segment.
        let in_rest = fitting(self.room_len - batch_count * batch_len);
        let rest_len = if in_rest > 0 { page_up(HEADER + in_rest * move_len) } else { 0 };
        let in_segment = batch_count * in_batch + in_rest;
        let segment_len = PAGE + batch_count * batch_len + rest_len;
        let (full, left) = (count / in_segment, count % in_segment);
        let (batches, few) = (left / in_batch, left % in_batch);
        let few_len = if few > 0 { page_up(HEADER + few * move_len) } else { 0 };
        full * segment_len + batches * batch_len + few_len + PAGE * left / in_segment
    }
}

impl<D: Disk> Maintenance<D> {
    /// Collects the old versions that snapshots see now.
    pub(in crate::local::maintenance) fn pinned_by_segment(&self) -> PinnedBySegment {
        let (index, mut kept) = (&self.parts.shared.mvcc.index, PinnedBySegment::new());
        if index.undo_count() > 0 {
            index.for_each_undo(|version| {
                let segment = kept.entry(u64::from(version.segment)).or_default();
                segment.len += u64::from(version.len);
                segment.count += 1;
            });
        }
        kept
    }

    /// Sums the log bytes as this run counts them.
    pub(super) fn log_totals(&self, run: &Run) -> LogTotals {
        let segments = self.parts.shared.usage.all_segments();
        let active = segments.last().map_or(0, |segment| segment.sequence);
        let mut totals = LogTotals::default();
        for segment in segments {
            let victim = run.victim_of(segment);
            let goes = segment.live_count == 0 && victim.kept.count == 0;
            if !goes || segment.sequence == active {
                totals.held_len += segment.used_len;
                totals.needed_len += victim.needed_len();
            }
        }
        totals
    }

    /// The segment to compact next, if the log is beyond the goal.
    pub(super) fn best_victim(
        &self,
        state: &MaintenanceState,
        run: &Run,
        goal: Goal,
    ) -> Option<Victim> {
        if !self.log_totals(run).is_beyond_goal(&goal) {
            return None;
        }
        let newest = self.parts.shared.usage.all_segments().last()?.sequence;
        let victims = self.worthwhile_victims(state, run, goal).into_iter();
        let victims = victims.filter(|victim| victim.needed_len() <= goal.fits_len);
        victims.max_by(|a, b| a.benefit_for_cost(newest).total_cmp(&b.benefit_for_cost(newest)))
    }

    /// All segments whose compaction would shorten the log.
    pub(super) fn worthwhile_victims(
        &self,
        state: &MaintenanceState,
        run: &Run,
        goal: Goal,
    ) -> Vec<Victim> {
        let segments = self.parts.shared.usage.all_segments();
        let newest = segments.last().map_or(0, |segment| segment.sequence);
        let victims = segments.into_iter().map(|segment| run.victim_of(segment));
        let victims = victims.filter(|victim| {
            let SegmentUse { sequence, used_len, .. } = victim.segment;
            (victim.segment.live_count > 0 || victim.kept.count > 0)
                && sequence < newest.min(goal.before)
                && (run.is_requested() || sequence <= self.last_user_segment())
                && !state.stuck.contains(&sequence)
                && !run.passed.contains(&sequence)
                && self.gain_of_victim(victim) > (used_len / GAIN_SHARE).max(GAIN_LEN_MIN)
        });
        victims.collect()
    }

    /// The segment to compact on a full disk: its gain is worth its moves.
    pub(in crate::local::maintenance) fn victim_to_reclaim(
        &self,
        state: &MaintenanceState,
        run: &Run,
        before: u64,
    ) -> Option<Victim> {
        let fits_len = self.space_for_moves();
        let goal = Goal { amplification_max: 1.0, dead_len_max: 0, before, fits_len };
        // Each batch of moves takes a page, and may leave the end of a segment unused.
        let is_worth_it = |victim: &Victim| {
            let used_len = victim.segment.used_len;
            used_len - victim.needed_len() >= (used_len / NEED_SHARE).max(RECLAIM_LEN_MIN)
        };
        self.best_victim(state, run, goal).filter(is_worth_it)
    }

    /// Bytes by which the compaction of a segment shortens the log.
    pub(super) fn gain_of_victim(&self, victim: &Victim) -> u64 {
        let (batch_len, room_len) = (self.move_batch_len(), self.parts.space.segment_capacity());
        victim.log_len_gained(Packing { batch_len, room_len })
    }

    /// The last segment that users' commits reached.
    pub(super) fn last_user_segment(&self) -> u64 {
        self.parts.shared.user_sequence.load(Ordering::Relaxed)
    }

    /// Bytes that moves may take: the free space and half of the reserve.
    pub(super) fn space_for_moves(&self) -> u64 {
        let reserve = &self.parts.space.reserve;
        match self.parts.disk.free_space() {
            Ok(free_len) => free_len.saturating_add(reserve.len() / 2),
            Err(_) if reserve.is_short() => reserve.len() / 2,
            Err(_) => u64::MAX,
        }
    }

    /// Checks that the reserve can still hold the checkpoint that releases a compacted segment.
    pub(super) fn check_move_space(&self) -> Result<()> {
        let reserve = &self.parts.space.reserve;
        match reserve.is_short() && reserve.len() < RECLAIM_LEN_MIN {
            true => Err(self.parts.space.storage_full_error(reserve.missing_len())),
            false => Ok(()),
        }
    }

    /// Seals the active segment if it is mostly dead, so that it can be compacted. Not again before
    /// a user has written to the next one.
    ///
    /// # Errors
    /// As [`Log::roll_to_next_segment`](crate::local::commit::log::Log::roll_to_next_segment). On a
    /// full disk, nothing is sealed and there is no error.
    pub(super) fn seal_dead_tail(&self, run: &Run, gain_len_min: u64) -> Result<()> {
        let Some(active) = self.parts.shared.usage.all_segments().last().copied() else {
            return Ok(());
        };
        let gain_len = self.gain_of_victim(&run.victim_of(active));
        if active.sequence > self.last_user_segment()
            || gain_len < gain_len_min.max(active.used_len / NEED_SHARE)
        {
            return Ok(());
        }
        match self.parts.log.roll_to_next_segment() {
            Err(Error::StorageFull { .. }) => Ok(()),
            rolled => rolled,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: u64 = 1 << 20;

    fn victim(sequence: u64, live_len: u64, kept: PinnedVersions) -> Victim {
        let (number, used_len, live_count) = (sequence, LEN, 0);
        Victim { segment: SegmentUse { sequence, number, used_len, live_len, live_count }, kept }
    }

    #[test]
    fn older_and_emptier_segments_are_worth_more() {
        let benefit = |sequence, live_len| {
            victim(sequence, live_len, PinnedVersions::default()).benefit_for_cost(10)
        };
        assert!(benefit(1, 1000) > benefit(1, 100_000));
        assert!(benefit(1, 1000) > benefit(5, 1000));
        assert_eq!(benefit(1, LEN), 0.0);
    }

    #[test]
    fn gain_leaves_out_what_is_written_again_with_its_pages_and_headers() {
        let packing = Packing { batch_len: 12 << 10, room_len: 60 << 10 };
        let len_of = |count, len| packing.packed_log_len(count, count * len);
        assert_eq!(len_of(0, 0), 0);
        assert_eq!(len_of(1, 100), PAGE + PAGE / 370, "a batch of few blocks takes its pages");
        // Eleven in a batch, five batches in a segment.
        assert_eq!(len_of(55, 1_000), 64 << 10);
        assert_eq!(len_of(110, 1_000), 2 * (64 << 10));
        // Three of them, and an end that holds none.
        assert_eq!(len_of(3, 13_000), PAGE + 3 * 4 * PAGE);
        // Longer than a segment.
        assert_eq!(len_of(2, 100_000), 2 * (PAGE + page_up(64 + 64 + 100_000)));
        let segment = victim(1, 6 * 1_000, PinnedVersions { len: 5 * 1_000, count: 5 }).segment;
        let both = Victim {
            segment: SegmentUse { used_len: 64 << 10, live_count: 6, ..segment },
            kept: PinnedVersions { len: 5 * 1_000, count: 5 },
        };
        let gain_len = (64 << 10) - 3 * PAGE - PAGE / 5;
        assert_eq!(
            both.log_len_gained(packing),
            gain_len,
            "what snapshots see is written again, too"
        );
    }
}
