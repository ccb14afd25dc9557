//! Walk: follows the chain of frames and hands them to replay.
//!
//! Owns step 2 of recovery. [`ChainEnd`] is the end of the chain so far and decides which frame
//! continues it. [`Walk`] moves witnessed frames into the batch for the index (`replay`). Changes
//! no file. Invariant: frames enter the batch in the order of the chain, and those of `unwitnessed`
//! are not in it.

use std::ops::ControlFlow;

use super::decide::CountedFrames;
use super::replay::ReplayBatch;
use super::unwitnessed::{Queue, refill_queue};
use super::{Cuts, Recovery, RecoveryReport, Segments};
use crate::block::Lsn;
use crate::error::{Defect, Result};
use crate::io::{Disk, DiskFile};
use crate::local::format::PAGE;
use crate::local::format::checkpoint::{LogPosition, Summary};
use crate::local::format::frame::Kind;
use crate::local::options::OpenPhase;
use crate::local::read::scan::{Found, Frame, Scanner};

/// The end of the chain so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChainEnd {
    pub(super) sequence: u64,
    pub(super) offset: u64,
    pub(super) chain: u32,
    pub(super) last_lsn: Lsn,
    pub(super) last_kind: Kind,
    /// The chain before the last frame.
    pub(super) last_previous: u32,
    /// Whether the last commit has parts still to come.
    parts_open: bool,
}

/// The state of a walk along the chain.
pub(super) struct Walk {
    pub(super) at: ChainEnd,
    /// The newest LSN that a frame states durable.
    pub(super) durable: Lsn,
    /// Frames beyond `durable`.
    pub(super) unwitnessed: Queue,
    /// The place and chain behind the last witnessed commit.
    pub(super) witnessed: (LogPosition, Lsn),
    /// The unwitnessed frames that count, once that is decided.
    pub(super) kept: CountedFrames,
    /// Witnessed frames that are not in the index yet.
    pub(super) batch: ReplayBatch,
    pub(super) report: RecoveryReport,
}

/// Progress of a walk: the segment it reads, and the bytes of all segments before.
struct Done {
    sequence: u64,
    before: u64,
}

/// Called after each frame of a walk, with a reader of its segment.
type OnFrame<'a, F> = dyn FnMut(&mut Scanner<F>, &mut Walk) -> Result<ControlFlow<()>> + 'a;

