//! A small record that is stored twice in its page, so that no damage to one sector loses it.
//!
//! | offset | size | field                                                     |
//! |-------:|-----:|-----------------------------------------------------------|
//! |      0 |    8 | magic                                                     |
//! |      8 |    4 | format version                                            |
//! |     12 |    4 | checksum of bytes `0..12`, then `16..64`                  |
//! |     16 |   48 | fields of the record                                      |
//! |   2048 |   64 | the same again                                            |

use crate::checksum;
use crate::io::PAGE_LEN;
use crate::local::format::FORMAT_VERSION;

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

pub(crate) fn encode_record(magic: [u8; 8], fields: &[u8; FIELDS_LEN]) -> Vec<u8> {
    let mut record = [0u8; RECORD_LEN];
    record[..8].copy_from_slice(&magic);
    record[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    record[16..].copy_from_slice(fields);
    let crc = record_checksum(&record);
    record[12..16].copy_from_slice(&crc.to_le_bytes());
    let mut page = vec![0; PAGE_LEN];
    for at in COPIES {
        page[at..at + RECORD_LEN].copy_from_slice(&record);
    }
    page
}

pub(crate) fn decode_record(magic: [u8; 8], page: &[u8]) -> Result<[u8; FIELDS_LEN], Unreadable> {
    let mut newer = [None; 2];
    for (at, newer) in COPIES.into_iter().zip(&mut newer) {
        let Some(record) = page.get(at..at + RECORD_LEN) else { continue };
        if record[..8] != magic {
            continue;
        }
        let version = u32::from_le_bytes([record[8], record[9], record[10], record[11]]);
        let crc = u32::from_le_bytes([record[12], record[13], record[14], record[15]]);
        let version_fits = version == FORMAT_VERSION;
        if version_fits && crc == record_checksum(record) {
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

fn record_checksum(record: &[u8]) -> u32 {
    checksum::crc32c_append(checksum::crc32c(&record[..12]), &record[16..RECORD_LEN])
}
