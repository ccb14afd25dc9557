//! The bytes of a store's files. Does no I/O.
//!
//! A store is one flat directory:
//!
//! | file            | layout                                                          |
//! |-----------------|-----------------------------------------------------------------|
//! | `META`          | one page, [`description`]: written once                         |
//! | `LOCK`          | empty                                                           |
//! | `SEG-<16 hex>`  | one page with the [`segment`] header, then groups of [`frame`]s |
//! | `CKPT-<16 hex>` | an image of the index, [`checkpoint`], of [`page`]s             |
//! | `TMP-<16 hex>`  | unfinished; removed at open                                     |
//!
//! A *group* is what one write puts into a segment. It starts on a page boundary, holds frames one
//! behind the other, and is padded with zeros to the next page: so a page that holds acknowledged
//! bytes is never written again. All integers are little-endian. All checksums are CRC-32C.

pub(crate) mod checkpoint;
pub(crate) mod description;
pub(crate) mod frame;
pub(crate) mod le;
pub(crate) mod location;
pub(crate) mod manifest;
pub(crate) mod mirrored;
pub(crate) mod page;
pub(crate) mod place;
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

#[cfg(test)]
mod tests {
    use super::mirrored::{self, Unreadable};

    const MAGIC: [u8; 8] = *b"TESTTEST";

    #[test]
    fn mirrored_record_survives_damage_anywhere_in_one_sector() {
        let fields = std::array::from_fn(|n| n as u8);
        let page = mirrored::encode_record(MAGIC, &fields);
        for sector in 0..page.len() / 512 {
            let mut damaged = page.clone();
            damaged[sector * 512..][..512].fill(0xFF);
            assert_eq!(mirrored::decode_record(MAGIC, &damaged), Ok(fields));
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
            let got =
                mirrored::decode_record(MAGIC, &damaged).expect_err("both copies are damaged");
            assert!(got == want || (at == 8 && got == Unreadable::Damaged), "byte {at}: {got:?}");
        }
        assert_eq!(mirrored::decode_record(MAGIC, &page[..100]), Ok(fields));
        assert_eq!(mirrored::decode_record(MAGIC, &page[..63]), Err(Unreadable::Damaged));
        assert_eq!(mirrored::decode_record(MAGIC, &[0; 4096]), Err(Unreadable::Damaged));
    }
}
