//! A store, what was written to it, and what is done to its files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use aegis_blocks::{
    Block, BlockId, BlockType, Defect, Error, LocalBackend, Lsn, Options, RepairReport,
    SalvageReport, StorageBackend,
};
use tempfile::TempDir;

use crate::files::contents;
use crate::noise::payload;
use crate::options::short_segments;

pub const SEGMENT_LEN: u64 = 64 << 10;
pub const PAGE_LEN: u64 = 4096;

/// Newest version of each block; `None` when deleted.
pub type Model = BTreeMap<u64, Option<u64>>;
pub type Files = BTreeMap<String, Vec<u8>>;

pub fn options() -> Options {
    short_segments(SEGMENT_LEN, SEGMENT_LEN / 2)
        .single_threaded(true)
        .checkpoint_log_len(1 << 40)
        .space_amplification_max(100.0)
}

/// A store in a directory, its blocks, and a copy of it at some moment.
pub struct Desk {
    pub directory: TempDir,
    store: Option<LocalBackend>,
    pub model: Model,
    pub commits: u64,
}

impl Desk {
    pub fn new() -> Desk {
        let directory = tempfile::tempdir().expect("a directory");
        let store = options().open(directory.path().join("open")).expect("opens");
        Desk { directory, store: Some(store), model: Model::new(), commits: 0 }
    }

    pub fn store(&self) -> &LocalBackend {
        self.store.as_ref().expect("open")
    }

    pub fn write(&mut self, id: u64, version: u64) {
        let block = Block::new(BlockId(id), BlockType::TableData, payload(id, version));
        self.store().write_block(block).expect("writes");
        self.model.insert(id, Some(version));
        self.commits += 1;
    }

    pub fn delete(&mut self, id: u64) {
        self.store().delete_block(BlockId(id)).expect("deletes");
        self.model.insert(id, None);
        self.commits += 1;
    }

    /// 120 blocks in several segments, some replaced, some deleted, and a checkpoint of them.
    pub fn fill(&mut self) {
        (1..=120).for_each(|id| self.write(id, 1));
        (1..=40).step_by(3).for_each(|id| self.write(id, 2));
        (2..=100).step_by(7).for_each(|id| self.delete(id));
        self.store().checkpoint().expect("makes a checkpoint");
    }

    /// More, behind the checkpoint.
    pub fn fill_log(&mut self) {
        (121..=160).for_each(|id| self.write(id, 1));
        (50..=60).for_each(|id| self.write(id, 3));
        self.delete(70);
        self.write(200, 1);
    }

    /// The store as a power cut leaves it.
    pub fn crashed(&self) -> PathBuf {
        let path = self.directory.path().join("store");
        fs::create_dir(&path).expect("a directory");
        for (name, bytes) in contents(&self.directory.path().join("open")) {
            fs::write(path.join(name), bytes).expect("copies");
        }
        path
    }

    pub fn closed(&mut self) -> PathBuf {
        self.store.take().expect("open").close().expect("closes");
        self.crashed()
    }
}

pub fn names(path: &Path, prefix: &str) -> Vec<String> {
    contents(path).into_keys().filter(|name| name.starts_with(prefix)).collect()
}

/// The file and offset of bytes that stand there once; of the last place where they stand several
/// times.
pub fn find(path: &Path, bytes: &[u8]) -> Option<(String, u64)> {
    let mut found = None;
    for (name, content) in contents(path) {
        let at = content.windows(bytes.len()).rposition(|window| window == bytes);
        found = at.map(|at| (name, at as u64)).or(found);
    }
    found
}

pub fn change(path: &Path, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path.join(name)).expect("reads");
    change(&mut bytes);
    fs::write(path.join(name), bytes).expect("writes");
}

pub fn flip(path: &Path, name: &str, offset: u64) {
    change(path, name, |bytes| bytes[offset as usize] ^= 1);
}

/// Opening is refused for damage and changes nothing.
#[track_caller]
pub fn refused(path: &Path) -> (Defect, String, u64) {
    let before = contents(path);
    let error = options().open(path).expect_err("acknowledged bytes are damaged");
    assert!(contents(path) == before, "a store that was refused was changed");
    match error {
        Error::Corrupt { defect, place } => (defect, place.file, place.offset),
        other => panic!("{other:?}"),
    }
}

/// Verification changes nothing and names a place.
#[track_caller]
pub fn verified(path: &Path, defect: Defect, file: &str, offset: u64) {
    let before = contents(path);
    let report = LocalBackend::verify(path).expect("a report");
    assert!(contents(path) == before, "verify changed the store");
    let named = report.damage.iter().any(|damage| {
        damage.defect == defect && damage.place.file == file && damage.place.offset == offset
    });
    assert!(named, "{defect:?} in {file} at {offset} is not in {:#?}", report.damage);
}

/// Salvages and repairs; both give the same, one changes nothing and the other keeps the old bytes.
#[track_caller]
pub fn repaired(path: &Path) -> (LocalBackend, RepairReport) {
    let before = contents(path);
    let out = path.with_file_name("out");
    let salvaged = LocalBackend::salvage(path, &out).expect("salvages");
    assert!(contents(path) == before, "salvage changed the store");
    let report = LocalBackend::repair(path).expect("repairs");
    assert_eq!(report.salvage, salvaged);
    let copy = report.copy.clone().expect("a copy");
    assert!(contents(&copy) == before, "the copy is not what was there");
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

pub fn all_blocks(store: &LocalBackend) -> BTreeMap<u64, Vec<u8>> {
    let ids = store.ids(..).expect("lists");
    let read = |id: BlockId| (id.0, store.read_block(id).expect("reads").data.to_vec());
    ids.into_iter().map(read).collect()
}

/// Every block is as it was but for those named, which are gone.
#[track_caller]
pub fn check(store: &LocalBackend, model: &Model, gone: &[u64]) {
    let expected: BTreeMap<u64, Vec<u8>> = model
        .iter()
        .filter(|(id, _)| !gone.contains(id))
        .filter_map(|(id, version)| version.map(|version| (*id, payload(*id, version))))
        .collect();
    let found = all_blocks(store);
    let wrong: Vec<u64> = (0..=300).filter(|id| found.get(id) != expected.get(id)).collect();
    assert!(found == expected, "these blocks are not as expected: {wrong:?}");
}

pub fn ids(blocks: &[BlockId]) -> Vec<u64> {
    blocks.iter().map(|id| id.0).collect()
}

pub fn commits_lost(report: &SalvageReport) -> Vec<(Lsn, Lsn)> {
    report.losses.iter().filter_map(|loss| loss.lsns).collect()
}
