//! A checkpoint's header and segment table. Does no I/O.
//!
//! The header fills the first page of the file and stands once more in the last one:
//!
//! | offset | size | field           | meaning                                              |
//! |-------:|-----:|-----------------|------------------------------------------------------|
//! |      0 |    8 | magic           |                                                      |
//! |      8 |    4 | format version  |                                                      |
//! |     12 |    4 | checksum        | of bytes `0..12`, then `16..4096`                    |
//! |     16 |   16 | `store_id`      | of the store it belongs to                           |
//! |     32 |    8 | `number`        | in the file's name                                   |
//! |     40 |    8 | `salt`          | random for each image: seed of its pages' checksums  |
//! |     48 |    8 | `lsn`           | newest commit in it                                  |
//! |     56 |   16 | `position`      | sequence and offset where the log continues after it |
//! |     72 |    4 | `chain`         | checksum of the last frame before that place         |
//! |     76 |    4 | `below_count`   | images that this one builds on                       |
//! |     80 |    8 | `id_max`        | highest id that a commit up to `lsn` ever named      |
//! |     88 |   16 | `total_blocks`, `total_bytes` | at `lsn`                               |
//! |    104 |    8 | `entry_count`   | records in the leaves                                |
//! |    112 |    8 | `leaf_count`    | leaves; they are pages `1..=leaf_count`              |
//! |    120 |    8 | `root`          | page where a lookup starts; 0 without records        |
//! |    128 |    8 | `page_count`    | of the file                                          |
//! |    136 |    8 | `table_page`    | first page of the segment table                      |
//! |    144 |    8 | `segment_count` | rows of the table                                    |
//! |    152 |    4 | `table_crc`     | of those rows                                        |
//! |    156 |    4 | zero            | not looked at                                        |
//! |    160 | 16 n | below           | number and salt of each image below, newest first    |
//!
//! A row of the segment table has `sequence`, file `number`, bytes used, payload bytes and count of
//! its live blocks: five times 8 bytes. Segments that it does not list and that come before
//! `position` are not part of the store any more.

use crate::block::Lsn;
use crate::checksum;
use crate::io::PAGE_LEN;
use crate::local::format::description::Description;
use crate::local::format::frame::CUT_LEN;
use crate::local::format::{FORMAT_VERSION, le};

const MAGIC: [u8; 8] = *b"AEGISCKP";
const BELOW_AT: usize = 160;
/// Images that one may build on. As many as fit in the header would be slow to search.
pub(crate) const BELOW_MAX: usize = 15;
/// Bytes of a row of the segment table.
pub(crate) const ROW_LEN: usize = 40;

const _: () = assert!(BELOW_AT + BELOW_MAX * 16 <= PAGE_LEN);

/// Names an image for ever: a later file of the same name has another salt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ImageName {
    pub(crate) number: u64,
    pub(crate) salt: u64,
}

impl ImageName {
    /// The body of the frame that confirms the image's name as durable.
    pub(crate) fn encode(&self) -> [u8; CUT_LEN] {
        let mut out = [0; CUT_LEN];
        out[..8].copy_from_slice(&self.number.to_le_bytes());
        out[8..].copy_from_slice(&self.salt.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<ImageName> {
        let bytes = bytes.get(..CUT_LEN)?;
        Some(ImageName { number: le::u64(bytes, 0), salt: le::u64(bytes, 8) })
    }
}

/// A place in the log, and the link of the frame chain there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogPosition {
    pub(crate) sequence: u64,
    pub(crate) offset: u64,
    pub(crate) chain: u32,
}

/// The state of a store as of one commit, without its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) lsn: Lsn,
    pub(crate) position: LogPosition,
    pub(crate) id_max: u64,
    pub(crate) total_blocks: u64,
    pub(crate) total_bytes: u64,
}

/// Where the parts of the file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ImageLayout {
    pub(crate) entry_count: u64,
    pub(crate) leaf_count: u64,
    pub(crate) root: u64,
    pub(crate) page_count: u64,
    pub(crate) table_page: u64,
    pub(crate) segment_count: u64,
    pub(crate) table_crc: u32,
}

/// The header of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) store_id: [u8; 16],
    pub(crate) name: ImageName,
    pub(crate) summary: Summary,
    pub(crate) layout: ImageLayout,
    pub(crate) below: Vec<ImageName>,
}

