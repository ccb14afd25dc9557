//! The appender: turns groups into bytes of the log and writes them.
//!
//! Owns the tail: the active segment, the offset in it and the last link of the frame chain.
//! Invariants:
//!
//! 1. A group is laid out and its space reserved before its first byte is written; when that fails,
//!    the tail is where it was.
//! 2. A write starts on a page boundary behind everything written before.
//! 3. [`Appender::write`] followed by [`Appender::sync`] is the commit point: with both successful,
//!    the group and all before it are durable.
//!
//! A small payload is copied once, into a staging buffer from which the whole group is written in one
//! call. A payload of [`SHARED_LEN`] or more is written from the caller's own bytes (gathered), or in
//! direct mode copied by rayon's threads chunk by chunk, so that copying one chunk overlaps with
//! writing another.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use rayon::prelude::*;

use crate::block::{BlockId, Lsn};
use crate::canary::{Bug, planted};
use crate::error::{Error, IoOp, Result};
use crate::io::{
    AlignedBuf, Disk, DiskFile, FileName, PAGE_LEN, write_all_at, write_all_vectored_at,
};
use crate::local::checkpoint::header::LogPosition;
use crate::local::commit::Group;
use crate::local::format::frame::{ENTRY_LEN, Entry, FrameHeader, HEADER_LEN, Kind, aligned};
use crate::local::format::{PAGE, page_up};
use crate::local::recent::Recent;
use crate::local::reserve::Claim;
use crate::local::segment::{Location, Segment};
use crate::local::space::{Space, Tail};
use crate::mvcc::batch::Operation;
use crate::mvcc::index::Change;

/// Payloads from this length on are not copied into the staging buffer.
const SHARED_LEN: usize = 64 << 10;
/// Bytes that one thread copies and writes at a time in direct mode.
const CHUNK_LEN: usize = 1 << 20;
/// A commit that does not fit into the rest of a segment is split when it is longer than this or than
/// a segment, and goes to the next segment as a whole when it is not: at most this much of a segment
/// stays unused.
const SPLIT_LEN: u64 = 1 << 20;

/// Writes the log.
pub(crate) struct Appender<D: Disk> {
    disk: Arc<D>,
    space: Arc<Space<D>>,
    direct: bool,
    tail: Position<D::File>,
    recent: Arc<Recent>,
    /// Segments with bytes that no sync covers yet, the active one last.
    unsynced: Vec<Arc<Segment<D::File>>>,
    staging: AlignedBuf,
    pub(crate) written_len: u64,
}

/// A place in the log.
struct Position<F> {
    segment: Arc<Segment<F>>,
    offset: u64,
    /// Checksum of the last frame.
    chain: u32,
}

impl<F> Clone for Position<F> {
    fn clone(&self) -> Self {
        Position { segment: Arc::clone(&self.segment), ..*self }
    }
}

/// One contiguous write.
struct Extent<F> {
    segment: Arc<Segment<F>>,
    offset: u64,
    len: u64,
    pieces: Vec<Piece>,
}

/// Bytes of an extent, one piece behind the other.
enum Piece {
    Staged(Range<usize>),
    Shared(Bytes),
}

impl Piece {
    fn len(&self) -> usize {
        match self {
            Piece::Staged(range) => range.len(),
            Piece::Shared(bytes) => bytes.len(),
        }
    }

    fn bytes<'a>(&'a self, staging: &'a [u8]) -> &'a [u8] {
        match self {
            Piece::Staged(range) => &staging[range.clone()],
            Piece::Shared(bytes) => bytes,
        }
    }
}

/// A group laid out in memory.
pub(crate) struct Laid<F> {
    extents: Vec<Extent<F>>,
    rolled: usize,
    end: Position<F>,
    /// What the index is told when the group is published.
    pub(crate) changes: Changes,
}

/// What a group does to the index.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Blocks that only change their place; before the others.
    pub(crate) moved: Vec<(BlockId, Lsn, Location)>,
    pub(crate) changed: Vec<Change<Location>>,
}

