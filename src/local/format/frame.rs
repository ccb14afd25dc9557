//! Frames: the unit of append, checksum and replay. One valid frame is one atomic commit.
//!
//! | offset | size | field          | meaning                                                  |
//! |-------:|-----:|----------------|----------------------------------------------------------|
//! |      0 |    4 | magic          | `AGF1`                                                   |
//! |      4 |    4 | `crc`          | of the segment's seed, the frame's offset, bytes `8..64` |
//! |      8 |    1 | `kind`         | [`Kind`]; values are permanent, 0 is never written       |
//! |      9 |    1 | `flags`        | 1: last frame of its group; 2: last part of its commit   |
//! |     10 |    2 | zero           | refused otherwise                                        |
//! |     12 |    4 | `frame_len`    | bytes to the end of the last payload, header included    |
//! |     16 |    8 | `lsn`          | commit order; of the last commit for a mark              |
//! |     24 |    8 | `durable`      | newest LSN known durable when this frame was written     |
//! |     32 |    4 | `op_count`     | entries in the operation table                           |
//! |     36 |    4 | `previous`     | `crc` of the frame before, 0 for the first: the chain    |
//! |     40 |    4 | `table_crc`    | of the operation table, or of a control record's body    |
//! |     44 |    4 | `part`         | from 0 within a commit that spans frames                 |
//! |     48 |    8 | `payload_len`  | sum of the lengths in the table                          |
//! |     56 |    8 | zero           | refused otherwise                                        |
//! |     64 | 32 n | table          | one [`TableRow`] an operation                            |
//! |        |      | payloads       | of the writes, in table order, without gaps              |
//!
//! The next frame starts at the next multiple of 8, or after the last frame of a group at the next
//! page. An entry of the table:
//!
//! | offset | size | field               | meaning                                               |
//! |-------:|-----:|---------------------|-------------------------------------------------------|
//! |      0 |    8 | `id`                | never 0                                               |
//! |      8 |    4 | `len`               | payload bytes in this frame                           |
//! |     12 |    4 | `checksum`          | of the payload                                        |
//! |     16 |    4 | `uncompressed_size` |                                                       |
//! |     20 |    1 | operation           | 1 write, 2 delete, 3 move, 4 origin of the move before |
//! |     21 |    3 | type, compression, encryption | permanent codes; 0 for a delete             |
//! |     24 |    4 | `version`, `flags`  | the user's own                                        |
//! |     28 |    4 | zero                | refused otherwise                                     |
//!
//! A move (a relocation) writes a block again that stays what an earlier commit made of it. A row
//! follows that has the LSN of that commit in place of `len` and `checksum`, and zeros but for its
//! id.
//!
//! Both sizes of an entry agree while there is no compression. A mark (a control record: a frame
//! that is no commit) is a group of its own. An end mark states its own LSN as durable.
//!
//! The header is covered by its salted checksum, the table by the header, each payload by the
//! table. So payload and table checksums need no salt, and callers compute them before a place is
//! known. The header is checked before any length in it is used.

use crate::block::{BlockHeader, BlockId, BlockType, Compression, Encryption, Lsn};
use crate::checksum;
use crate::local::format::{le, page_up};

/// Bytes of a frame's header.
pub(crate) const HEADER_LEN: usize = 64;
/// Bytes of a table entry.
pub(crate) const ENTRY_LEN: usize = 32;
/// Bytes of the body of a cut or checkpoint.
pub(crate) const CUT_LEN: usize = 16;
const MAGIC: [u8; 4] = *b"AGF1";
pub(crate) const ALIGN: u64 = 8;
const FLAG_GROUP_END: u8 = 1;
const FLAG_LAST_PART: u8 = 2;

/// The kind of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// A commit, or a part of one.
    Commit = 1,
    /// First frame of the segment that recovery makes, the truncation record: everything from the
    /// place it names up to this segment is void.
    Cut = 2,
    /// States the durable LSN while nothing else is written: a durable mark.
    Witness = 3,
    /// A clean close: nothing follows.
    End = 4,
    /// Confirms that the name of a checkpoint is durable: from here on recovery may rely on it. Its
    /// body is the image's number and salt.
    Checkpoint = 5,
}

