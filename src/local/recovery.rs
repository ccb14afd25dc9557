//! Recovery: from the files of a store to its committed state.
//!
//! Owns the decision what of the log counts. Changes nothing on disk before it has decided; may itself
//! be interrupted anywhere and run again. Steps:
//!
//! 1. **Survey.** Every segment's header, and the cuts that earlier recoveries left.
//! 2. **Walk** the chain of frames from the first segment on, past cuts, until no frame continues it.
//!    Frames up to the newest *durable* LSN that any frame states are *witnessed*: they go into the
//!    index, their payloads unread.
//! 3. **Decide** at the end of the chain:
//!
//!    | what stands behind the end                              | verdict                        |
//!    |---------------------------------------------------------|--------------------------------|
//!    | frames that state a durable LSN beyond the end           | corruption: refuse to open     |
//!    | an end mark is the last frame, nothing but zeros behind  | clean                          |
//!    | anything else: zeros, torn frames, frames of later groups | torn tail: never acknowledged  |
//!
//!    An unwitnessed frame counts if its payloads are intact and all before it count.
//! 4. **Persist.** After a clean end the end mark is written again and synced, and the log goes on
//!    behind it. Otherwise the unwitnessed frames that count are written to a new segment behind a
//!    *cut*, which voids everything from the end of the witnessed frames on; the renaming of that
//!    segment to its final name is the one step that makes it count. So what is answered from here on
//!    is durable, whatever the page cache held, and nothing is ever appended behind a torn tail.
//! 5. **Tidy.** Void segments are removed, also those that an interrupted recovery left; the cut one is
//!    shortened; all names are made durable.
//!
//! No frame is trusted for its checksum alone: it must continue the chain, at its own offset, in its
//! own use of the file.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use crate::block::Lsn;
use crate::error::{Defect, Error, IoOp, Result};
use crate::io::{Disk, DiskFile, FileName, write_all_at};
use crate::local::format::description::Description;
use crate::local::format::frame::{Cut, Entry, FrameHeader, HEADER_LEN, Kind, aligned};
use crate::local::format::{PAGE, page_up};
use crate::local::options::{OnProgress, OpenProgress};
use crate::local::scan::{Found, Frame, Scanner, path_of};
use crate::local::segment::{Location, Segment, Views, damaged};
use crate::local::space::{Space, SpaceOptions, Tail};
use crate::mvcc::Mvcc;

/// What opening a store found and did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// Whether the store had been closed, so that nothing was left to decide.
    pub clean: bool,
    /// Segments read.
    pub segments: u64,
    /// Frames replayed.
    pub frames: u64,
    /// Bytes of those frames.
    pub bytes: u64,
    /// Bytes behind the last frame that were never acknowledged and are left out.
    pub torn_bytes: u64,
    /// Frames at the end that no later one vouched for; they are written again.
    pub rewritten_frames: u64,
    /// Files in the directory that are not the store's. They are left alone.
    pub unknown_files: u64,
    /// How long opening took.
    pub elapsed: Duration,
}

/// The state behind which the log goes on.
pub(crate) struct Recovered<F> {
    pub(crate) tail: Tail<F>,
    pub(crate) chain: u32,
    /// Segments made ahead by the last session, in order.
    pub(crate) ready: Vec<(Segment<F>, u64)>,
    pub(crate) next_number: u64,
    pub(crate) report: RecoveryReport,
}

/// What recovery works on.
pub(crate) struct Recovery<'a, D: Disk> {
    pub(crate) disk: &'a D,
    pub(crate) store: &'a Description,
    pub(crate) options: SpaceOptions,
    pub(crate) mvcc: &'a Mvcc<Location>,
    pub(crate) views: &'a Views,
    /// A file number that no file of the store has.
    pub(crate) next_number: u64,
    pub(crate) on_progress: Option<OnProgress>,
}

/// A segment behind the tail that begins with this many zeros was never written to.
const UNUSED_LEN: u64 = 1 << 20;

type Segments<F> = BTreeMap<u64, Scanner<F>>;

/// For each segment that was cut: the first void byte, and the segment that goes on.
type Cuts = BTreeMap<u64, (u64, u64)>;

