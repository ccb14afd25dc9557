//! A store with known blocks that was closed, and what may become of it: opened, refused and
//! unchanged.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use aegis_blocks::{BlockId, Error, LocalBackend, Result, StorageBackend};
use tempfile::TempDir;

use super::block::block;

/// Everything under a directory: kind and mode of each entry, bytes of each file, target of each
/// link.
pub fn everything(path: &Path) -> BTreeMap<PathBuf, (String, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let meta = fs::symlink_metadata(path).expect("something has this name");
    let kind = format!("{:?} {:o}", meta.file_type(), meta.permissions().mode());
    let mut bytes = Vec::new();
    if meta.is_symlink() {
        bytes = fs::read_link(path).expect("a link").into_os_string().into_encoded_bytes();
    } else if meta.is_file() {
        bytes = fs::read(path).expect("a file");
    } else if meta.is_dir() {
        for entry in fs::read_dir(path).expect("a directory") {
            found.extend(everything(&entry.expect("an entry").path()));
        }
    }
    found.insert(path.to_path_buf(), (kind, bytes));
    found
}

/// The error of an open that must fail, and must not have changed anything under `directory`.
#[track_caller]
pub fn refused(directory: &TempDir, open: impl FnOnce() -> Result<LocalBackend>) -> Error {
    let before = everything(directory.path());
    let answer = open();
    let after = everything(directory.path());
    let changed: Vec<_> = before
        .iter()
        .filter(|(path, was)| after.get(*path) != Some(was))
        .map(|(path, _)| path)
        .chain(after.keys().filter(|path| !before.contains_key(*path)))
        .collect();
    assert!(changed.is_empty(), "an open that failed changed {changed:?}");
    match answer {
        Ok(_) => panic!("the open must be refused"),
        Err(error) => error,
    }
}

pub fn directory() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = directory.path().join("store");
    (directory, store)
}

/// The payload of a block: its like is nowhere else.
pub fn payload(id: u64) -> String {
    format!("<payload of block {id:04}>").repeat(4)
}

pub const BLOCKS: u64 = 20;

/// A store with blocks 1 to [`BLOCKS`], each its own commit, and closed.
pub fn closed_store() -> (TempDir, PathBuf) {
    let (directory, path) = directory();
    let store = LocalBackend::open(&path).expect("a new store");
    for id in 1..=BLOCKS {
        store.write_block(block(id, payload(id))).expect("a write");
    }
    store.close().expect("a clean close");
    (directory, path)
}

/// Asserts that the store holds all blocks of [`closed_store`] but these, takes writes, and says
/// so.
#[track_caller]
pub fn check(store: &LocalBackend, without: &[u64]) {
    for id in (1..=BLOCKS).filter(|id| !without.contains(id)) {
        let found = store.read_block(BlockId(id)).expect("an intact block");
        assert_eq!(found, block(id, payload(id)));
    }
    assert_eq!(store.stats().total_blocks, BLOCKS, "stats against a scan");
    let id = store.write_block(block(0, "new")).expect("a write");
    assert_eq!(&store.read_block(id).expect("the new block").data[..], b"new");
    store.delete_block(id).expect("a delete");
}

/// File and offset of some bytes that stand in one place of the log only.
pub fn find(path: &Path, bytes: &[u8]) -> (PathBuf, u64) {
    let mut found = Vec::new();
    for entry in fs::read_dir(path).expect("the store's directory") {
        let file = entry.expect("an entry").path();
        let content = fs::read(&file).expect("a file");
        let at = content.windows(bytes.len()).position(|window| window == bytes);
        found.extend(at.map(|at| (file, at as u64)));
    }
    assert_eq!(found.len(), 1, "files that hold {:?}", String::from_utf8_lossy(bytes));
    found.remove(0)
}
pub fn name(file: &Path) -> String {
    file.file_name().expect("a name").to_string_lossy().into_owned()
}
