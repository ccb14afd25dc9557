//! When maintenance runs, and which files and space it leaves alone.

use std::ops::ControlFlow::Continue;

use super::*;
use crate::block::{Block, BlockId, BlockType};
use crate::io::sim::SimDisk;
use crate::local::commit::log::MAINTENANCE_EVERY;
use crate::{LocalBackend, StorageBackend, StorageExt, WriteBatch};

/// Deletes hardly lengthen the log, and make much of it dead.
#[test]
fn maintenance_is_called_for_dead_bytes_too() {
    let options = LocalBackend::options().single_threaded(true);
    let store = LocalBackend::open_on(SimDisk::new(1), options).expect("opens");
    let ids = 1..=(MAINTENANCE_EVERY >> 16);
    for id in ids.clone() {
        let block = Block::new(BlockId(id), BlockType::TableData, vec![1; 1 << 16]);
        store.write_block(block).expect("writes");
    }
    let call = &store.inner.shared.wake_up;
    call.wait(Some(Duration::ZERO));
    let mut deletes = WriteBatch::new();
    ids.for_each(|id| {
        deletes.delete(BlockId(id));
    });
    store.apply(deletes).expect("deletes");
    assert_eq!(call.wait(Some(Duration::ZERO)), Woken::Called);
    store.write_block(Block::empty(BlockId(1), BlockType::TableData)).expect("writes");
    assert_eq!(call.wait(Some(Duration::ZERO)), Woken::Rested, "not for every commit");
}

#[test]
fn idle_store_keeps_what_was_prepared_until_it_is_used() {
    let options = LocalBackend::options().single_threaded(true);
    let store = LocalBackend::open_on(SimDisk::new(1), options).expect("opens");
    let maintenance = &store.inner.maintenance;
    let idle = || {
        maintenance.run_due(true).expect("does what is due");
        maintenance.parts.space.free_len()
    };
    store.prepare_space(8 << 20).expect("zeroes");
    assert!(idle() >= 8 << 20, "what was prepared is gone");
    for id in 1..=9 {
        let block = Block::new(BlockId(id), BlockType::TableData, vec![1; 1 << 20]);
        store.write_block(block).expect("writes");
    }
    assert!(idle() <= 2 << 20, "what was used is kept for ever");
    store.prepare_space(8 << 20).expect("zeroes");
    maintenance.shrink_prepared(true).expect("gives back");
    assert!(maintenance.parts.space.free_len() <= 2 << 20, "space is kept that is needed");
}

/// Another session may own its files by then.
#[test]
fn closed_store_is_not_changed_by_maintenance() {
    let disk = SimDisk::new(1);
    let options = LocalBackend::options().single_threaded(true);
    let store = LocalBackend::open_on(disk.clone(), options).expect("opens");
    let inner = Arc::clone(&store.inner);
    let block = Block::new(BlockId(1), BlockType::TableData, vec![1; 1000]);
    store.write_block(block).expect("writes");
    store.close().expect("closes");
    let (before, maintenance) = (disk.operations(), &inner.maintenance);
    let is_refused = |done: Result<()>| assert!(matches!(done, Err(Error::Closed)), "{done:?}");
    is_refused(maintenance.checkpoint());
    is_refused(maintenance.compact_now().map(|_| ()));
    is_refused(maintenance.reclaim_space());
    let backup = maintenance.back_up_to(&SimDisk::new(2), None, &|_| Continue(()), &|| Ok(()));
    is_refused(backup.map(|_| ()));
    maintenance.run_due(true).expect("does nothing");
    assert_eq!(disk.operations(), before, "a closed store's files were changed");
}

#[test]
fn checkpoint_that_meets_damage_leaves_no_file() {
    let disk = SimDisk::new(1);
    let options = LocalBackend::options().single_threaded(true);
    let store = LocalBackend::open_on(disk.clone(), options).expect("opens");
    let put = |id| {
        let block = Block::empty(BlockId(id), BlockType::TableData);
        store.write_block(block).expect("writes");
    };
    (1..=300).for_each(put);
    store.checkpoint().expect("makes a base");
    let is_image = |(name, _): &(FileName, u64)| matches!(name, FileName::Checkpoint(_));
    let (image, _) = disk.files().into_iter().find(is_image).expect("the base");
    // Its first leaf, which was not verified yet.
    disk.overwrite(image, PAGE, &[0xff; PAGE as usize]);
    disk.drop_caches();
    // Enough for a new base.
    (1001..=1600).for_each(put);
    let before = disk.files();
    for _ in 0..3 {
        let made = store.checkpoint();
        assert!(matches!(made, Err(Error::Corrupt { .. })), "{made:?}");
    }
    let left =
        disk.files().into_iter().filter(|(name, _)| !before.iter().any(|(other, _)| other == name));
    assert_eq!(left.collect::<Vec<_>>(), []);
}

#[test]
fn segments_that_snapshots_need_are_not_asked_for_by_one_checkpoint_after_the_other() {
    const SEGMENT_LEN: u64 = 64 << 10;
    let options = LocalBackend::options().single_threaded(true).segment_len_max(SEGMENT_LEN);
    let options = options.block_len_max(32 << 10);
    let store = LocalBackend::open_on(SimDisk::new(1), options).expect("opens");
    let put = |id, len| {
        let block = Block::new(BlockId(id), BlockType::TableData, vec![1; len]);
        store.write_block(block).expect("writes");
    };
    (1..=40).for_each(|id| put(id, 10_000));
    let snapshot = store.snapshot().expect("held");
    (1..=40).for_each(|id| put(id, 10_000));
    let maintenance = &store.inner.maintenance;
    let newest = || maintenance.state.lock().chain.image_names()[0].number;
    assert!(maintenance.usage_totals().dead_len > SEGMENT_LEN, "the snapshot sees the old blocks");
    // Each commit runs maintenance first.
    put(50, 100);
    let before = newest();
    (51..=54).for_each(|id| put(id, 100));
    assert_eq!(newest(), before, "another checkpoint that releases nothing");
    drop(snapshot);
    put(55, 100);
    assert_ne!(newest(), before);
    assert!(maintenance.usage_totals().dead_len <= SEGMENT_LEN);
}
