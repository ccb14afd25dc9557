//! Recovery: from the files of a store to its committed state.
//!
//! Owns the decision what of the log counts. Changes nothing on disk before it has decided; may itself
//! be interrupted anywhere and run again. Steps:
//!
//! 1. **Survey.** The newest checkpoint that is whole, with every segment that it lists there; then
//!    the header of every segment behind its place in the log, and the cuts that earlier recoveries
//!    left. Where that does not fit together, an older checkpoint is tried, and at last none. Segments
//!    before that place that the checkpoint does not list went out of use.
//! 2. **Walk** the chain of frames from the checkpoint's place on, or from the first segment, past cuts, until no frame continues it.
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
//! 5. **Tidy.** Void segments are removed, also those that an interrupted recovery left, and segments
//!    and checkpoints out of use; the cut one is shortened; all names are made durable.
//!
//! No frame is trusted for its checksum alone: it must continue the chain, at its own offset, in its
//! own use of the file.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use crate::block::{BlockId, Lsn};
use crate::canary::{Bug, planted};
use crate::checksum;
use crate::error::{Defect, Error, IoOp, Result};
use crate::io::{Disk, DiskFile, FileName, write_all_at};
use crate::local::checkpoint::Chain;
use crate::local::checkpoint::header::{ImageName, LogPosition, Summary};
use crate::local::format::description::Description;
use crate::local::format::frame::{Cut, Entry, FrameHeader, HEADER_LEN, Kind, aligned};
use crate::local::format::segment::SegmentHeader;
use crate::local::format::{PAGE, page_up};
use crate::local::open::{Listing, name_store};
use crate::local::options::{OnProgress, OpenPhase, OpenProgress};
use crate::local::reserve::{Claim, Reserve};
use crate::local::scan::{Found, Frame, Scanner, path_of};
use crate::local::segment::{Location, Segment, Views, damaged};
use crate::local::space::{Source, Space, SpaceOptions, Tail};
use crate::local::usage::{SegmentUse, Usage};
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
    /// The newest commit in the checkpoint that was used; 0 without one.
    pub checkpoint_lsn: Lsn,
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
    pub(crate) chain_of_images: Chain,
    pub(crate) report: RecoveryReport,
}

/// What recovery works on.
pub(crate) struct Recovery<'a, D: Disk> {
    pub(crate) disk: &'a D,
    pub(crate) store: &'a Description,
    pub(crate) options: SpaceOptions,
    pub(crate) mvcc: &'a Mvcc<Location>,
    pub(crate) views: &'a Views,
    pub(crate) usage: &'a Usage,
    /// Space for the cut; `None` where nothing is changed.
    pub(crate) reserve: Option<&'a Reserve<D>>,
    /// A file number that no file of the store has.
    pub(crate) next_number: u64,
    pub(crate) on_progress: Option<OnProgress>,
}

/// A segment behind the tail that begins with this many zeros was never written to.
const UNUSED_LEN: u64 = 1 << 20;

/// Sealed segments that are mapped while opening; beyond them each is mapped when it is first read.
const MAPPED_COUNT_MAX: usize = 32;

type Segments<F> = BTreeMap<u64, Scanner<F>>;

/// For each segment that was cut: the first void byte, and the segment that goes on.
type Cuts = BTreeMap<u64, (u64, u64)>;

/// What the files of the store are to it.
struct Survey<F> {
    images: Chain,
    /// Segments that the checkpoint lists and that come before its place in the log.
    sealed: Vec<SegmentUse>,
    /// Where the log goes on behind the checkpoint.
    start: Summary,
    segments: Segments<F>,
    cuts: Cuts,
    /// File numbers of segments that are void or out of use.
    void: Vec<u64>,
}

/// Where the log of a store without a checkpoint begins.
const BEGINNING: Summary = Summary {
    lsn: Lsn(0),
    position: LogPosition { sequence: 1, offset: PAGE, chain: 0 },
    id_max: 0,
    total_blocks: 0,
    total_bytes: 0,
};

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
    witnessed: (LogPosition, Lsn),
    report: RecoveryReport,
}