impl<D: Disk> Recovery<'_, D> {
    /// Step 2: follows the chain to its end and loads witnessed frames into the index.
    pub(super) fn walk_chain(
        &self,
        segments: &mut Segments<D::File>,
        cuts: &Cuts,
        start: &Summary,
    ) -> Result<Walk> {
        let bytes_total = segments.values().map(|segment| segment.len).sum();
        let mut walk = Walk::from_checkpoint(start);
        assert!(segments.contains_key(&walk.at.sequence), "the survey has the first segment");
        walk.report.segments = segments.len() as u64;
        let mut done = Done { sequence: walk.at.sequence, before: 0 };
        loop {
            follow_chain(segments, cuts, &mut walk, &mut |segment, walk| {
                self.replay_held(walk)?;
                if segment.sequence != done.sequence {
                    done = Done { sequence: segment.sequence, before: done.before + segment.len };
                }
                if walk.report.frames.is_multiple_of(4096) {
                    let bytes_done = done.before + walk.at.offset;
                    self.report_progress(
                        OpenPhase::Replay,
                        bytes_done,
                        bytes_total,
                        walk.report.frames,
                    )?;
                }
                let needs_refill = walk.unwitnessed.needs_refill();
                Ok(if needs_refill { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            })?;
            if !walk.unwitnessed.needs_refill() {
                break;
            }
            self.replay_witnessed(segments, cuts, &mut walk)?;
        }
        self.load_batch(&mut walk.batch)?;
        self.report_progress(OpenPhase::Replay, bytes_total, bytes_total, walk.report.frames)?;
        Ok(walk)
    }

    /// Moves all witnessed frames into the batch, and loads the batch into the index when it is
    /// full.
    pub(super) fn replay_witnessed(
        &self,
        segments: &mut Segments<D::File>,
        cuts: &Cuts,
        walk: &mut Walk,
    ) -> Result<()> {
        self.replay_held(walk)?;
        while walk.unwitnessed.needs_refill() {
            refill_queue(segments, cuts, walk)?;
            self.replay_held(walk)?;
        }
        let first = walk.unwitnessed.first_held();
        assert!(
            first.is_none_or(|(_, frame)| frame.header.lsn > walk.durable),
            "frames stated durable are in the batch"
        );
        Ok(())
    }

    fn replay_held(&self, walk: &mut Walk) -> Result<()> {
        while walk.unwitnessed.first_held().is_some_and(|(_, f)| f.header.lsn <= walk.durable) {
            let Some((sequence, frame)) = walk.unwitnessed.pop_front() else { return Ok(()) };
            // As in `count_frame`: the next truncation record names the place behind a commit.
            if frame.header.kind == Kind::Commit {
                let offset = frame.header.next_frame_offset(frame.offset);
                let place = LogPosition { sequence, offset, chain: frame.crc };
                walk.witnessed = (place, frame.header.lsn);
            }
            walk.batch.push_frame(sequence, &frame);
            self.load_batch_if_full(&mut walk.batch)?;
        }
        Ok(())
    }
}

/// Follows the chain of frames, past truncation records, until no frame continues it or `took`
/// breaks.
pub(super) fn follow_chain<F: DiskFile>(
    segments: &mut Segments<F>,
    cuts: &Cuts,
    walk: &mut Walk,
    took: &mut OnFrame<'_, F>,
) -> Result<()> {
    loop {
        let Some(segment) = segments.get_mut(&walk.at.sequence) else { return Ok(()) };
        let cut = cuts.get(&walk.at.sequence).copied();
        let end = cut.map_or(segment.len, |(offset, _)| offset);
        while walk.at.offset < end
            && let Found::Frame(frame) = segment.read_frame_at(walk.at.offset)?
            && walk.at.is_continued_by(&frame)
        {
            walk.take_frame(frame);
            if took(segment, walk)?.is_break() {
                return Ok(());
            }
        }
        let next = match cut {
            // All before the place of a truncation record was durable when the record was made.
            Some((offset, _)) if walk.at.offset != offset => {
                let lsn = walk.at.next_lsn();
                return Err(segment.damage_at(Defect::FrameHeader, walk.at.offset, lsn));
            }
            Some((_, next)) => next,
            None => walk.at.sequence + 1,
        };
        segment.free_window();
        let Some(segment) = segments.get_mut(&next) else { return Ok(()) };
        match segment.read_frame_at(PAGE)? {
            Found::Frame(frame) if walk.at.is_continued_by(&frame) => {
                (walk.at.sequence, walk.at.offset) = (next, PAGE);
            }
            _ => return Ok(()),
        }
    }
}

impl Walk {
    pub(super) fn from_checkpoint(at: &Summary) -> Walk {
        let LogPosition { sequence, offset, chain } = at.position;
        Walk::from_chain_end(ChainEnd {
            sequence,
            offset,
            chain,
            last_lsn: at.lsn,
            last_kind: Kind::Witness,
            last_previous: 0,
            parts_open: false,
        })
    }

    /// A walk that begins at the end of a chain.
    pub(super) fn from_chain_end(at: ChainEnd) -> Walk {
        let witnessed = (at.position(), at.last_lsn);
        Walk {
            at,
            durable: at.last_lsn,
            unwitnessed: Queue::default(),
            witnessed,
            kept: CountedFrames::default(),
            batch: ReplayBatch::default(),
            report: RecoveryReport::default(),
        }
    }

    fn take_frame(&mut self, frame: Frame) {
        let (before, sequence) = (self.at, self.at.sequence);
        self.at.pass_frame(&frame);
        self.durable = self.durable.max(frame.header.durable);
        self.report.frames += 1;
        self.report.bytes += u64::from(frame.header.frame_len);
        self.unwitnessed.push_frame(before, sequence, frame);
    }
}

impl ChainEnd {
    pub(super) fn position(&self) -> LogPosition {
        LogPosition { sequence: self.sequence, offset: self.offset, chain: self.chain }
    }

    /// The last commit of which the chain has all parts.
    pub(super) fn last_complete_lsn(&self) -> Lsn {
        debug_assert!(!self.parts_open || self.last_lsn > Lsn(0), "an open commit has an LSN");
        Lsn(self.last_lsn.0 - u64::from(self.parts_open))
    }

    fn next_lsn(&self) -> Lsn {
        Lsn(self.last_lsn.0 + 1)
    }

    /// Whether a frame was written right behind the last frame of the chain.
    fn is_continued_by(&self, frame: &Frame) -> bool {
        let header = &frame.header;
        let in_order = match header.kind {
            Kind::Commit if self.parts_open => header.lsn == self.last_lsn && header.part > 0,
            Kind::Commit => header.lsn == self.next_lsn() && header.part == 0,
            _ => header.lsn == self.last_lsn && !self.parts_open,
        };
        header.previous == self.chain && in_order
    }

    fn pass_frame(&mut self, frame: &Frame) {
        debug_assert!(self.is_continued_by(frame), "the chain has no gap");
        debug_assert_eq!(frame.offset, self.offset, "a frame lies behind the one before");
        let header = &frame.header;
        self.last_previous = header.previous;
        self.chain = frame.crc;
        self.last_lsn = header.lsn;
        self.last_kind = header.kind;
        self.parts_open = !header.last_part;
        self.offset = header.next_frame_offset(frame.offset);
    }
}
