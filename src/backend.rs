//! The contract: [`StorageBackend`], what every backend promises, and [`StorageStats`].
//!
//! Owns no state. The conformance suite in `tests/` proves the contract on every backend.

use crate::block::{Block, BlockId, Lsn, TransactionId};
use crate::error::{Error, Result};
use crate::ticket::CommitTicket;
use crate::transaction::{BatchOperation, IsolationLevel, Savepoint, WriteBatch};

/// A blocking, transactional store of blocks that many threads share.
///
/// - A write to an id that exists replaces the block; a write to `BlockId(0)` allocates an id.
/// - A commit is all or nothing. Within a transaction the last operation on an id wins.
/// - Readers outside a transaction see committed data only. A transaction reads its own writes, and
///   everything else as of its begin.
/// - First committer wins: a commit that changed a block which somebody else changed since the
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
    /// - [`Poisoned`]: nothing was written, unless a panic of the store itself is the cause: then as
    ///   `Io`.
    /// - [`Io`]: the outcome is unknown until the store is opened again.
    ///
    /// [`BlockTooLarge`]: crate::Error::BlockTooLarge
    /// [`InvalidArgument`]: crate::Error::InvalidArgument
    /// [`IdsExhausted`]: crate::Error::IdsExhausted
    /// [`StorageFull`]: crate::Error::StorageFull
    /// [`Poisoned`]: crate::Error::Poisoned
    /// [`Closed`]: crate::Error::Closed
    /// [`Io`]: crate::Error::Io
    fn write_block(&self, block: Block) -> Result<BlockId>;

    /// Reads the newest committed version of a block, with its checksum verified.
    ///
    /// # Errors
    /// - [`BlockNotFound`](crate::Error::BlockNotFound): no commit made this block, or one deleted it.
    /// - [`Corrupt`](crate::Error::Corrupt): the stored bytes are damaged; other blocks are not
    ///   affected.
    fn read_block(&self, id: BlockId) -> Result<Block>;

    /// Deletes a block as its own transaction.
    ///
    /// # Errors
    /// - [`BlockNotFound`](crate::Error::BlockNotFound): there was nothing to delete at its place in
    ///   commit order; nothing was written.
    /// - otherwise as [`StorageBackend::write_block`].
    fn delete_block(&self, id: BlockId) -> Result<()>;

    /// Returns whether a committed block has this id. `BlockId(0)` never exists.
    ///
    /// # Errors
    /// - [`Closed`](crate::Error::Closed): the store was closed.
    fn block_exists(&self, id: BlockId) -> Result<bool>;

    /// Begins a transaction on a snapshot of what is committed now.
    ///
    /// # Errors
    /// - [`Closed`](crate::Error::Closed): the store was closed.
    fn begin_transaction(&self) -> Result<TransactionId>;

    /// Adds a write to a transaction and returns the block's id. Nobody else sees it before commit.
    ///
    /// # Errors
    /// - [`TransactionNotFound`](crate::Error::TransactionNotFound),
    ///   [`TransactionNotActive`](crate::Error::TransactionNotActive): the transaction has ended.
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
    /// - [`BlockNotFound`](crate::Error::BlockNotFound): the transaction does not see this block; it
    ///   goes on.
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
    /// - [`StorageFull`](crate::Error::StorageFull), [`Poisoned`](crate::Error::Poisoned),
    ///   [`Closed`](crate::Error::Closed): nothing was written and the transaction is rolled back.
    /// - [`Io`](crate::Error::Io): the outcome is **unknown** until the store is opened again, so
    ///   assume neither commit nor rollback; the store is now poisoned.
    /// - [`TransactionNotFound`](crate::Error::TransactionNotFound),
    ///   [`TransactionNotActive`](crate::Error::TransactionNotActive): it had ended before.
    fn commit_transaction(&self, tx: TransactionId) -> Result<()>;

    /// Drops a transaction's pending operations. Rolling back twice is fine.
    ///
    /// # Errors
    /// - [`TransactionNotActive`](crate::Error::TransactionNotActive): it was committed, or another
    ///   thread is committing it.
    /// - [`TransactionNotFound`](crate::Error::TransactionNotFound): the id was never handed out, or
    ///   the transaction ended too long ago to be remembered.
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

    /// Hands a transaction's commit in and returns a ticket for it. `None` asks for the store's own
    /// durability. By default the commit is waited for here.
    ///
    /// # Errors
    /// As [`StorageBackend::commit_transaction`], for what is known at once; the rest comes with the
    /// ticket.
    fn submit_transaction(
        &self,
        tx: TransactionId,
        durability: Option<Durability>,
    ) -> Result<CommitTicket> {
        self.commit_transaction(tx)?;
        if durability == Some(Durability::Durable) {
            self.sync()?;
        }
        Ok(CommitTicket::answered(Ok(self.stats().visible_lsn)))
    }

    /// The ids from `first` to `last` that a transaction sees, ascending.
    ///
    /// # Errors
    /// - [`Error::Unsupported`]: the backend cannot list ids (the default here).
    /// - for a transaction that has ended, as [`StorageBackend::write_block_in_tx`].
    fn ids_in_tx(&self, tx: TransactionId, first: BlockId, last: BlockId) -> Result<Vec<BlockId>> {
        let _ = (tx, first, last);
        Err(Error::Unsupported { operation: "ranges" })
    }

    /// Marks a state of a transaction to go back to.
    ///
    /// # Errors
    /// - [`Error::Unsupported`]: the backend has no savepoints (the default here).
    /// - for a transaction that has ended, as [`StorageBackend::write_block_in_tx`].
    fn savepoint_in_tx(&self, tx: TransactionId) -> Result<Savepoint> {
        let _ = tx;
        Err(Error::Unsupported { operation: "savepoints" })
    }

    /// Undoes a transaction's operations since a savepoint, which stays; later ones are gone.
    ///
    /// # Errors
    /// - [`Error::InvalidArgument`]: the savepoint is another transaction's, or was undone.
    /// - as [`StorageBackend::savepoint_in_tx`].
    fn rollback_to_savepoint(&self, tx: TransactionId, savepoint: Savepoint) -> Result<()> {
        let _ = (tx, savepoint);
        Err(Error::Unsupported { operation: "savepoints" })
    }

    /// Applies a batch as one commit, and returns the ids of its writes, in order. By default in a
    /// transaction, which may conflict.
    ///
    /// # Errors
    /// - [`Error::BlockNotFound`]: the batch deletes a block that does not exist at its place in
    ///   commit order; nothing of the batch is applied.
    /// - as [`StorageBackend::write_block`].
    fn apply(&self, batch: WriteBatch) -> Result<Vec<BlockId>> {
        let tx = self.begin_transaction()?;
        let mut ids = Vec::new();
        for operation in batch.operations {
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

    /// Reads many blocks as of one moment each; the answers are in the order of the ids.
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
    fn sync(&self) -> Result<()>;

    /// Returns counters and sizes. `total_blocks` and `total_bytes` equal what a full scan finds.
    fn stats(&self) -> StorageStats;
}

/// What must have happened before a commit is acknowledged.
///
/// | level      | process killed | operating system crashes | power lost    |
/// |------------|----------------|--------------------------|---------------|
/// | `Durable`  | survives       | survives                 | survives      |
/// | `Buffered` | survives       | a prefix survives        | a prefix survives |
///
/// The prefix ends at the last [`sync`](StorageBackend::sync), sync interval, durable commit
/// or [`close`](crate::LocalBackend::close) at the latest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Durability {
    /// The commit is in the operating system's hands.
    Buffered,
    /// The commit and every earlier one would survive power loss.
    #[default]
    Durable,
}

