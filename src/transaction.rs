//! Transactions that people hold: one handle over any backend.
//!
//! Owns [`Transaction`] (rolled back when dropped), [`Snapshot`], [`WriteBatch`], the isolation levels
//! and the retry loop. Written once, over the ids of [`StorageBackend`]; all checks on ids are the
//! backend's. A finished transaction cannot be used again: `commit` and `rollback` consume it.

use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use crate::backend::{Durability, StorageBackend};
use crate::block::{Block, BlockId, Lsn, TransactionId};
use crate::error::{Error, Result};
use crate::ticket::CommitTicket;

/// What a transaction sees of others, and what it conflicts with.
///
/// | level           | reads                  | a commit conflicts when, since begin, another commit changed |
/// |-----------------|------------------------|--------------------------------------------------------------|
/// | `ReadCommitted` | the newest commit      | nothing                                                      |
/// | `Snapshot`      | as of begin            | a block that this one writes                                 |
/// | `Serializable`  | as of begin            | a block or range that this one writes or, if it writes, read |
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
    pub(crate) transaction: TransactionId,
    pub(crate) serial: u64,
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
    /// Begins a transaction.
    ///
    /// # Errors
    /// - [`Error::Closed`]: the store was closed.
    /// - [`Error::Unsupported`]: the backend does not offer this isolation level.
    pub fn begin(store: Arc<dyn StorageBackend>, isolation: IsolationLevel) -> Result<Transaction> {
        let id = store.begin_transaction_at(isolation)?;
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

    /// Walks the blocks in a range of ids as this transaction sees them, from either end.
    ///
    /// # Errors
    /// - [`Error::InvalidArgument`]: the range ends before it starts.
    /// - [`Error::Unsupported`]: the backend cannot list ids.
    /// - as [`Transaction::exists`].
    pub fn range(&self, range: impl RangeBounds<BlockId>) -> Result<Blocks<'_>> {
        let ids = match inclusive(range)? {
            Some((first, last)) => self.store.ids_in_tx(self.id, first, last)?,
            None => Vec::new(),
        };
        Ok(Blocks { transaction: self, ids: ids.into_iter(), failed: None })
    }

    /// Marks a state to go back to. Savepoints nest.
    ///
    /// # Errors
    /// - [`Error::Unsupported`]: the backend has no savepoints.
    pub fn savepoint(&self) -> Result<Savepoint> {
        self.store.savepoint_in_tx(self.id)
    }

    /// Undoes every write and delete since a savepoint, which stays; later ones are gone. What was
    /// read since still counts as read.
    ///
    /// # Errors
    /// - [`Error::InvalidArgument`]: the savepoint is another transaction's, or was undone. Nothing
    ///   is changed.
    pub fn rollback_to(&self, savepoint: Savepoint) -> Result<()> {
        self.store.rollback_to_savepoint(self.id, savepoint)
    }

    /// Commits and returns the LSN once the commit is as durable as the store's default asks.
    ///
    /// # Errors
    /// As [`StorageBackend::commit_transaction`]; in every case the transaction has ended.
    pub fn commit(self) -> Result<Lsn> {
        self.submit_as(None)?.wait()
    }

    /// Commits with a durability of its own.
    ///
    /// # Errors
    /// As [`Transaction::commit`].
    pub fn commit_with(self, durability: Durability) -> Result<Lsn> {
        self.submit_as(Some(durability))?.wait()
    }

    /// Hands the commit in and returns a ticket for it.
    ///
    /// # Errors
    /// As [`Transaction::commit`], for what is known at once; the rest comes with the ticket.
    pub fn submit(self) -> Result<CommitTicket> {
        self.submit_as(None).map(CommitTicket::announced)
    }

    /// Ends the transaction without a trace.
    ///
    /// # Errors
    /// - [`Error::Closed`]: the store was closed, and the transaction with it.
    pub fn rollback(mut self) -> Result<()> {
        self.open = false;
        self.store.rollback_transaction(self.id)
    }

    fn submit_as(mut self, durability: Option<Durability>) -> Result<CommitTicket> {
        self.open = false;
        self.store.submit_transaction(self.id, durability)
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if self.open && self.store.rollback_transaction(self.id).is_err() {
            // The store was closed, or somebody ended the transaction by its id: it is over.
        }
    }
}

