//! The log end: work on the log between two groups, while no group is being written.
//!
//! Owns the freeze that a checkpoint begins with, and the marks: frames that describe the log
//! itself instead of changing a block. Each is written and synced at once, and states the newest
//! LSN known durable before it:
//!
//! | mark       | says                                                    |
//! |------------|---------------------------------------------------------|
//! | durable    | the groups before it are durable (`Kind::Witness`)      |
//! | checkpoint | the name of this checkpoint is durable                  |
//! | end        | the store was closed, and nothing follows               |
//!
//! A mark that cannot be written or synced poisons the store, as a group does. After a shortage (of
//! space, descriptors, memory, length of a file) the mark is not made, and the store is not
//! poisoned.

use super::Log;
use crate::block::Lsn;
use crate::error::{PoisonCause, Result};
use crate::io::Disk;
use crate::local::commit::commit_lock::LockedWork;
use crate::local::commit::log_write::LogWrite;
use crate::local::format::PAGE;
use crate::local::format::checkpoint::{ImageName, LogPosition, SegmentUse, Summary};
use crate::local::format::frame::Kind;
use crate::local::space::presence;
use crate::local::space::reserve::SpaceClass;
use crate::sync::Ordering;

/// The state that a checkpoint records.
#[derive(Debug)]
pub(crate) struct Frozen {
    pub(crate) summary: Summary,
    /// All segments that hold frames, as of that commit.
    pub(crate) segments: Vec<SegmentUse>,
}

/// The end of the log at some moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogEnd {
    /// The newest commit before it.
    pub(crate) lsn: Lsn,
    pub(crate) position: LogPosition,
}

impl<D: Disk> Log<D> {
    /// Submits a request to sync, if some commit is not durable yet.
    pub(crate) fn submit_missing_sync(&mut self) {
        if self.core.durable_lsn() < self.core.last_lsn() {
            self.submit_own_sync();
        }
    }

    /// Puts the entries of the index aside for a checkpoint, and returns the state that it records;
    /// `None` while some commit is not durable yet. Between two groups.
    pub(crate) fn freeze_index(&mut self) -> Option<Frozen> {
        if self.core.durable_lsn() < self.core.last_lsn() {
            return None;
        }
        let mvcc = &self.shared.mvcc;
        assert_eq!(mvcc.index.visible_lsn(), self.core.last_lsn(), "every group is published");
        mvcc.index.freeze_entries();
        let (total_blocks, total_bytes) = mvcc.block_totals();
        let summary = Summary {
            lsn: self.core.last_lsn(),
            position: self.appender.tail_position(),
            id_max: mvcc.ids.highest_committed().0,
            total_blocks,
            total_bytes,
        };
        Some(Frozen { summary, segments: self.shared.usage.all_segments() })
    }

    /// Ends the log so far with a durable mark, and returns the place behind that; `None` while
    /// some commit is not durable yet. The mark proves that all of the log before it is durable.
    /// Between two groups.
    ///
    /// # Errors
    /// As [`Log::confirm_checkpoint`].
    pub(crate) fn mark_log_end(&mut self) -> Result<Option<LogEnd>> {
        self.shared.poison.check()?;
        let lsn = self.core.last_lsn();
        if self.core.durable_lsn() < lsn {
            return Ok(None);
        }
        self.write_mark(Kind::Witness, lsn, &[], SpaceClass::Reserved)?;
        self.witnessed = lsn;
        Ok(Some(LogEnd { lsn, position: self.appender.tail_position() }))
    }

    /// Records in the log that the name of a checkpoint is durable.
    ///
    /// # Errors
    /// - [`Error::StorageFull`](crate::Error::StorageFull): nothing is recorded.
    /// - [`Error::Io`](crate::Error::Io), [`Error::Poisoned`](crate::Error::Poisoned): the store is
    ///   poisoned.
    pub(crate) fn confirm_checkpoint(&mut self, image: ImageName) -> Result<()> {
        self.shared.poison.check()?;
        self.write_mark(
            Kind::Checkpoint,
            self.core.durable_lsn(),
            &image.encode(),
            SpaceClass::Reserved,
        )
    }

