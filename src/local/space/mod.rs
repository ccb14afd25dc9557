//! Space: log segments, made and zeroed ahead of the tail by the I/O workers.
//!
//! Owns every segment that is not written to yet, and how far the active one is written already (by
//! zeros or by frames). A sync is cheap where nothing but bytes changes: no length, no extents. So
//! the tail moves through space that was zeroed and synced before. Invariants:
//!
//! 1. The leader writes below `written` of the active segment only, and raises it by
//!    [`Space::extend_active`]. A worker zeroes at or above it only, so it never zeroes a frame.
//! 2. A segment is complete (header, first zeros) and durable under a `TMP-` name before it gets
//!    its `SEG-` name. That name is durable before the log uses the segment.
//! 3. No two segments have the same sequence, whatever a power cut leaves. A segment that was named
//!    and then not used is removed, durably, before another is made.
//! 4. Space, file length, descriptors and memory for another segment are taken before the first
//!    byte of a group is written. A shortage refuses the group as a whole and leaves nothing of it.
//!
//! A segment takes `segment_len` of this session. A block of an earlier session may be longer. The
//! empty segment that it is relocated to grows as far as this block needs
//! ([`Space::lengthen_segment`]).
//!
//! A segment that holds no live block becomes the next one ([`Space::keep_for_reuse`]), under a new
//! header, salt and name. Its space was written once and needs no zeros. It loses its old name,
//! durably, before its header changes. Segments that the log will not need soon go back to the file
//! system ([`Space::remove_segment_file`]).
//!
//! The length zeroed ahead grows with the length written, so a new store stays small. When the tail
//! catches up with large groups (a bulk load), zeroing would only take bandwidth from it. The log
//! then reserves unwritten space for itself, and zeroing pauses.

pub(crate) mod alarm;
mod make;
pub(crate) mod presence;
pub(crate) mod quota;
pub(crate) mod reserve;
pub(crate) mod usage;
mod work;

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::Arc;

pub(crate) use make::{SegmentMaker, Source, remove_durably};

use crate::error::{Error, IoOp, OverQuota, Resource, Result, SpaceLimit, shortage};
use crate::io::pool::IoPool;
use crate::io::{Disk, DiskFile, FileName, How};
use crate::local::format::description::Description;
use crate::local::format::{PAGE, page_up};
use crate::local::poison::Poison;
use crate::local::read::segment::{Segment, Views};
use crate::local::space::quota::Ledger;
use crate::local::space::reserve::{Fit, Reserve, SpaceClass, is_out_of_space};
use crate::local::stall::StallLog;
use crate::mvcc::counters::Counter;
use crate::stats::StallCause;
use crate::sync::{Condvar, Mutex};

/// Zeroed ahead in a new store, and by one step of a worker, at least.
const AHEAD_LEN_MIN: u64 = 1 << 20;
/// Zeroed by one step of a worker at most, because the tail may have to wait for it.
const STEP_LEN_MAX: u64 = 8 << 20;
/// Reserved at once when the tail has caught up.
const RESERVE_LEN: u64 = 1 << 20;
/// A group of this length that catches up with zeroing is a bulk load.
const BULK_LEN: u64 = 256 << 10;

// Direct writes take whole pages.
const _: () = assert!(AHEAD_LEN_MIN.is_multiple_of(PAGE) && STEP_LEN_MAX.is_multiple_of(PAGE));
const _: () = assert!(RESERVE_LEN.is_multiple_of(PAGE) && AHEAD_LEN_MIN <= STEP_LEN_MAX);

/// How to make segments.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SpaceOptions {
    pub(crate) segment_len: u64,
    pub(crate) ahead_len_max: u64,
    /// How log files are opened: for writing, or for reading in a read-only session.
    pub(crate) how: How,
}

/// The space of one store.
pub(crate) struct Space<D: Disk> {
    parts: SpaceParts<D>,
    pub(crate) reserve: Reserve<D>,
    state: Mutex<SpaceState<D::File>>,
    changed: Condvar,
    zeroed: Counter,
}

