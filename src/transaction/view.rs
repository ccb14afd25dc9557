//! Views: blocks in order of their ids, and a store as of one moment.
//!
//! Owns [`Snapshot`] and [`Blocks`], the iterator over a range. Invariant: an iterator that has
//! failed stays at its end.

use std::iter::FusedIterator;
use std::ops::RangeBounds;

use super::{Ids, Transaction};
use crate::block::{Block, BlockId};
use crate::error::{Error, Result};

/// The blocks of a range, in order of their ids, from either end. After an error it is at its end.
#[derive(Debug)]
pub struct Blocks<'a> {
    ids: Ids<'a>,
}

impl<'a> Blocks<'a> {
    pub(super) fn over_ids(ids: Ids<'a>) -> Blocks<'a> {
        Blocks { ids }
    }

    /// Reads a block; `None` when its own transaction deleted it meanwhile.
    fn read_if_present(&mut self, id: Result<BlockId>) -> Option<Result<Block>> {
        let block = id.and_then(|id| self.ids.viewed_transaction().read(id));
        match &block {
            Err(Error::BlockNotFound { .. }) => return None,
            Err(_) => self.ids.finish_early(),
            Ok(_) => {}
        }
        Some(block)
    }
}

impl Iterator for Blocks<'_> {
    type Item = Result<Block>;

    fn next(&mut self) -> Option<Result<Block>> {
        loop {
            let id = self.ids.next()?;
            if let Some(block) = self.read_if_present(id) {
                return Some(block);
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, self.ids.size_hint().1)
    }
}

impl DoubleEndedIterator for Blocks<'_> {
    fn next_back(&mut self) -> Option<Result<Block>> {
        loop {
            let id = self.ids.next_back()?;
            if let Some(block) = self.read_if_present(id) {
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
    /// Walks the ids of a range, from either end, as [`Transaction::ids`].
    ///
    /// # Errors
    /// As [`Transaction::ids`].
    pub fn ids(&self, range: impl RangeBounds<BlockId>) -> Result<Ids<'_>> {
        self.0.ids(range)
    }

    /// The lowest id of a range. Costs a look-up, however many there are.
    ///
    /// # Errors
    /// As [`Transaction::first_in`].
    pub fn first_in(&self, range: impl RangeBounds<BlockId>) -> Result<Option<BlockId>> {
        self.0.first_in(range)
    }

    /// The highest id of a range. Costs a look-up, however many there are.
    ///
    /// # Errors
    /// As [`Transaction::first_in`].
    pub fn last_in(&self, range: impl RangeBounds<BlockId>) -> Result<Option<BlockId>> {
        self.0.last_in(range)
    }
}
