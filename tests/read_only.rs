//! A store that is opened to be read only: nothing in its directory changes, whatever it is asked
//! for.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow::Continue;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use aegis_blocks::io::sim::{CrashChoice, SimDisk};
use aegis_blocks::io::{Disk, DiskFile, FileName, How};
use aegis_blocks::{
    Block, BlockId, BlockType, Durability, Error, LocalBackend, Lsn, Options, ReadMode,
    StorageBackend, StorageExt, WriteBatch,
};

const SEGMENT_LEN: u64 = 256 << 10;

fn options() -> Options {
    LocalBackend::options().segment_len_max(SEGMENT_LEN).zero_ahead_len(SEGMENT_LEN)
}

fn read_only() -> Options {
    options().read_only(true)
}

fn block(id: u64, byte: u8) -> Block {
    Block::new(BlockId(id), BlockType::TableData, vec![byte; 100 + 37 * id as usize])
}

fn blocks<D: Disk>(store: &LocalBackend<D>) -> BTreeMap<u64, Vec<u8>> {
    let blocks = store.blocks(..).unwrap().map(|block| block.unwrap());
    blocks.map(|block| (block.header.block_id.0, block.data.to_vec())).collect()
}

/// Bytes and times of every file, and the times of the directory.
fn state(dir: &Path) -> BTreeMap<String, (Vec<u8>, i64, i64, i64, i64)> {
    let times = |path: &Path| {
        let found = fs::metadata(path).unwrap();
        (found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec())
    };
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let named = entries.map(|path| {
        let (a, b, c, d) = times(&path);
        (
            path.file_name().unwrap().to_str().unwrap().to_string(),
            (fs::read(&path).unwrap(), a, b, c, d),
        )
    });
    let (a, b, c, d) = times(dir);
    named.chain([(".".to_string(), (Vec::new(), a, b, c, d))]).collect()
}

/// Copies the files of a store that is open: what is left when its process is killed.
fn killed(dir: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap()) {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn nothing_changes_whatever_a_read_only_store_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = options().open(&path).unwrap();
    for id in 1..=40 {
        store.write_block(block(id, id as u8)).unwrap();
    }
    store.checkpoint().unwrap();
    store.delete_block(BlockId(7)).unwrap();
    let expected = blocks(&store);
    store.close().unwrap();
    fs::write(path.join("TMP-00000000000000ff"), "left by a crash").unwrap();
    let before = state(&path);
    for mode in [ReadMode::Copied, ReadMode::Mapped, ReadMode::Pread] {
        let store = read_only().read_mode(mode).open(&path).unwrap();
        assert!(store.recovery().clean, "{:?}", store.recovery());
        assert_eq!(blocks(&store), expected);
        let ids: Vec<_> = expected.keys().map(|id| BlockId(*id)).collect();
        assert_eq!(store.read_blocks(&ids).unwrap().len(), ids.len());
        let refused = |result: aegis_blocks::Result<()>| {
            assert!(matches!(result, Err(Error::ReadOnly)), "{result:?}");
        };
        refused(store.write_block(block(1, 9)).map(drop));
        refused(store.write_block_with(block(0, 9), Durability::Buffered).map(drop));
        refused(store.delete_block(BlockId(1)));
        refused(store.delete_block_with(BlockId(1), Durability::Durable));
        let mut batch = WriteBatch::new();
        batch.write(block(1, 9));
        refused(store.apply(batch).map(drop));
        refused(store.checkpoint());
        refused(store.compact_now().map(drop));
        refused(store.prepare_space(1 << 20));
        let transaction = store.begin().unwrap();
        refused(transaction.write(block(1, 9)).map(drop));
        refused(transaction.delete(BlockId(1)));
        assert_eq!(transaction.read(BlockId(1)).unwrap(), block(1, 1));
        transaction.commit().unwrap();
        store.pause_compaction().unwrap();
        store.resume_compaction().unwrap();
        // All that it shows is durable.
        store.sync().unwrap();
        store.sync_to(store.stats().visible_lsn).unwrap();
        let (stats, space) = (store.stats(), store.space().unwrap());
        assert_eq!((stats.total_blocks, stats.write_ops), (39, 0));
        assert_eq!(
            space.files,
            2 + before.keys().filter(|name| name.contains('-')).count() as u64 + 1
        );
        store.close().unwrap();
    }
    assert!(state(&path) == before, "a file was changed");
    assert_eq!(blocks(&options().open(&path).unwrap()), expected);
}

