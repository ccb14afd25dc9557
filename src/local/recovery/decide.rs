//! Decide: what stands at the end of the chain, and which unwitnessed frames count.
//!
//! Owns step 3 of recovery, by the table in the header of [`recovery`](super), and [`CountedFrames`], its outcome. Only
//! reads; what it refuses is refused before anything is changed.
//!
//! An unwitnessed frame counts if the *disk* holds it. The page cache may hold what no sync will ever bring
//! there: a write-back that failed leaves the bytes in memory, as if they were written, and only once an error.
//! So these frames are read past the cache, which first writes back what is due. Where the file system cannot
//! do that ([`CountedFrames::is_unseen`]), the cache is believed, and [`persist`](super::persist) writes them again.

use std::ops::ControlFlow;

use super::unwitnessed::{each, each_kept};
use super::walk::Walk;
use super::witness::Witness;
use super::{Cuts, Recovery, Segments};
use crate::block::Lsn;
use crate::error::{Defect, Result};
use crate::io::{Disk, DiskFile, FileName};
use crate::local::format::PAGE;
use crate::local::format::checkpoint::LogPosition;
use crate::local::format::frame::{Kind, TableRow};
use crate::local::format::place::damaged;
use crate::local::read::scan::{Found, Frame, Scanner};

/// A segment behind the tail that begins with this many zeros was never written to.
const UNUSED_LEN: u64 = 1 << 20;

/// Blocks that are looked for in the checkpoint at once.
const TOUCH_COUNT: usize = 1 << 14;

/// What of the unwitnessed frames counts.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct CountedFrames {
    /// The first so many.
    pub(super) frame_count: u64,
    /// Commits, and parts of commits, among them.
    pub(super) commit_count: u64,
    /// Bytes of them.
    len: u64,
    /// The place and chain behind the last one.
    end: Option<LogPosition>,
    /// Behind the last commit among them, and its LSN.
    commit_end: Option<(LogPosition, Lsn)>,
    /// What the disk holds of them is unknown.
    pub(super) is_unseen: bool,
}

impl CountedFrames {
    fn take(&mut self, sequence: u64, frame: &Frame) {
        let offset = frame.header.next_frame_offset(frame.offset);
        let end = LogPosition { sequence, offset, chain: frame.crc };
        self.frame_count += 1;
        self.len += u64::from(frame.header.frame_len);
        self.end = Some(end);
        // A mark may be seen though its own sync failed, and so may the name of a segment in which
        // nothing follows the cut. So the next cut is made behind the last commit.
        if frame.header.kind == Kind::Commit {
            self.commit_count += 1;
            self.commit_end = Some((end, frame.header.lsn));
        }
    }
}

impl Walk {
    /// Behind the last frame that counts.
    pub(super) fn counted(&self) -> LogPosition {
        let first = self.unwitnessed.first().map(|(sequence, frame)| LogPosition {
            sequence: *sequence,
            offset: frame.offset,
            chain: frame.header.previous,
        });
        self.kept.end.or(first).unwrap_or(self.at.position())
    }

    /// Behind the last commit that counts, and its LSN.
    pub(super) fn committed(&self) -> (LogPosition, Lsn) {
        self.kept.commit_end.unwrap_or(self.witnessed)
    }
}

/// What the disk holds of one segment.
struct OnDisk<F> {
    sequence: u64,
    /// `None` where nobody can see that.
    scanner: Option<Scanner<F>>,
}

impl<F: DiskFile> OnDisk<F> {
    fn look<D: Disk<File = F>>(disk: &D, segment: &Scanner<F>) -> Result<OnDisk<F>> {
        Ok(OnDisk { sequence: segment.sequence, scanner: segment.reopen_past_cache(disk)? })
    }

    /// Whether a frame that `cached` has found is there.
    fn holds(&mut self, cached: &mut Scanner<F>, frame: &Frame) -> Result<bool> {
        match &mut self.scanner {
            Some(scanner) => scanner.holds_whole_frame(frame),
            None => Ok(cached.first_bad_payload(frame)?.is_none()),
        }
    }
}

