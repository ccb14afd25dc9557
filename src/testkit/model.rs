//! The contract as a map: the blocks a store must hold, and the outcome of a commit.
//!
//! Owns [`Model`] and [`ModelTransaction`]. Single-threaded and obvious on purpose: a snapshot is a
//! copy of the whole map. Shares no code with any backend, so that it can judge them.

use std::collections::{BTreeMap, BTreeSet};

use crate::block::{Block, BlockId};

/// The blocks that a store must hold, and when each last changed.
///
/// # Examples
/// ```
/// use aegis_blocks::testkit::Model;
/// use aegis_blocks::{Block, BlockId, BlockType};
/// let mut model = Model::default();
/// let mut tx = model.begin();
/// tx.write(Block::new(BlockId(1), BlockType::TableData, "late"));
/// model.write(Block::new(BlockId(1), BlockType::TableData, "early"));
/// assert!(model.verdict(&tx).must_conflict());
/// assert_eq!(&model.read(1).expect("was written").data[..], b"early");
/// ```
#[derive(Debug, Clone, Default)]
pub struct Model {
    blocks: BTreeMap<u64, Block>,
    changed: BTreeMap<u64, u64>,
    /// Blocks that a commit made and deleted again, so that no reader ever saw a change.
    grazed: BTreeMap<u64, u64>,
    commits: u64,
    max_id: u64,
}

/// A transaction of a [`Model`].
#[derive(Debug, Clone)]
pub struct ModelTransaction {
    begun: u64,
    snapshot: BTreeMap<u64, Block>,
    pending: BTreeMap<u64, Option<Block>>,
}

/// The outcome that a commit must have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Blocks that another commit changed since the begin. With one of these, `Conflict`.
    pub lost: BTreeSet<u64>,
    /// Blocks that another commit changed, and that the transaction made and deleted again without
    /// ever having seen one. With only these, a backend may commit (and leave them alone) or
    /// refuse.
    pub open: BTreeSet<u64>,
    /// Blocks that another commit made and deleted again. A backend may call that a change, and
    /// refuse, or not.
    pub grazed: BTreeSet<u64>,
}

impl Verdict {
    /// Returns whether only `Conflict` is right.
    pub fn must_conflict(&self) -> bool {
        !self.lost.is_empty()
    }

    /// Returns whether `Conflict` on this block is right.
    pub fn may_conflict_on(&self, id: BlockId) -> bool {
        [&self.lost, &self.open, &self.grazed].iter().any(|ids| ids.contains(&id.0))
    }
}

impl Model {
    /// Returns the committed block of this id.
    pub fn read(&self, id: u64) -> Option<&Block> {
        self.blocks.get(&id)
    }

    /// Commits one write. The block's own id names it, so it must not be 0.
    ///
    /// # Panics
    /// If the block's id is 0.
    pub fn write(&mut self, block: Block) {
        self.commits += 1;
        self.apply(block.header.block_id.0, Some(block));
    }

    /// Commits one delete; false when there was nothing to delete.
    pub fn delete(&mut self, id: u64) -> bool {
        if !self.blocks.contains_key(&id) {
            return false;
        }
        self.commits += 1;
        self.apply(id, None);
        true
    }

    /// Begins a transaction on the present commits.
    pub fn begin(&self) -> ModelTransaction {
        ModelTransaction {
            begun: self.commits,
            snapshot: self.blocks.clone(),
            pending: BTreeMap::new(),
        }
    }

    /// Returns the outcome that a commit of `tx` must have now.
    pub fn verdict(&self, tx: &ModelTransaction) -> Verdict {
        let since = |at: Option<&u64>| at.is_some_and(|at| *at > tx.begun);
        let mut verdict = Verdict::default();
        for (id, op) in &tx.pending {
            let made_and_deleted = op.is_none() && !tx.snapshot.contains_key(id);
            if since(self.changed.get(id)) {
                let set = if made_and_deleted { &mut verdict.open } else { &mut verdict.lost };
                set.insert(*id);
            } else if since(self.grazed.get(id)) {
                verdict.grazed.insert(*id);
            }
        }
        verdict
    }

    /// Commits a transaction that has not lost.
    ///
    /// # Panics
    /// If the outcome is a conflict.
    pub fn commit(&mut self, tx: ModelTransaction) {
        let verdict = self.verdict(&tx);
        assert!(!verdict.must_conflict(), "the model refuses this commit: {verdict:?}");
        self.commits += 1;
        for (id, op) in tx.pending {
            if !verdict.open.contains(&id) {
                self.apply(id, op);
            }
        }
    }

    /// Returns the committed blocks, in order of their ids.
    pub fn blocks(&self) -> impl Iterator<Item = &Block> {
        self.blocks.values()
    }

