//! The reserve: disk space that ordinary writes may not take.
//!
//! Owns the file `RESERVE`, which holds nothing: it takes space, and is cut to give it back to the file
//! system when there is none left. Only what makes space, or what a store needs to be opened and closed,
//! draws from it: deletes, moves of compaction, checkpoints, marks of the log, and recovery. The last
//! [`RECOVERY_LEN`] bytes of it are recovery's alone. It outlives the session. Invariants:
//!
//! 1. What counts as kept was allocated by the file system and synced. Each session makes sure of that
//!    once, since a copy of the store may have holes there.
//! 2. While it is *short* (drawn from, or unable to grow), ordinary writes are refused and nothing is made
//!    ahead, so that space that returns goes to the reserve first.
//! 3. It is large enough for the blocks of the store before more are written. The upkeep sees to that ahead
//!    of time; a write that is faster does it itself. Each step is a share of the whole, so they are few.
//! 4. Nothing is ever read from it. Losing it costs the promise and no data, so an error other than lack of
//!    space that it meets in an open store gives it up until the next open, and stands in no write's way.
//!
//! What is drawn passes through the file system: another program that writes at that moment may take it.

use crate::local::options::QUOTA_SHARE;
use crate::local::options::RECOVERY_LEN;
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
/// Bytes for each block: a checkpoint of all of them, whole, before the one that it replaces goes.
const ENTRY_LEN: u64 = 32;
/// And of all checkpoints then: a base, its deltas, and the base that takes their place. What those that
/// are there take already is not wanted again.
const ENTRIES_LEN: u64 = 2 * ENTRY_LEN + ENTRY_LEN / 2;
/// This share of the log, for moves, up to so many segments: half of that takes what is in force in one.
const LOG_SHARE: u64 = 64;
const SEGMENT_COUNT_MAX: u64 = 2;
/// It grows by this share of itself, so that a growing store makes it grow rarely.
const GROWTH_SHARE: u64 = 8;

const _: () = assert!(RECOVERY_LEN >= 4 * STEP_LEN && RECOVERY_LEN.is_multiple_of(PAGE));

/// Who wants space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SpaceClass {
    /// Is refused when the disk is full.
    Ordinary,
    /// May draw from the reserve down to [`RECOVERY_LEN`].
    Reserved,
    /// May draw all of it: without that the store would not open.
    Recovery,
}

impl SpaceClass {
    /// What it leaves in the reserve; `None` where it takes nothing.
    fn floor_len(self) -> Option<u64> {
        match self {
            SpaceClass::Ordinary => None,
            SpaceClass::Reserved => Some(RECOVERY_LEN),
            SpaceClass::Recovery => Some(0),
        }
    }
}

/// What a store needs a reserve for.
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
    /// Blocks that it is large enough for.
    block_count_max: AtomicU64,
    drawn_len: AtomicU64,
}

struct ReserveState<F> {
    file: Option<F>,
    len: u64,
    goal: u64,
    /// What it was last made to suit.
    load: StoreLoad,
    /// All of it was allocated and synced in this session.
    sound: bool,
    /// The disk refused it for another reason than lack of space.
    given_up: bool,
}

