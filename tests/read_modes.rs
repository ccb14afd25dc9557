//! Ways of reading: every [`ReadMode`] answers the same, and says what is wrong with a file in its
//! own way.

#[path = "support/block.rs"]
mod block;
#[path = "support/files.rs"]
mod files;
#[path = "support/options.rs"]
mod options;

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use aegis_blocks::io::sim::{FaultKind, OperationKind, SimDisk, SyncFailure};
use aegis_blocks::testkit::{Rng, seed};
use aegis_blocks::{
    BlockId, Defect, Durability, Error, LocalBackend, Options, ReadMode, StorageBackend, StorageExt,
};

use block::block;
use options::short_segments;

const MODES: [ReadMode; 3] = [ReadMode::Mapped, ReadMode::Copied, ReadMode::Pread];
const SEGMENT_LEN: u64 = 64 << 10;

/// Nothing is answered out of memory, and every few blocks begin a segment.
fn options(mode: ReadMode) -> Options {
    let options = short_segments(SEGMENT_LEN, 16 << 10).zero_ahead_len(256 << 10);
    options.read_mode(mode).recent_len(0)
}

fn segments(path: &Path) -> Vec<PathBuf> {
    let names = files::names(path).into_iter().filter(|name| name.starts_with("SEG-"));
    names.map(|name| path.join(name)).collect()
}

/// Overwrites, deletes, checkpoints, compaction and reopening on a simulated disk, which stops a
/// program that changes bytes under a reader that holds them. Blocks are held over all of it.
#[test]
fn every_mode_answers_what_was_written_while_segments_are_given_back() {
    for mode in MODES {
        let seed = seed(0x2EAD);
        println!("{mode:?}: seed {seed} (replay with AEGIS_SEED={seed})");
        let (mut rng, disk) = (Rng::new(seed), SimDisk::new(seed));
        let (mut model, mut held) = (std::collections::BTreeMap::new(), Vec::new());
        for session in 0..3 {
            let store = LocalBackend::open_on(disk.clone(), options(mode)).expect("it opens");
            for step in 0..400_u64 {
                let id = 1 + rng.below(40);
                let payload = vec![rng.below(256) as u8; 1 + rng.below(9000) as usize];
                model.insert(id, payload.clone());
                store.write_block(block(id, payload)).expect("a write");
                if step % 100 == 50 {
                    store.checkpoint().expect("a checkpoint");
                    store.compact_now().expect("a compaction");
                }
                let asked = 1 + rng.below(40);
                match (store.read_block(BlockId(asked)), model.get(&asked)) {
                    (Ok(found), Some(expected)) => {
                        assert_eq!(found.data, *expected, "{mode:?}, session {session}");
                        held.push((found.data, expected.clone()));
                    }
                    (Err(Error::BlockNotFound { .. }), None) => {}
                    (found, _) => panic!("{mode:?}: block {asked}: {found:?}"),
                }
                if held.len() > 20 {
                    held.remove(rng.below(20) as usize);
                }
            }
            for (bytes, expected) in &held {
                assert_eq!(bytes, expected, "{mode:?}: held bytes have changed");
            }
            let snapshot = store.snapshot().expect("a snapshot");
            for (id, expected) in &model {
                let found = snapshot.read(BlockId(*id)).expect("a block");
                assert_eq!(found.data, *expected);
            }
            drop(snapshot);
            store.close().expect("a clean close");
        }
        assert_eq!(disk.violations(), Vec::<String>::new(), "{mode:?}");
    }
}

/// More segments than files may be open, read here and there.
#[test]
fn reading_without_maps_keeps_few_files_open() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("store");
    let options = options(ReadMode::Pread).durability(Durability::Buffered);
    let store = options.open(&path).expect("a new store");
    let payload = |id: u64| vec![id as u8; 15 << 10];
    const BLOCKS: u64 = 1500;
    for id in 1..=BLOCKS {
        store.write_block(block(id, payload(id))).expect("a write");
    }
    store.sync().expect("a sync");
    for round in 0..2 {
        for id in (1..=BLOCKS).map(|n| 1 + (n * 607 + round) % BLOCKS) {
            let found = store.read_block(BlockId(id)).expect("a block");
            assert_eq!(found.data, payload(id));
        }
    }
    let files = fs::read_dir("/proc/self/fd").expect("descriptors").filter_map(|entry| {
        let target = fs::read_link(entry.expect("a descriptor").path()).ok()?;
        target.starts_with(&path).then_some(target)
    });
    let (open, all) = (files.count(), segments(&path).len());
    assert!(all > 350, "only {all} segments");
    assert!((100..300).contains(&open), "{open} files of {all} segments are open");
    store.close().expect("a clean close");
}

/// What a map answers by a signal: `tests/real` cuts files under maps.
#[test]
fn cut_segment_is_named_and_ends_no_process_where_nothing_is_mapped() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("store");
    let mut named = 0;
    for len in (0..8).flat_map(|page| [page << 12, (page << 12) + 700]) {
        let write = options(ReadMode::Pread).open(&path).expect("a new store");
        for id in 1..=8 {
            write.write_block(block(id, vec![id as u8; 3000])).expect("a write");
        }
        write.close().expect("a clean close");
        let store = options(ReadMode::Pread).open(&path).expect("the store opens");
        let file = OpenOptions::new().write(true).open(&segments(&path)[0]);
        file.expect("a segment").set_len(len).expect("it is cut");
        for id in 1..=8 {
            match store.read_block(BlockId(id)) {
                Ok(found) => assert_eq!(found.data, vec![id as u8; 3000], "cut to {len}"),
                // The store may have made space behind its tail again: then there are zeros.
                Err(Error::Corrupt {
                    defect: defect @ (Defect::Truncated | Defect::PayloadChecksum),
                    place,
                }) => {
                    assert_eq!(place.block, Some(BlockId(id)), "cut to {len}");
                    named += u64::from(defect == Defect::Truncated);
                }
                Err(error) => panic!("cut to {len}: {error:?}"),
            }
        }
        drop(store);
        fs::remove_dir_all(&path).expect("the store is gone");
    }
    assert!(named > 16, "{named} errors");
}