/// The end of the chain so far.
struct Walk {
    sequence: u64,
    offset: u64,
    chain: u32,
    last_lsn: Lsn,
    /// The newest LSN that a frame knows durable.
    durable: Lsn,
    last_kind: Kind,
    /// The chain before the last frame.
    last_previous: u32,
    /// Whether the last commit has parts still to come.
    parts_open: bool,
    /// Frames beyond `durable`, with their segments.
    unwitnessed: VecDeque<(u64, Frame)>,
    /// The place and chain behind the last witnessed frame.
    witnessed: (u64, u64, u32, Lsn),
    report: RecoveryReport,
}

impl<D: Disk> Recovery<'_, D> {
    /// Recovers a log made of the segments with these file numbers.
    ///
    /// # Errors
    /// [`Error::Corrupt`] and [`Error::UnsupportedFormat`] before anything is changed;
    /// [`Error::Aborted`]; [`Error::Io`].
    pub(crate) fn run(&self, numbers: &[u64]) -> Result<Recovered<D::File>> {
        let (mut segments, cuts, void) = self.survey(numbers)?;
        let mut walk = self.walk(&mut segments, &cuts)?;
        let clean = self.decide(&mut segments, &mut walk)?;
        let recovered = if clean {
            self.resume(&segments, &walk)?
        } else {
            self.start_over(&mut segments, &mut walk)?
        };
        self.remove(&void)?;
        self.sync_names()?;
        self.mvcc.index.finish_load(walk.last_lsn);
        for segment in segments.values().filter(|s| s.sequence < recovered.tail.segment.sequence) {
            self.views.insert(segment.sequence, segment.number, segment.map(segment.len)?);
        }
        Ok(recovered)
    }

    /// Step 1. The segments that are not void, for each one that was cut the place of the cut and the
    /// segment behind it, and the file numbers of void segments that an interrupted recovery left.
    fn survey(&self, numbers: &[u64]) -> Result<(Segments<D::File>, Cuts, Vec<u64>)> {
        let (mut segments, mut cuts) = (BTreeMap::new(), BTreeMap::new());
        for number in numbers {
            let mut scanner = Scanner::open(self.disk, self.store, *number)?;
            if let Some(cut) = scanner.cut()? {
                // It voids what was there before it. Otherwise the walk would go round in circles.
                if cut.sequence >= scanner.sequence {
                    return Err(scanner.damage(Defect::BrokenChain, PAGE, Lsn(0)));
                }
                let place = cuts.entry(cut.sequence).or_insert((cut.offset, scanner.sequence));
                // The later one holds what counted of the earlier one.
                if place.1 < scanner.sequence {
                    *place = (cut.offset, scanner.sequence);
                }
            }
            let twin = segments.insert(scanner.sequence, scanner);
            if twin.is_some() {
                return Err(damaged(FileName::Segment(*number), 0, Defect::SegmentHeader));
            }
        }
        let is_void = |sequence: u64| {
            cuts.range(..sequence).next_back().is_some_and(|(_, (_, next))| sequence < *next)
        };
        let void = segments.extract_if(.., |sequence, _| is_void(*sequence));
        let void: Vec<u64> = void.map(|(_, segment): (_, Scanner<_>)| segment.number).collect();
        let mut expected = 1;
        for (sequence, scanner) in &segments {
            if *sequence != expected {
                return Err(damaged(FileName::Segment(scanner.number), 0, Defect::MissingSegment));
            }
            expected = cuts.get(sequence).map_or(sequence + 1, |(_, next)| *next);
        }
        if segments.is_empty() || cuts.keys().any(|sequence| !segments.contains_key(sequence)) {
            return Err(damaged(FileName::Segment(0), 0, Defect::MissingSegment));
        }
        Ok((segments, cuts, void))
    }

    /// Step 2.
    fn walk(&self, segments: &mut Segments<D::File>, cuts: &Cuts) -> Result<Walk> {
        let bytes_total = segments.values().map(|segment| segment.len).sum();
        let mut walk = Walk {
            sequence: 1,
            offset: PAGE,
            chain: 0,
            last_lsn: Lsn(0),
            durable: Lsn(0),
            last_kind: Kind::Witness,
            last_previous: 0,
            parts_open: false,
            unwitnessed: VecDeque::new(),
            witnessed: (1, PAGE, 0, Lsn(0)),
            report: RecoveryReport { segments: segments.len() as u64, ..RecoveryReport::default() },
        };
        let mut bytes_done = 0;
        loop {
            let Some(segment) = segments.get_mut(&walk.sequence) else { return Ok(walk) };
            let cut = cuts.get(&walk.sequence).copied();
            let end = cut.map_or(segment.len, |(offset, _)| offset);
            while walk.offset < end
                && let Found::Frame(frame) = segment.frame_at(walk.offset)?
                && walk.continues(&frame)
            {
                walk.take(walk.sequence, frame);
                self.replay_witnessed(&mut walk);
                if walk.report.frames.is_multiple_of(4096) {
                    self.progress(bytes_done + walk.offset, bytes_total, walk.report.frames)?;
                }
            }
            bytes_done += segment.len;
            self.progress(bytes_done, bytes_total, walk.report.frames)?;
            let next = match cut {
                // What a cut leaves in place was durable when it was made.
                Some((offset, _)) if walk.offset != offset => {
                    return Err(segment.damage(Defect::FrameHeader, walk.offset, walk.next_lsn()));
                }
                Some((_, next)) => next,
                None => walk.sequence + 1,
            };
            let Some(segment) = segments.get_mut(&next) else { return Ok(walk) };
            match segment.frame_at(PAGE)? {
                Found::Frame(frame) if walk.continues(&frame) => {
                    (walk.sequence, walk.offset) = (next, PAGE);
                }
                _ => return Ok(walk),
            }
        }
    }

    /// Puts witnessed frames in the index.
    fn replay_witnessed(&self, walk: &mut Walk) {
        while walk.unwitnessed.front().is_some_and(|(_, f)| f.header.lsn <= walk.durable) {
            let Some((sequence, frame)) = walk.unwitnessed.pop_front() else { return };
            // The name of a segment that nothing follows the cut in may not be durable: the recovery
            // that made it may have failed. So the next cut is at the same place as this one.
            if frame.header.kind != Kind::Cut {
                let next = frame.header.next_offset(frame.offset);
                walk.witnessed = (sequence, next, frame.crc, frame.header.lsn);
            }
            self.load(sequence, &frame);
        }
    }

    fn load(&self, sequence: u64, frame: &Frame) {
        let lsn = frame.header.lsn;
        self.mvcc.load(frame.placed().map(|(offset, entry)| match entry {
            Entry::Write(header) => {
                (header.block_id, lsn, Some(Location::new(header, sequence, offset)))
            }
            Entry::Delete(id) => (*id, lsn, None),
        }));
    }

    /// Step 3. True when the store was closed cleanly.
    fn decide(&self, segments: &mut Segments<D::File>, walk: &mut Walk) -> Result<bool> {
        let mut torn_len = 0;
        let mut durable = walk.durable;
        for (sequence, segment) in segments.range_mut(walk.sequence..) {
            let is_tail = *sequence == walk.sequence;
            let (from, zeros_max) =
                if is_tail { (walk.offset, u64::MAX) } else { (PAGE, UNUSED_LEN) };
            let (stated, torn) = segment.evidence(from, zeros_max)?;
            durable = durable.max(stated);
            torn_len += torn;
        }
        let Some(segment) = segments.get_mut(&walk.sequence) else {
            return Err(damaged(FileName::Segment(0), 0, Defect::MissingSegment));
        };
        if durable > walk.last_complete() {
            let defect = match segment.frame_at(walk.offset)? {
                Found::BadTable(_) => Defect::OpTable,
                Found::Frame(_) => Defect::BrokenChain,
                Found::Nothing => Defect::FrameHeader,
            };
            let lsn = Lsn(walk.last_complete().0 + 1);
            return Err(segment.damage(defect, walk.offset, lsn));
        }
        walk.durable = durable;
        self.replay_witnessed(walk);
        walk.report.torn_bytes = torn_len;
        let clean = walk.last_kind == Kind::End && torn_len == 0 && walk.unwitnessed.is_empty();
        if !clean {
            self.drop_torn(segments, walk)?;
        }
        Ok(clean)
    }

    /// Drops unwitnessed frames from the first one on whose payloads are not intact.
    fn drop_torn(&self, segments: &mut Segments<D::File>, walk: &mut Walk) -> Result<()> {
        let mut keep = 0;
        for (at, (sequence, frame)) in walk.unwitnessed.iter().enumerate() {
            let Some(segment) = segments.get_mut(sequence) else { break };
            if first_bad_payload(segment, frame)?.is_some() {
                break;
            }
            if frame.header.last_part {
                keep = at + 1;
            }
        }
        let dropped = walk.unwitnessed.drain(keep..);
        let dropped_len: u64 = dropped.map(|(_, f)| u64::from(f.header.frame_len)).sum();
        walk.report.torn_bytes += dropped_len;
        walk.unwitnessed.retain(|(_, frame)| frame.header.kind == Kind::Commit);
        walk.last_lsn = walk.unwitnessed.back().map_or(walk.witnessed.3, |(_, f)| f.header.lsn);
        Ok(())
    }

    /// Step 4 after a clean end.
    fn resume(&self, segments: &Segments<D::File>, walk: &Walk) -> Result<Recovered<D::File>> {
        let mut ready = Vec::new();
        let mut tail = None;
        for segment in segments.range(walk.sequence..).map(|(_, segment)| segment) {
            let name = FileName::Segment(segment.number);
            let path = path_of(self.disk.path(), name);
            let file = self.disk.open(name, self.options.how());
            let file = file.map_err(|e| Error::io(IoOp::Open, &path, e))?;
            let opened = Segment {
                number: segment.number,
                sequence: segment.sequence,
                seed: segment.seed(),
                len_max: self.options.segment_len.max(page_up(segment.len)),
                file,
            };
            self.views.insert(segment.sequence, segment.number, segment.map(opened.len_max)?);
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
        let changed = segment.file.set_len(end + PAGE).and_then(|()| segment.file.set_len(end));
        changed.map_err(|e| Error::io(IoOp::Resize, &path, e))?;
        write_all_at(&segment.file, at, page.as_slice())
            .map_err(|e| Error::io(IoOp::Write, &path, e))?;
        segment.file.sync_data().map_err(|e| Error::io(IoOp::Sync, &path, e))
    }

    /// Steps 4 and 5 after anything else.
    fn start_over(
        &self,
        segments: &mut Segments<D::File>,
        walk: &mut Walk,
    ) -> Result<Recovered<D::File>> {
        let number = self.next_number;
        let sequence = segments.keys().last().map_or(1, |last| last + 1);
        let io = |e| Error::space(IoOp::Write, self.disk.path(), self.options.segment_len, e);
        let header = Space::new_header(self.disk, self.store, sequence).map_err(io)?;
        let seed = header.frame_seed(self.store);
        let (first, chain) = self.rewrite(segments, walk, seed)?;
        let made =
            Space::make_segment(self.disk, self.store, &self.options, number, &header, &first);
        let segment = made.map_err(|not_made| io(not_made.source))?;
        let view = segment.file.map(segment.len_max as usize);
        let view = view.map_err(|e| Error::io(IoOp::Map, self.disk.path(), e))?;
        self.views.insert(sequence, number, view);
        for (_, frame) in &walk.unwitnessed {
            self.load(sequence, frame);
        }
        self.tidy(segments, walk)?;
        let offset = PAGE + first.len() as u64;
        let mut report = walk.report;
        report.rewritten_frames = walk.unwitnessed.len() as u64;
        Ok(Recovered {
            tail: Tail { segment: Arc::new(segment), offset, written: offset },
            chain,
            ready: Vec::new(),
            next_number: number + 1,
            report,
        })
    }

    /// Encodes the cut and the unwitnessed frames for their new places. The frames' own places are
    /// changed to those.
    fn rewrite(
        &self,
        segments: &mut Segments<D::File>,
        walk: &mut Walk,
        seed: u32,
    ) -> Result<(Vec<u8>, u32)> {
        let (cut_sequence, cut_offset, before, lsn) = walk.witnessed;
        let cut = Cut { sequence: cut_sequence, offset: cut_offset }.encode();
        let mut header = FrameHeader::mark(Kind::Cut, lsn, lsn, before);
        header.frame_len = (HEADER_LEN + cut.len()) as u32;
        header.table_crc = crc32c::crc32c(&cut);
        let (bytes, mut chain) = header.encode(seed, PAGE);
        let mut out = [&bytes[..], &cut].concat();
        out.resize(PAGE as usize, 0);
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
        let (cut_sequence, cut_offset, ..) = walk.witnessed;
        let void: Vec<u64> =
            segments.split_off(&(cut_sequence + 1)).values().map(|s| s.number).collect();
        self.remove(&void)?;
        if let Some(segment) = segments.get_mut(&cut_sequence)
            && segment.len > cut_offset
        {
            let name = FileName::Segment(segment.number);
            let path = path_of(self.disk.path(), name);
            let file = self.disk.open(name, crate::io::How::ReadWrite);
            let file = file.map_err(|e| Error::io(IoOp::Open, &path, e))?;
            file.set_len(cut_offset).map_err(|e| Error::io(IoOp::Resize, &path, e))?;
            segment.len = cut_offset;
        }
        Ok(())
    }

    fn remove(&self, numbers: &[u64]) -> Result<()> {
        for number in numbers {
            let name = FileName::Segment(*number);
            let path = path_of(self.disk.path(), name);
            self.disk.remove(name).map_err(|e| Error::io(IoOp::Remove, path, e))?;
        }
        Ok(())
    }

    /// Removals, and the names of segments that the last session made ahead: it may have been killed
    /// before it synced them.
    fn sync_names(&self) -> Result<()> {
        self.disk.sync_dir().map_err(|e| Error::io(IoOp::Sync, self.disk.path(), e))
    }

    fn progress(&self, bytes_done: u64, bytes_total: u64, frames: u64) -> Result<()> {
        let Some(watch) = &self.on_progress else { return Ok(()) };
        match watch(OpenProgress { bytes_done, bytes_total, frames }) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Aborted),
        }
    }
}