/// Whether there was no space.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl<D: Disk> Reserve<D> {
    /// Looks for what an earlier session left, to change it or only to read how long it is. Changes nothing.
    ///
    /// # Errors
    /// The disk's own, that of a file that somebody else may have open among them.
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

    /// Keeps enough for the checkpoints of a store and for emptying segments of it, at once or from the next
    /// refill on.
    ///
    /// # Errors
    /// As [`Reserve::refill`].
    pub(crate) fn resize_for(&self, load: StoreLoad) -> io::Result<()> {
        self.suit_with(&mut self.state.lock(), load)
    }

    /// As [`Reserve::suit`], where nothing but the number of blocks has changed.
    ///
    /// # Errors
    /// As [`Reserve::refill`].
    pub(crate) fn suit_blocks(&self, block_count: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        let load = StoreLoad { block_count, ..state.load };
        self.suit_with(&mut state, load)
    }

    fn suit_with(&self, state: &mut ReserveState<D::File>, load: StoreLoad) -> io::Result<()> {
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
        let left_len = state.goal.saturating_sub(base_len);
        let count_max = ((left_len + checkpoint_len) / ENTRIES_LEN).min(left_len / ENTRY_LEN);
        self.block_count_max.store(count_max, Ordering::Relaxed);
        state.load = load;
        self.refill_with(state)
    }

    /// How well it suits so many blocks.
    pub(crate) fn fit(&self, block_count: u64) -> Fit {
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

    /// Whether it is drawn from or could not grow: then the disk is full.
    pub(crate) fn is_short(&self) -> bool {
        self.short.load(Ordering::Acquire)
    }

    /// Whether so much is missing that space should be made.
    pub(crate) fn is_low(&self) -> bool {
        if !self.is_short() {
            return false;
        }
        let state = self.state.lock();
        state.len < state.goal - (self.len_min - RECOVERY_LEN) / 8
    }

    /// Bytes that are missing.
    pub(crate) fn missing_len(&self) -> u64 {
        let state = self.state.lock();
        state.goal.saturating_sub(state.len)
    }

    /// Takes what is missing from the file system, as far as there is space.
    ///
    /// # Errors
    /// The disk is full: the reserve is short.
    pub(crate) fn refill(&self) -> io::Result<()> {
        self.refill_with(&mut self.state.lock())
    }

    /// As [`Reserve::refill`], for a caller that goes on either way: the next write asks again for what is missing.
    pub(crate) fn try_refill(&self) {
        unheard(self.refill(), "the next write asks for what is missing");
    }

    fn refill_with(&self, state: &mut ReserveState<D::File>) -> io::Result<()> {
        if state.given_up || (state.sound && state.len == state.goal) {
            self.short.store(false, Ordering::Release);
            return Ok(());
        }
        let filled = self.fill(state);
        let refused = filled.err().filter(|e| {
            state.given_up |= !is_full(e);
            is_full(e)
        });
        if state.given_up {
            (state.file, state.len) = (None, 0);
        }
        self.short.store(refused.is_some(), Ordering::Release);
        refused.map_or(Ok(()), Err)
    }

    fn fill(&self, state: &mut ReserveState<D::File>) -> io::Result<()> {
        if state.file.is_none() {
            let (file, len) = self.create()?;
            (state.file, state.len, state.sound) = (Some(file), len, false);
        }
        let ReserveState { file: Some(file), len, goal, sound, .. } = state else { return Ok(()) };
        if *len > *goal {
            file.set_len(*goal)?;
            *len = *goal;
        }
        // Holes, if an earlier session left any.
        let mut at = if *sound { *len } else { 0 };
        let (mut step, mut full, before) = (*goal - at, None, *len);
        while at < *goal {
            let take = step.min(*goal - at);
            match allocate(file, at, take) {
                Ok(()) => at += take,
                Err(e) if is_full(&e) && step > STEP_LEN => step = page_up(step / 2).max(STEP_LEN),
                Err(e) if is_full(&e) => {
                    full = Some(e);
                    break;
                }
                Err(e) => return Err(e),
            }
        }
        *len = at;
        if *sound && at <= before {
            return full.map_or(Ok(()), Err);
        }
        if let Err(e) = file.sync_data() {
            // What of it is there is unknown for ever: away with it.
            (state.file, state.len) = (None, 0);
            unheard(self.disk.remove(FileName::Reserve), "the sync's error is the answer");
            return Err(e);
        }
        *sound = true;
        full.map_or(Ok(()), Err)
    }

    /// The file, and what it holds already: an attempt that failed may have made it.
    fn create(&self) -> io::Result<(D::File, u64)> {
        match self.disk.open(FileName::Reserve, How::CreateNew) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                let file = self.disk.open(FileName::Reserve, How::ReadWrite)?;
                let len = file.len()?;
                Ok((file, len))
            }
            made => Ok((made?, 0)),
        }
    }

    /// Gives so much back to the file system, or what is left for this claim; false when that is nothing.
    pub(crate) fn draw(&self, claim: SpaceClass, at_least: u64) -> bool {
        let mut state = self.state.lock();
        let ReserveState { file: Some(file), len, .. } = &mut *state else { return false };
        let Some(floor_len) = claim.floor_len() else { return false };
        let rest = len.saturating_sub(page_up(at_least).max(STEP_LEN)) / PAGE * PAGE;
        let rest = rest.max(floor_len);
        if *len <= rest || file.set_len(rest).is_err() {
            return false;
        }
        self.drawn_len.fetch_add(*len - rest, Ordering::Relaxed);
        *len = rest;
        self.short.store(true, Ordering::Release);
        true
    }

    /// Gives so much back, and asks for twice as much the next time; false when there was nothing, or
    /// all of it was given back before. Somebody else may refill it meanwhile, on a disk that is full
    /// for this purpose only (a thin volume takes a file and then fails its sync for lack of space).
    pub(crate) fn draw_again(&self, claim: SpaceClass, step: &mut u64) -> bool {
        let all = self.state.lock().goal;
        let drawn = *step <= 2 * all && self.draw(claim, *step);
        *step *= 2;
        drawn
    }

    /// Tries something until it finds space or the reserve is empty, giving back more from one time to the
    /// next. For an ordinary claim, once.
    ///
    /// # Errors
    /// Those of `attempt`.
    pub(crate) fn spend<T>(
        &self,
        claim: SpaceClass,
        mut attempt: impl FnMut() -> io::Result<T>,
    ) -> io::Result<T> {
        let mut step = STEP_LEN;
        loop {
            match attempt() {
                Err(e) if is_full(&e) && self.draw_again(claim, &mut step) => {}
                done => return done,
            }
        }
    }
}

/// Takes space for a range of a file for certain: a file system that reserves nothing has to be written to.
fn allocate<F: DiskFile>(file: &F, at: u64, len: u64) -> io::Result<()> {
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
        assert!(!reserve.draw(SpaceClass::Ordinary, PAGE), "an ordinary write has some of it");
        while reserve.draw(SpaceClass::Reserved, PAGE) {}
        assert_eq!(reserve.len(), RECOVERY_LEN);
        let made = reserve.spend(SpaceClass::Recovery, || match reserve.len() {
            0 => Ok(()),
            _ => Err(io::ErrorKind::StorageFull.into()),
        });
        made.expect("all of it is recovery's");
    }
}