impl Header {
    /// The seed of the checksums of this image's pages.
    pub(crate) fn image_page_seed(&self, store: &Description) -> u32 {
        seed_of_image_pages(store, self.name)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let (summary, layout) = (&self.summary, &self.layout);
        let mut out = Vec::with_capacity(PAGE_LEN);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.store_id);
        let position = &summary.position;
        let words =
            [self.name.number, self.name.salt, summary.lsn.0, position.sequence, position.offset];
        append_words(&mut out, &words);
        out.extend_from_slice(&position.chain.to_le_bytes());
        out.extend_from_slice(&(self.below.len() as u32).to_le_bytes());
        append_words(&mut out, &[summary.id_max, summary.total_blocks, summary.total_bytes]);
        append_words(
            &mut out,
            &[layout.entry_count, layout.leaf_count, layout.root, layout.page_count],
        );
        append_words(
            &mut out,
            &[layout.table_page, layout.segment_count, u64::from(layout.table_crc)],
        );
        assert!(out.len() == BELOW_AT && self.below.len() <= BELOW_MAX);
        for below in &self.below {
            append_words(&mut out, &[below.number, below.salt]);
        }
        out.resize(PAGE_LEN, 0);
        let crc = header_checksum(&out);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a header back; `None` for anything that [`Header::encode`] did not write.
    pub(crate) fn decode(page: &[u8]) -> Option<Header> {
        if page.len() != PAGE_LEN
            || page[..8] != MAGIC
            || le::u32(page, 12) != header_checksum(page)
        {
            return None;
        }
        let below_count = le::u32(page, 76) as usize;
        if le::u32(page, 8) != FORMAT_VERSION || below_count > BELOW_MAX {
            return None;
        }
        let mut store_id = [0; 16];
        store_id.copy_from_slice(&page[16..32]);
        let position = LogPosition {
            sequence: le::u64(page, 56),
            offset: le::u64(page, 64),
            chain: le::u32(page, 72),
        };
        let summary = Summary {
            lsn: Lsn(le::u64(page, 48)),
            position,
            id_max: le::u64(page, 80),
            total_blocks: le::u64(page, 88),
            total_bytes: le::u64(page, 96),
        };
        let layout = ImageLayout {
            entry_count: le::u64(page, 104),
            leaf_count: le::u64(page, 112),
            root: le::u64(page, 120),
            page_count: le::u64(page, 128),
            table_page: le::u64(page, 136),
            segment_count: le::u64(page, 144),
            table_crc: le::u32(page, 152),
        };
        let name = |at| ImageName { number: le::u64(page, at), salt: le::u64(page, at + 8) };
        let below = (0..below_count).map(|n| name(BELOW_AT + n * 16)).collect();
        let header = Header { store_id, name: name(32), summary, layout, below };
        header.layout.is_consistent().then_some(header)
    }

    /// The version of a header that a later version of this library wrote.
    pub(crate) fn newer_version(page: &[u8]) -> Option<u32> {
        let right = page.len() == PAGE_LEN && page[..8] == MAGIC;
        let version = right.then(|| le::u32(page, 8)).filter(|v| *v > FORMAT_VERSION)?;
        (le::u32(page, 12) == header_checksum(page)).then_some(version)
    }
}

impl ImageLayout {
    /// Whether all parts lie in the file, one behind the other.
    fn is_consistent(&self) -> bool {
        let table_len = self.segment_count.checked_mul(ROW_LEN as u64);
        let table_pages = table_len.map(|len| len.div_ceil(PAGE_LEN as u64));
        let end = table_pages.and_then(|pages| self.table_page.checked_add(pages)?.checked_add(1));
        end == Some(self.page_count)
            && self.page_count.checked_mul(PAGE_LEN as u64).is_some()
            && self.leaf_count < self.table_page
            && self.root < self.table_page
            && (self.root == 0) == (self.leaf_count == 0)
            && (self.leaf_count == 0) == (self.entry_count == 0)
    }
}

/// The seed of the checksums of an image's pages: binds them to the store and to the image.
pub(crate) fn seed_of_image_pages(store: &Description, name: ImageName) -> u32 {
    let seed = checksum::crc32c(&store.salt.to_le_bytes());
    let seed = checksum::crc32c_append(seed, &store.store_id);
    let seed = checksum::crc32c_append(seed, &name.number.to_le_bytes());
    checksum::crc32c_append(seed, &name.salt.to_le_bytes())
}

