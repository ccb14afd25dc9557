//! Views: blocks in order of their ids, and a store as of one moment.
//!
//! Owns [`Snapshot`] and [`Blocks`], the iterator over a range. Invariant: an iterator that has failed
//! stays at its end.

use std::iter::FusedIterator;
use std::ops::{Bound, RangeBounds};

use super::Transaction;
use crate::block::{Block, BlockId};
use crate::error::{Error, Result};

/// The blocks of a range, in order of their ids, from either end. After an error it is at its end.
#[derive(Debug)]
pub struct Blocks<'a> {
    view: Hold<'a>,
    ids: std::vec::IntoIter<BlockId>,
}

/// Whose view is walked.
#[derive(Debug)]
enum Hold<'a> {
    Borrowed(&'a Transaction),
    /// Boxed, so that the other kind is not as large.
    Owned(Box<Transaction>),
}

impl Hold<'_> {
    fn transaction(&self) -> &Transaction {
        match self {
            Hold::Borrowed(transaction) => transaction,
            Hold::Owned(transaction) => transaction,
        }
    }
}

impl<'a> Blocks<'a> {
    pub(super) fn of(
        transaction: &'a Transaction,
        range: impl RangeBounds<BlockId>,
    ) -> Result<Blocks<'a>> {
        let ids = ids_of(transaction, range)?;
        Ok(Blocks { view: Hold::Borrowed(transaction), ids: ids.into_iter() })
    }

    /// Reads a block; `None` when it was deleted since the ids were listed.
    fn read(&mut self, id: BlockId) -> Option<Result<Block>> {
        let block = self.view.transaction().read(id);
        match &block {
            Err(Error::BlockNotFound { .. }) => return None,
            Err(_) => self.ids = Vec::new().into_iter(),
            Ok(_) => {}
        }
        Some(block)
    }
}

impl Blocks<'static> {
    /// The blocks of a view that nobody else holds.
    pub(super) fn owning(
        transaction: Transaction,
        range: impl RangeBounds<BlockId>,
    ) -> Result<Blocks<'static>> {
        let ids = ids_of(&transaction, range)?;
        Ok(Blocks { view: Hold::Owned(Box::new(transaction)), ids: ids.into_iter() })
    }
}

impl Iterator for Blocks<'_> {
    type Item = Result<Block>;

    fn next(&mut self) -> Option<Result<Block>> {
        loop {
            let id = self.ids.next()?;
            if let Some(block) = self.read(id) {
                return Some(block);
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.ids.len()))
    }
}

impl DoubleEndedIterator for Blocks<'_> {
    fn next_back(&mut self) -> Option<Result<Block>> {
        loop {
            let id = self.ids.next_back()?;
            if let Some(block) = self.read(id) {
                return Some(block);
            }
        }
    }
}

impl FusedIterator for Blocks<'_> {}

/// A fixed view of a store while writers go on. It keeps the older version of each block that is
/// changed meanwhile, until it is dropped or is over a limit of the store on snapshots.
#[derive(Debug)]
pub struct Snapshot(Transaction);

impl Snapshot {
    pub(super) fn of(transaction: Transaction) -> Snapshot {
        Snapshot(transaction)
    }

    /// Reads a block as of the snapshot.
    ///
    /// # Errors
    /// As [`StorageBackend::read_block_in_tx`](crate::StorageBackend::read_block_in_tx).
    pub fn read(&self, id: BlockId) -> Result<Block> {
        self.0.read(id)
    }

    /// Whether a block existed.
    ///
    /// # Errors
    /// As [`StorageBackend::block_exists_in_tx`](crate::StorageBackend::block_exists_in_tx).
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

fn ids_of(transaction: &Transaction, range: impl RangeBounds<BlockId>) -> Result<Vec<BlockId>> {
    match inclusive(range)? {
        Some((first, last)) => transaction.store.ids_in_tx(transaction.id, first, last),
        None => Ok(Vec::new()),
    }
}

/// The first and last id of a range; `None` when it is empty.
pub(crate) fn inclusive(range: impl RangeBounds<BlockId>) -> Result<Option<(BlockId, BlockId)>> {
    use Bound::{Excluded, Included, Unbounded};
    let (start, end) = (range.start_bound(), range.end_bound());
    if let (Included(start) | Excluded(start), Included(end) | Excluded(end)) = (start, end)
        && start > end
    {
        let reason = "the range ends before it starts";
        return Err(Error::InvalidArgument { argument: "range", reason });
    }
    let first = match start {
        Included(id) => Some(*id),
        Excluded(id) => id.0.checked_add(1).map(BlockId),
        Unbounded => Some(BlockId(0)),
    };
    let last = match end {
        Included(id) => Some(*id),
        Excluded(id) => id.0.checked_sub(1).map(BlockId),
        Unbounded => Some(BlockId(u64::MAX)),
    };
    Ok(first.zip(last).filter(|(first, last)| first <= last))
}
