//! Persist: makes the end of the log durable, and removes what is void behind it.
//!
//! Owns step 4 of recovery, and the part of step 5 that the truncation record voids. After a clean
//! end it writes the end mark again ([`Recovery::resume_log`]). Otherwise it syncs the frames that
//! count in place, and makes a segment that begins with a truncation record
//! ([`Recovery::truncate_log`]). Invariants:
//!
//! 1. A truncation record states that all before its place is durable: its segment is made after
//!    the sync of those frames.
//! 2. Nothing is removed before the record that voids it is durable.
//! 3. Frames that the disk holds are never overwritten: a power cut meanwhile may spoil them. If
//!    the file system cannot show what the disk holds, they are, because a sync alone skips pages
//!    whose write-back has failed.
//! 4. The space and memory taken do not depend on the length of a commit.

use std::path::PathBuf;
use std::sync::Arc;

use super::unwitnessed::visit_counted;
use super::walk::Walk;
use super::{Cuts, Recovered, Recovery, Segments};
use crate::block::Lsn;
use crate::error::{Defect, Error, IoOp, Result};
use crate::io::{Disk, DiskFile, FileName, How, write_all_at};
use crate::local::format::checkpoint::{ImageName, LogPosition};
use crate::local::format::frame::{Cut, FrameHeader, Kind};
use crate::local::format::place::{damaged, path_of};
use crate::local::format::segment::SegmentHeader;
use crate::local::format::{PAGE, page_up};
use crate::local::maintenance::checkpoint::Chain;
use crate::local::options::RECOVERY_LEN;
use crate::local::read::segment::Segment;
use crate::local::recovery::identity::write_description;
use crate::local::space::reserve::SpaceClass;
use crate::local::space::{SegmentMaker, Source, Tail};

/// The longest beginning of a truncating segment: a truncation record and the name of a checkpoint.
const FIRST_LEN_MAX: u64 = 2 * PAGE;

const _: () = assert!(
    PAGE + FIRST_LEN_MAX <= RECOVERY_LEN / 4,
    "the segment fits the space kept for it, with what the file system takes for a new file"
);

/// Bytes that are rewritten at once.
const AGAIN_LEN: u64 = 256 << 10;

