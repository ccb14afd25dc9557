//! Batches: the operations of one transaction, in memory, on their way to a commit.
//!
//! Owns [`Operation`] and [`Batch`]. Invariant: a batch names an id at most once; the last operation
//! of the transaction on that id has won before.

use std::collections::BTreeSet;

use crate::block::{Block, BlockId, Lsn, TransactionId};

/// What happens to one id.
#[derive(Debug, Clone)]
pub(crate) enum Operation {
    /// The block is written; its header names the id.
    Write(Block),
    /// The block is deleted.
    Delete,
    /// The block's bytes are written again so that the segment they are in can go. The block stays
    /// what commit `lsn` made of it; if it is not any more, or not at its old place, nothing happens.
    Move {
        /// The block as it is.
        block: Block,
        /// The commit that made it so.
        lsn: Lsn,
        /// Where it was: the backend's own.
        from: u64,
    },
}

impl Operation {
    /// Payload bytes it carries.
    pub(crate) fn payload_len(&self) -> u64 {
        match self {
            Operation::Write(block) | Operation::Move { block, .. } => block.data.len() as u64,
            Operation::Delete => 0,
        }
    }
}

/// What must hold at the batch's place in commit order for it to be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Precondition {
    /// Nothing: a write takes its place.
    None,
    /// These ids exist there.
    Exist(Vec<BlockId>),
    /// No id that it names was changed after this snapshot.
    UnchangedSince(Lsn),
}

/// What a serializable transaction has read, present or absent.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    pub(crate) ids: BTreeSet<BlockId>,
    /// First and last id of each range.
    pub(crate) ranges: Vec<(BlockId, BlockId)>,
}

/// The operations of one transaction and the condition under which they apply.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) operations: Vec<(BlockId, Operation)>,
    pub(crate) precondition: Precondition,
    /// Checked as the operations are, with [`Precondition::UnchangedSince`].
    pub(crate) reads: Option<Box<Reads>>,
    /// The transaction that ends with this commit.
    pub(crate) transaction: Option<TransactionId>,
}

impl Batch {
    /// A single write outside any transaction.
    pub(crate) fn write(block: Block) -> Batch {
        Batch {
            operations: vec![(block.header.block_id, Operation::Write(block))],
            precondition: Precondition::None,
            reads: None,
            transaction: None,
        }
    }

    /// Moves of blocks that are to leave a segment.
    pub(crate) fn moves(operations: Vec<(BlockId, Operation)>) -> Batch {
        Batch { operations, precondition: Precondition::None, reads: None, transaction: None }
    }

    /// Whether it moves blocks, and so changes nothing that a user sees.
    pub(crate) fn is_move(&self) -> bool {
        matches!(self.operations.first(), Some((_, Operation::Move { .. })))
    }

    /// Whether it makes space rather than taking it: deletes and moves only, or nothing at all.
    pub(crate) fn frees(&self) -> bool {
        !self.operations.iter().any(|(_, operation)| matches!(operation, Operation::Write(_)))
    }

    /// No operations: what asks for a sync.
    pub(crate) fn empty() -> Batch {
        Batch {
            operations: Vec::new(),
            precondition: Precondition::None,
            reads: None,
            transaction: None,
        }
    }

    /// A single delete outside any transaction.
    pub(crate) fn delete(id: BlockId) -> Batch {
        Batch {
            operations: vec![(id, Operation::Delete)],
            precondition: Precondition::Exist(vec![id]),
            reads: None,
            transaction: None,
        }
    }
}
