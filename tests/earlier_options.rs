//! What was legal under the options of an earlier session meets a limit of this one. Stores made
//! under large options are opened under each small one, and under all of them at once: whatever is
//! then done to them ends, loses nothing, and is refused by name if it is refused.

use std::collections::BTreeMap;
use std::ops::ControlFlow::Continue;
use std::path::Path;
use std::time::Duration;

use aegis_blocks::io::sim::{CrashChoice, SimDisk};
use aegis_blocks::io::{Disk, Entry};
use aegis_blocks::{
    Block, BlockId, BlockType, Error, LocalBackend, Options, Result, SpaceLimit, StorageBackend,
    WriteBatch,
};

type Model = BTreeMap<u64, Vec<u8>>;

/// Changes of files after which a store under test counts as one that goes on for ever: many times
/// what any of them takes.
const OPERATIONS_MAX: u64 = 40_000;

fn large() -> Options {
    LocalBackend::options()
        .single_threaded(true)
        .segment_len_max(4 << 20)
        .block_len_max(2 << 20)
        .open_transactions_max(1 << 10)
}

type Change = fn(Options) -> Options;

/// One small option each, and at last all of them.
fn small() -> Vec<(&'static str, Options)> {
    let segments = |o: Options| o.segment_len_max(64 << 10).block_len_max(32 << 10);
    let table: Vec<(&str, Change)> = vec![
        ("segment_len_max", |o| o.segment_len_max(64 << 10)),
        ("block_len_max", |o| o.block_len_max(16)),
        ("transaction_len_max", |o| o.transaction_len_max(16 << 10)),
        ("memory_len_max", |o| o.memory_len_max(1 << 20)),
        ("in_flight_len_max", |o| o.in_flight_len_max(0)),
        ("open_transactions_max", |o| o.open_transactions_max(1)),
        ("snapshot_age_max", |o| o.snapshot_age_max(Duration::from_secs(1))),
        ("snapshot_pinned_max", |o| o.snapshot_pinned_max(0)),
        ("zero_ahead_len", |o| o.zero_ahead_len(0)),
        ("recent_len", |o| o.recent_len(0)),
        ("checkpoint_log_len", |o| o.checkpoint_log_len(0)),
        ("space_amplification_max", |o| o.space_amplification_max(1.000_001)),
        ("max_bytes", |o| o.max_bytes(1 << 20)),
    ];
    let with = |change: &Change| change(LocalBackend::options().single_threaded(true));
    let mut all: Vec<_> = table.iter().map(|(name, change)| (*name, with(change))).collect();
    let base = segments(LocalBackend::options().single_threaded(true));
    let every = |leave_out: &[&str]| {
        let changes = table
            .iter()
            .filter(|(name, _)| *name != "segment_len_max" && !leave_out.contains(name));
        changes.fold(base.clone(), |options, (_, change)| change(options))
    };
    all.push(("segments and amplification", base.clone().space_amplification_max(1.000_001)));
    all.push(("all but a quota", every(&["max_bytes"])));
    all.push(("all", every(&[])));
    all
}

fn bytes(id: u64, version: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|n| (id * 31 + version * 7 + n / 3) as u8).collect()
}

fn block(id: u64, data: &[u8]) -> Block {
    Block::new(BlockId(id), BlockType::TableData, data.to_vec())
}

/// Blocks longer than a small segment among short ones, two thirds of all of it dead. What is dead
/// lies beside what is not, so that compaction moves long blocks, too.
fn made(is_closed: bool) -> (SimDisk, Model) {
    let disk = SimDisk::new(1);
    let store = LocalBackend::open_on(disk.clone(), large()).expect("opens");
    store.pause_compaction().expect("pauses");
    let mut model = Model::new();
    for version in 1..=3 {
        for id in 1..=36 {
            let len = [40, 100_000, 3000, 90, 400_000, 20_000][id as usize % 6];
            if version == 1 || id % 4 > 0 {
                let data = bytes(id, version, len);
                store.write_block(block(id, &data)).expect("writes");
                model.insert(id, data);
            }
        }
    }
    // Longer than a small segment as a whole, and in parts.
    let mut batch = WriteBatch::new();
    for id in 101..=140 {
        let data = bytes(id, 1, 5000);
        batch.write(block(id, &data));
        model.insert(id, data);
    }
    store.apply(batch).expect("applies");
    if is_closed {
        store.close().expect("closes");
        return (disk, model);
    }
    (disk.crash(CrashChoice::Everything), model)
}