impl<F> Laid<F> {
    /// Sequence, file number and new end of each segment that is written.
    pub(crate) fn ends(&self) -> impl Iterator<Item = (u64, u64, u64)> {
        self.extents.iter().map(|extent| {
            let end = extent.offset + extent.len;
            (extent.segment.sequence, extent.segment.number, end)
        })
    }
}

impl<D: Disk> Appender<D> {
    pub(crate) fn new(
        disk: Arc<D>,
        space: Arc<Space<D>>,
        direct: bool,
        recent: Arc<Recent>,
        tail: Tail<D::File>,
        chain: u32,
    ) -> Appender<D> {
        let tail = Position { segment: tail.segment, offset: tail.offset, chain };
        let staging = AlignedBuf::with_capacity(1 << 20);
        Appender {
            disk,
            space,
            direct,
            tail,
            recent,
            unsynced: Vec::new(),
            staging,
            written_len: 0,
        }
    }

    /// Lays out the commits of a group and reserves their space.
    ///
    /// # Errors
    /// [`Error::StorageFull`] or [`Error::Io`]: nothing was written, the tail is where it was.
    pub(crate) fn lay_out<T>(&mut self, group: &Group<T>) -> Result<Laid<D::File>> {
        let claim = if group.frees() { Claim::Reserved } else { Claim::Ordinary };
        let mut layout = Layout::start(self, group.durable, claim);
        for member in &group.members {
            if let Some(lsn) = member.commit_lsn() {
                layout.commit(lsn, &member.submission.batch.operations)?;
            }
        }
        layout.finish()
    }

    /// Lays out a mark: a frame without operations in a page of its own.
    ///
    /// # Errors
    /// As [`Appender::lay_out`].
    pub(crate) fn lay_out_mark(
        &mut self,
        kind: Kind,
        last: Lsn,
        durable: Lsn,
        body: &[u8],
    ) -> Result<Laid<D::File>> {
        // A witness is left out rather than written for the last of the space.
        let claim = if kind == Kind::Witness { Claim::Ordinary } else { Claim::Reserved };
        let mut layout = Layout::start(self, durable, claim);
        layout.frame(FrameHeader::mark_with(kind, last, durable, body), body, &[])?;
        layout.finish()
    }

    /// Lays out a mark at the beginning of the next segment, so that the active one can go as soon as it
    /// is out of use.
    ///
    /// # Errors
    /// As [`Appender::lay_out`].
    pub(crate) fn lay_out_roll(&mut self, last: Lsn, durable: Lsn) -> Result<Laid<D::File>> {
        let mut layout = Layout::start(self, durable, Claim::Reserved);
        layout.roll()?;
        layout.frame(FrameHeader::mark_with(Kind::Witness, last, durable, &[]), &[], &[])?;
        layout.finish()
    }

    /// Writes what was laid out and moves the tail behind it.
    ///
    /// # Errors
    /// [`Error::Io`]: what the log holds there is unknown; nothing may be appended any more.
    pub(crate) fn write(&mut self, laid: &mut Laid<D::File>) -> Result<()> {
        let mut len = 0;
        for extent in &laid.extents {
            let written = self.write_extent(extent);
            written.map_err(|source| self.error(IoOp::Write, &extent.segment, source))?;
            len += extent.len;
            let newest = self.unsynced.last();
            if newest.is_none_or(|segment| !Arc::ptr_eq(segment, &extent.segment)) {
                self.unsynced.push(Arc::clone(&extent.segment));
            }
        }
        if self.recent.is_on() {
            self.keep(laid);
        }
        self.written_len += len;
        self.tail = laid.end.clone();
        self.space.advance(laid.rolled, self.tail.offset, len);
        Ok(())
    }

    pub(crate) fn space(&self) -> &Space<D> {
        &self.space
    }

    /// Gives back what a segment that the log has left has behind its end.
    ///
    /// # Errors
    /// [`Error::Io`]: the file keeps its length, which does no harm.
    pub(crate) fn cut_sealed(&self, end: LogPosition) -> Result<()> {
        self.space.cut_sealed(end.sequence, end.offset)
    }