/// Encodes the segment table.
pub(crate) fn encode_segment_table(segments: &[SegmentUse]) -> Vec<u8> {
    let mut out = Vec::with_capacity(segments.len() * ROW_LEN);
    for segment in segments {
        let words = [
            segment.sequence,
            segment.number,
            segment.used_len,
            segment.live_len,
            segment.live_count,
        ];
        append_words(&mut out, &words);
    }
    out
}

/// Reads the segment table back; `None` where it is not what was written.
pub(crate) fn decode_segment_table(rows: &[u8], layout: &ImageLayout) -> Option<Vec<SegmentUse>> {
    let right = rows.len() as u64 == layout.segment_count * ROW_LEN as u64
        && checksum::crc32c(rows) == layout.table_crc;
    let row = |row: &[u8]| SegmentUse {
        sequence: le::u64(row, 0),
        number: le::u64(row, 8),
        used_len: le::u64(row, 16),
        live_len: le::u64(row, 24),
        live_count: le::u64(row, 32),
    };
    right.then(|| rows.chunks(ROW_LEN).map(row).collect())
}

fn append_words(out: &mut Vec<u8>, words: &[u64]) {
    out.extend(words.iter().flat_map(|word| word.to_le_bytes()));
}

fn header_checksum(page: &[u8]) -> u32 {
    checksum::crc32c_append(checksum::crc32c(&page[..12]), &page[16..])
}

/// How much of a segment is used and live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct SegmentUse {
    /// Its place in log order.
    pub(crate) sequence: u64,
    /// The number in its file name.
    pub(crate) number: u64,
    /// Bytes up to the end of its last frame; of the active segment, those known so far.
    pub(crate) used_len: u64,
    /// Payload bytes of its live blocks.
    pub(crate) live_len: u64,
    /// Count of its live blocks.
    pub(crate) live_count: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Header {
        Header {
            store_id: [7; 16],
            name: ImageName { number: 9, salt: 10 },
            summary: Summary {
                lsn: Lsn(11),
                position: LogPosition { sequence: 12, offset: 8192, chain: 13 },
                id_max: 14,
                total_blocks: 15,
                total_bytes: 16,
            },
            layout: ImageLayout {
                entry_count: 17,
                leaf_count: 1,
                root: 1,
                page_count: 4,
                table_page: 2,
                segment_count: 2,
                table_crc: 18,
            },
            below: vec![ImageName { number: 5, salt: 6 }, ImageName { number: 3, salt: 4 }],
        }
    }

    #[test]
    fn header_round_trips_and_every_flipped_bit_is_found() {
        let page = sample().encode();
        assert_eq!(Header::decode(&page), Some(sample()));
        for bit in 0..page.len() * 8 {
            let mut damaged = page.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&damaged), None, "bit {bit}");
        }
    }

    #[test]
    fn header_whose_numbers_disagree_is_refused() {
        let layout = sample().layout;
        let lies = [
            ImageLayout { page_count: 5, ..layout },
            ImageLayout { segment_count: u64::MAX, ..layout },
            ImageLayout { leaf_count: 2, ..layout },
            ImageLayout { root: 2, ..layout },
            ImageLayout { root: 0, ..layout },
            ImageLayout { entry_count: 0, ..layout },
            ImageLayout { table_page: u64::MAX, page_count: 1, ..layout },
        ];
        for lie in lies {
            let page = Header { layout: lie, ..sample() }.encode();
            assert_eq!(Header::decode(&page), None, "{lie:?}");
        }
    }

    #[test]
    fn table_round_trips_and_damage_is_found() {
        let segment = |n| SegmentUse {
            sequence: n,
            number: n + 1,
            used_len: n + 2,
            live_len: n + 3,
            live_count: n + 4,
        };
        let rows: Vec<SegmentUse> = (1..200).map(segment).collect();
        let mut bytes = encode_segment_table(&rows);
        let layout = ImageLayout {
            segment_count: 199,
            table_crc: checksum::crc32c(&bytes),
            ..ImageLayout::default()
        };
        assert_eq!(decode_segment_table(&bytes, &layout), Some(rows));
        assert_eq!(decode_segment_table(&bytes[1..], &layout), None);
        bytes[77] ^= 1;
        assert_eq!(decode_segment_table(&bytes, &layout), None);
    }
}