/// The blocks of a range, in order of their ids; after an error only that error's end.
#[derive(Debug)]
pub struct Blocks<'a> {
    transaction: &'a Transaction,
    ids: std::vec::IntoIter<BlockId>,
    failed: Option<()>,
}

impl Blocks<'_> {
    fn fetch(&mut self, id: Option<BlockId>) -> Option<Result<Block>> {
        let id = id.filter(|_| self.failed.is_none())?;
        let block = self.transaction.read(id);
        self.failed = block.is_err().then_some(());
        Some(block)
    }
}

impl Iterator for Blocks<'_> {
    type Item = Result<Block>;

    fn next(&mut self) -> Option<Result<Block>> {
        let id = self.ids.next();
        self.fetch(id)
    }
}

impl DoubleEndedIterator for Blocks<'_> {
    fn next_back(&mut self) -> Option<Result<Block>> {
        let id = self.ids.next_back();
        self.fetch(id)
    }
}

/// A fixed view of a store while writers go on. It keeps the older version of each block that is
/// changed meanwhile, until it is dropped.
#[derive(Debug)]
pub struct Snapshot(Transaction);

impl Snapshot {
    /// Reads a block as of the snapshot.
    ///
    /// # Errors
    /// As [`StorageBackend::read_block`].
    pub fn read(&self, id: BlockId) -> Result<Block> {
        self.0.read(id)
    }

    /// Whether a block existed.
    ///
    /// # Errors
    /// As [`StorageBackend::block_exists`].
    pub fn exists(&self, id: BlockId) -> Result<bool> {
        self.0.exists(id)
    }

    /// Walks the blocks in a range of ids, from either end.
    ///
    /// # Errors
    /// As [`Transaction::range`].
    pub fn range(&self, range: impl RangeBounds<BlockId>) -> Result<Blocks<'_>> {
        self.0.range(range)
    }
}

/// Writes and deletes that are applied together, without a transaction: no snapshot is held and
/// nothing conflicts. The last operation on an id wins.
///
/// # Examples
/// ```
/// use aegis_blocks::{Block, BlockId, BlockType, MemoryBackend, StorageBackend, WriteBatch};
/// let store = MemoryBackend::new();
/// let mut batch = WriteBatch::new();
/// batch.write(Block::new(BlockId(1), BlockType::TableData, "one"));
/// batch.write(Block::new(BlockId(0), BlockType::TableData, "any"));
/// let ids = store.apply(batch)?;
/// assert_eq!(ids[0], BlockId(1));
/// # Ok::<(), aegis_blocks::Error>(())
/// ```
#[derive(Default, Clone)]
pub struct WriteBatch {
    pub(crate) operations: Vec<BatchOperation>,
}

#[derive(Debug, Clone)]
pub(crate) enum BatchOperation {
    Write(Block),
    Delete(BlockId),
}

/// Without its blocks, as every handle prints itself.
impl std::fmt::Debug for WriteBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriteBatch").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl WriteBatch {
    /// Makes an empty batch.
    pub fn new() -> WriteBatch {
        WriteBatch::default()
    }

    /// Adds a write; `BlockId(0)` asks for an id.
    pub fn write(&mut self, block: Block) -> &mut WriteBatch {
        self.operations.push(BatchOperation::Write(block));
        self
    }

    /// Adds a delete.
    pub fn delete(&mut self, id: BlockId) -> &mut WriteBatch {
        self.operations.push(BatchOperation::Delete(id));
        self
    }

    /// Operations added so far.
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }
}

/// How often [`StorageExt::transact`] runs its closure before it gives up.
pub const TRANSACT_TRIES_MAX: u32 = 64;

/// Transactions as handles, for every backend that can be cloned, and for `Arc<dyn StorageBackend>`.
pub trait StorageExt {
    /// A handle to the store, for transactions to keep.
    fn shared(&self) -> Arc<dyn StorageBackend>;

