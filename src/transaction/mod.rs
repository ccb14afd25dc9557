//! Transactions as handles over any backend.
//!
//! Owns [`Transaction`] (rolled back when dropped), [`Savepoint`] and the isolation levels. In
//! files of their own: [`Ids`] (`scan`), [`Snapshot`] and [`Blocks`] (`view`), [`WriteBatch`]
//! (`batch`), [`StorageExt`] (`ext`), and the retries of `transact` (`rival`). Written once, over
//! the ids of [`StorageBackend`]; the backend makes all checks on ids. A finished transaction
//! cannot be used again: `commit` and `rollback` consume it.

mod batch;
mod ext;
mod rival;
mod scan;
mod view;

pub use batch::{BatchOperation, WriteBatch};
pub use ext::{BEGIN_WAIT_MAX, StorageExt};
pub use rival::TRANSACT_TRIES_MAX;
pub(crate) use scan::inclusive_bounds;
pub use scan::{Ids, ScanMark, ScanPage};
pub use view::{Blocks, Snapshot};

use std::ops::RangeBounds;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::StorageBackend;
use crate::block::{Block, BlockId, Lsn, TransactionId};
use crate::durability::Durability;
use crate::error::{Error, Result};
use crate::ticket::CommitTicket;

/// The commits that a transaction sees, and those that it conflicts with.
///
/// | level           | reads             | conflicts when another commit since begin changed      |
/// |-----------------|-------------------|--------------------------------------------------------|
/// | `ReadCommitted` | the newest commit | nothing                                                |
/// | `Snapshot`      | as of begin       | a block that it writes                                 |
/// | `Serializable`  | as of begin       | a block or range that it writes or, if it writes, read |
///
/// At each level it conflicts, too, when another commit has named an id that was allocated for this
/// one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum IsolationLevel {
    /// Each read sees the newest commit; the last writer wins.
    ReadCommitted,
    /// All reads see the state as of begin; first committer wins.
    #[default]
    Snapshot,
    /// As if transactions ran one after the other, in commit order (validation of what was read at
    /// commit: Kung and Robinson, "On Optimistic Methods for Concurrency Control", 1981).
    Serializable,
}

/// A mark within a transaction to go back to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Savepoint {
    transaction: TransactionId,
    serial: u64,
}

impl Savepoint {
    /// Makes a mark; for backends. `serial` tells it from the other marks of its transaction,
    /// undone ones included.
    pub fn new(transaction: TransactionId, serial: u64) -> Savepoint {
        Savepoint { transaction, serial }
    }

    /// The transaction that it belongs to.
    pub fn transaction(self) -> TransactionId {
        self.transaction
    }

    /// Its number among the marks of its transaction.
    pub fn serial(self) -> u64 {
        self.serial
    }
}

/// An open transaction over any backend. `Send`, owned, rolled back when dropped.
///
/// # Examples
/// ```
/// use aegis_blocks::{Block, BlockId, BlockType, MemoryBackend, StorageBackend, StorageExt};
/// let store = MemoryBackend::new();
/// let tx = store.begin()?;
/// let id = tx.write(Block::new(BlockId(0), BlockType::TableData, "row"))?;
/// assert!(!store.block_exists(id)?);
/// tx.commit()?;
/// assert!(store.block_exists(id)?);
/// # Ok::<(), aegis_blocks::Error>(())
/// ```
pub struct Transaction {
    store: Arc<dyn StorageBackend>,
    id: TransactionId,
    open: bool,
}

