//! Damaged stores: refused or served with named errors, verified, salvaged and repaired. What was written
//! and what lies in undamaged files is known to the test on its own.
#![cfg(target_os = "linux")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use aegis_blocks::{
    Block, BlockId, BlockType, Defect, Error, LocalBackend, Lsn, Options, RepairReport,
    SalvageReport, StorageBackend,
};
use tempfile::TempDir;

const SEGMENT_LEN: u64 = 64 << 10;
const PAGE_LEN: u64 = 4096;

/// Newest version of each block; `None` when deleted.
type Model = BTreeMap<u64, Option<u64>>;
type Files = BTreeMap<String, Vec<u8>>;

fn options() -> Options {
    LocalBackend::options()
        .single_threaded(true)
        .segment_len_max(SEGMENT_LEN)
        .block_len_max(SEGMENT_LEN as u32 / 2)
        .zero_ahead_len(SEGMENT_LEN)
        .checkpoint_log_len(1 << 40)
        .space_amplification_max(100.0)
}

/// Bytes that no other version has, anywhere.
fn payload(id: u64, version: u64) -> Vec<u8> {
    let mut state = id << 32 | version << 1 | 1;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..700 + (id * 37 + version * 101) % 900).map(step).collect()
}

/// A store in a directory, its blocks, and a copy of it at some moment.
struct Desk {
    directory: TempDir,
    store: Option<LocalBackend>,
    model: Model,
    commits: u64,
}

impl Desk {
    fn new() -> Desk {
        let directory = tempfile::tempdir().expect("a directory");
        let store = options().open(directory.path().join("open")).expect("opens");
        Desk { directory, store: Some(store), model: Model::new(), commits: 0 }
    }

    fn store(&self) -> &LocalBackend {
        self.store.as_ref().expect("open")
    }

    fn write(&mut self, id: u64, version: u64) {
        let block = Block::new(BlockId(id), BlockType::TableData, payload(id, version));
        self.store().write_block(block).expect("writes");
        self.model.insert(id, Some(version));
        self.commits += 1;
    }

    fn delete(&mut self, id: u64) {
        self.store().delete_block(BlockId(id)).expect("deletes");
        self.model.insert(id, None);
        self.commits += 1;
    }

    /// 120 blocks in several segments, some replaced, some deleted, and a checkpoint of them.
    fn fill(&mut self) {
        (1..=120).for_each(|id| self.write(id, 1));
        (1..=40).step_by(3).for_each(|id| self.write(id, 2));
        (2..=100).step_by(7).for_each(|id| self.delete(id));
        self.store().checkpoint().expect("makes a checkpoint");
    }

    /// More, behind the checkpoint.
    fn fill_log(&mut self) {
        (121..=160).for_each(|id| self.write(id, 1));
        (50..=60).for_each(|id| self.write(id, 3));
        self.delete(70);
        self.write(200, 1);
    }

    /// The store as a power cut leaves it.
    fn crashed(&self) -> PathBuf {
        let path = self.directory.path().join("store");
        fs::create_dir(&path).expect("a directory");
        for (name, bytes) in files(&self.directory.path().join("open")) {
            fs::write(path.join(name), bytes).expect("copies");
        }
        path
    }

    fn closed(&mut self) -> PathBuf {
        self.store.take().expect("open").close().expect("closes");
        self.crashed()
    }
}

fn files(path: &Path) -> Files {
    let entries = fs::read_dir(path).expect("lists");
    let read = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        (name, fs::read(path).expect("reads"))
    };
    entries.map(read).collect()
}

fn names(path: &Path, prefix: &str) -> Vec<String> {
    files(path).into_keys().filter(|name| name.starts_with(prefix)).collect()
}

/// The file and offset of bytes that stand there once; of the last place where they stand several times.
fn find(path: &Path, bytes: &[u8]) -> Option<(String, u64)> {
    let mut found = None;
    for (name, content) in files(path) {
        let at = content.windows(bytes.len()).rposition(|window| window == bytes);
        found = at.map(|at| (name, at as u64)).or(found);
    }
    found
}

