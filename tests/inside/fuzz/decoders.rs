//! Targets over single decoders. What a decoder accepts, the encoder writes again byte for byte: so
//! no two inputs mean the same, and nothing is accepted that this version does not write.

use crate::block::Block;
use crate::error::Error;
use crate::io::FileName;
use crate::local::format::description::Description;
use crate::local::format::frame::{
    CUT_LEN, Cut, ENTRY_LEN, FrameHeader, HEADER_LEN, Kind, TableRow,
};
use crate::local::format::mirrored::{FIELDS_LEN, Unreadable};
use crate::local::format::segment::SegmentHeader;
use crate::local::format::{FORMAT_VERSION, PAGE, le};

/// Bytes of a mirrored record.
pub(super) const RECORD_LEN: usize = 16 + FIELDS_LEN;
/// The second copy of a mirrored record.
pub(super) const COPY_AT: usize = 2048;
/// Seed and offset before the header in inputs of [`frame_header`].
pub(super) const FRAME_AT: usize = 12;

pub(super) fn block(data: &[u8]) -> bool {
    match Block::from_bytes(data) {
        Ok(block) => {
            assert!(block.verify_checksum(), "a block that does not match its own checksum");
            assert_eq!(block.to_bytes().expect("an accepted block encodes"), data);
            true
        }
        Err(Error::Corrupt { .. }) => false,
        Err(other) => panic!("a malformed block is reported as {other:?}"),
    }
}

pub(super) fn description(data: &[u8]) -> bool {
    let decoded = Description::decode(data);
    check_mirrored(data, decoded.map(|description| description.encode()))
}

pub(super) fn segment_header(data: &[u8]) -> bool {
    let decoded = SegmentHeader::decode(data);
    check_mirrored(data, decoded.map(|header| header.encode()))
}

fn check_mirrored(data: &[u8], encoded: Result<Vec<u8>, Unreadable>) -> bool {
    match encoded {
        Ok(page) => {
            let record = &page[..RECORD_LEN];
            let stands_at = |at: usize| data.get(at..at + RECORD_LEN) == Some(record);
            assert!(stands_at(0) || stands_at(COPY_AT), "a record that stands nowhere");
            true
        }
        Err(Unreadable::Newer(version)) => {
            assert!(version > FORMAT_VERSION, "version {version} is not newer");
            false
        }
        Err(Unreadable::Damaged) => false,
    }
}

/// Input: seed, offset, header.
pub(super) fn frame_header(data: &[u8]) -> bool {
    let Some((place, header)) = data.split_at_checked(FRAME_AT) else { return false };
    // A frame stands inside a file, behind the segment's header.
    let (seed, offset) = (le::u32(place, 0), le::u64(place, 4) % (1 << 40));
    let Some((decoded, crc)) = FrameHeader::decode(header, seed, offset) else { return false };
    assert_eq!(decoded.encode(seed, offset), (header[..HEADER_LEN].try_into().expect("64"), crc));
    let frame_len = u64::from(decoded.frame_len);
    let next = decoded.next_frame_offset(offset);
    assert!(next >= offset + frame_len && next < offset + frame_len + PAGE, "{next}");
    let body_len = decoded.table_len() as u64 + decoded.payload_len;
    assert_eq!(frame_len, HEADER_LEN as u64 + body_len);
    true
}

/// Input: any number of entries.
pub(super) fn op_table(data: &[u8]) -> bool {
    let Some(entries) = TableRow::decode_all_rows(data) else { return false };
    let mut again = Vec::new();
    entries.iter().for_each(|entry| again.extend(entry.rows().flatten()));
    assert_eq!(again, data, "a table that is written otherwise");
    let header = FrameHeader {
        op_count: (data.len() / ENTRY_LEN) as u32,
        payload_len: entries.iter().map(|entry| u64::from(entry.payload_len())).sum(),
        ..FrameHeader::control_record(Kind::Commit, Default::default(), Default::default(), 0)
    };
    assert_eq!(TableRow::decode_whole_table(data, &header), Some(entries));
    let longer = FrameHeader { payload_len: header.payload_len + 1, ..header };
    assert_eq!(TableRow::decode_whole_table(data, &longer), None);
    true
}

pub(super) fn cut(data: &[u8]) -> bool {
    let Some(cut) = Cut::decode(data) else {
        assert!(data.len() < CUT_LEN, "a cut of {} bytes is refused", data.len());
        return false;
    };
    assert_eq!(cut.encode(), data[..CUT_LEN]);
    true
}

pub(super) fn file_name(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let Some(name) = FileName::parse(text) else { return false };
    assert_eq!(name.to_string(), text);
    true
}
