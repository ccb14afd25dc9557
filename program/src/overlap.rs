//! Which directories lie in one another, and which of them are stores.
//!
//! Owns the rule that a store's directory is written by the store alone. No command packs a store's
//! own files into it, and none writes files into a store. Directories are told apart by device and
//! inode, so that every path and link to one is the same.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::failure::Failure;

/// Refuses to import a tree that holds the store, or that the store holds.
pub fn refuse_import(store: &Path, tree: &Path) -> Result<(), Failure> {
    let (shown_store, shown_tree) = (store.display(), tree.display());
    if lies_within(tree, store)? {
        return Err(Failure::usage(format!(
            "{shown_tree} lies in the store {shown_store}: a store does not take in its own files"
        )));
    }
    if lies_within(store, tree)? {
        return Err(Failure::usage(format!(
            "the store {shown_store} lies in {shown_tree}, which is to be imported: keep it elsewhere"
        )));
    }
    Ok(())
}

/// Refuses to export into a store, or into a directory that the exported store lies in.
pub fn refuse_export(store: &Path, target: &Path) -> Result<(), Failure> {
    refuse_inside_store(target)?;
    if lies_within(store, target)? {
        return Err(Failure::usage(format!(
            "the store {} lies in {}, which is to be written to: export elsewhere",
            store.display(),
            target.display()
        )));
    }
    Ok(())
}

/// Refuses a place for new files that is a store, or lies in one.
pub fn refuse_inside_store(target: &Path) -> Result<(), Failure> {
    if is_store_directory(target) {
        let shown = target.display();
        return Err(Failure::usage(format!(
            "{shown} is a store: only the store itself writes there"
        )));
    }
    refuse_below_store(target)
}

/// Refuses a place for a new directory that lies in a store.
pub fn refuse_below_store(target: &Path) -> Result<(), Failure> {
    for dir in resolve_path(target)?.ancestors().skip(1) {
        if is_store_directory(dir) {
            return Err(Failure::usage(format!(
                "{} lies in the store {}: only the store itself writes there",
                target.display(),
                dir.display()
            )));
        }
    }
    Ok(())
}

/// Whether a directory holds the files of a store or of a backup.
pub fn is_store_directory(dir: &Path) -> bool {
    let is_described = ["META", "MANIFEST"]
        .iter()
        .any(|name| fs::symlink_metadata(dir.join(name)).is_ok_and(|metadata| metadata.is_file()));
    let has_segment = || {
        let mut names = fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.file_name());
        names.any(|name| is_segment(name.as_bytes()))
    };
    is_described && has_segment()
}

/// Whether a name is that of a log segment.
pub fn is_segment(name: &[u8]) -> bool {
    let digits = name.strip_prefix(b"SEG-").unwrap_or_default();
    digits.len() == 16 && digits.iter().all(u8::is_ascii_hexdigit)
}

/// Whether `inner` is `outer` or lies in it.
fn lies_within(inner: &Path, outer: &Path) -> Result<bool, Failure> {
    let identity = |path: &Path| fs::metadata(path).map(|m| (m.dev(), m.ino()));
    // A missing directory holds nothing.
    let Ok(outer) = identity(outer) else { return Ok(false) };
    let inner = resolve_path(inner)?;
    Ok(inner.ancestors().any(|path| identity(path).is_ok_and(|found| found == outer)))
}

/// The path without links, `.` and `..`, as far as it exists, and the rest of it as it is.
fn resolve_path(path: &Path) -> Result<PathBuf, Failure> {
    let failed = |e| Failure::io("cannot look at", path, e);
    let path = std::path::absolute(path).map_err(failed)?;
    let mut missing = Vec::new();
    for existing in path.ancestors() {
        match existing.canonicalize() {
            Ok(mut resolved) => {
                resolved.extend(missing.into_iter().rev());
                return Ok(resolved);
            }
            // A dangling link counts as a name that is free. No command creates through one.
            Err(e)
                if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
            {
                missing.extend(existing.file_name());
            }
            Err(e) => return Err(Failure::io("cannot look at", existing, e)),
        }
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn directories_lie_in_one_another_by_every_path() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name);
        fs::create_dir_all(path("a/b/c")).expect("directories");
        fs::create_dir(path("ab")).expect("a directory");
        symlink("a/b", path("link")).expect("a link");
        for inner in ["a", "a/b/c", "a/b/../b", "link", "link/c", "a/new", "link/new/newer"] {
            assert!(lies_within(&path(inner), &path("a")).expect(inner), "{inner}");
        }
        for inner in ["ab", "new", "."] {
            assert!(!lies_within(&path(inner), &path("a")).expect(inner), "{inner}");
        }
        assert!(lies_within(&path("a/b/c"), &path("link")).expect("link"));
        assert!(!lies_within(&path("a"), &path("missing")).expect("missing"));
    }
}
