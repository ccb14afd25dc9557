//! The appender: turns groups into bytes of the log.
//!
//! Owns the tail: the active segment, the offset in it and the last link of the frame chain. Owns
//! the list of segments with bytes that no sync covers yet, too. It lays out a [`LogWrite`],
//! which the leader writes. Invariants:
//!
//! 1. A group is laid out and its space reserved before its first byte is written. If that fails,
//!    the tail is where it was. Else the tail is behind the group, whether it is written yet or
//!    not.
//! 2. A write starts on a page boundary behind everything laid out before.
//! 3. A segment is begun for a frame, which it takes: two rolls have a frame between them. A frame
//!    longer than the segments of this session makes its segment longer. Relocating blocks that
//!    were written under the options of an earlier session may need that.
//! 4. A commit that fits into a segment is not split, unless it is of relocations: each of those
//!    stands for itself.

use std::sync::Arc;

use bytes::Bytes;

use crate::block::{BlockId, Lsn};
use crate::checksum;
use crate::error::Result;
use crate::io::{Disk, PAGE_LEN};
use crate::local::commit::group::Group;
use crate::local::commit::log_write::{Changes, Extent, LogWrite, Piece, SHARED_LEN};
use crate::local::commit::staging::{Chunk, StagingMemory};
use crate::local::format::checkpoint::LogPosition;
use crate::local::format::frame::{
    ENTRY_LEN, FrameHeader, HEADER_LEN, Kind, TableRow, align_frame_offset,
};
use crate::local::format::location::Location;
use crate::local::format::{PAGE, page_up};
use crate::local::read::segment::Segment;
use crate::local::space::reserve::SpaceClass;
use crate::local::space::{Space, Tail};
use crate::mvcc::batch::Operation;

/// A commit that does not fit into the rest of a segment is split if it is longer than this or than
/// a segment. Else it goes to the next segment as a whole: at most this much of a segment stays
/// unused.
const SPLIT_LEN: u64 = 1 << 20;

/// Lays out the log.
pub(crate) struct Appender<D: Disk> {
    space: Arc<Space<D>>,
    direct: bool,
    tail: Position<D::File>,
    /// Segments with bytes that no sync covers yet, in log order.
    unsynced: Vec<Arc<Segment<D::File>>>,
    /// Sequence of the last segment with bytes that were written.
    written_in: u64,
    staging: StagingMemory,
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

impl<D: Disk> Appender<D> {
    pub(crate) fn new(
        space: Arc<Space<D>>,
        direct: bool,
        tail: Tail<D::File>,
        chain: u32,
    ) -> Appender<D> {
        assert!(tail.offset >= PAGE, "frames begin behind the header of a segment");
        let tail = Position { segment: tail.segment, offset: tail.offset, chain };
        let written_in = tail.segment.sequence;
        let (unsynced, staging) = (Vec::new(), StagingMemory::default());
        Appender { space, direct, tail, unsynced, written_in, staging }
    }

    /// Lays out the commits of a group and reserves their space.
    ///
    /// # Errors
    /// [`Error::StorageFull`] or [`Error::Io`]: nothing was written, the tail is where it was.
    pub(crate) fn lay_out_group<T, W>(&mut self, group: &Group<T, W>) -> Result<LogWrite<D::File>> {
        let claim =
            if group.only_frees_space() { SpaceClass::Reserved } else { SpaceClass::Ordinary };
        let commits = || {
            group.members.iter().filter_map(|member| {
                member.commit_lsn().map(|lsn| (lsn, &member.submission.batch.operations[..]))
            })
        };
        let len = commits().map(|(_, operations)| staged_len(operations)).sum();
        let mut layout = GroupLayout::start_at_tail(self, group.durable, claim, len);
        for (lsn, operations) in commits() {
            layout.add_commit(lsn, operations)?;
        }
        layout.finish_layout()
    }

    /// Lays out a control record: a frame without operations in a page of its own.
    ///
    /// # Errors
    /// As [`Appender::lay_out_group`].
    pub(crate) fn lay_out_control_record(
        &mut self,
        kind: Kind,
        last: Lsn,
        durable: Lsn,
        body: &[u8],
        claim: SpaceClass,
    ) -> Result<LogWrite<D::File>> {
        let mut layout = GroupLayout::start_at_tail(self, durable, claim, body.len());
        layout.add_control_record(kind, last, body)?;
        layout.finish_layout()
    }

