//! The transaction table: open transactions, and how the latest ones ended.
//!
//! Owns every check on transaction ids; no backend repeats one. States, and how each operation
//! ends:
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
//! An active transaction is *given up* when its snapshot is over a limit. Its pin and its
//! operations are gone, and it keeps its transaction slot until its owner ends it.
//!
//! The state of a transaction is in its [transaction slot](super::entry). The
//! [permits](super::permits) limit how many are open. The [slot list](super::slot_list) of a thread
//! slot holds the places of its transactions and the latest outcomes; older ones are unknown. A
//! begin and an end take one lock each, that of the thread slot, which other threads rarely want.
//!
//! Lock order: the lock of the waiters for a permit, then the pins' thread slots. A transaction's
//! own lock is taken with neither of them locked.

use std::sync::Arc;
use std::time::Duration;

use crate::block::{Lsn, TransactionId};
use crate::error::{Error, Result, SnapshotLimit};
use crate::mvcc::batch::Batch;
use crate::mvcc::counters::Padded;
use crate::mvcc::entry::{
    Entries, PLACE_COUNT_MAX, SnapshotView, TransactionSlot, check_active_phase,
};
use crate::mvcc::pending::Pending;
use crate::mvcc::permits::Permits;
use crate::mvcc::pins::Pins;
use crate::mvcc::word::{Phase, Word, place_in_slot, thread_slot_of};
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

