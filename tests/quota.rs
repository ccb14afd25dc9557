//! A quota: the store is full before the disk is, says so, and goes on as on a full disk.

#[path = "support/fill.rs"]
mod fill;
#[path = "support/full.rs"]
mod full;
#[path = "support/options.rs"]
mod options;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aegis_blocks::io::sim::{CrashChoice, SimDisk};
use aegis_blocks::{Block, BlockId, Error, LocalBackend, Options, SpaceLimit, StorageBackend};

use full::{FILLING_LEN, fill_until_refused};
use options::short_segments;

const MAX: u64 = 1 << 20;

fn filling(id: u64) -> Block {
    fill::filling(id, FILLING_LEN)
}

fn short() -> Options {
    short_segments(64 << 10, 16 << 10)
}

fn open(disk: &SimDisk, options: Options) -> LocalBackend<SimDisk> {
    LocalBackend::open_on(disk.clone(), options).expect("the store opens")
}

/// Bytes of all files.
fn taken(disk: &SimDisk) -> u64 {
    disk.files().iter().map(|(_, len)| len).sum()
}

fn is_quota(error: &Error, max: u64) -> bool {
    matches!(error, Error::StorageFull { limit: SpaceLimit::MaxBytes(found), .. } if *found == max)
}

fn holds(store: &LocalBackend<SimDisk>, ids: impl Iterator<Item = u64>) {
    let count =
        ids.map(|id| assert_eq!(store.read_block(BlockId(id)).expect("a block"), filling(id)));
    assert_eq!(count.count() as u64, store.stats().total_blocks);
}

#[test]
fn store_takes_no_more_than_its_quota_and_says_that_it_is_the_quota() {
    for single in [true, false] {
        let disk = SimDisk::new(1);
        let store = open(&disk, short().single_threaded(single).max_bytes(MAX));
        let (count, error) = fill_until_refused(&store, 1000);
        assert!(is_quota(&error, MAX), "{error:?}");
        assert!(error.to_string().contains("within the store's 1048576 bytes"), "{error}");
        assert!(count > 40, "a quota of 1 MiB was used up by {count} blocks of 10 kB");
        assert!(taken(&disk) <= MAX, "{} bytes are taken", taken(&disk));
        holds(&store, 1..=count);
        let error = store.prepare_space(2 * MAX).expect_err("more than the quota");
        assert!(is_quota(&error, MAX), "{error:?}");
        let before = taken(&disk);
        let space = store.space().expect("a report");
        assert_eq!(space.max_bytes, Some(MAX));
        assert!(space.file_bytes <= MAX && space.left_bytes <= MAX, "{space:?}");
        // A store with threads goes on emptying segments between two looks at it.
        if single {
            assert_eq!(space.file_bytes, before, "{space:?}");
            assert_eq!(space.left_bytes, MAX - before, "{space:?}");
        }
        store.close().expect("a clean close");
        holds(&open(&disk, short()), 1..=count);
        assert!(disk.violations().is_empty(), "{:?}", disk.violations());
    }
}

#[test]
fn full_disk_is_not_called_the_quota() {
    let disk = SimDisk::new(2);
    let store = open(&disk, short().max_bytes(4 * MAX));
    disk.set_capacity(Some(MAX));
    let (_, error) = fill_until_refused(&store, 1000);
    assert!(matches!(error, Error::StorageFull { limit: SpaceLimit::Disk, .. }), "{error:?}");
    assert!(error.to_string().contains("on the disk"), "{error}");
}

#[test]
fn deletes_compaction_and_checkpoints_go_on_at_the_quota() {
    for single in [true, false] {
        let disk = SimDisk::new(3);
        let options = short().single_threaded(single).max_bytes(MAX);
        let store = open(&disk, options.clone());
        let (count, _) = fill_until_refused(&store, 1000);
        let check = |what: &str| {
            assert!(taken(&disk) <= MAX, "{} bytes are taken after {what}", taken(&disk));
        };
        for id in (1..=count).filter(|id| id % 5 != 0) {
            store.delete_block(BlockId(id)).expect("a delete at the quota");
            check("a delete");
        }
        store.checkpoint().expect("a checkpoint at the quota");
        check("a checkpoint");
        store.compact_now().expect("compaction at the quota");
        check("compaction");
        for id in (1..=count).filter(|id| id % 5 != 0).take(20) {
            store.write_block(filling(id)).expect("a write into what was freed");
            check("a write");
        }
        store.close().expect("a clean close");
        let store = open(&disk, options);
        (5..=count).step_by(5).for_each(|id| {
            assert_eq!(store.read_block(BlockId(id)).expect("a block"), filling(id));
        });
    }
}

