//! The contract, written once: every [`StorageBackend`] method over the backend's own parts.
//!
//! Owns the blanket implementation. A backend says, through [`Engine`], how a version becomes a
//! block and how a batch is committed. All checks on blocks, ids and transactions are here and in
//! [`Mvcc`], which both backends share.

use std::sync::Arc;
use std::time::Duration;

use crate::backend::{Durability, OldestSnapshot, StorageBackend, StorageStats};
use crate::block::{Block, BlockId, Lsn, TransactionId};
use crate::callback;
use crate::error::{Error, Result};
use crate::mvcc::batch::{Batch, Operation};
use crate::mvcc::index::Versioned;
use crate::mvcc::state::Mvcc;
use crate::mvcc::turn::Turns;
use crate::mvcc::version::VersionLen;
use crate::order::ScanOrder;
use crate::sync::Process;
use crate::ticket::CommitTicket;
use crate::transaction::{IsolationLevel, Savepoint, ScanMark, ScanPage, WriteBatch};

/// A reader whose place is gone looks for the new one, which is in the index before the old one
/// goes. If the index still named the old place, the reader would look for ever.
const UNMOVED: &str = "a segment was removed though the index names a place in it";

/// The backend's own parts.
pub trait Engine: Send + Sync {
    /// A block's version as the index keeps it.
    #[expect(private_bounds, reason = "sealed: only the two backends of this crate implement it")]
    type Version: VersionLen;

    #[doc(hidden)]
    #[expect(private_interfaces, reason = "sealed, as above")]
    fn mvcc(&self) -> &Mvcc<Self::Version>;

    /// As [`StorageBackend::handle`].
    #[doc(hidden)]
    fn handle(&self) -> Option<Arc<dyn StorageBackend>>;

    #[doc(hidden)]
    /// The block of a version; `None` when the version was moved and the index knows its new place.
    fn fetch_block(&self, id: BlockId, version: &Self::Version) -> Result<Option<Block>>;

    #[doc(hidden)]
    #[expect(private_interfaces, reason = "sealed, as above")]
    fn submit_batch(&self, batch: Batch, durability: Option<Durability>) -> Result<CommitTicket>;

    #[doc(hidden)]
    fn make_durable(&self) -> Result<()>;

    /// The newest commit known durable.
    #[doc(hidden)]
    fn durable_lsn(&self) -> Lsn;

    /// The time to some milliseconds. Only differences mean anything.
    #[doc(hidden)]
    fn now(&self) -> Duration;

    /// Makes sure that a thread works at the submitted commits, if need be this one.
    #[doc(hidden)]
    fn ensure_commit_progress(&self);

    /// Reads the blocks, in this thread alone or with the thread pool.
    #[doc(hidden)]
    fn read_many(&self, ids: &[BlockId]) -> Result<Vec<Block>>;

    /// Whether a commit may wait: for others, for a disk, or for a thread.
    #[doc(hidden)]
    fn commits_may_wait(&self) -> bool;

    /// Checks that the store is open and that this is the process that opened it. Comes before the
    /// first lock of every call.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::Forked`].
    #[doc(hidden)]
    fn check_open(&self) -> Result<()>;

    /// The process that opened the store.
    #[doc(hidden)]
    #[expect(private_interfaces, reason = "sealed, as above")]
    fn process(&self) -> &Process;

    /// As [`Engine::check_open`]. Refuses a read-only store, too.
    #[doc(hidden)]
    fn check_writable(&self) -> Result<()> {
        self.check_open()
    }

    /// Adds the statistics that change with each publication. Must not wait: the publisher waits
    /// meanwhile.
    #[doc(hidden)]
    fn add_published_stats(&self, stats: &mut StorageStats) {
        stats.durable_lsn = self.durable_lsn();
    }

    #[doc(hidden)]
    fn add_stats(&self, stats: &mut StorageStats);
}

impl<E: Engine> StorageBackend for E {
    fn write_block(&self, block: Block) -> Result<BlockId> {
        write_single_block(self, block, None)
    }

    fn write_block_with(&self, block: Block, durability: Durability) -> Result<BlockId> {
        write_single_block(self, block, Some(durability))
    }

    fn read_block(&self, id: BlockId) -> Result<Block> {
        self.check_open()?;
        let mvcc = self.mvcc();
        let mut version = mvcc.index.read_newest(id)?.ok_or(Error::BlockNotFound { id })?;
        mvcc.counters.reads.add(1);
        loop {
            if let Some(block) = self.fetch_block(id, &version.value)? {
                return Ok(block);
            }
            let next = mvcc.index.read_newest(id)?.ok_or(Error::BlockNotFound { id })?;
            assert!(next.value.place() != version.value.place(), "{UNMOVED}");
            version = next;
        }
    }

