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
//! | unknown    | `NotFound`          | `NotFound`         | `NotFound`         |
//!
//! The outcome of a finished transaction is remembered until [`ENDED_COUNT_MAX`] later ones of its
//! shard have finished, then it is unknown. So finished transactions cost a constant, however many.
//!
//! Lock order: a shard, then nothing; a transaction's own lock is taken with no shard locked.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use crate::block::{BlockId, Lsn, TransactionId};
use crate::error::{Error, Result, TransactionState};
use crate::mvcc::batch::{Batch, Operation, Precondition, Reads};
use crate::mvcc::counters::Padded;
use crate::mvcc::overlay::IdHasher;
use crate::mvcc::pins::Pin;
use crate::sync::{AtomicU64, Mutex, Ordering};
use crate::transaction::{IsolationLevel, Savepoint};

/// Finished transactions that each of the [`SHARD_COUNT`] shards remembers.
const ENDED_COUNT_MAX: usize = 1024;
const SHARD_COUNT: usize = 16;

type IdMap<T> = HashMap<u64, T, BuildHasherDefault<IdHasher>>;

/// The transactions of one open store.
#[derive(Debug, Default)]
pub(crate) struct TransactionTable {
    last: AtomicU64,
    open: AtomicU64,
    shards: [Padded<Mutex<Shard>>; SHARD_COUNT],
}

#[derive(Debug, Default)]
struct Shard {
    active: IdMap<Arc<Mutex<Pending>>>,
    ended: IdMap<TransactionState>,
    ended_order: VecDeque<u64>,
}

/// An open transaction: its snapshot and its operations so far.
#[derive(Debug)]
pub(crate) struct Pending {
    state: TransactionState,
    /// Taken out when the transaction ends.
    pin: Option<Pin>,
    snapshot: Lsn,
    isolation: IsolationLevel,
    operations: BTreeMap<BlockId, Operation>,
    payload_len: u64,
    /// What a serializable transaction has read.
    reads: Reads,
    /// What operations replaced since the first savepoint, oldest first.
    replaced: Vec<(BlockId, Option<Operation>)>,
    /// Serial number of each savepoint, with the length of `replaced` at it.
    savepoints: Vec<(u64, usize)>,
    next_savepoint: u64,
}

impl Pending {
    /// The snapshot that reads see; `None` for the newest commit.
    pub(crate) fn snapshot(&self) -> Option<Lsn> {
        (self.isolation != IsolationLevel::ReadCommitted).then_some(self.snapshot)
    }

    /// Notes that a block was looked at, there or not.
    pub(crate) fn note_read(&mut self, id: BlockId) {
        if self.isolation == IsolationLevel::Serializable {
            self.reads.ids.insert(id);
        }
    }

    /// Notes that a range was listed.
    pub(crate) fn note_range(&mut self, first: BlockId, last: BlockId) {
        if self.isolation == IsolationLevel::Serializable {
            self.reads.ranges.push((first, last));
        }
    }

    /// The transaction's own operations on a range of ids.
    pub(crate) fn own_range(
        &self,
        first: BlockId,
        last: BlockId,
    ) -> impl Iterator<Item = (&BlockId, &Operation)> {
        self.operations.range(first..=last)
    }

    pub(crate) fn savepoint(&mut self, transaction: TransactionId) -> Savepoint {
        self.next_savepoint += 1;
        self.savepoints.push((self.next_savepoint, self.replaced.len()));
        Savepoint { transaction, serial: self.next_savepoint }
    }

    /// Undoes what was done since a savepoint.
    pub(crate) fn rollback_to(&mut self, id: TransactionId, savepoint: Savepoint) -> Result<()> {
        let at = self.savepoints.iter().position(|(serial, _)| *serial == savepoint.serial);
        let Some(at) = at.filter(|_| savepoint.transaction == id) else {
            let reason = "is of another transaction, or was undone";
            return Err(Error::InvalidArgument { argument: "savepoint", reason });
        };
        self.savepoints.truncate(at + 1);
        while self.replaced.len() > self.savepoints[at].1 {
            let Some((id, before)) = self.replaced.pop() else { break };
            let undone = match before {
                Some(operation) => {
                    self.payload_len += operation.payload_len();
                    self.operations.insert(id, operation)
                }
                None => self.operations.remove(&id),
            };
            self.payload_len -= undone.map_or(0, |operation| operation.payload_len());
        }
        Ok(())
    }

    /// The transaction's own last operation on an id.
    pub(crate) fn own(&self, id: BlockId) -> Option<&Operation> {
        self.operations.get(&id)
    }

    /// Adds an operation, which replaces an earlier one on the same id.
    ///
    /// # Errors
    /// - [`Error::TransactionTooLarge`]: the operation was not added.
    pub(crate) fn put(&mut self, id: BlockId, operation: Operation, len_max: u64) -> Result<()> {
        let replaced = self.own(id).map_or(0, Operation::payload_len);
        let len = self.payload_len - replaced + operation.payload_len();
        if len > len_max {
            return Err(Error::TransactionTooLarge { len, len_max });
        }
        self.payload_len = len;
        let before = self.operations.insert(id, operation);
        if !self.savepoints.is_empty() {
            self.replaced.push((id, before));
        }
        Ok(())
    }
}

