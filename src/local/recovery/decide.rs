//! Decide: how the chain ends, and which unwitnessed frames count.
//!
//! Owns step 3 of recovery, by the table in the header of [`recovery`](super), and
//! [`CountedFrames`], its outcome. Only reads, so a refusal leaves the store unchanged.
//!
//! An unwitnessed frame counts if the *disk* holds it. The page cache may hold bytes that no sync
//! will ever write: a failed write-back reports its error once and leaves the bytes in memory as if
//! written. So these frames are read past the cache, which first writes back its dirty pages. If
//! the file system cannot do that ([`CountedFrames::is_unseen`]), the cached frames count, and
//! [`persist`](super::persist) writes them again.

use std::ops::ControlFlow;

use super::unused_checkpoint::UnusedCheckpoint;
use super::unwitnessed::{visit_counted, visit_unwitnessed};
use super::walk::Walk;
use super::{Cuts, Recovery, Segments};
use crate::block::Lsn;
use crate::error::{Defect, Result};
use crate::io::{Disk, DiskFile, FileName};
use crate::local::format::PAGE;
use crate::local::format::checkpoint::LogPosition;
use crate::local::format::frame::{Kind, TableRow};
use crate::local::format::place::damaged;
use crate::local::read::scan::{Found, Frame, Scanner};

/// A segment behind the tail that begins with this many zeros was never written.
const UNUSED_LEN: u64 = 1 << 20;

/// Blocks of which the checkpoint's pages are read at once.
const TOUCH_COUNT: usize = 1 << 14;

/// The unwitnessed frames that count: a prefix of them, of whole commits and marks.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct CountedFrames {
    /// Length of the prefix.
    pub(super) frame_count: u64,
    /// Frames of commits among them. A long commit has several.
    pub(super) commit_frame_count: u64,
    /// Bytes of them.
    len: u64,
    /// The place and chain behind the last one.
    end: Option<LogPosition>,
    /// The place behind the last commit among them, and its LSN.
    commit_end: Option<(LogPosition, Lsn)>,
    /// The file system cannot show whether the disk holds them.
    pub(super) is_unseen: bool,
}

impl CountedFrames {
    fn count_frame(&mut self, sequence: u64, frame: &Frame) {
        let offset = frame.header.next_frame_offset(frame.offset);
        let end = LogPosition { sequence, offset, chain: frame.crc };
        self.frame_count += 1;
        self.len += u64::from(frame.header.frame_len);
        self.end = Some(end);
        // A mark may be visible though its own sync failed, and so may the name of a segment with
        // nothing behind its truncation record. So the next record names the place behind a commit.
        if frame.header.kind == Kind::Commit {
            self.commit_frame_count += 1;
            self.commit_end = Some((end, frame.header.lsn));
        }
    }
}

impl Walk {
    /// The place behind the last frame that counts.
    pub(super) fn counted_end(&self) -> LogPosition {
        let first = self.unwitnessed.first_held().map(|(sequence, frame)| LogPosition {
            sequence: *sequence,
            offset: frame.offset,
            chain: frame.header.previous,
        });
        self.kept.end.or(first).unwrap_or(self.at.position())
    }

    /// The place behind the last commit that counts, and its LSN.
    pub(super) fn committed_end(&self) -> (LogPosition, Lsn) {
        self.kept.commit_end.unwrap_or(self.witnessed)
    }
}

/// One segment as the disk holds it.
struct OnDisk<F> {
    sequence: u64,
    /// `None` if the file system cannot read past the cache.
    scanner: Option<Scanner<F>>,
}

impl<F: DiskFile> OnDisk<F> {
    fn open_past_cache<D: Disk<File = F>>(disk: &D, segment: &Scanner<F>) -> Result<OnDisk<F>> {
        Ok(OnDisk { sequence: segment.sequence, scanner: segment.reopen_past_cache(disk)? })
    }