impl std::fmt::Debug for Transaction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transaction").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Transaction {
    /// Begins a transaction. Where as many are open as may be, waits up to `timeout` for one to
    /// end; with [`Duration::ZERO`] it never waits.
    ///
    /// # Errors
    /// - [`Error::TooManyTransactions`]: none ended in time; nothing was begun.
    /// - [`Error::Closed`]: the store was closed.
    /// - [`Error::Unsupported`]: the backend does not offer this isolation level.
    /// - [`Error::InCallback`]: it would wait, and the calling thread must not; nothing was begun.
    ///
    /// [`Error::TooManyTransactions`]: crate::Error::TooManyTransactions
    /// [`Error::Closed`]: crate::Error::Closed
    /// [`Error::Unsupported`]: crate::Error::Unsupported
    pub fn begin(
        store: Arc<dyn StorageBackend>,
        isolation: IsolationLevel,
        timeout: Duration,
    ) -> Result<Transaction> {
        let id = store.begin_transaction_within(isolation, timeout)?;
        Ok(Transaction { store, id, open: true })
    }

    /// The transaction's id, for calls on the backend.
    pub fn id(&self) -> TransactionId {
        self.id
    }

    /// Reads a block as this transaction sees it.
    ///
    /// # Errors
    /// As [`StorageBackend::read_block_in_tx`]; the transaction goes on.
    pub fn read(&self, id: BlockId) -> Result<Block> {
        self.store.read_block_in_tx(self.id, id)
    }

    /// Adds a write and returns the block's id.
    ///
    /// # Errors
    /// As [`StorageBackend::write_block_in_tx`]; the write was not added, the transaction goes on.
    pub fn write(&self, block: Block) -> Result<BlockId> {
        self.store.write_block_in_tx(self.id, block)
    }

    /// Adds a delete.
    ///
    /// # Errors
    /// As [`StorageBackend::delete_block_in_tx`]; the transaction goes on.
    pub fn delete(&self, id: BlockId) -> Result<()> {
        self.store.delete_block_in_tx(self.id, id)
    }

    /// Whether this transaction sees a block with this id.
    ///
    /// # Errors
    /// As [`StorageBackend::block_exists_in_tx`].
    pub fn exists(&self, id: BlockId) -> Result<bool> {
        self.store.block_exists_in_tx(self.id, id)
    }

    /// Walks the blocks in a range of ids as this transaction sees them, from either end. Otherwise
    /// as [`Transaction::ids`]; what the transaction deletes meanwhile is passed over.
    ///
    /// # Errors
    /// As [`Transaction::ids`].
    pub fn range(&self, range: impl RangeBounds<BlockId>) -> Result<Blocks<'_>> {
        Ok(Blocks::over_ids(self.ids(range)?))
    }

    /// Walks the ids of a range that this transaction sees, from either end. Ids are looked up page
    /// by page while they are walked: the first costs a look-up, whatever the store holds, and the
    /// walk holds some KiB. A block that the transaction writes after this call, and did not write
    /// or see before, is not walked to.
    ///
    /// A serializable transaction has read the part of the range that was looked up: never less
    /// than was walked, and less than twice as many ids. A read-committed one sees in each page
    /// what is committed then.
    ///
    /// # Errors
    /// - [`InvalidArgument`](crate::Error::InvalidArgument): the range ends before it starts.
    /// - as [`Transaction::exists`].
    ///
    /// The walk itself ends with an error:
    /// - [`Unsupported`](crate::Error::Unsupported): the backend cannot list ids.
    /// - [`Corrupt`](crate::Error::Corrupt): a part of the index is damaged.
    /// - as [`Transaction::exists`].
    ///
    /// # Examples
    /// ```
    /// use aegis_blocks::{Block, BlockId, BlockType, MemoryBackend, StorageExt};
    /// let store = MemoryBackend::new();
    /// let tx = store.begin()?;
    /// for id in [1, 5, 9] {
    ///     tx.write(Block::empty(BlockId(id), BlockType::IndexData))?;
    /// }
    /// let mut ids = tx.ids(BlockId(2)..)?;
    /// assert_eq!(ids.next().transpose()?, Some(BlockId(5)));
    /// assert_eq!(ids.next_back().transpose()?, Some(BlockId(9)));
    /// assert!(ids.next().is_none());
    /// # Ok::<(), aegis_blocks::Error>(())
    /// ```
    pub fn ids(&self, range: impl RangeBounds<BlockId>) -> Result<Ids<'_>> {
        Ids::over_borrowed_view(self, range)
    }

    /// The lowest id of a range that this transaction sees. Costs a look-up, however many there
    /// are.
    ///
    /// # Errors
    /// As [`Transaction::ids`] and its walk.
    pub fn first_in(&self, range: impl RangeBounds<BlockId>) -> Result<Option<BlockId>> {
        self.ids(range)?.next().transpose()
    }

    /// The highest id of a range that this transaction sees. Costs a look-up, however many there
    /// are.
    ///
    /// # Errors
    /// As [`Transaction::ids`] and its walk.
    pub fn last_in(&self, range: impl RangeBounds<BlockId>) -> Result<Option<BlockId>> {
        self.ids(range)?.next_back().transpose()
    }

    /// Marks a state to go back to. Savepoints nest.
    ///
    /// # Errors
    /// - [`Unsupported`](crate::Error::Unsupported): the backend has no savepoints.
    /// - as [`Transaction::exists`].
    pub fn savepoint(&self) -> Result<Savepoint> {
        self.store.savepoint_in_tx(self.id)
    }

    /// Undoes every write and delete since a savepoint, which stays; later ones are gone. What was
    /// read since still counts as read.
    ///
    /// # Errors
    /// - [`InvalidArgument`](crate::Error::InvalidArgument): the savepoint is another
    ///   transaction's, or was undone. Nothing is changed.
    /// - as [`Transaction::exists`].
    pub fn rollback_to(&self, savepoint: Savepoint) -> Result<()> {
        self.store.rollback_to_savepoint(self.id, savepoint)
    }

    /// Commits and returns the commit's LSN once it is as durable as the store's default asks.
    /// There is no LSN when the transaction changed nothing, as it then took no place in commit
    /// order, or when the backend does not tell.
    ///
    /// # Errors
    /// As [`StorageBackend::commit_transaction`]; in every case the transaction has ended.
    pub fn commit(self) -> Result<Option<Lsn>> {
        self.commit_with_durability(None)
    }

    /// Commits with a durability of its own.
    ///
    /// # Errors
    /// As [`Transaction::commit`].
    pub fn commit_with(self, durability: Durability) -> Result<Option<Lsn>> {
        self.commit_with_durability(Some(durability))
    }

    /// Submits the commit and returns a ticket for it.
    ///
    /// # Errors
    /// As [`Transaction::commit`], for what is known at once; the rest comes with the ticket.
    pub fn submit(self) -> Result<CommitTicket> {
        self.submit_with_durability(None).map(CommitTicket::announced)
    }

    /// Submits the commit, with a durability of its own, and returns a ticket for it.
    ///
    /// # Errors
    /// As [`Transaction::submit`].
    pub fn submit_with(self, durability: Durability) -> Result<CommitTicket> {
        self.submit_with_durability(Some(durability)).map(CommitTicket::announced)
    }

    /// Ends the transaction without a trace.
    ///
    /// # Errors
    /// - [`Closed`](crate::Error::Closed): the store was closed, and the transaction with it.
    /// - as [`StorageBackend::rollback_transaction`], when another call ended it by its id.
    pub fn rollback(mut self) -> Result<()> {
        self.open = false;
        self.store.rollback_transaction(self.id)
    }

    fn commit_with_durability(mut self, durability: Option<Durability>) -> Result<Option<Lsn>> {
        let committed = self.store.commit_transaction_with(self.id, durability);
        // A transaction that must not wait is still open, and is rolled back.
        self.open = matches!(committed, Err(Error::InCallback));
        committed
    }

    fn submit_with_durability(mut self, durability: Option<Durability>) -> Result<CommitTicket> {
        let submitted = self.store.submit_transaction(self.id, durability);
        // As above, by a backend that waits in there.
        self.open = matches!(submitted, Err(Error::InCallback));
        submitted
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if self.open && self.store.rollback_transaction(self.id).is_err() {
            // The store was closed, or another call ended the transaction by its id: it is over.
        }
    }
}