fn change(path: &Path, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path.join(name)).expect("reads");
    change(&mut bytes);
    fs::write(path.join(name), bytes).expect("writes");
}

fn flip(path: &Path, name: &str, offset: u64) {
    change(path, name, |bytes| bytes[offset as usize] ^= 1);
}

/// Opening is refused for damage and changes nothing.
#[track_caller]
fn refused(path: &Path) -> (Defect, String, u64) {
    let before = files(path);
    let error = options().open(path).expect_err("acknowledged bytes are damaged");
    assert!(files(path) == before, "a store that was refused was changed");
    match error {
        Error::Corrupt { defect, place } => (defect, place.file, place.offset),
        other => panic!("{other:?}"),
    }
}

/// Verification changes nothing and names a place.
#[track_caller]
fn verified(path: &Path, defect: Defect, file: &str, offset: u64) {
    let before = files(path);
    let report = LocalBackend::verify(path).expect("a report");
    assert!(files(path) == before, "verify changed the store");
    let named = report.damage.iter().any(|damage| {
        damage.defect == defect && damage.place.file == file && damage.place.offset == offset
    });
    assert!(named, "{defect:?} in {file} at {offset} is not in {:#?}", report.damage);
}

/// Salvages and repairs; both give the same, one changes nothing and the other keeps the old bytes.
#[track_caller]
fn repaired(path: &Path) -> (LocalBackend, RepairReport) {
    let before = files(path);
    let out = path.with_file_name("out");
    let salvaged = LocalBackend::salvage(path, &out).expect("salvages");
    assert!(files(path) == before, "salvage changed the store");
    let report = LocalBackend::repair(path).expect("repairs");
    assert_eq!(report.salvage, salvaged);
    let copy = report.copy.clone().expect("a copy");
    assert!(files(&copy) == before, "the copy is not what was there");
    let after = LocalBackend::verify(path).expect("a report");
    assert!(after.damage.is_empty(), "{:#?}", after.damage);
    let beside = fs::read_dir(path.parent().expect("a parent")).expect("lists");
    let left = beside.filter(|e| {
        e.as_ref().expect("an entry").file_name().to_string_lossy().contains(".repairing")
    });
    assert_eq!(left.count(), 0);
    let store = options().open(path).expect("a repaired store opens");
    assert_eq!(all_blocks(&store), all_blocks(&options().open(&out).expect("opens")));
    (store, report)
}

fn all_blocks(store: &LocalBackend) -> BTreeMap<u64, Vec<u8>> {
    let ids = store.ids(..).expect("lists");
    let read = |id: BlockId| (id.0, store.read_block(id).expect("reads").data.to_vec());
    ids.into_iter().map(read).collect()
}

/// Every block is as it was but for those named, which are gone.
#[track_caller]
fn check(store: &LocalBackend, model: &Model, gone: &[u64]) {
    let expected: BTreeMap<u64, Vec<u8>> = model
        .iter()
        .filter(|(id, _)| !gone.contains(id))
        .filter_map(|(id, version)| version.map(|version| (*id, payload(*id, version))))
        .collect();
    let found = all_blocks(store);
    let wrong: Vec<u64> = (0..=300).filter(|id| found.get(id) != expected.get(id)).collect();
    assert!(found == expected, "these blocks are not as expected: {wrong:?}");
}

fn ids(blocks: &[BlockId]) -> Vec<u64> {
    blocks.iter().map(|id| id.0).collect()
}

fn commits_lost(report: &SalvageReport) -> Vec<(Lsn, Lsn)> {
    report.losses.iter().filter_map(|loss| loss.lsns).collect()
}

#[test]
fn sound_store_is_left_alone() {
    for crash in [false, true] {
        let mut desk = Desk::new();
        desk.fill();
        desk.fill_log();
        let path = if crash { desk.crashed() } else { desk.closed() };
        let report = LocalBackend::verify(&path).expect("a report");
        assert!(report.damage.is_empty(), "{:#?}", report.damage);
        assert!(report.checkpoints > 0 && report.pages > 3, "{report:?}");
        let before = files(&path);
        let report = LocalBackend::repair(&path).expect("has nothing to do");
        assert_eq!(report, RepairReport::default());
        assert!(files(&path) == before);
        let out = path.with_file_name("out");
        let report = LocalBackend::salvage(&path, &out).expect("salvages");
        assert!(report.is_complete() && report.losses.is_empty(), "{report:?}");
        assert!(files(&path) == before);
        check(&options().open(&out).expect("opens"), &desk.model, &[]);
    }
}

