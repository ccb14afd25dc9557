//! Listing: the files in the directory of a store. Reads the directory only.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Defect, Error, IoOp, NotAStoreReason, Result};
use crate::io::{Disk, Entry, FileName};
use crate::local::format::PAGE;
use crate::local::format::place::damaged;

/// The largest file number that is accepted. Numbers count up from 1, and no store reaches it.
pub(crate) const FILE_NUMBER_MAX: u64 = 1 << 62;

/// The files of a store by kind.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) has_meta: bool,
    /// File numbers of the segments, with their lengths.
    pub(crate) segments: BTreeMap<u64, u64>,
    /// File numbers of the checkpoints.
    pub(crate) checkpoints: BTreeSet<u64>,
    pub(crate) unfinished: Vec<FileName>,
    pub(crate) unknown_count: u64,
    pub(crate) next_number: u64,
}

/// Lists the directory, and refuses one that neither is a store nor can become one.
pub(crate) fn list_store<D: Disk>(disk: &D, create: bool) -> Result<Listing> {
    let refuse = |reason| Err(Error::NotAStore { path: disk.path().to_path_buf(), reason });
    let mut listing = Listing { next_number: 1, ..Listing::default() };
    for entry in disk.list().map_err(|e| Error::io(IoOp::List, disk.path(), e))? {
        match entry {
            Entry::NotAFile { .. } => return refuse(NotAStoreReason::UnsafeFile),
            Entry::File { name: FileName::Manifest, .. } => {
                return refuse(NotAStoreReason::Backup);
            }
            Entry::Unknown { .. } => listing.unknown_count += 1,
            Entry::File { name, .. } if name.number() > FILE_NUMBER_MAX => {
                return Err(damaged(name, 0, Defect::FileNumber));
            }
            Entry::File { name, len } => listing.add_file(name, len),
        }
    }
    if !listing.has_meta {
        if listing.unknown_count > 0 {
            return refuse(NotAStoreReason::ForeignFiles);
        }
        // An interrupted creation leaves segments without a frame.
        if !create && listing.segments.values().all(|len| *len <= PAGE) {
            return refuse(NotAStoreReason::Missing);
        }
    }
    Ok(listing)
}

impl Listing {
    fn add_file(&mut self, name: FileName, len: u64) {
        debug_assert!(name.number() <= FILE_NUMBER_MAX, "the caller refuses larger numbers");
        let number = match name {
            FileName::Meta => {
                self.has_meta = true;
                return;
            }
            FileName::Lock | FileName::Reserve | FileName::Manifest => return,
            FileName::Segment(number) => {
                self.segments.insert(number, len);
                number
            }
            FileName::Checkpoint(number) => {
                self.checkpoints.insert(number);
                number
            }
            FileName::Temporary(number) => {
                self.unfinished.push(name);
                number
            }
        };
        self.next_number = self.next_number.max(number + 1);
    }
}