    /// Where the log goes on.
    pub(crate) fn position(&self) -> LogPosition {
        let Position { segment, offset, chain } = &self.tail;
        LogPosition { sequence: segment.sequence, offset: *offset, chain: *chain }
    }

    /// Makes everything written durable. Returns the number of syncs that took.
    ///
    /// # Errors
    /// [`Error::Io`]: what of it is durable is unknown; nothing may be appended any more.
    pub(crate) fn sync(&mut self) -> Result<u64> {
        let segments = std::mem::take(&mut self.unsynced);
        let first =
            if planted(Bug::OnlyLastIsSynced) { segments.len().saturating_sub(1) } else { 0 };
        for segment in &segments[first..] {
            let mut synced = segment.file.sync_data();
            if synced.is_err() && planted(Bug::SyncIsRetried) {
                synced = segment.file.sync_data();
            }
            synced.map_err(|source| self.error(IoOp::Sync, segment, source))?;
        }
        Ok(segments.len() as u64)
    }

    /// Keeps what was written in memory. A long staging buffer is given away for that, a short one
    /// is copied.
    fn keep(&mut self, laid: &Laid<D::File>) {
        let staged = if self.staging.len() >= SHARED_LEN {
            let fresh = AlignedBuf::with_capacity(self.staging.len());
            Bytes::from_owner(std::mem::replace(&mut self.staging, fresh))
        } else {
            Bytes::copy_from_slice(self.staging.as_slice())
        };
        for extent in &laid.extents {
            let mut at = extent.offset;
            for piece in &extent.pieces {
                let bytes = match piece {
                    Piece::Staged(range) => staged.slice(range.clone()),
                    Piece::Shared(bytes) => bytes.clone(),
                };
                self.recent.push(extent.segment.sequence, at, bytes);
                at += piece.len() as u64;
            }
        }
    }

    fn write_extent(&self, extent: &Extent<D::File>) -> io::Result<()> {
        let (file, staging) = (&extent.segment.file, self.staging.as_slice());
        match &extent.pieces[..] {
            [Piece::Staged(range)] => write_all_at(file, extent.offset, &staging[range.clone()]),
            pieces if !self.direct => {
                let mut bufs: Vec<_> =
                    pieces.iter().map(|piece| IoSlice::new(piece.bytes(staging))).collect();
                write_all_vectored_at(file, extent.offset, &mut bufs)
            }
            _ => write_chunks(extent, staging),
        }
    }

    fn error(&self, op: IoOp, segment: &Segment<D::File>, source: io::Error) -> Error {
        let name = FileName::Segment(segment.number).to_string();
        Error::io(op, self.disk.path().join(name), source)
    }
}

/// Copies and writes an extent chunk by chunk, on rayon's threads.
fn write_chunks<F: DiskFile>(extent: &Extent<F>, staging: &[u8]) -> io::Result<()> {
    let starts: Vec<u64> = (0..extent.len).step_by(CHUNK_LEN).collect();
    starts.into_par_iter().try_for_each(|start| {
        let end = extent.len.min(start + CHUNK_LEN as u64);
        let mut chunk = AlignedBuf::with_capacity((end - start) as usize);
        let mut at = 0;
        for piece in &extent.pieces {
            let bytes = piece.bytes(staging);
            let from = start.saturating_sub(at).min(bytes.len() as u64);
            let to = end.saturating_sub(at).min(bytes.len() as u64);
            chunk.extend_from_slice(&bytes[from as usize..to as usize]);
            at += bytes.len() as u64;
        }
        write_all_at(&extent.segment.file, extent.offset + start, chunk.as_slice())
    })
}

/// A group while it is laid out.
struct Layout<'a, D: Disk> {
    appender: &'a mut Appender<D>,
    durable: Lsn,
    claim: Claim,
    at: Position<D::File>,
    rolled: usize,
    extents: Vec<Extent<D::File>>,
    /// The extent under construction: where it starts, and where its staged bytes do that no piece
    /// covers yet.
    extent_start: u64,
    staged_from: usize,
    pieces: Vec<Piece>,
    /// The last frame, whose header is written once it is known whether another follows it.
    open: Option<OpenFrame>,
    changes: Changes,
}

