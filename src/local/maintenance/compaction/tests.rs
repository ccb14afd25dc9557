//! Which segments are compacted, how far, and which work compaction does not delay.

use std::time::Duration;

use super::*;
use crate::block::{Block, BlockId, BlockType};
use crate::io::FileName;
use crate::io::sim::SimDisk;
use crate::local::wake::Woken;
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
    let maintenance = &store.inner.maintenance;
    maintenance.run_due(true).expect("does what is due");
    let written_len = maintenance.written_len();
    for _ in 0..3 {
        maintenance.run_due(true).expect("does what is due");
    }
    assert_eq!(maintenance.written_len(), written_len, "blocks are moved for ever");
}

#[test]
fn compaction_beside_the_closing_ends() {
    let store = LocalBackend::open_on(SimDisk::new(1), options()).expect("opens");
    let put = |id, byte| {
        let block = Block::new(BlockId(id), BlockType::TableData, vec![byte; 10_000]);
        store.write_block(block).expect("writes");
    };
    // Only the first frame of the first segment is dead.
    (1..=20).for_each(|id| put(id, 1));
    put(1, 2);
    store.inner.shared.wake_up.stop();
    let ended = store.compact_now();
    assert!(matches!(ended, Err(Error::Closed)), "{ended:?}");
}

#[test]
fn caller_of_a_checkpoint_waits_for_one_segment_and_not_for_all() {
    let moved_len = |waiting_count| {
        let store = LocalBackend::open_on(SimDisk::new(1), options()).expect("opens");
        let put = |id| {
            let block = Block::new(BlockId(id), BlockType::TableData, vec![1; 10_000]);
            store.write_block(block).expect("writes");
        };
        let maintenance = &store.inner.maintenance;
        maintenance.pauses.begin_pause();
        (1..=300).for_each(put);
        (1..=300).filter(|id| id % 5 > 0).for_each(put);
        maintenance.pauses.end_pause();
        maintenance.set_waiting_count(waiting_count);
        let call = &store.inner.shared.wake_up;
        call.wait(Some(Duration::ZERO));
        maintenance.run_due(true).expect("does what is due");
        (maintenance.moved_len(), call.wait(Some(Duration::ZERO)))
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
        let maintenance = &store.inner.maintenance;
        maintenance.pauses.begin_pause();
        (1..=300).for_each(put);
        let oldest = maintenance.parts.shared.usage.all_segments()[0];
        (1..=300).filter(|id| id % 5 > 0).for_each(put);
        maintenance.pauses.end_pause();
        if is_damaged {
            // The damaged segment is the best victim.
            disk.overwrite(FileName::Segment(oldest.number), 0, &[0xff; PAGE as usize]);
        }
        let is_damage = |done: Result<()>| {
            assert_eq!(matches!(&done, Err(Error::Corrupt { .. })), is_damaged, "{done:?}");
        };
        is_damage(maintenance.run_due(true));
        maintenance.run_due(true).expect("does not try that one again");
        let used_len = maintenance.usage_totals().used_len;
        is_damage(store.compact_now().map(|_| ()));
        used_len
    };
    assert!(used_len(true) <= used_len(false) + 3 * (64 << 10));
}

