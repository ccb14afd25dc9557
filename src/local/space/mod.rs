//! Space: log segments, made and zeroed ahead of the tail by the I/O workers.
//!
//! Owns every segment that is not written to yet, and how far the active one is written already (by
//! zeros or by frames). A sync is cheap where nothing but bytes changes: no length, no extents. So
//! the tail moves through space that was zeroed and synced before. Invariants:
//!
//! 1. Whoever carries the log writes below `written` of the active segment only, and raises it by
//!    [`Space::reserve`]; a worker zeroes at or above it only. Nobody zeroes what the log wrote.
//! 2. A segment is complete (header, first zeros) and durable under a `TMP-` name before it gets its
//!    `SEG-` name, and its name is durable before the log uses it.
//! 3. No two segments with the same place in the row exist, whatever a power cut leaves: one that was
//!    named and then not used is removed, durably, before another is made.
//! 4. Whatever may run short, space, length of the file, descriptors and memory for another segment, is taken
//!    before the first byte of a group is written: a shortage refuses a group as a whole, and leaves nothing of
//!    it.
//!
//! A segment takes `segment_len` of this session. A block of an earlier one may be longer than that: the
//! empty segment that it is moved to grows as far as this block needs ([`Space::lengthen`]).
//!
//! A segment that nobody needs any more ([`Space::give_back`]) becomes the next one, under a header,
//! salt and name of its own: its space was written once and needs no zeros. First it loses its name,
//! durably, so that its header is never changed under it. Those that the log will not need soon go
//! back to the file system.
//!
//! How much is zeroed ahead grows with what is written, so that a new store stays small. When the
//! tail catches up with large groups (a bulk load), zeroing would only take bandwidth from it: the
//! log then reserves unwritten space for itself, and zeroing pauses.

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

pub(crate) use make::{SegmentMaker, Source, take_back};

use crate::error::{Error, IoOp, OverQuota, Resource, Result, SpaceLimit, shortage};
use crate::io::pool::IoPool;
use crate::io::{Disk, DiskFile, FileName, How};
use crate::local::format::description::Description;
use crate::local::format::{PAGE, page_up};
use crate::local::poison::Poison;
use crate::local::read::segment::{Segment, Views};
use crate::local::space::quota::Ledger;
use crate::local::space::reserve::{Fit, Reserve, SpaceClass, is_full};
use crate::local::stall::StallLog;
use crate::mvcc::counters::Counter;
use crate::stats::StallCause;
use crate::sync::{Condvar, Mutex};

/// Zeroed ahead in a new store, and by one step of a worker at least.
const AHEAD_LEN_MIN: u64 = 1 << 20;
/// Zeroed by one step of a worker at most: the tail may have to wait for one.
const STEP_LEN_MAX: u64 = 8 << 20;
/// Reserved at once when the tail has caught up.
const RESERVE_LEN: u64 = 1 << 20;
/// A group of this length that catches up with zeroing is a bulk load.
const BULK_LEN: u64 = 256 << 10;

/// How to make segments.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SpaceOptions {
    pub(crate) segment_len: u64,
    pub(crate) ahead_len_max: u64,
    /// How log files are opened: to be written, or to be read in a session that writes nothing.
    pub(crate) how: How,
}

/// The space of one store.
pub(crate) struct Space<D: Disk> {
    disk: Arc<D>,
    store: Description,
    options: SpaceOptions,
    views: Arc<Views>,
    poison: Arc<Poison>,
    /// `None` in single-threaded mode: whoever needs space makes it.
    pool: Option<Arc<IoPool>>,
    pub(crate) reserve: Reserve<D>,
    quota: Option<Arc<Ledger>>,
    stalls: Arc<StallLog>,
    state: Mutex<SpaceState<D::File>>,
    changed: Condvar,
    zeroed: Counter,
}

