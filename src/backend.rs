//! The contract of every backend: [`StorageBackend`].
//!
//! Owns no state. The conformance suite in `tests/` proves the contract on every backend. Calls
//! that a backend need not offer have a default here: built from the calls that it must offer where
//! that is possible, [`Error::Unsupported`] where it is not.

use std::sync::Arc;
use std::time::Duration;

use crate::block::{Block, BlockId, Lsn, TransactionId};
pub use crate::durability::Durability;
use crate::error::{Error, Result};
use crate::mvcc::turn::Turns;
use crate::order::ScanOrder;
pub use crate::stats::{OldestSnapshot, StorageStats};
use crate::ticket::CommitTicket;
use crate::transaction::{
    BatchOperation, IsolationLevel, Savepoint, ScanMark, ScanPage, WriteBatch,
};

/// A blocking, transactional store of blocks that many threads share.
///
/// - A write to an id that exists replaces the block; a write to `BlockId(0)` allocates an id.
/// - A commit is all or nothing. Within a transaction the last operation on an id wins.
/// - Readers outside a transaction see committed data only. A transaction reads its own writes, and
///   everything else as of its begin.
/// - First committer wins: a commit that changed a block which another commit changed since the
///   transaction began returns [`Error::Conflict`] and changes nothing. A single write or delete
///   outside a transaction never conflicts; it takes its place in commit order.
///
/// The trait is object-safe: `Arc<dyn StorageBackend>` works.
///
/// # Examples
/// ```
/// use aegis_blocks::{Block, BlockId, BlockType, MemoryBackend, StorageBackend};
/// let store = MemoryBackend::new();
/// let tx = store.begin_transaction()?;
/// let id = store.write_block_in_tx(tx, Block::new(BlockId(0), BlockType::TableData, "row"))?;
/// assert!(!store.block_exists(id)?);
/// store.commit_transaction(tx)?;
/// assert_eq!(&store.read_block(id)?.data[..], b"row");
/// # Ok::<(), aegis_blocks::Error>(())
/// ```
///
/// [`Error::Conflict`]: crate::Error::Conflict
pub trait StorageBackend: Send + Sync {
    /// Writes one block as its own transaction and returns its id.
    ///
    /// # Errors
    /// - [`BlockTooLarge`], [`InvalidArgument`], [`IdsExhausted`], [`StorageFull`], [`Closed`]:
    ///   nothing was written.
    /// - [`Poisoned`]: nothing was written, unless a panic of the store itself is the cause: then
    ///   as `Io`.
    /// - [`Io`]: the outcome is unknown until the store is opened again.
    /// - [`InCallback`]: the calling thread must not wait; nothing was written.
    ///
    /// [`BlockTooLarge`]: crate::Error::BlockTooLarge
    /// [`InvalidArgument`]: crate::Error::InvalidArgument
    /// [`IdsExhausted`]: crate::Error::IdsExhausted
    /// [`StorageFull`]: crate::Error::StorageFull
    /// [`Poisoned`]: crate::Error::Poisoned
    /// [`Closed`]: crate::Error::Closed
    /// [`Io`]: crate::Error::Io
    /// [`InCallback`]: crate::Error::InCallback
    fn write_block(&self, block: Block) -> Result<BlockId>;

    /// Reads the newest committed version of a block, with its checksum verified.
    ///
    /// # Errors
    /// - [`BlockNotFound`](crate::Error::BlockNotFound): no commit made this block, or one deleted
    ///   it.
    /// - [`Corrupt`](crate::Error::Corrupt): the stored bytes are damaged; other blocks are not
    ///   affected.
    fn read_block(&self, id: BlockId) -> Result<Block>;

    /// Deletes a block as its own transaction.
    ///
    /// # Errors
    /// - [`BlockNotFound`](crate::Error::BlockNotFound): there was nothing to delete at its place
    ///   in commit order; nothing was written.
    /// - otherwise as [`StorageBackend::write_block`].
    fn delete_block(&self, id: BlockId) -> Result<()>;

    /// Returns whether a committed block has this id. `BlockId(0)` never exists.
    ///
    /// # Errors
    /// - [`Closed`](crate::Error::Closed): the store was closed.
    fn block_exists(&self, id: BlockId) -> Result<bool>;

    /// Begins a transaction on a snapshot of what is committed now. Never waits.
    ///
    /// # Errors
    /// - [`TooManyTransactions`](crate::Error::TooManyTransactions): as many are open as may be;
    ///   nothing was begun.
    /// - [`Closed`](crate::Error::Closed): the store was closed.
    fn begin_transaction(&self) -> Result<TransactionId>;

