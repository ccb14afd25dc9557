//! Persist: what the log goes on behind is made durable, and what is void goes.
//!
//! Owns step 4 of recovery, and of step 5 what the cut voids. After a clean end that is the end mark once
//! more ([`Recovery::resume`]); after anything else a new segment that begins with a cut and the frames that
//! are written again ([`Recovery::start_over`]). Invariant: nothing that the cut voids goes before the cut is
//! durable.

use std::sync::Arc;

use super::walk::Walk;
use super::{Recovered, Recovery, Segments};
use crate::block::Lsn;
use crate::canary::{Bug, planted};
use crate::checksum;
use crate::error::{Defect, Error, IoOp, Result};
use crate::io::{Disk, DiskFile, FileName, write_all_at};
use crate::local::checkpoint::Chain;
use crate::local::checkpoint::header::{ImageName, LogPosition};
use crate::local::format::frame::{Cut, FrameHeader, HEADER_LEN, Kind, aligned};
use crate::local::format::segment::SegmentHeader;
use crate::local::format::{PAGE, page_up};
use crate::local::open::name_store;
use crate::local::reserve::Claim;
use crate::local::scan::path_of;
use crate::local::segment::{Segment, damaged};
use crate::local::space::{Source, Space, Tail};

impl<D: Disk> Recovery<'_, D> {
    /// Step 4 after a clean end.
    pub(super) fn resume(
        &self,
        segments: &Segments<D::File>,
        walk: &Walk,
    ) -> Result<Recovered<D::File>> {
        let mut ready = Vec::new();
        let mut tail = None;
        for segment in segments.range(walk.sequence..).map(|(_, segment)| segment) {
            let name = FileName::Segment(segment.number);
            let path = path_of(self.disk.path(), name);
            let file = self.disk.open(name, self.options.how);
            let file = file.map_err(|e| Error::io(IoOp::Open, &path, e))?;
            let len_max = self.options.segment_len.max(page_up(segment.len));
            let (number, seed) = (segment.number, segment.seed());
            let opened = Segment::new(number, segment.sequence, seed, len_max, file);
            segment.show(self.views, len_max)?;
            if segment.sequence == walk.sequence {
                self.write_end_again(&opened, walk)?;
                let (segment, offset) = (Arc::new(opened), walk.offset);
                tail = Some(Tail { segment, offset, written: offset });
            } else {
                ready.push((opened, segment.len / PAGE * PAGE));
            }
        }
        let missing = || damaged(FileName::Segment(0), 0, Defect::MissingSegment);
        let mut report = walk.report;
        report.clean = true;
        Ok(Recovered {
            tail: tail.ok_or_else(missing)?,
            chain: walk.chain,
            ready,
            next_number: self.next_number,
            chain_of_images: Chain::empty(self.views.mode()),
            report,
        })
    }

    /// The end mark may be in the page cache only. It stands alone in its page, the last of the file
    /// from here on.
    fn write_end_again(&self, segment: &Segment<D::File>, walk: &Walk) -> Result<()> {
        let (end, previous) = (walk.offset, walk.last_previous);
        let at = end - PAGE;
        let mark = FrameHeader::mark(Kind::End, walk.last_lsn, walk.last_lsn, previous);
        let (header, crc) = mark.encode(segment.seed, at);
        if crc != walk.chain {
            return Err(damaged(FileName::Segment(segment.number), at, Defect::BrokenChain));
        }
        let mut page = crate::io::AlignedBuf::with_capacity(PAGE as usize);
        page.extend_from_slice(&header);
        page.resize_zeroed(PAGE as usize);
        let path = path_of(self.disk.path(), FileName::Segment(segment.number));
        // The length may be in memory only, too: a change makes the sync write it.
        let changed = match planted(Bug::LengthUnsynced) {
            true => Ok(()),
            false => segment.file.set_len(end + PAGE).and_then(|()| segment.file.set_len(end)),
        };
        changed.map_err(|e| Error::io(IoOp::Resize, &path, e))?;
        write_all_at(&segment.file, at, page.as_slice())
            .map_err(|e| Error::io(IoOp::Write, &path, e))?;
        if planted(Bug::EndUnsynced) {
            return Ok(());
        }
        segment.file.sync_data().map_err(|e| Error::io(IoOp::Sync, &path, e))
    }

    /// Whoever made the store may have been killed before its name was durable. Without `META` nobody can
    /// tell a log that holds something from one that never did, so nothing is written before it is. Returns
    /// the next file number.
    pub(super) fn name_again(&self, walk: &Walk) -> Result<u64> {
        if walk.last_lsn > Lsn(0) || planted(Bug::NameComesLast) {
            return Ok(self.next_number);
        }
        name_store(self.disk, self.store, self.next_number)?;
        Ok(self.next_number + 1)
    }

    /// Steps 4 and 5 after anything else.
    pub(super) fn start_over(
        &self,
        segments: &mut Segments<D::File>,
        walk: &mut Walk,
        image: Option<ImageName>,
        number: u64,
    ) -> Result<Recovered<D::File>> {
        let sequence = segments.keys().last().map_or(1, |last| last + 1);
        let io = |e| Error::space(IoOp::Write, self.disk.path(), self.options.segment_len, e);
        let header = Space::new_header(self.disk, self.store, sequence).map_err(io)?;
        let seed = header.frame_seed(self.store);
        let (first, chain) = self.rewrite(segments, walk, seed, image)?;
        if planted(Bug::TidyBeforeCut) {
            self.tidy(segments, walk)?;
        }
        let (segment, _) = self.make_cut(number, &header, &first).map_err(io)?;
        let shown = self.views.insert(sequence, number, &segment.file, segment.len_max());
        shown.map_err(|e| Error::io(IoOp::Map, self.disk.path(), e))?;
        for (_, frame) in &walk.unwitnessed {
            walk.batch.push(sequence, frame);
            self.load_full(&mut walk.batch)?;
        }
        self.load(&mut walk.batch)?;
        self.tidy(segments, walk)?;
        let offset = PAGE + first.len() as u64;
        let mut report = walk.report;
        report.rewritten_frames = walk.unwitnessed.len() as u64;
        Ok(Recovered {
            tail: Tail { segment: Arc::new(segment), offset, written: offset },
            chain,
            ready: Vec::new(),
            next_number: number + u64::from(!planted(Bug::NumberGivenTwice)),
            chain_of_images: Chain::empty(self.views.mode()),
            report,
        })
    }

    /// Makes the segment that begins with the cut, if need be of the reserve.
    fn make_cut(
        &self,
        number: u64,
        header: &SegmentHeader,
        first: &[u8],
    ) -> std::io::Result<(Segment<D::File>, u64)> {
        let make = || {
            let (disk, source) = (self.disk, Source::New(first));
            let made = Space::make_segment(disk, self.store, &self.options, number, header, source);
            made.map_err(|not_made| not_made.source)
        };
        match self.reserve {
            Some(reserve) => reserve.spend(Claim::Reserved, make),
            None => make(),
        }
    }

    /// Encodes the cut and the unwitnessed frames for their new places. The frames' own places are
    /// changed to those.
    fn rewrite(
        &self,
        segments: &mut Segments<D::File>,
        walk: &mut Walk,
        seed: u32,
        image: Option<ImageName>,
    ) -> Result<(Vec<u8>, u32)> {
        let (end, lsn) = walk.witnessed;
        let cut = Cut { sequence: end.sequence, offset: end.offset }.encode();
        let mut header = FrameHeader::mark(Kind::Cut, lsn, lsn, end.chain);
        header.frame_len = (HEADER_LEN + cut.len()) as u32;
        header.table_crc = checksum::crc32c(&cut);
        let (bytes, mut chain) = header.encode(seed, PAGE);
        let mut out = [&bytes[..], &cut].concat();
        out.resize(PAGE as usize, 0);
        if let Some(image) = image {
            // Where the log said so may be behind the cut.
            let body = image.encode();
            let mut header = FrameHeader::mark_with(Kind::Checkpoint, lsn, lsn, &body);
            header.previous = chain;
            let (bytes, crc) = header.encode(seed, PAGE + out.len() as u64);
            out.extend_from_slice(&[&bytes[..], &body].concat());
            out.resize(2 * PAGE as usize, 0);
            chain = crc;
        }
        let count = walk.unwitnessed.len();
        for (at, (sequence, frame)) in walk.unwitnessed.iter_mut().enumerate() {
            let missing = || damaged(FileName::Segment(0), 0, Defect::MissingSegment);
            let segment = segments.get_mut(sequence).ok_or_else(missing)?;
            let body_len = frame.header.frame_len - HEADER_LEN as u32;
            let body_at = frame.offset + HEADER_LEN as u64;
            let offset = PAGE + out.len() as u64;
            frame.header.previous = chain;
            frame.header.durable = lsn;
            frame.header.group_end = at + 1 == count;
            let (bytes, crc) = frame.header.encode(seed, offset);
            out.extend_from_slice(&bytes);
            out.extend_from_slice(segment.payload(body_at, body_len)?);
            let padded = match frame.header.group_end {
                true => page_up(out.len() as u64),
                false => aligned(out.len() as u64),
            };
            out.resize(padded as usize, 0);
            (frame.offset, frame.crc, chain) = (offset, crc, crc);
        }
        Ok((out, chain))
    }

    /// Step 5. The cut is durable: what it voids goes.
    fn tidy(&self, segments: &mut Segments<D::File>, walk: &Walk) -> Result<()> {
        let LogPosition { sequence, offset: cut_offset, .. } = walk.witnessed.0;
        let void = segments.split_off(&(sequence + 1));
        self.remove(void.values().map(|segment| FileName::Segment(segment.number)))?;
        if let Some(segment) = segments.get_mut(&sequence)
            && segment.len > cut_offset
        {
            let name = FileName::Segment(segment.number);
            let path = path_of(self.disk.path(), name);
            let file = self.disk.open(name, crate::io::How::ReadWrite);
            let file = file.map_err(|e| Error::io(IoOp::Open, &path, e))?;
            // Who reads through an earlier handle's map may hold bytes behind the cut: they stay until the
            // segment goes.
            if !file.is_mapped_elsewhere() {
                file.set_len(cut_offset).map_err(|e| Error::io(IoOp::Resize, &path, e))?;
            }
            segment.len = cut_offset;
        }
        Ok(())
    }
}
