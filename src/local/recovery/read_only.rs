//! Read-only: the state of a store in memory, its files as they are.
//!
//! Owns what a session that writes nothing does in place of steps 4 and 5 of recovery: the unwitnessed frames
//! that count are read at the places where they lie, what is void stays, and no name is made durable. So what
//! such a session shows may be in the page cache only, and a power cut may still take it: [`Ending`] says up to
//! where it cannot. Invariant: no file is opened but to be read.

use crate::local::maintenance::Ending;
use std::sync::Arc;

use super::unwitnessed::each_kept;
use super::walk::Walk;
use super::{Cuts, Recovered, Recovery, Segments, Survey};
use crate::error::{Defect, Error, IoOp, Result};
use crate::io::{Disk, FileName, How};
use crate::local::format::checkpoint::LogPosition;
use crate::local::format::page_up;
use crate::local::format::place::damaged;
use crate::local::format::place::path_of;
use crate::local::read::segment::Segment;
use crate::local::recovery::listing::Listing;
use crate::local::space::Tail;

impl<D: Disk> Recovery<'_, D> {
    /// Recovers a log as [`Recovery::run`] does, in memory only.
    ///
    /// # Errors
    /// As [`Recovery::run`].
    pub(crate) fn run_in_memory(&self, listing: &Listing) -> Result<(Recovered<D::File>, Ending)> {
        assert_eq!(self.options.how, How::Read, "nothing is opened to be written");
        let survey = self.survey(listing)?;
        let Survey { images, sealed, start, mut segments, cuts, damage, witness, .. } = survey;
        self.take_over(&images, &sealed, &start)?;
        let mut walk = self.walk(&mut segments, &cuts, &start)?;
        let clean = self.decide(&mut segments, &cuts, &mut walk, witness)?;
        let (bytes, frames) = (walk.report.bytes, walk.report.frames);
        self.progress(super::OpenPhase::Finish, bytes, bytes, frames)?;
        self.load_kept(&mut segments, &cuts, &mut walk)?;
        self.mvcc.index.make_loaded_visible(walk.at.last_lsn);
        let end = walk.counted();
        for segment in segments.range(..=end.sequence).map(|(_, segment)| segment) {
            segment.show_to_readers(self.views, segment.len)?;
            let len = if segment.sequence == end.sequence { end.offset } else { segment.len };
            self.usage.set_used_len(segment.sequence, segment.number, len);
        }
        let (tail, seed) = self.read_tail(&segments, end)?;
        let ending =
            Ending { position: end, seed, lsn: walk.at.last_lsn, durable: walk.witnessed.1 };
        assert!(ending.durable <= ending.lsn, "what is durable counts");
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

    /// Puts the unwitnessed frames that count in the index, at their own places.
    pub(super) fn load_kept(
        &self,
        segments: &mut Segments<D::File>,
        cuts: &Cuts,
        walk: &mut Walk,
    ) -> Result<()> {
        let mut batch = std::mem::take(&mut walk.batch);
        each_kept(segments, cuts, walk, &mut |segment, frame| {
            batch.push(segment.sequence, frame);
            self.load_full(&mut batch)
        })?;
        self.load(&mut batch)
    }

    /// The segment that the log ends in, and the seed of its frames.
    fn read_tail(
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