    /// Continues in the next segment, durably, and gives back the space ahead in the sealed one.
    ///
    /// # Errors
    /// As [`Log::confirm_checkpoint`].
    pub(crate) fn roll_to_next_segment(&mut self) -> Result<()> {
        self.shared.poison.check()?;
        let sealed = self.appender.tail_position();
        // A segment with nothing but marks is not left again: on a full disk, repeated requests
        // would take the rest of the space.
        let rolled_to = Some((sealed.sequence, self.core.last_lsn()));
        if sealed.offset == PAGE || self.rolled_to == rolled_to {
            return Ok(());
        }
        let laid = self.appender.lay_out_roll(self.core.last_lsn(), self.core.durable_lsn())?;
        self.write_laid_out_mark(laid)?;
        self.rolled_to = Some((self.appender.tail_position().sequence, self.core.last_lsn()));
        self.appender.cut_sealed(sealed)
    }

    /// Records in the log that the last group is durable. Optional: without space it is left out.
    pub(super) fn write_durable_mark(&mut self) {
        let durable = self.core.durable_lsn();
        self.witnessed = durable;
        // It never takes the last of the space.
        if let Err(error) = self.write_mark(Kind::Witness, durable, &[], SpaceClass::Ordinary) {
            // In a shortage there is no mark; any other failure has poisoned the store.
            debug_assert!(error.is_shortage() || self.shared.poison.cause().is_some());
        }
    }

    /// Makes the rest durable, and writes the end mark.
    pub(super) fn write_end_mark(&mut self) -> Result<Lsn> {
        debug_assert!(self.core.is_idle(), "every commit is answered before the end");
        self.shared.poison.check()?;
        if let Err(removed) =
            presence::check_names_exist(&*self.disk, Some(self.appender.segment_number()))
        {
            self.shared.poison.set(PoisonCause::Removed);
            return Err(removed);
        }
        if self.core.durable_lsn() < self.core.last_lsn() {
            let write = self.appender.lay_out_sync();
            let synced = write.sync_segments(self.disk.path());
            let count = synced.inspect_err(|_| self.shared.poison.set(PoisonCause::SyncFailed))?;
            self.appender.complete_write(&write, true);
            self.shared.syncs.fetch_add(count, Ordering::Relaxed);
        }
        match self.write_mark(Kind::End, self.core.last_lsn(), &[], SpaceClass::Reserved) {
            // All commits are durable; the next open only has a little more to do.
            Ok(()) => Ok(self.core.last_lsn()),
            Err(error) if error.is_shortage() => Ok(self.core.last_lsn()),
            Err(error) => Err(error),
        }
    }

    /// Writes and syncs a mark, which states the newest LSN known durable before it.
    fn write_mark(
        &mut self,
        kind: Kind,
        durable: Lsn,
        body: &[u8],
        claim: SpaceClass,
    ) -> Result<()> {
        let last = self.core.last_lsn();
        let laid = self.appender.lay_out_control_record(kind, last, durable, body, claim)?;
        self.write_laid_out_mark(laid)
    }

    /// Writes and syncs a mark, while no group is being written.
    fn write_laid_out_mark(&mut self, mark: LogWrite<D::File>) -> Result<()> {
        debug_assert!(!self.is_write_under_way(), "no group is written beside a mark");
        let (poison, dir) = (&self.shared.poison, self.disk.path());
        mark.write_extents(dir).inspect_err(|_| poison.set(PoisonCause::WriteFailed))?;
        mark.sync_segments(dir).inspect_err(|_| poison.set(PoisonCause::SyncFailed))?;
        for (sequence, number, end) in mark.segment_ends() {
            self.shared.usage.set_used_len(sequence, number, end);
        }
        self.written_len += mark.len();
        self.shared.written_len.store(self.written_len, Ordering::Relaxed);
        self.appender.complete_write(&mark, true);
        self.shared.poison.check()
    }
}
