//! A full disk: the write is refused, nothing is lost, and the store goes on when there is space.

#[path = "support/block.rs"]
mod block;
#[path = "support/fill.rs"]
mod fill;
#[path = "support/full.rs"]
mod full;
#[path = "support/options.rs"]
mod options;

use aegis_blocks::io::FileName;
use aegis_blocks::io::sim::{CrashChoice, FaultKind, OperationKind, SimDisk};
use aegis_blocks::{Block, BlockId, Error, LocalBackend, Options, StorageBackend};

use block::block;
use full::{FILLING_LEN, fill_until_refused};
use options::short_segments;

/// Short segments on a small disk.
fn short() -> Options {
    short_segments(64 << 10, 16 << 10)
}

fn filling(id: u64) -> Block {
    fill::filling(id, FILLING_LEN)
}

/// Leaves 1 MiB to the disk and fills it; returns how many blocks are there.
fn fill_disk(disk: &SimDisk, store: &LocalBackend<SimDisk>) -> u64 {
    disk.set_capacity(Some(1 << 20));
    fill_until_refused(store, 200).0
}

fn holds_filling(store: &LocalBackend<SimDisk>, count: u64) {
    for id in 1..=count {
        assert_eq!(store.read_block(BlockId(id)).expect("a block"), filling(id));
    }
    assert_eq!(store.stats().total_blocks, count, "stats against a scan");
}

#[test]
fn full_disk_refuses_the_write_and_nothing_else() {
    let disk = SimDisk::new(2);
    let store = LocalBackend::open_on(disk.clone(), short()).expect("a new store");
    disk.set_capacity(Some(1 << 20));
    let (count, error) = fill_until_refused(&store, 200);
    assert!(matches!(&error, Error::StorageFull { needed, .. } if *needed > 0), "{error:?}");
    assert!(count > 10, "a disk of 1 MiB was full after {count} blocks of 10 kB");
    holds_filling(&store, count);
    let tx = store.begin_transaction().expect("a transaction");
    for id in 1..=count + 1 {
        store.write_block_in_tx(tx, block(id, vec![0; 5000])).expect("a pending write");
    }
    let error = store.commit_transaction(tx).expect_err("still full");
    assert!(matches!(error, Error::StorageFull { .. }), "{error:?}");
    holds_filling(&store, count);
    // Writes resume when space returns, without reopen.
    disk.set_capacity(None);
    store.write_block(filling(count + 1)).expect("there is space again");
    holds_filling(&store, count + 1);
    store.close().expect("a clean close");
    let store = LocalBackend::open_on(disk.clone(), short()).expect("the store opens again");
    holds_filling(&store, count + 1);
    assert!(disk.violations().is_empty(), "{:?}", disk.violations());
}

#[test]
fn full_disk_loses_nothing_at_reopen() {
    let disk = SimDisk::new(3);
    let store = LocalBackend::open_on(disk.clone(), short()).expect("a new store");
    let count = fill_disk(&disk, &store);
    let killed = disk.freeze();
    store.close().expect("a clean close");
    for (disk, is_clean) in [(killed, false), (disk, true)] {
        let open = || LocalBackend::open_on(disk.clone(), short());
        // Left by a session that had no space to finish it.
        disk.put_file(FileName::Temporary(1000), b"unfinished");
        let store = open().expect("a full disk stops no open");
        assert_eq!(store.recovery().clean, is_clean);
        drop(store);
        disk.set_capacity(None);
        let store = open().expect("the store opens again");
        holds_filling(&store, count);
        store.write_block(filling(count + 1)).expect("there is space again");
        holds_filling(&store, count + 1);
        assert!(disk.violations().is_empty(), "{:?}", disk.violations());
    }
}

#[test]
fn full_store_closes_and_opens_while_the_disk_is_full() {
    let disk = SimDisk::new(3);
    let open = || LocalBackend::open_on(disk.clone(), short());
    let store = open().expect("a new store");
    let count = fill_disk(&disk, &store);
    store.close().expect("a clean close");
    for _ in 0..3 {
        let store = open().expect("a full disk stops no open");
        holds_filling(&store, count);
        store.close().expect("a clean close");
    }
}

