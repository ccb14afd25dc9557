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
//! are gone, and it keeps its slot until its owner ends it.
//!
//! The outcome of a finished transaction is remembered until [`ENDED_COUNT_MAX`] later ones of its
//! shard have finished, then it is unknown. So finished transactions cost a constant, however many.
//!
//! Lock order: a shard, then nothing; a transaction's own lock is taken with no shard locked.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::BuildHasherDefault;
use std::sync::Arc;
use std::time::Duration;

use crate::block::{Lsn, TransactionId};
use crate::error::{Error, Result, SnapshotLimit, TransactionState};
use crate::mvcc::batch::Batch;
use crate::mvcc::counters::Padded;
use crate::mvcc::overlay::IdHasher;
use crate::mvcc::pending::Pending;
use crate::mvcc::pins::Pin;
use crate::mvcc::slots::Slots;
use crate::sync::{AtomicBool, AtomicU64, Mutex, OnceLock, Ordering};
use crate::transaction::IsolationLevel;

/// Finished transactions that each of the [`SHARD_COUNT`] shards remembers.
const ENDED_COUNT_MAX: usize = 1024;
const SHARD_COUNT: usize = 16;

type IdMap<T> = HashMap<u64, T, BuildHasherDefault<IdHasher>>;

/// The transactions of one open store.
#[derive(Debug)]
pub(crate) struct TransactionTable {
    last: AtomicU64,
    slots: Slots,
    shards: [Padded<Mutex<Shard>>; SHARD_COUNT],
}

#[derive(Debug, Default)]
struct Shard {
    /// In order of their begins.
    active: BTreeMap<u64, Arc<Open>>,
    ended: IdMap<TransactionState>,
    ended_order: VecDeque<u64>,
}

/// An open transaction.
#[derive(Debug)]
struct Open {
    /// What it sees of others; with read committed it holds no snapshot.
    snapshot: Option<Lsn>,
    begun_at: Duration,
    /// Cleared with the pin.
    is_pinned: AtomicBool,
    given_up: OnceLock<SnapshotLimit>,
    pending: Mutex<Pending>,
}

/// The transaction with the oldest snapshot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Oldest {
    pub(crate) id: TransactionId,
    pub(crate) snapshot: Lsn,
    pub(crate) begun_at: Duration,
}

impl TransactionTable {
    /// Lets `count_max` transactions be open at once.
    pub(crate) fn new(count_max: u64) -> TransactionTable {
        let shards = Default::default();
        TransactionTable { last: AtomicU64::new(0), slots: Slots::new(count_max), shards }
    }

    /// Where a begin takes its slot from.
    pub(crate) fn slots(&self) -> &Slots {
        &self.slots
    }

    /// Begins a transaction, which has a slot already. It reads the newest commits without a pin.
    pub(crate) fn begin(
        &self,
        pin: Option<Pin>,
        isolation: IsolationLevel,
        now: Duration,
    ) -> TransactionId {
        let id = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let open = Open {
            snapshot: pin.as_ref().map(Pin::lsn),
            begun_at: now,
            is_pinned: AtomicBool::new(pin.is_some()),
            given_up: OnceLock::default(),
            pending: Mutex::new(Pending::new(pin, isolation)),
        };
        self.shard(id).lock().active.insert(id, Arc::new(open));
        TransactionId(id)
    }

    /// Runs `body` on an active transaction.
    pub(crate) fn with<R>(
        &self,
        id: TransactionId,
        body: impl FnOnce(&mut Pending) -> Result<R>,
    ) -> Result<R> {
        let open = self.find(id)?;
        let mut pending = open.pending.lock();
        match (pending.state, open.given_up.get(), open.snapshot) {
            (TransactionState::Active, Some(limit), Some(snapshot)) => {
                Err(Error::SnapshotTooOld { id, snapshot, limit: *limit })
            }
            (TransactionState::Active, ..) => body(&mut pending),
            (state, ..) => Err(Error::TransactionNotActive { id, state }),
        }
    }

    /// Takes the operations of an active transaction, which is *committing* from here on until
    /// [`TransactionTable::end`].
    pub(crate) fn start_commit(&self, id: TransactionId) -> Result<Batch> {
        self.with(id, |pending| Ok(pending.start_commit(id)))
    }

    /// Ends a committing transaction; the caller releases the pin.
    pub(crate) fn end(&self, id: TransactionId, outcome: TransactionState) -> Option<Pin> {
        let mut shard = self.shard(id.0).lock();
        let open = shard.active.remove(&id.0)?;
        shard.remember(id.0, outcome);
        drop(shard);
        let pin = open.pending.lock().end(outcome);
        // Whoever waits for the slot finds the transaction gone.
        self.slots.free();
        pin
    }

    /// Rolls back; the caller releases the pin. False when it was rolled back before.
    pub(crate) fn rollback(&self, id: TransactionId) -> Result<(bool, Option<Pin>)> {
        let started = self.find(id).and_then(|open| {
            let mut pending = open.pending.lock();
            match pending.state {
                TransactionState::Active => {
                    pending.state = TransactionState::Committing;
                    Ok(())
                }
                state => Err(Error::TransactionNotActive { id, state }),
            }
        });
        match started {
            Ok(()) => Ok((true, self.end(id, TransactionState::RolledBack))),
            Err(Error::TransactionNotActive { state: TransactionState::RolledBack, .. }) => {
                Ok((false, None))
            }
            Err(error) => Err(error),
        }
    }