/// What a [`Space`] works with.
pub(crate) struct SpaceParts<D: Disk> {
    pub(crate) disk: Arc<D>,
    pub(crate) store: Description,
    pub(crate) options: SpaceOptions,
    pub(crate) views: Arc<Views>,
    pub(crate) poison: Arc<Poison>,
    /// `None` in single-threaded mode: the thread that needs space makes it.
    pub(crate) pool: Option<Arc<IoPool>>,
    pub(crate) quota: Option<Arc<Ledger>>,
    pub(crate) stalls: Arc<StallLog>,
}

struct SpaceState<F> {
    active: Ahead<F>,
    tail: u64,
    ready: VecDeque<Ahead<F>>,
    /// File numbers of segments out of use.
    spare: VecDeque<u64>,
    next_number: u64,
    next_sequence: u64,
    /// Bytes written by the log since open.
    appended: u64,
    /// Bytes that [`Space::await_zeroed_ahead`] asks for.
    wanted: u64,
    /// Bytes zeroed on request and not written yet.
    prepared: u64,
    bulk: bool,
    /// A worker runs, or is about to.
    working: bool,
    zeroing: Option<u64>,
    failure: Option<Arc<io::Error>>,
    closed: bool,
}

/// A segment and how far it is written. `written` is whole pages, at least the header's page, and
/// at most `len_max` of the segment.
struct Ahead<F> {
    segment: Arc<Segment<F>>,
    /// The zeroing descriptor.
    zeroer: Arc<F>,
    written: u64,
}

impl<F> Ahead<F> {
    fn unwritten_len(&self) -> u64 {
        debug_assert!(
            self.written <= self.segment.len_max(),
            "a segment is written inside its length"
        );
        self.segment.len_max() - self.written
    }
}

/// Where the log continues.
pub(crate) struct Tail<F> {
    pub(crate) segment: Arc<Segment<F>>,
    pub(crate) offset: u64,
    /// Bytes of the segment that are written already.
    pub(crate) written: u64,
}

impl<D: Disk> Space<D> {
    /// Continues behind the tail that recovery found. `ready` are the segments behind it, in log
    /// order.
    pub(crate) fn new(
        parts: SpaceParts<D>,
        reserve: Reserve<D>,
        tail: Tail<D::File>,
        ready: Vec<(Segment<D::File>, u64)>,
        next_number: u64,
    ) -> io::Result<Space<D>> {
        let SpaceParts { disk, options, .. } = &parts;
        let ahead = |segment: Arc<Segment<D::File>>, written| {
            let zeroer = Arc::new(disk.open(FileName::Segment(segment.number), options.how)?);
            Ok(Ahead { segment, zeroer, written })
        };
        let next_sequence = tail.segment.sequence + 1 + ready.len() as u64;
        let active = ahead(tail.segment, tail.written)?;
        let ready: io::Result<VecDeque<_>> =
            ready.into_iter().map(|(segment, written)| ahead(Arc::new(segment), written)).collect();
        let ready = ready?;
        let state = SpaceState {
            active,
            tail: tail.offset,
            ready,
            spare: VecDeque::new(),
            next_number,
            next_sequence,
            appended: 0,
            wanted: 0,
            prepared: 0,
            bulk: false,
            working: false,
            zeroing: None,
            failure: None,
            closed: false,
        };
        Ok(Space {
            parts,
            reserve,
            state: Mutex::new(state),
            changed: Condvar::new(),
            zeroed: Counter::default(),
        })
    }

    /// Bytes zeroed since open.
    pub(crate) fn zeroed_len(&self) -> u64 {
        self.zeroed.sum()
    }

    /// Bytes of frames that fit into any segment still to come.
    pub(crate) fn segment_capacity(&self) -> u64 {
        self.parts.options.segment_len - PAGE
    }