#[test]
fn deletes_go_on_when_the_disk_is_full() {
    let disk = SimDisk::new(4);
    let store = LocalBackend::open_on(disk.clone(), short()).expect("a new store");
    let count = fill_disk(&disk, &store);
    for id in 1..=count {
        store.delete_block(BlockId(id)).expect("a delete on a full disk");
    }
    assert_eq!(store.stats().total_blocks, 0);
    let cut = disk.crash(CrashChoice::Nothing);
    store.close().expect("a clean close");
    for disk in [cut, disk] {
        let store = LocalBackend::open_on(disk, short()).expect("the store opens again");
        assert_eq!(store.stats().total_blocks, 0);
    }
}

#[test]
fn full_store_is_emptied_of_small_blocks_one_by_one() {
    let disk = SimDisk::new(5);
    let store = LocalBackend::open_on(disk.clone(), short()).expect("a new store");
    disk.set_capacity(Some(1 << 20));
    // A hundred times smaller than what a delete takes in the log.
    let mut count = 0;
    for first in (1..).step_by(500) {
        let tx = store.begin_transaction().expect("a transaction");
        for id in first..first + 500 {
            store.write_block_in_tx(tx, block(id, vec![id as u8; 40])).expect("a pending write");
        }
        match store.commit_transaction(tx) {
            Ok(()) => count += 500,
            Err(Error::StorageFull { .. }) => break,
            Err(error) => panic!("a full disk answers {error:?}"),
        }
    }
    assert!(count >= 2000, "a disk of 1 MiB was full after {count} blocks of 40 bytes");
    for id in (1..=count).step_by(2).chain((2..=count).step_by(2)) {
        store.delete_block(BlockId(id)).unwrap_or_else(|e| panic!("delete {id} of {count}: {e:?}"));
    }
    assert_eq!(store.stats().total_blocks, 0);
    store.compact_now().expect("nothing is left to move");
    store
        .write_block(filling(1))
        .expect("there is space again, and none was given back from outside");
    store.close().expect("a clean close");
    let store = LocalBackend::open_on(disk.clone(), short()).expect("the store opens again");
    holds_filling(&store, 1);
    assert!(disk.violations().is_empty(), "{:?}", disk.violations());
}

#[test]
fn compaction_frees_a_full_disk_for_writes() {
    let disk = SimDisk::new(6);
    let store = LocalBackend::open_on(disk.clone(), short()).expect("a new store");
    let count = fill_disk(&disk, &store);
    // Each segment keeps one in five.
    for id in (1..=count).filter(|id| id % 5 != 0) {
        store.delete_block(BlockId(id)).expect("a delete on a full disk");
    }
    store.compact_now().expect("compaction on a full disk");
    for id in (1..=count).filter(|id| id % 5 != 0).take(20) {
        store.write_block(filling(id)).expect("a write into what was freed");
    }
    for id in (5..=count).step_by(5) {
        assert_eq!(store.read_block(BlockId(id)).expect("a block"), filling(id));
    }
    assert!(disk.violations().is_empty(), "{:?}", disk.violations());
}

#[test]
fn store_that_needs_recovery_opens_and_deletes_on_a_full_disk() {
    let disk = SimDisk::new(7);
    let store = LocalBackend::open_on(disk.clone(), short()).expect("a new store");
    let count = fill_disk(&disk, &store);
    let mut disk = disk.crash(CrashChoice::Everything);
    drop(store);
    for round in 1..=3 {
        let pages = disk.files().iter().map(|(_, len)| len.div_ceil(4096)).sum::<u64>();
        disk.set_capacity(Some(pages * 4096));
        let store =
            LocalBackend::open_on(disk.clone(), short()).expect("a full disk stops no open");
        assert!(!store.recovery().clean, "round {round}");
        assert_eq!(store.stats().total_blocks, count - round + 1);
        store.delete_block(BlockId(round)).expect("a delete on a full disk");
        let refused = store.write_block(filling(1000)).expect_err("no space");
        assert!(matches!(refused, Error::StorageFull { .. }), "{refused:?}");
        let next = disk.crash(CrashChoice::Everything);
        drop(store);
        disk = next;
    }
}