#[test]
fn compacted_store_with_released_segments_is_sound() {
    let mut desk = Desk::new();
    desk.fill();
    desk.store().compact_now().expect("compacts");
    desk.fill_log();
    desk.store().compact_now().expect("compacts");
    let first = names(&desk.directory.path().join("open"), "SEG-0000000000000001");
    assert!(first.is_empty(), "the first segment should be out of use: {first:?}");
    let path = desk.closed();
    let report = LocalBackend::verify(&path).expect("a report");
    assert!(report.damage.is_empty(), "{:#?}", report.damage);
    let out = path.with_file_name("out");
    let report = LocalBackend::salvage(&path, &out).expect("salvages");
    assert!(report.is_complete() && report.losses.is_empty(), "{report:?}");
    check(&options().open(&out).expect("opens"), &desk.model, &[]);
}

#[test]
fn damaged_payload_costs_its_block_and_no_other() {
    let mut desk = Desk::new();
    desk.fill();
    desk.fill_log();
    // One below the checkpoint, one behind it.
    for id in [5, 130] {
        let path = desk.crashed();
        let (file, offset) = find(&path, &payload(id, 1)).expect("stored");
        flip(&path, &file, offset + 100);
        verified(&path, Defect::PayloadChecksum, &file, offset);
        let (store, report) = repaired(&path);
        assert_eq!(ids(&report.salvage.lost), [id]);
        assert_eq!(report.salvage.older, []);
        let places: Vec<_> = report.salvage.losses.iter().map(|loss| &loss.place).collect();
        assert_eq!((places.len(), &places[0].file, places[0].offset), (1, &file, offset));
        check(&store, &desk.model, &[id]);
        drop(store);
        for name in ["store", "out", "store.before-repair-1"] {
            fs::remove_dir_all(desk.directory.path().join(name)).expect("removes");
        }
    }
}

#[test]
fn block_whose_newest_version_is_damaged_is_saved_in_an_older_one_and_named() {
    let mut desk = Desk::new();
    desk.fill();
    desk.fill_log();
    let path = desk.crashed();
    let (file, offset) = find(&path, &payload(55, 3)).expect("stored");
    flip(&path, &file, offset);
    let (store, report) = repaired(&path);
    let [older] = report.salvage.older[..] else { panic!("{report:?}") };
    assert_eq!(older.id, BlockId(55));
    assert!(older.kept == Lsn(55) && older.lost > Lsn(120), "{older:?}");
    assert_eq!(report.salvage.lost, []);
    desk.model.insert(55, Some(1));
    check(&store, &desk.model, &[]);
}

#[test]
fn damaged_frame_in_the_log_costs_its_commit_and_nothing_behind_it() {
    for (at, defect) in [(0, Defect::FrameHeader), (16, Defect::FrameHeader), (64, Defect::OpTable)]
    {
        let mut desk = Desk::new();
        desk.fill();
        let before = desk.commits;
        desk.fill_log();
        let path = desk.crashed();
        let (file, offset) = find(&path, &payload(130, 1)).expect("stored");
        let frame = offset - 96;
        flip(&path, &file, frame + at);
        assert_eq!(refused(&path), (defect, file.clone(), frame));
        verified(&path, defect, &file, frame);
        let (store, report) = repaired(&path);
        let lsn = Lsn(before + 10);
        assert_eq!(commits_lost(&report.salvage), [(lsn, lsn)]);
        assert!(!report.salvage.is_complete(), "its blocks are not known, that they were is");
        assert_eq!(report.salvage.losses[0].place.offset, frame);
        assert_eq!(report.salvage.losses[0].place.file, file);
        check(&store, &desk.model, &[130]);
    }
}