impl<D: Disk> Recovery<'_, D> {
    /// Step 4 after a clean end: appends go behind the end mark.
    pub(super) fn resume_log(
        &self,
        segments: &Segments<D::File>,
        walk: &Walk,
    ) -> Result<Recovered<D::File>> {
        assert_eq!(walk.at.last_kind, Kind::End, "a clean log ends with an end mark");
        assert!(walk.unwitnessed.is_empty(), "a clean log has no unwitnessed frames");
        let mut ready = Vec::new();
        let mut tail = None;
        for segment in segments.range(walk.at.sequence..).map(|(_, segment)| segment) {
            let name = FileName::Segment(segment.number);
            let path = path_of(self.disk.path(), name);
            let file = self.disk.open(name, self.options.how);
            let file = file.map_err(|e| Error::io(IoOp::Open, &path, e))?;
            let len_max = self.options.segment_len.max(page_up(segment.len));
            let (number, seed) = (segment.number, segment.frame_seed());
            let opened = Segment::new(number, segment.sequence, seed, len_max, file);
            segment.show_to_readers(self.views, len_max)?;
            if segment.sequence == walk.at.sequence {
                self.rewrite_end_mark(&opened, walk)?;
                let (segment, offset) = (Arc::new(opened), walk.at.offset);
                tail = Some(Tail { segment, offset, written: offset });
            } else {
                // A close shortens prepared segments. After a close that failed, the length may be
                // in memory only.
                if segment.len > PAGE {
                    opened.file.set_len(PAGE).map_err(|e| Error::io(IoOp::Resize, &path, e))?;
                }
                ready.push((opened, PAGE));
            }
        }
        let missing = || damaged(FileName::Segment(0), 0, Defect::MissingSegment);
        let mut report = walk.report;
        report.clean = true;
        Ok(Recovered {
            tail: tail.ok_or_else(missing)?,
            chain: walk.at.chain,
            ready,
            next_number: self.next_number,
            chain_of_images: Chain::empty(self.views.read_mode()),
            report,
        })
    }

    /// Writes the end mark again, since it may be in the page cache only. Makes its page the last
    /// of the file.
    fn rewrite_end_mark(&self, segment: &Segment<D::File>, walk: &Walk) -> Result<()> {
        let (end, previous) = (walk.at.offset, walk.at.last_previous);
        assert!(end.is_multiple_of(PAGE), "an end mark has its page alone");
        let at = end - PAGE;
        let mark =
            FrameHeader::control_record(Kind::End, walk.at.last_lsn, walk.at.last_lsn, previous);
        let (header, crc) = mark.encode(segment.seed, at);
        if crc != walk.at.chain {
            return Err(damaged(FileName::Segment(segment.number), at, Defect::BrokenChain));
        }
        let mut page = crate::io::AlignedBuf::with_capacity(PAGE as usize);
        page.extend_from_slice(&header);
        page.resize_zeroed(PAGE as usize);
        let path = path_of(self.disk.path(), FileName::Segment(segment.number));
        resync_len(&segment.file, end).map_err(|e| Error::io(IoOp::Resize, &path, e))?;
        write_all_at(&segment.file, at, page.as_slice())
            .map_err(|e| Error::io(IoOp::Write, &path, e))?;
        segment.file.sync_data().map_err(|e| Error::io(IoOp::Sync, &path, e))
    }

    /// Makes the name `META` durable before the first write to an empty log: its creator may have
    /// been killed before. Without `META`, a log with commits cannot be told from an unfinished
    /// creation. Returns the next file number.
    fn make_store_name_durable(&self, walk: &Walk) -> Result<u64> {
        if walk.at.last_lsn > Lsn(0) {
            return Ok(self.next_number);
        }
        write_description(self.disk, self.store, self.next_number)?;
        Ok(self.next_number + 1)
    }

    /// Steps 4 and 5 after an end that is not clean: appends go to a new segment.
    pub(super) fn truncate_log(
        &self,
        segments: &mut Segments<D::File>,
        cuts: &Cuts,
        walk: &mut Walk,
        image: Option<ImageName>,
    ) -> Result<Recovered<D::File>> {
        let number = self.make_store_name_durable(walk)?;
        self.sync_counted_frames(segments, cuts, walk)?;
        let sequence = segments.keys().last().map_or(1, |last| last + 1);
        let cut_in = walk.committed_end().0.sequence;
        assert!(cut_in < sequence, "a truncation record names an earlier segment");
        let io = |e| Error::space(IoOp::Write, self.disk.path(), self.options.segment_len, e);
        let header = self.segment_maker().new_segment_header(sequence).map_err(io)?;
        let (first, chain) = encode_first_marks(walk, header.frame_seed(self.store), image);
        let (segment, _) = self.make_truncating_segment(number, &header, &first).map_err(io)?;
        let shown = self.views.insert_mapped(sequence, number, &segment.file, segment.len_max());
        shown.map_err(|e| Error::io(IoOp::Map, self.disk.path(), e))?;
        self.load_counted(segments, cuts, walk)?;
        self.remove_truncated(segments, walk)?;
        let offset = PAGE + first.len() as u64;
        let mut report = walk.report;
        report.resynced_frames = walk.kept.commit_frame_count;
        Ok(Recovered {
            tail: Tail { segment: Arc::new(segment), offset, written: offset },
            chain,
            ready: Vec::new(),
            next_number: number + 1,
            chain_of_images: Chain::empty(self.views.read_mode()),
            report,
        })
    }

    /// Makes the unwitnessed frames that count durable in place.
    fn sync_counted_frames(
        &self,
        segments: &mut Segments<D::File>,
        cuts: &Cuts,
        walk: &Walk,
    ) -> Result<()> {
        assert!(!walk.unwitnessed.needs_refill(), "the first of these frames is known");
        let Some((first, _)) =
            walk.unwitnessed.first_held().filter(|_| walk.kept.commit_frame_count > 0)
        else {
            return Ok(());
        };
        if walk.kept.is_unseen {
            self.rewrite_counted_frames(segments, cuts, walk)?;
        }
        for segment in segments.range(first..=&walk.committed_end().0.sequence).map(|(_, s)| s) {
            let (file, path) = self.open_to_write(segment.number)?;
            resync_len(&file, segment.len).map_err(|e| Error::io(IoOp::Resize, &path, e))?;
            file.sync_data().map_err(|e| Error::io(IoOp::Sync, &path, e))?;
        }
        Ok(())
    }

    /// Writes the unwitnessed frames that count again, in place and as they were read. So the next
    /// sync writes them even if an earlier write-back has failed.
    fn rewrite_counted_frames(
        &self,
        segments: &mut Segments<D::File>,
        cuts: &Cuts,
        walk: &Walk,
    ) -> Result<()> {
        let (mut file, mut done) = (None, LogPosition { sequence: 0, offset: 0, chain: 0 });
        visit_counted(segments, cuts, walk, &mut |segment, frame| {
            if segment.sequence != done.sequence {
                done = LogPosition { sequence: segment.sequence, offset: 0, chain: 0 };
                file = Some(self.open_to_write(segment.number)?);
            }
            let Some((file, path)) = &file else { return Ok(()) };
            let end = page_up(frame.offset + u64::from(frame.header.frame_len));
            let mut at = done.offset.max(frame.offset / PAGE * PAGE);
            while at < end {
                let bytes = segment.read_payload(at, (end - at).min(AGAIN_LEN) as u32)?;
                if bytes.is_empty() {
                    break;
                }
                let written = write_all_at(file, at, bytes);
                written.map_err(|e| Error::io(IoOp::Write, path, e))?;
                at += bytes.len() as u64;
            }
            done.offset = end;
            Ok(())
        })
    }

    fn open_to_write(&self, number: u64) -> Result<(D::File, PathBuf)> {
        let name = FileName::Segment(number);
        let path = path_of(self.disk.path(), name);
        match self.disk.open(name, How::ReadWrite) {
            Ok(file) => Ok((file, path)),
            Err(e) => Err(Error::io(IoOp::Open, path, e)),
        }
    }

    /// Makes the segment that begins with the truncation record. Takes its space from the reserve
    /// if the disk is full.
    fn make_truncating_segment(
        &self,
        number: u64,
        header: &SegmentHeader,
        first: &[u8],
    ) -> std::io::Result<(Segment<D::File>, u64)> {
        let make = || {
            let made = self.segment_maker().make_segment(number, header, Source::New(first));
            made.map_err(|not_made| not_made.source)
        };
        match self.reserve {
            Some(reserve) => reserve.retry_with_reserve(SpaceClass::Recovery, make),
            None => make(),
        }
    }

    fn segment_maker(&self) -> SegmentMaker<'_, D> {
        SegmentMaker { disk: self.disk, store: self.store, options: &self.options }
    }

    /// Step 5: removes what the truncation record voids. The record is durable.
    fn remove_truncated(&self, segments: &mut Segments<D::File>, walk: &Walk) -> Result<()> {
        let LogPosition { sequence, offset: cut_offset, .. } = walk.committed_end().0;
        let void = segments.split_off(&(sequence + 1));
        self.remove_files(void.values().map(|segment| FileName::Segment(segment.number)))?;
        if let Some(segment) = segments.get_mut(&sequence)
            && segment.len > cut_offset
        {
            let (file, path) = self.open_to_write(segment.number)?;
            // A reader of an earlier session's map may hold bytes behind the new end. They stay
            // until the segment is removed.
            if !file.is_mapped_elsewhere() {
                file.set_len(cut_offset).map_err(|e| Error::io(IoOp::Resize, &path, e))?;
            }
            segment.len = cut_offset;
        }
        Ok(())
    }
}