#[test]
fn readers_run_beside_one_another_and_beside_no_writer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let missing = read_only().open(&path);
    assert!(matches!(missing, Err(Error::NotAStore { .. })), "{missing:?}");
    assert!(!path.exists(), "a reader makes no store");
    let writer = options().open(&path).unwrap();
    writer.write_block(block(1, 1)).unwrap();
    let beside_writer = read_only().open(&path);
    assert!(matches!(beside_writer, Err(Error::Locked { .. })), "{beside_writer:?}");
    writer.close().unwrap();
    for has_lock_file in [true, false] {
        if !has_lock_file {
            fs::remove_file(path.join("LOCK")).unwrap();
        }
        let (one, other) = (read_only().open(&path).unwrap(), read_only().open(&path).unwrap());
        assert!(LocalBackend::verify(&path).unwrap().damage.is_empty());
        assert_eq!(one.read_block(BlockId(1)).unwrap(), other.read_block(BlockId(1)).unwrap());
        drop(one);
        let beside_reader = options().open(&path);
        assert!(matches!(beside_reader, Err(Error::Locked { .. })), "{beside_reader:?}");
        other.close().unwrap();
        assert_eq!(path.join("LOCK").exists(), has_lock_file);
    }
    let closed = read_only().open(&path).unwrap();
    closed.clone().close().unwrap();
    assert!(matches!(closed.read_block(BlockId(1)), Err(Error::Closed)));
    assert!(matches!(closed.write_block(block(1, 1)), Err(Error::Closed)));
    let backup = closed.backup_to(dir.path().join("backup"), None, &|_| Continue(()));
    assert!(matches!(backup, Err(Error::Closed)), "{backup:?}");
    options().open(&path).unwrap().write_block(block(2, 2)).unwrap();
}

#[test]
fn store_that_was_not_closed_is_recovered_in_memory_only() {
    let dir = tempfile::tempdir().unwrap();
    let (live, path) = (dir.path().join("live"), dir.path().join("store"));
    // No thread changes the files while they are copied.
    let buffered = options().durability(Durability::Buffered).single_threaded(true);
    let store = buffered.open(&live).unwrap();
    for id in 1..=20 {
        store.write_block(block(id, 1)).unwrap();
    }
    store.checkpoint().unwrap();
    let durable = store.stats().durable_lsn;
    for id in 11..=30 {
        store.write_block(block(id, 2)).unwrap();
    }
    let (expected, visible) = (blocks(&store), store.stats().visible_lsn);
    killed(&live, &path);
    drop(store);
    let before = state(&path);
    let store = read_only().open(&path).unwrap();
    assert!(!store.recovery().clean);
    assert_eq!(store.recovery().resynced_frames, 0);
    assert_eq!(blocks(&store), expected);
    let stats = store.stats();
    assert_eq!((stats.visible_lsn, stats.durable_lsn), (visible, durable));
    assert!(matches!(store.sync(), Err(Error::ReadOnly)));
    assert!(matches!(store.sync_to(Lsn(durable.0 + 1)), Err(Error::ReadOnly)));
    store.sync_to(durable).unwrap();
    let backup = dir.path().join("backup");
    let report = store.backup_to(&backup, None, &|_| Continue(())).unwrap();
    assert_eq!(report.lsn, visible);
    drop(store);
    assert!(state(&path) == before, "a file was changed");

    assert!(LocalBackend::verify_backup(&backup).unwrap().damage.is_empty());
    let again = dir.path().join("again");
    LocalBackend::restore(&backup, &again, &|_| Continue(())).unwrap();
    assert!(LocalBackend::verify(&again).unwrap().damage.is_empty());
    let restored = options().open(&again).unwrap();
    // What the backup holds is known durable there: nothing of it is a torn tail.
    assert_eq!((restored.recovery().resynced_frames, restored.recovery().torn_bytes), (0, 0));
    assert_eq!(blocks(&restored), expected);
}

/// The copy of the last segment ends with a mark where a store that goes on writes a block.
/// Length and identity are the same: only the bytes tell the two apart.
#[test]
fn copy_that_ends_with_a_witness_is_no_later_backups_segment() {
    let simple = || options().single_threaded(true);
    let disk = SimDisk::new(1);
    let store = LocalBackend::open_on(disk.clone(), simple()).unwrap();
    let long = |id| Block::new(BlockId(id), BlockType::TableData, vec![id as u8; 120 << 10]);
    store.write_block(long(1)).unwrap();
    store.write_block(block(2, 2)).unwrap();
    store.close().unwrap();
    let store = LocalBackend::open_on(disk.clone(), simple().read_only(true)).unwrap();
    let one = SimDisk::new(2);
    store.backup_on(&one, None, &|_| Continue(())).unwrap();
    store.close().unwrap();

    let store = LocalBackend::open_on(disk, simple()).unwrap();
    store.write_block(block(3, 3)).unwrap();
    // Does not fit into the rest of the segment, which is left as long as its copy.
    store.write_block(long(4)).unwrap();
    let expected = blocks(&store);
    let two = SimDisk::new(3);
    store.backup_on(&two, Some(&one), &|_| Continue(())).unwrap();
    store.close().unwrap();
    let len_of = |disk: &SimDisk| {
        let file = disk.open(FileName::Segment(1), How::Read).unwrap();
        file.len().unwrap()
    };
    assert_eq!(len_of(&one), len_of(&two), "a length would tell the two apart");
    let again = SimDisk::new(4);
    LocalBackend::restore_on(&two, &again, &|_| Continue(())).unwrap();
    assert!(blocks(&LocalBackend::open_on(again, simple()).unwrap()) == expected);
}