#[test]
fn damaged_frame_header_below_the_checkpoint_costs_nothing() {
    let mut desk = Desk::new();
    desk.fill();
    desk.fill_log();
    let path = desk.crashed();
    let (file, offset) = find(&path, &payload(6, 1)).expect("stored");
    flip(&path, &file, offset - 96);
    verified(&path, Defect::FrameHeader, &file, offset - 96);
    let (store, report) = repaired(&path);
    assert!(report.salvage.is_complete(), "{report:?}");
    check(&store, &desk.model, &[]);
}

#[test]
fn damaged_checkpoint_is_rebuilt_from_the_log() {
    let mut desk = Desk::new();
    desk.fill();
    desk.store().compact_now().expect("compacts");
    desk.fill_log();
    let path = desk.crashed();
    let [checkpoint] = &names(&path, "CKPT-")[..] else { panic!("{:?}", files(&path).keys()) };
    // The header stands in the first page and in the last one.
    let len = fs::metadata(path.join(checkpoint)).expect("there").len();
    flip(&path, checkpoint, 50);
    verified(&path, Defect::Checkpoint, checkpoint, 0);
    flip(&path, checkpoint, len - PAGE_LEN + 50);
    assert_eq!(refused(&path), (Defect::Checkpoint, checkpoint.clone(), 0));
    verified(&path, Defect::Checkpoint, checkpoint, 0);
    let (store, report) = repaired(&path);
    assert!(report.salvage.deleted_may_reappear && report.salvage.lost.is_empty(), "{report:?}");
    assert!(!report.salvage.is_complete(), "blocks may be there that were deleted");
    let found = all_blocks(&store);
    for (id, version) in &desk.model {
        if let Some(version) = version {
            assert!(found.get(id) == Some(&payload(*id, *version)), "{id}");
        }
    }
}

#[test]
fn checkpoint_that_is_gone_costs_nothing_while_the_log_is_whole() {
    let mut desk = Desk::new();
    desk.fill();
    desk.fill_log();
    let path = desk.crashed();
    let checkpoints = names(&path, "CKPT-");
    assert!(!checkpoints.is_empty(), "{:?}", files(&path).keys());
    for checkpoint in &checkpoints {
        change(&path, checkpoint, |bytes| bytes.truncate(5000));
    }
    let (segment, offset) = find(&path, &payload(130, 1)).expect("stored");
    flip(&path, &segment, offset);
    let (store, report) = repaired(&path);
    assert!(!report.salvage.deleted_may_reappear, "{report:?}");
    assert_eq!(ids(&report.salvage.lost), [130]);
    check(&store, &desk.model, &[130]);
}

#[test]
fn damaged_leaf_costs_nothing_and_brings_back_nothing_beyond_its_ids() {
    let mut desk = Desk::new();
    (1..=400).for_each(|id| desk.write(id, 1));
    // Deleted for good: no frame says so any more.
    [50, 390].into_iter().for_each(|id| desk.delete(id));
    desk.store().compact_now().expect("compacts");
    desk.store().checkpoint().expect("makes a checkpoint");
    let path = desk.closed();
    let names = names(&path, "CKPT-");
    let checkpoint = &names[0];
    flip(&path, checkpoint, PAGE_LEN + 500);
    verified(&path, Defect::Checkpoint, checkpoint, PAGE_LEN);
    let (store, report) = repaired(&path);
    assert!(report.salvage.lost.is_empty() && report.salvage.older.is_empty(), "{report:?}");
    let unsure: BTreeSet<u64> = ids(&report.salvage.unsure).into_iter().collect();
    assert!(!unsure.is_empty() && unsure.iter().all(|id| *id < 300), "{unsure:?}");
    let found = all_blocks(&store);
    for id in 1..=400 {
        let is_right = found.get(&id) == desk.model[&id].map(|v| payload(id, v)).as_ref();
        assert!(is_right || (id == 50 && unsure.contains(&id)), "block {id}");
    }
}