    /// Adds a write to a transaction and returns the block's id. No other reader sees it before
    /// commit.
    ///
    /// # Errors
    /// - [`TransactionNotFound`](crate::Error::TransactionNotFound),
    ///   [`TransactionNotActive`](crate::Error::TransactionNotActive): the transaction has ended.
    /// - [`SnapshotTooOld`](crate::Error::SnapshotTooOld): its snapshot was over a limit of the
    ///   store and has been given up, with what the transaction had pending; roll it back.
    /// - [`TransactionTooLarge`](crate::Error::TransactionTooLarge) or as
    ///   [`StorageBackend::write_block`]: the write was not added, the transaction goes on.
    fn write_block_in_tx(&self, tx: TransactionId, block: Block) -> Result<BlockId>;

    /// Reads a block as the transaction sees it: its own write, or the version as of its begin.
    ///
    /// # Errors
    /// As [`StorageBackend::read_block`], and for a transaction that has ended as
    /// [`StorageBackend::write_block_in_tx`].
    fn read_block_in_tx(&self, tx: TransactionId, id: BlockId) -> Result<Block>;

    /// Adds a delete to a transaction.
    ///
    /// # Errors
    /// - [`BlockNotFound`](crate::Error::BlockNotFound): the transaction does not see this block;
    ///   it goes on.
    /// - for a transaction that has ended, as [`StorageBackend::write_block_in_tx`].
    fn delete_block_in_tx(&self, tx: TransactionId, id: BlockId) -> Result<()>;

    /// Returns whether the transaction sees a block with this id.
    ///
    /// # Errors
    /// For a transaction that has ended, as [`StorageBackend::write_block_in_tx`].
    fn block_exists_in_tx(&self, tx: TransactionId, id: BlockId) -> Result<bool>;

    /// Commits a transaction; returns when it is as durable as the store's default asks.
    ///
    /// # Errors
    /// - [`Conflict`](crate::Error::Conflict): nothing was written and the transaction is rolled
    ///   back; run it again on a newer snapshot.
    /// - [`SnapshotTooOld`](crate::Error::SnapshotTooOld): its snapshot was over a limit of the
    ///   store; nothing was written and the transaction is rolled back.
    /// - [`StorageFull`](crate::Error::StorageFull), [`Poisoned`](crate::Error::Poisoned),
    ///   [`Closed`](crate::Error::Closed): nothing was written and the transaction is rolled back.
    /// - [`Io`](crate::Error::Io): the outcome is **unknown** until the store is opened again, so
    ///   assume neither commit nor rollback; the store is now poisoned.
    /// - [`TransactionNotFound`](crate::Error::TransactionNotFound),
    ///   [`TransactionNotActive`](crate::Error::TransactionNotActive): it had ended before.
    /// - [`InCallback`](crate::Error::InCallback): the calling thread must not wait for it; the
    ///   transaction goes on.
    fn commit_transaction(&self, tx: TransactionId) -> Result<()>;

    /// As [`StorageBackend::commit_transaction`], with a durability of its own, or the store's
    /// where it is `None`. Returns the commit's LSN, as [`CommitTicket::wait`] does.
    ///
    /// # Errors
    /// As [`StorageBackend::commit_transaction`].
    fn commit_transaction_with(
        &self,
        tx: TransactionId,
        durability: Option<Durability>,
    ) -> Result<Option<Lsn>> {
        self.submit_transaction(tx, durability)?.wait()
    }

    /// Drops a transaction's pending operations. Rolling back twice is fine.
    ///
    /// # Errors
    /// - [`TransactionNotActive`](crate::Error::TransactionNotActive): it was committed, or another
    ///   thread is committing it.
    /// - [`TransactionNotFound`](crate::Error::TransactionNotFound): the id was never handed out,
    ///   or the transaction ended too long ago to be remembered.
    fn rollback_transaction(&self, tx: TransactionId) -> Result<()>;

    /// Begins a transaction with an isolation level.
    ///
    /// # Errors
    /// - [`Error::Unsupported`]: the backend offers snapshot isolation only (the default here).
    /// - as [`StorageBackend::begin_transaction`].
    fn begin_transaction_at(&self, isolation: IsolationLevel) -> Result<TransactionId> {
        match isolation {
            IsolationLevel::Snapshot => self.begin_transaction(),
            _ => Err(Error::Unsupported { operation: "this isolation level" }),
        }
    }