#[test]
fn deletes_that_meet_writes_in_a_group_go_on_alone() {
    let disk = SimDisk::new(8);
    let store = LocalBackend::open_on(disk.clone(), short()).expect("a new store");
    let count = fill_disk(&disk, &store);
    let refused = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let tries = (0..200).map(|id| store.write_block(block(10_000 + id, vec![1; 15_000])));
            tries.filter(|answer| matches!(answer, Err(Error::StorageFull { .. }))).count()
        });
        for thread in 0..2 {
            let store = &store;
            scope.spawn(move || {
                for id in (1..=count / 4).filter(|id| id % 2 == thread) {
                    store.delete_block(BlockId(id)).expect("a delete on a full disk");
                }
            });
        }
        writer.join().expect("no panic")
    });
    assert!(refused > 0, "the writer never met a full disk");
    for id in 1..=count / 4 {
        assert!(store.read_block(BlockId(id)).is_err(), "block {id} was deleted");
    }
}

fn reserve_len(disk: &SimDisk) -> u64 {
    let files = disk.files().into_iter();
    files.filter(|(name, _)| *name == FileName::Reserve).map(|(_, len)| len).sum()
}

#[test]
fn long_segments_are_no_hindrance_on_a_small_disk() {
    let disk = SimDisk::new(9);
    let store = LocalBackend::open_on(disk.clone(), LocalBackend::options()).expect("a new store");
    disk.set_capacity(Some(24 << 20));
    let large = |id: u64| block(id, vec![id as u8; 200_000]);
    let count = (1..200).find(|id| store.write_block(large(*id)).is_err()).expect("full") - 1;
    assert!(count > 50, "a disk of 24 MiB was full after {count} blocks of 200 kB");
    for id in 1..=count {
        store.delete_block(BlockId(id)).unwrap_or_else(|e| panic!("delete {id} of {count}: {e:?}"));
    }
    store.compact_now().expect("nothing is left to move");
    for id in 1..=count / 2 {
        store
            .write_block(large(id))
            .expect("there is space again, and none was given back from outside");
    }
    assert!(disk.violations().is_empty(), "{:?}", disk.violations());
}

#[test]
fn write_that_finds_no_space_has_some_made_of_what_is_dead() {
    let disk = SimDisk::new(10);
    // Compaction by itself would leave all of that alone.
    let options = short().single_threaded(true).space_amplification_max(100.0);
    let store = LocalBackend::open_on(disk.clone(), options).expect("a new store");
    disk.set_capacity(Some(1 << 20));
    let mut version = 0;
    while store.write_block(block(1 + version % 30, vec![version as u8; 10_000])).is_ok() {
        version += 1;
        assert!(version < 200, "a disk of 1 MiB holds 2 MB");
    }
    // The call after the refused one finds the space of the replaced versions.
    for id in 31..40 {
        store.write_block(filling(id)).expect("a write into what was dead");
    }
    for id in 31..40 {
        assert_eq!(store.read_block(BlockId(id)).expect("a block"), filling(id));
    }
    assert!(disk.violations().is_empty(), "{:?}", disk.violations());
}

#[test]
fn reserve_is_durable_is_given_up_and_is_whole_again() {
    let disk = SimDisk::new(11);
    let options = short().single_threaded(true);
    let store = LocalBackend::open_on(disk.clone(), options.clone()).expect("a new store");
    store.write_block(filling(1)).expect("a write");
    let whole = store.stats().reserve_bytes;
    assert!(whole >= 256 << 10, "{whole} bytes are kept");
    let left = disk.crash(CrashChoice::Nothing);
    assert_eq!(reserve_len(&left), whole, "what a power cut leaves of the reserve");
    let count = fill_disk(&disk, &store);
    assert_eq!((store.stats().reserve_bytes, reserve_len(&disk)), (whole, whole), "writes took it");
    for id in 2..=count {
        store.delete_block(BlockId(id)).expect("a delete on a full disk");
    }
    assert!(store.stats().reserve_drawn_bytes > 0, "deletes took none of it");
    disk.set_capacity(None);
    store.write_block(filling(2)).expect("there is space again");
    assert_eq!((store.stats().reserve_bytes, reserve_len(&disk)), (whole, whole), "not filled up");
}

