//! The worker of [`Space`]: makes and zeroes segments, one task at a time, until enough is there.
//!
//! Owns the choice of the next task. No thread waits for a worker that has ended.

use std::sync::Arc;

use super::make::{SegmentMaker, SegmentNotMade, Source, remove_durably};
use super::{AHEAD_LEN_MIN, Ahead, STEP_LEN_MAX, Space, SpaceState};
use crate::error::PoisonCause;
use crate::io::pool::Command;
use crate::io::{Disk, DiskFile, FileName};
use crate::local::format::{PAGE, page_up};
use crate::sync::MutexGuard;

/// Zeroed at once where the tail is far, because commits wait behind it.
const PIECE_LEN: u64 = 256 << 10;
/// With less than this share of its goal ahead of the tail, a worker zeroes the whole task at once.
const HURRY_SHARE: u64 = 4;

const _: () = assert!(PIECE_LEN.is_multiple_of(PAGE));

/// The next task of a worker.
enum SpaceTask<F> {
    Zero { sequence: u64, file: Arc<F>, offset: u64, len: u64, piece_len: u64 },
    Make { number: u64, sequence: u64, spare: Option<u64> },
}

impl<D: Disk> Space<D> {
    /// Starts a worker, unless one runs or nothing is to be done.
    pub(super) fn start_worker<'a>(
        self: &'a Arc<Self>,
        state: &mut MutexGuard<'a, SpaceState<D::File>>,
        make: bool,
    ) {
        if state.working || state.closed || self.choose_next_task(state, make).is_none() {
            return;
        }
        state.working = true;
        let space = Arc::clone(self);
        let work = Command::new("space", move || space.run_worker_steps(make));
        let Some(pool) = &self.parts.pool else {
            return self.state.unlocked(state, || work.run());
        };
        if pool.submit(work).is_err() {
            state.working = false;
            state.closed = true;
        }
    }

    /// Runs on a worker: performs tasks until enough is there.
    fn run_worker_steps(self: Arc<Self>, mut make: bool) {
        let _ends = EndOfWork(&self);
        loop {
            let mut state = self.state.lock();
            let step = if state.closed { None } else { self.choose_next_task(&state, make) };
            let Some(step) = step else { return };
            make = false;
            if let SpaceTask::Zero { sequence, .. } = &step {
                state.zeroing = Some(*sequence);
            }
            if let SpaceTask::Make { number, spare, .. } = &step {
                state.next_number = number + 1;
                state.spare.retain(|other| Some(*other) != *spare);
            }
            drop(state);
            let done = self.perform_task(&step).map_err(|SegmentNotMade { source, left }| {
                left.inspect(|cause| self.parts.poison.set(*cause));
                source
            });
            let mut state = self.state.lock();
            state.zeroing = None;
            match (step, done) {
                (SpaceTask::Zero { sequence, offset, len, .. }, Ok(_)) => {
                    state.set_written_offset(sequence, offset + len);
                }
                (SpaceTask::Make { sequence, .. }, Ok(Some(ahead))) => {
                    assert!(
                        state.next_sequence == sequence,
                        "sequences of segments are contiguous"
                    );
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

    fn perform_task(
        &self,
        step: &SpaceTask<D::File>,
    ) -> std::result::Result<Option<Ahead<D::File>>, SegmentNotMade> {
        match step {
            SpaceTask::Zero { file, offset, len, piece_len, .. } => {
                let pieces = (0..*len).step_by(*piece_len as usize);
                for at in pieces {
                    file.zero(offset + at, (*piece_len).min(len - at))?;
                }
                self.zeroed.add(*len);
                let synced = file.sync_data();
                synced.inspect_err(|_| self.parts.poison.set(PoisonCause::SyncFailed))?;
                Ok(None)
            }
            SpaceTask::Make { number, sequence, spare } => {
                let disk = &*self.parts.disk;
                let maker =
                    SegmentMaker { disk, store: &self.parts.store, options: &self.parts.options };
                let header = maker.new_segment_header(*sequence)?;
                let source = spare.map_or(Source::New(&[]), Source::Spare);
                let (segment, written) = maker.make_segment(*number, &header, source)?;
                let name = FileName::Segment(*number);
                let not_made = |source| SegmentNotMade { source, left: remove_durably(disk, name) };
                let zeroer = disk.open(name, self.parts.options.how);
                let zeroer = zeroer.map_err(not_made)?;
                let (file, len_max) = (&segment.file, segment.len_max());
                let shown =
                    self.parts.views.insert_mapped(segment.sequence, segment.number, file, len_max);
                shown.map_err(not_made)?;
                let (segment, zeroer) = (Arc::new(segment), Arc::new(zeroer));
                Ok(Some(Ahead { segment, zeroer, written }))
            }
        }
    }

    fn choose_next_task(
        &self,
        state: &SpaceState<D::File>,
        make: bool,
    ) -> Option<SpaceTask<D::File>> {
        let make_next = SpaceTask::Make {
            number: state.next_number,
            sequence: state.next_sequence,
            spare: state.spare.front().copied(),
        };
        // One segment is always ready: the tail needs it when it gets there, and its sequence shows
        // when the active segment before it is lost.
        if make || state.ready.is_empty() {
            return Some(make_next);
        }
        let ahead_len = state.zeroed_ahead_len();
        let own = if state.bulk || self.is_disk_or_quota_full() {
            0
        } else {
            self.zeroing_goal_len(state)
        };
        let goal = own.max(if state.bulk { 0 } else { state.wanted });
        if ahead_len >= goal {
            return None;
        }
        // Zeroing starts again only when half is used up, so that tasks are long.
        let missing = goal - ahead_len;
        if missing < goal / 2 && state.wanted <= ahead_len {
            return None;
        }
        let room =
            std::iter::once(&state.active).chain(&state.ready).find(|a| a.unwritten_len() > 0);
        let Some(ahead) = room else { return Some(make_next) };
        // Whole pages, because direct writes take nothing else.
        let len = page_up(missing.clamp(AHEAD_LEN_MIN, STEP_LEN_MAX)).min(ahead.unwritten_len());
        debug_assert!(len > 0, "a task makes progress");
        Some(SpaceTask::Zero {
            sequence: ahead.segment.sequence,
            file: Arc::clone(&ahead.zeroer),
            offset: ahead.written,
            len,
            piece_len: if ahead_len < goal / HURRY_SHARE { len } else { PIECE_LEN },
        })
    }

    fn zeroing_goal_len(&self, state: &SpaceState<D::File>) -> u64 {
        let max = self.parts.options.ahead_len_max;
        state.appended.clamp(AHEAD_LEN_MIN.min(max), max)
    }
}

/// Ends a worker's work also when it panics, so that no thread waits for it.
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