    /// Admits ordinary writes to a store of so many blocks; they may not use the reserve. While the
    /// reserve is short, space that returns goes there first. True where the reserve should grow
    /// soon.
    ///
    /// # Errors
    /// [`Error::StorageFull`] and the disk's own.
    pub(crate) fn admit_ordinary_write(&self, block_count: u64) -> Result<bool> {
        let fit = self.reserve.level_for_blocks(block_count);
        if fit == Fit::TooSmall || self.reserve.is_short() {
            let suit = || self.reserve.resize_for_blocks(block_count);
            let suited = self.parts.stalls.wait(StallCause::Full, suit);
            suited.map_err(|source| self.allocation_error(source, self.reserve.missing_len()))?;
        }
        Ok(fit == Fit::Tight)
    }

    /// Whether only operations that reclaim space may take any.
    pub(crate) fn is_disk_or_quota_full(&self) -> bool {
        self.reserve.is_short()
            || self.parts.quota.as_ref().is_some_and(|quota| quota.is_over_quota())
    }

    /// The error for a request of `needed` bytes that is refused.
    pub(crate) fn storage_full_error(&self, needed: u64) -> Error {
        let ends = self.parts.quota.as_ref().filter(|quota| quota.remaining_len() < needed);
        let limit =
            ends.map_or(SpaceLimit::Disk, |quota| SpaceLimit::MaxBytes(quota.quota_len_max()));
        Error::StorageFull { needed, path: self.parts.disk.path().to_path_buf(), limit }
    }

    /// Lets the log write the active segment up to `end`.
    pub(crate) fn extend_active(&self, end: u64, class: SpaceClass) -> Result<()> {
        let state = self.state.lock();
        debug_assert!(end.is_multiple_of(PAGE), "a group ends on a page boundary");
        assert!(end <= state.active.segment.len_max(), "a group ends inside its segment");
        self.check_file_may_reach(&state.active, end)?;
        if end <= state.active.written {
            return Ok(());
        }
        drop(state);
        self.parts.stalls.wait(StallCause::SpaceAhead, || self.allocate_active(end, class))
    }

    /// Refuses an end that the process may not write up to, even over zeros that exist: its file
    /// length limit may have been lowered.
    fn check_file_may_reach(&self, ahead: &Ahead<D::File>, end: u64) -> Result<()> {
        let allowed = ahead.zeroer.may_reach(end);
        allowed.map_err(|source| self.allocation_error(source, end - ahead.written.min(end)))
    }

    fn allocate_active(&self, end: u64, class: SpaceClass) -> Result<()> {
        let mut state = self.state.lock();
        let sequence = state.active.segment.sequence;
        while state.active.written < end && state.zeroing == Some(sequence) {
            self.changed.wait(&mut state);
        }
        let written = state.active.written;
        if end <= written {
            return Ok(());
        }
        // The tail has caught up. No worker zeroes the active segment while this thread holds the
        // lock.
        state.bulk = end - state.tail >= BULK_LEN;
        let to = end.max(written + RESERVE_LEN).min(state.active.segment.len_max());
        let zeroer = &state.active.zeroer;
        let more = (!self.is_disk_or_quota_full()).then(|| zeroer.reserve(written, to - written));
        let to = match more {
            Some(Ok(())) => to,
            Some(Err(source)) if !is_out_of_space(&source) && !is_file_length_limit(&source) => {
                return Err(self.allocation_error(source, to - written));
            }
            // No more than this group needs.
            Some(Err(_)) | None => {
                let reserved = self
                    .reserve
                    .retry_with_reserve(class, || zeroer.reserve(written, end - written));
                reserved.map_err(|source| self.allocation_error(source, end - written))?;
                end
            }
        };
        debug_assert!(end <= to, "the whole group is allocated");
        state.active.written = to;
        Ok(())
    }

    /// The `count`-th segment behind the active one, made if it is not there yet. The log continues
    /// in it after [`Space::advance_tail`].
    pub(crate) fn upcoming_segment(
        self: &Arc<Self>,
        count: usize,
        class: SpaceClass,
    ) -> Result<Arc<Segment<D::File>>> {
        debug_assert!(count > 0, "the active segment is not an upcoming one");
        if let Some(ahead) = self.state.lock().ready.get(count - 1) {
            return Ok(Arc::clone(&ahead.segment));
        }
        self.parts
            .stalls
            .wait(StallCause::NextSegment, || self.await_upcoming_segment(count, class))
    }