/// What a [`Space`] is made of and works with.
pub(crate) struct SpaceParts<D: Disk> {
    pub(crate) disk: Arc<D>,
    pub(crate) store: Description,
    pub(crate) options: SpaceOptions,
    pub(crate) views: Arc<Views>,
    pub(crate) poison: Arc<Poison>,
    /// `None` in single-threaded mode.
    pub(crate) pool: Option<Arc<IoPool>>,
    pub(crate) reserve: Reserve<D>,
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
    /// Asked for by [`Space::prepare`].
    wanted: u64,
    /// What is left of that.
    prepared: u64,
    bulk: bool,
    /// A worker has been told to work, and which segment it is changing.
    working: bool,
    zeroing: Option<u64>,
    failure: Option<Arc<io::Error>>,
    closed: bool,
}

/// A segment and how far it is written.
struct Ahead<F> {
    segment: Arc<Segment<F>>,
    /// The zeroing descriptor.
    zeroer: Arc<F>,
    written: u64,
}

impl<F> Ahead<F> {
    fn room(&self) -> u64 {
        self.segment.len_max() - self.written
    }
}

/// Where the log goes on.
pub(crate) struct Tail<F> {
    pub(crate) segment: Arc<Segment<F>>,
    pub(crate) offset: u64,
    /// Bytes of the segment that are written already.
    pub(crate) written: u64,
}

impl<D: Disk> Space<D> {
    /// Takes over behind the tail that recovery found.
    pub(crate) fn new(
        parts: SpaceParts<D>,
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
        let SpaceParts { disk, store, options, views, poison, pool, reserve, quota, stalls } =
            parts;
        Ok(Space {
            disk,
            store,
            options,
            views,
            poison,
            pool,
            reserve,
            quota,
            stalls,
            state: Mutex::new(state),
            changed: Condvar::new(),
            zeroed: Counter::default(),
        })
    }

    /// Bytes zeroed since open.
    pub(crate) fn zeroed_len(&self) -> u64 {
        self.zeroed.sum()
    }

    /// Bytes of frames that any segment still to come has room for.
    pub(crate) fn segment_room(&self) -> u64 {
        self.options.segment_len - PAGE
    }

    /// Lets ordinary writes to a store of so many blocks in, which have no business with the reserve: while
    /// that is short, space that returns goes there first. Says whether the reserve should grow soon.
    ///
    /// # Errors
    /// [`Error::StorageFull`] and the disk's own.
    pub(crate) fn admit(&self, block_count: u64) -> Result<bool> {
        let fit = self.reserve.fit(block_count);
        if fit == Fit::TooSmall || self.reserve.is_short() {
            let suit = || self.reserve.suit_blocks(block_count);
            let suited = self.stalls.wait(StallCause::Full, suit);
            suited.map_err(|source| self.refused(source, self.reserve.missing_len()))?;
        }
        Ok(fit == Fit::Tight)
    }

    /// Whether nothing may be taken but by what makes space.
    pub(crate) fn is_full(&self) -> bool {
        self.reserve.is_short() || self.quota.as_ref().is_some_and(|quota| quota.is_over())
    }

    /// The error of what may not have so many bytes.
    pub(crate) fn full(&self, needed: u64) -> Error {
        let ends = self.quota.as_ref().filter(|quota| quota.left() < needed);
        let limit = ends.map_or(SpaceLimit::Disk, |quota| SpaceLimit::MaxBytes(quota.max()));
        Error::StorageFull { needed, path: self.disk.path().to_path_buf(), limit }
    }

    /// Lets the log write the active segment up to `end`.
    pub(crate) fn reserve(&self, end: u64, claim: SpaceClass) -> Result<()> {
        let state = self.state.lock();
        self.check_end(&state.active, end)?;
        if end <= state.active.written {
            return Ok(());
        }
        drop(state);
        self.stalls.wait(StallCause::SpaceAhead, || self.catch_up(end, claim))
    }

    /// Refuses what the process may not write, though there are zeros already: its limit may have been lowered.
    fn check_end(&self, ahead: &Ahead<D::File>, end: u64) -> Result<()> {
        let allowed = ahead.zeroer.may_reach(end);
        allowed.map_err(|source| self.refused(source, end - ahead.written.min(end)))
    }