impl TransactionTable {
    pub(crate) fn begin(&self, pin: Pin, isolation: IsolationLevel) -> TransactionId {
        let id = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let pending = Pending {
            state: TransactionState::Active,
            snapshot: pin.lsn(),
            pin: Some(pin),
            isolation,
            operations: BTreeMap::new(),
            payload_len: 0,
            reads: Reads::default(),
            replaced: Vec::new(),
            savepoints: Vec::new(),
            next_savepoint: 0,
        };
        self.shard(id).lock().active.insert(id, Arc::new(Mutex::new(pending)));
        self.open.fetch_add(1, Ordering::Relaxed);
        TransactionId(id)
    }

    /// Runs `body` on an active transaction.
    pub(crate) fn with<R>(
        &self,
        id: TransactionId,
        body: impl FnOnce(&mut Pending) -> Result<R>,
    ) -> Result<R> {
        let pending = self.find(id)?;
        let mut pending = pending.lock();
        match pending.state {
            TransactionState::Active => body(&mut pending),
            state => Err(Error::TransactionNotActive { id, state }),
        }
    }

    /// Takes the operations of an active transaction, which is *committing* from here on until
    /// [`TransactionTable::end`].
    pub(crate) fn start_commit(&self, id: TransactionId) -> Result<Batch> {
        self.with(id, |pending| {
            pending.state = TransactionState::Committing;
            let operations = std::mem::take(&mut pending.operations).into_iter().collect();
            let precondition = match pending.isolation {
                IsolationLevel::ReadCommitted => Precondition::None,
                _ => Precondition::UnchangedSince(pending.snapshot),
            };
            let reads = (pending.isolation == IsolationLevel::Serializable)
                .then(|| Box::new(std::mem::take(&mut pending.reads)));
            Ok(Batch { operations, precondition, reads, transaction: Some(id) })
        })
    }

    /// Ends a committing transaction; the caller releases the pin.
    pub(crate) fn end(&self, id: TransactionId, outcome: TransactionState) -> Option<Pin> {
        let mut shard = self.shard(id.0).lock();
        let pending = shard.active.remove(&id.0)?;
        shard.remember(id.0, outcome);
        drop(shard);
        self.open.fetch_sub(1, Ordering::Relaxed);
        let mut pending = pending.lock();
        pending.state = outcome;
        pending.operations.clear();
        pending.pin.take()
    }

    /// Rolls back; the caller releases the pin. `None` when it was rolled back before.
    pub(crate) fn rollback(&self, id: TransactionId) -> Result<Option<Pin>> {
        let started = self.with(id, |pending| {
            pending.state = TransactionState::Committing;
            Ok(())
        });
        match started {
            Ok(()) => Ok(self.end(id, TransactionState::RolledBack)),
            Err(Error::TransactionNotActive { state: TransactionState::RolledBack, .. }) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Transactions that are open now.
    pub(crate) fn open_count(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    fn find(&self, id: TransactionId) -> Result<Arc<Mutex<Pending>>> {
        let shard = self.shard(id.0).lock();
        match (shard.active.get(&id.0), shard.ended.get(&id.0)) {
            (Some(pending), _) => Ok(Arc::clone(pending)),
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

    #[test]
    fn every_cell_of_the_state_table_holds() {
        let (pins, table) = (Pins::default(), TransactionTable::default());
        let touch = |id| table.with(id, |_| Ok(()));
        let commit = |id| {
            let batch = table.start_commit(id);
            if batch.is_ok() {
                table.end(id, TransactionState::Committed).map(|pin| pins.release(pin));
            }
            batch
        };
        let rollback =
            |id| table.rollback(id).map(|pin| pin.map(|pin| pins.release(pin)).is_some());
        let [committing, committed, rolled] =
            [(); 3].map(|()| table.begin(pins.take(), IsolationLevel::Snapshot));
        touch(committing).expect("active");
        table.start_commit(committing).expect("active");
        commit(committed).expect("active");
        assert!(rollback(rolled).expect("active"));

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
        let unknown = TransactionId(99);
        assert!(matches!(touch(unknown), Err(Error::TransactionNotFound { id }) if id == unknown));
        assert!(matches!(rollback(unknown), Err(Error::TransactionNotFound { .. })));
        assert_eq!(table.open_count(), 1);
    }

    #[test]
    fn finished_transactions_cost_a_constant() {
        let (pins, table) = (Pins::default(), TransactionTable::default());
        for _ in 0..ENDED_COUNT_MAX * SHARD_COUNT * 3 {
            let id = table.begin(pins.take(), IsolationLevel::Snapshot);
            table.rollback(id).expect("active").map(|pin| pins.release(pin));
        }
        let kept: usize = table.shards.iter().map(|shard| shard.lock().ended.len()).sum();
        assert_eq!(kept, ENDED_COUNT_MAX * SHARD_COUNT);
        assert!(table.shards.iter().all(|shard| shard.lock().active.is_empty()));
        assert!(pins.held().is_empty());
    }
}
