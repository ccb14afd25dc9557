//! Walks over ranges of blocks: what they see beside writes, and what they count as read.

use aegis_blocks::{Block, BlockId, Error, IsolationLevel, StorageExt};

use crate::block::block;
use crate::{on_each, text};

#[test]
fn range_merges_own_writes_and_deletes_from_both_ends() {
    on_each(|store| {
        let tx = store.begin().expect("begins");
        tx.write(block(3, "own")).expect("writes");
        tx.delete(BlockId(1)).expect("deletes");
        let ids = |blocks: Vec<Result<Block, Error>>| -> Vec<u64> {
            blocks.into_iter().map(|b| b.expect("reads").header.block_id.0).collect()
        };
        assert_eq!(ids(tx.range(..).expect("lists").collect()), [2, 3]);
        assert_eq!(ids(tx.range(..).expect("lists").rev().collect()), [3, 2]);
        let backwards =
            (std::ops::Bound::Included(BlockId(5)), std::ops::Bound::Included(BlockId(2)));
        let refused = tx.range(backwards).map(|_| ());
        assert!(matches!(refused, Err(Error::InvalidArgument { argument: "range", .. })));
    });
}

#[test]
fn blocks_of_a_store_are_those_of_one_moment() {
    on_each(|store| {
        for id in 3..=6 {
            store.write_block(block(id, "old")).expect("writes");
        }
        let mut blocks = store.blocks(BlockId(2)..BlockId(6)).expect("lists");
        assert_eq!(blocks.size_hint(), (0, None), "nothing is looked up yet");
        store.write_block(block(3, "new")).expect("writes");
        store.delete_block(BlockId(5)).expect("deletes");
        store.write_block(block(4, "new")).expect("writes");
        let mut id_of = |from_back| {
            let next = if from_back { blocks.next_back() } else { blocks.next() };
            let block = next?.expect("reads");
            assert_eq!(text(&block), "old");
            Some(block.header.block_id.0)
        };
        let walked = [true, false, false, true, true, false].map(&mut id_of);
        assert_eq!(walked, [Some(5), Some(2), Some(3), Some(4), None, None]);
    });
}

#[test]
fn range_passes_over_what_its_transaction_deletes_meanwhile() {
    on_each(|store| {
        let tx = store.begin().expect("begins");
        let mut blocks = tx.range(..).expect("lists");
        tx.delete(BlockId(1)).expect("deletes");
        tx.write(block(3, "own")).expect("writes");
        let next = blocks.next().expect("block 2").expect("reads");
        assert_eq!(next.header.block_id, BlockId(2));
        assert!(blocks.next().is_none(), "block 3 was written after the range was listed");
    });
}

#[test]
fn walk_ends_although_its_transaction_goes_on_writing() {
    on_each(|store| {
        let tx = store.begin().expect("begins");
        let own = tx.write(block(40, "own")).expect("writes");
        let mut walked = Vec::new();
        for id in tx.ids(..).expect("open") {
            walked.push(id.expect("looks up"));
            tx.write(block(40 + 2 * walked.len() as u64, "ahead")).expect("writes");
            tx.write(block(0, "above all")).expect("writes");
        }
        assert_eq!(walked, [BlockId(1), BlockId(2), own]);
        assert_eq!(tx.ids(..).expect("open").count(), 3 + 6);
    });
}

#[test]
fn serializable_walk_has_read_what_it_walked_and_little_more() {
    on_each(|store| {
        for id in 100..200 {
            store.write_block(block(id, "old")).expect("writes");
        }
        let walk = |count: usize, from_back: bool, meanwhile: u64| {
            let tx = store.begin_at(IsolationLevel::Serializable).expect("begins");
            let mut ids = tx.ids(BlockId(50)..BlockId(300)).expect("open");
            for _ in 0..count {
                let id = if from_back { ids.next_back() } else { ids.next() };
                id.expect("there are more").expect("looks up");
            }
            drop(ids);
            store.write_block(block(meanwhile, "new")).expect("writes");
            tx.write(block(1, "a sum")).expect("writes");
            match tx.commit() {
                Ok(_) => true,
                Err(Error::Conflict { id, .. }) => {
                    assert_eq!(id, BlockId(meanwhile));
                    false
                }
                Err(error) => panic!("{error:?}"),
            }
        };
        // Nothing was walked; the first of all; what lies before it, and behind it.
        assert!(walk(0, false, 60) && walk(0, true, 250));
        assert!(!walk(1, false, 60) && !walk(1, false, 55) && walk(1, false, 56));
        assert!(!walk(1, true, 299) && walk(1, true, 298));
        // Ten have been walked: up to fifteen have been looked up.
        assert!(!walk(10, false, 107) && walk(10, false, 120));
        assert!(!walk(10, true, 194) && walk(10, true, 180));
    });
}