/// Changes the file's length and back, so that the next sync writes it. It may be in memory only.
fn resync_len<F: DiskFile>(file: &F, len: u64) -> std::io::Result<()> {
    file.set_len(len + PAGE).and_then(|()| file.set_len(len))
}

/// Encodes the first marks of a truncating segment: the truncation record, which states all that
/// counts durable, and the name of the checkpoint in use. Returns them with the chain behind them.
fn encode_first_marks(walk: &Walk, seed: u32, image: Option<ImageName>) -> (Vec<u8>, u32) {
    let (end, lsn) = walk.committed_end();
    let cut = Cut { sequence: end.sequence, offset: end.offset }.encode();
    let mut header = FrameHeader::control_record_with_body(Kind::Cut, lsn, lsn, &cut);
    header.previous = end.chain;
    let (bytes, mut chain) = header.encode(seed, PAGE);
    let mut out = [&bytes[..], &cut].concat();
    out.resize(PAGE as usize, 0);
    if let Some(image) = image {
        // The frame that confirmed the checkpoint may be void now.
        let body = image.encode();
        let mut header = FrameHeader::control_record_with_body(Kind::Checkpoint, lsn, lsn, &body);
        header.previous = chain;
        let (bytes, crc) = header.encode(seed, PAGE + out.len() as u64);
        out.extend_from_slice(&[&bytes[..], &body].concat());
        out.resize(2 * PAGE as usize, 0);
        chain = crc;
    }
    assert!(out.len() as u64 <= FIRST_LEN_MAX, "the space kept for a truncating segment suffices");
    assert!(out.len().is_multiple_of(PAGE as usize), "marks are a page each");
    (out, chain)
}