    /// Begins a transaction with an isolation level; where as many are open as may be, waits up to
    /// `timeout` for one to end. By default for backends without such a limit, which never wait.
    ///
    /// # Errors
    /// - [`Error::TooManyTransactions`]: none ended in time; nothing was begun.
    /// - as [`StorageBackend::begin_transaction_at`].
    #[expect(unused_variables, reason = "this default never waits")]
    fn begin_transaction_within(
        &self,
        isolation: IsolationLevel,
        timeout: Duration,
    ) -> Result<TransactionId> {
        self.begin_transaction_at(isolation)
    }

    /// Submits a transaction's commit and returns a ticket for it. `None` asks for the store's own
    /// durability. The commit is carried out once its ticket is waited for, asked or dropped, or
    /// another caller commits. By default this call waits for the commit, and the ticket does not
    /// tell its LSN: only a backend knows which commit was whose.
    ///
    /// # Errors
    /// As [`StorageBackend::commit_transaction`], for what is known at once; the rest comes with
    /// the ticket.
    fn submit_transaction(
        &self,
        tx: TransactionId,
        durability: Option<Durability>,
    ) -> Result<CommitTicket> {
        self.commit_transaction(tx)?;
        let durable = durability == Some(Durability::Durable);
        let result = if durable { self.sync().map(|()| None) } else { Ok(None) };
        // A commit that need not be durable may be so, which is not known here.
        let reached = if durable { Durability::Durable } else { Durability::Buffered };
        Ok(CommitTicket::answered(result, reached))
    }

    /// The ids from `first` to `last` that a transaction sees, ascending.
    ///
    /// # Errors
    /// - [`Error::Unsupported`]: the backend cannot list ids (the default here).
    /// - for a transaction that has ended, as [`StorageBackend::write_block_in_tx`].
    #[expect(unused_variables, reason = "this default lists nothing")]
    fn ids_in_tx(&self, tx: TransactionId, first: BlockId, last: BlockId) -> Result<Vec<BlockId>> {
        Err(Error::Unsupported { operation: "ranges" })
    }

    /// Notes how far a transaction has come, for a scan that begins now. The scan does not visit
    /// what the transaction writes later.
    ///
    /// # Errors
    /// For a transaction that has ended, as [`StorageBackend::write_block_in_tx`].
    fn scan_mark_in_tx(&self, tx: TransactionId) -> Result<ScanMark> {
        // Only whether the transaction is open is known here.
        self.block_exists_in_tx(tx, BlockId(0)).map(|_| ScanMark::LATEST)
    }

    /// One page of a scan: ids that a transaction sees, in the order that was asked for. A
    /// serializable transaction has read what the page covers: to its last id where it is full, to
    /// the end of the range where it is not. By default all that [`StorageBackend::ids_in_tx`]
    /// lists, in one page.
    ///
    /// # Errors
    /// As [`StorageBackend::ids_in_tx`].
    fn scan_in_tx(&self, tx: TransactionId, page: &ScanPage) -> Result<Vec<BlockId>> {
        let mut ids = self.ids_in_tx(tx, page.first, page.last)?;
        if page.order == ScanOrder::Descending {
            ids.reverse();
        }
        Ok(ids)
    }

    /// Marks a state of a transaction to go back to.
    ///
    /// # Errors
    /// - [`Error::Unsupported`]: the backend has no savepoints (the default here).
    /// - for a transaction that has ended, as [`StorageBackend::write_block_in_tx`].
    #[expect(unused_variables, reason = "this default has no savepoints")]
    fn savepoint_in_tx(&self, tx: TransactionId) -> Result<Savepoint> {
        Err(Error::Unsupported { operation: "savepoints" })
    }

    /// Undoes a transaction's operations since a savepoint, which stays; later ones are gone.
    ///
    /// # Errors
    /// - [`Error::InvalidArgument`]: the savepoint is another transaction's, or was undone.
    /// - as [`StorageBackend::savepoint_in_tx`].
    #[expect(unused_variables, reason = "this default has no savepoints")]
    fn rollback_to_savepoint(&self, tx: TransactionId, savepoint: Savepoint) -> Result<()> {
        Err(Error::Unsupported { operation: "savepoints" })
    }

