//! Pages of a checkpoint: the bytes of the searchable image. Does no I/O.
//!
//! Every page has 4 KiB and this header:
//!
//! | offset | size | field    | meaning                                                         |
//! |-------:|-----:|----------|-----------------------------------------------------------------|
//! |      0 |    4 | `crc`    | of the file's seed, the page's number, bytes `4..4096`          |
//! |      4 |    2 | `count`  | entries in the page, at least 1                                 |
//! |      6 |    1 | `level`  | 0 for a leaf, else the height above the leaves                  |
//! |      7 |    1 | `id_len` | leaf: bytes of each id in the page; 0 where ids are consecutive |
//! |      8 |    8 | `first`  | leaf: its first id; else the page number of its first child     |
//!
//! Then a leaf has `count` ids as distances from `first` (`id_len` 4) or whole (`id_len` 8),
//! ascending, then as many records, in the same order:
//!
//! | offset | size | field              | meaning                                             |
//! |-------:|-----:|--------------------|-----------------------------------------------------|
//! |      0 |    8 | `lsn`              | the commit that made this version                   |
//! |      8 |    4 | `segment`          | sequence of the segment                             |
//! |     12 |    4 | `offset`           | of the payload                                      |
//! |     16 |    4 | `len`              | of the payload                                      |
//! |     20 |    4 | `checksum`         | of the payload                                      |
//! |     24 |    4 | `version`, `flags` | the user's own                                      |
//! |     28 |    1 | type               | permanent code; 0 for a deletion, zeros after `lsn` |
//! |     29 |    1 | codes              | low half: compression, high half: encryption        |
//!
//! Then a page above the leaves has the first id of each child. Its children have consecutive page
//! numbers. So a lookup reads one page a level and nothing is built in memory.

use crate::block::{BlockId, BlockType, Compression, Encryption, Lsn};
use crate::checksum;
use crate::io::PAGE_LEN;
use crate::local::format::le;
use crate::local::format::location::Location;
use crate::mvcc::index::Versioned;

const HEADER_LEN: usize = 16;
const RECORD_LEN: usize = 30;
/// Children of a page above the leaves.
pub(crate) const CHILDREN_MAX: usize = (PAGE_LEN - HEADER_LEN) / 8;
/// Records of a leaf whose ids are consecutive.
pub(crate) const DENSE_MAX: usize = leaf_capacity(0);

/// A version, or the mark of a deletion.
pub(crate) type Record = Versioned<Option<Location>>;

pub(crate) const fn leaf_capacity(id_len: usize) -> usize {
    (PAGE_LEN - HEADER_LEN) / (RECORD_LEN + id_len)
}

/// A page whose checksum and counts are right.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ImagePage<'a>(&'a [u8]);

