//! The overlay: changes that have their place in commit order and are not published yet.
//!
//! Owns, for every id that a commit in flight names, what the newest of them does to it. Conflict
//! checks read the overlay first and the index below it, so that a check sees exactly the commits
//! that come before. Used by one thread: whoever assigns LSNs.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::block::{BlockId, Lsn};
use crate::error::{Error, Result};
use crate::mvcc::batch::{Batch, Operation, Precondition};

/// What the checks ask of the published state.
pub(crate) trait Published {
    /// The newest change of an id if it came after `snapshot`, deletions included.
    fn changed_since(&self, id: BlockId, snapshot: Lsn) -> Option<Lsn>;
    /// A change after `snapshot` of an id from `first` to `last`, deletions included.
    fn changed_within(
        &self,
        first: BlockId,
        last: BlockId,
        snapshot: Lsn,
    ) -> Option<(BlockId, Lsn)>;
    /// Whether a block has this id.
    fn exists(&self, id: BlockId) -> bool;
}

/// Changes in flight.
#[derive(Debug, Default)]
pub(crate) struct Overlay {
    newest: HashMap<BlockId, Change, BuildHasherDefault<IdHasher>>,
}

#[derive(Debug, Clone, Copy)]
struct Change {
    lsn: Lsn,
    exists: bool,
}

impl Overlay {
    /// Checks a batch against everything that comes before it in commit order.
    pub(crate) fn check(&self, batch: &Batch, published: &impl Published) -> Result<()> {
        match &batch.precondition {
            Precondition::None => Ok(()),
            Precondition::Exist(ids) => match ids.iter().find(|id| !self.exists(**id, published)) {
                Some(id) => Err(Error::BlockNotFound { id: *id }),
                None => Ok(()),
            },
            Precondition::UnchangedSince(snapshot) => {
                let snapshot = *snapshot;
                let reads = batch.reads.as_deref();
                let written = batch.operations.iter().map(|(id, _)| id);
                for id in written.chain(reads.into_iter().flat_map(|reads| &reads.ids)) {
                    let found = match self.newest.get(id) {
                        Some(change) => Some(change.lsn),
                        None => published.changed_since(*id, snapshot),
                    };
                    if let Some(found) = found {
                        return Err(Error::Conflict { id: *id, snapshot, found });
                    }
                }
                for (first, last) in reads.into_iter().flat_map(|reads| &reads.ranges) {
                    let found = self
                        .changed_within(*first, *last)
                        .or_else(|| published.changed_within(*first, *last, snapshot));
                    if let Some((id, found)) = found {
                        return Err(Error::Conflict { id, snapshot, found });
                    }
                }
                Ok(())
            }
        }
    }

    fn changed_within(&self, first: BlockId, last: BlockId) -> Option<(BlockId, Lsn)> {
        let within = |id: &BlockId| first <= *id && *id <= last;
        self.newest.iter().find(|(id, _)| within(id)).map(|(id, change)| (*id, change.lsn))
    }

    /// Adds a batch that was given an LSN.
    pub(crate) fn add(&mut self, batch: &Batch, lsn: Lsn) {
        for (id, operation) in &batch.operations {
            let exists = matches!(operation, Operation::Write(_));
            self.newest.insert(*id, Change { lsn, exists });
        }
    }

    /// Forgets a batch that is published, where no later one in flight names the same id.
    pub(crate) fn remove(&mut self, batch: &Batch, lsn: Lsn) {
        for (id, _) in &batch.operations {
            if self.newest.get(id).is_some_and(|change| change.lsn == lsn) {
                self.newest.remove(id);
            }
        }
    }

    fn exists(&self, id: BlockId, published: &impl Published) -> bool {
        self.newest.get(&id).map_or_else(|| published.exists(id), |change| change.exists)
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
        fn changed_since(&self, id: BlockId, snapshot: Lsn) -> Option<Lsn> {
            (self.exists(id) && id.0 > snapshot.0).then_some(Lsn(id.0))
        }

        fn changed_within(
            &self,
            first: BlockId,
            last: BlockId,
            snapshot: Lsn,
        ) -> Option<(BlockId, Lsn)> {
            let mut ids = (first.0..=last.0).map(BlockId);
            ids.find_map(|id| self.changed_since(id, snapshot).map(|lsn| (id, lsn)))
        }

        fn exists(&self, id: BlockId) -> bool {
            (1..=9).contains(&id.0)
        }
    }

    fn write(id: u64, precondition: Precondition) -> Batch {
        let mut batch = Batch::write(Block::empty(BlockId(id), BlockType::TableData));
        batch.precondition = precondition;
        batch
    }

    #[test]
    fn first_committer_wins_against_published_and_in_flight_changes() {
        let mut overlay = Overlay::default();
        let since = |lsn| Precondition::UnchangedSince(Lsn(lsn));
        overlay.check(&write(5, since(5)), &Nine).expect("unchanged");
        let lost = overlay.check(&write(5, since(4)), &Nine);
        assert!(matches!(lost, Err(Error::Conflict { found: Lsn(5), snapshot: Lsn(4), .. })));
        let winner = write(5, since(9));
        overlay.add(&winner, Lsn(10));
        let lost = overlay.check(&write(5, since(9)), &Nine);
        assert!(matches!(lost, Err(Error::Conflict { found: Lsn(10), .. })));
        overlay.remove(&winner, Lsn(10));
        overlay.check(&write(5, since(9)), &Nine).expect("published is asked again");
    }

    #[test]
    fn delete_is_judged_at_its_place_in_commit_order() {
        let mut overlay = Overlay::default();
        let delete = Batch::delete(BlockId(3));
        overlay.check(&delete, &Nine).expect("3 is published");
        overlay.add(&delete, Lsn(10));
        let gone = overlay.check(&Batch::delete(BlockId(3)), &Nine);
        assert!(matches!(gone, Err(Error::BlockNotFound { id: BlockId(3) })));
        overlay.add(&write(3, Precondition::None), Lsn(11));
        overlay.remove(&delete, Lsn(10));
        overlay.check(&Batch::delete(BlockId(3)), &Nine).expect("written again in flight");
    }
}