fn read_all(store: &LocalBackend<SimDisk>, model: &Model, context: &str) {
    for (id, data) in model {
        let read = store.read_block(BlockId(*id));
        let read = read.unwrap_or_else(|e| panic!("{context}: block {id}: {e}"));
        assert!(read.data == data[..], "{context}: block {id} is another one");
    }
    let found: Vec<u64> = store.ids(..).expect("lists").iter().map(|id| id.0).collect();
    assert!(found.iter().eq(model.keys()), "{context}: {found:?}");
    let (count, len) = (store.stats().total_blocks, store.stats().total_bytes);
    let model_len: usize = model.values().map(Vec::len).sum();
    assert_eq!((count, len), (model.len() as u64, model_len as u64), "{context}");
}

/// Done, or refused for the one thing that the options may refuse it for.
fn judged<T>(done: Result<T>, name: &str, context: &str) -> bool {
    let has_quota = matches!(name, "max_bytes" | "all");
    match done {
        Ok(_) => true,
        Err(Error::StorageFull { limit: SpaceLimit::MaxBytes(max), .. }) if has_quota => {
            assert_eq!(max, 1 << 20, "{context}");
            false
        }
        Err(error) => panic!("{context}: {error:?}"),
    }
}

fn overwrite(store: &LocalBackend<SimDisk>, model: &mut Model, name: &str, context: &str) {
    for id in [2, 3, 9, 101, 120, 200] {
        let data = bytes(id, 9, 15);
        if judged(store.write_block(block(id, &data)), name, context) {
            model.insert(id, data);
        }
    }
    // A new version of a long block is judged by what is legal now.
    let shorter = |limits: &[&str]| limits.contains(&name) || name.starts_with("all");
    let long = bytes(4, 9, 400_000);
    let written = store.write_block(block(4, &long));
    match written {
        Err(Error::BlockTooLarge { len: 400_000, len_max })
            if shorter(&["segment_len_max", "block_len_max", "segments and amplification"]) =>
        {
            assert!([16, 32 << 10].contains(&len_max), "{context}: {len_max}");
        }
        written => {
            if judged(written, name, context) {
                model.insert(4, long);
            }
        }
    }
    let mut batch = WriteBatch::new();
    for id in 300..303 {
        batch.write(block(id, &bytes(id, 1, if shorter(&["block_len_max"]) { 10 } else { 8000 })));
    }
    let applied = store.apply(batch.clone());
    match applied {
        Err(Error::TransactionTooLarge { len: 24_000, len_max: 16_384 })
            if name == "transaction_len_max" => {}
        applied => {
            if judged(applied, name, context) {
                let len = if shorter(&["block_len_max"]) { 10 } else { 8000 };
                (300..303).for_each(|id| drop(model.insert(id, bytes(id, 1, len))));
            }
        }
    }
}

/// Writes a store's files to a directory.
fn write_out(disk: &SimDisk, dir: &Path) {
    std::fs::create_dir(dir).expect("a directory");
    for entry in disk.list().expect("lists") {
        let Entry::File { name, .. } = entry else { panic!("{entry:?} is no file") };
        let bytes = disk.contents(name).expect("it is listed");
        std::fs::write(dir.join(name.to_string()), bytes).expect("writes");
    }
}

/// What the program does with a store that is closed.
fn check_closed(disk: &SimDisk, model: &Model, context: &str) {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, out) = (dir.path().join("store"), dir.path().join("out"));
    write_out(disk, &store);
    let damage = LocalBackend::verify(&store).expect("verifies").damage;
    assert!(damage.is_empty(), "{context}: {damage:?}");
    let repaired = LocalBackend::repair(&store).expect("repairs");
    assert!(repaired.damage.is_empty() && repaired.copy.is_none(), "{context}: {repaired:?}");
    let salvaged = LocalBackend::salvage(&store, &out).expect("salvages");
    assert!(salvaged.is_complete(), "{context}: {salvaged:?}");
    assert_eq!(salvaged.blocks, model.len() as u64, "{context}");
    let copy = LocalBackend::options().create(false).open(&out).expect("opens");
    for (id, data) in model {
        assert!(copy.read_block(BlockId(*id)).expect("is there").data == data[..], "{context}");
    }
}

