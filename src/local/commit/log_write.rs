//! A log write: the bytes of a group, or of a control record, on their way to the disk.
//!
//! Owns the extents, their staging buffer and the list of segments that have to be synced. The
//! appender makes it and has reserved its space. [`LogWrite::write_extents`] followed by
//! [`LogWrite::sync_segments`] is the commit point: after both have succeeded, its bytes and those
//! of every earlier completed write are durable.
//!
//! A small payload is copied once, into a staging buffer that one call writes for the whole group.
//! A payload of [`SHARED_LEN`] or more is written from the caller's own bytes (gathered). In direct
//! mode several threads copy it chunk by chunk, so that copying one chunk overlaps with writing
//! another.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rayon::prelude::*;

use crate::block::{BlockId, Lsn};
use crate::error::{Error, IoOp, Result};
use crate::io::{AlignedBuf, DiskFile, FileName, PAGE_LEN, write_all_at, write_all_vectored_at};
use crate::local::format::location::Location;
use crate::local::read::recent::Recent;
use crate::local::read::segment::Segment;
use crate::mvcc::index::{LookedUp, PublishedChange};
use crate::thread_pool::shared_pool;

/// Payloads from this length on are not copied into the staging buffer.
pub(crate) const SHARED_LEN: usize = 64 << 10;
/// Bytes that one thread copies and writes at a time in direct mode.
const CHUNK_LEN: usize = 1 << 20;

/// A group or a control record, laid out in memory.
pub(crate) struct LogWrite<F> {
    pub(crate) extents: Vec<Extent<F>>,
    /// The bytes of the staged pieces; afterwards readers find them here.
    pub(crate) staged: Bytes,
    pub(crate) direct: bool,
    /// Segments written to before, which no sync covers yet.
    pub(crate) unsynced: Vec<Arc<Segment<F>>>,
    /// The changes that publishing the group makes to the index.
    pub(crate) changes: Changes,
}

/// One contiguous write.
pub(crate) struct Extent<F> {
    pub(crate) segment: Arc<Segment<F>>,
    pub(crate) offset: u64,
    pub(crate) len: u64,
    pub(crate) pieces: Vec<Piece>,
}

/// Bytes of an extent. The pieces follow each other without a gap.
pub(crate) enum Piece {
    Staged(Range<usize>),
    Shared(Bytes),
}

/// The changes of a group to the index.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Relocated blocks; published before the others.
    pub(crate) moved: Vec<(BlockId, Lsn, Location)>,
    /// Relocated older versions: the old place, and the new one.
    pub(crate) moved_old: Vec<(BlockId, u64, Location)>,
    pub(crate) changed: Vec<PublishedChange<Location>>,
    /// The versions that they replace in the image below the index.
    pub(crate) below: LookedUp<Location>,
}

impl Piece {
    pub(crate) fn len(&self) -> usize {
        match self {
            Piece::Staged(range) => range.len(),
            Piece::Shared(bytes) => bytes.len(),
        }
    }

    fn resolve_bytes<'a>(&'a self, staging: &'a [u8]) -> &'a [u8] {
        match self {
            Piece::Staged(range) => &staging[range.clone()],
            Piece::Shared(bytes) => bytes,
        }
    }
}

impl<F: DiskFile> LogWrite<F> {
    /// Sequence, file number and new end of each segment that is written.
    pub(crate) fn segment_ends(&self) -> impl Iterator<Item = (u64, u64, u64)> {
        self.extents.iter().map(|extent| {
            let end = extent.offset + extent.len;
            (extent.segment.sequence, extent.segment.number, end)
        })
    }

    pub(crate) fn len(&self) -> u64 {
        self.extents.iter().map(|extent| extent.len).sum()
    }

    /// Writes all extents.
    ///
    /// # Errors
    /// [`Error::Io`]: the bytes of the log there are unknown; nothing may be appended any more.
    pub(crate) fn write_extents(&self, dir: &Path) -> Result<()> {
        for extent in &self.extents {
            let written = self.write_extent(extent);
            written.map_err(|source| segment_error(IoOp::Write, dir, &extent.segment, source))?;
        }
        Ok(())
    }