    /// The active transaction with the oldest snapshot.
    pub(crate) fn oldest(&self) -> Option<Oldest> {
        let first = |shard: &Padded<Mutex<Shard>>| {
            let shard = shard.lock();
            let mut open = shard.active.iter();
            open.find_map(|(id, open)| {
                let snapshot = open.snapshot.filter(|_| open.is_pinned.load(Ordering::SeqCst))?;
                Some(Oldest { id: TransactionId(*id), snapshot, begun_at: open.begun_at })
            })
        };
        self.shards.iter().filter_map(first).min_by_key(|oldest| oldest.snapshot)
    }

    /// Gives a transaction up for its snapshot's sake; the caller releases the pin. Without a pin
    /// when somebody works in the transaction right now (it is given up with its next operation; try
    /// again for the pin), or when it is ending anyway.
    pub(crate) fn give_up(&self, id: TransactionId, limit: SnapshotLimit) -> Option<Pin> {
        let open = self.shard(id.0).lock().active.get(&id.0).map(Arc::clone)?;
        let Some(mut pending) = open.pending.try_lock() else {
            open.given_up.get_or_init(|| limit);
            return None;
        };
        if pending.state != TransactionState::Active {
            return None;
        }
        open.given_up.get_or_init(|| limit);
        open.is_pinned.store(false, Ordering::SeqCst);
        pending.give_up()
    }

    /// Transactions that are open now.
    pub(crate) fn open_count(&self) -> u64 {
        self.slots.taken()
    }

    fn find(&self, id: TransactionId) -> Result<Arc<Open>> {
        let shard = self.shard(id.0).lock();
        match (shard.active.get(&id.0), shard.ended.get(&id.0)) {
            (Some(open), _) => Ok(Arc::clone(open)),
            (None, Some(state)) => Err(Error::TransactionNotActive { id, state: *state }),
            (None, None) => Err(Error::TransactionNotFound { id }),
        }
    }

    fn shard(&self, id: u64) -> &Mutex<Shard> {
        &self.shards[id as usize % SHARD_COUNT]
    }
}

impl Shard {
    fn remember(&mut self, id: u64, outcome: TransactionState) {
        if self.ended_order.len() == ENDED_COUNT_MAX
            && let Some(oldest) = self.ended_order.pop_front()
        {
            self.ended.remove(&oldest);
        }
        self.ended_order.push_back(id);
        self.ended.insert(id, outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mvcc::pins::Pins;

    fn state_of(result: Result<impl Sized>) -> Option<TransactionState> {
        match result {
            Err(Error::TransactionNotActive { state, .. }) => Some(state),
            _ => None,
        }
    }

    fn table() -> TransactionTable {
        TransactionTable::new(100)
    }

    fn begin(table: &TransactionTable, pins: &Pins) -> TransactionId {
        table.slots().try_take().expect("a slot");
        table.begin(Some(pins.take()), IsolationLevel::Snapshot, Duration::ZERO)
    }

    #[test]
    fn every_cell_of_the_state_table_holds() {
        let (pins, table) = (Pins::default(), table());
        let touch = |id| table.with(id, |_| Ok(()));
        let commit = |id| {
            let batch = table.start_commit(id);
            if batch.is_ok() {
                table.end(id, TransactionState::Committed).map(|pin| pins.release(pin));
            }
            batch
        };
        let rollback = |id| {
            let (rolled_back, pin) = table.rollback(id)?;
            pin.map(|pin| pins.release(pin));
            Ok::<bool, Error>(rolled_back)
        };
        let [committing, committed, rolled, given_up] = [(); 4].map(|()| begin(&table, &pins));
        touch(committing).expect("active");
        table.start_commit(committing).expect("active");
        commit(committed).expect("active");
        assert!(rollback(rolled).expect("active"));
        let limit = SnapshotLimit::PinnedBytes(0);
        pins.release(table.give_up(given_up, limit).expect("nobody works in it"));
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
        assert!(!rollback(rolled).expect("rolling back twice is fine"));
        let too_old =
            |result| matches!(result, Err(Error::SnapshotTooOld { id, .. }) if id == given_up);
        assert!(too_old(touch(given_up)) && too_old(commit(given_up).map(|_| ())));
        assert!(rollback(given_up).expect("still open"));
        let unknown = TransactionId(99);
        assert!(matches!(touch(unknown), Err(Error::TransactionNotFound { id }) if id == unknown));
        assert!(matches!(rollback(unknown), Err(Error::TransactionNotFound { .. })));
        assert_eq!(table.open_count(), 1);
    }

    #[test]
    fn transaction_that_is_worked_in_is_given_up_with_its_next_operation() {
        let (pins, table) = (Pins::default(), table());
        let id = begin(&table, &pins);
        let limit = SnapshotLimit::PinnedBytes(7);
        let busy = table.with(id, |_| Ok(table.give_up(id, limit).is_none()));
        assert!(busy.expect("it is not given up while it is worked in"));
        let refused = table.with(id, |_| Ok(()));
        assert!(
            matches!(refused, Err(Error::SnapshotTooOld { limit: found, .. }) if found == limit)
        );
        assert_eq!(table.oldest().map(|oldest| oldest.id), Some(id), "its pin is still to be had");
        pins.release(table.give_up(id, limit).expect("nobody works in it"));
        assert!(table.oldest().is_none() && pins.held().is_empty());
    }

    #[test]
    fn finished_transactions_cost_a_constant() {
        let (pins, table) = (Pins::default(), table());
        for _ in 0..ENDED_COUNT_MAX * SHARD_COUNT * 3 {
            let id = begin(&table, &pins);
            table.rollback(id).expect("active").1.map(|pin| pins.release(pin));
        }
        let kept: usize = table.shards.iter().map(|shard| shard.lock().ended.len()).sum();
        assert_eq!(kept, ENDED_COUNT_MAX * SHARD_COUNT);
        assert!(table.shards.iter().all(|shard| shard.lock().active.is_empty()));
        assert!(pins.held().is_empty());
    }
}
