//! Unused checkpoints: how far the log once reached, by those that recovery does not use.
//!
//! Owns [`UnusedCheckpoint`], a checkpoint and the newest commit in it. Reads headers only. The
//! rules:
//!
//! - A checkpoint gets its name after every commit in it is durable in the log (`checkpoint`,
//!   invariant 1), and no crash removes durable frames. So a log that ends before a checkpoint's
//!   newest commit has lost its end, and has no torn tail. The state of the name, the confirming
//!   mark and the pages does not matter.
//! - A header is durable before its name, so only damage leaves a name without a header. A header
//!   that is damaged or another store's is skipped.
//! - The ends are compared by LSN: a truncation record may have moved the same commits to another
//!   place.
//!
//! [`Recovery::decide_end`](super::Recovery::decide_end) applies them in every open, probe and
//! verification.

use super::Recovery;
use crate::block::Lsn;
use crate::error::{Defect, Error, Place, Result};
use crate::io::{Disk, FileName};
use crate::local::format::checkpoint::ImageName;
use crate::local::format::place::place;
use crate::local::maintenance::checkpoint::image::Image;
use crate::local::recovery::listing::Listing;

/// A checkpoint that proves that the log once reached a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct UnusedCheckpoint {
    /// The checkpoint's file number.
    number: u64,
    /// The newest commit in it.
    pub(super) lsn: Lsn,
}

impl<D: Disk> Recovery<'_, D> {
    /// Finds the checkpoint with the newest commit among those that are not in use.
    ///
    /// # Errors
    /// [`Error::UnsupportedFormat`], [`Error::Io`]: a header cannot be read.
    pub(super) fn newest_unused_checkpoint(
        &self,
        listing: &Listing,
        used: &[ImageName],
    ) -> Result<Option<UnusedCheckpoint>> {
        let mut newest: Option<UnusedCheckpoint> = None;
        for number in &listing.checkpoints {
            if used.iter().any(|name| name.number == *number) {
                continue;
            }
            match Image::read_summary(self.disk, self.store, *number) {
                Ok(summary) if newest.is_none_or(|newest| newest.lsn < summary.lsn) => {
                    newest = Some(UnusedCheckpoint { number: *number, lsn: summary.lsn });
                }
                Ok(_) | Err(Error::Corrupt { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(newest)
    }
}

impl UnusedCheckpoint {
    /// The error for a log that ends at this place; `first` is the first lost commit.
    pub(super) fn missing_end(self, segment: u64, offset: u64, first: Lsn) -> Error {
        assert!(first <= self.lsn, "a checkpoint holds the lost commit");
        let defect = Defect::MissingEnd { checkpoint: self.number, lsn: self.lsn };
        let place = place(FileName::Segment(segment), offset);
        Error::Corrupt { defect, place: Place { lsn: Some(first), ..place } }
    }
}
