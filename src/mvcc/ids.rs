//! Allocation of block ids: dense and increasing above the highest id, and in gaps below it when
//! the top is used up.
//!
//! Owns the highest id that was handed out or committed, and the highest that was committed. Owns
//! the *gap* (neighbouring ids that no block has) from which ids come once `u64::MAX` is committed.
//! Rules:
//!
//! 1. Naming an id changes nothing here; its commit does. The publisher notes each id that a commit
//!    names, deletions included, before the commit becomes visible. Recovery notes every id of the
//!    log.
//! 2. While the highest id is below `u64::MAX`, the next one is above it. So an id comes again only
//!    if its transaction never committed.
//! 3. After that, allocation continues where it was before `u64::MAX` was committed. A later
//!    session does not know where that was. It continues in the highest gap, above the highest live
//!    block below the top. An id that was deleted there may come again.
//! 4. If a caller commits its own id in the gap, the allocator moves to the highest gap in the rest
//!    of it. A used-up gap is followed by the next one below all earlier ones; after the lowest,
//!    the search begins at the top again. A search walks the index with a cursor and stops at the
//!    first gap. So each id in the index is walked at most once until all gaps were used.
//!
//! A caller may name and commit an id that was handed out, before its own transaction commits. The
//! commit check (`unpublished`) refuses the transaction then; single writes and batches take
//! another id.
//!
//! Lock order: the gap's lock comes before all those of the index. Publishers do not take it.

use crate::sync::{AtomicU64, Mutex, Ordering};

use crate::block::BlockId;
use crate::error::{Error, Result};
use crate::mvcc::index::Index;
use crate::mvcc::version::VersionLen;

/// The first id and the last one.
const FIRST: BlockId = BlockId(1);
const TOP: BlockId = BlockId(u64::MAX);

/// The allocator of one store.
#[derive(Debug)]
pub(crate) struct IdAllocator {
    /// The highest id that was handed out or committed.
    highest: AtomicU64,
    /// The highest id that a commit named.
    committed: AtomicU64,
    /// What `highest` was before this session committed the last id; 0 where it did not.
    left_at: AtomicU64,
    gap: Mutex<Gap>,
}

/// The source of ids below the top.
#[derive(Debug)]
struct Gap {
    /// First and last id of what is left of it.
    free: Option<(BlockId, BlockId)>,
    /// From here down no id was searched since the search began at the top; `None` when all were.
    below: Option<BlockId>,
    /// Whether ids have come from here.
    is_begun: bool,
}

impl Default for IdAllocator {
    fn default() -> Self {
        let gap = Gap { free: None, below: Some(TOP), is_begun: false };
        IdAllocator {
            highest: AtomicU64::new(0),
            committed: AtomicU64::new(0),
            left_at: AtomicU64::new(0),
            gap: Mutex::new(gap),
        }
    }
}

impl IdAllocator {
    /// Hands out an id that no block has in `index`.
    ///
    /// # Errors
    /// - [`Error::IdsExhausted`]: there is none.
    /// - Those of [`Index::read_newest`], where the top is used up.
    pub(crate) fn allocate_id<V: VersionLen>(&self, index: &Index<V>) -> Result<BlockId> {
        let above = self
            .highest
            .fetch_update(Ordering::Acquire, Ordering::Acquire, |highest| highest.checked_add(1));
        match above {
            Ok(highest) => Ok(BlockId(highest + 1)),
            Err(_) => self.allocate_in_gap(index),
        }
    }

    #[cold]
    fn allocate_in_gap<V: VersionLen>(&self, index: &Index<V>) -> Result<BlockId> {
        let mut gap = self.gap.lock();
        if !gap.is_begun {
            let left_at = self.left_at.load(Ordering::Relaxed);
            if left_at != 0 {
                gap.free = Some((BlockId(left_at + 1), TOP));
                gap.below = Some(BlockId(left_at));
            }
            gap.is_begun = true;
        }
        gap.take_next_id(index)
    }

    /// The highest id that a commit named; 0 when there is none.
    pub(crate) fn highest_committed(&self) -> BlockId {
        BlockId(self.committed.load(Ordering::Relaxed))
    }

    /// Keeps later ids above one that a commit names. Called before that is visible, by one
    /// publisher at a time.
    pub(crate) fn note_committed_id(&self, id: BlockId) {
        if id.0 <= self.committed.load(Ordering::Relaxed) {
            return;
        }
        self.committed.store(id.0, Ordering::Relaxed);
        let mut highest = self.highest.load(Ordering::Relaxed);
        while highest < id.0 {
            if id == TOP {
                self.left_at.store(highest, Ordering::Relaxed);
            }
            let raised = (Ordering::Release, Ordering::Relaxed);
            match self.highest.compare_exchange(highest, id.0, raised.0, raised.1) {
                Ok(_) => return,
                Err(found) => {
                    debug_assert!(found > highest, "the highest id only grows");
                    highest = found;
                }
            }
        }
    }