/// The offset and entry of the first payload of a frame that does not match its checksum.
pub(crate) fn first_bad_payload<F: DiskFile>(
    segment: &mut Scanner<F>,
    frame: &Frame,
) -> Result<Option<(u64, Entry)>> {
    for (offset, entry) in frame.placed() {
        if let Entry::Write(header) = entry {
            let payload = segment.payload(offset, header.data_size)?;
            if payload.len() != header.data_size as usize
                || crc32c::crc32c(payload) != header.checksum
            {
                return Ok(Some((offset, *entry)));
            }
        }
    }
    Ok(None)
}

impl Walk {
    /// The last commit that all parts of are there.
    fn last_complete(&self) -> Lsn {
        Lsn(self.last_lsn.0 - u64::from(self.parts_open))
    }

    fn next_lsn(&self) -> Lsn {
        Lsn(self.last_lsn.0 + 1)
    }

    /// Whether a frame is the one that was written behind the last one.
    fn continues(&self, frame: &Frame) -> bool {
        let header = &frame.header;
        let in_order = match header.kind {
            Kind::Commit if self.parts_open => header.lsn == self.last_lsn && header.part > 0,
            Kind::Commit => header.lsn == self.next_lsn() && header.part == 0,
            _ => header.lsn == self.last_lsn && !self.parts_open,
        };
        header.previous == self.chain && in_order
    }

    fn take(&mut self, sequence: u64, frame: Frame) {
        let header = &frame.header;
        self.last_previous = header.previous;
        self.chain = frame.crc;
        self.last_lsn = header.lsn;
        self.last_kind = header.kind;
        self.parts_open = !header.last_part;
        self.offset = header.next_offset(frame.offset);
        self.durable = self.durable.max(header.durable);
        self.report.frames += 1;
        self.report.bytes += u64::from(header.frame_len);
        self.unwitnessed.push_back((sequence, frame));
    }
}