    fn delete_block(&self, id: BlockId) -> Result<()> {
        delete_single_block(self, id, None)
    }

    fn delete_block_with(&self, id: BlockId, durability: Durability) -> Result<()> {
        delete_single_block(self, id, Some(durability))
    }

    fn block_exists(&self, id: BlockId) -> Result<bool> {
        self.check_open()?;
        Ok(self.mvcc().index.read_newest(id)?.is_some())
    }

    fn begin_transaction(&self) -> Result<TransactionId> {
        self.begin_transaction_at(IsolationLevel::Snapshot)
    }

    fn begin_transaction_at(&self, isolation: IsolationLevel) -> Result<TransactionId> {
        self.begin_transaction_within(isolation, Duration::ZERO)
    }

    fn begin_transaction_within(
        &self,
        isolation: IsolationLevel,
        timeout: Duration,
    ) -> Result<TransactionId> {
        self.check_open()?;
        let mvcc = self.mvcc();
        mvcc.enforce_snapshot_limits(|| self.now());
        let begun = mvcc.transactions.begin_or_refuse(isolation, self.now());
        match begun {
            Err(Error::TooManyTransactions { .. }) if !timeout.is_zero() => {
                callback::check_may_wait()?;
                self.ensure_commit_progress();
                mvcc.transactions.begin_within_timeout(isolation, timeout, || self.now())
            }
            begun => begun,
        }
    }

    fn write_block_in_tx(&self, tx: TransactionId, block: Block) -> Result<BlockId> {
        check_writable_and_limits(self)?;
        let mvcc = self.mvcc();
        mvcc.transactions.with_pending(tx, |pending| {
            let is_named = block.header.block_id != BlockId(0);
            let block = mvcc.assign_block_id(block, |id| pending.own_operation(id).is_some())?;
            let id = block.header.block_id;
            pending.add_operation(id, Operation::Write(block), mvcc.limits.transaction_len_max)?;
            if !is_named {
                pending.note_allocated(id);
            }
            Ok(id)
        })
    }

    fn read_block_in_tx(&self, tx: TransactionId, id: BlockId) -> Result<Block> {
        check_open_and_limits(self)?;
        // The transaction's lock is not held while the block is fetched: that may do I/O. Its pin
        // keeps the version; should it end meanwhile, this read came before the end.
        let mut gone = None;
        loop {
            match read_version_in_tx(self.mvcc(), tx, id)? {
                ReadOutcome::Own(block) => return Ok(block),
                ReadOutcome::Committed(version) => {
                    if let Some(block) = self.fetch_block(id, &version.value)? {
                        self.mvcc().counters.reads.add(1);
                        return Ok(block);
                    }
                    let place = version.value.place();
                    assert!(gone.replace(place) != Some(place), "{UNMOVED}");
                }
                ReadOutcome::Nothing => return Err(Error::BlockNotFound { id }),
            }
        }
    }

    fn delete_block_in_tx(&self, tx: TransactionId, id: BlockId) -> Result<()> {
        check_writable_and_limits(self)?;
        let mvcc = self.mvcc();
        mvcc.transactions.with_pending(tx, |pending| {
            pending.note_read(id);
            let visible = match pending.own_operation(id) {
                Some(own) => matches!(own, Operation::Write(_)),
                None => mvcc.read_for_transaction(pending.snapshot(), id)?.is_some(),
            };
            if !visible {
                return Err(Error::BlockNotFound { id });
            }
            pending.add_operation(id, Operation::Delete, mvcc.limits.transaction_len_max)
        })
    }

    fn block_exists_in_tx(&self, tx: TransactionId, id: BlockId) -> Result<bool> {
        check_open_and_limits(self)?;
        Ok(!matches!(read_version_in_tx(self.mvcc(), tx, id)?, ReadOutcome::Nothing))
    }

    fn commit_transaction(&self, tx: TransactionId) -> Result<()> {
        self.commit_transaction_with(tx, None).map(|_| ())
    }

    fn commit_transaction_with(
        &self,
        tx: TransactionId,
        durability: Option<Durability>,
    ) -> Result<Option<Lsn>> {
        if let Err(refused) = check_commit_may_wait(self) {
            check_open_and_limits(self)?;
            // A transaction without changes commits without waiting.
            let changes =
                self.mvcc().transactions.with_pending(tx, |pending| Ok(!pending.is_empty()))?;
            return if changes { Err(refused) } else { self.submit_transaction(tx, None)?.wait() };
        }
        self.submit_transaction(tx, durability)?.wait()
    }

