//! The reserve: disk space that ordinary writes may not take.
//!
//! Owns the file `RESERVE`. It holds no data: it takes disk space, and is cut to give space back
//! when the disk is full. Only deletes, relocations, checkpoints, control records of the log and
//! recovery draw from it. They reclaim space, or a store needs them to be opened and closed. The
//! last [`RECOVERY_LEN`] bytes are for recovery alone. The file outlives the session. Invariants:
//!
//! 1. Bytes that count as kept were allocated by the file system and synced. Each session makes
//!    sure of that once, since a copy of the store may have holes there.
//! 2. While the reserve is *short* (drawn from, or unable to grow), ordinary writes are refused and
//!    no segment is made ahead. So space that returns goes to the reserve first.
//! 3. The reserve is large enough for the blocks of the store before more are written. Maintenance
//!    grows it ahead of time; a write that is faster grows it itself. Each step is a share of the
//!    whole, so steps are few.
//! 4. Nothing is ever read from it. Losing it costs the promise and no data. So an error other than
//!    lack of space gives it up until the next open, and refuses no write.
//!
//! Space that is drawn passes through the file system: another program that writes at that moment
//! may take it.

use crate::local::options::{QUOTA_SHARE, RECOVERY_LEN};
use std::io;
use std::sync::Arc;

use crate::io::{Disk, DiskFile, FileName, How};
use crate::local::format::{PAGE, page_up};
use crate::sync::{AtomicBool, AtomicU64, Mutex, Ordering};
use crate::unheard::unheard;

/// Drawn at once, at least.
const STEP_LEN: u64 = 4 * PAGE;
/// The reserve of a store with few blocks, for segments of any length.
const LEN_MIN: u64 = 256 << 10;
const LEN_MAX: u64 = 1 << 20;
/// Bytes for each block: a whole checkpoint, written before the one that it replaces is removed.
const ENTRY_LEN: u64 = 32;
/// Bytes for each block of all checkpoints then: a base, its deltas, and the base that replaces
/// them. The length of the present checkpoints is subtracted.
const ENTRIES_LEN: u64 = 2 * ENTRY_LEN + ENTRY_LEN / 2;
/// This share of the log is kept for relocations, up to so many segments. Half of that holds the
/// live bytes of one segment.
const LOG_SHARE: u64 = 64;
const SEGMENT_COUNT_MAX: u64 = 2;
/// The reserve grows by this share of itself, so that it grows rarely.
const GROWTH_SHARE: u64 = 8;

const _: () = assert!(RECOVERY_LEN >= 4 * STEP_LEN && RECOVERY_LEN.is_multiple_of(PAGE));

/// The class of a request for space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SpaceClass {
    /// Refused when the disk is full.
    Ordinary,
    /// May draw from the reserve down to [`RECOVERY_LEN`].
    Reserved,
    /// May draw all of the reserve: without that the store would not open.
    Recovery,
}

impl SpaceClass {
    /// The length that this class leaves in the reserve; `None` where it may draw nothing.
    fn untouched_reserve_len(self) -> Option<u64> {
        match self {
            SpaceClass::Ordinary => None,
            SpaceClass::Reserved => Some(RECOVERY_LEN),
            SpaceClass::Recovery => Some(0),
        }
    }
}

/// The sizes of a store that decide how long its reserve must be.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct StoreLoad {
    pub(crate) block_count: u64,
    /// Bytes of all segments that hold frames.
    pub(crate) log_len: u64,
    /// Bytes of the checkpoints in use.
    pub(crate) checkpoint_len: u64,
}

/// How well the reserve suits a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    Well,
    /// It should grow soon.
    Tight,
    TooSmall,
}

/// The reserve of one store.
pub(crate) struct Reserve<D: Disk> {
    disk: Arc<D>,
    len_min: u64,
    segment_len: u64,
    state: Mutex<ReserveState<D::File>>,
    short: AtomicBool,
    /// Blocks that the reserve is large enough for.
    block_count_max: AtomicU64,
    drawn_len: AtomicU64,
}

struct ReserveState<F> {
    file: Option<F>,
    len: u64,
    goal: u64,
    /// The load that it was last resized for.
    load: StoreLoad,
    /// All of it was allocated and synced in this session.
    sound: bool,
    /// The disk refused the reserve for another reason than lack of space.
    given_up: bool,
}

