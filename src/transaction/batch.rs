//! Batches that people make: writes and deletes for [`StorageBackend::apply`].
//!
//! Owns the operations in the order in which they were added; checks nothing.
//!
//! [`StorageBackend::apply`]: crate::StorageBackend::apply

use crate::block::{Block, BlockId};

/// Writes and deletes that are applied together, without a transaction: no snapshot is held and
/// nothing conflicts.
///
/// The operations take effect as if one after the other, so the last one on an id wins. A block
/// that the batch wrote can be deleted by it, and leaves nothing; a delete of a block that is
/// neither there nor written before it in the batch refuses the whole batch.
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
    operations: Vec<BatchOperation>,
}

/// Without its blocks, as every handle prints itself.
impl std::fmt::Debug for WriteBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriteBatch").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// One operation of a [`WriteBatch`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum BatchOperation {
    /// The block is written; `BlockId(0)` asks for an id.
    Write(Block),
    /// The block is deleted.
    Delete(BlockId),
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

    /// The operations, in the order in which they were added.
    pub fn operations(&self) -> &[BatchOperation] {
        &self.operations
    }

    /// Whether a write asks for an id.
    pub(crate) fn allocates_ids(&self) -> bool {
        self.operations.iter().any(|operation| operation.id() == BlockId(0))
    }

    /// The ids that it names.
    pub(crate) fn named_ids(&self) -> impl Iterator<Item = BlockId> {
        self.operations.iter().map(BatchOperation::id).filter(|id| *id != BlockId(0))
    }
}

impl BatchOperation {
    /// The id that it names; 0 where it asks for one.
    fn id(&self) -> BlockId {
        match self {
            BatchOperation::Write(block) => block.header.block_id,
            BatchOperation::Delete(id) => *id,
        }
    }
}

/// The operations, in the order in which they were added; for backends that apply them.
impl IntoIterator for WriteBatch {
    type Item = BatchOperation;
    type IntoIter = std::vec::IntoIter<BatchOperation>;

    fn into_iter(self) -> Self::IntoIter {
        self.operations.into_iter()
    }
}
