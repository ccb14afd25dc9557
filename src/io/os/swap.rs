//! Whole directories: exchanging two, and giving one another name. Each is one step that a power
//! cut leaves done or undone.

use std::io;
use std::path::Path;

use nix::fcntl::{AT_FDCWD, open};
use nix::sys::stat::{Mode, stat};
use nix::unistd::fsync;

use super::directory_flags;

/// Whether a directory is the root of a file system. `path` is canonical.
///
/// # Errors
/// The operating system's own.
pub(crate) fn is_mount_point(path: &Path) -> io::Result<bool> {
    let Some(parent) = path.parent() else { return Ok(true) };
    Ok(stat(path)?.st_dev != stat(parent)?.st_dev)
}

/// Exchanges two directories of one parent, durably.
///
/// # Errors
/// The operating system's own; after one of the sync both may have either name.
#[cfg(target_env = "gnu")]
pub(crate) fn swap_directories(a: &Path, b: &Path) -> io::Result<()> {
    use nix::fcntl::{RenameFlags, renameat2};
    renameat2(AT_FDCWD, a, AT_FDCWD, b, RenameFlags::RENAME_EXCHANGE)?;
    sync_parent(a)
}

/// Exchanging is not offered by this C library.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn swap_directories(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Gives a directory another name in its parent, durably. Nothing has that name.
///
/// # Errors
/// The operating system's own; after one of the sync it may have either name.
pub(crate) fn rename_directory(from: &Path, to: &Path) -> io::Result<()> {
    nix::fcntl::renameat(AT_FDCWD, from, AT_FDCWD, to)?;
    sync_parent(to)
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    Ok(fsync(open(parent, directory_flags(), Mode::empty())?)?)
}