fn copy_and_restore(store: &LocalBackend<SimDisk>, model: &Model, context: &str) {
    let (backup, again) = (SimDisk::new(2), SimDisk::new(3));
    store.backup_on(&backup, None, &|_| Continue(())).expect("a backup");
    LocalBackend::<SimDisk>::restore_on(&backup, &again, &|_| Continue(())).expect("restores");
    let options = LocalBackend::options().single_threaded(true);
    let restored = LocalBackend::open_on(again, options).expect("opens");
    read_all(&restored, model, &format!("{context}, restored"));
}

fn live_through(name: &str, options: &Options, is_closed: bool) {
    let context = format!("{name}, closed {is_closed}");
    let (disk, mut model) = made(is_closed);
    disk.crash_at(disk.operations() + OPERATIONS_MAX, false);
    let opened = LocalBackend::open_on(disk.clone(), options.clone());
    let store = opened.unwrap_or_else(|e| panic!("{context}: {e}"));
    read_all(&store, &model, &context);
    overwrite(&store, &mut model, name, &context);
    read_all(&store, &model, &context);
    for id in [5, 6, 110] {
        store.delete_block(BlockId(id)).unwrap_or_else(|e| panic!("{context}: {e}"));
        model.remove(&id);
    }
    judged(store.compact_now(), name, &context);
    read_all(&store, &model, &context);
    judged(store.checkpoint(), name, &context);
    copy_and_restore(&store, &model, &context);
    // Moved once more, out of segments of this session, and with it its upkeep's own turn.
    for id in [7, 8, 11, 12, 125] {
        store.delete_block(BlockId(id)).unwrap_or_else(|e| panic!("{context}: {e}"));
        model.remove(&id);
    }
    judged(store.compact_now(), name, &context);
    let crashed = disk.crash(CrashChoice::Nothing);
    let left = LocalBackend::open_on(crashed, options.clone());
    let left = left.unwrap_or_else(|e| panic!("{context}, after a power cut: {e}"));
    read_all(&left, &model, &format!("{context}, after a power cut"));
    drop(left);
    store.close().unwrap_or_else(|e| panic!("{context}: {e}"));
    assert!(!disk.is_crashed(), "{context}: no end");
    if is_closed {
        check_closed(&disk, &model, &context);
    }
    let store = LocalBackend::open_on(disk.clone(), options.clone()).expect("opens again");
    read_all(&store, &model, &context);
    store.close().expect("closes");
    let store = LocalBackend::open_on(disk.clone(), large()).expect("opens with large options");
    read_all(&store, &model, &context);
    assert!(disk.violations().is_empty(), "{context}: {:?}", disk.violations());
}

#[test]
fn store_of_large_options_lives_under_small_ones() {
    for (name, options) in small() {
        for is_closed in [true, false] {
            live_through(name, &options, is_closed);
        }
    }
}

/// A segment is as long as its session says, but for the one that a longer block needs.
#[test]
fn block_longer_than_a_segment_is_moved_to_one_of_its_own_length() {
    let disk = SimDisk::new(1);
    let store = LocalBackend::open_on(disk.clone(), large()).expect("opens");
    let long = bytes(1, 1, 1_500_000);
    store.write_block(block(1, &long)).expect("writes");
    store.write_block(block(2, &bytes(2, 1, 1_000_000))).expect("writes");
    store.close().expect("closes");
    let options = LocalBackend::options().single_threaded(true).segment_len_max(64 << 10);
    let options = options.zero_ahead_len(0);
    let store = LocalBackend::open_on(disk.clone(), options.clone()).expect("opens");
    store.delete_block(BlockId(2)).expect("deletes");
    disk.crash_at(disk.operations() + 1000, false);
    let report = store.compact_now().expect("compacts");
    assert!(report.moved_bytes >= 1_500_000 && report.log_bytes < 1_700_000, "{report:?}");
    assert!(store.stats().segments <= 4, "{:?}", store.stats());
    assert_eq!(store.read_block(BlockId(1)).expect("is there").data, long);
    let full = store.write_block(block(1, &long));
    assert!(matches!(full, Err(Error::BlockTooLarge { len_max: 32_768, .. })), "{full:?}");
    // Shorter ones follow behind it, in segments of the usual length.
    for id in 10..60 {
        store.write_block(block(id, &bytes(id, 1, 5000))).expect("writes");
    }
    let left = LocalBackend::open_on(disk.crash(CrashChoice::Nothing), options).expect("opens");
    assert_eq!(left.read_block(BlockId(1)).expect("is there").data, long);
    assert!((10..60).all(|id| left.read_block(BlockId(id)).is_ok()));
}
