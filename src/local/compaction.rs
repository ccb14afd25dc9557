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

mod pace;

use bytes::Bytes;
pub(super) use pace::Pressure;
use pace::{Excess, Pace};

use crate::block::{Block, BlockId};
use crate::canary::{Bug, planted};
use crate::error::{Defect, Error, Result};
use crate::io::{Disk, FileName};
use crate::local::append::frame_len;
use crate::local::commit::Submission;
use crate::local::format::PAGE;
use crate::local::format::frame::{ENTRY_LEN, HEADER_LEN};
use crate::local::scan::{Found, Frame, Scanner};
use crate::local::segment::damaged;
use crate::local::upkeep::{Haste, State, Upkeep};
use crate::local::usage::SegmentUse;
use crate::mvcc::batch::{Batch, Operation};
use crate::mvcc::version::VersionLen;
use crate::sync::Ordering;
use crate::ticket::ticket;

/// Bytes moved by one commit, at most; and no more than this share of a segment, because a commit that
/// does not fit into the rest of a segment leaves it unused.
const BATCH_LEN_MAX: u64 = 512 << 10;
const BATCH_SHARE: u64 = 5;
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
        // What is written from here on is as dense as it gets.
        let active = self.shared.usage.all().last().map_or(0, |segment| segment.sequence);
        let most =
            Goal { amplification_max: 1.0, dead_len_max: 0, before: active, fits_len: u64::MAX };
        loop {
            let goal = Goal { fits_len: self.fits_len(), ..most };
            let Some(victim) = self.victim(&state, goal) else { break };
            if self.shared.upkeep.is_stopped() {
                return Err(Error::Closed);
            }
            self.empty(&mut state, victim, Cause::Told)?;
            self.let_go_if_full(&mut state)?;
        }
        self.checkpoint_with(&mut state, Haste::Room)?;
        self.shrink(false)
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
        loop {
            self.drop_dead(state, is_idle)?;
            let victim = self.victim(state, goal).and_then(|_| {
                // Only where there is one at all.
                self.victim(state, Goal { fits_len: self.fits_len(), ..goal })
            });
            let Some(victim) = victim else {
                state.idle_at = is_idle.then(|| self.written_len());
                return Ok(());
            };
            let cause = if is_idle { Cause::Idle } else { Cause::Due(self.excess(goal)) };
            if self.must_stop(cause) {
                return Ok(());
            }
            self.empty(state, victim, cause)?;
            self.let_go_if_full(state)?;
            if self.is_awaited() {
                // The next look goes on with it; nobody else may call for one while nobody writes.
                self.shared.upkeep.call();
                return Ok(());
            }
        }
    }

    /// Lets segments go that are dead as a whole: that needs no moves, only a checkpoint.
    fn drop_dead(&self, state: &mut State, is_idle: bool) -> Result<()> {
        let totals = self.totals();
        let share = totals.live_len as f64 * (idle_max(self.options.amplification_max) - 1.0);
        let dead_len_max = (share as u64).max(self.space.segment_room() / 2);
        if totals.dead_len > if is_idle { 0 } else { dead_len_max } {
            self.checkpoint_with(state, Haste::Room)?;
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
    fn victim(&self, state: &State, goal: Goal) -> Option<SegmentUse> {
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
                && segment.in_force() <= goal.fits_len
                && segment.used_len - segment.in_force() > segment.used_len / 50
        });
        victims.copied().max_by(|a, b| a.benefit(newest).total_cmp(&b.benefit(newest)))
    }

    /// A segment to empty for want of space: it gives back at least as much as its moves take.
    pub(super) fn victim_of_need(&self, state: &State, before: u64) -> Option<SegmentUse> {
        let fits_len = self.fits_len();
        let goal = Goal { amplification_max: 1.0, dead_len_max: 0, before, fits_len };
        // Each batch of moves takes a page, and may leave the end of a segment unused.
        let is_worth_it = |victim: &SegmentUse| {
            victim.used_len - victim.in_force() >= (victim.used_len / 8).max(MAKE_ROOM_LEN)
        };
        self.victim(state, goal).filter(is_worth_it)
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

    /// Moves what is in force in a segment.
    pub(super) fn empty(&self, state: &mut State, victim: SegmentUse, cause: Cause) -> Result<()> {
        let mut scanner = Scanner::open(&*self.disk, &self.store, victim.number)?;
        if scanner.sequence != victim.sequence {
            return Err(damaged(FileName::Segment(victim.number), 0, Defect::SegmentHeader));
        }
        let mut pace = self.pace(state, &victim, cause);
        if !pace.as_ref().is_some_and(Pace::is_pressed) {
            scanner.give_way()?;
        }
        let batch_len = BATCH_LEN_MAX.min(self.space.segment_room() / BATCH_SHARE);
        let (mut offset, mut moves, mut moves_len) = (PAGE, Vec::new(), 0);
        while let Found::Frame(frame) = scanner.frame_at(offset)? {
            offset = frame.header.next_offset(frame.offset);
            for (at, id) in written(&frame) {
                self.rest(&mut pace, at);
                let Some(operation) = self.move_of(&mut scanner, id, at)? else { continue };
                moves_len += operation.payload_len();
                moves.push((id, operation));
                if moves_len >= batch_len {
                    self.check_room()?;
                    let log_len = self.write_moves(std::mem::take(&mut moves))?;
                    pace.iter_mut().for_each(|pace| pace.moved(log_len));
                    moves_len = 0;
                }
            }
            if self.must_stop(cause) {
                return Ok(());
            }
        }
        pace.iter().for_each(|pace| state.pressure.note(pace));
        self.check_room()?;
        self.write_moves(moves)?;
        let rest = self.shared.usage.all().into_iter().find(|s| s.sequence == victim.sequence);
        if rest.is_some_and(|rest| rest.live_count > 0) {
            state.stuck.insert(victim.sequence);
        }
        Ok(())
    }

    /// The pace at which to empty a segment, where somebody is to be given way to.
    fn pace(&self, state: &mut State, victim: &SegmentUse, cause: Cause) -> Option<Pace> {
        let Cause::Due(excess) = cause else { return None };
        let is_pressed = state.pressure.look(excess);
        Some(Pace::start(self.disk.now(), self.written_len(), victim, excess, is_pressed))
    }

    /// Rests if it is time for that, after the segment was gone through up to there.
    fn rest(&self, pace: &mut Option<Pace>, offset: u64) {
        let Some(pace) = pace else { return };
        let rest = pace.rest(self.disk.now(), self.written_len(), offset);
        if !rest.is_zero() && !self.is_awaited() {
            self.shared.upkeep.rest(rest);
        }
    }

    /// The move of the block whose payload is at a place, if it is in force and intact.
    fn move_of(
        &self,
        scanner: &mut Scanner<D::File>,
        id: BlockId,
        offset: u64,
    ) -> Result<Option<Operation>> {
        let newest = self.shared.mvcc.index.read(id)?;
        let from = scanner.sequence << 32 | offset;
        let Some(version) = newest.filter(|version| version.value.place() == from) else {
            return Ok(None);
        };
        let payload = scanner.payload(offset, version.value.len)?;
        let block =
            Block { header: version.value.header(id), data: Bytes::copy_from_slice(payload) };
        if !block.verify_checksum() {
            // It stays where it is, for `verify` to name; its segment is not emptied.
            return Ok(None);
        }
        Ok(Some(Operation::Move { block, lsn: version.lsn, from }))
    }

    /// Writes moves, and says how many bytes of log they took.
    fn write_moves(&self, moves: Vec<(BlockId, Operation)>) -> Result<u64> {
        if moves.is_empty() {
            return Ok(0);
        }
        self.shared.poison.check()?;
        let log_len = frame_len(&moves);
        let payload_len: u64 = moves.iter().map(|(_, operation)| operation.payload_len()).sum();
        let (tag, waiter) = ticket(Some(self.driver.clone()));
        let batch = Batch::moves(moves);
        // Durable before readers are sent to the new place: should the sync fail, the old one is intact.
        self.driver.submit(Submission {
            batch,
            durable: !planted(Bug::MovesAreNotDurable),
            log_len,
            tag,
        });
        waiter.wait()?;
        self.moved_len.fetch_add(payload_len, Ordering::Relaxed);
        Ok(log_len)
    }

    pub(super) fn written_len(&self) -> u64 {
        self.shared.written_len.load(Ordering::Relaxed)
    }
}