    /// Keeps later ids above one of an earlier session, while no thread allocates.
    pub(crate) fn note_recovered_id(&self, id: BlockId) {
        self.committed.fetch_max(id.0, Ordering::Relaxed);
        self.highest.fetch_max(id.0, Ordering::Relaxed);
    }
}

impl Gap {
    /// Takes the next id.
    fn take_next_id<V: VersionLen>(&mut self, index: &Index<V>) -> Result<BlockId> {
        let mut is_again = false;
        loop {
            while let Some((next, last)) = self.free {
                debug_assert!(FIRST <= next && next <= last, "a gap holds an id");
                if index.read_newest(next)?.is_none() {
                    let left = next.0.checked_add(1).map(BlockId).filter(|left| *left <= last);
                    self.free = left.map(|left| (left, last));
                    return Ok(next);
                }
                self.free = index.highest_gap(next, last)?;
            }
            let from = match self.below {
                Some(below) => below,
                None if is_again => return Err(Error::IdsExhausted),
                None => TOP,
            };
            is_again |= self.below.is_none();
            self.free = index.highest_gap(FIRST, from)?;
            self.below = self.free.and_then(|(first, _)| next_search_end(first));
        }
    }
}

/// The id at which the next search begins after a gap from `first` on.
fn next_search_end(first: BlockId) -> Option<BlockId> {
    (first > FIRST).then(|| BlockId(first.0 - 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Lsn;

    /// A store of an allocator and an index.
    #[derive(Default)]
    struct Store {
        ids: IdAllocator,
        index: Index<u32>,
    }

    impl Store {
        fn commit(&self, ids: impl IntoIterator<Item = u64>) {
            self.change(ids, Some(1));
        }

        fn delete(&self, ids: impl IntoIterator<Item = u64>) {
            self.change(ids, None);
        }

        fn change(&self, ids: impl IntoIterator<Item = u64>, value: Option<u32>) {
            for id in ids.into_iter().map(BlockId) {
                self.ids.note_committed_id(id);
                let lsn = Lsn(self.index.visible_lsn().0 + 1);
                self.index.publish_alone([(id, lsn, value)], lsn);
            }
        }

        fn allocate(&self) -> u64 {
            self.ids.allocate_id(&self.index).expect("an id is left").0
        }

        /// Allocates and commits.
        fn add(&self) -> u64 {
            let id = self.allocate();
            self.commit([id]);
            id
        }

        /// The store in its next session.
        fn reopened(self) -> Store {
            let ids = IdAllocator::default();
            ids.note_recovered_id(self.ids.highest_committed());
            Store { ids, index: self.index }
        }
    }

    #[test]
    fn allocation_is_dense_stays_above_named_ids_and_never_wraps() {
        let store = Store::default();
        assert_eq!(store.add(), 1);
        store.commit([10, 3]);
        assert_eq!(store.add(), 11);
        store.commit([u64::MAX - 1]);
        assert_eq!(store.add(), u64::MAX);
        assert_eq!([store.add(), store.add()], [12, 13], "the highest gap, from below");
    }

    #[test]
    fn allocation_goes_on_where_it_was_when_the_last_id_is_committed() {
        let store = Store::default();
        assert_eq!([store.add(), store.allocate(), store.add()], [1, 2, 3]);
        store.delete([3]);
        store.commit([u64::MAX]);
        assert_eq!(store.add(), 4, "neither 2, which is handed out, nor 3, which was in use");
        store.delete([u64::MAX]);
        assert_eq!(store.add(), 5);
        let store = store.reopened();
        assert_eq!(store.add(), 6, "above what is in force");
    }

    #[test]
    fn gap_in_which_callers_name_ids_goes_on_above_them() {
        let store = Store::default();
        store.commit([u64::MAX]);
        assert_eq!([store.add(), store.add()], [1, 2]);
        store.commit([9, 5]);
        assert_eq!([store.add(), store.add()], [3, 4], "what is free is used as long as it can be");
        assert_eq!([store.add(), store.add()], [10, 11], "above the highest that was named");
    }

    #[test]
    fn gaps_are_used_from_the_top_down_and_then_anew() {
        let store = Store::default();
        store.commit((1..=2000).filter(|id| ![1, 2, 700, 1999].contains(id)));
        store.commit([u64::MAX]);
        let store = store.reopened();
        // The gap above 2,000 is too long to be used up here.
        store.ids.gap.lock().below = Some(BlockId(2000));
        store.ids.gap.lock().is_begun = true;
        assert_eq!([(); 4].map(|()| store.add()), [1999, 700, 1, 2]);
        assert_eq!(store.add(), 2001, "it begins at the top again");
    }

    #[test]
    fn search_that_finds_no_gap_begins_at_the_top_again() {
        let store = Store::default();
        store.commit([1, 2, 3, u64::MAX]);
        let below_four = store.index.highest_gap(BlockId(1), BlockId(3));
        assert_eq!(below_four.expect("readable"), None);
        let mut gap = Gap { free: None, below: Some(BlockId(3)), is_begun: true };
        assert_eq!(gap.take_next_id(&store.index).expect("an id is left"), BlockId(4));
    }
}
