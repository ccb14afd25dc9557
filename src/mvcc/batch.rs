//! Batches: the operations of one transaction, in memory, on their way to a commit.
//!
//! Owns [`Operation`] and [`Batch`]. Invariant: a batch names an id at most once; the last
//! operation of the transaction on that id has won before.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::block::{Block, BlockId, Lsn, TransactionId};

/// An operation on one id.
#[derive(Debug, Clone)]
pub(crate) enum Operation {
    /// The block is written; its header names the id.
    Write(Block),
    /// The block is deleted.
    Delete,
    /// The block's bytes are written again so that their segment can go. The block stays what
    /// commit `lsn` made of it. If it is not that any more, or not at its old place, nothing
    /// happens. A version that only snapshots see is relocated, too: `is_old` then.
    Move {
        /// The block as it is.
        block: Block,
        /// The commit that made it so.
        lsn: Lsn,
        /// Where it was: the backend's own.
        from: u64,
        /// Whether another commit has replaced it since.
        is_old: bool,
    },
}

impl Operation {
    /// Whether it changes a block's place only.
    pub(crate) fn is_relocation(&self) -> bool {
        matches!(self, Operation::Move { .. })
    }

    /// The payload that it carries.
    pub(crate) fn payload(&self) -> Option<&Bytes> {
        match self {
            Operation::Write(block) | Operation::Move { block, .. } => Some(&block.data),
            Operation::Delete => None,
        }
    }

    /// Payload bytes it carries.
    pub(crate) fn payload_len(&self) -> u64 {
        self.payload().map_or(0, |payload| payload.len() as u64)
    }
}

/// The condition at the batch's place in commit order under which it is applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Precondition {
    /// Nothing: a write takes its place.
    None,
    /// These ids exist there.
    Exist(Vec<BlockId>),
    /// No id that it names was changed after this snapshot.
    UnchangedSince(Lsn),
}

/// The ids that a serializable transaction has read, present or absent.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    pub(crate) ids: BTreeSet<BlockId>,
    /// First and last id of each range. None overlaps another or begins right behind it.
    pub(crate) ranges: BTreeMap<BlockId, BlockId>,
}

impl Reads {
    /// Adds a range to those that were listed. The pages of one scan become one range.
    pub(crate) fn add_range(&mut self, mut first: BlockId, mut last: BlockId) {
        if first > last {
            return;
        }
        let reach = BlockId(last.0.saturating_add(1));
        while let Some((from, to)) = self.ranges.range(..=reach).next_back() {
            if to.0.saturating_add(1) < first.0 {
                break;
            }
            let from = *from;
            (first, last) = (first.min(from), last.max(*to));
            self.ranges.remove(&from);
        }
        self.ranges.insert(first, last);
    }
}

/// The operations of one transaction and the condition under which they apply.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) operations: Vec<(BlockId, Operation)>,
    pub(crate) precondition: Precondition,
    /// Checked as the operations are, with [`Precondition::UnchangedSince`].
    pub(crate) reads: Option<Box<Reads>>,
    /// Ids that were allocated for it. If a block has one there, the batch is refused. Empty where
    /// the precondition says so anyway.
    pub(crate) allocated: Vec<BlockId>,
    /// The transaction that ends with this commit.
    pub(crate) transaction: Option<TransactionId>,
}

impl Batch {
    /// Operations outside any transaction.
    pub(crate) fn with_precondition(
        operations: Vec<(BlockId, Operation)>,
        precondition: Precondition,
    ) -> Batch {
        Batch { operations, precondition, reads: None, allocated: Vec::new(), transaction: None }
    }

    /// A single write outside any transaction.
    pub(crate) fn of_single_write(block: Block) -> Batch {
        let operations = vec![(block.header.block_id, Operation::Write(block))];
        Batch::with_precondition(operations, Precondition::None)
    }

    /// Relocations of blocks out of a segment.
    pub(crate) fn of_relocations(operations: Vec<(BlockId, Operation)>) -> Batch {
        Batch::with_precondition(operations, Precondition::None)
    }

    /// Whether it relocates blocks, and so changes nothing that a user sees.
    pub(crate) fn is_relocation_batch(&self) -> bool {
        self.operations.first().is_some_and(|(_, operation)| operation.is_relocation())
    }

    /// Whether it reclaims space rather than taking it: deletes and relocations only, or nothing.
    pub(crate) fn takes_no_space(&self) -> bool {
        !self.operations.iter().any(|(_, operation)| matches!(operation, Operation::Write(_)))
    }

    /// No operations: a request for a sync.
    pub(crate) fn without_operations() -> Batch {
        Batch::with_precondition(Vec::new(), Precondition::None)
    }

    /// A single delete outside any transaction.
    pub(crate) fn of_single_delete(id: BlockId) -> Batch {
        Batch::with_precondition(vec![(id, Operation::Delete)], Precondition::Exist(vec![id]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_touch_become_one() {
        let mut reads = Reads::default();
        let add = |reads: &mut Reads, ranges: &[(u64, u64)]| {
            ranges
                .iter()
                .for_each(|(first, last)| reads.add_range(BlockId(*first), BlockId(*last)));
            reads.ranges.iter().map(|(first, last)| (first.0, last.0)).collect::<Vec<_>>()
        };
        assert_eq!(add(&mut reads, &[(10, 19), (30, 39), (20, 20)]), [(10, 20), (30, 39)]);
        assert_eq!(add(&mut reads, &[(5, 8), (40, 40), (9, 8)]), [(5, 8), (10, 20), (30, 40)]);
        assert_eq!(add(&mut reads, &[(8, 35)]), [(5, 40)]);
        assert_eq!(add(&mut reads, &[(0, 3), (50, u64::MAX)]), [(0, 3), (5, 40), (50, u64::MAX)]);
        assert_eq!(add(&mut reads, &[(4, 4), (41, u64::MAX)]), [(0, u64::MAX)]);
    }
}