    /// Lays out a durable mark at the beginning of the next segment, so that the active one can be
    /// released.
    ///
    /// # Errors
    /// As [`Appender::lay_out_group`].
    pub(crate) fn lay_out_roll(&mut self, last: Lsn, durable: Lsn) -> Result<LogWrite<D::File>> {
        let mut layout = GroupLayout::start_at_tail(self, durable, SpaceClass::Reserved, 0);
        layout.start_next_segment()?;
        layout.add_control_record(Kind::Witness, last, &[])?;
        layout.finish_layout()
    }

    /// Makes a write without bytes, which only syncs.
    pub(crate) fn lay_out_sync(&mut self) -> LogWrite<D::File> {
        let unsynced = std::mem::take(&mut self.unsynced);
        let (extents, staged, changes) = (Vec::new(), Bytes::new(), Changes::default());
        LogWrite { extents, staged, direct: self.direct, unsynced, changes }
    }

    /// Takes a write that has ended back, in log order.
    pub(crate) fn complete_write(&mut self, write: &LogWrite<D::File>, is_synced: bool) {
        let last = write.segment_ends().last().map_or(self.written_in, |(sequence, ..)| sequence);
        if last > self.written_in {
            self.space.mark_segments_written(self.written_in..last);
            self.written_in = last;
        }
        if !is_synced {
            self.unsynced = write.segments_to_sync();
        }
    }

    pub(crate) fn space(&self) -> &Space<D> {
        &self.space
    }

    /// Gives back the space behind the end of a sealed segment.
    ///
    /// # Errors
    /// [`Error::Io`]: the file keeps its length, which does no harm.
    pub(crate) fn cut_sealed(&self, end: LogPosition) -> Result<()> {
        self.space.cut_sealed_segment(end.sequence, end.offset)
    }

    /// The file number of the active segment.
    pub(crate) fn segment_number(&self) -> u64 {
        self.tail.segment.number
    }

    /// The tail, as it is recorded in a checkpoint.
    pub(crate) fn tail_position(&self) -> LogPosition {
        let Position { segment, offset, chain } = &self.tail;
        LogPosition { sequence: segment.sequence, offset: *offset, chain: *chain }
    }
}

/// A group that is being laid out.
struct GroupLayout<'a, D: Disk> {
    appender: &'a mut Appender<D>,
    durable: Lsn,
    claim: SpaceClass,
    at: Position<D::File>,
    rolled: usize,
    extents: Vec<Extent<D::File>>,
    staging: Chunk,
    /// Starts of the extent under construction, and of its staged bytes that no piece covers yet.
    extent_start: u64,
    staged_from: usize,
    pieces: Vec<Piece>,
    /// The last frame. Its header is written once it is known whether another frame follows.
    open: Option<OpenFrame>,
    changes: Changes,
}

struct OpenFrame {
    header: FrameHeader,
    offset: u64,
    staged_at: usize,
}