#[test]
fn backups_build_on_those_of_a_read_only_store() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = options().open(&path).unwrap();
    for id in 1..=2000 {
        store.write_block_with(block(id % 100 + 1, id as u8), Durability::Buffered).unwrap();
    }
    store.close().unwrap();
    let back_up = |store: &LocalBackend, name: &str, since: Option<&str>| {
        let since = since.map(|since| dir.path().join(since));
        store.backup_to(dir.path().join(name), since.as_deref(), &|_| Continue(())).unwrap()
    };
    let check = |name: &str, expected: &BTreeMap<u64, Vec<u8>>| {
        let again = dir.path().join(format!("{name}-again"));
        LocalBackend::restore(dir.path().join(name), &again, &|_| Continue(())).unwrap();
        assert!(LocalBackend::verify(&again).unwrap().damage.is_empty(), "{name}");
        let restored = options().open(&again).unwrap();
        assert!(blocks(&restored) == *expected, "{name}");
        restored.write_block(block(5, 5)).unwrap();
        restored.close().unwrap();
    };
    let store = read_only().open(&path).unwrap();
    let expected = blocks(&store);
    back_up(&store, "one", None);
    let two = back_up(&store, "two", Some("one"));
    assert!(two.shared_bytes > two.bytes / 2, "{two:?}");
    store.close().unwrap();
    check("one", &expected);
    check("two", &expected);
    options().open(&path).unwrap().close().unwrap();
    let store = options().open(&path).unwrap();
    back_up(&store, "three", Some("two"));
    store.write_block(block(3, 33)).unwrap();
    let after = blocks(&store);
    back_up(&store, "four", Some("two"));
    store.close().unwrap();
    check("three", &expected);
    check("four", &after);
    let store = read_only().open(&path).unwrap();
    back_up(&store, "five", Some("four"));
    store.close().unwrap();
    check("five", &after);
}

/// Whatever a power cut leaves, a read-only open shows what a writing one recovers, and its backup
/// holds that.
#[test]
fn read_only_open_shows_what_a_writing_one_recovers_after_any_crash() {
    let simple = || options().single_threaded(true).checkpoint_log_len(128 << 10);
    let (mut torn, mut unwitnessed) = (0, 0);
    for seed in 0..60 {
        let disk = SimDisk::new(seed);
        let durability = Durability::Buffered;
        let store = LocalBackend::open_on(disk.clone(), simple().durability(durability)).unwrap();
        for turn in 0..150 + seed {
            let id = 1 + (turn * 7919 + seed) % 40;
            if turn % 5 == 4 && store.block_exists(BlockId(id)).unwrap() {
                store.delete_block(BlockId(id)).unwrap();
            } else {
                let data = vec![turn as u8; 50 + (turn * 211 % 9000) as usize];
                store.write_block(Block::new(BlockId(id), BlockType::TableData, data)).unwrap();
            }
            if turn % 41 == seed % 41 {
                store.sync().unwrap();
            }
            if turn == 80 + seed % 40 {
                store.checkpoint().unwrap();
            }
        }
        let crashed = disk.crash(CrashChoice::Random { seed, garbage: seed % 2 == 0 });
        drop(store);
        let looked_at = crashed.freeze();
        looked_at.record_images();
        let looked = LocalBackend::open_on(looked_at.clone(), simple().read_only(true)).unwrap();
        let shown = blocks(&looked);
        let backup = SimDisk::new(seed + 1000);
        looked.backup_on(&backup, None, &|_| Continue(())).unwrap();
        let (report, stats) = (*looked.recovery(), looked.stats());
        drop(looked);
        assert_eq!(looked_at.take_images().len(), 0, "seed {seed}: something was changed");
        let store = LocalBackend::open_on(crashed, simple()).unwrap();
        assert_eq!(store.recovery().torn_bytes, report.torn_bytes, "seed {seed}");
        assert_eq!(store.stats().visible_lsn, stats.visible_lsn, "seed {seed}");
        assert!(blocks(&store) == shown, "seed {seed}");
        torn += u64::from(report.torn_bytes > 0);
        unwitnessed += u64::from(stats.durable_lsn < stats.visible_lsn);

        let again = SimDisk::new(seed + 2000);
        LocalBackend::restore_on(&backup, &again, &|_| Continue(())).unwrap();
        let restored = LocalBackend::open_on(again, simple()).unwrap();
        assert_eq!(restored.recovery().torn_bytes, 0, "seed {seed}: {:?}", restored.recovery());
        assert!(blocks(&restored) == shown, "seed {seed}: the backup");
    }
    assert!(torn > 10 && unwitnessed > 10, "{torn} torn, {unwitnessed} unwitnessed of 60");
}