impl Kind {
    fn from_code(code: u8) -> Option<Kind> {
        [Kind::Commit, Kind::Cut, Kind::Witness, Kind::End, Kind::Checkpoint]
            .into_iter()
            .find(|kind| *kind as u8 == code)
    }
}

/// A frame's header without magic and checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) kind: Kind,
    pub(crate) group_end: bool,
    pub(crate) last_part: bool,
    pub(crate) frame_len: u32,
    pub(crate) lsn: Lsn,
    pub(crate) durable: Lsn,
    pub(crate) op_count: u32,
    pub(crate) previous: u32,
    pub(crate) table_crc: u32,
    pub(crate) part: u32,
    pub(crate) payload_len: u64,
}

impl FrameHeader {
    /// A control record without body.
    pub(crate) fn control_record(kind: Kind, lsn: Lsn, durable: Lsn, previous: u32) -> FrameHeader {
        FrameHeader {
            kind,
            group_end: true,
            last_part: true,
            frame_len: HEADER_LEN as u32,
            lsn,
            durable,
            op_count: 0,
            previous,
            table_crc: checksum::crc32c(&[]),
            part: 0,
            payload_len: 0,
        }
    }

    /// Encodes the header for its place and returns it with its checksum, the next link of the
    /// chain.
    pub(crate) fn encode(&self, seed: u32, offset: u64) -> ([u8; HEADER_LEN], u32) {
        let mut out = [0; HEADER_LEN];
        let flags = if self.group_end { FLAG_GROUP_END } else { 0 }
            | if self.last_part { FLAG_LAST_PART } else { 0 };
        out[..4].copy_from_slice(&MAGIC);
        out[8] = self.kind as u8;
        out[9] = flags;
        out[12..16].copy_from_slice(&self.frame_len.to_le_bytes());
        out[16..24].copy_from_slice(&self.lsn.0.to_le_bytes());
        out[24..32].copy_from_slice(&self.durable.0.to_le_bytes());
        out[32..36].copy_from_slice(&self.op_count.to_le_bytes());
        out[36..40].copy_from_slice(&self.previous.to_le_bytes());
        out[40..44].copy_from_slice(&self.table_crc.to_le_bytes());
        out[44..48].copy_from_slice(&self.part.to_le_bytes());
        out[48..56].copy_from_slice(&self.payload_len.to_le_bytes());
        let crc = header_checksum(seed, offset, &out);
        out[4..8].copy_from_slice(&crc.to_le_bytes());
        (out, crc)
    }

    /// Reads the header at `offset`; `None` for anything that [`FrameHeader::encode`] did not write
    /// for this very place. Returns the checksum with it.
    pub(crate) fn decode(bytes: &[u8], seed: u32, offset: u64) -> Option<(FrameHeader, u32)> {
        let bytes = bytes.get(..HEADER_LEN)?;
        if bytes[..4] != MAGIC || le::u32(bytes, 4) != header_checksum(seed, offset, bytes) {
            return None;
        }
        let flags = bytes[9];
        let header = FrameHeader {
            kind: Kind::from_code(bytes[8])?,
            group_end: flags & FLAG_GROUP_END != 0,
            last_part: flags & FLAG_LAST_PART != 0,
            frame_len: le::u32(bytes, 12),
            lsn: Lsn(le::u64(bytes, 16)),
            durable: Lsn(le::u64(bytes, 24)),
            op_count: le::u32(bytes, 32),
            previous: le::u32(bytes, 36),
            table_crc: le::u32(bytes, 40),
            part: le::u32(bytes, 44),
            payload_len: le::u64(bytes, 48),
        };
        let zeros = bytes[10..12] == [0; 2] && bytes[56..] == [0; 8] && flags & !3 == 0;
        (zeros && header.is_consistent()).then_some((header, le::u32(bytes, 4)))
    }

    /// A control record with a body.
    pub(crate) fn control_record_with_body(
        kind: Kind,
        lsn: Lsn,
        durable: Lsn,
        body: &[u8],
    ) -> FrameHeader {
        FrameHeader {
            frame_len: (HEADER_LEN + body.len()) as u32,
            table_crc: checksum::crc32c(body),
            ..FrameHeader::control_record(kind, lsn, durable, 0)
        }
    }