    /// Returns every id that a commit ever wrote or deleted.
    pub fn touched(&self) -> impl Iterator<Item = u64> + '_ {
        self.changed.keys().chain(self.grazed.keys()).copied()
    }

    /// Returns the largest id that a commit ever wrote, 0 before the first.
    pub fn max_id(&self) -> u64 {
        self.max_id
    }

    /// Returns the right value of `StorageStats::total_blocks`.
    pub fn total_blocks(&self) -> u64 {
        self.blocks.len() as u64
    }

    /// Returns the right value of `StorageStats::total_bytes`.
    pub fn total_bytes(&self) -> u64 {
        self.blocks.values().map(|block| block.data.len() as u64).sum()
    }

    fn apply(&mut self, id: u64, op: Option<Block>) {
        assert_ne!(id, 0, "id 0 never names a block");
        let changes = op.is_some() || self.blocks.contains_key(&id);
        let at = if changes { &mut self.changed } else { &mut self.grazed };
        at.insert(id, self.commits);
        match op {
            Some(block) => {
                self.max_id = self.max_id.max(id);
                self.blocks.insert(id, block);
            }
            None => {
                self.blocks.remove(&id);
            }
        }
    }
}

impl ModelTransaction {
    /// Returns the block as the transaction sees it.
    pub fn read(&self, id: u64) -> Option<&Block> {
        match self.pending.get(&id) {
            Some(op) => op.as_ref(),
            None => self.snapshot.get(&id),
        }
    }

    /// Adds a write. The block's own id names it.
    pub fn write(&mut self, block: Block) {
        self.pending.insert(block.header.block_id.0, Some(block));
    }

    /// Adds a delete; false when the transaction sees nothing to delete.
    pub fn delete(&mut self, id: u64) -> bool {
        let seen = self.read(id).is_some();
        if seen {
            self.pending.insert(id, None);
        }
        seen
    }

    /// Returns the ids from `first` to `last` that the transaction sees, ascending.
    pub fn ids(&self, first: u64, last: u64) -> Vec<u64> {
        let known: BTreeSet<u64> =
            self.snapshot.keys().chain(self.pending.keys()).copied().collect();
        known.range(first..=last).copied().filter(|id| self.read(*id).is_some()).collect()
    }

    /// Returns whether the transaction has a pending operation on this id.
    pub fn touches(&self, id: u64) -> bool {
        self.pending.contains_key(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::BlockType;

    fn block(id: u64, text: &'static str) -> Block {
        Block::new(BlockId(id), BlockType::TableData, text)
    }

    #[test]
    fn transaction_sees_its_own_writes_over_its_snapshot() {
        let mut model = Model::default();
        model.write(block(1, "one"));
        let mut tx = model.begin();
        model.write(block(1, "newer"));
        model.write(block(2, "two"));
        assert_eq!(tx.read(1), Some(&block(1, "one")));
        assert_eq!(tx.read(2), None);
        tx.write(block(2, "own"));
        assert_eq!(tx.read(2), Some(&block(2, "own")));
        assert!(tx.delete(2) && !tx.delete(2));
    }

    #[test]
    fn first_committer_wins() {
        let mut model = Model::default();
        let (mut first, mut second) = (model.begin(), model.begin());
        first.write(block(1, "first"));
        second.write(block(1, "second"));
        model.commit(first);
        assert_eq!(model.verdict(&second).lost, BTreeSet::from([1]));
        assert_eq!(model.read(1), Some(&block(1, "first")));
        assert_eq!((model.total_blocks(), model.total_bytes()), (1, 5));
    }

    #[test]
    fn block_made_and_deleted_leaves_the_verdict_open() {
        let mut model = Model::default();
        let mut tx = model.begin();
        tx.write(block(1, "made"));
        assert!(tx.delete(1));
        model.write(block(1, "other"));
        let verdict = model.verdict(&tx);
        assert!(!verdict.must_conflict() && verdict.may_conflict_on(BlockId(1)));
        model.commit(tx);
        assert_eq!(model.read(1), Some(&block(1, "other")));
    }

    #[test]
    fn block_made_and_deleted_need_not_count_as_a_change() {
        let mut model = Model::default();
        let (mut grazing, mut tx) = (model.begin(), model.begin());
        grazing.write(block(1, "made"));
        assert!(grazing.delete(1));
        tx.write(block(1, "mine"));
        model.commit(grazing);
        let verdict = model.verdict(&tx);
        assert!(!verdict.must_conflict() && verdict.may_conflict_on(BlockId(1)));
        model.commit(tx);
        assert_eq!(model.read(1), Some(&block(1, "mine")));
    }
}
