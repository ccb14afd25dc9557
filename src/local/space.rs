//! Space: log segments, made and zeroed ahead of the tail by the I/O workers.
//!
//! Owns every segment that is not written to yet, and how far the active one is written already (by
//! zeros or by frames). A sync is cheap where nothing but bytes changes: no length, no extents. So
//! the tail moves through space that was zeroed and synced before. Invariants:
//!
//! 1. The log thread writes below `written` of the active segment only, and raises it by
//!    [`Space::reserve`]; a worker zeroes at or above it only. Nobody zeroes what the log wrote.
//! 2. A segment is complete (header, first zeros) and durable under a `TMP-` name before it gets its
//!    `SEG-` name, and its name is durable before the log uses it.
//! 3. No two segments with the same place in the row exist, whatever a power cut leaves: one that was
//!    named and then not used is removed, durably, before another is made.
//! 4. Space is reserved before the first byte of a group is written: a full disk refuses a group as a
//!    whole, and leaves nothing of it.
//!
//! A segment that nobody needs any more ([`Space::give_back`]) becomes the next one, under a header,
//! salt and name of its own: its space was written once and needs no zeros. First it loses its name,
//! durably, so that its header is never changed under it. Those that the log will not need soon go
//! back to the file system.
//!
//! How much is zeroed ahead grows with what is written, so that a new store stays small. When the
//! tail catches up with large groups (a bulk load), zeroing would only take bandwidth from it: the
//! log then reserves unwritten space for itself, and zeroing pauses.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use crate::canary::{Bug, planted};
use crate::error::{Error, IoOp, PoisonCause, Result};
use crate::io::pool::{Command, IoPool};
use crate::io::{Disk, DiskFile, FileName, How, write_all_at};
use crate::local::format::description::Description;
use crate::local::format::segment::{LEN_MAX, SEQUENCE_MAX, SegmentHeader};
use crate::local::format::{PAGE, page_up};
use crate::local::poison::Poison;
use crate::local::segment::{Segment, Views};
use crate::mvcc::counters::Counter;
use crate::sync::{Condvar, Mutex, MutexGuard};

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
    pub(crate) direct: bool,
}

impl SpaceOptions {
    /// How log files are opened for writing.
    pub(crate) fn how(&self) -> How {
        if self.direct { How::ReadWriteDirect } else { How::ReadWrite }
    }
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
    state: Mutex<State<D::File>>,
    changed: Condvar,
    zeroed: Counter,
}

struct State<F> {
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
        self.segment.len_max - self.written
    }
}

/// What a worker does next.
enum Step<F> {
    Zero { sequence: u64, file: Arc<F>, offset: u64, len: u64 },
    Make { number: u64, sequence: u64, spare: Option<u64> },
}

/// What a new segment is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Source<'a> {
    /// A new file, with these bytes behind its header.
    New(&'a [u8]),
    /// The file of a segment out of use, with this number.
    Spare(u64),
}

/// Why there is no new segment.
#[derive(Debug)]
pub(crate) struct NotMade {
    pub(crate) source: io::Error,
    /// The segment's name may come back after a power cut. Another segment with its place in the row
    /// would make the store unreadable: none may be made in this session.
    left: Option<PoisonCause>,
}

impl From<io::Error> for NotMade {
    fn from(source: io::Error) -> NotMade {
        NotMade { source, left: None }
    }
}

