//! Forged stores: files with right checksums that no store of this version ever wrote.
//!
//! Owns [`Forger`], which writes frames where a test wants them, however large they say they are:
//! on a simulated disk, where what is not written takes no space.

use crate::block::{Block, BlockId, BlockType, Lsn};
use crate::checksum;
use crate::io::FileName;
use crate::io::sim::SimDisk;
use crate::local::format::PAGE;
use crate::local::format::description::Description;
use crate::local::format::frame::{Cut, ENTRY_LEN, FrameHeader, HEADER_LEN, Kind, TableRow};
use crate::local::format::segment::SegmentHeader;

/// Writes the segments of one store, frame by frame.
#[derive(Debug)]
pub struct Forger {
    disk: SimDisk,
    store: Description,
    number: u64,
    seed: u32,
    /// Where the next frame goes.
    pub offset: u64,
    /// The link that the next frame continues.
    pub chain: u32,
    lsn: u64,
}

impl Forger {
    /// A store with a first segment and no frame.
    pub fn new() -> Forger {
        let (disk, store) = (SimDisk::new(1), Description { store_id: [7; 16], salt: 9 });
        disk.put_file(FileName::Meta, &store.encode());
        disk.put_file(FileName::Lock, b"");
        let mut forger = Forger { disk, store, number: 0, seed: 0, offset: 0, chain: 0, lsn: 0 };
        forger.segment(1, 1);
        forger
    }

    /// The disk with what was forged so far.
    pub fn disk(&self) -> SimDisk {
        self.disk.clone()
    }

    /// The file that the next frame goes to.
    pub fn file(&self) -> FileName {
        FileName::Segment(self.number)
    }

    /// Goes on with a new segment.
    pub fn segment(&mut self, number: u64, sequence: u64) {
        let header = SegmentHeader { store_id: self.store.store_id, sequence, salt: 3 };
        (self.number, self.seed, self.offset) = (number, header.frame_seed(&self.store), PAGE);
        self.disk.put_file(self.file(), &header.encode());
    }

    /// A commit of one block of `len` bytes: `data`, and zeros that are not written.
    pub fn commit(&mut self, id: u64, data: &'static [u8], len: u32) {
        let mut header = Block::new(BlockId(id), BlockType::TableData, data).header;
        (header.data_size, header.uncompressed_size) = (len, len);
        let mut table = Vec::new();
        table.extend(TableRow::Write(header).rows().flatten());
        self.lsn += 1;
        let mut frame = self.mark(Kind::Commit, self.lsn, self.lsn - 1);
        frame.frame_len = (HEADER_LEN + table.len()) as u32 + len;
        (frame.op_count, frame.payload_len) = (1, u64::from(len));
        self.frame(frame, &table, data);
    }

    /// A commit of empty blocks: nothing takes fewer bytes of a file for each operation.
    pub fn commit_empty(&mut self, ids: impl Iterator<Item = u64>) {
        let entry = |id| TableRow::Write(Block::empty(BlockId(id), BlockType::TableData).header);
        let mut table = Vec::new();
        ids.for_each(|id| table.extend(entry(id).rows().flatten()));
        self.lsn += 1;
        let mut frame = self.mark(Kind::Commit, self.lsn, self.lsn - 1);
        frame.frame_len += table.len() as u32;
        frame.op_count = (table.len() / ENTRY_LEN) as u32;
        self.frame(frame, &table, &[]);
    }

    /// A mark that everything so far is durable and nothing follows.
    pub fn end(&mut self) {
        self.frame(self.mark(Kind::End, self.lsn, self.lsn), &[], &[]);
    }

    /// A mark that states an LSN, durable as it is.
    pub fn witness(&mut self, lsn: u64) {
        self.frame(self.mark(Kind::Witness, lsn, lsn), &[], &[]);
    }

    /// A mark in the place of an end mark that knows nothing durable.
    pub fn doubtful_end(&mut self) {
        self.frame(self.mark(Kind::End, self.lsn, 0), &[], &[]);
    }

    /// A cut that names a place.
    pub fn cut(&mut self, sequence: u64, offset: u64) {
        let body = Cut { sequence, offset }.encode();
        let mut frame = self.mark(Kind::Cut, self.lsn, self.lsn);
        frame.frame_len += body.len() as u32;
        self.frame(frame, &body, &[]);
    }

    /// A commit that says it has so many operations, in a frame of so many bytes.
    pub fn lie(&mut self, op_count: u32, frame_len: u32) {
        let mut frame = self.mark(Kind::Commit, self.lsn + 1, self.lsn);
        (frame.op_count, frame.frame_len) = (op_count, frame_len);
        let body_len = u64::from(frame_len) - HEADER_LEN as u64;
        frame.payload_len = body_len.wrapping_sub(u64::from(op_count) * 32);
        self.frame(frame, &[], &[]);
    }

    fn mark(&self, kind: Kind, lsn: u64, durable: u64) -> FrameHeader {
        FrameHeader::control_record(kind, Lsn(lsn), Lsn(durable), self.chain)
    }

    fn frame(&mut self, mut frame: FrameHeader, table: &[u8], data: &[u8]) {
        frame.table_crc = checksum::crc32c(table);
        let (header, crc) = frame.encode(self.seed, self.offset);
        let next = frame.next_frame_offset(self.offset);
        self.disk.overwrite(self.file(), self.offset, &[&header[..], table, data].concat());
        self.disk.truncate(self.file(), next);
        (self.offset, self.chain) = (next, crc);
    }
}

impl Default for Forger {
    fn default() -> Self {
        Forger::new()
    }
}