impl<'a, D: Disk> GroupLayout<'a, D> {
    fn start_at_tail(
        appender: &'a mut Appender<D>,
        durable: Lsn,
        claim: SpaceClass,
        staged_len: usize,
    ) -> GroupLayout<'a, D> {
        let at = appender.tail.clone();
        // Beside its frames: the header of a control record, the ends of two pages.
        let staging = appender.staging.take_chunk(staged_len + HEADER_LEN + 2 * PAGE_LEN);
        GroupLayout {
            durable,
            claim,
            rolled: 0,
            extents: Vec::new(),
            staging,
            extent_start: at.offset,
            staged_from: 0,
            pieces: Vec::new(),
            open: None,
            changes: Changes::default(),
            at,
            appender,
        }
    }

    /// Adds a commit: one frame if it fits, else parts.
    fn add_commit(&mut self, lsn: Lsn, operations: &[(BlockId, Operation)]) -> Result<()> {
        // A commit that no segment holds has to be split, however short it is.
        let split_len = SPLIT_LEN.min(self.appender.space.segment_capacity());
        let moves = operations.first().is_some_and(|(_, operation)| operation.is_relocation());
        let (mut rest, mut part, mut rolled) = (operations, 0, false);
        loop {
            let count = self.fitting_count(rest);
            let whole = count == rest.len();
            let split = part > 0 || moves || frame_len(rest) > split_len;
            if count == 0 || !(whole || split) {
                assert!(!rolled, "a segment that was begun for a frame takes it");
                self.begin_segment(frame_len(&rest[..1]))?;
                rolled = true;
                continue;
            }
            rolled = false;
            let (now, later) = rest.split_at(count);
            self.add_commit_part(lsn, now, part, later.is_empty())?;
            if later.is_empty() {
                return Ok(());
            }
            rest = later;
            part += 1;
        }
    }

    /// Continues at the beginning of a segment that takes a frame of that length: the next one, or
    /// this one if it is empty.
    fn begin_segment(&mut self, frame_len: u64) -> Result<()> {
        if align_frame_offset(self.at.offset) > PAGE {
            self.start_next_segment()?;
        }
        assert_eq!(self.at.offset, PAGE, "no frame is in it");
        self.appender.space.lengthen_segment(self.rolled, frame_len)
    }

    /// The number of these operations that fit into one frame in the rest of the segment.
    fn fitting_count(&self, operations: &[(BlockId, Operation)]) -> usize {
        let room = self.at.segment.len_max().saturating_sub(align_frame_offset(self.at.offset));
        let mut len = HEADER_LEN as u64;
        let fits = |(_, operation): &&(BlockId, Operation)| {
            len += operation_len(operation);
            len <= room
        };
        operations.iter().take_while(fits).count()
    }

    fn add_commit_part(
        &mut self,
        lsn: Lsn,
        operations: &[(BlockId, Operation)],
        part: u32,
        last_part: bool,
    ) -> Result<()> {
        let row_count: usize = operations.iter().map(|(_, operation)| row_count(operation)).sum();
        let frame_len = frame_len(operations);
        let staged_at = self.begin_frame(frame_len)?;
        let sequence = self.at.segment.sequence;
        let payloads_at = self.at.offset + (HEADER_LEN + row_count * ENTRY_LEN) as u64;
        let mut payload_len = 0;
        for (id, operation) in operations {
            let offset = payloads_at + payload_len;
            payload_len += operation.payload_len();
            let row = match operation {
                Operation::Write(block) => {
                    let place = Location::new(&block.header, sequence, offset);
                    self.changes.changed.push((*id, lsn, Some(place)));
                    TableRow::Write(block.header)
                }
                Operation::Delete => {
                    self.changes.changed.push((*id, lsn, None));
                    TableRow::Delete(*id)
                }
                Operation::Move { block, lsn, from, is_old } => {
                    let place = Location::new(&block.header, sequence, offset);
                    match is_old {
                        true => self.changes.moved_old.push((*id, *from, place)),
                        false => self.changes.moved.push((*id, *lsn, place)),
                    }
                    TableRow::Move(block.header, *lsn)
                }
            };
            row.rows().for_each(|row| self.staging.buf.extend_from_slice(&row));
        }
        let table_crc = checksum::crc32c(&self.staging.buf.as_slice()[staged_at + HEADER_LEN..]);
        for payload in operations.iter().filter_map(|(_, operation)| operation.payload()) {
            self.add_payload(payload);
        }
        let header = FrameHeader {
            kind: Kind::Commit,
            group_end: false,
            last_part,
            frame_len: frame_len as u32,
            lsn,
            durable: self.durable,
            op_count: row_count as u32,
            previous: 0,
            table_crc,
            part,
            payload_len,
        };
        self.end_frame(header, staged_at);
        Ok(())
    }

    fn add_control_record(&mut self, kind: Kind, last: Lsn, body: &[u8]) -> Result<()> {
        let header = FrameHeader::control_record_with_body(kind, last, self.durable, body);
        let staged_at = self.begin_frame(u64::from(header.frame_len))?;
        self.staging.buf.extend_from_slice(body);
        self.end_frame(header, staged_at);
        Ok(())
    }

    /// Begins a frame of that length behind the last one. Returns the place of its header in the
    /// staged bytes.
    fn begin_frame(&mut self, len: u64) -> Result<usize> {
        if self.at.segment.len_max() < align_frame_offset(self.at.offset) + len {
            self.begin_segment(len)?;
        }
        assert!(
            align_frame_offset(self.at.offset) + len <= self.at.segment.len_max(),
            "a frame fits"
        );
        self.write_open_header(false);
        self.pad_with_zeros(align_frame_offset(self.at.offset));
        let staged_at = self.staging.buf.len();
        self.staging.buf.extend_from_slice(&[0; HEADER_LEN]);
        Ok(staged_at)
    }

    fn add_payload(&mut self, payload: &Bytes) {
        if payload.len() < SHARED_LEN {
            self.staging.buf.extend_from_slice(payload);
        } else {
            self.close_staged();
            self.pieces.push(Piece::Shared(payload.clone()));
        }
    }

    /// Ends a frame whose bytes are laid out but for its header.
    fn end_frame(&mut self, header: FrameHeader, staged_at: usize) {
        let offset = self.at.offset;
        self.at.offset += u64::from(header.frame_len);
        self.open = Some(OpenFrame { header, offset, staged_at });
    }

    /// Writes the header of the last frame.
    fn write_open_header(&mut self, group_end: bool) {
        if let Some(OpenFrame { mut header, offset, staged_at }) = self.open.take() {
            header.group_end = group_end;
            header.previous = self.at.chain;
            debug_assert!(staged_at + HEADER_LEN <= self.staging.buf.len(), "its header is staged");
            let (bytes, crc) = header.encode(self.at.segment.seed, offset);
            self.staging.buf.as_mut_slice()[staged_at..staged_at + HEADER_LEN]
                .copy_from_slice(&bytes);
            self.at.chain = crc;
        }
    }

    /// Ends the extent and continues in the next segment.
    fn start_next_segment(&mut self) -> Result<()> {
        self.close_extent()?;
        debug_assert!(self.pieces.is_empty(), "every piece is in a closed extent");
        self.rolled += 1;
        let next = self.appender.space.upcoming_segment(self.rolled, self.claim)?;
        assert_eq!(next.sequence, self.at.segment.sequence + 1, "no segment is passed over");
        self.at.segment = next;
        self.at.offset = PAGE;
        self.extent_start = PAGE;
        Ok(())
    }

    fn close_extent(&mut self) -> Result<()> {
        if self.open.is_none() {
            return Ok(());
        }
        self.write_open_header(true);
        self.pad_with_zeros(page_up(self.at.offset));
        self.close_staged();
        let staged = self.staging.buf.len();
        // The next extent starts on a page of the staging buffer too, for direct writes.
        self.staging.buf.resize_zeroed(staged.next_multiple_of(PAGE_LEN));
        self.staged_from = self.staging.buf.len();
        let end = self.at.offset;
        debug_assert!(end.is_multiple_of(PAGE), "the next group begins on a page");
        debug_assert!(end > self.extent_start, "an extent with a frame has bytes");
        match self.rolled {
            0 => self.appender.space.extend_active(end, self.claim)?,
            count => self.appender.space.extend_upcoming(count, end, self.claim)?,
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
        let staged = self.staging.buf.len();
        debug_assert!(staged >= self.staged_from, "staged bytes are never taken back");
        if staged > self.staged_from {
            self.pieces.push(Piece::Staged(self.staged_from..staged));
        }
        self.staged_from = staged;
    }

    fn pad_with_zeros(&mut self, offset: u64) {
        debug_assert!(offset >= self.at.offset, "the log only grows");
        let len = self.staging.buf.len() + (offset - self.at.offset) as usize;
        self.staging.buf.resize_zeroed(len);
        self.at.offset = offset;
    }

    /// Moves the tail behind the write.
    fn finish_layout(mut self) -> Result<LogWrite<D::File>> {
        self.close_extent()?;
        debug_assert!(self.extents.iter().all(|extent| {
            extent.pieces.iter().map(|piece| piece.len() as u64).sum::<u64>() == extent.len
        }));
        debug_assert!(
            self.extents.windows(2).all(|two| two[0].segment.sequence < two[1].segment.sequence),
            "extents are in log order"
        );
        let GroupLayout { appender, extents, staging, changes, at, rolled, .. } = self;
        let (direct, unsynced) = (appender.direct, std::mem::take(&mut appender.unsynced));
        let staged = appender.staging.finish_chunk(staging);
        let write = LogWrite { extents, staged, direct, unsynced, changes };
        appender.tail = at;
        appender.space.advance_tail(rolled, appender.tail.offset, write.len());
        Ok(write)
    }
}

