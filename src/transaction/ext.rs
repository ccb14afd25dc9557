//! Transactions as handles for every backend, and the loop that runs a closure again on conflict.
//!
//! Owns [`StorageExt`]. Nothing here is a backend's to implement.

use std::ops::RangeBounds;
use std::sync::Arc;
use std::time::Duration;

use super::rival::Rival;
#[cfg(doc)]
use super::rival::TRANSACT_TRIES_MAX;
use super::{Blocks, Ids, IsolationLevel, Snapshot, Transaction};
use crate::backend::StorageBackend;
use crate::block::BlockId;
use crate::error::{Error, Result};

/// How long [`StorageExt::begin`] waits where as many transactions are open as may be. Commits
/// under way end within milliseconds. A caller that waits longer than this has most likely
/// forgotten open transactions of its own.
pub const BEGIN_WAIT_MAX: Duration = Duration::from_secs(1);

/// Transactions as handles, for every backend that can be cloned, and for `Arc<dyn
/// StorageBackend>`.
pub trait StorageExt {
    /// A handle to the store, for transactions to keep.
    fn shared(&self) -> Arc<dyn StorageBackend>;

    /// Begins a transaction on a snapshot of what is committed now. Where as many are open as may
    /// be, waits up to [`BEGIN_WAIT_MAX`] for one to end, as commits under way do.
    ///
    /// # Errors
    /// As [`Transaction::begin`].
    fn begin(&self) -> Result<Transaction> {
        self.begin_at(IsolationLevel::Snapshot)
    }

    /// Begins a transaction with an isolation level of its own. Waits as [`StorageExt::begin`].
    ///
    /// # Errors
    /// As [`Transaction::begin`].
    fn begin_at(&self, isolation: IsolationLevel) -> Result<Transaction> {
        Transaction::begin(self.shared(), isolation, BEGIN_WAIT_MAX)
    }

    /// Begins a transaction on a snapshot of what is committed now, and never waits.
    ///
    /// # Errors
    /// - [`Error::TooManyTransactions`]: as many are open as may be; nothing was begun.
    /// - as [`Transaction::begin`].
    fn try_begin(&self) -> Result<Transaction> {
        self.begin_timeout(Duration::ZERO)
    }

    /// Begins a transaction on a snapshot of what is committed now, waiting up to `timeout` where
    /// as many are open as may be.
    ///
    /// # Errors
    /// As [`Transaction::begin`].
    fn begin_timeout(&self, timeout: Duration) -> Result<Transaction> {
        Transaction::begin(self.shared(), IsolationLevel::Snapshot, timeout)
    }

    /// Holds a fixed view of what is committed now. Counts as an open transaction.
    ///
    /// # Errors
    /// As [`StorageExt::begin`].
    fn snapshot(&self) -> Result<Snapshot> {
        self.begin().map(Snapshot::of)
    }

    /// Walks the blocks in a range of ids as of now, from either end, while writers go on. The
    /// iterator holds the snapshot and some KiB; it is an open transaction until it is dropped.
    ///
    /// # Errors
    /// As [`StorageExt::begin`] and [`Transaction::range`].
    ///
    /// # Examples
    /// ```
    /// use aegis_blocks::{Block, BlockId, BlockType, MemoryBackend, StorageBackend, StorageExt};
    /// let store = MemoryBackend::new();
    /// for id in 1..=3 {
    ///     store.write_block(Block::empty(BlockId(id), BlockType::TableData))?;
    /// }
    /// let mut blocks = store.blocks(BlockId(2)..)?;
    /// store.delete_block(BlockId(3))?;
    /// let last = blocks.next_back().transpose()?;
    /// assert_eq!(last.map(|block| block.header.block_id), Some(BlockId(3)));
    /// assert_eq!(blocks.next().transpose()?.map(|block| block.header.block_id), Some(BlockId(2)));
    /// assert!(blocks.next().is_none());
    /// # Ok::<(), aegis_blocks::Error>(())
    /// ```
    fn blocks(&self, range: impl RangeBounds<BlockId>) -> Result<Blocks<'static>> {
        Ok(Blocks::over_ids(self.ids_in(range)?))
    }

    /// Walks the ids in a range as of now, from either end, while writers go on. Otherwise as
    /// [`StorageExt::blocks`].
    ///
    /// # Errors
    /// As [`StorageExt::begin`] and [`Transaction::ids`].
    fn ids_in(&self, range: impl RangeBounds<BlockId>) -> Result<Ids<'static>> {
        Ids::over_owned_view(self.begin()?, range)
    }

    /// The lowest id in a range as of now. Costs a look-up, however many blocks there are.
    ///
    /// # Errors
    /// As [`StorageExt::ids_in`], and those of its walk.
    ///
    /// # Examples
    /// ```
    /// use aegis_blocks::{Block, BlockId, BlockType, MemoryBackend, StorageBackend, StorageExt};
    /// let store = MemoryBackend::new();
    /// store.write_block(Block::empty(BlockId(7), BlockType::TableData))?;
    /// assert_eq!(store.first_in(BlockId(3)..)?, Some(BlockId(7)));
    /// assert_eq!(store.last_in(..BlockId(7))?, None);
    /// # Ok::<(), aegis_blocks::Error>(())
    /// ```
    fn first_in(&self, range: impl RangeBounds<BlockId>) -> Result<Option<BlockId>> {
        self.begin()?.first_in(range)
    }

    /// The highest id in a range as of now. Costs a look-up, however many blocks there are.
    ///
    /// # Errors
    /// As [`StorageExt::first_in`].
    fn last_in(&self, range: impl RangeBounds<BlockId>) -> Result<Option<BlockId>> {
        self.begin()?.last_in(range)
    }

    /// Runs `body` in a transaction and commits it. On [`Error::Conflict`], of the commit or of
    /// `body`, **`body` runs again** in a new transaction, at most [`TRANSACT_TRIES_MAX`] times: it
    /// must have no effects outside the transaction. Any other error rolls back and is returned.
    ///
    /// Among threads that all change the same blocks every call gets through. One that lost four
    /// times waits for its *turn*, first come first served: while it runs, commits of others that
    /// would make it lose wait: each for at most a second, and all of them for at most a twentieth
    /// of the time. A body that takes longer, or waits for a thread that commits to the same
    /// blocks, loses its turn and waits for the next.
    ///
    /// # Errors
    /// The errors of `body`; [`Error::Conflict`] when every try lost, as bodies may that run for
    /// seconds; as [`Transaction::commit`].
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
        let store = self.shared();
        let mut rival = Rival::new(store.turns());
        loop {
            let transaction = Transaction::begin(Arc::clone(&store), isolation, BEGIN_WAIT_MAX)?;
            rival.note_try_begins(transaction.id());
            let result = body(&transaction).and_then(|result| transaction.commit().map(|_| result));
            match result {
                Err(Error::Conflict { id, .. }) if rival.may_try_again() => {
                    rival.wait_after_loss(id)
                }
                other => return other,
            }
        }
    }
}

impl<B: StorageBackend + Clone + 'static> StorageExt for B {
    fn shared(&self) -> Arc<dyn StorageBackend> {
        self.handle().unwrap_or_else(|| Arc::new(self.clone()))
    }
}

impl StorageExt for Arc<dyn StorageBackend> {
    fn shared(&self) -> Arc<dyn StorageBackend> {
        (**self).handle().unwrap_or_else(|| Arc::clone(self))
    }
}
