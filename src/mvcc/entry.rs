//! Entries: the shared state of one open transaction, reused by the next one in its place.
//!
//! Owns [`TransactionSlot`]. One atomic [`Word`] holds id and [`Phase`]; whoever changes it in one step decides
//! what happens to the transaction:
//!
//! | from                          | to           | by        | and then                                |
//! |-------------------------------|--------------|-----------|-----------------------------------------|
//! | another transaction, ended    | `Active`     | a begin   | others may use it                       |
//! | `Active`                      | `Committing` | a commit  | takes the operations                    |
//! | `Active`                      | `GivenUp`    | a limit   | its next operation is refused           |
//! | `GivenUp`                     | `Unpinned`   | a limit   | releases its pin, drops its operations  |
//! | all of these but `Unpinned`   | an outcome   | its end   | drops its operations, releases its pin  |
//! | `Unpinned`                    | an outcome   | its end   | only ends                               |
//!
//! Operations work under the lock of [`Pending`]. A read of a transaction that has none of its own needs
//! no lock: it looks at the word before and after, and whoever ends the transaction changes the word
//! before the pin is released. An operation says `touched` before it looks at the word, and an end looks
//! at `touched` after it has changed the word: either sees the other (sequentially consistent both), so
//! an end that finds the entry untouched need not take the lock, and nothing is left behind.

use std::time::Duration;

use crate::block::{Lsn, TransactionId};
use crate::error::{Error, Result, SnapshotLimit};
use crate::mvcc::pending::Pending;
use crate::mvcc::word::{PLACE_BITS, Phase, Word};
use crate::sync::{AtomicBool, AtomicU64, Mutex, MutexGuard, OnceLock, Ordering};
use crate::transaction::IsolationLevel;

/// Entries of the first chunk; each next one has twice as many.
const CHUNK_LEN_FIRST: usize = 16;
const CHUNK_COUNT: usize = 18;

/// Transactions that one slot of threads can have open.
pub(crate) const PLACE_COUNT_MAX: u64 = CHUNK_LEN_FIRST as u64 * ((1 << CHUNK_COUNT) - 1);

const _: () = assert!(PLACE_COUNT_MAX <= 1 << PLACE_BITS);

/// No snapshot: what a transaction that reads the newest commits holds.
const NO_SNAPSHOT: u64 = u64::MAX;

/// The shared state of a transaction.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct TransactionSlot {
    word: AtomicU64,
    /// The pinned LSN, or [`NO_SNAPSHOT`].
    snapshot: AtomicU64,
    /// Nanoseconds on the store's clock.
    begun_at: AtomicU64,
    is_serializable: AtomicBool,
    /// Somebody took the lock of `pending` since the begin.
    is_touched: AtomicBool,
    /// Changes together with the word when that becomes `GivenUp`.
    limit: Mutex<Option<SnapshotLimit>>,
    pending: Mutex<Pending>,
}

/// The entries of one slot of threads. They stay where they are, so nobody locks to find one.
#[derive(Debug, Default)]
pub(crate) struct Entries {
    chunks: [OnceLock<Box<[TransactionSlot]>>; CHUNK_COUNT],
}

/// What a transaction sees of others.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SnapshotView {
    /// `None` reads the newest commits.
    pub(crate) snapshot: Option<Lsn>,
    pub(crate) isolation: IsolationLevel,
}

impl Entries {
    /// The entry in a place, where one was ever made.
    pub(crate) fn get(&self, place: u32) -> Option<&TransactionSlot> {
        let (chunk, at) = chunk_of(place);
        self.chunks.get(chunk)?.get().map(|entries| &entries[at])
    }

    /// The entry in a place.
    pub(crate) fn make(&self, place: u32) -> &TransactionSlot {
        let (chunk, at) = chunk_of(place);
        let len = CHUNK_LEN_FIRST << chunk;
        &self.chunks[chunk].get_or_init(|| (0..len).map(|_| TransactionSlot::default()).collect())
            [at]
    }
}

/// The chunk of a place, and where in it.
fn chunk_of(place: u32) -> (usize, usize) {
    let first = CHUNK_LEN_FIRST as u64;
    let chunk = (u64::from(place) / first + 1).ilog2();
    (chunk as usize, (u64::from(place) - first * ((1 << chunk) - 1)) as usize)
}

impl TransactionSlot {
    /// Begins a transaction in a free place and gives it its id.
    pub(crate) fn begin(
        &self,
        slot: usize,
        place: u32,
        view: SnapshotView,
        now: Duration,
    ) -> TransactionId {
        let word = Word::of_bits(self.word.load(Ordering::Relaxed)).next(slot, place);
        let begun_at = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        // Whoever reads one of these beside the old word finds another word behind them.
        self.snapshot.store(view.snapshot.map_or(NO_SNAPSHOT, |lsn| lsn.0), Ordering::Release);
        self.begun_at.store(begun_at, Ordering::Release);
        let is_serializable = view.isolation == IsolationLevel::Serializable;
        self.is_serializable.store(is_serializable, Ordering::Release);
        self.word.store(word.bits(), Ordering::Release);
        TransactionId(word.id())
    }