/// Blocks that a frame writes: the offset of the payload, and the id.
fn written(frame: &Frame) -> Vec<(u64, BlockId)> {
    let placed = frame.placed().filter(|(_, entry)| entry.written().is_some());
    placed.map(|(offset, entry)| (offset, entry.id())).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::block::BlockType;
    use crate::io::sim::SimDisk;
    use crate::local::upkeep::Woken;
    use crate::{LocalBackend, StorageBackend};

    #[test]
    fn idle_store_comes_to_rest_though_its_blocks_never_fill_their_segments() {
        let options = LocalBackend::options().single_threaded(true).segment_len_max(64 << 10);
        let options = options.block_len_max(32 << 10);
        let store = LocalBackend::open_on(SimDisk::new(2), options).expect("opens");
        for id in 1..=300 {
            let block = Block::new(BlockId(id), BlockType::TableData, vec![id as u8; 10_000]);
            store.write_block(block).expect("writes");
        }
        let upkeep = &store.inner.upkeep;
        upkeep.run_due(true).expect("does what is due");
        let written_len = upkeep.written_len();
        for _ in 0..3 {
            upkeep.run_due(true).expect("does what is due");
        }
        assert_eq!(upkeep.written_len(), written_len, "blocks are moved for ever");
    }

    #[test]
    fn compaction_beside_the_closing_ends() {
        let options = LocalBackend::options().single_threaded(true).segment_len_max(64 << 10);
        let options = options.block_len_max(32 << 10);
        let store = LocalBackend::open_on(SimDisk::new(1), options).expect("opens");
        let put = |id, byte| {
            let block = Block::new(BlockId(id), BlockType::TableData, vec![byte; 10_000]);
            store.write_block(block).expect("writes");
        };
        // The first frame of the first segment is dead, others in it are not.
        (1..=20).for_each(|id| put(id, 1));
        put(1, 2);
        store.inner.shared.upkeep.stop();
        let ended = store.compact_now();
        assert!(matches!(ended, Err(Error::Closed)), "{ended:?}");
    }

    #[test]
    fn caller_who_wants_a_checkpoint_waits_for_one_segment_and_not_for_all() {
        let options = LocalBackend::options().single_threaded(true).segment_len_max(64 << 10);
        let options = options.block_len_max(32 << 10);
        let moved_len = |is_awaited| {
            let store = LocalBackend::open_on(SimDisk::new(1), options.clone()).expect("opens");
            let put = |id| {
                let block = Block::new(BlockId(id), BlockType::TableData, vec![1; 10_000]);
                store.write_block(block).expect("writes");
            };
            let upkeep = &store.inner.upkeep;
            upkeep.pauses.begin();
            (1..=300).for_each(put);
            (1..=300).filter(|id| id % 5 > 0).for_each(put);
            upkeep.pauses.end();
            upkeep.await_turns(is_awaited);
            let call = &store.inner.shared.upkeep;
            call.wait(Some(Duration::ZERO));
            upkeep.run_due(true).expect("does what is due");
            (upkeep.moved_len(), call.wait(Some(Duration::ZERO)))
        };
        let ((one, then), (all, _)) = (moved_len(1), moved_len(0));
        assert_eq!(then, Woken::Called, "what is left is looked at again");
        assert!((1..=30_000).contains(&one), "{one} bytes");
        assert!(all > 5 * one, "{all} bytes");
    }

    #[test]
    fn older_and_emptier_segments_are_worth_more() {
        let segment = |sequence, live_len| SegmentUse {
            sequence,
            number: sequence,
            used_len: 1 << 20,
            live_len,
            live_count: 0,
        };
        let benefit = |sequence, live_len| segment(sequence, live_len).benefit(10);
        assert!(benefit(1, 1000) > benefit(1, 100_000));
        assert!(benefit(1, 1000) > benefit(5, 1000));
        assert_eq!(benefit(1, 1 << 20), 0.0);
    }
}