    /// Applies a batch as one commit, and returns the ids of its writes, in order. By default in a
    /// transaction, which may conflict.
    ///
    /// # Errors
    /// - [`Error::BlockNotFound`]: the batch deletes a block that is not there at its place in
    ///   commit order, and was not written before that by the batch; nothing of the batch is
    ///   applied.
    /// - [`Error::TransactionTooLarge`]: nothing of the batch is applied.
    /// - as [`StorageBackend::write_block`].
    fn apply(&self, batch: WriteBatch) -> Result<Vec<BlockId>> {
        let tx = self.begin_transaction()?;
        let mut ids = Vec::new();
        for operation in batch {
            let done = match operation {
                BatchOperation::Write(block) => {
                    self.write_block_in_tx(tx, block).map(|id| ids.push(id))
                }
                BatchOperation::Delete(id) => self.delete_block_in_tx(tx, id),
            };
            if let Err(error) = done {
                self.rollback_transaction(tx)?;
                return Err(error);
            }
        }
        self.commit_transaction(tx).map(|()| ids)
    }

    /// As [`StorageBackend::write_block`], with a durability of its own.
    ///
    /// # Errors
    /// - [`Error::Io`], [`Error::Poisoned`] of the sync: the block is written, and may be lost.
    /// - as [`StorageBackend::write_block`].
    fn write_block_with(&self, block: Block, durability: Durability) -> Result<BlockId> {
        let id = self.write_block(block)?;
        sync_if_durable(self, durability).map(|()| id)
    }

    /// As [`StorageBackend::delete_block`], with a durability of its own.
    ///
    /// # Errors
    /// - [`Error::Io`], [`Error::Poisoned`] of the sync: the block is deleted, and may come back.
    /// - as [`StorageBackend::delete_block`].
    fn delete_block_with(&self, id: BlockId, durability: Durability) -> Result<()> {
        self.delete_block(id)?;
        sync_if_durable(self, durability)
    }

    /// As [`StorageBackend::apply`], with a durability of its own.
    ///
    /// # Errors
    /// - [`Error::Io`], [`Error::Poisoned`] of the sync: the batch is applied, and may be lost.
    /// - as [`StorageBackend::apply`].
    fn apply_with(&self, batch: WriteBatch, durability: Durability) -> Result<Vec<BlockId>> {
        let ids = self.apply(batch)?;
        sync_if_durable(self, durability).map(|()| ids)
    }

    /// Reads many blocks, each as of some moment of the call; the answers are in the order of the
    /// ids. An id may occur more than once. The answer holds all payloads: ask in parts for more
    /// than should be in memory at once.
    ///
    /// # Errors
    /// As [`StorageBackend::read_block`], of the first id that fails.
    fn read_blocks(&self, ids: &[BlockId]) -> Result<Vec<Block>> {
        ids.iter().map(|id| self.read_block(*id)).collect()
    }

    /// Makes every earlier commit durable.
    ///
    /// # Errors
    /// - [`Io`](crate::Error::Io), [`Poisoned`](crate::Error::Poisoned): commits that were not yet
    ///   durable may be lost; open the store again.
    /// - [`Closed`](crate::Error::Closed): the store was closed.
    /// - [`InCallback`](crate::Error::InCallback): the calling thread must not wait; nothing was
    ///   done.
    fn sync(&self) -> Result<()>;

    /// Makes a commit and every earlier one durable; returns at once where they are.
    ///
    /// # Errors
    /// - [`Error::InvalidArgument`]: no commit has this LSN yet; nothing was done.
    /// - as [`StorageBackend::sync`].
    fn sync_to(&self, lsn: Lsn) -> Result<()> {
        let stats = self.stats();
        if lsn > stats.visible_lsn {
            return Err(Error::InvalidArgument { argument: "lsn", reason: "no commit has it yet" });
        }
        if lsn <= stats.durable_lsn { Ok(()) } else { self.sync() }
    }

    /// A handle to the same store for a transaction to keep, where the backend has one at hand that
    /// is cheaper than a clone; `None` where it has not.
    fn handle(&self) -> Option<Arc<dyn StorageBackend>> {
        None
    }

    /// Where calls of [`transact`](crate::StorageExt::transact) that lose again and again wait for
    /// their turn. `None` where there is no such place: then they only try again.
    fn turns(&self) -> Option<&Turns> {
        None
    }

    /// The oldest snapshot that an open transaction reads; older versions are kept for it. `None`
    /// where none is open.
    fn oldest_snapshot(&self) -> Option<OldestSnapshot> {
        let stats = self.stats();
        let age = stats.oldest_snapshot_age;
        stats.oldest_snapshot.map(|lsn| OldestSnapshot { lsn, age })
    }

    /// Returns counters and sizes. `total_blocks` and `total_bytes` equal what a full scan finds.
    fn stats(&self) -> StorageStats;
}

fn sync_if_durable(store: &(impl StorageBackend + ?Sized), durability: Durability) -> Result<()> {
    if durability == Durability::Durable { store.sync() } else { Ok(()) }
}
