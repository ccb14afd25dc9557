//! The recorder: every call goes to the store, every answer into the history.
//!
//! Owns [`Recorder`], shared by all threads of a run, and [`Recording`], one open transaction. The
//! payload of a write names its value and its block, so that a read knows garbage when it sees it:
//!
//! | offset | size | field   |
//! |-------:|-----:|---------|
//! |      0 |    8 | value   |
//! |      8 |    8 | id      |
//! |     16 |    8 | a hash of both |
//!
//! Integers are little-endian. Bounds of a snapshot: below, the newest commit acknowledged to any
//! thread, or visible, before begin; above, the newest visible after. A commit whose LSN the store
//! does not tell is above what was visible before the call, and at most what is visible after.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::{Bounds, History, Operation, Outcome, Record};
use crate::backend::StorageBackend;
use crate::block::{Block, BlockId, BlockType, TransactionId};
use crate::error::{Error, Result};
use crate::transaction::{IsolationLevel, WriteBatch};

/// The value of a payload that no recorder wrote. Values that were written begin at 1.
pub const GARBAGE: u64 = 0;

/// Records the operations of threads on a store. The store must be at rest when the recorder is
/// made, and hold none of the blocks that the threads will use. The threads must use no others, and
/// no other thread may write.
pub struct Recorder<'s> {
    store: &'s dyn StorageBackend,
    exact: bool,
    base: u64,
    clock: AtomicU64,
    value: AtomicU64,
    acknowledged: AtomicU64,
    records: Mutex<Vec<Record>>,
}

/// An open transaction under record. Rolled back when dropped.
pub struct Recording<'r> {
    recorder: &'r Recorder<'r>,
    tx: TransactionId,
    record: Record,
    open: bool,
}

impl<'s> Recorder<'s> {
    /// Makes a recorder.
    pub fn new(store: &'s dyn StorageBackend) -> Recorder<'s> {
        let base = store.stats().visible_lsn.0;
        Recorder {
            store,
            exact: true,
            base,
            clock: AtomicU64::new(0),
            value: AtomicU64::new(GARBAGE),
            acknowledged: AtomicU64::new(base),
            records: Mutex::default(),
        }
    }

    /// For a backend that does not implement [`StorageBackend::submit_transaction`]: its tickets
    /// say what was visible after the commit, not where the commit is.
    pub fn tickets_are_bounds(self) -> Recorder<'s> {
        Recorder { exact: false, ..self }
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// As [`StorageBackend::begin_transaction_at`]; here and below, such a call is not recorded.
    pub fn begin(&self, isolation: IsolationLevel) -> Result<Recording<'_>> {
        let mut record = self.start(Some(isolation));
        let tx = self.store.begin_transaction_at(isolation)?;
        record.snapshot.to = self.visible();
        Ok(Recording { recorder: self, tx, record, open: true })
    }

    /// Reads a block outside any transaction and returns its value.
    ///
    /// # Errors
    /// As [`StorageBackend::read_block`], but for a block that is not there.
    pub fn read(&self, id: u64) -> Result<Option<u64>> {
        let record = self.start(None);
        let seen = value_of(self.store.read_block(BlockId(id)), id)?;
        self.end_reading(record, Operation::Read { id, seen });
        Ok(seen)
    }

    /// Writes a block outside any transaction.
    ///
    /// # Errors
    /// As [`StorageBackend::write_block`].
    pub fn write(&self, id: u64) -> Result<()> {
        let (record, value) = (self.start(None), self.next_value());
        self.store.write_block(block(id, value))?;
        self.end_writing(record, vec![Operation::Write { id, value }]);
        Ok(())
    }