    /// Begins a transaction on a snapshot of what is committed now.
    ///
    /// # Errors
    /// As [`Transaction::begin`].
    fn begin(&self) -> Result<Transaction> {
        self.begin_at(IsolationLevel::Snapshot)
    }

    /// Begins a transaction with an isolation level of its own.
    ///
    /// # Errors
    /// As [`Transaction::begin`].
    fn begin_at(&self, isolation: IsolationLevel) -> Result<Transaction> {
        Transaction::begin(self.shared(), isolation)
    }

    /// Holds a fixed view of what is committed now.
    ///
    /// # Errors
    /// As [`Transaction::begin`].
    fn snapshot(&self) -> Result<Snapshot> {
        self.begin().map(Snapshot)
    }

    /// Runs `body` in a transaction and commits it. On [`Error::Conflict`], of the commit or of
    /// `body`, **`body` runs again** in a new transaction, after a pause that grows with the tries,
    /// at most [`TRANSACT_TRIES_MAX`] times: it must have no effects outside the transaction. Any
    /// other error rolls back and is returned.
    ///
    /// # Errors
    /// The errors of `body`; [`Error::Conflict`] when every try lost; as [`Transaction::commit`].
    ///
    /// # Examples
    /// ```
    /// use aegis_blocks::{Block, BlockId, BlockType, IsolationLevel, MemoryBackend, StorageExt};
    /// let store = MemoryBackend::new();
    /// let id = store.transact(IsolationLevel::Serializable, |tx| {
    ///     tx.write(Block::new(BlockId(0), BlockType::TableData, "row"))
    /// })?;
    /// assert_eq!(&store.snapshot()?.read(id)?.data[..], b"row");
    /// # Ok::<(), aegis_blocks::Error>(())
    /// ```
    fn transact<R>(
        &self,
        isolation: IsolationLevel,
        mut body: impl FnMut(&Transaction) -> Result<R>,
    ) -> Result<R> {
        let mut pause = BackOff::new();
        for tries in 1.. {
            let transaction = self.begin_at(isolation)?;
            let result = body(&transaction).and_then(|result| transaction.commit().map(|_| result));
            match result {
                Err(error) if error.is_retryable() && tries < TRANSACT_TRIES_MAX => pause.rest(),
                other => return other,
            }
        }
        Err(Error::Closed)
    }
}

impl<B: StorageBackend + Clone + 'static> StorageExt for B {
    fn shared(&self) -> Arc<dyn StorageBackend> {
        Arc::new(self.clone())
    }
}

impl StorageExt for Arc<dyn StorageBackend> {
    fn shared(&self) -> Arc<dyn StorageBackend> {
        Arc::clone(self)
    }
}

/// A pause that doubles, of a random length below its bound, so that losers do not meet again.
struct BackOff {
    bound: u32,
    state: u64,
}

impl BackOff {
    fn new() -> BackOff {
        // The address differs between threads; that is all the randomness this needs.
        let here = 0u8;
        BackOff { bound: 1, state: std::ptr::from_ref(&here).addr() as u64 | 1 }
    }

    fn rest(&mut self) {
        // Marsaglia's xorshift64.
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        for _ in 0..self.state % u64::from(self.bound) {
            crate::io::os::pause_thread();
        }
        self.bound = (self.bound * 2).min(256);
    }
}

/// The first and last id of a range; `None` when it is empty.
pub(crate) fn inclusive(range: impl RangeBounds<BlockId>) -> Result<Option<(BlockId, BlockId)>> {
    let first = match range.start_bound() {
        Bound::Included(id) => Some(*id),
        Bound::Excluded(id) => id.0.checked_add(1).map(BlockId),
        Bound::Unbounded => Some(BlockId(0)),
    };
    let last = match range.end_bound() {
        Bound::Included(id) => Some(*id),
        Bound::Excluded(id) => id.0.checked_sub(1).map(BlockId),
        Bound::Unbounded => Some(BlockId(u64::MAX)),
    };
    let (Some(first), Some(last)) = (first, last) else { return Ok(None) };
    if first.0 > last.0.saturating_add(1) {
        let reason = "the range ends before it starts";
        return Err(Error::InvalidArgument { argument: "range", reason });
    }
    Ok((first <= last).then_some((first, last)))
}