impl<'a> ImagePage<'a> {
    /// Checks a page; `None` when it is not what was written for this place.
    pub(crate) fn check_page(bytes: &'a [u8], seed: u32, number: u64) -> Option<ImagePage<'a>> {
        let page = ImagePage(bytes);
        let right =
            bytes.len() == PAGE_LEN && le::u32(bytes, 0) == page_checksum(bytes, seed, number);
        let capacity = match (right, bytes[6], bytes[7]) {
            (true, 0, id_len @ (0 | 4 | 8)) => leaf_capacity(usize::from(id_len)),
            (true, 1.., _) => CHILDREN_MAX,
            _ => 0,
        };
        (1..=capacity).contains(&page.entry_count()).then_some(page)
    }

    /// A page that was checked before.
    pub(crate) fn from_checked(bytes: &'a [u8]) -> ImagePage<'a> {
        ImagePage(bytes)
    }

    pub(crate) fn entry_count(self) -> usize {
        usize::from(le::u16(self.0, 4))
    }

    pub(crate) fn level(self) -> u8 {
        self.0[6]
    }

    /// The page number of the child that may hold an id, if one does.
    pub(crate) fn child_page_of(self, id: BlockId) -> Option<u64> {
        let key = |at| le::u64(self.0, HEADER_LEN + at * 8);
        let after = partition_point(self.entry_count(), |at| key(at) <= id.0);
        (after > 0).then(|| le::u64(self.0, 8) + after as u64 - 1)
    }

    /// The index in a leaf of the first id at or behind `id`.
    pub(crate) fn seek_at_or_behind(self, id: BlockId) -> usize {
        match self.id_len() {
            0 => id.0.saturating_sub(self.first_word()).min(self.entry_count() as u64) as usize,
            _ => partition_point(self.entry_count(), |at| self.id_at(at) < id),
        }
    }

    /// The index in a leaf of the first id behind `id`.
    pub(crate) fn seek_behind(self, id: BlockId) -> usize {
        id.0.checked_add(1)
            .map_or(self.entry_count(), |behind| self.seek_at_or_behind(BlockId(behind)))
    }

    /// The id of a leaf's record.
    pub(crate) fn id_at(self, at: usize) -> BlockId {
        let start = HEADER_LEN + at * self.id_len();
        BlockId(match self.id_len() {
            0 => self.first_word().wrapping_add(at as u64),
            4 => self.first_word().wrapping_add(u64::from(le::u32(self.0, start))),
            _ => le::u64(self.0, start),
        })
    }

    /// The last id of a leaf.
    pub(crate) fn last_id(self) -> BlockId {
        self.id_at(self.entry_count() - 1)
    }

    /// A leaf's record; `None` when a code in it is unknown.
    pub(crate) fn record_at(self, at: usize) -> Option<Record> {
        let start = HEADER_LEN + self.entry_count() * self.id_len() + at * RECORD_LEN;
        let bytes = &self.0[start..start + RECORD_LEN];
        let lsn = Lsn(le::u64(bytes, 0));
        if bytes[28] == 0 {
            return Some(Record { lsn, value: None });
        }
        let location = Location {
            segment: le::u32(bytes, 8),
            offset: le::u32(bytes, 12),
            len: le::u32(bytes, 16),
            checksum: le::u32(bytes, 20),
            version: le::u16(bytes, 24),
            flags: le::u16(bytes, 26),
            block_type: BlockType::from_code(bytes[28])?,
            compression: Compression::from_code(bytes[29] & 15)?,
            encryption: Encryption::from_code(bytes[29] >> 4)?,
        };
        Some(Record { lsn, value: Some(location) })
    }

    fn first_word(self) -> u64 {
        le::u64(self.0, 8)
    }

    fn id_len(self) -> usize {
        usize::from(self.0[7])
    }
}

/// How many of `0..count` satisfy `holds`, which is true up to some place only.
fn partition_point(count: usize, holds: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = (low + high) / 2;
        if holds(middle) { low = middle + 1 } else { high = middle }
    }
    low
}

/// The shape of the next leaf: how many of these ascending entries it takes, and the bytes of each
/// id.
pub(crate) fn next_leaf_shape(entries: &[(BlockId, Record)]) -> (usize, u8) {
    let first = entries[0].0.0;
    let run = entries.iter().zip(first..=u64::MAX).take_while(|((id, _), next)| id.0 == *next);
    let run = run.take(DENSE_MAX).count();
    // A leaf of consecutive ids wastes the space that it leaves empty.
    if run == entries.len() || run >= leaf_capacity(4) {
        return (run, 0);
    }
    let near = entries.iter().take(leaf_capacity(4)).take_while(|(id, _)| id.0 - first < 1 << 32);
    match near.count() {
        near if near >= leaf_capacity(8).min(entries.len()) => (near, 4),
        _ => (entries.len().min(leaf_capacity(8)), 8),
    }
}

/// Encodes a leaf.
pub(crate) fn encode_leaf(
    entries: &[(BlockId, Record)],
    id_len: u8,
    seed: u32,
    number: u64,
) -> Vec<u8> {
    let first = entries[0].0.0;
    let mut out = start_page(entries.len(), 0, id_len, first);
    for (id, _) in entries {
        match id_len {
            0 => {}
            4 => out.extend_from_slice(&((id.0 - first) as u32).to_le_bytes()),
            _ => out.extend_from_slice(&id.0.to_le_bytes()),
        }
    }
    for (_, record) in entries {
        out.extend_from_slice(&record.lsn.0.to_le_bytes());
        let Some(location) = record.value else {
            out.extend_from_slice(&[0; RECORD_LEN - 8]);
            continue;
        };
        out.extend_from_slice(&location.segment.to_le_bytes());
        out.extend_from_slice(&location.offset.to_le_bytes());
        out.extend_from_slice(&location.len.to_le_bytes());
        out.extend_from_slice(&location.checksum.to_le_bytes());
        out.extend_from_slice(&location.version.to_le_bytes());
        out.extend_from_slice(&location.flags.to_le_bytes());
        let (compression, encryption) = (location.compression.code(), location.encryption.code());
        assert!(compression < 16 && encryption < 16, "codes fit in half a byte");
        out.extend_from_slice(&[location.block_type.code(), compression | encryption << 4]);
    }
    seal_page(out, seed, number)
}

/// Encodes a page above the leaves from the first ids of its children.
pub(crate) fn encode_inner_page(
    firsts: &[BlockId],
    level: u8,
    first_child: u64,
    seed: u32,
    number: u64,
) -> Vec<u8> {
    let mut out = start_page(firsts.len(), level, 0, first_child);
    out.extend(firsts.iter().flat_map(|id| id.0.to_le_bytes()));
    seal_page(out, seed, number)
}

fn start_page(count: usize, level: u8, id_len: u8, first: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(PAGE_LEN);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&(count as u16).to_le_bytes());
    out.extend_from_slice(&[level, id_len]);
    out.extend_from_slice(&first.to_le_bytes());
    out
}