impl<D: Disk> Recovery<'_, D> {
    /// Recovers a log made of the segments with these file numbers.
    ///
    /// # Errors
    /// [`Error::Corrupt`] and [`Error::UnsupportedFormat`] before anything is changed;
    /// [`Error::Aborted`]; [`Error::Io`].
    pub(crate) fn run(&self, listing: &Listing) -> Result<Recovered<D::File>> {
        let survey = self.survey(listing)?;
        let Survey { images, sealed, start, mut segments, cuts, void } = survey;
        self.take_over(&images, &sealed, &start)?;
        let mut walk = self.walk(&mut segments, &cuts, &start)?;
        let clean = self.decide(&mut segments, &mut walk)?;
        self.progress(OpenPhase::Finish, walk.report.bytes, walk.report.bytes, walk.report.frames)?;
        let mut recovered = if clean {
            self.resume(&segments, &walk)?
        } else {
            let number = self.name_again(&walk)?;
            self.start_over(&mut segments, &mut walk, images.names().first().copied(), number)?
        };
        let used = images.names();
        let unused = listing.checkpoints.iter().filter(|n| used.iter().all(|u| u.number != **n));
        self.remove(void.into_iter().map(FileName::Segment))?;
        self.remove(unused.map(|number| FileName::Checkpoint(*number)))?;
        self.sync_names()?;
        let again = !walk.unwitnessed.is_empty() && planted(Bug::LsnGivenTwice);
        self.mvcc.index.finish_load(Lsn(walk.last_lsn.0 - u64::from(again)));
        for segment in segments.values().filter(|s| s.sequence < recovered.tail.segment.sequence) {
            segment.show(self.views, segment.len)?;
            self.usage.used(segment.sequence, segment.number, segment.len);
        }
        let tail = &recovered.tail;
        self.usage.used(tail.segment.sequence, tail.segment.number, tail.offset);
        recovered.chain_of_images = images;
        recovered.report.checkpoint_lsn = start.lsn;
        Ok(recovered)
    }

    /// Steps 1 to 3 without a change on disk: what opening the store would refuse. The index then holds
    /// what would be in force.
    ///
    /// # Errors
    /// As [`Recovery::run`], as far as these steps go.
    pub(crate) fn examine(&self, listing: &Listing) -> Result<RecoveryReport> {
        let Survey { images, start, mut segments, cuts, .. } = self.survey(listing)?;
        self.load_image(&images, &start);
        let mut walk = self.walk(&mut segments, &cuts, &start)?;
        let clean = self.decide(&mut segments, &mut walk)?;
        for (sequence, frame) in &walk.unwitnessed {
            self.load(*sequence, frame)?;
        }
        self.mvcc.index.finish_load(walk.last_lsn);
        Ok(RecoveryReport { clean, checkpoint_lsn: start.lsn, ..walk.report })
    }

    /// The images that the store would be opened with.
    ///
    /// # Errors
    /// As [`Recovery::run`] in its first step.
    pub(crate) fn images_in_use(&self, listing: &Listing) -> Result<Chain> {
        self.survey(listing).map(|survey| survey.images)
    }

    /// Step 1.
    fn survey(&self, listing: &Listing) -> Result<Survey<D::File>> {
        let mut first_error = None;
        for number in listing.checkpoints.iter().rev() {
            let opened = Chain::open(self.disk, self.store, *number, self.views.mode());
            let surveyed = opened.and_then(|images| self.survey_from(listing, images));
            match surveyed {
                Ok(survey) => return Ok(survey),
                Err(error @ Error::Corrupt { .. }) => first_error.get_or_insert(error),
                Err(error) => return Err(error),
            };
        }
        // Without a checkpoint the log has to be there from its beginning.
        let whole = self.survey_from(listing, Chain::empty(self.views.mode()));
        whole.map_err(|error| match (error, first_error) {
            (Error::Corrupt { .. }, Some(first)) => first,
            (error, _) => error,
        })
    }

    fn survey_from(&self, listing: &Listing, images: Chain) -> Result<Survey<D::File>> {
        let start = images.summary().copied().unwrap_or(BEGINNING);
        let mut sealed = images.segments().to_vec();
        sealed.retain(|segment| segment.sequence < start.position.sequence);
        for segment in &sealed {
            let name = FileName::Segment(segment.number);
            match listing.segments.get(&segment.number) {
                None => return Err(damaged(name, 0, Defect::MissingSegment)),
                Some(len)
                    if *len < segment.used_len && !planted(Bug::ShorterThanItsMap)
                        || *len > segment.used_len && planted(Bug::RecycledIsDamaged) =>
                {
                    return Err(damaged(name, *len, Defect::Truncated));
                }
                Some(_) => {}
            }
        }
        let (mut segments, mut void) = (BTreeMap::new(), Vec::new());
        for number in listing.segments.keys() {
            if sealed.iter().any(|segment| segment.number == *number) {
                continue;
            }
            self.progress(OpenPhase::Survey, 0, 0, 0)?;
            let scanner = Scanner::open(self.disk, self.store, *number)?;
            if scanner.sequence < start.position.sequence {
                void.push(*number);
                continue;
            }
            let twin = segments.insert(scanner.sequence, scanner);
            if twin.is_some() {
                return Err(damaged(FileName::Segment(*number), 0, Defect::SegmentHeader));
            }
        }
        let cuts = find_cuts(&mut segments, start.position)?;
        let is_void = |sequence: u64| {
            cuts.range(..sequence).next_back().is_some_and(|(_, (_, next))| sequence < *next)
        };
        let cut_out = segments.extract_if(.., |sequence, _| is_void(*sequence));
        void.extend(cut_out.map(|(_, segment): (_, Scanner<_>)| segment.number));
        let mut expected = start.position.sequence;
        for (sequence, scanner) in &segments {
            if *sequence != expected {
                return Err(damaged(FileName::Segment(scanner.number), 0, Defect::MissingSegment));
            }
            expected = cuts.get(sequence).map_or(sequence + 1, |(_, next)| *next);
        }
        let first = segments.get(&start.position.sequence);
        if first.is_none() || cuts.keys().any(|sequence| !segments.contains_key(sequence)) {
            return Err(damaged(FileName::Segment(0), 0, Defect::MissingSegment));
        }
        if let Some(first) = first.filter(|first| first.len < start.position.offset) {
            return Err(damaged(FileName::Segment(first.number), first.len, Defect::Truncated));
        }
        if let Some(head) = images.names().first()
            && !planted(Bug::UnconfirmedIsRead)
            && !self.is_confirmed(&mut segments, &cuts, &start, *head)?
        {
            return Err(damaged(FileName::Checkpoint(head.number), 0, Defect::Unconfirmed));
        }
        Ok(Survey { images, sealed, start, segments, cuts, void })
    }

    /// Puts the checkpoint in place.
    fn take_over(&self, images: &Chain, sealed: &[SegmentUse], start: &Summary) -> Result<()> {
        if images.summary().is_none() {
            return Ok(());
        }
        self.load_image(images, start);
        for segment in sealed {
            self.views.insert_unmapped(segment.sequence, segment.number, segment.used_len);
        }
        // A few are mapped now, so that no later failure to open a file stands in a reader's way.
        match sealed.len() <= MAPPED_COUNT_MAX {
            true => self.views.show_all().map_err(|e| Error::io(IoOp::Map, self.disk.path(), e)),
            false => Ok(()),
        }
    }

    fn load_image(&self, images: &Chain, start: &Summary) {
        if images.summary().is_none() {
            return;
        }
        self.mvcc.index.install(|| Arc::new(images.clone()));
        self.mvcc.load_totals(start.total_blocks, start.total_bytes, BlockId(start.id_max));
        for segment in images.segments() {
            self.usage.add(*segment);
        }
    }

    /// Step 2.
    fn walk(&self, segments: &mut Segments<D::File>, cuts: &Cuts, start: &Summary) -> Result<Walk> {
        let bytes_total = segments.values().map(|segment| segment.len).sum();
        let mut walk = Walk::start(start);
        walk.report.segments = segments.len() as u64;
        let mut done = Done { sequence: walk.sequence, before: 0 };
        follow(segments, cuts, &mut walk, &mut |segment, walk| {
            self.replay_witnessed(walk)?;
            if segment.sequence != done.sequence {
                done = Done { sequence: segment.sequence, before: done.before + segment.len };
            }
            if walk.report.frames.is_multiple_of(4096) {
                let bytes_done = done.before + walk.offset;
                self.progress(OpenPhase::Replay, bytes_done, bytes_total, walk.report.frames)?;
            }
            Ok(ControlFlow::Continue(()))
        })?;
        self.progress(OpenPhase::Replay, bytes_total, bytes_total, walk.report.frames)?;
        Ok(walk)
    }

    /// Whether the log says that the image with this name counts.
    fn is_confirmed(
        &self,
        segments: &mut Segments<D::File>,
        cuts: &Cuts,
        start: &Summary,
        image: ImageName,
    ) -> Result<bool> {
        let (mut walk, mut found) = (Walk::start(start), false);
        follow(segments, cuts, &mut walk, &mut |segment, walk| {
            if let Some((_, frame)) = walk.unwitnessed.pop_back() {
                found = segment.confirmed(&frame)? == Some(image);
            }
            Ok(if found { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        Ok(found)
    }

    /// Puts witnessed frames in the index.
    fn replay_witnessed(&self, walk: &mut Walk) -> Result<()> {
        while walk.unwitnessed.front().is_some_and(|(_, f)| f.header.lsn <= walk.durable) {
            let Some((sequence, frame)) = walk.unwitnessed.pop_front() else { return Ok(()) };
            // A mark may be seen though its own sync failed, and so may the name of a segment in which
            // nothing follows the cut. So the next cut is made behind the last witnessed commit.
            if frame.header.kind == Kind::Commit || planted(Bug::CutBehindMarks) {
                let offset = frame.header.next_offset(frame.offset);
                let place = LogPosition { sequence, offset, chain: frame.crc };
                walk.witnessed = (place, frame.header.lsn);
            }
            self.load(sequence, &frame)?;
        }
        Ok(())
    }

    fn load(&self, sequence: u64, frame: &Frame) -> Result<()> {
        let index = &self.mvcc.index;
        let count = |old: Option<&Location>, new: Option<&Location>| self.usage.count(old, new);
        for (offset, entry) in frame.placed() {
            index.touch(entry.id())?;
            let place = |header| Location::new(header, sequence, offset);
            let lsn = frame.header.lsn;
            match entry {
                Entry::Write(header) => {
                    self.mvcc.load([(header.block_id, lsn, Some(place(header)))], count);
                }
                Entry::Delete(_) if planted(Bug::DeletionUnreplayed) => {}
                Entry::Delete(id) => self.mvcc.load([(*id, lsn, None)], count),
                Entry::Move(header, origin) => {
                    let new = place(header);
                    index.relocate(header.block_id, *origin, new, |old| {
                        count(Some(old), Some(&new));
                    });
                }
            }
        }
        Ok(())
    }

    /// Step 3. True when the store was closed cleanly.
    fn decide(&self, segments: &mut Segments<D::File>, walk: &mut Walk) -> Result<bool> {
        let mut torn_len = 0;
        let mut durable = walk.durable;
        for (sequence, segment) in segments.range_mut(walk.sequence..) {
            let is_tail = *sequence == walk.sequence;
            if !is_tail && planted(Bug::LaterSegmentsUnseen) {
                continue;
            }
            let (from, zeros_max) =
                if is_tail { (walk.offset, u64::MAX) } else { (PAGE, UNUSED_LEN) };
            let (stated, torn) = segment.evidence(from, zeros_max)?;
            durable = durable.max(stated);
            torn_len += torn;
        }
        let Some(segment) = segments.get_mut(&walk.sequence) else {
            return Err(damaged(FileName::Segment(0), 0, Defect::MissingSegment));
        };
        let refused = torn_len > 0
            && (planted(Bug::TornTailIsDamage)
                || planted(Bug::GarbageIsDamage)
                    && matches!(segment.frame_at(walk.offset)?, Found::Nothing));
        if refused || durable > walk.last_complete() && !planted(Bug::DamageIsTheEnd) {
            let defect = match segment.frame_at(walk.offset)? {
                Found::BadTable(_) => Defect::OpTable,
                Found::Frame(_) => Defect::BrokenChain,
                Found::Nothing => Defect::FrameHeader,
            };
            let lsn = Lsn(walk.last_complete().0 + 1);
            if planted(Bug::RefusedIsRepaired) {
                walk.durable = Lsn(0);
                self.start_over(segments, walk, None, self.next_number)?;
                return Ok(false);
            }
            return Err(segment.damage(defect, walk.offset, lsn));
        }
        walk.durable = durable;
        self.replay_witnessed(walk)?;
        walk.report.torn_bytes = torn_len;
        let clean = walk.last_kind == Kind::End && torn_len == 0 && walk.unwitnessed.is_empty();
        if !clean {
            self.drop_torn(segments, walk)?;
            // What cannot be put in the index is refused before anything is changed.
            for entry in walk.unwitnessed.iter().flat_map(|(_, frame)| &frame.entries) {
                self.mvcc.index.touch(entry.id())?;
            }
        }
        Ok(clean)
    }

    /// Drops unwitnessed frames from the first one on whose payloads are not intact.
    fn drop_torn(&self, segments: &mut Segments<D::File>, walk: &mut Walk) -> Result<()> {
        let mut keep = 0;
        for (at, (sequence, frame)) in walk.unwitnessed.iter().enumerate() {
            let Some(segment) = segments.get_mut(sequence) else { break };
            if first_bad_payload(segment, frame)?.is_some() && !planted(Bug::PayloadUnread) {
                break;
            }
            if frame.header.last_part || planted(Bug::PartsAreSealed) {
                keep = at + 1;
            }
        }
        let dropped = walk.unwitnessed.drain(keep..);
        let dropped_len: u64 = dropped.map(|(_, f)| u64::from(f.header.frame_len)).sum();
        walk.report.torn_bytes += dropped_len;
        walk.unwitnessed.retain(|(_, frame)| frame.header.kind == Kind::Commit);
        walk.last_lsn = walk.unwitnessed.back().map_or(walk.witnessed.1, |(_, f)| f.header.lsn);
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
            segment.show(self.views, opened.len_max)?;
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
    fn name_again(&self, walk: &Walk) -> Result<u64> {
        if walk.last_lsn > Lsn(0) || planted(Bug::NameComesLast) {
            return Ok(self.next_number);
        }
        name_store(self.disk, self.store, self.next_number)?;
        Ok(self.next_number + 1)
    }

    /// Steps 4 and 5 after anything else.
    fn start_over(
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
        let shown = self.views.insert(sequence, number, &segment.file, segment.len_max);
        shown.map_err(|e| Error::io(IoOp::Map, self.disk.path(), e))?;
        for (_, frame) in &walk.unwitnessed {
            self.load(sequence, frame)?;
        }
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
            file.set_len(cut_offset).map_err(|e| Error::io(IoOp::Resize, &path, e))?;
            segment.len = cut_offset;
        }
        Ok(())
    }

    fn remove(&self, names: impl IntoIterator<Item = FileName>) -> Result<()> {
        for name in names {
            let path = path_of(self.disk.path(), name);
            self.disk.remove(name).map_err(|e| Error::io(IoOp::Remove, path, e))?;
        }
        Ok(())
    }

    /// Removals, and the names of segments that the last session made ahead: it may have been killed
    /// before it synced them.
    fn sync_names(&self) -> Result<()> {
        if planted(Bug::NamesOfRecovery) {
            return Ok(());
        }
        self.disk.sync_dir().map_err(|e| Error::io(IoOp::Sync, self.disk.path(), e))
    }

    fn progress(
        &self,
        phase: OpenPhase,
        bytes_done: u64,
        bytes_total: u64,
        frames: u64,
    ) -> Result<()> {
        let Some(watch) = &self.on_progress else { return Ok(()) };
        match watch(OpenProgress { phase, bytes_done, bytes_total, frames }) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Aborted),
        }
    }
}

/// How far a walk has come, in bytes.
struct Done {
    sequence: u64,
    before: u64,
}

/// Told of each frame of a walk.
type Took<'a, F> = dyn FnMut(&mut Scanner<F>, &mut Walk) -> Result<ControlFlow<()>> + 'a;

/// Follows the chain of frames, past cuts, until no frame continues it or `took` breaks.
fn follow<F: DiskFile>(
    segments: &mut Segments<F>,
    cuts: &Cuts,
    walk: &mut Walk,
    took: &mut Took<'_, F>,
) -> Result<()> {
    loop {
        let Some(segment) = segments.get_mut(&walk.sequence) else { return Ok(()) };
        let cut = cuts.get(&walk.sequence).copied();
        let cut_at = cut.filter(|_| !planted(Bug::CutVoidsNothing));
        let end = cut_at.map_or(segment.len, |(offset, _)| offset);
        while walk.offset < end
            && let Found::Frame(frame) = segment.frame_at(walk.offset)?
            && walk.continues(&frame)
        {
            walk.take(walk.sequence, frame);
            if took(segment, walk)?.is_break() {
                return Ok(());
            }
        }
        let next = match cut {
            // What a cut leaves in place was durable when it was made.
            Some((offset, _)) if walk.offset != offset => {
                return Err(segment.damage(Defect::FrameHeader, walk.offset, walk.next_lsn()));
            }
            Some((_, next)) => next,
            None => walk.sequence + 1,
        };
        if cut.is_none() && planted(Bug::SecondSegmentUnread) {
            return Ok(());
        }
        let Some(segment) = segments.get_mut(&next) else { return Ok(()) };
        match segment.frame_at(PAGE)? {
            Found::Frame(frame) if walk.continues(&frame) => {
                (walk.sequence, walk.offset) = (next, PAGE);
            }
            _ => return Ok(()),
        }
    }
}

/// The cuts that the first frames of segments state. Those before `start` are history.
///
/// # Errors
/// [`Error::Corrupt`]: what a frame says is impossible, or `start` itself was cut away.
fn find_cuts<F: DiskFile>(segments: &mut Segments<F>, start: LogPosition) -> Result<Cuts> {
    let mut cuts = BTreeMap::new();
    for (sequence, scanner) in segments {
        let Some(cut) = scanner.cut()? else { continue };
        // It voids what was there before it. Otherwise the walk would go round in circles.
        if cut.sequence >= *sequence && !planted(Bug::CutInACircle) {
            return Err(scanner.damage(Defect::BrokenChain, PAGE, Lsn(0)));
        }
        let place = (cut.sequence, cut.offset);
        if place < (start.sequence, start.offset) {
            if start.sequence < *sequence {
                return Err(scanner.damage(Defect::Unconfirmed, PAGE, Lsn(0)));
            }
            continue;
        }
        let place = cuts.entry(cut.sequence).or_insert((cut.offset, *sequence));
        // The later one holds what counted of the earlier one.
        if place.1 < *sequence {
            *place = (cut.offset, *sequence);
        }
    }
    Ok(cuts)
}

/// The offset and entry of the first payload of a frame that does not match its checksum.
pub(crate) fn first_bad_payload<F: DiskFile>(
    segment: &mut Scanner<F>,
    frame: &Frame,
) -> Result<Option<(u64, Entry)>> {
    for (offset, entry) in frame.placed() {
        if let Some(header) = entry.written() {
            let pad =
                if planted(Bug::PaddedChecksum) { header.data_size.wrapping_neg() % 8 } else { 0 };
            let payload = segment.payload(offset, header.data_size + pad)?;
            if payload.len() != (header.data_size + pad) as usize
                || checksum::crc32c(payload) != header.checksum
            {
                return Ok(Some((offset, *entry)));
            }
        }
    }
    Ok(None)
}

impl Walk {
    fn start(at: &Summary) -> Walk {
        Walk {
            sequence: at.position.sequence,
            offset: at.position.offset,
            chain: at.position.chain,
            last_lsn: at.lsn,
            durable: at.lsn,
            last_kind: Kind::Witness,
            last_previous: 0,
            parts_open: false,
            unwitnessed: VecDeque::new(),
            witnessed: (at.position, at.lsn),
            report: RecoveryReport::default(),
        }
    }

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
        (header.previous == self.chain || planted(Bug::ChainUnchecked)) && in_order
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