#[test]
fn store_above_its_quota_opens_refuses_writes_and_heals_by_deletes() {
    for crashed in [false, true] {
        let disk = SimDisk::new(4);
        let store = open(&disk, short());
        let count = 300;
        for id in 1..=count {
            store.write_block(filling(id)).expect("a write");
        }
        let disk = match crashed {
            true => disk.crash(CrashChoice::Everything),
            false => disk,
        };
        if crashed {
            drop(store);
        } else {
            store.close().expect("a clean close");
        }
        let before = taken(&disk);
        assert!(before > 2 * MAX, "{before} bytes are taken");
        let store = open(&disk, short().max_bytes(MAX));
        holds(&store, 1..=count);
        let error = store.write_block(filling(1)).expect_err("more is there than may be");
        assert!(is_quota(&error, MAX), "{error:?}");
        // The reserve of that moment, and the segment that recovery or the session begins, are on
        // top.
        let most = taken(&disk).max(before + (512 << 10));
        for id in 1..=count - 10 {
            store.delete_block(BlockId(id)).unwrap_or_else(|e| panic!("delete {id}: {e:?}"));
            assert!(taken(&disk) <= most, "{} bytes are taken, not {most}", taken(&disk));
        }
        store.compact_now().expect("compaction above the quota");
        store
            .write_block(filling(1))
            .expect("enough was deleted, and the store was not opened again");
        holds(&store, (1..=1).chain(count - 9..=count));
        assert!(taken(&disk) <= MAX, "{} bytes are taken", taken(&disk));
        // From here on the quota holds like any other.
        for id in 2..=count - 10 {
            let Err(error) = store.write_block(filling(id)) else { continue };
            assert!(is_quota(&error, MAX), "{error:?}");
            break;
        }
        assert!(taken(&disk) <= MAX, "{} bytes are taken", taken(&disk));
        assert!(disk.violations().is_empty(), "{:?}", disk.violations());
    }
}

#[test]
fn failed_operations_leave_the_count_right() {
    use aegis_blocks::io::sim::{FaultKind, OperationKind as Kind};
    for kind in [Kind::Create, Kind::Zero, Kind::Rename, Kind::Remove, Kind::Write] {
        for fault in [FaultKind::EioAfterEffect, FaultKind::Enospc] {
            let disk = SimDisk::new(5);
            let store = open(&disk, short().single_threaded(true).max_bytes(MAX));
            for skip in 0..5 {
                disk.inject_on(kind, None, skip, fault, false);
                // Any of these may meet the fault, or the quota: only the count is asked for.
                for id in 1..40 {
                    drop(store.write_block(filling(id)));
                }
                drop(store.checkpoint());
                drop(store.compact_now());
            }
            disk.clear_faults();
            let left = store.space().expect("a report").left_bytes;
            assert_eq!(left, MAX.saturating_sub(taken(&disk)), "{kind:?} {fault:?}");
        }
    }
}

#[test]
fn owner_is_told_once_that_space_is_low_before_it_is_gone() {
    let disk = SimDisk::new(6);
    let (told, left) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let tell = {
        let (told, left) = (Arc::clone(&told), Arc::clone(&left));
        move |bytes| {
            told.fetch_add(1, Ordering::Relaxed);
            left.store(bytes, Ordering::Relaxed);
        }
    };
    let options = short().single_threaded(true).max_bytes(MAX).on_space_low(300 << 10, tell);
    let store = open(&disk, options);
    let mut count = 0;
    while told.load(Ordering::Relaxed) == 0 {
        count += 1;
        store.write_block(filling(count)).expect("there is space before the callback is called");
    }
    let bytes = left.load(Ordering::Relaxed);
    assert!((100 << 10..300 << 10).contains(&bytes), "told at {bytes} bytes");
    // Writes are refused from the quota on, and so are deletes of what was refused.
    (count + 1..200).for_each(|id| drop(store.write_block(filling(id))));
    assert_eq!(told.load(Ordering::Relaxed), 1, "told again though nothing came back");
    (1..200).for_each(|id| drop(store.delete_block(BlockId(id))));
    store.compact_now().expect("compacts");
    (1..200).for_each(|id| drop(store.write_block(filling(id))));
    assert_eq!(told.load(Ordering::Relaxed), 2, "not told the second time");
}