/// Blocks whose newest version stands in no file any more.
fn without_bytes(path: &Path, model: &Model) -> Vec<u64> {
    let newest = model.iter().filter_map(|(id, version)| version.map(|version| (*id, version)));
    let gone = newest.filter(|(id, version)| find(path, &payload(*id, *version)).is_none());
    gone.map(|(id, _)| id).collect()
}

#[test]
fn missing_or_cut_segment_costs_the_blocks_in_it_and_no_other() {
    for cut in [None, Some(40_000), Some(20_480), Some(9000)] {
        let mut desk = Desk::new();
        desk.fill();
        desk.fill_log();
        let path = desk.crashed();
        let (file, _) = find(&path, &payload(45, 1)).expect("stored");
        let (defect, offset) = match cut {
            None => {
                fs::remove_file(path.join(&file)).expect("removes");
                (Defect::MissingSegment, 0)
            }
            Some(len) => {
                change(&path, &file, |bytes| bytes.truncate(len));
                (Defect::Truncated, len as u64)
            }
        };
        let gone = without_bytes(&path, &desk.model);
        assert!(!gone.is_empty(), "{cut:?}");
        let (_, refused_file, refused_at) = refused(&path);
        // Without its checkpoint the log is walked from its beginning, frame by frame.
        let is_near = refused_at.abs_diff(offset) < PAGE_LEN;
        assert!(refused_file == file && is_near, "{refused_file} at {refused_at}");
        verified(&path, defect, &file, offset);
        let (store, report) = repaired(&path);
        let report = report.salvage;
        assert!(report.losses.iter().any(|l| l.defect == defect && l.place.file == file));
        let older: Vec<u64> = report.older.iter().map(|older| older.id.0).collect();
        let mut named = [ids(&report.lost), older.clone()].concat();
        named.sort_unstable();
        assert_eq!(named, gone, "{cut:?}");
        desk.model.extend(older.iter().map(|id| (*id, Some(1))));
        check(&store, &desk.model, &ids(&report.lost));
    }
}

#[test]
fn segment_missing_from_the_log_costs_its_commits() {
    let mut desk = Desk::new();
    desk.fill();
    let before = desk.commits;
    desk.fill_log();
    (161..=190).for_each(|id| desk.write(id, 1));
    let path = desk.crashed();
    let (file, _) = find(&path, &payload(160, 1)).expect("stored");
    fs::remove_file(path.join(&file)).expect("removes");
    let (defect, ..) = refused(&path);
    assert_eq!(defect, Defect::MissingSegment);
    let gone = without_bytes(&path, &desk.model);
    let (store, report) = repaired(&path);
    let [(first, last)] = commits_lost(&report.salvage)[..] else { panic!("{report:?}") };
    assert!(first > Lsn(before) && last > first, "{first} to {last}");
    let mut found = all_blocks(&store);
    for (id, version) in &desk.model {
        let expected = version.map(|version| payload(*id, version));
        if found.remove(id) != expected {
            // Its newest change was in the segment, which nothing tells.
            assert!(gone.contains(id) || version.is_none(), "block {id}");
        }
    }
}

#[test]
fn damaged_description_is_named_and_nothing_is_changed() {
    let mut desk = Desk::new();
    desk.fill();
    let path = desk.closed();
    for whole in [false, true] {
        match whole {
            false => change(&path, "META", |bytes| bytes.fill(0)),
            true => fs::remove_file(path.join("META")).expect("removes"),
        }
        let (before, out) = (files(&path), path.with_file_name("out"));
        let errors = [
            LocalBackend::salvage(&path, &out).map(drop).expect_err("the salt is lost"),
            LocalBackend::repair(&path).map(drop).expect_err("the salt is lost"),
        ];
        for error in errors {
            let named = matches!(&error, Error::Corrupt { defect: Defect::Meta, place }
                if place.file == "META");
            assert!(named, "{error:?}");
        }
        assert!(files(&path) == before && !out.exists());
    }
}

