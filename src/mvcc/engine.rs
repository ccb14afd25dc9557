//! The contract, written once: every [`StorageBackend`] method over what a backend does its own way.
//!
//! Owns [`Mvcc`] (index, transactions, ids, counters) and the blanket implementation. A backend says,
//! through [`Engine`], how a version becomes a block and how a batch is committed; all checks on
//! blocks, ids and transactions are here.

use std::collections::BTreeMap;

use crate::backend::{Durability, StorageBackend, StorageStats};
use crate::block::{Block, BlockId, Lsn, TransactionId};
use crate::error::{Error, Result, TransactionState};
use crate::mvcc::batch::{Batch, Operation, Precondition};
use crate::mvcc::counters::Counter;
use crate::mvcc::ids::IdAllocator;
use crate::mvcc::index::{Change, Index, Versioned};
use crate::mvcc::transactions::{Pending, TransactionTable};
use crate::ticket::CommitTicket;
use crate::transaction::{BatchOperation, IsolationLevel, Savepoint, WriteBatch};

/// What memory and local share: versions, transactions, ids, statistics.
#[derive(Debug)]
pub(crate) struct Mvcc<V> {
    pub(crate) limits: Limits,
    pub(crate) index: Index<V>,
    pub(crate) transactions: TransactionTable,
    pub(crate) ids: IdAllocator,
    pub(crate) counters: Counters,
}

/// The limits on what a caller may put in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) block_len_max: u32,
    pub(crate) transaction_len_max: u64,
}

/// Statistics that callers and the publisher raise.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) reads: Counter,
    pub(crate) writes: Counter,
    pub(crate) deletes: Counter,
    pub(crate) commits: Counter,
    pub(crate) conflicts: Counter,
    pub(crate) rollbacks: Counter,
    pub(crate) blocks_added: Counter,
    pub(crate) blocks_removed: Counter,
    pub(crate) bytes_added: Counter,
    pub(crate) bytes_removed: Counter,
}

/// What a group of changes does to the totals.
#[derive(Debug, Default)]
struct Delta {
    writes: u64,
    deletes: u64,
    removed: u64,
    bytes_added: u64,
    bytes_removed: u64,
}

impl Delta {
    fn count<V: VersionLen>(&mut self, old: Option<&V>, new: Option<&V>) {
        self.writes += u64::from(new.is_some());
        self.deletes += u64::from(new.is_none());
        self.removed += u64::from(old.is_some());
        self.bytes_added += new.map_or(0, V::payload_len);
        self.bytes_removed += old.map_or(0, V::payload_len);
    }
}

impl Counters {
    fn add(&self, delta: &Delta) {
        self.blocks_added.add(delta.writes);
        self.blocks_removed.add(delta.removed);
        self.bytes_added.add(delta.bytes_added);
        self.bytes_removed.add(delta.bytes_removed);
    }
}

/// What a backend does its own way.
pub trait Engine: Send + Sync {
    /// A block's version as the index keeps it.
    #[expect(private_bounds, reason = "sealed: only the two backends of this crate implement it")]
    type Version: VersionLen;

    #[doc(hidden)]
    #[expect(private_interfaces, reason = "sealed, as above")]
    fn mvcc(&self) -> &Mvcc<Self::Version>;

    #[doc(hidden)]
    fn fetch(&self, id: BlockId, version: &Self::Version) -> Result<Block>;

    #[doc(hidden)]
    #[expect(private_interfaces, reason = "sealed, as above")]
    fn hand_in(&self, batch: Batch, durability: Option<Durability>) -> Result<CommitTicket>;

    #[doc(hidden)]
    fn make_durable(&self) -> Result<()>;

    #[doc(hidden)]
    fn check_open(&self) -> Result<()>;

    #[doc(hidden)]
    fn add_stats(&self, stats: &mut StorageStats);
}

/// A version knows its payload's length.
pub(crate) trait VersionLen: Clone + Send + Sync {
    fn payload_len(&self) -> u64;
}

impl<V: VersionLen> Mvcc<V> {
    pub(crate) fn new(limits: Limits) -> Mvcc<V> {
        Mvcc {
            limits,
            index: Index::default(),
            transactions: TransactionTable::default(),
            ids: IdAllocator::default(),
            counters: Counters::default(),
        }
    }

    /// Publishes a group of commits and counts what it changed. One publisher at a time.
    pub(crate) fn publish(&self, changes: impl IntoIterator<Item = Change<V>>, visible: Lsn) {
        let mut delta = Delta::default();
        self.index.publish(changes, visible, |old, new| delta.count(old, new));
        self.counters.add(&delta);
        self.counters.writes.add(delta.writes);
        self.counters.deletes.add(delta.deletes);
    }

    /// Puts committed changes in place while nobody reads: recovery.
    pub(crate) fn load(&self, changes: impl IntoIterator<Item = Change<V>>) {
        let mut delta = Delta::default();
        let ids = &self.ids;
        let changes = changes.into_iter().inspect(|(id, ..)| ids.raise(*id));
        self.index.load(changes, |old, new| delta.count(old, new));
        self.counters.add(&delta);
    }

