//! Walk: along the chain of frames, into the index.
//!
//! Owns step 2 of recovery: [`ChainEnd`], the end of the chain so far, which knows what frame continues it;
//! [`Walk`], which frames go into the batch for the index (`replay`). Changes no file. Invariant: frames get
//! there in the order of the chain, and those of `unwitnessed` are not there yet.

use std::ops::ControlFlow;

use super::decide::CountedFrames;
use super::replay::ReplayBatch;
use super::unwitnessed::{Queue, refill};
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

/// Along the chain.
pub(super) struct Walk {
    pub(super) at: ChainEnd,
    /// The newest LSN that a frame knows durable.
    pub(super) durable: Lsn,
    /// Frames beyond `durable`.
    pub(super) unwitnessed: Queue,
    /// The place and chain behind the last witnessed commit.
    pub(super) witnessed: (LogPosition, Lsn),
    /// What of the unwitnessed frames counts, once that is decided.
    pub(super) kept: CountedFrames,
    /// Witnessed, and not in the index yet.
    pub(super) batch: ReplayBatch,
    pub(super) report: RecoveryReport,
}

/// How far a walk has come, in bytes.
struct Done {
    sequence: u64,
    before: u64,
}

/// Told of each frame of a walk.
type OnFrame<'a, F> = dyn FnMut(&mut Scanner<F>, &mut Walk) -> Result<ControlFlow<()>> + 'a;

impl<D: Disk> Recovery<'_, D> {
    /// Step 2.
    pub(super) fn walk(
        &self,
        segments: &mut Segments<D::File>,
        cuts: &Cuts,
        start: &Summary,
    ) -> Result<Walk> {
        let bytes_total = segments.values().map(|segment| segment.len).sum();
        let mut walk = Walk::start(start);
        walk.report.segments = segments.len() as u64;
        let mut done = Done { sequence: walk.at.sequence, before: 0 };
        loop {
            follow(segments, cuts, &mut walk, &mut |segment, walk| {
                self.replay_held(walk)?;
                if segment.sequence != done.sequence {
                    done = Done { sequence: segment.sequence, before: done.before + segment.len };
                }
                if walk.report.frames.is_multiple_of(4096) {
                    let bytes_done = done.before + walk.at.offset;
                    self.progress(OpenPhase::Replay, bytes_done, bytes_total, walk.report.frames)?;
                }
                let wants_refill = walk.unwitnessed.wants_refill();
                Ok(if wants_refill { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            })?;
            if !walk.unwitnessed.wants_refill() {
                break;
            }
            self.replay_witnessed(segments, cuts, &mut walk)?;
        }
        self.load(&mut walk.batch)?;
        self.progress(OpenPhase::Replay, bytes_total, bytes_total, walk.report.frames)?;
        Ok(walk)
    }

    /// Takes witnessed frames into the batch, and that into the index when it is full.
    pub(super) fn replay_witnessed(
        &self,
        segments: &mut Segments<D::File>,
        cuts: &Cuts,
        walk: &mut Walk,
    ) -> Result<()> {
        self.replay_held(walk)?;
        while walk.unwitnessed.wants_refill() {
            refill(segments, cuts, walk)?;
            self.replay_held(walk)?;
        }
        Ok(())
    }

    fn replay_held(&self, walk: &mut Walk) -> Result<()> {
        while walk.unwitnessed.first().is_some_and(|(_, f)| f.header.lsn <= walk.durable) {
            let Some((sequence, frame)) = walk.unwitnessed.pop_front() else { return Ok(()) };
            // As for those that are kept: the next cut is made behind a commit.
            if frame.header.kind == Kind::Commit {
                let offset = frame.header.next_frame_offset(frame.offset);
                let place = LogPosition { sequence, offset, chain: frame.crc };
                walk.witnessed = (place, frame.header.lsn);
            }
            walk.batch.push(sequence, &frame);
            self.load_full(&mut walk.batch)?;
        }
        Ok(())
    }
}

/// Follows the chain of frames, past cuts, until no frame continues it or `took` breaks.
pub(super) fn follow<F: DiskFile>(
    segments: &mut Segments<F>,
    cuts: &Cuts,
    walk: &mut Walk,
    took: &mut OnFrame<'_, F>,
) -> Result<()> {
    loop {
        let Some(segment) = segments.get_mut(&walk.at.sequence) else { return Ok(()) };
        let cut = cuts.get(&walk.at.sequence).copied();
        let cut_at = cut;
        let end = cut_at.map_or(segment.len, |(offset, _)| offset);
        while walk.at.offset < end
            && let Found::Frame(frame) = segment.read_frame_at(walk.at.offset)?
            && walk.at.continues(&frame)
        {
            walk.take(frame);
            if took(segment, walk)?.is_break() {
                return Ok(());
            }
        }
        let next = match cut {
            // What a cut leaves in place was durable when it was made.
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
            Found::Frame(frame) if walk.at.continues(&frame) => {
                (walk.at.sequence, walk.at.offset) = (next, PAGE);
            }
            _ => return Ok(()),
        }
    }
}

impl Walk {
    pub(super) fn start(at: &Summary) -> Walk {
        let LogPosition { sequence, offset, chain } = at.position;
        Walk::from(ChainEnd {
            sequence,
            offset,
            chain,
            last_lsn: at.lsn,
            last_kind: Kind::Witness,
            last_previous: 0,
            parts_open: false,
        })
    }

    /// Begins at the end of a chain.
    pub(super) fn from(at: ChainEnd) -> Walk {
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

    fn take(&mut self, frame: Frame) {
        let (before, sequence) = (self.at, self.at.sequence);
        self.at.pass(&frame);
        self.durable = self.durable.max(frame.header.durable);
        self.report.frames += 1;
        self.report.bytes += u64::from(frame.header.frame_len);
        self.unwitnessed.push(before, sequence, frame);
    }
}

impl ChainEnd {
    pub(super) fn position(&self) -> LogPosition {
        LogPosition { sequence: self.sequence, offset: self.offset, chain: self.chain }
    }

    /// The last commit that all parts of are there.
    pub(super) fn last_complete(&self) -> Lsn {
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

    fn pass(&mut self, frame: &Frame) {
        let header = &frame.header;
        self.last_previous = header.previous;
        self.chain = frame.crc;
        self.last_lsn = header.lsn;
        self.last_kind = header.kind;
        self.parts_open = !header.last_part;
        self.offset = header.next_frame_offset(frame.offset);
    }
}