/// Removes a file that did not come to be used, for good. Otherwise says what stands in the way.
pub(crate) fn take_back<D: Disk>(disk: &D, name: FileName) -> Option<PoisonCause> {
    if planted(Bug::FailedRenameForgotten) {
        return None;
    }
    match disk.remove(name) {
        Ok(()) => disk.sync_dir().err().map(|_| PoisonCause::SyncFailed),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(_) => Some(PoisonCause::WriteFailed),
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
    /// Makes a segment, and says how far it is written. It is durable when this returns, and gone when
    /// it fails, unless [`NotMade`] says otherwise.
    pub(crate) fn make_segment(
        disk: &D,
        store: &Description,
        options: &SpaceOptions,
        number: u64,
        header: &SegmentHeader,
        source: Source<'_>,
    ) -> std::result::Result<(Segment<D::File>, u64), NotMade> {
        let first_len = match source {
            Source::New(first) => first.len() as u64,
            Source::Spare(_) => 0,
        };
        if header.sequence > SEQUENCE_MAX || PAGE + first_len > LEN_MAX {
            return Err(NotMade::from(io::Error::from(io::ErrorKind::StorageFull)));
        }
        let (unfinished, finished) = (FileName::Temporary(number), FileName::Segment(number));
        let (file, first) = match source {
            Source::New(first) => (disk.open(unfinished, How::CreateNew)?, first),
            Source::Spare(spare) => {
                disk.rename(FileName::Segment(spare), unfinished)?;
                let sync_dir =
                    || if planted(Bug::SpareKeepsName) { Ok(()) } else { disk.sync_dir() };
                sync_dir()
                    .map_err(|source| NotMade { source, left: Some(PoisonCause::SyncFailed) })?;
                (disk.open(unfinished, How::ReadWrite)?, &[][..])
            }
        };
        if !matches!(source, Source::Spare(_)) || !planted(Bug::SpareKeepsHeader) {
            write_all_at(&file, 0, &header.encode())?;
        }
        write_all_at(&file, PAGE, first)?;
        if !planted(Bug::SegmentUnsynced) {
            file.sync_data()?;
        }
        let written = file.len()?.min(options.segment_len) / PAGE * PAGE;
        drop(file);
        let not_made = |source| NotMade { source, left: take_back(disk, finished) };
        // It may have taken effect all the same.
        disk.rename(unfinished, finished).map_err(not_made)?;
        if !planted(Bug::SegmentNameUnsynced)
            && let Err(source) = disk.sync_dir()
        {
            take_back(disk, finished);
            return Err(NotMade { source, left: Some(PoisonCause::SyncFailed) });
        }
        let file = disk.open(finished, options.how()).map_err(not_made)?;
        let segment = Segment {
            number,
            sequence: header.sequence,
            seed: header.frame_seed(store),
            len_max: options.segment_len.max(PAGE + first.len() as u64),
            file,
        };
        Ok((segment, written))
    }

    /// A header for a new use of a file.
    pub(crate) fn new_header(
        disk: &D,
        store: &Description,
        sequence: u64,
    ) -> io::Result<SegmentHeader> {
        let mut salt = [0; 8];
        disk.random(&mut salt)?;
        Ok(SegmentHeader { store_id: store.store_id, sequence, salt: u64::from_le_bytes(salt) })
    }

    /// Takes over behind the tail that recovery found.
    #[expect(clippy::too_many_arguments, reason = "each is another part of the store, made once")]
    pub(crate) fn new(
        disk: Arc<D>,
        store: Description,
        options: SpaceOptions,
        views: Arc<Views>,
        poison: Arc<Poison>,
        pool: Option<Arc<IoPool>>,
        tail: Tail<D::File>,
        ready: Vec<(Segment<D::File>, u64)>,
        next_number: u64,
    ) -> io::Result<Space<D>> {
        let ahead = |segment: Arc<Segment<D::File>>, written| {
            let zeroer = Arc::new(disk.open(FileName::Segment(segment.number), options.how())?);
            Ok(Ahead { segment, zeroer, written })
        };
        let next_sequence = tail.segment.sequence + 1 + ready.len() as u64;
        let active = ahead(tail.segment, tail.written)?;
        let ready: io::Result<VecDeque<_>> =
            ready.into_iter().map(|(segment, written)| ahead(Arc::new(segment), written)).collect();
        let ready = ready?;
        let closed = ready.is_empty() && planted(Bug::HaltsAfterRecovery);
        let state = State {
            active,
            tail: tail.offset,
            ready,
            spare: VecDeque::new(),
            next_number,
            next_sequence,
            appended: 0,
            wanted: 0,
            bulk: false,
            working: false,
            zeroing: None,
            failure: None,
            closed,
        };
        Ok(Space {
            disk,
            store,
            options,
            views,
            poison,
            pool,
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

    /// Lets the log write the active segment up to `end`.
    pub(crate) fn reserve(&self, end: u64) -> Result<()> {
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
        let to = end.max(written + RESERVE_LEN).min(state.active.segment.len_max);
        let reserved = state.active.zeroer.reserve(written, to - written);
        if !planted(Bug::HalfAGroupOnFull) {
            reserved.map_err(|source| self.refused(source, to - written))?;
        }
        if !planted(Bug::ZeroedOverTheLog) {
            state.active.written = to;
        }
        Ok(())
    }

    /// The `count`-th segment behind the active one, made if it is not there yet. The log goes on
    /// with it after [`Space::activate`].
    pub(crate) fn upcoming(self: &Arc<Self>, count: usize) -> Result<Arc<Segment<D::File>>> {
        let mut state = self.state.lock();
        state.failure = None;
        loop {
            if let Some(ahead) = state.ready.get(count - 1) {
                return Ok(Arc::clone(&ahead.segment));
            }
            if let Some(failure) = state.failure.take() {
                return Err(self.failed(&failure));
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

    /// Lets the log write an upcoming segment up to `end`.
    pub(crate) fn reserve_upcoming(&self, count: usize, end: u64) -> Result<()> {
        let mut state = self.state.lock();
        let sequence = state.ready[count - 1].segment.sequence;
        while state.ready[count - 1].written < end && state.zeroing == Some(sequence) {
            self.changed.wait(&mut state);
        }
        let ahead = &mut state.ready[count - 1];
        if ahead.written < end {
            let (from, len) = (ahead.written, end - ahead.written);
            ahead.zeroer.reserve(from, len).map_err(|source| self.refused(source, len))?;
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
        state.bulk &= len >= BULK_LEN;
        self.start_work(&mut state, false);
    }

    /// Waits until `len` bytes behind the tail are zeroed.
    pub(crate) fn prepare(self: &Arc<Self>, len: u64) -> Result<()> {
        let mut state = self.state.lock();
        state.wanted = len;
        state.failure = None;
        loop {
            if state.ahead_len() >= len || state.closed {
                state.wanted = 0;
                return Ok(());
            }
            if let Some(failure) = state.failure.take() {
                state.wanted = 0;
                return Err(self.failed(&failure));
            }
            self.poison.check()?;
            self.start_work(&mut state, false);
            if state.working {
                self.changed.wait(&mut state);
            }
        }
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

    /// Gives what was made ahead back to the file system, but for a little: nobody writes at the moment.
    ///
    /// # Errors
    /// [`Error::Io`]: the file system refused to cut or remove a file, which does no harm.
    pub(crate) fn shrink(&self) -> Result<()> {
        let mut state = self.state.lock();
        let spare = std::mem::take(&mut state.spare);
        let tail = state.tail;
        if state.zeroing.is_none() && state.wanted == 0 {
            let State { active, ready, appended, .. } = &mut *state;
            let active = (active, tail + AHEAD_LEN_MIN);
            for (ahead, end) in std::iter::once(active).chain(ready.iter_mut().map(|a| (a, PAGE))) {
                if ahead.written > end {
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

    /// Sends a worker off, unless one is at work or nothing is to be done.
    fn start_work(self: &Arc<Self>, state: &mut MutexGuard<'_, State<D::File>>, make: bool) {
        if state.working || state.closed || self.next_step(state, make).is_none() {
            return;
        }
        state.working = true;
        let space = Arc::clone(self);
        let work = Command::new("space", move || space.work(make));
        let Some(pool) = &self.pool else {
            return MutexGuard::unlocked(state, || work.run());
        };
        if pool.submit(work).is_err() {
            state.working = false;
            state.closed = true;
        }
    }

    /// Runs on a worker: steps until enough is there.
    fn work(self: Arc<Self>, mut make: bool) {
        let _ends = EndOfWork(&self);
        loop {
            let mut state = self.state.lock();
            let step = if state.closed { None } else { self.next_step(&state, make) };
            let Some(step) = step else { return };
            make = false;
            if let Step::Zero { sequence, .. } = &step {
                state.zeroing = Some(*sequence);
            }
            if let Step::Make { number, spare, .. } = &step {
                state.next_number = number + 1;
                state.spare.retain(|other| Some(*other) != *spare);
            }
            drop(state);
            let done = self.carry_out(&step).map_err(|NotMade { source, left }| {
                left.inspect(|cause| self.poison.set(*cause));
                source
            });
            let mut state = self.state.lock();
            state.zeroing = None;
            match (step, done) {
                (Step::Zero { sequence, offset, len, .. }, Ok(_)) => {
                    state.written_to(sequence, offset + len);
                }
                (Step::Make { sequence, .. }, Ok(Some(ahead))) => {
                    state.next_sequence = sequence + 1;
                    state.ready.push_back(ahead);
                }
                (_, Ok(None)) => {}
                (_, Err(source)) => {
                    state.failure = Some(Arc::new(source));
                    return;
                }
            }
            drop(state);
            self.changed.notify_all();
        }
    }

    fn carry_out(
        &self,
        step: &Step<D::File>,
    ) -> std::result::Result<Option<Ahead<D::File>>, NotMade> {
        match step {
            Step::Zero { file, offset, len, .. } => {
                file.zero(*offset, *len)?;
                self.zeroed.add(*len);
                let synced = file.sync_data();
                synced.inspect_err(|_| match planted(Bug::WorkerSyncUnheard) {
                    true => {}
                    false => self.poison.set(PoisonCause::SyncFailed),
                })?;
                Ok(None)
            }
            Step::Make { number, sequence, spare } => {
                let (disk, store) = (&*self.disk, &self.store);
                let header = Self::new_header(disk, store, *sequence)?;
                let source = spare.map_or(Source::New(&[]), Source::Spare);
                let (segment, written) =
                    Self::make_segment(disk, store, &self.options, *number, &header, source)?;
                let name = FileName::Segment(*number);
                let not_made = |source| NotMade { source, left: take_back(disk, name) };
                let zeroer = disk.open(name, self.options.how());
                let zeroer = zeroer.map_err(not_made)?;
                let view = segment.file.map(segment.len_max as usize);
                let view = view.map_err(not_made)?;
                self.views.insert(segment.sequence, segment.number, view);
                let (segment, zeroer) = (Arc::new(segment), Arc::new(zeroer));
                Ok(Some(Ahead { segment, zeroer, written }))
            }
        }
    }

    fn next_step(&self, state: &State<D::File>, make: bool) -> Option<Step<D::File>> {
        let make_next = Step::Make {
            number: state.next_number,
            sequence: state.next_sequence,
            spare: state.spare.front().copied(),
        };
        // There is always one: it is at hand when the tail gets there, and its number in the row of
        // segments shows when the active one before it is lost.
        if make || state.ready.is_empty() {
            return Some(make_next);
        }
        let ahead_len = state.ahead_len();
        let goal = if state.bulk { 0 } else { self.goal(state).max(state.wanted) };
        if ahead_len >= goal {
            return None;
        }
        // Begin again only when half of it is used up, so that steps are long.
        let missing = goal - ahead_len;
        if missing < goal / 2 && state.wanted <= ahead_len {
            return None;
        }
        let room = std::iter::once(&state.active).chain(&state.ready).find(|a| a.room() > 0);
        let Some(ahead) = room else { return Some(make_next) };
        // Whole pages, whatever was asked for: direct writes take nothing else.
        let len = page_up(missing.clamp(AHEAD_LEN_MIN, STEP_LEN_MAX)).min(ahead.room());
        Some(Step::Zero {
            sequence: ahead.segment.sequence,
            file: Arc::clone(&ahead.zeroer),
            offset: ahead.written,
            len,
        })
    }

    fn goal(&self, state: &State<D::File>) -> u64 {
        let max = self.options.ahead_len_max;
        state.appended.clamp(AHEAD_LEN_MIN.min(max), max)
    }

    fn failed(&self, source: &io::Error) -> Error {
        let again = match source.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => source.kind().into(),
        };
        self.refused(again, self.options.segment_len)
    }

    fn refused(&self, source: io::Error, needed: u64) -> Error {
        Error::space(IoOp::Allocate, self.disk.path(), needed, source)
    }
}

/// Ends a worker's work also when it panics, so that nobody waits for it.
struct EndOfWork<'a, D: Disk>(&'a Space<D>);

impl<D: Disk> Drop for EndOfWork<'_, D> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.working = false;
        state.zeroing = None;
        drop(state);
        self.0.changed.notify_all();
    }
}

impl<F> State<F> {
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