#[test]
fn salvage_takes_no_directory_that_exists_or_lies_in_the_store() {
    let mut desk = Desk::new();
    desk.write(1, 1);
    let path = desk.closed();
    let before = files(&path);
    for out in [desk.directory.path().join("open"), path.clone(), path.join("out")] {
        let error = LocalBackend::salvage(&path, &out).expect_err("not there");
        assert!(matches!(error, Error::InvalidArgument { argument: "out", .. }), "{error:?}");
    }
    assert!(files(&path) == before);
    let open = options().open(&path).expect("opens");
    let out = path.with_file_name("out");
    let error = LocalBackend::salvage(&path, &out).expect_err("somebody writes to it");
    assert!(matches!(error, Error::Locked { .. }), "{error:?}");
    let error = LocalBackend::repair(&path).expect_err("somebody writes to it");
    assert!(matches!(error, Error::Locked { .. }), "{error:?}");
    open.close().expect("closes");
    assert!(!out.exists());
}

/// Longer than the blocks, segments and commits that a store has where nobody asks for others.
#[test]
fn block_longer_than_the_default_is_saved_with_all_behind_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("store");
    let options = || {
        let options = LocalBackend::options().segment_len_max(128 << 20);
        options.block_len_max(40 << 20).zero_ahead_len(0)
    };
    let store = options().open(&path).expect("opens");
    let long = vec![7; 34 << 20];
    store.write_block(Block::new(BlockId(1), BlockType::TableData, long.clone())).expect("writes");
    for id in 2..=20 {
        let block = Block::new(BlockId(id), BlockType::TableData, payload(id, 1));
        store.write_block(block).expect("writes");
    }
    store.close().expect("closes");
    let (file, offset) = find(&path, &payload(9, 1)).expect("stored");
    flip(&path, &file, offset);
    let report = LocalBackend::repair(&path).expect("repairs");
    assert_eq!((ids(&report.salvage.lost), report.salvage.blocks), (vec![9], 19));
    let store = options().open(&path).expect("opens");
    assert!(store.read_block(BlockId(1)).expect("saved").data == long);
    for id in (2..=20).filter(|id| *id != 9) {
        assert!(store.read_block(BlockId(id)).expect("saved").data == payload(id, 1), "{id}");
    }
}

/// It is not there again as it was before its deletion, and it is not passed over either.
#[test]
fn block_written_again_after_its_deletion_is_lost_with_its_newest_version() {
    let mut desk = Desk::new();
    desk.fill();
    desk.fill_log();
    desk.write(150, 2);
    desk.delete(150);
    desk.write(150, 3);
    desk.write(201, 1);
    let path = desk.crashed();
    let (file, offset) = find(&path, &payload(150, 3)).expect("stored");
    flip(&path, &file, offset);
    let (store, report) = repaired(&path);
    assert_eq!(ids(&report.salvage.lost), [150]);
    assert_eq!(report.salvage.older, []);
    check(&store, &desk.model, &[150]);
}

/// What an interrupted repair left, and what earlier ones kept, is nobody's to overwrite.
#[test]
fn names_beside_the_store_that_are_taken_are_left_alone() {
    let mut desk = Desk::new();
    desk.fill();
    let path = desk.closed();
    let beside = |word: &str| path.with_file_name(format!("store.{word}"));
    let taken = [beside("repairing-1"), beside("before-repair-2")];
    for directory in &taken {
        fs::create_dir(directory).expect("a directory");
        fs::write(directory.join("letter"), "dear reader").expect("a file");
    }
    let (file, offset) = find(&path, &payload(5, 1)).expect("stored");
    flip(&path, &file, offset);
    let before = files(&path);
    let report = LocalBackend::repair(&path).expect("repairs");
    let copy = beside("before-repair-3").canonicalize().expect("a name that nothing had");
    assert_eq!(report.copy.as_ref(), Some(&copy));
    assert!(files(&copy) == before, "the copy is not what was there");
    for directory in &taken {
        let left = Files::from([("letter".to_string(), b"dear reader".to_vec())]);
        assert!(files(directory) == left, "{} was changed", directory.display());
    }
    assert_eq!(ids(&report.salvage.lost), [5]);
}

const CHILD: &str = "AEGIS_REPAIR_CHILD";

