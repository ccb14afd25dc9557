//! Overwriting in place: space that was reserved once is enough for every later write.
//!
//! The log is written over space that was reserved or zeroed ahead. A file system that copies on
//! write takes *new* space for that, so a full one refuses a write into reserved space. btrfs lets
//! a file that is still empty be marked to be overwritten in place (`FS_NOCOW_FL`). Owns that mark,
//! and the rules:
//!
//! 1. Every new file of a store on btrfs is marked. It is a wish: a system that refuses it is no
//!    error.
//! 2. A file is marked as another one is before it shares that one's bytes: btrfs refuses to share
//!    otherwise.
//!
//! A marked file has no checksums of btrfs and is not compressed; the store has its own checksums.
//! Bytes that a snapshot of the volume or a reflink shares are still copied on write.

use crate::unheard::unheard;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use nix::libc::{c_int, c_long};
use nix::sys::statfs::{BTRFS_SUPER_MAGIC, fstatfs};

/// `FS_NOCOW_FL`: overwritten in place.
const IN_PLACE: c_int = 0x0080_0000;

nix::ioctl_read_bad!(
    /// `FS_IOC_GETFLAGS`, whose number says a long and which writes an int.
    get_flags,
    nix::request_code_read!(b'f', 1, size_of::<c_long>()),
    c_int
);

nix::ioctl_write_ptr_bad!(
    /// `FS_IOC_SETFLAGS`, which reads an int.
    set_flags,
    nix::request_code_write!(b'f', 2, size_of::<c_long>()),
    c_int
);

/// Has an empty file overwritten in place, where the file system can but does not by default.
pub(super) fn overwrite_in_place(empty: &File) {
    let is_copied = fstatfs(empty).is_ok_and(|found| found.filesystem_type() == BTRFS_SUPER_MAGIC);
    if is_copied {
        unheard(
            set_inode_flags(empty, IN_PLACE),
            "the file system then copies on write, which is slower",
        );
    }
}

/// Marks an empty file as another one is, so that it can share that one's bytes.
pub(super) fn mark_alike(empty: &File, original: &File) {
    if let Ok(flags) = read_inode_flags(original) {
        unheard(
            set_inode_flags(empty, flags & IN_PLACE),
            "the bytes are then copied and not shared",
        );
    }
}

/// The marks of a file.
///
/// # Errors
/// The file system has none.
#[expect(unsafe_code, reason = "no crate has a call for it")]
fn read_inode_flags(file: &File) -> io::Result<c_int> {
    let mut flags = 0;
    // SAFETY: the call writes an int through a pointer to a live `c_int`. The descriptor is open as
    // long as the borrow of its file.
    unsafe { get_flags(file.as_raw_fd(), &mut flags) }?;
    Ok(flags)
}

#[expect(unsafe_code, reason = "no crate has a call for it")]
fn set_inode_flags(file: &File, marked: c_int) -> io::Result<()> {
    let flags = read_inode_flags(file)?;
    let wanted = flags & !IN_PLACE | marked;
    if wanted != flags {
        // SAFETY: the call reads an int through a pointer to a live `c_int`. The descriptor is open
        // as long as the borrow of its file.
        unsafe { set_flags(file.as_raw_fd(), &wanted) }?;
    }
    Ok(())
}
