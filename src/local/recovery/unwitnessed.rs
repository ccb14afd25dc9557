//! Unwitnessed: the frames at the end of the chain that no later frame states durable.
//!
//! Owns [`Queue`], which holds the first of them, and the walks through all of them. The length of
//! a commit is not limited, so at most [`HELD_LEN_MAX`] bytes of frames and one more frame are
//! held. The rest is read from the log again by each walk. Invariants:
//!
//! 1. The held frames are the first unwitnessed ones, in the order of the chain, without gaps.
//! 2. The queue is empty only if nothing is unwitnessed, or until its refill.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use super::walk::{ChainEnd, Walk, follow_chain};
use super::{Cuts, Segments};
use crate::error::Result;
use crate::io::DiskFile;
use crate::local::format::frame::TableRow;
use crate::local::read::scan::{Frame, Scanner};

/// Bytes of held frames: the tables of some ten thousand blocks.
const HELD_LEN_MAX: usize = 1 << 20;

/// The first unwitnessed frames, with their segments.
#[derive(Debug, Default)]
pub(super) struct Queue {
    held: VecDeque<(u64, Frame)>,
    held_len: usize,
    /// The end of the chain before the first frame that is not held.
    left_out: Option<ChainEnd>,
    /// Bytes of all unwitnessed frames in the log.
    frames_len: u64,
}

impl Queue {
    /// Adds the next frame of the chain, which lies behind `before`.
    pub(super) fn push_frame(&mut self, before: ChainEnd, sequence: u64, frame: Frame) {
        self.frames_len += u64::from(frame.header.frame_len);
        self.hold_if_fits(before, sequence, frame);
    }

    fn hold_if_fits(&mut self, before: ChainEnd, sequence: u64, frame: Frame) {
        if self.left_out.is_some() {
            return;
        }
        debug_assert!(
            self.held.back().is_none_or(|(_, last)| last.header.lsn <= frame.header.lsn),
            "frames are held in the order of the chain"
        );
        let len = memory_len(&frame);
        if self.held.is_empty() || self.held_len + len <= HELD_LEN_MAX {
            self.held_len += len;
            self.held.push_back((sequence, frame));
        } else {
            self.left_out = Some(before);
        }
    }

    pub(super) fn first_held(&self) -> Option<&(u64, Frame)> {
        self.held.front()
    }

    pub(super) fn pop_front(&mut self) -> Option<(u64, Frame)> {
        let popped = self.held.pop_front();
        self.subtract_frame(popped.as_ref());
        popped
    }

    pub(super) fn pop_back(&mut self) -> Option<(u64, Frame)> {
        let popped = self.held.pop_back();
        self.subtract_frame(popped.as_ref());
        popped
    }

    fn subtract_frame(&mut self, popped: Option<&(u64, Frame)>) {
        if let Some((_, frame)) = popped {
            debug_assert!(memory_len(frame) <= self.held_len, "a popped frame was counted");
            self.held_len -= memory_len(frame);
            self.frames_len -= u64::from(frame.header.frame_len);
            debug_assert!(!self.held.is_empty() || self.held_len == 0, "the length is the sum");
        }
    }

    /// Whether nothing is unwitnessed.
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty() && self.left_out.is_none()
    }

    /// Whether frames must be read again before the first one is known.
    pub(super) fn needs_refill(&self) -> bool {
        self.held.is_empty() && self.left_out.is_some()
    }

    /// Bytes of all unwitnessed frames in the log.
    pub(super) fn frames_len(&self) -> u64 {
        self.frames_len
    }
}

fn memory_len(frame: &Frame) -> usize {
    size_of::<Frame>() + frame.entries.len() * size_of::<TableRow>()
}

/// Called with each frame and a reader of its segment.
type Look<'a, F> = dyn FnMut(&mut Scanner<F>, &Frame) -> Result<ControlFlow<()>> + 'a;

/// Reads frames that are not held again, and holds as many as fit.
pub(super) fn refill_queue<F: DiskFile>(
    segments: &mut Segments<F>,
    cuts: &Cuts,
    walk: &mut Walk,
) -> Result<()> {
    assert!(walk.unwitnessed.needs_refill(), "held frames come first");
    let Some(mut before) = walk.unwitnessed.left_out.take() else { return Ok(()) };
    let (mut again, end) = (Walk::from_chain_end(before), walk.at);
    follow_chain(segments, cuts, &mut again, &mut |_, again| {
        while let Some((sequence, frame)) = again.unwitnessed.pop_front() {
            walk.unwitnessed.hold_if_fits(before, sequence, frame);
        }
        before = again.at;
        let is_done = walk.unwitnessed.left_out.is_some() || again.at == end;
        Ok(if is_done { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })
}

/// Visits all unwitnessed frames of a chain that was followed to its end.
pub(super) fn visit_unwitnessed<F: DiskFile>(
    segments: &mut Segments<F>,
    cuts: &Cuts,
    walk: &Walk,
    look: &mut Look<'_, F>,
) -> Result<()> {
    for (sequence, frame) in &walk.unwitnessed.held {
        let Some(segment) = segments.get_mut(sequence) else { return Ok(()) };
        if look(segment, frame)?.is_break() {
            return Ok(());
        }
    }
    let Some(from) = walk.unwitnessed.left_out else { return Ok(()) };
    follow_chain(segments, cuts, &mut Walk::from_chain_end(from), &mut |segment, again| match again
        .unwitnessed
        .pop_front()
    {
        Some((_, frame)) => look(segment, &frame),
        None => Ok(ControlFlow::Continue(())),
    })
}

/// Visits the unwitnessed frames that count, once that is decided.
pub(super) fn visit_counted<F: DiskFile>(
    segments: &mut Segments<F>,
    cuts: &Cuts,
    walk: &Walk,
    look: &mut dyn FnMut(&mut Scanner<F>, &Frame) -> Result<()>,
) -> Result<()> {
    let mut left = walk.kept.frame_count;
    visit_unwitnessed(segments, cuts, walk, &mut |segment, frame| {
        if left == 0 {
            return Ok(ControlFlow::Break(()));
        }
        left -= 1;
        look(segment, frame)?;
        Ok(ControlFlow::Continue(()))
    })
}