    fn catch_up(&self, end: u64, claim: SpaceClass) -> Result<()> {
        let mut state = self.state.lock();
        let sequence = state.active.segment.sequence;
        while state.active.written < end && state.zeroing == Some(sequence) {
            self.changed.wait(&mut state);
        }
        let written = state.active.written;
        if end <= written {
            return Ok(());
        }
        // The tail has caught up. Zeroing does not touch the active segment while we hold the lock.
        state.bulk = end - state.tail >= BULK_LEN;
        let to = end.max(written + RESERVE_LEN).min(state.active.segment.len_max());
        let zeroer = &state.active.zeroer;
        let more = (!self.is_full()).then(|| zeroer.reserve(written, to - written));
        let to = match more {
            Some(Ok(())) => to,
            Some(Err(source)) if !is_full(&source) && !is_too_long(&source) => {
                return Err(self.refused(source, to - written));
            }
            // No more than has to be.
            Some(Err(_)) | None => {
                let reserved = self.reserve.spend(claim, || zeroer.reserve(written, end - written));
                reserved.map_err(|source| self.refused(source, end - written))?;
                end
            }
        };
        state.active.written = to;
        Ok(())
    }

    /// The `count`-th segment behind the active one, made if it is not there yet. The log goes on
    /// with it after [`Space::activate`].
    pub(crate) fn upcoming(
        self: &Arc<Self>,
        count: usize,
        claim: SpaceClass,
    ) -> Result<Arc<Segment<D::File>>> {
        if let Some(ahead) = self.state.lock().ready.get(count - 1) {
            return Ok(Arc::clone(&ahead.segment));
        }
        self.stalls.wait(StallCause::NextSegment, || self.await_upcoming(count, claim))
    }

    fn await_upcoming(
        self: &Arc<Self>,
        count: usize,
        claim: SpaceClass,
    ) -> Result<Arc<Segment<D::File>>> {
        let mut state = self.state.lock();
        state.failure = None;
        let mut step = PAGE;
        loop {
            if let Some(ahead) = state.ready.get(count - 1) {
                return Ok(Arc::clone(&ahead.segment));
            }
            if let Some(failure) = state.failure.take() {
                let drawn = is_full(&failure) && self.reserve.draw_again(claim, &mut step);
                if !drawn {
                    return Err(self.failed(&failure));
                }
            }
            self.poison.check()?;
            if state.closed {
                return Err(Error::Closed);
            }
            self.start_work(&mut state, true);
            if state.working {
                self.changed.wait(&mut state);
            }
        }
    }

    /// Has a segment hold a frame of that length, however short the segments of this session are: the active
    /// one, or the `count`-th behind it. No frame is in it yet, so no reader looks at it.
    ///
    /// # Errors
    /// [`Error::Io`]: the system refuses a longer map; the segment is as long as it was.
    pub(crate) fn lengthen(&self, count: usize, frame_len: u64) -> Result<()> {
        let state = self.state.lock();
        let segment = match count {
            0 => &state.active.segment,
            count => &state.ready[count - 1].segment,
        };
        let len = page_up(PAGE + frame_len);
        if len <= segment.len_max() {
            return Ok(());
        }
        let shown = self.views.insert(segment.sequence, segment.number, &segment.file, len);
        shown.map_err(|e| Error::io(IoOp::Map, self.disk.path(), e))?;
        segment.lengthen(len);
        Ok(())
    }

    /// Lets the log write an upcoming segment up to `end`.
    pub(crate) fn reserve_upcoming(&self, count: usize, end: u64, claim: SpaceClass) -> Result<()> {
        let state = self.state.lock();
        let ahead = &state.ready[count - 1];
        self.check_end(ahead, end)?;
        if end <= ahead.written {
            return Ok(());
        }
        drop(state);
        self.stalls.wait(StallCause::SpaceAhead, || self.catch_up_upcoming(count, end, claim))
    }

