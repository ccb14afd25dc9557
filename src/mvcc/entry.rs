//! Transaction slots: the shared state of one open transaction, reused by the next one in its
//! place.
//!
//! Owns [`TransactionSlot`]. One atomic [`Word`], the state word, holds id and [`Phase`]. The
//! thread that changes it in one step decides what happens to the transaction:
//!
//! | from                 | to           | by       | and then                               |
//! |----------------------|--------------|----------|----------------------------------------|
//! | an ended transaction | `Active`     | a begin  | others may use it                      |
//! | `Active`             | `Committing` | a commit | takes the operations                   |
//! | `Active`             | `GivenUp`    | a limit  | its next operation is refused          |
//! | `GivenUp`            | `Unpinned`   | a limit  | releases its pin, drops its operations |
//! | any but `Unpinned`   | an outcome   | its end  | drops its operations, releases its pin |
//! | `Unpinned`           | an outcome   | its end  | only ends                              |
//!
//! Operations work under the lock of [`Pending`]. A read of a transaction without operations needs
//! no lock. It looks at the state word before and after; an end changes the word before the pin is
//! released. An operation sets `is_touched` before it looks at the word, and an end looks at
//! `is_touched` after it has changed the word. Both are sequentially consistent, so either sees the
//! other. So an end that finds the slot untouched need not take the lock, and nothing is left
//! behind.

use std::time::Duration;

use crate::block::{Lsn, TransactionId};
use crate::error::{Error, Result, SnapshotLimit};
use crate::mvcc::pending::Pending;
use crate::mvcc::word::{PLACE_BITS, Phase, Word};
use crate::sync::{AtomicBool, AtomicU64, Mutex, MutexGuard, OnceLock, Ordering};
use crate::transaction::IsolationLevel;

/// Transaction slots of the first chunk; each next chunk has twice as many.
const CHUNK_LEN_FIRST: usize = 16;
const CHUNK_COUNT: usize = 18;

/// Transactions that one slot of threads can have open.
pub(crate) const PLACE_COUNT_MAX: u64 = CHUNK_LEN_FIRST as u64 * ((1 << CHUNK_COUNT) - 1);

const _: () = assert!(PLACE_COUNT_MAX <= 1 << PLACE_BITS);

/// No snapshot: the transaction reads the newest commits.
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
    /// A thread took the lock of `pending` since the begin.
    is_touched: AtomicBool,
    /// Changes together with the word when that becomes `GivenUp`.
    limit: Mutex<Option<SnapshotLimit>>,
    pending: Mutex<Pending>,
}

/// The transaction slots of one thread slot. They stay where they are, so a thread finds one
/// without a lock.
#[derive(Debug, Default)]
pub(crate) struct Entries {
    chunks: [OnceLock<Box<[TransactionSlot]>>; CHUNK_COUNT],
}

/// The commits that a transaction sees.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SnapshotView {
    /// `None` reads the newest commits.
    pub(crate) snapshot: Option<Lsn>,
    pub(crate) isolation: IsolationLevel,
}

impl Entries {
    /// The transaction slot in a place, where one was ever made.
    pub(crate) fn existing_slot(&self, place: u32) -> Option<&TransactionSlot> {
        let (chunk, at) = chunk_and_offset(place);
        self.chunks.get(chunk)?.get().map(|entries| &entries[at])
    }

    /// The transaction slot in a place, made if need be.
    pub(crate) fn slot_or_make(&self, place: u32) -> &TransactionSlot {
        let (chunk, at) = chunk_and_offset(place);
        debug_assert!(u64::from(place) < PLACE_COUNT_MAX, "a place is in a chunk");
        let len = CHUNK_LEN_FIRST << chunk;
        &self.chunks[chunk].get_or_init(|| (0..len).map(|_| TransactionSlot::default()).collect())
            [at]
    }
}

/// The chunk of a place, and the offset in it.
fn chunk_and_offset(place: u32) -> (usize, usize) {
    let first = CHUNK_LEN_FIRST as u64;
    let chunk = (u64::from(place) / first + 1).ilog2();
    (chunk as usize, (u64::from(place) - first * ((1 << chunk) - 1)) as usize)
}

impl TransactionSlot {
    /// Begins a transaction in a free place and gives it its id.
    pub(crate) fn begin_transaction(
        &self,
        slot: usize,
        place: u32,
        view: SnapshotView,
        now: Duration,
    ) -> TransactionId {
        let before = Word::from_bits(self.word.load(Ordering::Relaxed));
        debug_assert!(before.id() == 0 || !before.phase().is_open(), "the place is free");
        let word = before.next_in_place(slot, place);
        let begun_at = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        // A reader of one of these beside the old word finds another word after them.
        self.snapshot.store(view.snapshot.map_or(NO_SNAPSHOT, |lsn| lsn.0), Ordering::Release);
        self.begun_at.store(begun_at, Ordering::Release);
        let is_serializable = view.isolation == IsolationLevel::Serializable;
        self.is_serializable.store(is_serializable, Ordering::Release);
        self.word.store(word.bits(), Ordering::Release);
        TransactionId(word.id())
    }

