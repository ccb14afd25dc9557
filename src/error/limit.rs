//! Limits that were met, with their values.
//!
//! Owns the limits of snapshots and of space, and the error by which a store's own quota refuses
//! below the disk.

use std::time::Duration;

/// Why a snapshot was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SnapshotLimit {
    /// It was open for longer than `snapshot_age_max`.
    Age(Duration),
    /// It was the oldest one when old versions cost more than `snapshot_pinned_max` bytes.
    PinnedBytes(u64),
}

/// The limit of a store's space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpaceLimit {
    /// The file system, or what the volume below it has left.
    Disk,
    /// The quota of this user, group or project in the file system (`EDQUOT`). Others may still
    /// write.
    UserQuota,
    /// The store's own `max_bytes`.
    MaxBytes(u64),
}

/// The store's own quota refuses to let a file grow: inside of the [`io::Error`] that says so.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OverQuota {
    pub(crate) max: u64,
}

impl std::fmt::Display for OverQuota {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the store may take {} bytes", self.max)
    }
}

impl std::error::Error for OverQuota {}

impl std::fmt::Display for SnapshotLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SnapshotLimit::Age(max) => write!(f, "it was open for more than {max:?}"),
            SnapshotLimit::PinnedBytes(max) => {
                write!(f, "it was the oldest when snapshots kept more than {max} bytes")
            }
        }
    }
}

impl std::fmt::Display for SpaceLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SpaceLimit::Disk => f.write_str("on the disk"),
            SpaceLimit::UserQuota => f.write_str("in what the file system grants its user"),
            SpaceLimit::MaxBytes(max) => write!(f, "within the store's {max} bytes"),
        }
    }
}