/// Directories are exchanged by their names, of which `.` is none.
#[test]
fn store_is_repaired_from_within_its_directory() {
    let mut desk = Desk::new();
    desk.fill();
    let path = desk.closed();
    let (file, offset) = find(&path, &payload(5, 1)).expect("stored");
    flip(&path, &file, offset);
    let mut child = std::process::Command::new(std::env::current_exe().expect("this binary"));
    child.args(["--exact", "child_repairs_where_it_is", "--nocapture"]).env(CHILD, "1");
    let output = child.current_dir(&path).output().expect("a child process");
    let words = String::from_utf8_lossy(&output.stdout);
    assert!(words.contains("done: one block lost"), "{words}{output:?}");
    let report = LocalBackend::verify(&path).expect("a report");
    assert!(report.damage.is_empty(), "{:#?}", report.damage);
}

/// The child's half. Does nothing unless the test above has started it.
#[test]
fn child_repairs_where_it_is() {
    if std::env::var_os(CHILD).is_some() {
        let report = LocalBackend::repair(".").expect("repairs");
        assert_eq!(ids(&report.salvage.lost), [5]);
        println!("done: one block lost");
    }
}

#[test]
fn ids_that_were_given_away_are_not_given_away_again() {
    let mut desk = Desk::new();
    desk.fill();
    desk.fill_log();
    desk.delete(200);
    let path = desk.crashed();
    let (file, offset) = find(&path, &payload(130, 1)).expect("stored");
    flip(&path, &file, offset);
    let (store, _) = repaired(&path);
    let id =
        store.write_block(Block::new(BlockId(0), BlockType::TableData, "new")).expect("writes");
    assert_eq!(id, BlockId(201));
}

/// Sectors overwritten anywhere: what comes back was written once, and what is not as it was is explained.
#[test]
fn random_damage_is_repaired_and_accounted_for() {
    let mut damaged_count = 0;
    for seed in 1..=40_u64 {
        println!("seed {seed}");
        let mut desk = Desk::new();
        desk.fill();
        if seed % 2 == 0 {
            desk.store().compact_now().expect("compacts");
        }
        desk.fill_log();
        let path = if seed % 3 == 0 { desk.closed() } else { desk.crashed() };
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut random = |bound: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % bound
        };
        let names: Vec<String> =
            files(&path).into_keys().filter(|name| !["META", "LOCK"].contains(&&**name)).collect();
        for _ in 0..=random(3) {
            let name = &names[random(names.len() as u64) as usize];
            let len = fs::metadata(path.join(name)).expect("there").len();
            let at = (random(len.max(1)) / 512 * 512) as usize;
            change(&path, name, |bytes| {
                let end = bytes.len().min(at + 512);
                bytes[at.min(end)..end].fill(0xA5);
            });
        }
        let report = LocalBackend::repair(&path).expect("repairs");
        if report.copy.is_none() {
            check(&options().open(&path).expect("opens"), &desk.model, &[]);
            continue;
        }
        damaged_count += 1;
        let report = report.salvage;
        let store = options().open(&path).expect("a repaired store opens");
        let found = all_blocks(&store);
        let older: Vec<u64> = report.older.iter().map(|older| older.id.0).collect();
        let commits_lost = !commits_lost(&report).is_empty();
        for (id, version) in &desk.model {
            let block = found.get(id);
            if block == version.map(|version| payload(*id, version)).as_ref() {
                continue;
            }
            let was_written = (1..=3).any(|version| block == Some(&payload(*id, version)));
            assert!(block.is_none() || was_written, "seed {seed}: block {id} is made up");
            let is_named = report.lost.contains(&BlockId(*id))
                || older.contains(id)
                || report.unsure.contains(&BlockId(*id));
            let explained = is_named || commits_lost || report.deleted_may_reappear;
            assert!(explained, "seed {seed}: block {id}: {report:?}");
        }
        assert!(found.keys().all(|id| desk.model.contains_key(id)), "seed {seed}");
    }
    assert!(damaged_count > 10, "only {damaged_count} stores were damaged");
}