/// Counters since open, and sizes as of now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StorageStats {
    /// Committed blocks.
    pub total_blocks: u64,
    /// Sum of the payload lengths of all committed blocks, in bytes.
    pub total_bytes: u64,
    /// Blocks read, in and out of transactions.
    pub read_ops: u64,
    /// Block writes committed.
    pub write_ops: u64,
    /// Block deletes committed.
    pub delete_ops: u64,
    /// Transactions committed, single writes and deletes among them.
    pub commits: u64,
    /// Commits refused because another transaction came first.
    pub conflicts: u64,
    /// Transactions rolled back, by the caller or by a refused commit.
    pub rollbacks: u64,
    /// Transactions open now.
    pub open_transactions: u64,
    /// The newest commit that readers see.
    pub visible_lsn: Lsn,
    /// The newest commit that survives power loss.
    pub durable_lsn: Lsn,
    /// Heap bytes of the index, measured from its own allocations.
    pub index_bytes: u64,
    /// Older versions kept for open transactions and snapshots.
    pub undo_entries: u64,
    /// Commit groups written to the log.
    pub groups: u64,
    /// Syncs of the log that commits waited for.
    pub log_syncs: u64,
    /// Bytes written to the log: frames and padding.
    pub log_bytes: u64,
    /// Bytes of zeros written ahead of the log's tail, outside the way of commits.
    pub zeroed_bytes: u64,
    /// Log files, the active one and those prepared ahead included.
    pub segments: u64,
}
