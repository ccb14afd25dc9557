//! The transaction table: open transactions, and how the latest ones ended.
//!
//! Owns every check on transaction ids; no backend repeats one. States and what ends them:
//!
//! | state      | read, write, delete | commit             | rollback           |
//! |------------|---------------------|--------------------|--------------------|
//! | active     | goes on             | committing         | rolled back        |
//! | committing | `NotActive`         | `NotActive`        | `NotActive`        |
//! | committed  | `NotActive`         | `NotActive`        | `NotActive`        |
//! | rolled back| `NotActive`         | `NotActive`        | fine, nothing done |
//! | given up   | `SnapshotTooOld`    | rolled back, same  | rolled back        |
//! | unknown    | `NotFound`          | `NotFound`         | `NotFound`         |
//!
//! An active transaction is *given up* when its snapshot is over a limit: its pin and its operations
//! are gone, and it keeps its place until its owner ends it.
//!
//! The states themselves are an [`entry`](super::entry)'s, how many may be open is
//! [`permits`](super::permits)' business, and where they are is that of the [`places`](super::slot_list),
//! which also remember the latest outcomes of their slot of threads; older ones are unknown. A begin and
//! an end take one lock each, that of the slot, which other threads rarely want.
//!
//! Lock order: who waits for a permit, then the slots of the pins. A transaction's own lock is taken with
//! neither of them locked.

use std::sync::Arc;
use std::time::Duration;

use crate::block::{Lsn, TransactionId};
use crate::error::{Error, Result, SnapshotLimit};
use crate::mvcc::batch::Batch;
use crate::mvcc::counters::Padded;
use crate::mvcc::entry::{Entries, PLACE_COUNT_MAX, SnapshotView, TransactionSlot, check_active};
use crate::mvcc::pending::Pending;
use crate::mvcc::permits::Permits;
use crate::mvcc::pins::Pins;
use crate::mvcc::word::{Phase, Word, place_of, slot_of};
use crate::sync::{SLOT_COUNT, thread_slot};
use crate::transaction::IsolationLevel;

/// The transactions of one open store.
#[derive(Debug)]
pub(crate) struct TransactionTable {
    pins: Arc<Pins>,
    permits: Permits,
    entries: [Padded<Entries>; SLOT_COUNT],
}

/// The transaction with the oldest snapshot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Oldest {
    pub(crate) id: TransactionId,
    pub(crate) snapshot: Lsn,
    pub(crate) begun_at: Duration,
}

/// A snapshot that somebody let go of, and whether nobody of his slot of threads holds it any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "what only this snapshot saw is kept until the index hears of it"]
pub(crate) struct Released {
    pub(crate) lsn: Lsn,
    pub(crate) was_last: bool,
}