    /// Ends the transaction that a commit belonged to, now that its result is known.
    pub(crate) fn end_transaction(&self, tx: Option<TransactionId>, result: &Result<Lsn>) {
        let Some(tx) = tx else { return };
        let outcome = match result {
            Ok(_) => TransactionState::Committed,
            Err(_) => TransactionState::RolledBack,
        };
        self.counters.rollbacks.add(u64::from(result.is_err()));
        if let Some(pin) = self.transactions.end(tx, outcome) {
            self.index.unpin(pin);
        }
    }

    /// The version of a block that a transaction sees beneath its own operations.
    fn read_for(&self, pending: &Pending, id: BlockId) -> Option<Versioned<V>> {
        match pending.snapshot() {
            Some(snapshot) => self.index.read_at(id, snapshot),
            None => self.index.read(id),
        }
    }

    /// Takes an id for a write: allocates one for `BlockId(0)`, stays above any other.
    fn name_block(&self, mut block: Block) -> Result<Block> {
        let (len, len_max) = (block.data.len() as u64, u64::from(self.limits.block_len_max));
        if len > len_max {
            return Err(Error::BlockTooLarge { len, len_max });
        }
        block.check_header()?;
        if block.header.block_id == BlockId(0) {
            block.header.block_id = self.ids.allocate()?;
        } else {
            self.ids.raise(block.header.block_id);
        }
        Ok(block)
    }

    fn stats(&self) -> StorageStats {
        let c = &self.counters;
        // Removals are read first: what is added in between can only make the difference larger.
        let (removed, bytes_removed) = (c.blocks_removed.sum(), c.bytes_removed.sum());
        StorageStats {
            total_blocks: c.blocks_added.sum() - removed,
            total_bytes: c.bytes_added.sum() - bytes_removed,
            read_ops: c.reads.sum(),
            write_ops: c.writes.sum(),
            delete_ops: c.deletes.sum(),
            commits: c.commits.sum(),
            conflicts: c.conflicts.sum(),
            rollbacks: c.rollbacks.sum(),
            open_transactions: self.transactions.open_count(),
            visible_lsn: self.index.visible(),
            durable_lsn: self.index.visible(),
            index_bytes: self.index.heap_len(),
            undo_entries: self.index.undo_count(),
            ..StorageStats::default()
        }
    }
}

impl<E: Engine> StorageBackend for E {
    fn write_block(&self, block: Block) -> Result<BlockId> {
        self.check_open()?;
        let block = self.mvcc().name_block(block)?;
        let id = block.header.block_id;
        self.hand_in(Batch::write(block), None)?.wait().map(|_| id)
    }

    fn read_block(&self, id: BlockId) -> Result<Block> {
        self.check_open()?;
        let version = self.mvcc().index.read(id).ok_or(Error::BlockNotFound { id })?;
        self.mvcc().counters.reads.add(1);
        self.fetch(id, &version.value)
    }

    fn delete_block(&self, id: BlockId) -> Result<()> {
        self.check_open()?;
        self.hand_in(Batch::delete(id), None)?.wait().map(|_| ())
    }

    fn block_exists(&self, id: BlockId) -> Result<bool> {
        self.check_open()?;
        Ok(self.mvcc().index.read(id).is_some())
    }

    fn begin_transaction(&self) -> Result<TransactionId> {
        self.begin_transaction_at(IsolationLevel::Snapshot)
    }

    fn begin_transaction_at(&self, isolation: IsolationLevel) -> Result<TransactionId> {
        self.check_open()?;
        Ok(self.mvcc().transactions.begin(self.mvcc().index.pin(), isolation))
    }

    fn write_block_in_tx(&self, tx: TransactionId, block: Block) -> Result<BlockId> {
        self.check_open()?;
        let mvcc = self.mvcc();
        mvcc.transactions.with(tx, |pending| {
            let block = mvcc.name_block(block)?;
            let id = block.header.block_id;
            pending.put(id, Operation::Write(block), mvcc.limits.transaction_len_max)?;
            Ok(id)
        })
    }

    fn read_block_in_tx(&self, tx: TransactionId, id: BlockId) -> Result<Block> {
        self.check_open()?;
        // The transaction's lock is not held while the block is fetched: that may do I/O. Its pin
        // keeps the version; should it end meanwhile, this read came before the end.
        match visible_in_tx(self.mvcc(), tx, id)? {
            Seen::Own(block) => Ok(block),
            Seen::Committed(version) => {
                self.mvcc().counters.reads.add(1);
                self.fetch(id, &version.value)
            }
            Seen::Nothing => Err(Error::BlockNotFound { id }),
        }
    }