    /// Bytes of the table, or of the body.
    pub(crate) fn table_len(&self) -> usize {
        match self.kind {
            Kind::Cut | Kind::Checkpoint => CUT_LEN,
            _ => self.op_count as usize * ENTRY_LEN,
        }
    }

    /// Where the next frame starts when this one starts at `offset`.
    pub(crate) fn next_frame_offset(&self, offset: u64) -> u64 {
        let end = offset + u64::from(self.frame_len);
        if self.group_end { page_up(end) } else { align_frame_offset(end) }
    }

    fn is_consistent(&self) -> bool {
        let table_len = match self.kind {
            Kind::Cut | Kind::Checkpoint => CUT_LEN as u64,
            _ => u64::from(self.op_count) * ENTRY_LEN as u64,
        };
        let sum = (HEADER_LEN as u64 + table_len).checked_add(self.payload_len);
        let is_mark = self.op_count == 0 && self.payload_len == 0 && self.part == 0;
        // A control record is a whole group; an end mark comes when everything is durable.
        let stands_alone = self.group_end && self.last_part;
        let is_mark =
            is_mark && stands_alone && (self.kind != Kind::End || self.durable == self.lsn);
        sum == Some(u64::from(self.frame_len))
            && self.durable <= self.lsn
            && (self.kind == Kind::Commit || is_mark)
    }
}

/// Rounds up to where a frame may start.
pub(crate) const fn align_frame_offset(offset: u64) -> u64 {
    offset.div_ceil(ALIGN) * ALIGN
}

fn header_checksum(seed: u32, offset: u64, header: &[u8]) -> u32 {
    let seed = checksum::crc32c_append(seed, &offset.to_le_bytes());
    checksum::crc32c_append(seed, &header[8..HEADER_LEN])
}

/// One operation in a frame's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TableRow {
    /// The block is written; its payload follows the table.
    Write(BlockHeader),
    /// The block is deleted.
    Delete(BlockId),
    /// The block is relocated: written again as an earlier commit made it; its payload follows the
    /// table.
    Move(BlockHeader, Lsn),
}

/// Codes of the rows of a table.
const WRITE: u8 = 1;
const DELETE: u8 = 2;
const MOVE: u8 = 3;
const ORIGIN: u8 = 4;

impl TableRow {
    pub(crate) fn block_id(&self) -> BlockId {
        match self {
            TableRow::Write(header) | TableRow::Move(header, _) => header.block_id,
            TableRow::Delete(id) => *id,
        }
    }

    /// The header of the block that it writes.
    pub(crate) fn written_header(&self) -> Option<&BlockHeader> {
        match self {
            TableRow::Write(header) | TableRow::Move(header, _) => Some(header),
            TableRow::Delete(_) => None,
        }
    }

    /// Bytes of its payload.
    pub(crate) fn payload_len(&self) -> u32 {
        self.written_header().map_or(0, |header| header.data_size)
    }

    /// Its rows, as they stand in a table.
    pub(crate) fn rows(&self) -> impl Iterator<Item = [u8; ENTRY_LEN]> {
        let (first, second) = match self {
            TableRow::Write(header) => (row_of_header(header, WRITE), None),
            TableRow::Delete(id) => (row_of_id(*id, DELETE), None),
            TableRow::Move(header, lsn) => {
                let mut origin = row_of_id(header.block_id, ORIGIN);
                origin[8..16].copy_from_slice(&lsn.0.to_le_bytes());
                (row_of_header(header, MOVE), Some(origin))
            }
        };
        std::iter::once(first).chain(second)
    }

    /// Reads the entry whose rows these begin with, and what follows them; `None` for what this
    /// version does not know.
    fn decode_entry(rows: &[[u8; ENTRY_LEN]]) -> Option<(TableRow, &[[u8; ENTRY_LEN]])> {
        let (first, rest) = rows.split_first()?;
        let id = BlockId(le::u64(first, 0));
        if id == BlockId(0) || first[28..] != [0; 4] {
            return None;
        }
        match first[20] {
            WRITE => Some((TableRow::Write(header_of_row(id, first)?), rest)),
            DELETE if *first == row_of_id(id, DELETE) => Some((TableRow::Delete(id), rest)),
            MOVE => {
                let (second, rest) = rest.split_first()?;
                let lsn = le::u64(second, 8);
                let mut origin = row_of_id(id, ORIGIN);
                origin[8..16].copy_from_slice(&lsn.to_le_bytes());
                let entry = TableRow::Move(header_of_row(id, first)?, Lsn(lsn));
                (*second == origin).then_some((entry, rest))
            }
            _ => None,
        }
    }

