//! Unpublished changes: they have their place in commit order and are not published yet.
//!
//! Owns, for every id that a commit in flight names, its newest change. Conflict checks read the
//! unpublished changes first and the index below them, so a check sees exactly the commits that
//! come before. Used by one thread: the leader, which assigns LSNs.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::block::{BlockId, Lsn};
use crate::error::{Error, Result};
use crate::mvcc::batch::{Batch, Operation, Precondition};

/// The published state, as the checks need it.
///
/// Each of these may find that part of the published state is damaged.
pub(crate) trait Published {
    /// The newest change of an id if it came after `snapshot`, deletions included.
    fn changed_since(&self, id: BlockId, snapshot: Lsn) -> Result<Option<Lsn>>;
    /// A change after `snapshot` of an id from `first` to `last`, deletions included.
    fn changed_within(
        &self,
        first: BlockId,
        last: BlockId,
        snapshot: Lsn,
    ) -> Result<Option<(BlockId, Lsn)>>;
    /// Whether a block has this id.
    fn exists(&self, id: BlockId) -> Result<bool>;
    /// Whether a block is still the version that commit `lsn` made, at a place (see
    /// [`Operation::Move`]).
    fn is_newest_at_place(&self, id: BlockId, lsn: Lsn, place: u64) -> Result<bool>;
    /// Whether an older version of a block, which commit `lsn` made, is kept for snapshots at a
    /// place.
    fn is_undo_at_place(&self, id: BlockId, lsn: Lsn, place: u64) -> bool;
}

/// Changes in flight.
#[derive(Debug, Default)]
pub(crate) struct Unpublished {
    newest: HashMap<BlockId, UnpublishedChange, BuildHasherDefault<IdHasher>>,
}

#[derive(Debug, Clone, Copy)]
struct UnpublishedChange {
    lsn: Lsn,
    exists: bool,
}

impl Unpublished {
    /// Checks a batch against everything that comes before it in commit order.
    pub(crate) fn check_batch(&self, batch: &Batch, published: &impl Published) -> Result<()> {
        for id in &batch.allocated {
            if self.exists_in_order(*id, published)? {
                return Err(self.allocated_id_conflict(*id, published)?);
            }
        }
        match &batch.precondition {
            Precondition::None => Ok(()),
            Precondition::Exist(ids) => {
                for id in ids {
                    if !self.exists_in_order(*id, published)? {
                        return Err(Error::BlockNotFound { id: *id });
                    }
                }
                Ok(())
            }
            Precondition::UnchangedSince(snapshot) => {
                let snapshot = *snapshot;
                let reads = batch.reads.as_deref();
                let written = batch.operations.iter().map(|(id, _)| id);
                for id in written.chain(reads.into_iter().flat_map(|reads| &reads.ids)) {
                    let found = match self.newest.get(id) {
                        Some(change) => Some(change.lsn),
                        None => published.changed_since(*id, snapshot)?,
                    };
                    if let Some(found) = found {
                        return Err(Error::Conflict { id: *id, snapshot, found });
                    }
                }
                for (first, last) in reads.into_iter().flat_map(|reads| &reads.ranges) {
                    let found = match self.changed_within(*first, *last) {
                        None => published.changed_within(*first, *last, snapshot)?,
                        found => found,
                    };
                    if let Some((id, found)) = found {
                        return Err(Error::Conflict { id, snapshot, found });
                    }
                }
                Ok(())
            }
        }
    }

    /// The error of a commit whose allocated id another commit has named since.
    fn allocated_id_conflict(&self, id: BlockId, published: &impl Published) -> Result<Error> {
        let found = match self.newest.get(&id) {
            Some(change) => Some(change.lsn),
            None => published.changed_since(id, Lsn(0))?,
        };
        Ok(Error::Conflict { id, snapshot: Lsn(0), found: found.unwrap_or_default() })
    }

