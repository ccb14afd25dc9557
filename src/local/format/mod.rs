//! The bytes of a store's files. Does no I/O.
//!
//! A store is one flat directory:
//!
//! | file            | layout                                                                      |
//! |-----------------|-----------------------------------------------------------------------------|
//! | `META`          | one page, [`description`]: written once                                     |
//! | `LOCK`          | empty                                                                       |
//! | `SEG-<16 hex>`  | one page with the [`segment`] header, then groups of [`frame`]s             |
//! | `CKPT-<16 hex>` | an image of the index, `local::checkpoint`                                 |
//! | `TMP-<16 hex>`  | unfinished; removed at open                                                 |
//!
//! A *group* is what one write puts into a segment. It starts on a page boundary, holds frames one
//! behind the other, and is padded with zeros to the next page: so a page that holds acknowledged
//! bytes is never written again. All integers are little-endian. All checksums are CRC-32C.

pub(crate) mod description;
pub(crate) mod frame;
pub(crate) mod segment;

use crate::io::PAGE_LEN;

/// The newest format version, and the only one so far.
pub(crate) const FORMAT_VERSION: u32 = 1;

/// [`PAGE_LEN`] as a file offset.
pub(crate) const PAGE: u64 = PAGE_LEN as u64;

/// Rounds up to a page boundary.
pub(crate) const fn page_up(offset: u64) -> u64 {
    offset.div_ceil(PAGE) * PAGE
}

/// A small record that stands twice in its page, so that no damage to one sector loses it.
///
/// | offset | size | field                                                     |
/// |-------:|-----:|-----------------------------------------------------------|
/// |      0 |    8 | magic                                                     |
/// |      8 |    4 | format version                                            |
/// |     12 |    4 | checksum of bytes `0..12`, then `16..64`                  |
/// |     16 |   48 | fields of the record                                      |
/// |   2048 |   64 | the same again                                            |
pub(crate) mod mirrored {
    use super::{FORMAT_VERSION, PAGE_LEN};
    use crate::checksum;

    const RECORD_LEN: usize = 64;
    pub(crate) const FIELDS_LEN: usize = 48;
    const COPIES: [usize; 2] = [0, PAGE_LEN / 2];

    /// Why no copy is usable.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum Unreadable {
        /// Both copies name the same newer version.
        Newer(u32),
        /// Both copies are damaged, or the page never held this record.
        Damaged,
    }

    pub(crate) fn encode(magic: [u8; 8], fields: &[u8; FIELDS_LEN]) -> Vec<u8> {
        let mut record = [0u8; RECORD_LEN];
        record[..8].copy_from_slice(&magic);
        record[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        record[16..].copy_from_slice(fields);
        let crc = checksum(&record);
        record[12..16].copy_from_slice(&crc.to_le_bytes());
        let mut page = vec![0; PAGE_LEN];
        for at in COPIES {
            page[at..at + RECORD_LEN].copy_from_slice(&record);
        }
        page
    }

    pub(crate) fn decode(magic: [u8; 8], page: &[u8]) -> Result<[u8; FIELDS_LEN], Unreadable> {
        let mut newer = [None; 2];
        for (at, newer) in COPIES.into_iter().zip(&mut newer) {
            let Some(record) = page.get(at..at + RECORD_LEN) else { continue };
            if record[..8] != magic {
                continue;
            }
            let version = u32::from_le_bytes([record[8], record[9], record[10], record[11]]);
            let crc = u32::from_le_bytes([record[12], record[13], record[14], record[15]]);
            let version_fits = version == FORMAT_VERSION;
            if version_fits && crc == checksum(record) {
                let mut fields = [0; FIELDS_LEN];
                fields.copy_from_slice(&record[16..]);
                return Ok(fields);
            }
            *newer = (version > FORMAT_VERSION).then_some(version);
        }
        match newer {
            [Some(first), Some(second)] if first == second => Err(Unreadable::Newer(first)),
            _ => Err(Unreadable::Damaged),
        }
    }

    fn checksum(record: &[u8]) -> u32 {
        checksum::crc32c_append(checksum::crc32c(&record[..12]), &record[16..RECORD_LEN])
    }
}

/// Reads little-endian integers at fixed offsets of a slice that was bounded before.
pub(crate) mod le {
    pub(crate) fn u16(bytes: &[u8], at: usize) -> u16 {
        u16::from_le_bytes([bytes[at], bytes[at + 1]])
    }

    pub(crate) fn u32(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
    }

    #[inline]
    pub(crate) fn u64(bytes: &[u8], at: usize) -> u64 {
        let mut out = [0; 8];
        out.copy_from_slice(&bytes[at..at + 8]);
        u64::from_le_bytes(out)
    }
}

#[cfg(test)]
mod tests {
    use super::mirrored::{self, Unreadable};

    const MAGIC: [u8; 8] = *b"TESTTEST";

    #[test]
    fn mirrored_record_survives_damage_anywhere_in_one_sector() {
        let fields = std::array::from_fn(|n| n as u8);
        let page = mirrored::encode(MAGIC, &fields);
        for sector in 0..page.len() / 512 {
            let mut damaged = page.clone();
            damaged[sector * 512..][..512].fill(0xFF);
            assert_eq!(mirrored::decode(MAGIC, &damaged), Ok(fields));
        }
        for at in 0..64 {
            let mut damaged = page.clone();
            damaged[at] ^= 1;
            damaged[2048 + at] ^= 1;
            let newer = (8..12).contains(&at);
            let want = if newer {
                Unreadable::Newer(1 ^ 1 << ((at - 8) * 8))
            } else {
                Unreadable::Damaged
            };
            let got = mirrored::decode(MAGIC, &damaged).expect_err("both copies are damaged");
            assert!(got == want || (at == 8 && got == Unreadable::Damaged), "byte {at}: {got:?}");
        }
        assert_eq!(mirrored::decode(MAGIC, &page[..100]), Ok(fields));
        assert_eq!(mirrored::decode(MAGIC, &page[..63]), Err(Unreadable::Damaged));
        assert_eq!(mirrored::decode(MAGIC, &[0; 4096]), Err(Unreadable::Damaged));
    }
}