    fn catch_up_upcoming(&self, count: usize, end: u64, claim: SpaceClass) -> Result<()> {
        let mut state = self.state.lock();
        let sequence = state.ready[count - 1].segment.sequence;
        while state.ready[count - 1].written < end && state.zeroing == Some(sequence) {
            self.changed.wait(&mut state);
        }
        let ahead = &mut state.ready[count - 1];
        if ahead.written < end {
            let (from, len) = (ahead.written, end - ahead.written);
            let reserved = self.reserve.spend(claim, || ahead.zeroer.reserve(from, len));
            reserved.map_err(|source| self.refused(source, len))?;
            ahead.written = end;
        }
        Ok(())
    }

    /// Says where the tail is now: `rolled` segments further, at `offset`, after `len` bytes.
    pub(crate) fn advance(self: &Arc<Self>, rolled: usize, offset: u64, len: u64) {
        let mut state = self.state.lock();
        for _ in 0..rolled {
            if let Some(next) = state.ready.pop_front() {
                state.active = next;
            }
        }
        state.tail = offset;
        state.appended += len;
        state.prepared = state.prepared.saturating_sub(len);
        state.bulk &= len >= BULK_LEN;
        self.start_work(&mut state, false);
    }

    /// Says that the log has left these segments, and all of it there is written.
    pub(crate) fn settle(&self, sequences: Range<u64>) {
        self.views.settle(sequences);
    }

    /// Cuts a segment that the log has left at its end.
    ///
    /// # Errors
    /// [`Error::Io`]: the file keeps its length, which does no harm.
    pub(crate) fn cut_sealed(&self, sequence: u64, end: u64) -> Result<()> {
        let mut state = self.state.lock();
        while state.zeroing == Some(sequence) {
            self.changed.wait(&mut state);
        }
        drop(state);
        let io = |e| Error::io(IoOp::Resize, self.disk.path(), e);
        let Some(number) = self.views.number(sequence) else { return Ok(()) };
        let file = self.disk.open(FileName::Segment(number), How::ReadWrite).map_err(io)?;
        file.set_len(end).map_err(io)
    }

    /// Waits until `len` bytes behind the tail are zeroed.
    pub(crate) fn prepare(self: &Arc<Self>, len: u64) -> Result<()> {
        let mut state = self.state.lock();
        // A closed store's reserve is no longer ours.
        if self.is_full() && !state.closed {
            let refilled = self.reserve.refill();
            refilled.map_err(|source| self.refused(source, self.reserve.missing_len()))?;
        }
        state.failure = None;
        let prepared = loop {
            if state.closed {
                break Err(Error::Closed);
            }
            if state.ahead_len() >= len {
                state.prepared = state.prepared.max(len);
                break Ok(());
            }
            if let Some(failure) = state.failure.take() {
                break Err(self.failed(&failure));
            }
            if let Err(poisoned) = self.poison.check() {
                break Err(poisoned);
            }
            // Who asks for zeros is not in the middle of a bulk load any more. Each time: somebody else may have
            // got as much as he wanted.
            state.bulk = false;
            state.wanted = state.wanted.max(len);
            self.start_work(&mut state, false);
            if state.working {
                self.changed.wait(&mut state);
            }
        };
        // Others who wait say again what they want.
        state.wanted = 0;
        prepared
    }

    /// A file number that no file has.
    pub(crate) fn take_number(&self) -> u64 {
        let mut state = self.state.lock();
        state.next_number += 1;
        state.next_number - 1
    }

    /// Takes a segment that nobody needs any more, whose bytes no reader looks at, to be the next one.
    pub(crate) fn keep(&self, number: u64) {
        self.state.lock().spare.push_back(number);
    }

    /// Gives a segment that nobody needs any more back to the file system.
    ///
    /// # Errors
    /// [`Error::Io`]: the file is left to the next open, which removes it.
    pub(crate) fn give_back(&self, number: u64) -> Result<()> {
        let removed = self.disk.remove(FileName::Segment(number));
        removed.map_err(|e| Error::io(IoOp::Remove, self.disk.path(), e))
    }

