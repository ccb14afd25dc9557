//! Moves: what is in force in one segment, written again.
//!
//! Owns the way of a block: read and verified where it lies, put into the log as a move, in commits that are short
//! enough to keep nobody waiting. What cannot be read stays where it is, for `verify` to name.

use bytes::Bytes;

use super::choice::Victim;
use super::schedule::MoveSchedule;
use super::{Cause, Run};
use crate::block::{Block, BlockId};
use crate::callback::{self, Duty};
use crate::error::{Defect, Error, IoOp, Result};
use crate::io::{Disk, FileName};
use crate::local::commit::append::{frame_len, operation_len};
use crate::local::commit::group::Submission;
use crate::local::format::checkpoint::SegmentUse;
use crate::local::format::frame::HEADER_LEN;
use crate::local::format::place::damaged;
use crate::local::format::{PAGE, page_up};
use crate::local::maintenance::{Maintenance, MaintenanceState};
use crate::local::read::scan::{Found, Frame, Scanner};
use crate::mvcc::batch::{Batch, Operation};
use crate::mvcc::version::VersionLen;
use crate::sync::Ordering;
use crate::ticket::ticket;

/// Bytes moved by one commit, at most; and no more than this share of a segment, because a commit that
/// does not fit into the rest of a segment leaves it unused.
const BATCH_LEN_MAX: u64 = 512 << 10;
const BATCH_SHARE: u64 = 5;

impl<D: Disk> Maintenance<D> {
    /// Moves what is in force in a segment. What cannot be read in it stays, and the run goes on.
    pub(in crate::local::maintenance) fn empty_segment(
        &self,
        state: &mut MaintenanceState,
        run: &mut Run,
        victim: Victim,
    ) -> Result<()> {
        match self.relocate_live_blocks(state, run, victim) {
            Err(error) if is_of_one_place(&error) => {
                state.stuck.insert(victim.segment.sequence);
                run.first_error.get_or_insert(error);
                Ok(())
            }
            done => done,
        }
    }

    /// The length of a batch of moves: whole pages, which it fills as far as blocks allow.
    pub(super) fn move_batch_len(&self) -> u64 {
        page_up(BATCH_LEN_MAX.min(self.space.segment_room() / BATCH_SHARE))
    }

    fn relocate_live_blocks(
        &self,
        state: &mut MaintenanceState,
        run: &mut Run,
        victim: Victim,
    ) -> Result<()> {
        let Victim { segment: victim, kept } = victim;
        let mut scanner = Scanner::open(&*self.disk, &self.store, victim.number)?;
        if scanner.sequence != victim.sequence {
            return Err(damaged(FileName::Segment(victim.number), 0, Defect::SegmentHeader));
        }
        let mut schedule = self.plan_schedule(state, &victim, run.cause);
        if !schedule.as_ref().is_some_and(MoveSchedule::is_pressed) {
            scanner.give_way()?;
        }
        let batch_len = self.move_batch_len();
        let (mut offset, mut moves, mut moves_len) = (PAGE, Vec::new(), HEADER_LEN as u64);
        let mut is_damaged = false;
        while let Found::Frame(frame) = scanner.frame_at(offset)? {
            offset = frame.header.next_offset(frame.offset);
            for (at, id) in written_blocks(&frame) {
                self.pause_if_due(&mut schedule, at);
                let operation = match self.movable_at(&mut scanner, id, at)? {
                    Movable::Yes(operation) => operation,
                    Movable::Dead => continue,
                    Movable::Damaged => {
                        is_damaged = true;
                        continue;
                    }
                };
                let move_len = operation_len(&operation);
                if moves_len + move_len > batch_len && !moves.is_empty() {
                    self.check_move_space()?;
                    let log_len = self.commit_moves(std::mem::take(&mut moves))?;
                    schedule.iter_mut().for_each(|schedule| schedule.count_moved(log_len));
                    moves_len = HEADER_LEN as u64;
                    if self.must_stop(run.cause) {
                        return Ok(());
                    }
                }
                moves_len += move_len;
                moves.push((id, operation));
            }
            if self.must_stop(run.cause) {
                return Ok(());
            }
        }
        schedule.iter().for_each(|schedule| state.pressure.note_lateness(schedule));
        self.check_move_space()?;
        self.commit_moves(moves)?;
        let is_left = |s: &SegmentUse| s.sequence == victim.sequence && s.live_count > 0;
        if kept.count > 0 || self.shared.usage.all().iter().any(is_left) {
            match is_damaged || offset < victim.used_len {
                true => state.stuck.insert(victim.sequence),
                // Its move met a commit that was taken back.
                false => run.passed.insert(victim.sequence),
            };
        }
        run.kept.remove(&victim.sequence);
        Ok(())
    }