    fn submit_transaction(
        &self,
        tx: TransactionId,
        durability: Option<Durability>,
    ) -> Result<CommitTicket> {
        check_open_and_limits(self)?;
        let mvcc = self.mvcc();
        let batch = mvcc.start_commit(tx)?;
        // A transaction that changed nothing commits by ending.
        if batch.operations.is_empty() {
            mvcc.counters.commits.add(1);
            mvcc.end_transaction(Some(tx), &Ok(mvcc.index.visible_lsn()));
            return Ok(CommitTicket::answered(Ok(None), Durability::Durable));
        }
        submit_behind_turn(self, batch, durability)
            .inspect_err(|error| mvcc.end_transaction(Some(tx), &Err(error.clone())))
    }

    fn ids_in_tx(&self, tx: TransactionId, first: BlockId, last: BlockId) -> Result<Vec<BlockId>> {
        let (order, mark) = (ScanOrder::Ascending, ScanMark::LATEST);
        self.scan_in_tx(tx, &ScanPage { first, last, order, count_max: usize::MAX, mark })
    }

    fn scan_mark_in_tx(&self, tx: TransactionId) -> Result<ScanMark> {
        check_open_and_limits(self)?;
        let mvcc = self.mvcc();
        // For a transaction without operations, reads stay without a lock.
        let none = mvcc.transactions.with_view(tx, |_| Ok(ScanMark::NOTHING));
        none.unwrap_or_else(|| {
            mvcc.transactions.with_pending(tx, |pending| Ok(pending.scan_mark()))
        })
    }

    fn scan_in_tx(&self, tx: TransactionId, page: &ScanPage) -> Result<Vec<BlockId>> {
        check_open_and_limits(self)?;
        let mvcc = self.mvcc();
        let plain =
            mvcc.transactions.with_view(tx, |view| mvcc.scan_committed(view.snapshot, page));
        plain.unwrap_or_else(|| {
            mvcc.transactions.with_pending(tx, |pending| {
                let (ids, covered) = mvcc.scan_with_own(pending, page)?;
                pending.note_range_read(covered.0, covered.1);
                Ok(ids)
            })
        })
    }

    fn savepoint_in_tx(&self, tx: TransactionId) -> Result<Savepoint> {
        check_open_and_limits(self)?;
        self.mvcc().transactions.with_pending(tx, |pending| Ok(pending.make_savepoint(tx)))
    }

    fn rollback_to_savepoint(&self, tx: TransactionId, savepoint: Savepoint) -> Result<()> {
        check_open_and_limits(self)?;
        self.mvcc()
            .transactions
            .with_pending(tx, |pending| pending.undo_to_savepoint(tx, savepoint))
    }

    fn apply(&self, batch: WriteBatch) -> Result<Vec<BlockId>> {
        apply_write_batch(self, batch, None)
    }

    fn apply_with(&self, batch: WriteBatch, durability: Durability) -> Result<Vec<BlockId>> {
        apply_write_batch(self, batch, Some(durability))
    }

    fn read_blocks(&self, ids: &[BlockId]) -> Result<Vec<Block>> {
        self.check_open()?;
        self.read_many(ids)
    }

    fn rollback_transaction(&self, tx: TransactionId) -> Result<()> {
        self.check_open()?;
        let mvcc = self.mvcc();
        mvcc.drop_released(mvcc.transactions.roll_back(tx)?);
        Ok(())
    }

    fn handle(&self) -> Option<Arc<dyn StorageBackend>> {
        Engine::handle(self)
    }

    fn turns(&self) -> Option<&Turns> {
        Some(&self.mvcc().turns)
    }

    fn sync(&self) -> Result<()> {
        self.check_open()?;
        self.make_durable()
    }

    fn sync_to(&self, lsn: Lsn) -> Result<()> {
        self.check_open()?;
        if lsn > self.mvcc().index.visible_lsn() {
            return Err(Error::InvalidArgument { argument: "lsn", reason: "no commit has it yet" });
        }
        if lsn <= self.durable_lsn() { Ok(()) } else { self.make_durable() }
    }

    fn oldest_snapshot(&self) -> Option<OldestSnapshot> {
        self.process().check().ok()?;
        self.mvcc().oldest_snapshot(self.now())
    }

    fn stats(&self) -> StorageStats {
        if !self.process().is_current() {
            return StorageStats::default();
        }
        let mut stats =
            self.mvcc().collect_stats(self.now(), |stats| self.add_published_stats(stats));
        self.add_stats(&mut stats);
        stats
    }
}

/// Checks that come before an operation of a transaction.
fn check_open_and_limits<E: Engine>(engine: &E) -> Result<()> {
    engine.check_open()?;
    engine.mvcc().enforce_snapshot_limits(|| engine.now());
    Ok(())
}