    /// Gives what was made ahead back to the file system, but for a little: nobody writes at the moment. What
    /// somebody had prepared stays until it is used, unless `all` is wanted.
    ///
    /// # Errors
    /// [`Error::Io`]: the file system refused to cut or remove a file, which does no harm.
    pub(crate) fn shrink(&self, all: bool) -> Result<()> {
        let mut state = self.state.lock();
        let spare = std::mem::take(&mut state.spare);
        let tail = state.tail;
        let stays = state.prepared > 0 && !all;
        if state.zeroing.is_none() && state.wanted == 0 && !stays {
            let SpaceState { active, ready, appended, .. } = &mut *state;
            let active = (active, tail + AHEAD_LEN_MIN);
            for (ahead, end) in std::iter::once(active).chain(ready.iter_mut().map(|a| (a, PAGE))) {
                // A failed attempt to zero may have made the file longer than it counts for.
                let is_longer =
                    self.reserve.is_short() && ahead.zeroer.len().is_ok_and(|l| l > end);
                if ahead.written > end || (is_longer && ahead.written == end) {
                    let cut = ahead.zeroer.set_len(end);
                    cut.map_err(|e| Error::io(IoOp::Resize, self.disk.path(), e))?;
                    ahead.written = end;
                }
            }
            // Growth begins anew.
            *appended = 0;
        }
        drop(state);
        spare.into_iter().try_for_each(|number| self.give_back(number))
    }

    /// Bytes that are kept for what is still to be written: ahead of the tail, and of segments out of
    /// use.
    pub(crate) fn free_len(&self) -> u64 {
        let state = self.state.lock();
        state.ahead_len() + state.spare.len() as u64 * self.options.segment_len
    }

    /// Begins to make and zero what a new session needs.
    pub(crate) fn start(self: &Arc<Self>) {
        self.start_work(&mut self.state.lock(), false);
    }

    /// Lets the worker that is under way end after its step.
    pub(crate) fn stop(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        while state.working {
            self.changed.wait(&mut state);
        }
    }

    /// Gives back what was made ahead, after [`Space::stop`] and the end mark: a closed store is as
    /// small as its data, and opens without reading zeros.
    pub(crate) fn trim(&self) -> Result<()> {
        let state = self.state.lock();
        let active = (&state.active, state.tail);
        for (ahead, end) in std::iter::once(active).chain(state.ready.iter().map(|a| (a, PAGE))) {
            if ahead.written > end {
                let cut = ahead.zeroer.set_len(end);
                cut.map_err(|e| Error::io(IoOp::Resize, self.disk.path(), e))?;
            }
        }
        Ok(())
    }

    fn failed(&self, source: &io::Error) -> Error {
        let over = source.get_ref().and_then(|inner| inner.downcast_ref::<OverQuota>());
        let again = match (source.raw_os_error(), over) {
            (Some(code), _) => io::Error::from_raw_os_error(code),
            (None, Some(over)) => io::Error::new(source.kind(), *over),
            (None, None) => source.kind().into(),
        };
        self.refused(again, self.options.segment_len)
    }

    fn refused(&self, source: io::Error, needed: u64) -> Error {
        Error::space(IoOp::Allocate, self.disk.path(), needed, source)
    }
}

/// Whether the process may not make a file so long.
fn is_too_long(error: &io::Error) -> bool {
    shortage(error, IoOp::Allocate) == Some(Resource::FileLength)
}

impl<F> SpaceState<F> {
    /// Zeroed bytes behind the tail.
    fn ahead_len(&self) -> u64 {
        let ready: u64 = self.ready.iter().map(|ahead| ahead.written - PAGE).sum();
        self.active.written - self.tail + ready
    }

    fn written_to(&mut self, sequence: u64, offset: u64) {
        let mut all = std::iter::once(&mut self.active).chain(&mut self.ready);
        if let Some(ahead) = all.find(|ahead| ahead.segment.sequence == sequence) {
            ahead.written = offset;
        }
    }
}