struct OpenFrame {
    header: FrameHeader,
    offset: u64,
    staged_at: usize,
}

impl<'a, D: Disk> Layout<'a, D> {
    fn start(appender: &'a mut Appender<D>, durable: Lsn, claim: Claim) -> Layout<'a, D> {
        appender.staging.clear();
        let at = appender.tail.clone();
        Layout {
            durable,
            claim,
            rolled: 0,
            extents: Vec::new(),
            extent_start: at.offset,
            staged_from: 0,
            pieces: Vec::new(),
            open: None,
            changes: Changes::default(),
            at,
            appender,
        }
    }

    /// Adds a commit: one frame where it fits, parts where it is too long for that.
    fn commit(&mut self, lsn: Lsn, operations: &[(BlockId, Operation)]) -> Result<()> {
        // What no segment holds has to be split, however short it is.
        let split_len = SPLIT_LEN.min(self.appender.space.segment_room());
        let (mut rest, mut part) = (operations, 0);
        loop {
            let count = self.fitting(rest);
            let whole = count == rest.len();
            let split = part > 0 || frame_len(rest) > split_len;
            if count == 0 || !(whole || split) {
                self.roll()?;
                continue;
            }
            let (now, later) = rest.split_at(count);
            self.part(lsn, now, part, later.is_empty())?;
            if later.is_empty() {
                return Ok(());
            }
            rest = later;
            part += 1;
            self.roll()?;
        }
    }

    /// How many of these operations fit into one frame in the rest of the segment.
    fn fitting(&self, operations: &[(BlockId, Operation)]) -> usize {
        let room = self.at.segment.len_max.saturating_sub(aligned(self.at.offset));
        let mut len = HEADER_LEN as u64;
        let fits = |(_, operation): &&(BlockId, Operation)| {
            len += operation_len(operation);
            len <= room
        };
        operations.iter().take_while(fits).count()
    }

    fn part(
        &mut self,
        lsn: Lsn,
        operations: &[(BlockId, Operation)],
        part: u32,
        last_part: bool,
    ) -> Result<()> {
        let row_count: usize = operations.iter().map(|(_, operation)| row_count(operation)).sum();
        let mut table = Vec::with_capacity(row_count * ENTRY_LEN);
        let mut payloads = Vec::with_capacity(operations.len());
        let start = aligned(self.at.offset) + (HEADER_LEN + row_count * ENTRY_LEN) as u64;
        let mut payload_len = 0;
        let sequence = self.at.segment.sequence;
        for (id, operation) in operations {
            let offset = start + payload_len;
            payload_len += operation.payload_len();
            let entry = match operation {
                Operation::Write(block) => {
                    let place = Location::new(&block.header, sequence, offset);
                    self.changes.changed.push((*id, lsn, Some(place)));
                    payloads.push(block.data.clone());
                    Entry::Write(block.header)
                }
                Operation::Delete => {
                    self.changes.changed.push((*id, lsn, None));
                    Entry::Delete(*id)
                }
                Operation::Move { block, lsn, .. } => {
                    let place = Location::new(&block.header, sequence, offset);
                    self.changes.moved.push((*id, *lsn, place));
                    payloads.push(block.data.clone());
                    Entry::Move(block.header, *lsn)
                }
            };
            entry.encode(&mut table);
        }
        let header = FrameHeader {
            kind: Kind::Commit,
            group_end: false,
            last_part,
            frame_len: (HEADER_LEN + table.len()) as u32 + payload_len as u32,
            lsn,
            durable: self.durable,
            op_count: row_count as u32,
            previous: 0,
            table_crc: crc32c::crc32c(&table),
            part,
            payload_len,
        };
        self.frame(header, &table, &payloads)
    }

    /// Adds a frame behind the last one of the extent.
    fn frame(&mut self, header: FrameHeader, table: &[u8], payloads: &[Bytes]) -> Result<()> {
        if self.at.segment.len_max < aligned(self.at.offset) + u64::from(header.frame_len) {
            self.roll()?;
        }
        self.close_frame(false);
        self.pad_to(aligned(self.at.offset));
        let offset = self.at.offset;
        let staged_at = self.appender.staging.len();
        self.appender.staging.extend_from_slice(&[0; HEADER_LEN]);
        self.appender.staging.extend_from_slice(table);
        for payload in payloads {
            if payload.len() < SHARED_LEN {
                self.appender.staging.extend_from_slice(payload);
            } else {
                self.close_staged();
                self.pieces.push(Piece::Shared(payload.clone()));
            }
        }
        self.at.offset += u64::from(header.frame_len);
        self.open = Some(OpenFrame { header, offset, staged_at });
        Ok(())
    }

    /// Writes the header of the last frame, now that its successor is known.
    fn close_frame(&mut self, group_end: bool) {
        if let Some(OpenFrame { mut header, offset, staged_at }) = self.open.take() {
            header.group_end = group_end;
            header.previous = self.at.chain;
            let (bytes, crc) = header.encode(self.at.segment.seed, offset);
            self.appender.staging.as_mut_slice()[staged_at..staged_at + HEADER_LEN]
                .copy_from_slice(&bytes);
            self.at.chain = crc;
        }
    }

    /// Ends the extent and goes on in the next segment.
    fn roll(&mut self) -> Result<()> {
        self.close_extent()?;
        self.rolled += 1;
        self.at.segment = self.appender.space.upcoming(self.rolled, self.claim)?;
        self.at.offset = PAGE;
        self.extent_start = PAGE;
        Ok(())
    }

    fn close_extent(&mut self) -> Result<()> {
        if self.open.is_none() {
            return Ok(());
        }
        self.close_frame(true);
        self.pad_to(page_up(self.at.offset));
        self.close_staged();
        let staged = self.appender.staging.len();
        // The next extent starts on a page of the staging buffer too, for direct writes.
        self.appender.staging.resize_zeroed(staged.next_multiple_of(PAGE_LEN));
        self.staged_from = self.appender.staging.len();
        let end = self.at.offset;
        match self.rolled {
            0 => self.appender.space.reserve(end, self.claim)?,
            count => self.appender.space.reserve_upcoming(count, end, self.claim)?,
        }
        self.extents.push(Extent {
            segment: Arc::clone(&self.at.segment),
            offset: self.extent_start,
            len: end - self.extent_start,
            pieces: std::mem::take(&mut self.pieces),
        });
        Ok(())
    }

    /// Makes a piece of the staged bytes that no piece covers yet.
    fn close_staged(&mut self) {
        let staged = self.appender.staging.len();
        if staged > self.staged_from {
            self.pieces.push(Piece::Staged(self.staged_from..staged));
        }
        self.staged_from = staged;
    }

    fn pad_to(&mut self, offset: u64) {
        let len = self.appender.staging.len() + (offset - self.at.offset) as usize;
        self.appender.staging.resize_zeroed(len);
        self.at.offset = offset;
    }

    fn finish(mut self) -> Result<Laid<D::File>> {
        self.close_extent()?;
        debug_assert!(self.extents.iter().all(|extent| {
            extent.pieces.iter().map(|piece| piece.len() as u64).sum::<u64>() == extent.len
        }));
        Ok(Laid { extents: self.extents, rolled: self.rolled, end: self.at, changes: self.changes })
    }
}

/// Bytes of a commit's frame, if it is not split.
pub(crate) fn frame_len(operations: &[(BlockId, Operation)]) -> u64 {
    let len: u64 = operations.iter().map(|(_, operation)| operation_len(operation)).sum();
    HEADER_LEN as u64 + len
}

/// Bytes that an operation takes in a frame.
fn operation_len(operation: &Operation) -> u64 {
    (row_count(operation) * ENTRY_LEN) as u64 + operation.payload_len()
}

/// Rows of the table that an operation takes.
fn row_count(operation: &Operation) -> usize {
    match operation {
        Operation::Write(_) | Operation::Delete => 1,
        Operation::Move { .. } => 2,
    }
}