    /// Reads a whole table. `None` when an entry is unknown or the lengths do not add up.
    pub(crate) fn decode_whole_table(table: &[u8], header: &FrameHeader) -> Option<Vec<TableRow>> {
        if table.len() != header.op_count as usize * ENTRY_LEN {
            return None;
        }
        let entries = TableRow::decode_all_rows(table)?;
        let sum: u64 = entries.iter().map(|entry| u64::from(entry.payload_len())).sum();
        (header.payload_len == sum).then_some(entries)
    }

    /// Reads entries, whatever their lengths add up to.
    pub(crate) fn decode_all_rows(table: &[u8]) -> Option<Vec<TableRow>> {
        let (mut rows, rest) = table.as_chunks::<ENTRY_LEN>();
        let mut entries = Vec::with_capacity(rows.len());
        while !rows.is_empty() {
            let (entry, rest) = TableRow::decode_entry(rows)?;
            entries.push(entry);
            rows = rest;
        }
        rest.is_empty().then_some(entries)
    }
}

fn row_of_id(id: BlockId, operation: u8) -> [u8; ENTRY_LEN] {
    let mut out = [0; ENTRY_LEN];
    out[..8].copy_from_slice(&id.0.to_le_bytes());
    out[20] = operation;
    out
}

fn row_of_header(header: &BlockHeader, operation: u8) -> [u8; ENTRY_LEN] {
    let mut out = row_of_id(header.block_id, operation);
    out[8..12].copy_from_slice(&header.data_size.to_le_bytes());
    out[12..16].copy_from_slice(&header.checksum.to_le_bytes());
    out[16..20].copy_from_slice(&header.uncompressed_size.to_le_bytes());
    out[21] = header.block_type.code();
    out[22] = header.compression.code();
    out[23] = header.encryption.code();
    out[24..26].copy_from_slice(&header.version.to_le_bytes());
    out[26..28].copy_from_slice(&header.flags.to_le_bytes());
    out
}

fn header_of_row(id: BlockId, row: &[u8; ENTRY_LEN]) -> Option<BlockHeader> {
    let header = BlockHeader {
        block_id: id,
        block_type: BlockType::from_code(row[21])?,
        compression: Compression::from_code(row[22])?,
        encryption: Encryption::from_code(row[23])?,
        data_size: le::u32(row, 8),
        uncompressed_size: le::u32(row, 16),
        checksum: le::u32(row, 12),
        version: le::u16(row, 24),
        flags: le::u16(row, 26),
    };
    header.lengths_agree().then_some(header)
}

/// The body of a [`Kind::Cut`] frame: where the log ended when recovery ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    /// The segment the log ended in.
    pub(crate) sequence: u64,
    /// The first void byte there.
    pub(crate) offset: u64,
}