    fn changed_within(&self, first: BlockId, last: BlockId) -> Option<(BlockId, Lsn)> {
        let within = |id: &BlockId| first <= *id && *id <= last;
        self.newest.iter().find(|(id, _)| within(id)).map(|(id, change)| (*id, change.lsn))
    }

    /// Keeps those relocations of a batch that are still of the newest version, or of one that
    /// snapshots see, and every other operation.
    pub(crate) fn keep_current_moves(
        &self,
        batch: &mut Batch,
        published: &impl Published,
    ) -> Result<()> {
        let mut looked = Ok(());
        batch.operations.retain(|(id, operation)| match operation {
            Operation::Move { lsn, from, is_old: true, .. } => {
                published.is_undo_at_place(*id, *lsn, *from)
            }
            Operation::Move { lsn, from, .. } => {
                let is_newest_at_place = || published.is_newest_at_place(*id, *lsn, *from);
                !self.newest.contains_key(id)
                    && is_newest_at_place().unwrap_or_else(|error| {
                        looked = Err(error);
                        false
                    })
            }
            _ => true,
        });
        looked
    }

    /// Adds a batch that was given an LSN. A relocation changes nothing that a check could ask for.
    pub(crate) fn add_batch(&mut self, batch: &Batch, lsn: Lsn) {
        for (id, operation) in &batch.operations {
            let exists = match operation {
                Operation::Write(_) => true,
                Operation::Delete => false,
                Operation::Move { .. } => continue,
            };
            let before = self.newest.insert(*id, UnpublishedChange { lsn, exists });
            debug_assert!(before.is_none_or(|before| before.lsn < lsn), "lsns ascend");
        }
    }

    /// Removes a batch that is published, where no later one in flight names the same id.
    pub(crate) fn remove_batch(&mut self, batch: &Batch, lsn: Lsn) {
        for (id, _) in &batch.operations {
            if self.newest.get(id).is_some_and(|change| change.lsn == lsn) {
                self.newest.remove(id);
            }
        }
    }

    fn exists_in_order(&self, id: BlockId, published: &impl Published) -> Result<bool> {
        self.newest.get(&id).map_or_else(|| published.exists(id), |change| Ok(change.exists))
    }
}