/// Checks that come before an operation that changes something.
fn check_writable_and_limits<E: Engine>(engine: &E) -> Result<()> {
    engine.check_writable()?;
    engine.mvcc().enforce_snapshot_limits(|| engine.now());
    Ok(())
}

/// Checks that come before a call that waits for its commit.
fn check_commit_may_wait<E: Engine>(engine: &E) -> Result<()> {
    if engine.commits_may_wait() { callback::check_may_wait() } else { Ok(()) }
}

/// Submits a commit, behind a turn that claims what it changes.
fn submit_behind_turn<E: Engine>(
    engine: &E,
    batch: Batch,
    durability: Option<Durability>,
) -> Result<CommitTicket> {
    debug_assert!(!batch.operations.is_empty(), "a commit changes something");
    engine.mvcc().turns.wait_at_gate(&batch);
    engine.submit_batch(batch, durability)
}

fn write_single_block<E: Engine>(
    engine: &E,
    block: Block,
    durability: Option<Durability>,
) -> Result<BlockId> {
    check_writable_and_limits(engine)?;
    check_commit_may_wait(engine)?;
    if block.header.block_id == BlockId(0) {
        return retry_until_id_is_free(|| write_allocated_block(engine, block.clone(), durability));
    }
    let block = engine.mvcc().assign_block_id(block, |_| false)?;
    let id = block.header.block_id;
    submit_behind_turn(engine, Batch::of_single_write(block), durability)?.wait().map(|_| id)
}

fn write_allocated_block<E: Engine>(
    engine: &E,
    block: Block,
    durability: Option<Durability>,
) -> Result<BlockId> {
    let block = engine.mvcc().assign_block_id(block, |_| false)?;
    let id = block.header.block_id;
    let batch = Batch { allocated: vec![id], ..Batch::of_single_write(block) };
    submit_behind_turn(engine, batch, durability)?.wait().map(|_| id)
}

/// Writes again, under another id, while another caller has named the allocated id first.
fn retry_until_id_is_free<T>(mut write: impl FnMut() -> Result<T>) -> Result<T> {
    loop {
        match write() {
            Err(Error::Conflict { .. }) => {}
            written => return written,
        }
    }
}

fn delete_single_block<E: Engine>(
    engine: &E,
    id: BlockId,
    durability: Option<Durability>,
) -> Result<()> {
    check_writable_and_limits(engine)?;
    check_commit_may_wait(engine)?;
    submit_behind_turn(engine, Batch::of_single_delete(id), durability)?.wait().map(|_| ())
}

fn apply_write_batch<E: Engine>(
    engine: &E,
    batch: WriteBatch,
    durability: Option<Durability>,
) -> Result<Vec<BlockId>> {
    check_writable_and_limits(engine)?;
    if !batch.is_empty() {
        check_commit_may_wait(engine)?;
    }
    if batch.allocates_ids() {
        return retry_until_id_is_free(|| apply_named_batch(engine, batch.clone(), durability));
    }
    apply_named_batch(engine, batch, durability)
}

fn apply_named_batch<E: Engine>(
    engine: &E,
    batch: WriteBatch,
    durability: Option<Durability>,
) -> Result<Vec<BlockId>> {
    let (ids, batch) = engine.mvcc().assign_batch_ids(batch)?;
    if batch.operations.is_empty() {
        return Ok(ids);
    }
    submit_behind_turn(engine, batch, durability)?.wait().map(|_| ids)
}

enum ReadOutcome<V> {
    Own(Block),
    Committed(Versioned<V>),
    Nothing,
}

fn read_version_in_tx<V: VersionLen>(
    mvcc: &Mvcc<V>,
    tx: TransactionId,
    id: BlockId,
) -> Result<ReadOutcome<V>> {
    let committed = mvcc.transactions.with_view(tx, |view| {
        Ok(match mvcc.read_for_transaction(view.snapshot, id)? {
            Some(version) => ReadOutcome::Committed(version),
            None => ReadOutcome::Nothing,
        })
    });
    if let Some(seen) = committed {
        return seen;
    }
    mvcc.transactions.with_pending(tx, |pending| {
        pending.note_read(id);
        Ok(match pending.own_operation(id) {
            Some(Operation::Write(block)) => ReadOutcome::Own(block.clone()),
            Some(_) => ReadOutcome::Nothing,
            None => match mvcc.read_for_transaction(pending.snapshot(), id)? {
                Some(version) => ReadOutcome::Committed(version),
                None => ReadOutcome::Nothing,
            },
        })
    })
}
