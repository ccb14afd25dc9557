//! The tree to import: what lies under a path, found before the first byte is read.
//!
//! Follows no symbolic link but the one the user named. Files that are neither plain files,
//! directories nor links (devices, pipes, sockets) are named and left out; what cannot be read is
//! named too and does not end the walk.

use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::entry::{Mtime, PATH_LEN_MAX};
use crate::failure::Failure;

/// Something to import.
#[derive(Debug)]
pub struct Item {
    /// Where it lies now.
    pub source: PathBuf,
    /// Where it belongs in the tree; empty for the root directory.
    pub path: Vec<u8>,
    /// As found by the walk.
    pub metadata: Metadata,
}

/// What a walk found.
#[derive(Debug, Default)]
pub struct Tree {
    /// Every file, directory and link; a directory comes before what lies in it.
    pub items: Vec<Item>,
    /// One line for each thing that is not for importing.
    pub left_out: Vec<String>,
    /// One line for each thing that could not be read.
    pub failed: Vec<String>,
    /// Bytes in plain files.
    pub bytes: u64,
}

impl Tree {
    /// Walks `root`, a directory or a plain file. Passes over the directory `except`, so that a
    /// store inside the tree does not swallow itself.
    pub fn walk(root: &Path, except: &Path) -> Result<Tree, Failure> {
        let metadata = fs::metadata(root).map_err(|e| Failure::io("cannot import", root, e))?;
        let except = fs::metadata(except).ok().map(|m| (m.dev(), m.ino()));
        let mut tree = Tree::default();
        if metadata.is_file() {
            let name = root.file_name().unwrap_or(root.as_os_str()).as_bytes().to_vec();
            tree.bytes = metadata.len();
            tree.items.push(Item { source: root.to_path_buf(), path: name, metadata });
            return Ok(tree);
        }
        if !metadata.is_dir() {
            return Err(Failure::io("cannot import", root, "neither a file nor a directory"));
        }
        tree.items.push(Item { source: root.to_path_buf(), path: Vec::new(), metadata });
        let mut at = 0;
        while at < tree.items.len() {
            if tree.items[at].metadata.is_dir() {
                tree.list(at, except);
            }
            at += 1;
        }
        Ok(tree)
    }

    /// Adds what lies in the directory `items[at]`.
    fn list(&mut self, at: usize, except: Option<(u64, u64)>) {
        let (dir, parent) = (self.items[at].source.clone(), self.items[at].path.clone());
        let found = match fs::read_dir(&dir) {
            Ok(found) => found,
            Err(e) => return self.failed.push(format!("cannot list {}: {e}", dir.display())),
        };
        for found in found {
            // `DirEntry::metadata` does not follow a link.
            match found.and_then(|found| Ok((found.metadata()?, found.path()))) {
                Ok((metadata, source)) => self.add(&parent, source, metadata, except),
                Err(e) => self.failed.push(format!("cannot read in {}: {e}", dir.display())),
            }
        }
    }

    fn add(
        &mut self,
        parent: &[u8],
        source: PathBuf,
        metadata: Metadata,
        except: Option<(u64, u64)>,
    ) {
        let kind = metadata.file_type();
        if kind.is_dir() && except == Some((metadata.dev(), metadata.ino())) {
            return;
        }
        if !(kind.is_file() || kind.is_dir() || kind.is_symlink()) {
            self.left_out.push(format!("{}: not a file, directory or link", source.display()));
            return;
        }
        let mut path = parent.to_vec();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(source.file_name().unwrap_or_default().as_bytes());
        if path.len() > PATH_LEN_MAX {
            self.failed.push(format!("{}: path too long", source.display()));
            return;
        }
        if kind.is_file() {
            self.bytes += metadata.len();
        }
        self.items.push(Item { source, path, metadata });
    }
}

/// The modification time of a file.
pub fn mtime(metadata: &Metadata) -> Mtime {
    Mtime { seconds: metadata.mtime(), nanos: metadata.mtime_nsec() as u32 }
}
