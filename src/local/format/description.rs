//! `META`: the store's fixed description, written once when the store is made.
//!
//! Fields of the mirrored record:
//!
//! | offset | size | field      | meaning                                                      |
//! |-------:|-----:|------------|--------------------------------------------------------------|
//! |      0 |   16 | `store_id` | random; stands in every segment header                       |
//! |     16 |    8 | `salt`     | random; seeds every frame checksum, so that bytes inside a    |
//! |        |      |            | user's value cannot pose as a frame                          |
//! |     24 |   24 | zero       | refused otherwise                                            |

use crate::local::format::{le, mirrored};

const MAGIC: [u8; 8] = *b"AEGISBLK";

/// The content of `META`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Description {
    pub(crate) store_id: [u8; 16],
    pub(crate) salt: u64,
}

impl Description {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut fields = [0; mirrored::FIELDS_LEN];
        fields[..16].copy_from_slice(&self.store_id);
        fields[16..24].copy_from_slice(&self.salt.to_le_bytes());
        mirrored::encode_record(MAGIC, &fields)
    }

    pub(crate) fn decode(page: &[u8]) -> Result<Description, mirrored::Unreadable> {
        let fields = mirrored::decode_record(MAGIC, page)?;
        if fields[24..] != [0; 24] {
            return Err(mirrored::Unreadable::Damaged);
        }
        let mut store_id = [0; 16];
        store_id.copy_from_slice(&fields[..16]);
        Ok(Description { store_id, salt: le::u64(&fields, 16) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let description = Description { store_id: [7; 16], salt: 0x0102_0304_0506_0708 };
        assert_eq!(Description::decode(&description.encode()), Ok(description));
    }
}