    /// The phase of a transaction; `None` when the place is another's now.
    pub(crate) fn phase(&self, id: TransactionId) -> Option<Phase> {
        let word = Word::of_bits(self.word.load(Ordering::SeqCst));
        (word.id() == id.0 && id.0 != 0).then(|| word.phase())
    }

    /// Takes a transaction from one phase to another; false when it was not in that.
    pub(crate) fn change(&self, id: TransactionId, from: Phase, to: Phase) -> bool {
        let (from, to) = (Word::new(id.0, from).bits(), Word::new(id.0, to).bits());
        self.word.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Locks what a transaction holds, so that its end waits for us. The caller looks at the phase then.
    pub(crate) fn work(&self) -> MutexGuard<'_, Pending> {
        if !self.is_touched.load(Ordering::SeqCst) {
            self.is_touched.store(true, Ordering::SeqCst);
        }
        self.pending.lock()
    }

    /// Drops what an ended transaction holds, once nobody works in it.
    #[inline]
    pub(crate) fn clear(&self) {
        if self.is_touched.load(Ordering::SeqCst) {
            self.clear_pending();
        }
    }

    fn clear_pending(&self) {
        let mut pending = self.pending.lock();
        let held = std::mem::take(&mut *pending);
        self.is_touched.store(false, Ordering::SeqCst);
        drop(pending);
        drop(held);
    }

    /// What a transaction sees, where a read of it need not be noted nor look at its own operations.
    pub(crate) fn plain_view(&self, id: TransactionId) -> Option<SnapshotView> {
        if self.phase(id) != Some(Phase::Active)
            || self.is_touched.load(Ordering::Acquire)
            || self.is_serializable.load(Ordering::Acquire)
        {
            return None;
        }
        Some(self.view())
    }

    /// What the transaction in this place sees.
    pub(crate) fn view(&self) -> SnapshotView {
        let snapshot = Some(self.snapshot.load(Ordering::Acquire));
        let snapshot = snapshot.filter(|lsn| *lsn != NO_SNAPSHOT).map(Lsn);
        let isolation = match (snapshot, self.is_serializable.load(Ordering::Acquire)) {
            (None, _) => IsolationLevel::ReadCommitted,
            (Some(_), false) => IsolationLevel::Snapshot,
            (Some(_), true) => IsolationLevel::Serializable,
        };
        SnapshotView { snapshot, isolation }
    }

    /// The open transaction in this place that holds a snapshot: id, snapshot and begin.
    pub(crate) fn pinned(&self) -> Option<(TransactionId, Lsn, Duration)> {
        let word = Word::of_bits(self.word.load(Ordering::Acquire));
        let snapshot = self.snapshot.load(Ordering::Acquire);
        let begun_at = Duration::from_nanos(self.begun_at.load(Ordering::Acquire));
        let then = Word::of_bits(self.word.load(Ordering::Relaxed));
        let is_open = |word: Word| word.id() != 0 && word.phase().is_open();
        let is_same = word.id() == then.id() && is_open(word) && is_open(then);
        (is_same && then.phase() != Phase::Unpinned && snapshot != NO_SNAPSHOT).then_some((
            TransactionId(word.id()),
            Lsn(snapshot),
            begun_at,
        ))
    }

    /// Gives an active transaction up for a limit. True when it is now, or was before, and still holds
    /// its pin.
    pub(crate) fn give_up(&self, id: TransactionId, limit: SnapshotLimit) -> bool {
        let mut why = self.limit.lock();
        if self.change(id, Phase::Active, Phase::GivenUp) {
            *why = Some(limit);
        }
        drop(why);
        self.phase(id) == Some(Phase::GivenUp)
    }

    /// Drops what a transaction holds that was given up; true when its pin is the caller's to release,
    /// false while somebody works in it.
    pub(crate) fn let_go(&self, id: TransactionId) -> bool {
        let Some(mut pending) = self.pending.try_lock() else { return false };
        let is_ours = self.change(id, Phase::GivenUp, Phase::Unpinned);
        if is_ours {
            *pending = Pending::default();
        }
        is_ours
    }

    /// The error of an operation on a transaction that was given up.
    pub(crate) fn too_old(&self, id: TransactionId) -> Error {
        let snapshot = self.view().snapshot.unwrap_or(Lsn(0));
        match *self.limit.lock() {
            Some(limit) => Error::SnapshotTooOld { id, snapshot, limit },
            None => unreachable!("the limit is set together with the phase"),
        }
    }
}

/// What an operation in this phase comes to.
pub(crate) fn check_active(entry: &TransactionSlot, id: TransactionId, phase: Phase) -> Result<()> {
    match phase {
        Phase::Active => Ok(()),
        Phase::GivenUp | Phase::Unpinned => Err(entry.too_old(id)),
        phase => Err(Error::TransactionNotActive { id, state: phase.state() }),
    }
}