fn seal_page(mut out: Vec<u8>, seed: u32, number: u64) -> Vec<u8> {
    assert!(out.len() <= PAGE_LEN, "a page takes no more than it has room for");
    out.resize(PAGE_LEN, 0);
    let crc = page_checksum(&out, seed, number);
    out[..4].copy_from_slice(&crc.to_le_bytes());
    out
}

fn page_checksum(page: &[u8], seed: u32, number: u64) -> u32 {
    checksum::crc32c_append(checksum::crc32c_append(seed, &number.to_le_bytes()), &page[4..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Block;

    fn record(n: u64) -> Record {
        let header = Block::new(BlockId(n), BlockType::Metadata, n.to_le_bytes().to_vec()).header;
        let value = (!n.is_multiple_of(7)).then(|| Location::new(&header, n + 1, n + 2));
        Record { lsn: Lsn(n), value }
    }

    fn entries(ids: impl Iterator<Item = u64>) -> Vec<(BlockId, Record)> {
        ids.map(|id| (BlockId(id), record(id % 1000))).collect()
    }

    #[test]
    fn leaves_of_every_shape_give_back_what_went_in() {
        let shapes = [
            (entries(5..500), DENSE_MAX, 0),
            (entries((0..500).map(|n| n * 3)), leaf_capacity(4), 4),
            (entries((0..500).map(|n| n << 40)), leaf_capacity(8), 8),
            (entries(u64::MAX - 9..=u64::MAX), 10, 0),
            (entries([1, u64::MAX].into_iter()), 2, 8),
            (entries((9..10).chain(20..25)), 6, 4),
        ];
        for (entries, count, id_len) in shapes {
            assert_eq!(next_leaf_shape(&entries), (count, id_len));
            let bytes = encode_leaf(&entries[..count], id_len, 7, 3);
            let page = ImagePage::check_page(&bytes, 7, 3).expect("as it was written");
            assert_eq!((page.entry_count(), page.level()), (count, 0));
            for (at, (id, record)) in entries[..count].iter().enumerate() {
                assert_eq!((page.id_at(at), page.record_at(at)), (*id, Some(*record)));
                assert_eq!((page.seek_at_or_behind(*id), page.seek_behind(*id)), (at, at + 1));
            }
            assert!(
                ImagePage::check_page(&bytes, 7, 4).is_none()
                    && ImagePage::check_page(&bytes, 8, 3).is_none()
            );
        }
    }

    #[test]
    fn child_is_the_last_one_that_begins_at_or_before_the_id() {
        let firsts: Vec<BlockId> = (0..CHILDREN_MAX as u64).map(|n| BlockId(10 + n * 5)).collect();
        let bytes = encode_inner_page(&firsts, 1, 42, 7, 3);
        let page = ImagePage::check_page(&bytes, 7, 3).expect("as it was written");
        assert_eq!(page.child_page_of(BlockId(9)), None);
        for (at, first) in firsts.iter().enumerate() {
            assert_eq!(page.child_page_of(*first), Some(42 + at as u64));
            assert_eq!(page.child_page_of(BlockId(first.0 + 4)), Some(42 + at as u64));
        }
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let bytes = encode_leaf(&entries(5..50), 0, 7, 3);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(ImagePage::check_page(&damaged, 7, 3).is_none(), "bit {bit}");
        }
    }
}
