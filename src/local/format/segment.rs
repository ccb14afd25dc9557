//! Segment headers: the first page of a segment file.
//!
//! Fields of the mirrored record:
//!
//! | offset | size | field      | meaning                                                      |
//! |-------:|-----:|------------|--------------------------------------------------------------|
//! |      0 |   16 | `store_id` | of the store it belongs to                                   |
//! |     16 |    8 | `sequence` | place in log order, from 1, never used twice                 |
//! |     24 |    8 | `salt`     | random for each use of a file, so that frames of an earlier   |
//! |        |      |            | use never validate                                           |
//! |     32 |   16 | zero       | refused otherwise                                            |
//!
//! The header is durable before the file gets its `SEG-` name. So a segment file without a valid
//! header is damaged, never unfinished.

use crate::checksum;
use crate::local::format::description::Description;
use crate::local::format::{le, mirrored};

const MAGIC: [u8; 8] = *b"AEGISSEG";

/// The highest sequence: 2^32 segments hold more than any disk.
pub(crate) const SEQUENCE_MAX: u64 = u32::MAX as u64;
/// No segment is longer: offsets and lengths in a frame are 32 bits.
pub(crate) const LEN_MAX: u64 = 1 << 32;

/// The content of a segment's first page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) store_id: [u8; 16],
    pub(crate) sequence: u64,
    pub(crate) salt: u64,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut fields = [0; mirrored::FIELDS_LEN];
        fields[..16].copy_from_slice(&self.store_id);
        fields[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        fields[24..32].copy_from_slice(&self.salt.to_le_bytes());
        mirrored::encode_record(MAGIC, &fields)
    }

    pub(crate) fn decode(page: &[u8]) -> Result<SegmentHeader, mirrored::Unreadable> {
        let fields = mirrored::decode_record(MAGIC, page)?;
        if fields[32..] != [0; 16] {
            return Err(mirrored::Unreadable::Damaged);
        }
        let mut store_id = [0; 16];
        store_id.copy_from_slice(&fields[..16]);
        let (sequence, salt) = (le::u64(&fields, 16), le::u64(&fields, 24));
        Ok(SegmentHeader { store_id, sequence, salt })
    }

    /// The seed of every frame checksum in this segment. It binds frames to the store, the sequence
    /// and the use of the file.
    pub(crate) fn frame_seed(&self, store: &Description) -> u32 {
        let seed = checksum::crc32c(&store.salt.to_le_bytes());
        let seed = checksum::crc32c_append(seed, &store.store_id);
        let seed = checksum::crc32c_append(seed, &self.salt.to_le_bytes());
        checksum::crc32c_append(seed, &self.sequence.to_le_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let header = SegmentHeader { store_id: [7; 16], sequence: 9, salt: 0x0102_0304_0506_0708 };
        assert_eq!(SegmentHeader::decode(&header.encode()), Ok(header));
    }

    #[test]
    fn seed_differs_with_store_sequence_and_use() {
        let store = Description { store_id: [7; 16], salt: 1 };
        let header = SegmentHeader { store_id: [7; 16], sequence: 9, salt: 2 };
        let seed = header.frame_seed(&store);
        assert_ne!(seed, header.frame_seed(&Description { salt: 3, ..store }));
        assert_ne!(seed, SegmentHeader { sequence: 8, ..header }.frame_seed(&store));
        assert_ne!(seed, SegmentHeader { salt: 8, ..header }.frame_seed(&store));
    }
}