#[test]
fn full_disk_rings_too_with_threads() {
    let disk = SimDisk::new(7);
    let (sender, told) = std::sync::mpsc::channel();
    let options = short().on_space_low(200 << 10, move |bytes| {
        sender.send(bytes).expect("the test listens");
    });
    let store = open(&disk, options);
    disk.set_capacity(Some(MAX));
    fill_until_refused(&store, 1000);
    let bytes =
        told.recv_timeout(std::time::Duration::from_secs(60)).expect("the callback is called");
    assert!(bytes < 200 << 10, "told at {bytes} bytes");
}

#[test]
fn quota_too_small_for_a_store_is_refused() {
    let refused = LocalBackend::open_on(SimDisk::new(8), short().max_bytes(MAX - 1));
    let error = refused.expect_err("less than a store takes");
    assert!(matches!(error, Error::InvalidArgument { argument: "max_bytes", .. }), "{error:?}");
}

#[test]
fn quota_counts_the_files_of_a_real_directory() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("store");
    let max = 8 << 20;
    let store = LocalBackend::options().max_bytes(max).open(&path).expect("a new store");
    let refused = (1..2000).find_map(|id| store.write_block(filling(id)).err());
    let error = refused.expect("20 MB are more than 8 MiB");
    assert!(is_quota(&error, max), "{error:?}");
    let space = store.space().expect("a report");
    assert!(space.file_bytes <= max, "{space:?}");
    assert!(space.live_bytes > max / 2, "{space:?}");
    let count = store.stats().total_blocks;
    (1..=count).for_each(|id| store.delete_block(BlockId(id)).expect("a delete at the quota"));
    store.compact_now().expect("compacts");
    store.write_block(filling(1)).expect("there is space again");
}

#[test]
fn paused_store_is_refused_at_the_quota_by_name_moves_nothing_and_takes_writes_when_resumed() {
    for single in [true, false] {
        let disk = SimDisk::new(8);
        let store = open(&disk, short().single_threaded(single).max_bytes(MAX));
        store.pause_compaction().expect("pauses");
        let (count, _) = fill_until_refused(&store, 1000);
        let mut refused = 0;
        for round in 0..3 {
            // No segment is dead as a whole.
            for id in (1..=count).filter(|id| id % 5 > round) {
                match store.write_block(filling(id)) {
                    Ok(_) => {}
                    Err(error) if is_quota(&error, MAX) => refused += 1,
                    Err(error) => panic!("{error:?}"),
                }
            }
        }
        assert!(refused > 0, "the quota was never reached");
        for id in (1..=count).filter(|id| id % 5 > 1) {
            if let Err(error) = store.delete_block(BlockId(id)) {
                assert!(is_quota(&error, MAX), "{error:?}");
            }
        }
        assert!(store.stats().total_blocks < count, "no delete found room in the reserve");
        assert_eq!(store.stats().moved_bytes, 0, "a paused store has made room by moving");
        assert!(taken(&disk) <= MAX, "{} bytes are taken", taken(&disk));
        store.resume_compaction().expect("resumes");
        for id in (1..=count).filter(|id| id % 5 > 1) {
            match store.delete_block(BlockId(id)) {
                Ok(()) | Err(Error::BlockNotFound { .. }) => {}
                Err(error) => panic!("a delete at the quota after a resume: {error:?}"),
            }
        }
        store.compact_now().expect("compacts");
        store.write_block(filling(count + 1)).expect("a write into what was freed");
        assert!(disk.violations().is_empty(), "{:?}", disk.violations());
    }
}