    /// Makes the write durable, and all that was only written before. Returns the number of syncs.
    ///
    /// # Errors
    /// [`Error::Io`]: any part of it may be durable; nothing may be appended any more.
    pub(crate) fn sync_segments(&self, dir: &Path) -> Result<u64> {
        let segments = self.segments_to_sync();
        for segment in &segments {
            let synced = segment.file.sync_data();
            synced.map_err(|source| segment_error(IoOp::Sync, dir, segment, source))?;
        }
        Ok(segments.len() as u64)
    }

    /// The sequence of the segment that its sync has to cover, if it is only one.
    pub(crate) fn lone_segment(&self) -> Option<u64> {
        let written = self.extents.iter().map(|extent| &extent.segment);
        let mut sequences = self.unsynced.iter().chain(written).map(|segment| segment.sequence);
        let first = sequences.next()?;
        sequences.all(|sequence| sequence == first).then_some(first)
    }

    /// The segments that its sync has to cover, in log order.
    pub(crate) fn segments_to_sync(&self) -> Vec<Arc<Segment<F>>> {
        let mut segments = self.unsynced.clone();
        for extent in &self.extents {
            let newest = segments.last();
            if newest.is_none_or(|segment| !Arc::ptr_eq(segment, &extent.segment)) {
                segments.push(Arc::clone(&extent.segment));
            }
        }
        segments
    }

    /// Shows the written bytes to readers. Groups do so in log order.
    pub(crate) fn show_recent_bytes(&self, recent: &Recent) {
        if !recent.is_enabled() {
            return;
        }
        for extent in &self.extents {
            let mut at = extent.offset;
            for piece in &extent.pieces {
                let bytes = match piece {
                    Piece::Staged(range) => self.staged.slice(range.clone()),
                    Piece::Shared(bytes) => bytes.clone(),
                };
                recent.push_written(extent.segment.sequence, at, bytes);
                at += piece.len() as u64;
            }
        }
    }

    fn write_extent(&self, extent: &Extent<F>) -> io::Result<()> {
        let is_on_pages = |len: u64| len.is_multiple_of(PAGE_LEN as u64);
        debug_assert!(
            is_on_pages(extent.offset) && is_on_pages(extent.len),
            "direct writes are of whole pages"
        );
        let (file, staging) = (&extent.segment.file, &self.staged[..]);
        match &extent.pieces[..] {
            [Piece::Staged(range)] => write_all_at(file, extent.offset, &staging[range.clone()]),
            pieces if !self.direct => {
                let mut bufs: Vec<_> =
                    pieces.iter().map(|piece| IoSlice::new(piece.resolve_bytes(staging))).collect();
                write_all_vectored_at(file, extent.offset, &mut bufs)
            }
            _ => write_in_chunks(extent, staging),
        }
    }
}

fn segment_error<F>(op: IoOp, dir: &Path, segment: &Segment<F>, source: io::Error) -> Error {
    let name = FileName::Segment(segment.number).to_string();
    Error::io(op, dir.join(name), source)
}

/// Copies and writes an extent chunk by chunk.
fn write_in_chunks<F: DiskFile>(extent: &Extent<F>, staging: &[u8]) -> io::Result<()> {
    let starts: Vec<u64> = (0..extent.len).step_by(CHUNK_LEN).collect();
    let write = |start: u64| {
        let end = extent.len.min(start + CHUNK_LEN as u64);
        let mut chunk = AlignedBuf::with_capacity((end - start) as usize);
        let mut at = 0;
        for piece in &extent.pieces {
            let bytes = piece.resolve_bytes(staging);
            let from = start.saturating_sub(at).min(bytes.len() as u64);
            let to = end.saturating_sub(at).min(bytes.len() as u64);
            chunk.extend_from_slice(&bytes[from as usize..to as usize]);
            at += bytes.len() as u64;
        }
        write_all_at(&extent.segment.file, extent.offset + start, chunk.as_slice())
    };
    match shared_pool().filter(|_| starts.len() > 1) {
        Some(helpers) => helpers.install(|| starts.into_par_iter().try_for_each(write)),
        None => starts.into_iter().try_for_each(write),
    }
}