impl TransactionTable {
    /// Lets `count_max` transactions be open at once, on snapshots that `pins` hold.
    pub(crate) fn new(count_max: u64, pins: Arc<Pins>) -> TransactionTable {
        let permits = Permits::new(count_max.min(PLACE_COUNT_MAX));
        TransactionTable { pins, permits, entries: Default::default() }
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// - [`Error::TooManyTransactions`]: as many are open as may be.
    pub(crate) fn begin(&self, isolation: IsolationLevel, now: Duration) -> Result<TransactionId> {
        let begun = self.try_begin(isolation, now);
        self.permits.wake();
        begun
    }

    /// Begins a transaction, waiting up to `timeout` for another to end.
    ///
    /// # Errors
    /// As [`TransactionTable::begin`], none ended in time.
    pub(crate) fn begin_within(
        &self,
        isolation: IsolationLevel,
        timeout: Duration,
        now: impl Fn() -> Duration,
    ) -> Result<TransactionId> {
        self.permits.wait(timeout, || self.try_begin(isolation, now()))
    }

    fn try_begin(&self, isolation: IsolationLevel, now: Duration) -> Result<TransactionId> {
        let slot = thread_slot();
        let mut guard = self.permits.locked(&self.pins, slot)?;
        let place = guard.slots().take();
        let Some(place) = place else { unreachable!("the slot was locked with a permit in it") };
        let snapshot = (isolation != IsolationLevel::ReadCommitted).then(|| guard.take());
        drop(guard);
        let view = SnapshotView { snapshot, isolation };
        Ok(self.entries[slot].make(place).begin(slot, place, view, now))
    }

    /// Runs `body` on an active transaction. Its pin holds meanwhile.
    pub(crate) fn with<R>(
        &self,
        id: TransactionId,
        body: impl FnOnce(&mut Pending) -> Result<R>,
    ) -> Result<R> {
        let entry = self.entry(id)?;
        let mut pending = entry.work();
        let phase = entry.phase(id).ok_or_else(|| self.gone(id))?;
        check_active(entry, id, phase)?;
        pending.see(entry.view());
        body(&mut pending)
    }

    /// Runs `body` on what an active transaction sees, if that is all that matters to a read: it has
    /// nothing of its own, and what it reads need not be noted. `None` where `body` must have the
    /// [whole](TransactionTable::with) transaction.
    pub(crate) fn with_view<R>(
        &self,
        id: TransactionId,
        body: impl FnOnce(SnapshotView) -> Result<R>,
    ) -> Option<Result<R>> {
        let entry = self.entries.get(slot_of(id))?.get(place_of(id))?;
        let result = body(entry.plain_view(id)?);
        // The pin held all the while, if the transaction is still active.
        (entry.phase(id) == Some(Phase::Active)).then_some(result)
    }

    /// Takes the operations of an active transaction, which is *committing* from here on until
    /// [`TransactionTable::end`].
    pub(crate) fn start_commit(&self, id: TransactionId) -> Result<Batch> {
        let entry = self.entry(id)?;
        let mut pending = entry.work();
        while !entry.change(id, Phase::Active, Phase::Committing) {
            let phase = entry.phase(id).ok_or_else(|| self.gone(id))?;
            check_active(entry, id, phase)?;
        }
        pending.see(entry.view());
        Ok(pending.start_commit(id))
    }

    /// Ends a transaction that somebody started to commit, or that was given up. The caller tells the
    /// index what was released.
    pub(crate) fn end(&self, id: TransactionId, outcome: Phase) -> Option<Released> {
        let entry = self.entry(id).ok()?;
        loop {
            match entry.phase(id)? {
                Phase::Committed | Phase::RolledBack => return None,
                phase if entry.change(id, phase, outcome) => {
                    return self.leave(entry, id, phase, outcome);
                }
                _ => {}
            }
        }
    }

    /// Rolls back, where that was not done before; the caller tells the index what was released.
    pub(crate) fn rollback(&self, id: TransactionId) -> Result<Option<Released>> {
        let entry = self.entry(id)?;
        loop {
            let phase = match entry.phase(id) {
                Some(phase) => phase,
                None => self.outcome(id).ok_or(Error::TransactionNotFound { id })?,
            };
            match phase {
                Phase::RolledBack => return Ok(None),
                Phase::Committing | Phase::Committed => {
                    return Err(Error::TransactionNotActive { id, state: phase.state() });
                }
                _ if entry.change(id, phase, Phase::RolledBack) => {
                    return Ok(self.leave(entry, id, phase, Phase::RolledBack));
                }
                _ => {}
            }
        }
    }

    /// The active transaction with the oldest snapshot.
    pub(crate) fn oldest(&self) -> Option<Oldest> {
        let mut oldest: Option<Oldest> = None;
        for (slot, entries) in self.entries.iter().enumerate() {
            let made = self.pins.lock(slot).slots().made();
            let pinned = (0..made).filter_map(|place| entries.get(place)?.pinned());
            for (id, snapshot, begun_at) in pinned {
                if oldest
                    .is_none_or(|oldest| (snapshot, begun_at) < (oldest.snapshot, oldest.begun_at))
                {
                    oldest = Some(Oldest { id, snapshot, begun_at });
                }
            }
        }
        oldest
    }

    /// Gives a transaction up for its snapshot's sake; the caller tells the index what was released.
    /// `None` when somebody works in the transaction right now (it is given up with its next operation;
    /// try again for the pin), or when it is ending anyway.
    pub(crate) fn give_up(&self, id: TransactionId, limit: SnapshotLimit) -> Option<Released> {
        let entry = self.entry(id).ok()?;
        if !entry.give_up(id, limit) {
            return None;
        }
        let lsn = entry.view().snapshot?;
        entry.let_go(id).then(|| self.release(id, lsn))
    }

    /// Transactions that are open now.
    pub(crate) fn open_count(&self) -> u64 {
        (0..SLOT_COUNT).map(|slot| self.pins.lock(slot).slots().open_count).sum()
    }

    /// Transactions that were rolled back, by their commits too.
    pub(crate) fn rolled_back_count(&self) -> u64 {
        (0..SLOT_COUNT).map(|slot| self.pins.lock(slot).slots().rolled_back_count).sum()
    }

    /// Gives back what an ended transaction held.
    fn leave(
        &self,
        entry: &TransactionSlot,
        id: TransactionId,
        from: Phase,
        outcome: Phase,
    ) -> Option<Released> {
        entry.clear();
        // When it was given up, somebody else released the pin.
        let snapshot = entry.view().snapshot.filter(|_| from != Phase::Unpinned);
        let mut guard = self.pins.lock(slot_of(id));
        let released = snapshot.map(|lsn| Released { lsn, was_last: guard.release(lsn) });
        guard.slots().give_back(place_of(id), Word::new(id.0, outcome));
        self.permits.look_after(&mut guard, 0);
        drop(guard);
        // Whoever waits finds the transaction gone.
        self.permits.wake();
        released
    }

    fn release(&self, id: TransactionId, lsn: Lsn) -> Released {
        Released { lsn, was_last: self.pins.lock(slot_of(id)).release(lsn) }
    }

    /// The entry that a transaction had or has.
    fn entry(&self, id: TransactionId) -> Result<&TransactionSlot> {
        let entry = self.entries.get(slot_of(id)).and_then(|entries| entries.get(place_of(id)));
        entry.ok_or(Error::TransactionNotFound { id })
    }

    /// The error of an operation on a transaction whose place is another's.
    fn gone(&self, id: TransactionId) -> Error {
        match self.outcome(id) {
            Some(phase) => Error::TransactionNotActive { id, state: phase.state() },
            None => Error::TransactionNotFound { id },
        }
    }

    fn outcome(&self, id: TransactionId) -> Option<Phase> {
        self.pins.lock(slot_of(id)).slots().outcome(id.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::TransactionState;
    use crate::mvcc::slot_list::ENDED_COUNT_MAX;
    use crate::sync::{AtomicU64, Ordering};

    fn state_of(result: Result<impl Sized>) -> Option<TransactionState> {
        match result {
            Err(Error::TransactionNotActive { state, .. }) => Some(state),
            _ => None,
        }
    }

    fn table() -> TransactionTable {
        TransactionTable::new(100, Arc::default())
    }

    fn begin(table: &TransactionTable) -> TransactionId {
        table.begin(IsolationLevel::Snapshot, Duration::ZERO).expect("fewer are open than may be")
    }

    #[test]
    fn every_cell_of_the_state_table_holds() {
        let table = table();
        let touch = |id| table.with(id, |_| Ok(()));
        let commit = |id| {
            let batch = table.start_commit(id);
            if batch.is_ok() {
                assert!(table.end(id, Phase::Committed).is_some(), "it held a snapshot");
            }
            batch
        };
        let rollback = |id| table.rollback(id);
        let [committing, committed, rolled, given_up] = [(); 4].map(|()| begin(&table));
        touch(committing).expect("active");
        table.start_commit(committing).expect("active");
        commit(committed).expect("active");
        assert!(rollback(rolled).expect("active").is_some());
        let limit = SnapshotLimit::PinnedBytes(0);
        assert!(table.give_up(given_up, limit).is_some(), "nobody works in it");
        assert!(table.give_up(committing, limit).is_none(), "it is ending anyway");

        for (id, state) in
            [(committing, TransactionState::Committing), (committed, TransactionState::Committed)]
        {
            assert_eq!(state_of(touch(id)), Some(state));
            assert_eq!(state_of(commit(id)), Some(state));
            assert_eq!(state_of(rollback(id)), Some(state));
        }
        assert_eq!(state_of(touch(rolled)), Some(TransactionState::RolledBack));
        assert_eq!(state_of(commit(rolled)), Some(TransactionState::RolledBack));
        assert!(rollback(rolled).expect("rolling back twice is fine").is_none());
        let too_old =
            |result| matches!(result, Err(Error::SnapshotTooOld { id, .. }) if id == given_up);
        assert!(too_old(touch(given_up)) && too_old(commit(given_up).map(|_| ())));
        assert!(rollback(given_up).expect("still open").is_none(), "its pin was released before");
        for unknown in [0, 99, committing.0 + (1 << 30), u64::MAX, committing.0 | 7 << 61] {
            let unknown = TransactionId(unknown);
            let found = touch(unknown);
            assert!(matches!(found, Err(Error::TransactionNotFound { id }) if id == unknown));
            assert!(matches!(rollback(unknown), Err(Error::TransactionNotFound { .. })));
            assert!(matches!(commit(unknown), Err(Error::TransactionNotFound { .. })));
        }
        assert_eq!(table.open_count(), 1);
    }

    #[test]
    fn transaction_that_is_worked_in_is_given_up_with_its_next_operation() {
        let table = table();
        let id = begin(&table);
        let limit = SnapshotLimit::PinnedBytes(7);
        let busy = table.with(id, |_| Ok(table.give_up(id, limit).is_none()));
        assert!(busy.expect("it is not given up while it is worked in"));
        let refused = table.with(id, |_| Ok(()));
        assert!(
            matches!(refused, Err(Error::SnapshotTooOld { limit: found, .. }) if found == limit)
        );
        assert_eq!(table.oldest().map(|oldest| oldest.id), Some(id), "its pin is still to be had");
        let released = table.give_up(id, limit).expect("nobody works in it");
        assert_eq!(released, Released { lsn: Lsn(0), was_last: true });
        assert!(table.oldest().is_none() && table.pins.held().is_empty());
    }

    #[test]
    fn finished_transactions_cost_a_constant() {
        let table = table();
        for _ in 0..ENDED_COUNT_MAX * 3 {
            let id = begin(&table);
            assert!(table.rollback(id).expect("active").is_some(), "it held a snapshot");
        }
        let mut guard = table.pins.lock(thread_slot());
        assert_eq!((guard.slots().remembered(), guard.slots().made()), (ENDED_COUNT_MAX, 1));
        drop(guard);
        assert!(table.pins.held().is_empty());
    }

    #[test]
    fn outcome_is_known_when_its_place_is_long_another_s() {
        let table = table();
        let id = begin(&table);
        assert!(table.rollback(id).expect("active").is_some(), "it held a snapshot");
        for _ in 1..ENDED_COUNT_MAX {
            let later = begin(&table);
            assert_eq!(place_of(later), place_of(id));
            assert_ne!(later, id);
            assert!(table.end(later, Phase::Committed).is_some(), "it held a snapshot");
        }
        let rolled_back = Some(TransactionState::RolledBack);
        assert_eq!(state_of(table.with(id, |_| Ok(()))), rolled_back);
        assert!(table.rollback(id).expect("rolling back twice is fine").is_none());
        assert!(table.end(begin(&table), Phase::Committed).is_some(), "it held a snapshot");
        assert!(matches!(table.rollback(id), Err(Error::TransactionNotFound { .. })));
    }

    #[test]
    fn threads_never_hold_more_than_may_be_open_and_nobody_is_left_waiting() {
        let (table, held) = (TransactionTable::new(3, Arc::default()), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..2000 {
                        let id = table
                            .begin_within(IsolationLevel::Snapshot, Duration::MAX, || {
                                Duration::ZERO
                            })
                            .expect("it waits for ever");
                        assert!(held.fetch_add(1, Ordering::SeqCst) < 3);
                        held.fetch_sub(1, Ordering::SeqCst);
                        assert!(table.rollback(id).expect("open").is_some(), "it held a snapshot");
                    }
                });
            }
        });
        assert_eq!(table.open_count(), 0);
    }

    #[test]
    fn who_may_not_begin_in_time_is_told_how_many_are_open() {
        let table = TransactionTable::new(1, Arc::default());
        let within =
            |timeout| table.begin_within(IsolationLevel::Snapshot, timeout, || Duration::ZERO);
        let id = begin(&table);
        let refused = [
            table.begin(IsolationLevel::Snapshot, Duration::ZERO),
            within(Duration::from_micros(1)),
        ];
        for refused in refused {
            assert!(matches!(refused, Err(Error::TooManyTransactions { open: 1, max: 1 })));
        }
        assert!(table.rollback(id).expect("open").is_some(), "it held a snapshot");
        within(Duration::ZERO).expect("free again");
    }
}
