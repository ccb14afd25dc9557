//! Relocation: writes the live blocks of one segment again.
//!
//! Owns the steps of a move: read and verify the block in place, and write it to the log, in
//! commits that are short enough not to delay others. A block that cannot be read stays, for
//! `verify` to name.

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

/// Bytes of one commit of moves at most. Nor is it longer than this share of a segment: if it does
/// not fit into the rest of a segment, that rest stays unused.
const BATCH_LEN_MAX: u64 = 512 << 10;
const BATCH_SHARE: u64 = 5;

impl<D: Disk> Maintenance<D> {
    /// Relocates all needed blocks of a segment. Blocks that cannot be read stay, and the run
    /// continues.
    pub(in crate::local::maintenance) fn empty_segment(
        &self,
        state: &mut MaintenanceState,
        run: &mut Run,
        victim: Victim,
    ) -> Result<()> {
        assert_eq!(state.hold_count, 0, "no backup reads files");
        assert!(!state.is_ended, "a closed store is not changed");
        match self.relocate_live_blocks(state, run, victim) {
            Err(error) if is_of_one_place(&error) => {
                state.stuck.insert(victim.segment.sequence);
                run.first_error.get_or_insert(error);
                Ok(())
            }
            done => done,
        }
    }

    /// The length of a commit of moves: whole pages, filled as far as blocks allow.
    pub(super) fn move_batch_len(&self) -> u64 {
        page_up(BATCH_LEN_MAX.min(self.parts.space.segment_capacity() / BATCH_SHARE))
    }

    fn relocate_live_blocks(
        &self,
        state: &mut MaintenanceState,
        run: &mut Run,
        victim: Victim,
    ) -> Result<()> {
        let Victim { segment: victim, kept } = victim;
        let mut scanner =
            Scanner::open_segment(&*self.parts.disk, &self.parts.store, victim.number)?;
        if scanner.sequence != victim.sequence {
            return Err(damaged(FileName::Segment(victim.number), 0, Defect::SegmentHeader));
        }
        let mut schedule = self.plan_schedule(state, &victim, run.cause);
        if !schedule.as_ref().is_some_and(MoveSchedule::is_pressed) {
            scanner.read_little_at_once()?;
        }
        let batch_len = self.move_batch_len();
        let (mut offset, mut moves, mut moves_len) = (PAGE, Vec::new(), HEADER_LEN as u64);
        let mut is_damaged = false;
        while let Found::Frame(frame) = scanner.read_frame_at(offset)? {
            offset = frame.header.next_frame_offset(frame.offset);
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
                debug_assert!(
                    moves_len <= batch_len || moves.len() == 1,
                    "a commit fits its length"
                );
            }
            if self.must_stop(run.cause) {
                return Ok(());
            }
        }
        schedule.iter().for_each(|schedule| state.pressure.note_lateness(schedule));
        self.check_move_space()?;
        self.commit_moves(moves)?;
        let is_left = |s: &SegmentUse| s.sequence == victim.sequence && s.live_count > 0;
        if kept.count > 0 || self.parts.shared.usage.all_segments().iter().any(is_left) {
            match is_damaged || offset < victim.used_len {
                true => state.stuck.insert(victim.sequence),
                // A move was dropped for a commit of the same block that failed later.
                false => run.passed.insert(victim.sequence),
            };
        }
        run.kept.remove(&victim.sequence);
        Ok(())
    }

    /// The schedule for compacting a segment, if the run yields to commits.
    fn plan_schedule(
        &self,
        state: &mut MaintenanceState,
        victim: &SegmentUse,
        cause: Cause,
    ) -> Option<MoveSchedule> {
        let Cause::Due(excess) = cause else { return None };
        let is_pressed = state.pressure.decide_pressure(excess);
        Some(MoveSchedule::for_victim(
            self.parts.disk.now(),
            self.written_len(),
            victim,
            excess,
            is_pressed,
        ))
    }

    /// Pauses if the schedule says so, behind this offset of the segment.
    fn pause_if_due(&self, schedule: &mut Option<MoveSchedule>, offset: u64) {
        let Some(schedule) = schedule else { return };
        let rest = schedule.pause_after(self.parts.disk.now(), self.written_len(), offset);
        if !rest.is_zero() && !self.has_waiting_caller() {
            self.parts.shared.wake_up.pause(rest);
        }
    }

    /// The move of the block whose payload lies at a place, if it is live or kept for snapshots.
    fn movable_at(
        &self,
        scanner: &mut Scanner<D::File>,
        id: BlockId,
        offset: u64,
    ) -> Result<Movable> {
        let index = &self.parts.shared.mvcc.index;
        debug_assert!(u32::try_from(offset).is_ok(), "a place has 32 bits for the offset");
        let from = scanner.sequence << 32 | offset;
        let newest = index.read_newest(id)?.filter(|version| version.value.place() == from);
        let is_old = newest.is_none();
        let Some(version) = newest.or_else(|| index.undo_version_at_place(id, from)) else {
            return Ok(Movable::Dead);
        };
        let payload = scanner.read_payload(offset, version.value.len)?;
        let block =
            Block { header: version.value.block_header(id), data: Bytes::copy_from_slice(payload) };
        if !block.verify_checksum() {
            return Ok(Movable::Damaged);
        }
        Ok(Movable::Yes(Operation::Move { block, lsn: version.lsn, from, is_old }))
    }

    /// Commits moves and returns their log bytes.
    fn commit_moves(&self, moves: Vec<(BlockId, Operation)>) -> Result<u64> {
        if moves.is_empty() {
            return Ok(0);
        }
        self.parts.shared.poison.check()?;
        let log_len = frame_len(&moves);
        let payload_len: u64 = moves.iter().map(|(_, operation)| operation.payload_len()).sum();
        let (tag, waiter) = ticket(Some(self.parts.log.clone()));
        let batch = Batch::of_relocations(moves);
        // No commit waits for this thread here.
        let _no_duty = callback::begin(Duty::None);
        // Durable before readers use the new place: if the sync fails, the old place is intact.
        self.parts.log.submit_commit(Submission { batch, durable: true, log_len, tag });
        waiter.wait()?;
        self.moved_len.fetch_add(payload_len, Ordering::Relaxed);
        Ok(log_len)
    }
}

/// Whether a block can be moved.
enum Movable {
    Yes(Operation),
    /// No reader and no snapshot needs it.
    Dead,
    /// It stays, for `verify` to name, and so does its segment.
    Damaged,
}

/// Whether an error concerns one place only.
fn is_of_one_place(error: &Error) -> bool {
    matches!(error, Error::Corrupt { .. } | Error::Io { op: IoOp::Open | IoOp::Read, .. })
}

/// The blocks that a frame writes: offset of the payload, and id.
fn written_blocks(frame: &Frame) -> Vec<(u64, BlockId)> {
    let placed = frame.rows_with_offsets().filter(|(_, entry)| entry.written_header().is_some());
    placed.map(|(offset, entry)| (offset, entry.block_id())).collect()
}
