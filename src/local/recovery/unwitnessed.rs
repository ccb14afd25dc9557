//! Unwitnessed: the frames at the end of the chain that no later frame vouches for.
//!
//! Owns [`Queue`], which holds the first of them, and the walks through all of them. A commit may be as long as
//! its caller likes, so only [`HELD_LEN_MAX`] bytes of frames are held, and one more frame; those that found no
//! room are read from the log again, once for each walk. Invariants:
//!
//! 1. What is held is the beginning of what is unwitnessed, in the order of the chain, without gaps.
//! 2. The queue is empty only when nothing is unwitnessed, but for the moment before a refill_queue.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use super::walk::{ChainEnd, Walk, follow_chain};
use super::{Cuts, Segments};
use crate::error::Result;
use crate::io::DiskFile;
use crate::local::format::frame::TableRow;
use crate::local::read::scan::{Frame, Scanner};

/// Bytes of frames that are held: the tables of some ten thousand blocks.
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
    /// Takes the next frame of the chain in, which stands behind `before`.
    pub(super) fn push_frame(&mut self, before: ChainEnd, sequence: u64, frame: Frame) {
        self.frames_len += u64::from(frame.header.frame_len);
        self.hold_if_fits(before, sequence, frame);
    }

    fn hold_if_fits(&mut self, before: ChainEnd, sequence: u64, frame: Frame) {
        if self.left_out.is_some() {
            return;
        }
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
            self.held_len -= memory_len(frame);
            self.frames_len -= u64::from(frame.header.frame_len);
        }
    }

    /// Whether nothing is unwitnessed.
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty() && self.left_out.is_none()
    }

    /// Whether frames have to be read again before the first one is known.
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

/// Told of each frame, with a reader of its segment.
type Look<'a, F> = dyn FnMut(&mut Scanner<F>, &Frame) -> Result<ControlFlow<()>> + 'a;

/// Holds as many frames of those that found no room as there is room for now.
pub(super) fn refill_queue<F: DiskFile>(
    segments: &mut Segments<F>,
    cuts: &Cuts,
    walk: &mut Walk,
) -> Result<()> {
    assert!(walk.unwitnessed.needs_refill(), "what is held comes first");
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

/// Walks through all unwitnessed frames of a chain that was followed to its end.
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

/// Walks through those unwitnessed frames that count, once that is decided.
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