    fn await_upcoming_segment(
        self: &Arc<Self>,
        count: usize,
        class: SpaceClass,
    ) -> Result<Arc<Segment<D::File>>> {
        let mut state = self.state.lock();
        state.failure = None;
        let mut step = PAGE;
        loop {
            if let Some(ahead) = state.ready.get(count - 1) {
                return Ok(Arc::clone(&ahead.segment));
            }
            if let Some(failure) = state.failure.take() {
                let drawn =
                    is_out_of_space(&failure) && self.reserve.draw_doubled_step(class, &mut step);
                if !drawn {
                    return Err(self.worker_failure_error(&failure));
                }
            }
            self.parts.poison.check()?;
            if state.closed {
                return Err(Error::Closed);
            }
            self.start_worker(&mut state, true);
            if state.working {
                self.changed.wait(&mut state);
            }
        }
    }

    /// Lengthens a segment until it can hold a frame of that length: the active one, or the
    /// `count`-th behind it. No frame is in it yet, so no reader looks at it.
    ///
    /// # Errors
    /// [`Error::Io`]: the system refuses a longer map; the segment is as long as it was.
    pub(crate) fn lengthen_segment(&self, count: usize, frame_len: u64) -> Result<()> {
        let state = self.state.lock();
        debug_assert!(
            count > 0 || state.tail == PAGE,
            "no frame is in a segment that is lengthened"
        );
        let segment = match count {
            0 => &state.active.segment,
            count => &state.ready[count - 1].segment,
        };
        let len = page_up(PAGE + frame_len);
        if len <= segment.len_max() {
            return Ok(());
        }
        let shown =
            self.parts.views.insert_mapped(segment.sequence, segment.number, &segment.file, len);
        shown.map_err(|e| Error::io(IoOp::Map, self.parts.disk.path(), e))?;
        segment.raise_len_max(len);
        Ok(())
    }

    /// Lets the log write an upcoming segment up to `end`.
    pub(crate) fn extend_upcoming(&self, count: usize, end: u64, class: SpaceClass) -> Result<()> {
        let state = self.state.lock();
        let ahead = &state.ready[count - 1];
        debug_assert!(end.is_multiple_of(PAGE), "a group ends on a page boundary");
        assert!(end <= ahead.segment.len_max(), "a group ends inside its segment");
        self.check_file_may_reach(ahead, end)?;
        if end <= ahead.written {
            return Ok(());
        }
        drop(state);
        self.parts.stalls.wait(StallCause::SpaceAhead, || self.allocate_upcoming(count, end, class))
    }

    fn allocate_upcoming(&self, count: usize, end: u64, class: SpaceClass) -> Result<()> {
        let mut state = self.state.lock();
        let sequence = state.ready[count - 1].segment.sequence;
        while state.ready[count - 1].written < end && state.zeroing == Some(sequence) {
            self.changed.wait(&mut state);
        }
        let ahead = &mut state.ready[count - 1];
        if ahead.written < end {
            let (from, len) = (ahead.written, end - ahead.written);
            let reserved =
                self.reserve.retry_with_reserve(class, || ahead.zeroer.reserve(from, len));
            reserved.map_err(|source| self.allocation_error(source, len))?;
            ahead.written = end;
        }
        Ok(())
    }

    /// Moves the tail `rolled` segments further, to `offset`, after `len` bytes of frames.
    pub(crate) fn advance_tail(self: &Arc<Self>, rolled: usize, offset: u64, len: u64) {
        let mut state = self.state.lock();
        assert!(rolled <= state.ready.len(), "the log rolls into segments that were made");
        for _ in 0..rolled {
            if let Some(next) = state.ready.pop_front() {
                state.active = next;
            }
        }
        assert!(offset <= state.active.written, "the tail moves inside prepared space");
        state.tail = offset;
        state.appended += len;
        state.prepared = state.prepared.saturating_sub(len);
        state.bulk &= len >= BULK_LEN;
        self.start_worker(&mut state, false);
    }