#[test]
fn reserve_grows_with_the_store_and_shrinks_with_it() {
    let disk = SimDisk::new(12);
    let options = short().single_threaded(true);
    let store = LocalBackend::open_on(disk.clone(), options).expect("a new store");
    let small = store.stats().reserve_bytes;
    let count = 40_000;
    for first in (1..count).step_by(2000) {
        let tx = store.begin_transaction().expect("a transaction");
        for id in first..first + 2000 {
            store.write_block_in_tx(tx, block(id, "x")).expect("a pending write");
        }
        store.commit_transaction(tx).expect("a commit");
    }
    store.write_block(block(count + 1, "x")).expect("a write");
    let large = store.stats().reserve_bytes;
    // Two and a half checkpoints of 32 bytes a block.
    assert!(large >= count * 80, "{large} bytes are kept for {count} blocks");
    assert!(
        large <= (small + count * 80) * 9 / 8 + 4096,
        "{large} bytes are kept for {count} blocks"
    );
    for first in (1..count).step_by(2000) {
        let tx = store.begin_transaction().expect("a transaction");
        for id in first..first + 2000 {
            store.delete_block_in_tx(tx, BlockId(id)).expect("a pending delete");
        }
        store.commit_transaction(tx).expect("a commit");
    }
    store.compact_now().expect("compacts");
    store.write_block(block(count + 1, "x")).expect("a write");
    let again = store.stats().reserve_bytes;
    assert!(again < large / 2, "{again} bytes are kept for one block");
    assert_eq!(reserve_len(&disk), again);
}

#[test]
fn disk_that_refuses_the_reserve_stands_in_no_way() {
    for kind in [OperationKind::Create, OperationKind::Zero, OperationKind::SyncData] {
        let disk = SimDisk::new(13);
        disk.inject_on(kind, Some(FileName::Reserve), 0, FaultKind::Eio, true);
        let store = LocalBackend::open_on(disk.clone(), short()).expect("a new store");
        assert_eq!(store.stats().reserve_bytes, 0, "{kind:?}");
        store.write_block(filling(1)).expect("a write without a reserve");
        store.delete_block(BlockId(1)).expect("a delete without a reserve");
        store.compact_now().expect("compacts without a reserve");
        store.close().expect("a clean close");
        disk.clear_faults();
        let store = LocalBackend::open_on(disk, short()).expect("the store opens again");
        assert!(store.stats().reserve_bytes >= 256 << 10, "{kind:?}");
    }
}

#[cfg(unix)]
#[test]
fn reserve_takes_its_blocks_and_a_copy_with_a_hole_gets_them() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("store");
    let open = || short().open(&path).expect("the store opens");
    let taken = || {
        let found = std::fs::metadata(path.join("RESERVE")).expect("a reserve");
        assert_eq!(found.blocks() * 512, found.len(), "bytes taken, of those kept");
        found.len()
    };
    open().close().expect("a clean close");
    let len = taken();
    // What a copy of the store may make of it.
    let hole = std::fs::File::create(path.join("RESERVE")).expect("an empty file");
    hole.set_len(len).expect("a hole");
    open().close().expect("a clean close");
    assert_eq!(taken(), len);
}

#[test]
fn new_store_is_small_with_its_reserve() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = LocalBackend::open(dir.path().join("store")).expect("a new store");
    store.write_block(filling(1)).expect("a write");
    store.prepare_space(1 << 20).expect("space for a new store");
    let space = store.space().expect("a report");
    assert!(space.reserve_bytes >= 1 << 20, "{space:?}");
    assert!(space.file_bytes < 8 << 20, "{space:?}");
}