/// A block that is changed on the disk after it was read is not changed in the hands of the reader,
/// and is named by the next read.
#[test]
fn bytes_that_are_not_of_the_map_stay_as_they_were_verified() {
    for mode in [ReadMode::Copied, ReadMode::Pread] {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("store");
        let store = options(mode).open(&path).expect("a new store");
        store.write_block(block(1, vec![0x5A; 9000])).expect("a write");
        let found = store.read_block(BlockId(1)).expect("the block");
        let segment = &segments(&path)[0];
        let mut bytes = fs::read(segment).expect("the segment");
        let at = bytes.windows(64).position(|window| window == [0x5A; 64]).expect("the payload");
        bytes[at + 40..at + 80].fill(0);
        let file = OpenOptions::new().write(true).open(segment).expect("the segment");
        std::os::unix::fs::FileExt::write_all_at(&file, &bytes[at..at + 100], at as u64)
            .expect("it is changed");
        assert_eq!(found.data, vec![0x5A; 9000], "{mode:?}");
        match store.read_block(BlockId(1)) {
            Err(Error::Corrupt { defect: Defect::PayloadChecksum, .. }) => {}
            other => panic!("{mode:?}: {other:?}"),
        }
    }
}

/// A reader took bytes of commits whose sync failed then, and holds them over the reopening, which
/// leaves those commits out. They lie in a map: a file cut below it ends the process by SIGBUS.
#[test]
fn bytes_held_over_poison_and_reopening_are_not_cut_off() {
    for behaviour in [SyncFailure::CacheKept, SyncFailure::CacheReverted] {
        let disk = SimDisk::new(7);
        let mapped = || options(ReadMode::Mapped).durability(Durability::Buffered);
        let open = || LocalBackend::open_on(disk.clone(), mapped().single_threaded(true));
        let store = open().expect("it opens");
        let mut held = Vec::new();
        for id in 1..=3 {
            store.write_block(block(id, vec![id as u8; 5000])).expect("a write");
            held.push(store.read_block(BlockId(id)).expect("the block").data);
        }
        disk.set_sync_failure(behaviour);
        disk.inject_on(OperationKind::SyncData, None, 0, FaultKind::Eio, false);
        assert!(matches!(store.sync(), Err(Error::Io { .. })));
        drop(store);
        // Another process would do as well: nothing but the bytes is left of the first handle.
        let store = open().expect("it opens again");
        store.write_block(block(9, vec![9; 9000])).expect("it takes writes");
        for (id, bytes) in (1..).zip(&held) {
            assert_eq!(bytes, &vec![id as u8; 5000], "{behaviour:?}");
        }
        store.close().expect("a clean close");
        assert_eq!(disk.violations(), Vec::<String>::new());
    }
}

/// Lengths of the maps of deleted files below a directory.
fn deleted_map_len(path: &Path) -> u64 {
    let maps = fs::read_to_string("/proc/self/maps").expect("the maps of this process");
    let name = path.join("SEG-").to_string_lossy().into_owned();
    let deleted = maps.lines().filter(|line| line.contains(&*name) && line.ends_with("(deleted)"));
    let len_of = |line: &str| {
        let (from, to) = line.split_whitespace().next()?.split_once('-')?;
        let number = |text| u64::from_str_radix(text, 16).ok();
        Some(number(to)? - number(from)?)
    };
    deleted.map(|line| len_of(line).expect("two addresses")).sum()
}

#[test]
fn deleted_segments_that_readers_hold_are_counted_until_they_let_go() {
    for mode in MODES {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("store");
        let store = options(mode).single_threaded(true).open(&path).expect("a new store");
        for id in 1..=50 {
            store.write_block(block(id, vec![id as u8; 15 << 10])).expect("a write");
        }
        let read = |id| store.read_block(BlockId(id)).expect("the block").data;
        let mut held: Vec<_> = (1..=50).map(read).collect();
        for id in 1..=50 {
            store.delete_block(BlockId(id)).expect("a delete");
        }
        store.checkpoint().expect("a checkpoint");
        store.compact_now().expect("a compaction");
        store.checkpoint().expect("a checkpoint");
        let told = || {
            let (space, stats) = (store.space().expect("a report"), store.stats());
            assert_eq!((space.held_bytes, space.pinned_bytes), (stats.held_bytes, 0), "{mode:?}");
            space.held_bytes
        };
        let is_mapped = mode == ReadMode::Mapped;
        assert_eq!(told() >= 10 * SEGMENT_LEN, is_mapped, "{mode:?}: {} bytes are held", told());
        assert_eq!(told(), deleted_map_len(&path), "{mode:?}");
        held.truncate(20);
        assert_eq!(told(), deleted_map_len(&path), "{mode:?}");
        assert_eq!(told() > 0, is_mapped, "{mode:?}");
        drop(held);
        assert_eq!(told(), 0, "{mode:?}: they were dropped");
        store.close().expect("a clean close");
    }
}
