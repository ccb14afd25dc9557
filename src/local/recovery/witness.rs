//! Witness: how far the log went, by the checkpoints that recovery does not use.
//!
//! Owns [`Witness`], a checkpoint whose header says which commit it holds. Reads headers only. The rule:
//!
//! - A checkpoint gets its name after every commit in it is durable in the log (`checkpoint`, invariant 1), and
//!   no crash takes from a log what was durable. So whatever became of the name, of the mark that confirms it and
//!   of its pages: a log that ends before a checkpoint's newest commit has lost its end, and is no torn tail.
//! - The header is the testimony. It is durable before the name is, so there is no name without one but for
//!   damage; a header that cannot be read, or is another store's, says nothing.
//! - The end is compared by LSN, not by place: a cut may have moved the same commits to another place.
//!
//! [`Recovery::decide_end`](super::Recovery::decide_end) asks it for every session, probe and verification alike.

use super::Recovery;
use crate::block::Lsn;
use crate::error::{Defect, Error, Place, Result};
use crate::io::{Disk, FileName};
use crate::local::format::checkpoint::ImageName;
use crate::local::format::place::place;
use crate::local::maintenance::checkpoint::image::Image;
use crate::local::recovery::listing::Listing;

/// A checkpoint that says that the log went on to a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Witness {
    /// In the checkpoint's file name.
    number: u64,
    /// The newest commit in it.
    pub(super) lsn: Lsn,
}

impl<D: Disk> Recovery<'_, D> {
    /// Of the checkpoints that are not among those in use, the one with the newest commit.
    ///
    /// # Errors
    /// [`Error::UnsupportedFormat`], [`Error::Io`]: it cannot be asked.
    pub(super) fn newest_unused_checkpoint(
        &self,
        listing: &Listing,
        used: &[ImageName],
    ) -> Result<Option<Witness>> {
        let mut newest: Option<Witness> = None;
        for number in &listing.checkpoints {
            if used.iter().any(|name| name.number == *number) {
                continue;
            }
            match Image::summary(self.disk, self.store, *number) {
                Ok(summary) if newest.is_none_or(|newest| newest.lsn < summary.lsn) => {
                    newest = Some(Witness { number: *number, lsn: summary.lsn });
                }
                Ok(_) | Err(Error::Corrupt { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(newest)
    }
}

impl Witness {
    /// The loss of the log's end behind a place, behind which `first` was the next commit.
    pub(super) fn missing_end(self, segment: u64, offset: u64, first: Lsn) -> Error {
        assert!(first <= self.lsn, "the log goes as far as its witness");
        let defect = Defect::MissingEnd { checkpoint: self.number, lsn: self.lsn };
        let place = place(FileName::Segment(segment), offset);
        Error::Corrupt { defect, place: Place { lsn: Some(first), ..place } }
    }
}