/// Whether an error is a lack of space.
pub(crate) fn is_out_of_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl<D: Disk> Reserve<D> {
    /// Opens the reserve that an earlier session left, for changes or for its length only. Changes
    /// nothing.
    ///
    /// # Errors
    /// The disk's own, among them that another process has the file open.
    pub(crate) fn open(
        disk: Arc<D>,
        how: How,
        segment_len: u64,
        max_bytes: Option<u64>,
    ) -> io::Result<Reserve<D>> {
        let file = match disk.open(FileName::Reserve, how) {
            Ok(file) => Some(file),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        let len = file.as_ref().map_or(Ok(0), DiskFile::len)?;
        let len_min = page_up((segment_len / 64).clamp(LEN_MIN, LEN_MAX)) + RECOVERY_LEN;
        let len_min = max_bytes.map_or(len_min, |max| len_min.min(max / QUOTA_SHARE / PAGE * PAGE));
        assert!(len_min >= RECOVERY_LEN, "recovery's share is always kept");
        debug_assert!(len_min.is_multiple_of(PAGE), "the reserve is whole pages");
        let load = StoreLoad::default();
        let state = ReserveState { file, len, goal: len_min, load, sound: false, given_up: false };
        Ok(Reserve {
            disk,
            len_min,
            segment_len,
            state: Mutex::new(state),
            short: AtomicBool::new(false),
            block_count_max: AtomicU64::new(0),
            drawn_len: AtomicU64::new(0),
        })
    }

    /// Resizes the reserve for the checkpoints of a store and for emptying its segments, at once or
    /// from the next refill on.
    ///
    /// # Errors
    /// As [`Reserve::refill`].
    pub(crate) fn resize_for(&self, load: StoreLoad) -> io::Result<()> {
        self.resize_locked(&mut self.state.lock(), load)
    }

    /// As [`Reserve::resize_for`], where nothing but the number of blocks has changed.
    ///
    /// # Errors
    /// As [`Reserve::refill`].
    pub(crate) fn resize_for_blocks(&self, block_count: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        let load = StoreLoad { block_count, ..state.load };
        self.resize_locked(&mut state, load)
    }

    fn resize_locked(&self, state: &mut ReserveState<D::File>, load: StoreLoad) -> io::Result<()> {
        let StoreLoad { block_count, log_len, checkpoint_len } = load;
        let moves_len = (log_len / LOG_SHARE).min(self.segment_len * SEGMENT_COUNT_MAX);
        let base_len = RECOVERY_LEN + (self.len_min - RECOVERY_LEN) / 2 + moves_len;
        let images_len = (block_count * ENTRIES_LEN).saturating_sub(checkpoint_len);
        let wanted = self.len_min.max(base_len + images_len.max(block_count * ENTRY_LEN));
        // Neither grown nor cut for a few blocks more or less.
        if wanted > state.goal || wanted < state.goal / 2 {
            let more = if wanted > self.len_min { wanted / GROWTH_SHARE } else { 0 };
            state.goal = page_up(wanted + more);
        }
        debug_assert!(state.goal >= self.len_min && state.goal.is_multiple_of(PAGE));
        let left_len = state.goal.saturating_sub(base_len);
        let count_max = ((left_len + checkpoint_len) / ENTRIES_LEN).min(left_len / ENTRY_LEN);
        self.block_count_max.store(count_max, Ordering::Relaxed);
        state.load = load;
        self.refill_locked(state)
    }

    /// The level of the reserve for so many blocks.
    pub(crate) fn level_for_blocks(&self, block_count: u64) -> Fit {
        let max = self.block_count_max.load(Ordering::Relaxed);
        match block_count {
            count if count > max => Fit::TooSmall,
            count if count > max - max / GROWTH_SHARE / 2 => Fit::Tight,
            _ => Fit::Well,
        }
    }

    /// Bytes kept now.
    pub(crate) fn len(&self) -> u64 {
        self.state.lock().len
    }

    /// Bytes drawn since open.
    pub(crate) fn drawn_len(&self) -> u64 {
        self.drawn_len.load(Ordering::Relaxed)
    }

    /// Whether the reserve was drawn from or could not grow: then the disk is full.
    pub(crate) fn is_short(&self) -> bool {
        self.short.load(Ordering::Acquire)
    }

    /// Whether so much is missing that maintenance should reclaim space.
    pub(crate) fn should_reclaim(&self) -> bool {
        if !self.is_short() {
            return false;
        }
        let state = self.state.lock();
        state.len < state.goal - (self.len_min - RECOVERY_LEN) / 8
    }

    /// Bytes missing to the goal.
    pub(crate) fn missing_len(&self) -> u64 {
        let state = self.state.lock();
        state.goal.saturating_sub(state.len)
    }

    /// Takes the missing bytes from the file system, as far as there is space.
    ///
    /// # Errors
    /// The disk is full: the reserve is short.
    pub(crate) fn refill(&self) -> io::Result<()> {
        self.refill_locked(&mut self.state.lock())
    }

    /// As [`Reserve::refill`], for a caller that continues either way. The next write asks again.
    pub(crate) fn refill_best_effort(&self) {
        unheard(self.refill(), "the next write asks for what is missing");
    }

    fn refill_locked(&self, state: &mut ReserveState<D::File>) -> io::Result<()> {
        if state.given_up || (state.sound && state.len == state.goal) {
            self.short.store(false, Ordering::Release);
            return Ok(());
        }
        let filled = self.allocate_missing(state);
        let refused = filled.err().filter(|e| {
            state.given_up |= !is_out_of_space(e);
            is_out_of_space(e)
        });
        if state.given_up {
            (state.file, state.len) = (None, 0);
        }
        debug_assert!(
            !state.given_up || state.len == 0,
            "a reserve that was given up keeps nothing"
        );
        self.short.store(refused.is_some(), Ordering::Release);
        refused.map_or(Ok(()), Err)
    }

    fn allocate_missing(&self, state: &mut ReserveState<D::File>) -> io::Result<()> {
        if state.file.is_none() {
            let (file, len) = self.open_or_create_file()?;
            (state.file, state.len, state.sound) = (Some(file), len, false);
        }
        let ReserveState { file: Some(file), len, goal, sound, .. } = state else { return Ok(()) };
        if *len > *goal {
            file.set_len(*goal)?;
            *len = *goal;
        }
        // An earlier session may have left holes.
        let mut at = if *sound { *len } else { 0 };
        let (mut step, mut full, before) = (*goal - at, None, *len);
        while at < *goal {
            let take = step.min(*goal - at);
            match allocate_range(file, at, take) {
                Ok(()) => at += take,
                Err(e) if is_out_of_space(&e) && step > STEP_LEN => {
                    step = page_up(step / 2).max(STEP_LEN)
                }
                Err(e) if is_out_of_space(&e) => {
                    full = Some(e);
                    break;
                }
                Err(e) => return Err(e),
            }
        }
        *len = at;
        debug_assert!(*len <= *goal, "no more is allocated than the goal");
        if *sound && at <= before {
            return full.map_or(Ok(()), Err);
        }
        if let Err(e) = file.sync_data() {
            // After a failed sync the state of the file stays unknown, so it is removed.
            (state.file, state.len) = (None, 0);
            unheard(self.disk.remove(FileName::Reserve), "the sync's error is the answer");
            return Err(e);
        }
        *sound = true;
        full.map_or(Ok(()), Err)
    }

    /// Makes the file, or opens the file that a failed attempt made. Returns its length, too.
    fn open_or_create_file(&self) -> io::Result<(D::File, u64)> {
        match self.disk.open(FileName::Reserve, How::CreateNew) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                let file = self.disk.open(FileName::Reserve, How::ReadWrite)?;
                let len = file.len()?;
                Ok((file, len))
            }
            made => Ok((made?, 0)),
        }
    }

    /// Gives at least so much back to the file system, or what is left for this class. False when
    /// that is nothing.
    pub(crate) fn draw_space(&self, class: SpaceClass, at_least: u64) -> bool {
        let mut state = self.state.lock();
        let ReserveState { file: Some(file), len, .. } = &mut *state else { return false };
        let Some(floor_len) = class.untouched_reserve_len() else { return false };
        let rest = len.saturating_sub(page_up(at_least).max(STEP_LEN)) / PAGE * PAGE;
        let rest = rest.max(floor_len);
        if *len <= rest || file.set_len(rest).is_err() {
            return false;
        }
        debug_assert!(rest >= floor_len, "each class leaves the share of those above it");
        self.drawn_len.fetch_add(*len - rest, Ordering::Relaxed);
        *len = rest;
        self.short.store(true, Ordering::Release);
        true
    }

    /// Draws one step and doubles the step. False when there was nothing, or all was given back
    /// before. Another thread may refill the reserve meanwhile on a disk that is full for this
    /// purpose only (a thin volume takes a file and then fails its sync for lack of space).
    pub(crate) fn draw_doubled_step(&self, class: SpaceClass, step: &mut u64) -> bool {
        let all = self.state.lock().goal;
        let drawn = *step <= 2 * all && self.draw_space(class, *step);
        *step *= 2;
        drawn
    }

    /// Repeats an attempt until it finds space or the reserve is empty, and draws more each time.
    /// For an ordinary request, tries once.
    ///
    /// # Errors
    /// Those of `attempt`.
    pub(crate) fn retry_with_reserve<T>(
        &self,
        class: SpaceClass,
        mut attempt: impl FnMut() -> io::Result<T>,
    ) -> io::Result<T> {
        let mut step = STEP_LEN;
        loop {
            match attempt() {
                Err(e) if is_out_of_space(&e) && self.draw_doubled_step(class, &mut step) => {}
                done => return done,
            }
        }
    }
}

/// Allocates a range of a file. Where the file system reserves nothing, the range is written with
/// zeros.
fn allocate_range<F: DiskFile>(file: &F, at: u64, len: u64) -> io::Result<()> {
    file.reserve(at, len)?;
    if file.len()? < at + len { file.zero(at, len) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::sim::SimDisk;

    #[test]
    fn what_recovery_needs_is_left_by_every_other_claim() {
        let disk = Arc::new(SimDisk::new(1));
        let reserve = Reserve::open(disk, How::ReadWrite, 1 << 20, None).expect("none yet");
        reserve.refill().expect("there is space");
        assert!(reserve.len() >= LEN_MIN + RECOVERY_LEN, "{} bytes are kept", reserve.len());
        assert!(
            !reserve.draw_space(SpaceClass::Ordinary, PAGE),
            "an ordinary write has some of it"
        );
        while reserve.draw_space(SpaceClass::Reserved, PAGE) {}
        assert_eq!(reserve.len(), RECOVERY_LEN);
        let made = reserve.retry_with_reserve(SpaceClass::Recovery, || match reserve.len() {
            0 => Ok(()),
            _ => Err(io::ErrorKind::StorageFull.into()),
        });
        made.expect("all of it is recovery's");
    }
}