/// One commit with all rows of a segment would delay every other commit.
#[test]
fn empty_blocks_are_moved_by_many_commits_too() {
    let store = LocalBackend::open_on(SimDisk::new(1), options()).expect("opens");
    let maintenance = &store.inner.maintenance;
    maintenance.pauses.begin_pause();
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

/// Blocks that never fill their pages and segments, a third of them replaced. More is dead than any
/// goal allows, and no number of moves changes that.
fn fill_badly(store: &LocalBackend<SimDisk>, len: usize) {
    store.inner.maintenance.pauses.begin_pause();
    let count = (1 << 20) / len as u64;
    for turn in 0..2 {
        for id in (1..=count).filter(|id| turn == 0 || id % 3 == 0) {
            let block = Block::new(BlockId(id), BlockType::TableData, vec![turn; len]);
            store.write_block(block).expect("writes");
        }
    }
    store.inner.maintenance.pauses.end_pause();
    store.inner.shared.wake_up.call();
}

const BAD_LENS: [usize; 5] = [1_000, 4_030, 13_000, 20_900, 31_000];

fn hard_goals() -> impl Iterator<Item = Options> {
    [1.000_001, 1.1].into_iter().map(|goal| options().space_amplification_max(goal))
}

/// States the bound of the module's header: at most twice the live bytes are moved.
#[test]
fn idle_store_moves_each_byte_twice_at_most_whatever_its_options() {
    for (len, options) in BAD_LENS.iter().flat_map(|len| hard_goals().map(|o| (*len, o))) {
        let disk = SimDisk::new(2);
        let goal = options.space_amplification_max;
        let store = LocalBackend::open_on(disk.clone(), options).expect("opens");
        fill_badly(&store, len);
        let (maintenance, live_len) = (&store.inner.maintenance, store.stats().total_bytes);
        let (moved_before, log_before) = (maintenance.moved_len(), maintenance.written_len());
        let mut operations = Vec::new();
        for turn in 0..24 {
            // With calls all the time, and without.
            maintenance.run_due(turn % 2 == 1).expect("does what is due");
            operations.push(disk.operations());
        }
        let context = format!("blocks of {len} bytes, goal {goal}");
        let moved_len = maintenance.moved_len() - moved_before;
        assert!(moved_len <= 2 * live_len, "{context}: {moved_len} bytes of {live_len}");
        let log_len = maintenance.written_len() - log_before;
        assert!(log_len <= 4 * live_len, "{context}: {log_len} bytes of log, {live_len} live");
        assert_eq!(operations[10], operations[23], "{context}: {operations:?}");
    }
}

/// As above, with the store's own threads.
#[test]
fn store_with_threads_becomes_still_without_writes() {
    for len in [13_000, 20_900] {
        let disk = SimDisk::new(2);
        let options = options().single_threaded(false).space_amplification_max(1.1);
        let store = LocalBackend::open_on(disk.clone(), options).expect("opens");
        fill_badly(&store, len);
        let (call, maintenance) = (&store.inner.shared.wake_up, &store.inner.maintenance);
        let (live_len, moved_before) = (store.stats().total_bytes, maintenance.moved_len());
        call.await_stillness();
        let moved_len = maintenance.moved_len() - moved_before;
        assert!(moved_len <= 2 * live_len, "{moved_len} bytes of {live_len} moved");
        let space = store.space().expect("a report");
        assert_eq!(space.empty_bytes, 0, "what is dead as a whole is there: {space:?}");
    }
}

/// Each of these commits once made the whole store a candidate again.
#[test]
fn commit_now_and_then_has_no_store_moved_that_is_as_dense_as_it_gets() {
    let options = options().space_amplification_max(1.1);
    let store = LocalBackend::open_on(SimDisk::new(2), options).expect("opens");
    fill_badly(&store, 1_000);
    let (maintenance, live_len) = (&store.inner.maintenance, store.stats().total_bytes);
    let moved_len = |commit_count| {
        let before = maintenance.moved_len();
        for _ in 0..commit_count {
            store.write_block(Block::empty(BlockId(1), BlockType::TableData)).expect("writes");
            (0..4).for_each(|turn| maintenance.run_due(turn > 1).expect("does what is due"));
        }
        maintenance.moved_len() - before
    };
    let (first_len, rest_len) = (moved_len(20), moved_len(30));
    // The first run covers all that was written while compaction was paused.
    assert!(first_len <= 3 * live_len, "{first_len} bytes of {live_len} for 20 empty blocks");
    assert!(rest_len <= live_len / 4, "{rest_len} bytes of {live_len} for 30 empty blocks");
}

/// A delete is a few bytes at the end of the log, and kept the dead bytes before it there.
#[test]
fn deleted_long_blocks_leave_no_long_segment_with_few_live_bytes() {
    let len = 480 << 10;
    let options = || {
        let options = LocalBackend::options().single_threaded(true).segment_len_max(1 << 20);
        options.block_len_max(len)
    };
    let used_len = |compact: &dyn Fn(&LocalBackend<SimDisk>)| {
        let disk = SimDisk::new(1);
        let store = LocalBackend::open_on(disk.clone(), options()).expect("opens");
        for id in 1..=3 {
            let block = Block::new(BlockId(id), BlockType::TableData, vec![1; len as usize]);
            store.write_block(block).expect("writes");
        }
        let note = Block::new(BlockId(9), BlockType::TableData, vec![1; 1500]);
        store.write_block(note).expect("writes");
        (1..=3).for_each(|id| store.delete_block(BlockId(id)).expect("deletes"));
        compact(&store);
        assert_eq!(store.read_block(BlockId(9)).expect("is there").data, vec![1; 1500]);
        let segments = disk.files().into_iter();
        let segments = segments.filter(|(name, _)| matches!(name, FileName::Segment(_)));
        assert!(segments.clone().count() <= 3, "{:?}", disk.files());
        store.inner.maintenance.usage_totals().used_len
    };
    let told = used_len(&|store| {
        let report = store.compact_now().expect("compacts");
        assert!(report.given_back_bytes() > 2 * 400_000, "{report:?}");
        assert_eq!(report.end, CompactionEnd::Dense, "{report:?}");
    });
    assert!(told <= 16 * PAGE, "{told} bytes of log");
    let idle = used_len(&|store| {
        (0..3).for_each(|_| store.inner.maintenance.run_due(true).expect("does what is due"));
    });
    assert!(idle <= 16 * PAGE, "{idle} bytes of log");
}

/// The end of its log was once released with the next commit only, however much of it was dead.
#[test]
fn store_that_was_emptied_gives_all_of_its_log_back() {
    let store = LocalBackend::open_on(SimDisk::new(1), options()).expect("opens");
    let block = |id| Block::new(BlockId(id), BlockType::TableData, vec![1; 20_000]);
    for id in 1..=30 {
        store.write_block(block(id)).expect("writes");
    }
    (1..=30).for_each(|id| store.delete_block(BlockId(id)).expect("deletes"));
    store.checkpoint().expect("covers the deletes");
    let report = store.compact_now().expect("compacts");
    assert!(report.log_bytes <= 4 * PAGE && report.moved_bytes == 0, "{report:?}");
    store.compact_now().expect("has nothing to do");
    assert_eq!(store.inner.maintenance.usage_totals().used_len, report.log_bytes);
}
