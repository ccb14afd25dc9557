//! The tree to import: the files under a path, found before the first byte is read. Owns what of it
//! an import keeps: [`mtime`], [`ctime`], [`owner`], and a count of what it does not.
//!
//! Follows no symbolic link but the one the user named. Other kinds of files (devices, pipes,
//! sockets) are named and left out. A file that cannot be read is named too, and the walk goes on.

use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::entry::{Owner, PATH_LEN_MAX, Timestamp};
use crate::failure::Failure;
use crate::interrupt;

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

/// Result of a walk.
#[derive(Debug, Default)]
pub struct Tree {
    /// Every file, directory and link; a directory comes before its entries.
    pub items: Vec<Item>,
    /// One line for each thing that is not for importing.
    pub left_out: Vec<String>,
    /// One line for each thing that could not be read.
    pub failed: Vec<String>,
    /// Bytes in plain files.
    pub bytes: u64,
    /// Plain files that have more names than one.
    pub with_links: u64,
    /// Things that have extended attributes or an access control list.
    pub with_attributes: u64,
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
            tree.push_item(Item { source: root.to_path_buf(), path: name, metadata });
            return Ok(tree);
        }
        if !metadata.is_dir() {
            let shown = root.display();
            return Err(Failure::usage(format!("{shown} is neither a file nor a directory")));
        }
        tree.push_item(Item { source: root.to_path_buf(), path: Vec::new(), metadata });
        let mut at = 0;
        while at < tree.items.len() {
            interrupt::check_not_stopped("nothing was imported yet")?;
            if tree.items[at].metadata.is_dir() {
                tree.list_directory(at, except);
            }
            at += 1;
        }
        Ok(tree)
    }

    /// Adds the entries of the directory `items[at]`.
    fn list_directory(&mut self, at: usize, except: Option<(u64, u64)>) {
        let (dir, parent) = (self.items[at].source.clone(), self.items[at].path.clone());
        let found = match fs::read_dir(&dir) {
            Ok(found) => found,
            Err(e) => return self.failed.push(format!("cannot list {}: {e}", dir.display())),
        };
        for found in found {
            // `DirEntry::metadata` does not follow a link.
            match found.and_then(|found| Ok((found.metadata()?, found.path()))) {
                Ok((metadata, source)) => self.add_entry(&parent, source, metadata, except),
                Err(e) => self.failed.push(format!("cannot read in {}: {e}", dir.display())),
            }
        }
    }

    fn add_entry(
        &mut self,
        parent: &[u8],
        source: PathBuf,
        metadata: Metadata,
        except: Option<(u64, u64)>,
    ) {
        let kind = metadata.file_type();
        if kind.is_dir() && except == Some((metadata.dev(), metadata.ino())) {
            return self.left_out.push(format!("{}: the store itself", source.display()));
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
        self.push_item(Item { source, path, metadata });
    }

    fn push_item(&mut self, item: Item) {
        if item.metadata.is_file() {
            self.bytes += item.metadata.len();
            self.with_links += u64::from(item.metadata.nlink() > 1);
        }
        self.with_attributes += u64::from(has_attributes(&item.source));
        self.items.push(item);
    }
}

/// When the content of a file last changed.
pub fn mtime(metadata: &Metadata) -> Timestamp {
    Timestamp { seconds: metadata.mtime(), nanos: metadata.mtime_nsec() as u32 }
}

/// When a file last changed in any way. Programs can set a file's mtime, and not this.
pub fn ctime(metadata: &Metadata) -> Timestamp {
    Timestamp { seconds: metadata.ctime(), nanos: metadata.ctime_nsec() as u32 }
}

/// Whom a file belongs to.
pub fn owner(metadata: &Metadata) -> Owner {
    Owner { user: metadata.uid(), group: metadata.gid() }
}

/// Whether there is more to a file than an import keeps. The label that SELinux gives every file
/// does not count. A failed query counts as no.
fn has_attributes(path: &Path) -> bool {
    const NAMES_LEN: usize = 4096;
    let mut names = [0; NAMES_LEN];
    match rustix::fs::llistxattr(path, &mut names) {
        Ok(len) => {
            let mut names = names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
            names.any(|name| name != b"security.selinux")
        }
        // More names than fit.
        Err(rustix::io::Errno::RANGE) => true,
        Err(_) => false,
    }
}
