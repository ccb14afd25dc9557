//! Which segments are emptied, how far, and what stands in nobody's way.

use std::time::Duration;

use super::*;
use crate::block::{Block, BlockId, BlockType};
use crate::io::FileName;
use crate::io::sim::SimDisk;
use crate::local::upkeep::Woken;
use crate::{LocalBackend, Options, StorageBackend, WriteBatch};

fn options() -> Options {
    let options = LocalBackend::options().single_threaded(true).segment_len_max(64 << 10);
    options.block_len_max(32 << 10)
}

#[test]
fn idle_store_comes_to_rest_though_its_blocks_never_fill_their_segments() {
    let store = LocalBackend::open_on(SimDisk::new(2), options()).expect("opens");
    for id in 1..=300 {
        let block = Block::new(BlockId(id), BlockType::TableData, vec![id as u8; 10_000]);
        store.write_block(block).expect("writes");
    }
    let upkeep = &store.inner.upkeep;
    upkeep.run_due(true).expect("does what is due");
    let written_len = upkeep.written_len();
    for _ in 0..3 {
        upkeep.run_due(true).expect("does what is due");
    }
    assert_eq!(upkeep.written_len(), written_len, "blocks are moved for ever");
}

#[test]
fn compaction_beside_the_closing_ends() {
    let store = LocalBackend::open_on(SimDisk::new(1), options()).expect("opens");
    let put = |id, byte| {
        let block = Block::new(BlockId(id), BlockType::TableData, vec![byte; 10_000]);
        store.write_block(block).expect("writes");
    };
    // The first frame of the first segment is dead, others in it are not.
    (1..=20).for_each(|id| put(id, 1));
    put(1, 2);
    store.inner.shared.upkeep.stop();
    let ended = store.compact_now();
    assert!(matches!(ended, Err(Error::Closed)), "{ended:?}");
}

#[test]
fn caller_who_wants_a_checkpoint_waits_for_one_segment_and_not_for_all() {
    let moved_len = |is_awaited| {
        let store = LocalBackend::open_on(SimDisk::new(1), options()).expect("opens");
        let put = |id| {
            let block = Block::new(BlockId(id), BlockType::TableData, vec![1; 10_000]);
            store.write_block(block).expect("writes");
        };
        let upkeep = &store.inner.upkeep;
        upkeep.pauses.begin();
        (1..=300).for_each(put);
        (1..=300).filter(|id| id % 5 > 0).for_each(put);
        upkeep.pauses.end();
        upkeep.await_turns(is_awaited);
        let call = &store.inner.shared.upkeep;
        call.wait(Some(Duration::ZERO));
        upkeep.run_due(true).expect("does what is due");
        (upkeep.moved_len(), call.wait(Some(Duration::ZERO)))
    };
    let ((one, then), (all, _)) = (moved_len(1), moved_len(0));
    assert_eq!(then, Woken::Called, "what is left is looked at again");
    assert!((1..=30_000).contains(&one), "{one} bytes");
    assert!(all > 5 * one, "{all} bytes");
}

#[test]
fn segment_that_cannot_be_read_stands_in_the_way_of_no_other_one() {
    let used_len = |is_damaged| {
        let disk = SimDisk::new(1);
        let store = LocalBackend::open_on(disk.clone(), options()).expect("opens");
        let put = |id| {
            let block = Block::new(BlockId(id), BlockType::TableData, vec![1; 10_000]);
            store.write_block(block).expect("writes");
        };
        let upkeep = &store.inner.upkeep;
        upkeep.pauses.begin();
        (1..=300).for_each(put);
        let oldest = upkeep.shared.usage.all()[0];
        (1..=300).filter(|id| id % 5 > 0).for_each(put);
        upkeep.pauses.end();
        if is_damaged {
            // It is the best victim of all.
            disk.overwrite(FileName::Segment(oldest.number), 0, &[0xff; PAGE as usize]);
        }
        let is_told = |done: Result<()>| {
            assert_eq!(matches!(&done, Err(Error::Corrupt { .. })), is_damaged, "{done:?}");
        };
        is_told(upkeep.run_due(true));
        upkeep.run_due(true).expect("does not try that one again");
        let used_len = upkeep.totals().used_len;
        is_told(store.compact_now());
        used_len
    };
    assert!(used_len(true) <= used_len(false) + 3 * (64 << 10));
}

/// All rows of a segment in one commit would keep every other one waiting.
#[test]
fn empty_blocks_are_moved_by_many_commits_too() {
    let store = LocalBackend::open_on(SimDisk::new(1), options()).expect("opens");
    let upkeep = &store.inner.upkeep;
    upkeep.pauses.begin();
    let (mut writes, mut deletes) = (WriteBatch::new(), WriteBatch::new());
    (1..=1800).for_each(|id| {
        writes.write(Block::empty(BlockId(id), BlockType::TableData));
    });
    (401..=1800).for_each(|id| {
        deletes.delete(BlockId(id));
    });
    store.apply(writes).expect("writes");
    store.apply(deletes).expect("deletes");
    let before = store.stats().visible_lsn;
    store.compact_now().expect("moves all that are left");
    let commits = store.stats().visible_lsn.0 - before.0;
    assert!(commits > 2, "400 blocks in {commits} commits");
}

#[test]
fn older_and_emptier_segments_are_worth_more() {
    let segment = |sequence, live_len| SegmentUse {
        sequence,
        number: sequence,
        used_len: 1 << 20,
        live_len,
        live_count: 0,
    };
    let benefit = |sequence, live_len| segment(sequence, live_len).benefit(10);
    assert!(benefit(1, 1000) > benefit(1, 100_000));
    assert!(benefit(1, 1000) > benefit(5, 1000));
    assert_eq!(benefit(1, 1 << 20), 0.0);
}