/// Bytes of a commit's frame, if the commit is not split.
pub(crate) fn frame_len(operations: &[(BlockId, Operation)]) -> u64 {
    let len: u64 = operations.iter().map(|(_, operation)| operation_len(operation)).sum();
    HEADER_LEN as u64 + len
}

/// Bytes of a commit's frame that are copied, up to the next frame.
fn staged_len(operations: &[(BlockId, Operation)]) -> usize {
    let len = |(_, operation): &(BlockId, Operation)| {
        let payload_len = usize::try_from(operation.payload_len()).unwrap_or(usize::MAX);
        let copied_len = if payload_len < SHARED_LEN { payload_len } else { 0 };
        row_count(operation) * ENTRY_LEN + copied_len
    };
    let len = HEADER_LEN + operations.iter().map(len).sum::<usize>();
    align_frame_offset(len as u64) as usize
}

/// Bytes that an operation takes in a frame.
pub(crate) fn operation_len(operation: &Operation) -> u64 {
    (row_count(operation) * ENTRY_LEN) as u64 + operation.payload_len()
}

/// Rows of the table that an operation takes.
fn row_count(operation: &Operation) -> usize {
    match operation {
        Operation::Write(_) | Operation::Delete => 1,
        Operation::Move { .. } => 2,
    }
}