    /// Tells the views that the log has left these segments and all their bytes are written.
    pub(crate) fn mark_segments_written(&self, sequences: Range<u64>) {
        self.parts.views.mark_segments_written(sequences);
    }

    /// Cuts a segment that the log has left at its end.
    ///
    /// # Errors
    /// [`Error::Io`]: the file keeps its length, which does no harm.
    pub(crate) fn cut_sealed_segment(&self, sequence: u64, end: u64) -> Result<()> {
        let mut state = self.state.lock();
        assert!(sequence < state.active.segment.sequence, "the log has left a segment that is cut");
        while state.zeroing == Some(sequence) {
            self.changed.wait(&mut state);
        }
        drop(state);
        let io = |e| Error::io(IoOp::Resize, self.parts.disk.path(), e);
        let Some(number) = self.parts.views.file_number_of(sequence) else { return Ok(()) };
        let file = self.parts.disk.open(FileName::Segment(number), How::ReadWrite).map_err(io)?;
        file.set_len(end).map_err(io)
    }

    /// Waits until `len` bytes behind the tail are zeroed.
    pub(crate) fn await_zeroed_ahead(self: &Arc<Self>, len: u64) -> Result<()> {
        let mut state = self.state.lock();
        // A closed store no longer owns its reserve.
        if self.is_disk_or_quota_full() && !state.closed {
            let refilled = self.reserve.refill();
            refilled.map_err(|source| self.allocation_error(source, self.reserve.missing_len()))?;
        }
        state.failure = None;
        let prepared = loop {
            if state.closed {
                break Err(Error::Closed);
            }
            if state.zeroed_ahead_len() >= len {
                state.prepared = state.prepared.max(len);
                break Ok(());
            }
            if let Some(failure) = state.failure.take() {
                break Err(self.worker_failure_error(&failure));
            }
            if let Err(poisoned) = self.parts.poison.check() {
                break Err(poisoned);
            }
            // A caller that asks for zeros is not in a bulk load. Set in each round: another caller
            // may have got its zeros meanwhile and ended its request.
            state.bulk = false;
            state.wanted = state.wanted.max(len);
            self.start_worker(&mut state, false);
            if state.working {
                self.changed.wait(&mut state);
            }
        };
        // Other callers that wait set it again.
        state.wanted = 0;
        prepared
    }

    /// A file number that no file has.
    pub(crate) fn take_file_number(&self) -> u64 {
        let mut state = self.state.lock();
        state.next_number += 1;
        state.next_number - 1
    }

    /// Keeps a segment without live blocks for reuse. No reader looks at its bytes any more.
    pub(crate) fn keep_for_reuse(&self, number: u64) {
        let mut state = self.state.lock();
        let mut used = std::iter::once(&state.active).chain(&state.ready);
        assert!(
            used.all(|ahead| ahead.segment.number != number),
            "the log has left a kept segment"
        );
        debug_assert!(!state.spare.contains(&number), "a segment is kept once");
        state.spare.push_back(number);
    }

    /// Removes the file of a segment without live blocks.
    ///
    /// # Errors
    /// [`Error::Io`]: the file is left to the next open, which removes it.
    pub(crate) fn remove_segment_file(&self, number: u64) -> Result<()> {
        let removed = self.parts.disk.remove(FileName::Segment(number));
        removed.map_err(|e| Error::io(IoOp::Remove, self.parts.disk.path(), e))
    }