    /// Deletes a block outside any transaction and returns whether it was there.
    ///
    /// # Errors
    /// As [`StorageBackend::delete_block`], but for a block that is not there.
    pub fn delete(&self, id: u64) -> Result<bool> {
        let record = self.start(None);
        match self.store.delete_block(BlockId(id)) {
            Ok(()) => self.end_writing(record, vec![Operation::Delete { id }]),
            Err(Error::BlockNotFound { .. }) => {
                self.end_reading(record, Operation::Read { id, seen: None });
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// Writes and deletes blocks as one batch and returns whether the store took it. It refuses a
    /// batch that deletes what is not there and, where batches are transactions, one that
    /// conflicts.
    ///
    /// # Errors
    /// As [`StorageBackend::apply`] otherwise.
    pub fn apply(&self, writes: &[u64], deletes: &[u64]) -> Result<bool> {
        let mut record = self.start(None);
        let (mut batch, mut operations) = (WriteBatch::new(), Vec::new());
        for id in writes {
            let value = self.next_value();
            batch.write(block(*id, value));
            operations.push(Operation::Write { id: *id, value });
        }
        for id in deletes {
            batch.delete(BlockId(*id));
            operations.push(Operation::Delete { id: *id });
        }
        match self.store.apply(batch) {
            Ok(_) => self.end_writing(record, operations),
            Err(Error::BlockNotFound { .. } | Error::Conflict { .. }) => {
                record.operations = operations;
                self.end(record);
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// Returns the history. Transactions that are still open are not part of it, so end them.
    pub fn finish(self) -> History {
        let mut transactions = self.records.into_inner();
        transactions.sort_by_key(|record| record.ended);
        History { base: self.base, transactions }
    }

    fn start(&self, isolation: Option<IsolationLevel>) -> Record {
        let begun = self.tick();
        let from = self.visible().max(self.acknowledged.load(Ordering::SeqCst));
        Record {
            isolation,
            begun,
            committing: begun,
            ended: begun,
            snapshot: Bounds { from, to: from },
            operations: Vec::new(),
            outcome: Outcome::RolledBack,
        }
    }

    fn end_reading(&self, mut record: Record, operation: Operation) {
        record.snapshot.to = self.visible();
        record.operations.push(operation);
        record.outcome = Outcome::ReadOnly;
        self.end(record);
    }

    fn end_writing(&self, mut record: Record, operations: Vec<Operation>) {
        let to = self.visible();
        record.outcome = Outcome::Committed(Bounds { from: record.snapshot.from + 1, to });
        record.snapshot.to = to;
        record.operations = operations;
        self.end(record);
    }

    fn end(&self, mut record: Record) {
        if let Outcome::Committed(place) = record.outcome {
            self.acknowledged.fetch_max(place.from, Ordering::SeqCst);
        }
        record.ended = self.tick();
        self.records.lock().push(record);
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn next_value(&self) -> u64 {
        self.value.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn visible(&self) -> u64 {
        self.store.stats().visible_lsn.0
    }
}

impl Recording<'_> {
    /// Its isolation level.
    pub fn isolation(&self) -> IsolationLevel {
        self.record.isolation.unwrap_or_default()
    }

    /// Reads a block and returns its value.
    ///
    /// # Errors
    /// As [`StorageBackend::read_block_in_tx`], but for a block that is not there.
    pub fn read(&mut self, id: u64) -> Result<Option<u64>> {
        let seen = value_of(self.recorder.store.read_block_in_tx(self.tx, BlockId(id)), id)?;
        self.record.operations.push(Operation::Read { id, seen });
        Ok(seen)
    }

    /// Looks whether a block is there.
    ///
    /// # Errors
    /// As [`StorageBackend::block_exists_in_tx`].
    pub fn exists(&mut self, id: u64) -> Result<bool> {
        let exists = self.recorder.store.block_exists_in_tx(self.tx, BlockId(id))?;
        let seen = if exists { vec![id] } else { Vec::new() };
        self.record.operations.push(Operation::Range { first: id, last: id, seen });
        Ok(exists)
    }

    /// Lists the ids of a range, both ends included.
    ///
    /// # Errors
    /// As [`StorageBackend::ids_in_tx`].
    pub fn range(&mut self, first: u64, last: u64) -> Result<Vec<u64>> {
        let ids = self.recorder.store.ids_in_tx(self.tx, BlockId(first), BlockId(last))?;
        let seen: Vec<u64> = ids.into_iter().map(|id| id.0).collect();
        self.record.operations.push(Operation::Range { first, last, seen: seen.clone() });
        Ok(seen)
    }

    /// Writes a block.
    ///
    /// # Errors
    /// As [`StorageBackend::write_block_in_tx`].
    pub fn write(&mut self, id: u64) -> Result<()> {
        let value = self.recorder.next_value();
        self.recorder.store.write_block_in_tx(self.tx, block(id, value))?;
        self.record.operations.push(Operation::Write { id, value });
        Ok(())
    }

    /// Deletes a block and returns whether it was there.
    ///
    /// # Errors
    /// As [`StorageBackend::delete_block_in_tx`], but for a block that is not there.
    pub fn delete(&mut self, id: u64) -> Result<bool> {
        match self.recorder.store.delete_block_in_tx(self.tx, BlockId(id)) {
            Ok(()) => {
                let found = Operation::Range { first: id, last: id, seen: vec![id] };
                self.record.operations.extend([found, Operation::Delete { id }]);
                Ok(true)
            }
            Err(Error::BlockNotFound { .. }) => {
                self.record.operations.push(Operation::Read { id, seen: None });
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Commits and returns whether the store took it; if not, it conflicted and is rolled back.
    ///
    /// # Errors
    /// As [`StorageBackend::submit_transaction`] otherwise.
    pub fn commit(mut self) -> Result<bool> {
        self.last_read();
        self.open = false;
        let recorder = self.recorder;
        let before = recorder.visible();
        self.record.committing = recorder.tick();
        let answer = recorder.store.submit_transaction(self.tx, None);
        let committed = match answer.and_then(|ticket| ticket.wait()) {
            Ok(lsn) if self.writes() => {
                // A place that is not told lies between the two looks at the store.
                let to = lsn.map_or_else(|| recorder.visible(), |lsn| lsn.0);
                let from = if recorder.exact && lsn.is_some() { to } else { before + 1 };
                self.record.outcome = Outcome::Committed(Bounds { from, to });
                true
            }
            Ok(_) => {
                self.record.outcome = Outcome::ReadOnly;
                true
            }
            Err(Error::Conflict { .. }) => false,
            Err(error) => return Err(error),
        };
        recorder.end(self.record.clone());
        Ok(committed)
    }

    /// Rolls back.
    ///
    /// # Errors
    /// As [`StorageBackend::rollback_transaction`].
    pub fn rollback(mut self) -> Result<()> {
        self.end_rolled_back()
    }

    fn writes(&self) -> bool {
        let writes =
            |op: &Operation| !matches!(op, Operation::Read { .. } | Operation::Range { .. });
        self.record.operations.iter().any(writes)
    }

    fn last_read(&mut self) {
        if self.record.isolation == Some(IsolationLevel::ReadCommitted) {
            self.record.snapshot.to = self.recorder.visible();
        }
    }

    fn end_rolled_back(&mut self) -> Result<()> {
        self.last_read();
        self.open = false;
        self.record.committing = u64::MAX;
        let ended = self.recorder.store.rollback_transaction(self.tx);
        self.recorder.end(self.record.clone());
        ended
    }
}

impl Drop for Recording<'_> {
    fn drop(&mut self) {
        if self.open && self.end_rolled_back().is_err() {
            // The store was closed: it is over, and is recorded as such.
        }
    }
}

fn block(id: u64, value: u64) -> Block {
    let words = [value, id, hash(id, value)];
    let payload: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    Block::new(BlockId(id), BlockType::TableData, payload)
}

/// The value that a read found.
fn value_of(found: Result<Block>, id: u64) -> Result<Option<u64>> {
    match found {
        Ok(found) => {
            let value = found.data.first_chunk().map_or(GARBAGE, |word| u64::from_le_bytes(*word));
            let intact = found == block(id, value);
            Ok(Some(if intact { value } else { GARBAGE }))
        }
        Err(Error::BlockNotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn hash(id: u64, value: u64) -> u64 {
    (id ^ value.rotate_left(32)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
}