impl<D: Disk> Recovery<'_, D> {
    /// Step 3. True when the store was closed cleanly.
    pub(super) fn decide(
        &self,
        segments: &mut Segments<D::File>,
        cuts: &Cuts,
        walk: &mut Walk,
        witness: Option<Witness>,
    ) -> Result<bool> {
        let mut torn_len = 0;
        let mut durable = walk.durable;
        for (sequence, segment) in segments.range_mut(walk.at.sequence..) {
            let is_tail = *sequence == walk.at.sequence;
            let (from, zeros_max) =
                if is_tail { (walk.at.offset, u64::MAX) } else { (PAGE, UNUSED_LEN) };
            let (stated, torn) = segment.find_durable_evidence(from, zeros_max)?;
            durable = durable.max(stated);
            torn_len += torn;
        }
        let Some(segment) = segments.get_mut(&walk.at.sequence) else {
            return Err(damaged(FileName::Segment(0), 0, Defect::MissingSegment));
        };
        if durable > walk.at.last_complete() {
            let defect = match segment.read_frame_at(walk.at.offset)? {
                Found::BadTable(_) => Defect::OpTable,
                Found::Frame(_) => Defect::BrokenChain,
                Found::Nothing => Defect::FrameHeader,
            };
            let lsn = Lsn(walk.at.last_complete().0 + 1);
            return Err(segment.damage_at(defect, walk.at.offset, lsn));
        }
        if let Some(witness) = witness {
            let end = walk.at.last_complete();
            if witness.lsn > end {
                return Err(witness.loss(segment.number, walk.at.offset, Lsn(end.0 + 1)));
            }
            durable = durable.max(witness.lsn);
        }
        walk.durable = durable;
        self.replay_witnessed(segments, cuts, walk)?;
        self.load(&mut walk.batch)?;
        walk.report.torn_bytes = torn_len;
        let clean = walk.at.last_kind == Kind::End && torn_len == 0 && walk.unwitnessed.is_empty();
        if !clean {
            self.drop_torn(segments, cuts, walk)?;
            self.touch_kept(segments, cuts, walk)?;
        }
        Ok(clean)
    }

    /// Drops unwitnessed frames from the first one on that is not whole on the disk.
    fn drop_torn(
        &self,
        segments: &mut Segments<D::File>,
        cuts: &Cuts,
        walk: &mut Walk,
    ) -> Result<()> {
        let (mut kept, mut whole) = (CountedFrames::default(), CountedFrames::default());
        let mut on_disk: Option<OnDisk<D::File>> = None;
        each(segments, cuts, walk, &mut |segment, frame| {
            let looked = on_disk.take().filter(|looked| looked.sequence == segment.sequence);
            let looked = match looked {
                Some(looked) => on_disk.insert(looked),
                None => on_disk.insert(OnDisk::look(self.disk, segment)?),
            };
            if !looked.holds(segment, frame)? {
                return Ok(ControlFlow::Break(()));
            }
            whole.is_unseen |= looked.scanner.is_none();
            whole.take(segment.sequence, frame);
            if frame.header.last_part {
                kept = whole;
            }
            Ok(ControlFlow::Continue(()))
        })?;
        walk.kept = kept;
        walk.report.torn_bytes += walk.unwitnessed.frames_len() - kept.len;
        walk.at.last_lsn = walk.committed().1;
        Ok(())
    }

    /// What cannot be put in the index is refused before anything is changed.
    fn touch_kept(&self, segments: &mut Segments<D::File>, cuts: &Cuts, walk: &Walk) -> Result<()> {
        let (index, mut ids) = (&self.mvcc.index, Vec::new());
        each_kept(segments, cuts, walk, &mut |_, frame| {
            for entries in frame.entries.chunks(TOUCH_COUNT) {
                ids.extend(entries.iter().map(TableRow::block_id));
                if ids.len() >= TOUCH_COUNT {
                    index.check_base_readable_for(std::mem::take(&mut ids))?;
                }
            }
            Ok(())
        })?;
        index.check_base_readable_for(ids)
    }
}