    /// Gives space made ahead back to the file system, all but a little, while the store is idle.
    /// Space zeroed on request stays until it is used, unless `all` is set.
    ///
    /// # Errors
    /// [`Error::Io`]: the file system refused to cut or remove a file, which does no harm.
    pub(crate) fn shrink_ahead(&self, all: bool) -> Result<()> {
        let mut state = self.state.lock();
        let spare = std::mem::take(&mut state.spare);
        let tail = state.tail;
        let stays = state.prepared > 0 && !all;
        if state.zeroing.is_none() && state.wanted == 0 && !stays {
            let SpaceState { active, ready, appended, .. } = &mut *state;
            let active = (active, tail + AHEAD_LEN_MIN);
            for (ahead, end) in std::iter::once(active).chain(ready.iter_mut().map(|a| (a, PAGE))) {
                // A failed attempt to zero may have made the file longer than `written` says.
                let is_longer =
                    self.reserve.is_short() && ahead.zeroer.len().is_ok_and(|l| l > end);
                if ahead.written > end || (is_longer && ahead.written == end) {
                    let cut = ahead.zeroer.set_len(end);
                    cut.map_err(|e| Error::io(IoOp::Resize, self.parts.disk.path(), e))?;
                    ahead.written = end;
                }
            }
            // The length zeroed ahead grows from its minimum again.
            *appended = 0;
        }
        drop(state);
        spare.into_iter().try_for_each(|number| self.remove_segment_file(number))
    }

    /// Bytes kept for later writes: zeroed ahead of the tail, and in segments kept for reuse.
    pub(crate) fn free_len(&self) -> u64 {
        let state = self.state.lock();
        state.zeroed_ahead_len() + state.spare.len() as u64 * self.parts.options.segment_len
    }

    /// Starts to make and zero what a new session needs.
    pub(crate) fn start_zeroing(self: &Arc<Self>) {
        self.start_worker(&mut self.state.lock(), false);
    }

    /// Closes the space, and waits until the running worker has ended its step.
    pub(crate) fn stop_worker(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        while state.working {
            self.changed.wait(&mut state);
        }
        debug_assert!(state.zeroing.is_none(), "only a running worker zeroes");
    }

    /// Gives back the space made ahead, after [`Space::stop_worker`] and the end record. A closed
    /// store is as small as its data, and opens without reading zeros.
    pub(crate) fn cut_unused_ahead(&self) -> Result<()> {
        let state = self.state.lock();
        assert!(state.closed && !state.working, "no worker zeroes what is cut");
        let active = (&state.active, state.tail);
        for (ahead, end) in std::iter::once(active).chain(state.ready.iter().map(|a| (a, PAGE))) {
            if ahead.written > end {
                let cut = ahead.zeroer.set_len(end);
                cut.map_err(|e| Error::io(IoOp::Resize, self.parts.disk.path(), e))?;
            }
        }
        Ok(())
    }

    fn worker_failure_error(&self, source: &io::Error) -> Error {
        let over = source.get_ref().and_then(|inner| inner.downcast_ref::<OverQuota>());
        let again = match (source.raw_os_error(), over) {
            (Some(code), _) => io::Error::from_raw_os_error(code),
            (None, Some(over)) => io::Error::new(source.kind(), *over),
            (None, None) => source.kind().into(),
        };
        self.allocation_error(again, self.parts.options.segment_len)
    }

    fn allocation_error(&self, source: io::Error, needed: u64) -> Error {
        Error::space(IoOp::Allocate, self.parts.disk.path(), needed, source)
    }
}

/// Whether the file length limit of the process was met.
fn is_file_length_limit(error: &io::Error) -> bool {
    shortage(error, IoOp::Allocate) == Some(Resource::FileLength)
}

impl<F> SpaceState<F> {
    /// Zeroed bytes behind the tail.
    fn zeroed_ahead_len(&self) -> u64 {
        debug_assert!(self.tail <= self.active.written, "the tail is inside prepared space");
        let ready: u64 = self.ready.iter().map(|ahead| ahead.written - PAGE).sum();
        self.active.written - self.tail + ready
    }

    fn set_written_offset(&mut self, sequence: u64, offset: u64) {
        let mut all = std::iter::once(&mut self.active).chain(&mut self.ready);
        if let Some(ahead) = all.find(|ahead| ahead.segment.sequence == sequence) {
            debug_assert!(ahead.written <= offset, "zeroing only lengthens what is written");
            debug_assert!(offset <= ahead.segment.len_max(), "zeroing stays inside its segment");
            ahead.written = offset;
        }
    }
}