    /// The phase of a transaction; `None` when the place is another's now.
    pub(crate) fn phase_of(&self, id: TransactionId) -> Option<Phase> {
        let word = Word::from_bits(self.word.load(Ordering::SeqCst));
        (word.id() == id.0 && id.0 != 0).then(|| word.phase())
    }

    /// Takes a transaction from one phase to another; false when it was not in that.
    pub(crate) fn change_phase(&self, id: TransactionId, from: Phase, to: Phase) -> bool {
        debug_assert!(from.is_open() && from != to, "an ended transaction changes no more");
        let (from, to) = (Word::new(id.0, from).bits(), Word::new(id.0, to).bits());
        self.word.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Locks the operations of a transaction, so that its end waits. The caller checks the phase
    /// then.
    pub(crate) fn lock_pending(&self) -> MutexGuard<'_, Pending> {
        if !self.is_touched.load(Ordering::SeqCst) {
            self.is_touched.store(true, Ordering::SeqCst);
        }
        self.pending.lock()
    }

    /// Drops the operations of an ended transaction, once no thread works in it.
    #[inline]
    pub(crate) fn clear_if_touched(&self) {
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

    /// The snapshot of an active transaction whose reads need no note and that has no operations.
    pub(crate) fn unlocked_view(&self, id: TransactionId) -> Option<SnapshotView> {
        if self.phase_of(id) != Some(Phase::Active)
            || self.is_touched.load(Ordering::Acquire)
            || self.is_serializable.load(Ordering::Acquire)
        {
            return None;
        }
        Some(self.snapshot_view())
    }

    /// The snapshot of the transaction in this place.
    pub(crate) fn snapshot_view(&self) -> SnapshotView {
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
    pub(crate) fn pinned_snapshot(&self) -> Option<(TransactionId, Lsn, Duration)> {
        let word = Word::from_bits(self.word.load(Ordering::Acquire));
        let snapshot = self.snapshot.load(Ordering::Acquire);
        let begun_at = Duration::from_nanos(self.begun_at.load(Ordering::Acquire));
        let then = Word::from_bits(self.word.load(Ordering::Relaxed));
        let is_open = |word: Word| word.id() != 0 && word.phase().is_open();
        let is_same = word.id() == then.id() && is_open(word) && is_open(then);
        (is_same && then.phase() != Phase::Unpinned && snapshot != NO_SNAPSHOT).then_some((
            TransactionId(word.id()),
            Lsn(snapshot),
            begun_at,
        ))
    }

    /// Gives up an active transaction for a limit. True when it is given up, now or before, and
    /// still holds its pin.
    pub(crate) fn mark_given_up(&self, id: TransactionId, limit: SnapshotLimit) -> bool {
        let mut why = self.limit.lock();
        if self.change_phase(id, Phase::Active, Phase::GivenUp) {
            *why = Some(limit);
        }
        drop(why);
        self.phase_of(id) == Some(Phase::GivenUp)
    }

    /// Drops the operations of a given-up transaction. True when the caller must release its pin;
    /// false while a thread works in it.
    pub(crate) fn drop_given_up(&self, id: TransactionId) -> bool {
        let Some(mut pending) = self.pending.try_lock() else { return false };
        let is_ours = self.change_phase(id, Phase::GivenUp, Phase::Unpinned);
        if is_ours {
            *pending = Pending::default();
        }
        is_ours
    }

    /// The error of an operation on a transaction that was given up.
    pub(crate) fn snapshot_too_old_error(&self, id: TransactionId) -> Error {
        let snapshot = self.snapshot_view().snapshot.unwrap_or(Lsn(0));
        match *self.limit.lock() {
            Some(limit) => Error::SnapshotTooOld { id, snapshot, limit },
            None => unreachable!("the limit is set together with the phase"),
        }
    }
}

/// Refuses an operation on a transaction that is not active.
pub(crate) fn check_active_phase(
    entry: &TransactionSlot,
    id: TransactionId,
    phase: Phase,
) -> Result<()> {
    match phase {
        Phase::Active => Ok(()),
        Phase::GivenUp | Phase::Unpinned => Err(entry.snapshot_too_old_error(id)),
        phase => Err(Error::TransactionNotActive { id, state: phase.public_state() }),
    }
}
