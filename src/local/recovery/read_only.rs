//! Read-only recovery: restores the state of a store in memory and leaves its files as they are.
//!
//! Replaces steps 4 and 5 of recovery in a read-only session. Unwitnessed frames that count are
//! read in place, void segments stay, and no name is made durable. So blocks that such a session
//! reads may be in the page cache only and may not survive a power cut: [`Ending::durable`] is the
//! last commit that does. Invariant: files are opened for reading only.

use crate::local::maintenance::Ending;
use std::sync::Arc;

use super::unwitnessed::visit_counted;
use super::walk::Walk;
use super::{Cuts, Recovered, Recovery, Segments, Survey};
use crate::error::{Defect, Error, IoOp, Result};
use crate::io::{Disk, FileName, How};
use crate::local::format::checkpoint::LogPosition;
use crate::local::format::page_up;
use crate::local::format::place::{damaged, path_of};
use crate::local::read::segment::Segment;
use crate::local::recovery::listing::Listing;
use crate::local::space::Tail;

impl<D: Disk> Recovery<'_, D> {
    /// Recovers a log as [`Recovery::recover`] does, in memory only.
    ///
    /// # Errors
    /// As [`Recovery::recover`].
    pub(crate) fn recover_in_memory(
        &self,
        listing: &Listing,
    ) -> Result<(Recovered<D::File>, Ending)> {
        assert_eq!(self.options.how, How::Read, "files are opened for reading only");
        assert!(self.reserve.is_none(), "nothing is made, so no space is kept for it");
        let survey = self.survey_files(listing)?;
        let Survey { images, sealed, start, mut segments, cuts, damage, unused, .. } = survey;
        self.install_checkpoint(&images, &sealed, &start)?;
        let mut walk = self.walk_chain(&mut segments, &cuts, &start)?;
        let clean = self.decide_end(&mut segments, &cuts, &mut walk, unused)?;
        let (bytes, frames) = (walk.report.bytes, walk.report.frames);
        self.report_progress(super::OpenPhase::Finish, bytes, bytes, frames)?;
        self.load_counted(&mut segments, &cuts, &mut walk)?;
        self.mvcc.index.make_loaded_visible(walk.at.last_lsn);
        let end = walk.counted_end();
        for segment in segments.range(..=end.sequence).map(|(_, segment)| segment) {
            segment.show_to_readers(self.views, segment.len)?;
            let len = if segment.sequence == end.sequence { end.offset } else { segment.len };
            self.usage.set_used_len(segment.sequence, segment.number, len);
        }
        let (tail, seed) = self.open_tail_to_read(&segments, end)?;
        let ending =
            Ending { position: end, seed, lsn: walk.at.last_lsn, durable: walk.witnessed.1 };
        assert!(ending.durable <= ending.lsn, "durable commits count");
        let mut report = walk.report;
        (report.clean, report.checkpoint_lsn) = (clean, start.lsn);
        report.checkpoint_damaged = damage.is_some();
        let recovered = Recovered {
            tail,
            chain: end.chain,
            ready: Vec::new(),
            next_number: self.next_number,
            chain_of_images: images,
            report,
        };
        Ok((recovered, ending))
    }

    /// Loads the unwitnessed frames that count into the index, at their own places.
    pub(super) fn load_counted(
        &self,
        segments: &mut Segments<D::File>,
        cuts: &Cuts,
        walk: &mut Walk,
    ) -> Result<()> {
        let mut batch = std::mem::take(&mut walk.batch);
        visit_counted(segments, cuts, walk, &mut |segment, frame| {
            batch.push_frame(segment.sequence, frame);
            self.load_batch_if_full(&mut batch)
        })?;
        self.load_batch(&mut batch)
    }

    /// Opens the segment in which the log ends. Returns it with the seed of its frames.
    fn open_tail_to_read(
        &self,
        segments: &Segments<D::File>,
        end: LogPosition,
    ) -> Result<(Tail<D::File>, u32)> {
        let missing = || damaged(FileName::Segment(0), 0, Defect::MissingSegment);
        let last = segments.get(&end.sequence).ok_or_else(missing)?;
        let name = FileName::Segment(last.number);
        let file = self.disk.open(name, How::Read);
        let file = file.map_err(|e| Error::io(IoOp::Open, path_of(self.disk.path(), name), e))?;
        let (seed, len) = (last.frame_seed(), page_up(last.len));
        let segment = Arc::new(Segment::new(last.number, last.sequence, seed, len, file));
        Ok((Tail { segment, offset: end.offset, written: end.offset }, seed))
    }
}
