//! Entries that a file system puts into its own root, so that a store may be a whole volume.
//!
//! Owns the closed list of such names. An entry of the list is no user's data, and [`list`] leaves
//! it out. A store, a backup or a restored store may be made beside it. Everything else in a
//! directory counts as a user's data, hidden files too.
//!
//! | name                | made by              | left out if it is a directory                 |
//! |---------------------|----------------------|-----------------------------------------------|
//! | `lost+found`        | ext2, ext3, ext4     | that is empty or not readable by this user    |
//! | `.snapshot`, `.zfs` | file servers and ZFS | of any content: older states, read-only       |
//!
//! Files that `fsck` saved in `lost+found` may be the last copy, so one with entries is not left
//! out. It belongs to root with mode 0700: the store of another user can neither read nor harm its
//! files.
//!
//! [`list`]: crate::io::Disk::list

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, Mode, SFlag};

use super::directory_flags;

/// Whether an entry of a directory is on the list.
///
/// # Errors
/// The operating system's own: the entry could not be looked at.
pub(super) fn is_furniture(
    directory: &OwnedFd,
    name: &CStr,
    stat: impl FnOnce() -> io::Result<Option<FileStat>>,
) -> io::Result<bool> {
    let may_hold_something = match name.to_bytes() {
        b"lost+found" => false,
        b".snapshot" | b".zfs" => true,
        _ => return Ok(false),
    };
    let is_directory = |stat: FileStat| {
        SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFDIR
    };
    if !stat()?.is_some_and(is_directory) {
        return Ok(false);
    }
    if may_hold_something { Ok(true) } else { is_empty_directory(directory, name) }
}

fn is_empty_directory(directory: &OwnedFd, name: &CStr) -> io::Result<bool> {
    let flags = directory_flags() | OFlag::O_NOFOLLOW;
    let mut inner = match Dir::openat(directory, name, flags, Mode::empty()) {
        Err(Errno::EACCES | Errno::EPERM | Errno::ENOENT) => return Ok(true),
        opened => opened?,
    };
    for found in inner.iter() {
        if !matches!(found?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}