    fn delete_block_in_tx(&self, tx: TransactionId, id: BlockId) -> Result<()> {
        self.check_open()?;
        let mvcc = self.mvcc();
        mvcc.transactions.with(tx, |pending| {
            pending.note_read(id);
            let visible = match pending.own(id) {
                Some(own) => matches!(own, Operation::Write(_)),
                None => mvcc.read_for(pending, id).is_some(),
            };
            if !visible {
                return Err(Error::BlockNotFound { id });
            }
            pending.put(id, Operation::Delete, mvcc.limits.transaction_len_max)
        })
    }

    fn block_exists_in_tx(&self, tx: TransactionId, id: BlockId) -> Result<bool> {
        self.check_open()?;
        Ok(!matches!(visible_in_tx(self.mvcc(), tx, id)?, Seen::Nothing))
    }

    fn commit_transaction(&self, tx: TransactionId) -> Result<()> {
        self.submit_transaction(tx, None)?.wait().map(|_| ())
    }

    fn submit_transaction(
        &self,
        tx: TransactionId,
        durability: Option<Durability>,
    ) -> Result<CommitTicket> {
        self.check_open()?;
        let mvcc = self.mvcc();
        let batch = mvcc.transactions.start_commit(tx)?;
        // A transaction that changed nothing commits by ending.
        if batch.operations.is_empty() {
            mvcc.counters.commits.add(1);
            let result = Ok(mvcc.index.visible());
            mvcc.end_transaction(Some(tx), &result);
            return Ok(CommitTicket::answered(result));
        }
        self.hand_in(batch, durability)
            .inspect_err(|error| mvcc.end_transaction(Some(tx), &Err(error.clone())))
    }

    fn ids_in_tx(&self, tx: TransactionId, first: BlockId, last: BlockId) -> Result<Vec<BlockId>> {
        self.check_open()?;
        let mvcc = self.mvcc();
        mvcc.transactions.with(tx, |pending| {
            pending.note_range(first, last);
            let mut ids = match pending.snapshot() {
                Some(snapshot) => mvcc.index.ids_at(first, last, usize::MAX, snapshot),
                None => mvcc.index.ids(first, last, usize::MAX),
            };
            let deleted = |id: &BlockId| matches!(pending.own(*id), Some(Operation::Delete));
            ids.retain(|id| !deleted(id));
            let written = pending.own_range(first, last);
            ids.extend(
                written.filter(|(_, own)| matches!(own, Operation::Write(_))).map(|(id, _)| *id),
            );
            ids.sort_unstable();
            ids.dedup();
            Ok(ids)
        })
    }

    fn savepoint_in_tx(&self, tx: TransactionId) -> Result<Savepoint> {
        self.check_open()?;
        self.mvcc().transactions.with(tx, |pending| Ok(pending.savepoint(tx)))
    }

    fn rollback_to_savepoint(&self, tx: TransactionId, savepoint: Savepoint) -> Result<()> {
        self.check_open()?;
        self.mvcc().transactions.with(tx, |pending| pending.rollback_to(tx, savepoint))
    }

    fn apply(&self, batch: WriteBatch) -> Result<Vec<BlockId>> {
        self.check_open()?;
        let (mut ids, mut operations) = (Vec::new(), BTreeMap::new());
        for operation in batch.operations {
            match operation {
                BatchOperation::Write(block) => {
                    let block = self.mvcc().name_block(block)?;
                    ids.push(block.header.block_id);
                    operations.insert(block.header.block_id, Operation::Write(block));
                }
                BatchOperation::Delete(id) => {
                    operations.insert(id, Operation::Delete);
                }
            }
        }
        if operations.is_empty() {
            return Ok(ids);
        }
        let batch = Batch {
            operations: operations.into_iter().collect(),
            precondition: Precondition::DeletedExist,
            reads: None,
            transaction: None,
        };
        self.hand_in(batch, None)?.wait().map(|_| ids)
    }

    fn rollback_transaction(&self, tx: TransactionId) -> Result<()> {
        self.check_open()?;
        let mvcc = self.mvcc();
        if let Some(pin) = mvcc.transactions.rollback(tx)? {
            mvcc.counters.rollbacks.add(1);
            mvcc.index.unpin(pin);
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        self.check_open()?;
        self.make_durable()
    }

    fn stats(&self) -> StorageStats {
        let mut stats = self.mvcc().stats();
        self.add_stats(&mut stats);
        stats
    }
}

enum Seen<V> {
    Own(Block),
    Committed(Versioned<V>),
    Nothing,
}

fn visible_in_tx<V: VersionLen>(mvcc: &Mvcc<V>, tx: TransactionId, id: BlockId) -> Result<Seen<V>> {
    mvcc.transactions.with(tx, |pending| {
        pending.note_read(id);
        Ok(match pending.own(id) {
            Some(Operation::Write(block)) => Seen::Own(block.clone()),
            Some(Operation::Delete) => Seen::Nothing,
            None => match mvcc.read_for(pending, id) {
                Some(version) => Seen::Committed(version),
                None => Seen::Nothing,
            },
        })
    })
}