/// A snapshot that was released, and whether its thread slot holds it no more.
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
    pub(crate) fn begin_or_refuse(
        &self,
        isolation: IsolationLevel,
        now: Duration,
    ) -> Result<TransactionId> {
        let begun = self.try_begin_in_slot(isolation, now);
        self.permits.wake_waiter();
        begun
    }

    /// Begins a transaction, waiting up to `timeout` for another to end.
    ///
    /// # Errors
    /// As [`TransactionTable::begin_or_refuse`], none ended in time.
    pub(crate) fn begin_within_timeout(
        &self,
        isolation: IsolationLevel,
        timeout: Duration,
        now: impl Fn() -> Duration,
    ) -> Result<TransactionId> {
        self.permits.wait_for_permit(timeout, || self.try_begin_in_slot(isolation, now()))
    }

    fn try_begin_in_slot(&self, isolation: IsolationLevel, now: Duration) -> Result<TransactionId> {
        let slot = thread_slot();
        let mut guard = self.permits.lock_with_permit(&self.pins, slot)?;
        let place = guard.slot_list().take_place();
        let Some(place) = place else { unreachable!("the slot was locked with a permit in it") };
        let snapshot = (isolation != IsolationLevel::ReadCommitted).then(|| guard.hold_visible());
        drop(guard);
        let view = SnapshotView { snapshot, isolation };
        Ok(self.entries[slot].slot_or_make(place).begin_transaction(slot, place, view, now))
    }

    /// Runs `body` on an active transaction. Its pin holds meanwhile.
    pub(crate) fn with_pending<R>(
        &self,
        id: TransactionId,
        body: impl FnOnce(&mut Pending) -> Result<R>,
    ) -> Result<R> {
        let entry = self.slot_of_transaction(id)?;
        let mut pending = entry.lock_pending();
        let phase = entry.phase_of(id).ok_or_else(|| self.reused_slot_error(id))?;
        check_active_phase(entry, id, phase)?;
        pending.set_view(entry.snapshot_view());
        body(&mut pending)
    }

    /// Runs `body` on the snapshot of an active transaction without operations, whose reads need
    /// not be noted. `None` where `body` needs the [whole](TransactionTable::with_pending)
    /// transaction.
    pub(crate) fn with_view<R>(
        &self,
        id: TransactionId,
        body: impl FnOnce(SnapshotView) -> Result<R>,
    ) -> Option<Result<R>> {
        let entry = self.entries.get(thread_slot_of(id))?.existing_slot(place_in_slot(id))?;
        let result = body(entry.unlocked_view(id)?);
        // The pin held all the while, if the transaction is still active.
        (entry.phase_of(id) == Some(Phase::Active)).then_some(result)
    }

    /// Takes the operations of an active transaction, which is *committing* from here on until
    /// [`TransactionTable::end_with_outcome`].
    pub(crate) fn start_commit(&self, id: TransactionId) -> Result<Batch> {
        let entry = self.slot_of_transaction(id)?;
        let mut pending = entry.lock_pending();
        while !entry.change_phase(id, Phase::Active, Phase::Committing) {
            let phase = entry.phase_of(id).ok_or_else(|| self.reused_slot_error(id))?;
            check_active_phase(entry, id, phase)?;
        }
        pending.set_view(entry.snapshot_view());
        Ok(pending.take_batch(id))
    }

    /// Ends a transaction whose commit has started, or that was given up. The caller tells the
    /// index the released snapshot.
    pub(crate) fn end_with_outcome(&self, id: TransactionId, outcome: Phase) -> Option<Released> {
        let entry = self.slot_of_transaction(id).ok()?;
        loop {
            match entry.phase_of(id)? {
                Phase::Committed | Phase::RolledBack => return None,
                phase if entry.change_phase(id, phase, outcome) => {
                    return self.release_ended(entry, id, phase, outcome);
                }
                _ => {}
            }
        }
    }

    /// Rolls back, where that was not done before. The caller tells the index the released
    /// snapshot.
    pub(crate) fn roll_back(&self, id: TransactionId) -> Result<Option<Released>> {
        let entry = self.slot_of_transaction(id)?;
        loop {
            let phase = match entry.phase_of(id) {
                Some(phase) => phase,
                None => self.remembered_outcome(id).ok_or(Error::TransactionNotFound { id })?,
            };
            match phase {
                Phase::RolledBack => return Ok(None),
                Phase::Committing | Phase::Committed => {
                    return Err(Error::TransactionNotActive { id, state: phase.public_state() });
                }
                _ if entry.change_phase(id, phase, Phase::RolledBack) => {
                    return Ok(self.release_ended(entry, id, phase, Phase::RolledBack));
                }
                _ => {}
            }
        }
    }

    /// The active transaction with the oldest snapshot.
    pub(crate) fn oldest_pinned(&self) -> Option<Oldest> {
        let mut oldest: Option<Oldest> = None;
        for (slot, entries) in self.entries.iter().enumerate() {
            let made = self.pins.lock_slot(slot).slot_list().made_count();
            let pinned =
                (0..made).filter_map(|place| entries.existing_slot(place)?.pinned_snapshot());
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

    /// Gives up a transaction whose snapshot is over a limit. The caller tells the index the
    /// released snapshot. `None` while a thread works in the transaction: its next operation is
    /// refused, and the caller tries again for the pin. `None` also when the transaction is ending.
    pub(crate) fn give_up_transaction(
        &self,
        id: TransactionId,
        limit: SnapshotLimit,
    ) -> Option<Released> {
        let entry = self.slot_of_transaction(id).ok()?;
        if !entry.mark_given_up(id, limit) {
            return None;
        }
        let lsn = entry.snapshot_view().snapshot?;
        entry.drop_given_up(id).then(|| self.release_pin_of(id, lsn))
    }

    /// Transactions that are open now.
    pub(crate) fn open_count(&self) -> u64 {
        (0..SLOT_COUNT).map(|slot| self.pins.lock_slot(slot).slot_list().open_count).sum()
    }

    /// Transactions that were rolled back, by their commits too.
    pub(crate) fn rolled_back_count(&self) -> u64 {
        (0..SLOT_COUNT).map(|slot| self.pins.lock_slot(slot).slot_list().rolled_back_count).sum()
    }

    /// Gives back what an ended transaction held.
    fn release_ended(
        &self,
        entry: &TransactionSlot,
        id: TransactionId,
        from: Phase,
        outcome: Phase,
    ) -> Option<Released> {
        debug_assert!(from.is_open() && !outcome.is_open(), "a transaction ends once");
        entry.clear_if_touched();
        // An unpinned transaction's pin was released when it was given up.
        let snapshot = entry.snapshot_view().snapshot.filter(|_| from != Phase::Unpinned);
        let mut guard = self.pins.lock_slot(thread_slot_of(id));
        let released = snapshot.map(|lsn| Released { lsn, was_last: guard.release_hold(lsn) });
        guard.slot_list().release_place(place_in_slot(id), Word::new(id.0, outcome));
        self.permits.give_back_surplus(&mut guard, 0);
        drop(guard);
        // A waiter finds the transaction gone.
        self.permits.wake_waiter();
        released
    }

    fn release_pin_of(&self, id: TransactionId, lsn: Lsn) -> Released {
        Released { lsn, was_last: self.pins.lock_slot(thread_slot_of(id)).release_hold(lsn) }
    }

    /// The transaction slot that a transaction has or had.
    fn slot_of_transaction(&self, id: TransactionId) -> Result<&TransactionSlot> {
        let entry = self
            .entries
            .get(thread_slot_of(id))
            .filter(|_| Word::can_hold(id.0))
            .and_then(|entries| entries.existing_slot(place_in_slot(id)));
        entry.ok_or(Error::TransactionNotFound { id })
    }

    /// The error of an operation on a transaction whose slot is another's now.
    fn reused_slot_error(&self, id: TransactionId) -> Error {
        match self.remembered_outcome(id) {
            Some(phase) => Error::TransactionNotActive { id, state: phase.public_state() },
            None => Error::TransactionNotFound { id },
        }
    }

    fn remembered_outcome(&self, id: TransactionId) -> Option<Phase> {
        self.pins.lock_slot(thread_slot_of(id)).slot_list().outcome_of(id.0)
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
        table
            .begin_or_refuse(IsolationLevel::Snapshot, Duration::ZERO)
            .expect("fewer are open than may be")
    }

    #[test]
    fn made_up_id_is_no_transaction_even_where_it_ends_like_one() {
        let table = table();
        let id = begin(&table);
        for bit in 61..64 {
            let made_up = TransactionId(id.0 | 1 << bit);
            let answer = table.start_commit(made_up);
            assert!(matches!(answer, Err(Error::TransactionNotFound { id }) if id == made_up));
        }
        assert!(table.start_commit(id).is_ok(), "the transaction is as it was");
    }

    #[test]
    fn every_cell_of_the_state_table_holds() {
        let table = table();
        let touch = |id| table.with_pending(id, |_| Ok(()));
        let commit = |id| {
            let batch = table.start_commit(id);
            if batch.is_ok() {
                assert!(
                    table.end_with_outcome(id, Phase::Committed).is_some(),
                    "it held a snapshot"
                );
            }
            batch
        };
        let rollback = |id| table.roll_back(id);
        let [committing, committed, rolled, given_up] = [(); 4].map(|()| begin(&table));
        touch(committing).expect("active");
        table.start_commit(committing).expect("active");
        commit(committed).expect("active");
        assert!(rollback(rolled).expect("active").is_some());
        let limit = SnapshotLimit::PinnedBytes(0);
        assert!(table.give_up_transaction(given_up, limit).is_some(), "no thread works in it");
        assert!(table.give_up_transaction(committing, limit).is_none(), "it is ending anyway");

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
        let busy = table.with_pending(id, |_| Ok(table.give_up_transaction(id, limit).is_none()));
        assert!(busy.expect("it is not given up while it is worked in"));
        let refused = table.with_pending(id, |_| Ok(()));
        assert!(
            matches!(refused, Err(Error::SnapshotTooOld { limit: found, .. }) if found == limit)
        );
        assert_eq!(
            table.oldest_pinned().map(|oldest| oldest.id),
            Some(id),
            "its pin is still to be had"
        );
        let released = table.give_up_transaction(id, limit).expect("no thread works in it");
        assert_eq!(released, Released { lsn: Lsn(0), was_last: true });
        assert!(table.oldest_pinned().is_none() && table.pins.held_lsns().is_empty());
    }

    #[test]
    fn finished_transactions_cost_a_constant() {
        let table = table();
        for _ in 0..ENDED_COUNT_MAX * 3 {
            let id = begin(&table);
            assert!(table.roll_back(id).expect("active").is_some(), "it held a snapshot");
        }
        let mut guard = table.pins.lock_slot(thread_slot());
        assert_eq!(
            (guard.slot_list().remembered_count(), guard.slot_list().made_count()),
            (ENDED_COUNT_MAX, 1)
        );
        drop(guard);
        assert!(table.pins.held_lsns().is_empty());
    }

    #[test]
    fn outcome_is_known_when_its_place_is_long_another_s() {
        let table = table();
        let id = begin(&table);
        assert!(table.roll_back(id).expect("active").is_some(), "it held a snapshot");
        for _ in 1..ENDED_COUNT_MAX {
            let later = begin(&table);
            assert_eq!(place_in_slot(later), place_in_slot(id));
            assert_ne!(later, id);
            assert!(
                table.end_with_outcome(later, Phase::Committed).is_some(),
                "it held a snapshot"
            );
        }
        let rolled_back = Some(TransactionState::RolledBack);
        assert_eq!(state_of(table.with_pending(id, |_| Ok(()))), rolled_back);
        assert!(table.roll_back(id).expect("rolling back twice is fine").is_none());
        assert!(
            table.end_with_outcome(begin(&table), Phase::Committed).is_some(),
            "it held a snapshot"
        );
        assert!(matches!(table.roll_back(id), Err(Error::TransactionNotFound { .. })));
    }

    #[test]
    fn threads_never_hold_more_than_may_be_open_and_none_is_left_waiting() {
        let (table, held) = (TransactionTable::new(3, Arc::default()), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..2000 {
                        let id = table
                            .begin_within_timeout(IsolationLevel::Snapshot, Duration::MAX, || {
                                Duration::ZERO
                            })
                            .expect("it waits for ever");
                        assert!(held.fetch_add(1, Ordering::SeqCst) < 3);
                        held.fetch_sub(1, Ordering::SeqCst);
                        assert!(table.roll_back(id).expect("open").is_some(), "it held a snapshot");
                    }
                });
            }
        });
        assert_eq!(table.open_count(), 0);
    }

    #[test]
    fn who_may_not_begin_in_time_is_told_how_many_are_open() {
        let table = TransactionTable::new(1, Arc::default());
        let within = |timeout| {
            table.begin_within_timeout(IsolationLevel::Snapshot, timeout, || Duration::ZERO)
        };
        let id = begin(&table);
        let refused = [
            table.begin_or_refuse(IsolationLevel::Snapshot, Duration::ZERO),
            within(Duration::from_micros(1)),
        ];
        for refused in refused {
            assert!(matches!(refused, Err(Error::TooManyTransactions { open: 1, max: 1 })));
        }
        assert!(table.roll_back(id).expect("open").is_some(), "it held a snapshot");
        within(Duration::ZERO).expect("free again");
    }
}
