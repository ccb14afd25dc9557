//! Making segments: from a new file, or from the file of a segment kept for reuse.
//!
//! Owns the order of steps: a segment is complete and durable under a `TMP-` name before it gets
//! its `SEG-` name. Owns also the state after a failed step: no file, or a name that may come back
//! ([`SegmentNotMade`]).

use std::io;

use super::SpaceOptions;
use crate::error::PoisonCause;
use crate::io::{Disk, DiskFile, FileName, How, write_all_at};
use crate::local::format::PAGE;
use crate::local::format::description::Description;
use crate::local::format::segment::{LEN_MAX, SEQUENCE_MAX, SegmentHeader};
use crate::local::read::segment::Segment;
use crate::unheard::unheard;

/// The source of a new segment's file.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Source<'a> {
    /// A new file, with these bytes behind its header.
    New(&'a [u8]),
    /// The file of a segment kept for reuse, with this number.
    Spare(u64),
}

/// Why there is no new segment.
#[derive(Debug)]
pub(crate) struct SegmentNotMade {
    pub(crate) source: io::Error,
    /// The segment's name may come back after a power cut. Another segment with its sequence would
    /// make the store unreadable, so none may be made in this session.
    pub(super) left: Option<PoisonCause>,
}

impl From<io::Error> for SegmentNotMade {
    fn from(source: io::Error) -> SegmentNotMade {
        SegmentNotMade { source, left: None }
    }
}

/// Removes an unused file durably. Otherwise returns the cause for which the store must be
/// poisoned.
pub(crate) fn remove_durably<D: Disk>(disk: &D, name: FileName) -> Option<PoisonCause> {
    match disk.remove(name) {
        Ok(()) => disk.sync_dir().err().map(|_| PoisonCause::SyncFailed),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(_) => Some(PoisonCause::WriteFailed),
    }
}

/// Makes the segments of one store.
pub(crate) struct SegmentMaker<'a, D: Disk> {
    pub(crate) disk: &'a D,
    pub(crate) store: &'a Description,
    pub(crate) options: &'a SpaceOptions,
}

impl<D: Disk> SegmentMaker<'_, D> {
    /// Makes a segment, and returns how far it is written. On success it is durable. On failure it
    /// is gone, unless [`SegmentNotMade`] says otherwise.
    pub(crate) fn make_segment(
        &self,
        number: u64,
        header: &SegmentHeader,
        source: Source<'_>,
    ) -> std::result::Result<(Segment<D::File>, u64), SegmentNotMade> {
        let made = self.try_make_segment(number, header, source);
        if made.is_err() {
            let removed = self.disk.remove(FileName::Temporary(number));
            unheard(removed, "the next open removes it, and it only takes space");
        }
        made
    }

    fn try_make_segment(
        &self,
        number: u64,
        header: &SegmentHeader,
        source: Source<'_>,
    ) -> std::result::Result<(Segment<D::File>, u64), SegmentNotMade> {
        let SegmentMaker { disk, store, options } = *self;
        let first_len = match source {
            Source::New(first) => first.len() as u64,
            Source::Spare(_) => 0,
        };
        assert!(header.store_id == self.store.store_id, "a segment belongs to its store");
        debug_assert!(header.sequence > 0, "sequences start at 1");
        assert!(PAGE + first_len <= LEN_MAX, "a segment begins with marks");
        if header.sequence > SEQUENCE_MAX {
            return Err(SegmentNotMade::from(io::Error::from(io::ErrorKind::StorageFull)));
        }
        let not_synced = |source| SegmentNotMade { source, left: Some(PoisonCause::SyncFailed) };
        let (unfinished, finished) = (FileName::Temporary(number), FileName::Segment(number));
        let (file, first) = match source {
            Source::New(first) => (disk.open(unfinished, How::CreateNew)?, first),
            Source::Spare(spare) => {
                disk.rename(FileName::Segment(spare), unfinished)?;
                disk.sync_dir().map_err(not_synced)?;
                (disk.open(unfinished, How::ReadWrite)?, &[][..])
            }
        };
        write_all_at(&file, 0, &header.encode())?;
        write_all_at(&file, PAGE, first)?;
        if matches!(source, Source::Spare(_)) && file.len()? > options.segment_len {
            // Its former use held a block longer than the segments of this session.
            file.set_len(options.segment_len)?;
        }
        file.sync_data()?;
        let written = file.len()?.min(options.segment_len) / PAGE * PAGE;
        drop(file);
        let not_made = |source| SegmentNotMade { source, left: remove_durably(disk, finished) };
        // A rename that failed may have taken effect all the same.
        disk.rename(unfinished, finished).map_err(not_made)?;
        if let Err(source) = disk.sync_dir() {
            remove_durably(disk, finished);
            return Err(not_synced(source));
        }
        let file = disk.open(finished, options.how).map_err(not_made)?;
        let (sequence, seed) = (header.sequence, header.frame_seed(store));
        let len_max = options.segment_len.max(PAGE + first.len() as u64);
        Ok((Segment::new(number, sequence, seed, len_max, file), written))
    }

    /// A header for a new use of a file.
    pub(crate) fn new_segment_header(&self, sequence: u64) -> io::Result<SegmentHeader> {
        let mut salt = [0; 8];
        self.disk.random(&mut salt)?;
        Ok(SegmentHeader {
            store_id: self.store.store_id,
            sequence,
            salt: u64::from_le_bytes(salt),
        })
    }
}
