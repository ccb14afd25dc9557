//! Reading segments front to back, for recovery and verification.
//!
//! Owns [`Scanner`], which reports the frame at a place and changes nothing. One opened by
//! [`Scanner::reopen_past_cache`] sees the bytes on the disk. Recovery and verification decide what
//! a report means. Every length is checked against the file's own before it is used; a read error
//! is an error, never an end.

use std::io;

use crate::block::Lsn;
use crate::checksum;
use crate::error::{Defect, Error, IoOp, Result};
use crate::io::{AlignedBuf, Disk, DiskFile, FileName, How, PAGE_LEN, read_exact_at};
use crate::local::format::checkpoint::ImageName;
use crate::local::format::description::Description;
use crate::local::format::frame::{Cut, FrameHeader, HEADER_LEN, Kind, TableRow};
use crate::local::format::mirrored::Unreadable;
use crate::local::format::place::{damaged, place};
use crate::local::format::segment::{LEN_MAX, SEQUENCE_MAX, SegmentHeader};
use crate::local::format::{FORMAT_VERSION, PAGE, page_up};
use crate::local::read::segment::Views;

/// Bytes read at once.
const WINDOW_LEN: usize = 256 << 10;
/// Bytes asked for in advance by a throttled scanner: two windows.
const AHEAD_LEN: u64 = 512 << 10;
/// Bytes read at once after a skip of at least [`SKIPPED_LEN`], over payloads that are not read.
const GLANCE_LEN: usize = 16 << 10;
const SKIPPED_LEN: u64 = 128 << 10;

/// Reads one segment.
pub(crate) struct Scanner<F> {
    pub(crate) number: u64,
    pub(crate) sequence: u64,
    pub(crate) len: u64,
    /// The salt of this use of the file.
    pub(crate) salt: u64,
    seed: u32,
    path: std::path::PathBuf,
    file: F,
    /// The file is read past the page cache.
    direct: bool,
    window: AlignedBuf,
    window_at: u64,
    /// End of the reads begun in advance; `None` unless throttled.
    begun_to: Option<u64>,
}

/// A frame whose header and table match their checksums.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) offset: u64,
    pub(crate) header: FrameHeader,
    /// The header's checksum, to which the next frame is chained.
    pub(crate) crc: u32,
    pub(crate) entries: Vec<TableRow>,
}

impl Frame {
    /// Each entry with the offset of its payload.
    pub(crate) fn rows_with_offsets(&self) -> impl Iterator<Item = (u64, &TableRow)> {
        let mut next = self.offset + (HEADER_LEN + self.header.table_len()) as u64;
        self.entries.iter().map(move |entry| {
            let at = next;
            next += u64::from(entry.payload_len());
            (at, entry)
        })
    }
}

/// The result of a look at a place.
#[derive(Debug)]
pub(crate) enum Found {
    /// A frame of this segment.
    Frame(Frame),
    /// The header of a frame of this segment; its table is damaged, missing or of a later version.
    BadTable(FrameHeader),
    /// No frame of this segment.
    Nothing,
}

impl<F: DiskFile> Scanner<F> {
    /// Opens a segment and checks its header.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::UnsupportedFormat`], [`Error::Io`].
    pub(crate) fn open_segment<D: Disk<File = F>>(
        disk: &D,
        store: &Description,
        number: u64,
    ) -> Result<Scanner<F>> {
        let name = FileName::Segment(number);
        let path = disk.path().join(name.to_string());
        let file = disk.open(name, How::Read).map_err(|e| Error::io(IoOp::Open, &path, e))?;
        let len = file.len().map_err(|e| Error::io(IoOp::Read, &path, e))?;
        let mut page = vec![0; PAGE_LEN.min(len as usize)];
        read_exact_at(&file, 0, &mut page).map_err(|e| Error::io(IoOp::Read, &path, e))?;
        let header = match SegmentHeader::decode(&page) {
            Ok(header) => header,
            Err(Unreadable::Damaged) => return Err(damaged(name, 0, Defect::SegmentHeader)),
            Err(Unreadable::Newer(found)) => {
                let path = disk.path().to_path_buf();
                return Err(Error::UnsupportedFormat { path, found, supported: FORMAT_VERSION });
            }
        };
        if header.store_id != store.store_id {
            return Err(damaged(name, 0, Defect::ForeignSegment));
        }
        if len < PAGE {
            return Err(damaged(name, len, Defect::Truncated));
        }
        if len > LEN_MAX {
            return Err(damaged(name, LEN_MAX, Defect::Oversized));
        }
        if !(1..=SEQUENCE_MAX).contains(&header.sequence) {
            return Err(damaged(name, 0, Defect::SegmentHeader));
        }
        let seed = header.frame_seed(store);
        let SegmentHeader { sequence, salt, .. } = header;
        let (direct, window) = (false, AlignedBuf::with_capacity(0));
        let (window_at, begun_to) = (0, None);
        Ok(Scanner {
            number,
            sequence,
            len,
            salt,
            seed,
            path,
            file,
            direct,
            window,
            window_at,
            begun_to,
        })
    }