impl Cut {
    pub(crate) fn encode(&self) -> [u8; CUT_LEN] {
        let mut out = [0; CUT_LEN];
        out[..8].copy_from_slice(&self.sequence.to_le_bytes());
        out[8..].copy_from_slice(&self.offset.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Cut> {
        let bytes = bytes.get(..CUT_LEN)?;
        Some(Cut { sequence: le::u64(bytes, 0), offset: le::u64(bytes, 8) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Block;

    fn sample() -> FrameHeader {
        FrameHeader {
            kind: Kind::Commit,
            group_end: true,
            last_part: false,
            frame_len: (HEADER_LEN + 2 * ENTRY_LEN + 77) as u32,
            lsn: Lsn(0x0102_0304),
            durable: Lsn(0x0102_0300),
            op_count: 2,
            previous: 0xAABB_CCDD,
            table_crc: 0x1122_3344,
            part: 5,
            payload_len: 77,
        }
    }

    #[test]
    fn header_round_trips_at_its_place_only() {
        for header in [sample(), FrameHeader::control_record(Kind::Witness, Lsn(9), Lsn(9), 3)] {
            let (bytes, crc) = header.encode(7, 4096);
            assert_eq!(FrameHeader::decode(&bytes, 7, 4096), Some((header, crc)));
            assert_eq!(FrameHeader::decode(&bytes, 7, 8192), None);
            assert_eq!(FrameHeader::decode(&bytes, 8, 4096), None);
        }
    }

    #[test]
    fn damaged_or_cut_header_is_refused() {
        let (bytes, _) = sample().encode(7, 4096);
        for bit in 0..HEADER_LEN * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(FrameHeader::decode(&damaged, 7, 4096), None, "bit {bit}");
        }
        for len in 0..HEADER_LEN {
            assert_eq!(FrameHeader::decode(&bytes[..len], 7, 4096), None);
        }
    }

    #[test]
    fn header_whose_fields_disagree_is_refused() {
        let lies = [
            FrameHeader { frame_len: sample().frame_len + 1, ..sample() },
            FrameHeader { payload_len: u64::MAX - 100, ..sample() },
            FrameHeader { op_count: u32::MAX, ..sample() },
            FrameHeader { durable: Lsn(sample().lsn.0 + 1), ..sample() },
            FrameHeader::control_record(Kind::End, Lsn(9), Lsn(8), 3),
            FrameHeader {
                group_end: false,
                ..FrameHeader::control_record(Kind::Witness, Lsn(9), Lsn(9), 3)
            },
            FrameHeader {
                last_part: false,
                ..FrameHeader::control_record(Kind::Witness, Lsn(9), Lsn(9), 3)
            },
        ];
        for lie in lies {
            let (bytes, _) = lie.encode(7, 4096);
            assert_eq!(FrameHeader::decode(&bytes, 7, 4096), None, "{lie:?}");
        }
    }

    #[test]
    fn entries_round_trip_and_unknown_ones_are_refused() {
        let mut block = Block::new(BlockId(u64::MAX), BlockType::Metadata, vec![1; 77]);
        (block.header.version, block.header.flags) = (3, 4);
        let entries = [TableRow::Write(block.header), TableRow::Delete(BlockId(5))];
        let mut table = Vec::new();
        entries.iter().for_each(|entry| table.extend(entry.rows().flatten()));
        assert_eq!(TableRow::decode_whole_table(&table, &sample()).as_deref(), Some(&entries[..]));
        assert_eq!(TableRow::decode_whole_table(&table[1..], &sample()), None);
        let longer = FrameHeader { payload_len: 78, ..sample() };
        assert_eq!(TableRow::decode_whole_table(&table, &longer), None);
        for at in [16, 20, 21, 22, 23, 28, 31, 32 + 8, 32 + 20, 32 + 27] {
            let mut damaged = table.clone();
            damaged[at] = 0x77;
            assert_eq!(TableRow::decode_whole_table(&damaged, &sample()), None, "byte {at}");
        }
    }

    #[test]
    fn move_takes_two_rows_and_is_refused_without_its_origin() {
        let block = Block::new(BlockId(3), BlockType::Metadata, vec![1; 77]);
        let entry = TableRow::Move(block.header, Lsn(9));
        let mut table = Vec::new();
        table.extend(entry.rows().flatten());
        assert_eq!(table.len(), 2 * ENTRY_LEN);
        assert_eq!(TableRow::decode_whole_table(&table, &sample()), Some(vec![entry]));
        let header = FrameHeader { op_count: 1, ..sample() };
        assert_eq!(TableRow::decode_whole_table(&table[..ENTRY_LEN], &header), None);
        for at in [ENTRY_LEN, ENTRY_LEN + 16, ENTRY_LEN + 20, ENTRY_LEN + 31] {
            let mut damaged = table.clone();
            damaged[at] ^= 1;
            assert_eq!(TableRow::decode_whole_table(&damaged, &sample()), None, "byte {at}");
        }
    }

    #[test]
    fn next_frame_follows_at_eight_or_at_the_next_page() {
        let header = sample();
        assert_eq!(header.next_frame_offset(4096), 8192);
        assert_eq!(FrameHeader { group_end: false, ..header }.next_frame_offset(4096), 4096 + 208);
    }

    #[test]
    fn cut_round_trips() {
        let cut = Cut { sequence: 3, offset: 8192 };
        assert_eq!(Cut::decode(&cut.encode()), Some(cut));
        assert_eq!(Cut::decode(&cut.encode()[1..]), None);
    }
}