    /// The schedule at which to empty a segment, where somebody is to be given way to.
    fn plan_schedule(
        &self,
        state: &mut MaintenanceState,
        victim: &SegmentUse,
        cause: Cause,
    ) -> Option<MoveSchedule> {
        let Cause::Due(excess) = cause else { return None };
        let is_pressed = state.pressure.decide_pressure(excess);
        Some(MoveSchedule::for_victim(
            self.disk.now(),
            self.written_len(),
            victim,
            excess,
            is_pressed,
        ))
    }

    /// Rests if it is time for that, after the segment was gone through up to there.
    fn pause_if_due(&self, schedule: &mut Option<MoveSchedule>, offset: u64) {
        let Some(schedule) = schedule else { return };
        let rest = schedule.pause_after(self.disk.now(), self.written_len(), offset);
        if !rest.is_zero() && !self.has_waiting_caller() {
            self.shared.wake_up.rest(rest);
        }
    }

    /// The move of the block whose payload is at a place, be it in force or kept for snapshots.
    fn movable_at(
        &self,
        scanner: &mut Scanner<D::File>,
        id: BlockId,
        offset: u64,
    ) -> Result<Movable> {
        let index = &self.shared.mvcc.index;
        let from = scanner.sequence << 32 | offset;
        let newest = index.read(id)?.filter(|version| version.value.place() == from);
        let is_old = newest.is_none();
        let Some(version) = newest.or_else(|| index.undone_at(id, from)) else {
            return Ok(Movable::Dead);
        };
        let payload = scanner.payload(offset, version.value.len)?;
        let block =
            Block { header: version.value.header(id), data: Bytes::copy_from_slice(payload) };
        if !block.verify_checksum() {
            return Ok(Movable::Damaged);
        }
        Ok(Movable::Yes(Operation::Move { block, lsn: version.lsn, from, is_old }))
    }

    /// Writes moves, and says how many bytes of log they took.
    fn commit_moves(&self, moves: Vec<(BlockId, Operation)>) -> Result<u64> {
        if moves.is_empty() {
            return Ok(0);
        }
        self.shared.poison.check()?;
        let log_len = frame_len(&moves);
        let payload_len: u64 = moves.iter().map(|(_, operation)| operation.payload_len()).sum();
        let (tag, waiter) = ticket(Some(self.driver.clone()));
        let batch = Batch::moves(moves);
        // The upkeep's own wait, which nobody's commit waits for.
        let _no_duty = callback::begin(Duty::None);
        // Durable before readers are sent to the new place: should the sync fail, the old one is intact.
        self.driver.submit_commit(Submission { batch, durable: true, log_len, tag });
        waiter.wait()?;
        self.moved_len.fetch_add(payload_len, Ordering::Relaxed);
        Ok(log_len)
    }
}

/// Whether a block can be moved.
enum Movable {
    Yes(Operation),
    /// Nobody reads it there any more, nor can a snapshot.
    Dead,
    /// It stays where it is, for `verify` to name; its segment is not emptied.
    Damaged,
}

/// Whether an error says something of one place only.
fn is_of_one_place(error: &Error) -> bool {
    matches!(error, Error::Corrupt { .. } | Error::Io { op: IoOp::Open | IoOp::Read, .. })
}

/// Blocks that a frame writes: the offset of the payload, and the id.
fn written_blocks(frame: &Frame) -> Vec<(u64, BlockId)> {
    let placed = frame.placed().filter(|(_, entry)| entry.written().is_some());
    placed.map(|(offset, entry)| (offset, entry.id())).collect()
}