/// Spreads ids over buckets by one multiplication. Ids come from the embedding program, not from an
/// attacker on the network, and the map holds only what is in flight.
#[derive(Debug, Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = (self.0 ^ id).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{Block, BlockType};

    /// Ids 1..=9 exist, changed last at the LSN of the same number.
    struct Nine;

    impl Published for Nine {
        fn changed_since(&self, id: BlockId, snapshot: Lsn) -> Result<Option<Lsn>> {
            Ok((self.exists(id)? && id.0 > snapshot.0).then_some(Lsn(id.0)))
        }

        fn changed_within(
            &self,
            first: BlockId,
            last: BlockId,
            snapshot: Lsn,
        ) -> Result<Option<(BlockId, Lsn)>> {
            let mut ids = (first.0..=last.0).map(BlockId);
            Ok(ids.find_map(|id| Some((id, self.changed_since(id, snapshot).ok()??))))
        }

        fn exists(&self, id: BlockId) -> Result<bool> {
            Ok((1..=9).contains(&id.0))
        }

        fn is_newest_at_place(&self, id: BlockId, lsn: Lsn, place: u64) -> Result<bool> {
            Ok((1..=9).contains(&id.0) && lsn.0 == id.0 && place == id.0 * 100)
        }

        fn is_undo_at_place(&self, id: BlockId, lsn: Lsn, place: u64) -> bool {
            id.0 == 5 && lsn.0 == 2 && place == 200
        }
    }

    fn write(id: u64, precondition: Precondition) -> Batch {
        let mut batch = Batch::of_single_write(Block::empty(BlockId(id), BlockType::TableData));
        batch.precondition = precondition;
        batch
    }

    #[test]
    fn first_committer_wins_against_published_and_in_flight_changes() {
        let mut unpublished = Unpublished::default();
        let since = |lsn| Precondition::UnchangedSince(Lsn(lsn));
        unpublished.check_batch(&write(5, since(5)), &Nine).expect("unchanged");
        let lost = unpublished.check_batch(&write(5, since(4)), &Nine);
        assert!(matches!(lost, Err(Error::Conflict { found: Lsn(5), snapshot: Lsn(4), .. })));
        let winner = write(5, since(9));
        unpublished.add_batch(&winner, Lsn(10));
        let lost = unpublished.check_batch(&write(5, since(9)), &Nine);
        assert!(matches!(lost, Err(Error::Conflict { found: Lsn(10), .. })));
        unpublished.remove_batch(&winner, Lsn(10));
        unpublished.check_batch(&write(5, since(9)), &Nine).expect("published is asked again");
    }

    #[test]
    fn allocated_id_is_refused_where_another_commit_has_named_it() {
        let mut unpublished = Unpublished::default();
        let allocated =
            |id| Batch { allocated: vec![BlockId(id)], ..write(id, Precondition::None) };
        let taken = unpublished.check_batch(&allocated(9), &Nine);
        assert!(matches!(taken, Err(Error::Conflict { id: BlockId(9), found: Lsn(9), .. })));
        unpublished.check_batch(&allocated(10), &Nine).expect("it is free");
        unpublished.add_batch(&write(10, Precondition::None), Lsn(11));
        let taken = unpublished.check_batch(&allocated(10), &Nine);
        assert!(matches!(taken, Err(Error::Conflict { id: BlockId(10), found: Lsn(11), .. })));
    }

    #[test]
    fn delete_is_judged_at_its_place_in_commit_order() {
        let mut unpublished = Unpublished::default();
        let delete = Batch::of_single_delete(BlockId(3));
        unpublished.check_batch(&delete, &Nine).expect("3 is published");
        unpublished.add_batch(&delete, Lsn(10));
        let gone = unpublished.check_batch(&Batch::of_single_delete(BlockId(3)), &Nine);
        assert!(matches!(gone, Err(Error::BlockNotFound { id: BlockId(3) })));
        unpublished.add_batch(&write(3, Precondition::None), Lsn(11));
        unpublished.remove_batch(&delete, Lsn(10));
        unpublished
            .check_batch(&Batch::of_single_delete(BlockId(3)), &Nine)
            .expect("written again in flight");
    }

    #[test]
    fn move_is_kept_while_the_block_is_what_and_where_it_was_and_conflicts_with_nothing() {
        let mut unpublished = Unpublished::default();
        let block = Block::empty(BlockId(5), BlockType::TableData);
        let moved_of = |lsn, from, is_old| {
            let operation = Operation::Move { block: block.clone(), lsn: Lsn(lsn), from, is_old };
            Batch::of_relocations(vec![(BlockId(5), operation)])
        };
        let moved = |lsn, from| moved_of(lsn, from, false);
        let kept = |unpublished: &Unpublished, mut batch: Batch| {
            unpublished.keep_current_moves(&mut batch, &Nine).expect("readable");
            batch.operations.len()
        };
        assert_eq!(kept(&unpublished, moved(5, 500)), 1);
        assert_eq!(kept(&unpublished, moved(4, 500)), 0, "another commit made it");
        assert_eq!(kept(&unpublished, moved(5, 501)), 0, "it is somewhere else");
        unpublished.add_batch(&moved(5, 500), Lsn(10));
        let since = Precondition::UnchangedSince(Lsn(9));
        unpublished.check_batch(&write(5, since), &Nine).expect("a move is no change");
        unpublished.add_batch(&write(5, Precondition::None), Lsn(11));
        assert_eq!(kept(&unpublished, moved(5, 500)), 0, "replaced in flight");
        assert_eq!(kept(&unpublished, moved_of(2, 200, true)), 1, "snapshots see it all the same");
        assert_eq!(kept(&unpublished, moved_of(2, 201, true)), 0, "it is somewhere else");
        assert_eq!(kept(&unpublished, moved(2, 200)), 0, "an old version is none that is in force");
    }
}