    /// Another scanner of the same segment that bypasses the page cache; `None` where the file
    /// system does not support that.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn reopen_past_cache<D: Disk<File = F>>(
        &self,
        disk: &D,
    ) -> Result<Option<Scanner<F>>> {
        let opened = disk.open(FileName::Segment(self.number), How::ReadDirect);
        let is_unsupported = |e: &io::Error| e.kind() == io::ErrorKind::Unsupported;
        let file = match opened {
            Err(e) if is_unsupported(&e) => return Ok(None),
            opened => opened.map_err(|e| Error::io(IoOp::Open, &self.path, e))?,
        };
        let (path, window) = (self.path.clone(), AlignedBuf::with_capacity(0));
        let (direct, window_at, begun_to) = (true, 0, None);
        let mut there = Scanner { path, file, direct, window, window_at, begun_to, ..*self };
        match there.fill_window(0, PAGE_LEN) {
            Err(e) if is_unsupported(&e) => Ok(None),
            Err(e) => Err(Error::io(IoOp::Read, &self.path, e)),
            Ok(()) => Ok(Some(there)),
        }
    }

    /// Reads little at once from here on. The system's own read-ahead may be megabytes, and
    /// concurrent commits would wait behind it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn read_little_at_once(&mut self) -> Result<()> {
        self.file.expect_random();
        self.begun_to = Some(0);
        Ok(())
    }

    /// Checksum seed of the frames.
    pub(crate) fn frame_seed(&self) -> u32 {
        self.seed
    }

    /// Shows the first `len` bytes of the segment to readers.
    pub(crate) fn show_to_readers(&self, views: &Views, len: u64) -> Result<()> {
        let shown = views.insert_mapped(self.sequence, self.number, &self.file, len);
        shown.map_err(|e| Error::io(IoOp::Map, &self.path, e))
    }

    /// Reports the frame at `offset`.
    ///
    /// # Errors
    /// [`Error::Io`] only.
    pub(crate) fn read_frame_at(&mut self, offset: u64) -> Result<Found> {
        let seed = self.seed;
        let decoded = FrameHeader::decode(self.bytes_at(offset, HEADER_LEN)?, seed, offset);
        let Some((header, crc)) = decoded else { return Ok(Found::Nothing) };
        if offset + u64::from(header.frame_len) > self.len {
            return Ok(Found::BadTable(header));
        }
        let table = self.bytes_at(offset + HEADER_LEN as u64, header.table_len())?;
        if table.len() != header.table_len() || checksum::crc32c(table) != header.table_crc {
            return Ok(Found::BadTable(header));
        }
        let entries = match header.kind {
            Kind::Cut | Kind::Checkpoint => Some(Vec::new()),
            _ => TableRow::decode_whole_table(table, &header),
        };
        Ok(match entries {
            Some(entries) => Found::Frame(Frame { offset, header, crc, entries }),
            None => Found::BadTable(header),
        })
    }

    /// The truncation record at the begin of this segment, if there is one.
    pub(crate) fn read_truncation_record(&mut self) -> Result<Option<Cut>> {
        let seed = self.seed;
        // The table of a long commit need not be read.
        let first = FrameHeader::decode(self.bytes_at(PAGE, HEADER_LEN)?, seed, PAGE);
        if first.is_none_or(|(header, _)| header.kind != Kind::Cut) {
            return Ok(None);
        }
        match self.read_frame_at(PAGE)? {
            Found::Frame(frame) if frame.header.kind == Kind::Cut => {
                let len = frame.header.table_len();
                Ok(Cut::decode(self.bytes_at(PAGE + HEADER_LEN as u64, len)?))
            }
            _ => Ok(None),
        }
    }

    /// Frees the window's memory: this segment is not read for now.
    pub(crate) fn free_window(&mut self) {
        self.window = AlignedBuf::with_capacity(0);
    }

    /// Whether this segment holds, whole, a frame that another scanner of it has found.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn holds_whole_frame(&mut self, frame: &Frame) -> Result<bool> {
        let seed = self.seed;
        let decoded =
            FrameHeader::decode(self.bytes_at(frame.offset, HEADER_LEN)?, seed, frame.offset);
        let Some((header, _)) = decoded.filter(|(_, crc)| *crc == frame.crc) else {
            return Ok(false);
        };
        let table_at = frame.offset + HEADER_LEN as u64;
        let table_crc = self.checksum_of_range(table_at, header.table_len())?;
        Ok(table_crc == Some(header.table_crc) && self.first_bad_payload(frame)?.is_none())
    }

    /// The checksum of bytes at a place; `None` where the file ends before.
    fn checksum_of_range(&mut self, offset: u64, len: usize) -> Result<Option<u32>> {
        let (mut crc, mut done) = (checksum::crc32c(&[]), 0);
        while done < len {
            let part = self.bytes_at(offset + done as u64, (len - done).min(WINDOW_LEN))?;
            if part.is_empty() {
                return Ok(None);
            }
            crc = checksum::crc32c_append(crc, part);
            done += part.len();
        }
        Ok(Some(crc))
    }

    /// The image whose name a frame confirms as durable, if it confirms one.
    pub(crate) fn confirmed_image_name(&mut self, frame: &Frame) -> Result<Option<ImageName>> {
        match frame.header.kind {
            Kind::Checkpoint => {
                let body =
                    self.bytes_at(frame.offset + HEADER_LEN as u64, frame.header.table_len())?;
                Ok(ImageName::decode(body))
            }
            _ => Ok(None),
        }
    }

    /// Reads a payload.
    pub(crate) fn read_payload(&mut self, offset: u64, len: u32) -> Result<&[u8]> {
        self.bytes_at(offset, len as usize)
    }

    /// The offset and entry of the first payload of a frame that does not match its checksum.
    pub(crate) fn first_bad_payload(&mut self, frame: &Frame) -> Result<Option<(u64, TableRow)>> {
        for (offset, entry) in frame.rows_with_offsets() {
            if let Some(header) = entry.written_header() {
                let payload = self.read_payload(offset, header.data_size)?;
                if payload.len() != header.data_size as usize
                    || checksum::crc32c(payload) != header.checksum
                {
                    return Ok(Some((offset, *entry)));
                }
            }
        }
        Ok(None)
    }

    /// Searches the pages from `offset` on for evidence of durable commits. Returns the newest LSN
    /// that a frame at a page boundary knows durable, and the length of pages that are not all
    /// zero. Stops after `zeros_max` bytes of zeros.
    pub(crate) fn find_durable_evidence(
        &mut self,
        offset: u64,
        zeros_max: u64,
    ) -> Result<(Lsn, u64)> {
        let (mut durable, mut torn_len) = (Lsn(0), 0);
        let (mut at, mut used) = (offset, offset);
        while at < self.len && at - used <= zeros_max {
            let page_len = (page_up(at + 1) - at).min(self.len - at) as usize;
            let seed = self.seed;
            let page = self.bytes_at(at, page_len)?;
            if page.iter().any(|byte| *byte != 0) {
                torn_len += page_len as u64;
                used = at;
            }
            if let Some((header, _)) = FrameHeader::decode(page, seed, at)
                && at.is_multiple_of(PAGE)
            {
                durable = durable.max(header.durable);
            }
            at += page_len as u64;
        }
        Ok((durable, torn_len))
    }

    /// The error of damage at a place of this segment.
    pub(crate) fn damage_at(&self, defect: Defect, offset: u64, lsn: Lsn) -> Error {
        let mut place = place(FileName::Segment(self.number), offset);
        place.lsn = Some(lsn);
        Error::Corrupt { defect, place }
    }

    /// Begins to read the bytes behind the window, if throttled.
    fn begin_read_ahead(&mut self) {
        let Some(begun_to) = &mut self.begun_to else { return };
        let window_end = self.window_at + self.window.len() as u64;
        *begun_to = window_end.max(*begun_to);
        while *begun_to < (window_end + AHEAD_LEN).min(self.len) {
            self.file.begin_read(*begun_to, WINDOW_LEN as u64);
            *begun_to += WINDOW_LEN as u64;
        }
    }

    /// Up to `len` bytes at a place; fewer at the end of the file.
    fn bytes_at(&mut self, offset: u64, len: usize) -> Result<&[u8]> {
        let len = (len as u64).min(self.len.saturating_sub(offset)) as usize;
        let held = self.window_at + self.window.len() as u64;
        if offset < self.window_at || offset + len as u64 > held {
            let skips = !self.window.is_empty() && offset >= held + SKIPPED_LEN;
            let window_len = if skips { GLANCE_LEN } else { WINDOW_LEN };
            let fill = len.max(window_len).min(self.len.saturating_sub(offset) as usize);
            if fill <= WINDOW_LEN && self.window.capacity() > 2 * WINDOW_LEN {
                // The window held a long table or payload; its memory is not kept.
                self.window = AlignedBuf::with_capacity(WINDOW_LEN);
            }
            self.window.clear();
            let read = self.fill_window(offset, fill);
            read.map_err(|e| Error::io(IoOp::Read, &self.path, e))?;
            if !skips {
                self.begin_read_ahead();
            }
        }
        let from = (offset - self.window_at) as usize;
        Ok(&self.window.as_slice()[from..from + len])
    }

    fn fill_window(&mut self, offset: u64, len: usize) -> io::Result<()> {
        if !self.direct {
            self.window_at = offset;
            self.window.resize_zeroed(len);
            return read_exact_at(&self.file, offset, self.window.as_mut_slice());
        }
        self.window_at = offset / PAGE * PAGE;
        let wanted = (offset - self.window_at) as usize + len;
        self.window.resize_zeroed(page_up(wanted as u64) as usize);
        let mut done = 0;
        // The end of the file may lie in the last page. Bytes that the disk does not have read as
        // zeros.
        while done < wanted && done.is_multiple_of(PAGE_LEN) {
            let rest = &mut self.window.as_mut_slice()[done..];
            match self.file.read_at(self.window_at + done as u64, rest) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.window.resize_zeroed(done.max(wanted));
        Ok(())
    }
}
