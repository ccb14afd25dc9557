//! The store's lock of the real disk.
//!
//! Owns the locked descriptors. The lock is `flock`'s, which belongs to an opening of a file and
//! not to a process: a forked child shares it. So three things hold:
//!
//! 1. Only the process that took the lock unlocks it. In any other a drop changes nothing.
//! 2. It unlocks before it closes, which ends the lock even if another process has the descriptor.
//! 3. A child of `fork` has the descriptors closed before it runs, so that a parent's end by a
//!    signal ends the lock, too. A child of a raw `clone` keeps the lock until it execs or exits.

use std::fs::{File, TryLockError};
use std::os::fd::AsRawFd;

use super::process::{ClosedInChild, ProcessBound};
use crate::io::LockError;

/// Holds the store's lock; dropping it lets the next one in.
#[derive(Debug)]
pub struct OsLock {
    directory: LockedFile,
    /// `LOCK`; where nothing can be written there may be none.
    file: Option<LockedFile>,
}

impl OsLock {
    /// Holds the lock of a directory alone.
    pub(super) fn from_directory(directory: LockedFile) -> OsLock {
        OsLock { directory, file: None }
    }

    /// Holds the lock of `LOCK`, too.
    pub(super) fn add_file_lock(&mut self, file: LockedFile) {
        self.file = Some(file);
    }
}

impl Drop for OsLock {
    fn drop(&mut self) {
        for file in self.file.iter().chain([&self.directory]) {
            file.unlock();
        }
    }
}

/// An open file that is to be locked, or is.
#[derive(Debug)]
pub(super) struct LockedFile {
    // Dropped in this order: a descriptor leaves the list before it is closed.
    closed_in_child: ProcessBound<ClosedInChild>,
    file: ProcessBound<File>,
}

impl LockedFile {
    pub(super) fn new(file: File) -> LockedFile {
        let closed_in_child = ProcessBound::new(ClosedInChild::new(file.as_raw_fd()));
        LockedFile { closed_in_child, file: ProcessBound::new(file) }
    }

    /// # Errors
    /// As [`Disk::lock`](crate::io::Disk::lock).
    pub(super) fn try_lock_exclusive(&self) -> Result<(), LockError> {
        self.file.try_lock().map_err(to_lock_error)
    }

    /// # Errors
    /// As [`Disk::lock_shared`](crate::io::Disk::lock_shared).
    pub(super) fn try_lock_shared(&self) -> Result<(), LockError> {
        self.file.try_lock_shared().map_err(to_lock_error)
    }

    /// Unlocks in the process that locked.
    fn unlock(&self) {
        if self.closed_in_child.process().is_current() {
            // An unlock of a lock that we hold has no way to fail.
            let unlocked = self.file.unlock();
            debug_assert!(unlocked.is_ok(), "the store's lock could not be released: {unlocked:?}");
        }
    }
}

fn to_lock_error(refused: TryLockError) -> LockError {
    match refused {
        TryLockError::WouldBlock => LockError::Held,
        TryLockError::Error(e) => LockError::Io(e),
    }
}
