//! Locations: the place of a block in the log, with what its header says.

use crate::block::{BlockHeader, BlockId, BlockType, Compression, Encryption};
use crate::mvcc::version::VersionLen;

/// Where a block's payload lies, and what its header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// Sequence of the segment.
    pub(crate) segment: u32,
    pub(crate) offset: u32,
    pub(crate) len: u32,
    pub(crate) checksum: u32,
    pub(crate) version: u16,
    pub(crate) flags: u16,
    pub(crate) block_type: BlockType,
    pub(crate) compression: Compression,
    pub(crate) encryption: Encryption,
}

impl Location {
    pub(crate) fn new(header: &BlockHeader, segment: u64, offset: u64) -> Location {
        Location {
            segment: u32::try_from(segment).expect("a store makes fewer than 2^32 segments"),
            offset: u32::try_from(offset).expect("a segment is shorter than 4 GiB"),
            len: header.data_size,
            checksum: header.checksum,
            version: header.version,
            flags: header.flags,
            block_type: header.block_type,
            compression: header.compression,
            encryption: header.encryption,
        }
    }

    pub(crate) fn block_header(&self, id: BlockId) -> BlockHeader {
        BlockHeader {
            block_id: id,
            block_type: self.block_type,
            compression: self.compression,
            encryption: self.encryption,
            data_size: self.len,
            // No codec is there yet: the stored bytes are the plain ones.
            uncompressed_size: self.len,
            checksum: self.checksum,
            version: self.version,
            flags: self.flags,
        }
    }
}

impl VersionLen for Location {
    fn payload_len(&self) -> u64 {
        u64::from(self.len)
    }

    fn place(&self) -> u64 {
        u64::from(self.segment) << 32 | u64::from(self.offset)
    }
}