    /// Whether the disk holds all of a frame that `cached` has found.
    fn holds_whole(&mut self, cached: &mut Scanner<F>, frame: &Frame) -> Result<bool> {
        match &mut self.scanner {
            Some(scanner) => scanner.holds_whole_frame(frame),
            None => Ok(cached.first_bad_payload(frame)?.is_none()),
        }
    }
}

impl<D: Disk> Recovery<'_, D> {
    /// Step 3: decides which frames count. Returns true if the store was closed cleanly.
    pub(super) fn decide_end(
        &self,
        segments: &mut Segments<D::File>,
        cuts: &Cuts,
        walk: &mut Walk,
        unused: Option<UnusedCheckpoint>,
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
        if durable > walk.at.last_complete_lsn() {
            let defect = match segment.read_frame_at(walk.at.offset)? {
                Found::BadTable(_) => Defect::OpTable,
                Found::Frame(_) => Defect::BrokenChain,
                Found::Nothing => Defect::FrameHeader,
            };
            let lsn = Lsn(walk.at.last_complete_lsn().0 + 1);
            return Err(segment.damage_at(defect, walk.at.offset, lsn));
        }
        if let Some(unused) = unused {
            let end = walk.at.last_complete_lsn();
            if unused.lsn > end {
                return Err(unused.missing_end(segment.number, walk.at.offset, Lsn(end.0 + 1)));
            }
            durable = durable.max(unused.lsn);
        }
        let tail = FileName::Segment(segment.number);
        walk.durable = durable;
        assert!(walk.durable <= walk.at.last_complete_lsn(), "durable commits are in the chain");
        self.replay_witnessed(segments, cuts, walk)?;
        if walk.witnessed.1 < walk.durable {
            // The disk gave other bytes than a moment ago.
            return Err(damaged(tail, walk.at.offset, Defect::BrokenChain));
        }
        self.load_batch(&mut walk.batch)?;
        walk.report.torn_bytes = torn_len;
        let clean = walk.at.last_kind == Kind::End && torn_len == 0 && walk.unwitnessed.is_empty();
        if !clean {
            self.drop_torn_frames(segments, cuts, walk)?;
            self.touch_counted(segments, cuts, walk)?;
        }
        Ok(clean)
    }

    /// Drops unwitnessed frames, from the first that the disk does not hold whole.
    fn drop_torn_frames(
        &self,
        segments: &mut Segments<D::File>,
        cuts: &Cuts,
        walk: &mut Walk,
    ) -> Result<()> {
        let (mut kept, mut whole) = (CountedFrames::default(), CountedFrames::default());
        let mut on_disk: Option<OnDisk<D::File>> = None;
        visit_unwitnessed(segments, cuts, walk, &mut |segment, frame| {
            let looked = on_disk.take().filter(|looked| looked.sequence == segment.sequence);
            let looked = match looked {
                Some(looked) => on_disk.insert(looked),
                None => on_disk.insert(OnDisk::open_past_cache(self.disk, segment)?),
            };
            if !looked.holds_whole(segment, frame)? {
                return Ok(ControlFlow::Break(()));
            }
            whole.is_unseen |= looked.scanner.is_none();
            whole.count_frame(segment.sequence, frame);
            if frame.header.last_part {
                kept = whole;
            }
            Ok(ControlFlow::Continue(()))
        })?;
        assert!(kept.commit_frame_count <= kept.frame_count, "commits are frames");
        walk.kept = kept;
        walk.report.torn_bytes += walk.unwitnessed.frames_len() - kept.len;
        walk.at.last_lsn = walk.committed_end().1;
        assert!(walk.durable <= walk.at.last_lsn, "durable commits are never dropped");
        Ok(())
    }

    /// Reads the checkpoint's pages of all blocks in counted frames. So damage that keeps a frame
    /// out of the index is found before anything is changed.
    fn touch_counted(
        &self,
        segments: &mut Segments<D::File>,
        cuts: &Cuts,
        walk: &Walk,
    ) -> Result<()> {
        let (index, mut ids) = (&self.mvcc.index, Vec::new());
        visit_counted(segments, cuts, walk, &mut |_, frame| {
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
