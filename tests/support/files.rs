//! The files of a directory.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The names in a directory, in order.
pub fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).expect("lists").map(|entry| entry.expect("an entry"));
    let mut names: Vec<_> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The bytes of each file, by name.
#[allow(dead_code, reason = "some programs want the names only")]
pub fn contents(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let read = |name: String| (name.clone(), fs::read(path.join(name)).expect("reads"));
    names(path).into_iter().map(read).collect()
}
