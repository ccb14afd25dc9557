//! Blocks: the user's unit, an opaque payload under a `u64` id, with a small typed header.
//!
//! Owns the ids ([`BlockId`], [`TransactionId`], [`Lsn`]), [`Block`], [`BlockHeader`] and the
//! stand-alone encoding of a block. The log does not use that encoding: it has its own operation
//! table (`local::format`). A serialised block is:
//!
//! | offset | size  | field               | meaning                                           |
//! |-------:|------:|---------------------|---------------------------------------------------|
//! |      0 |     4 | magic               | `AGBK`                                            |
//! |      4 |     2 | encoding version    | 1                                                 |
//! |      6 |     1 | `block_type`        | [`BlockType`]; values are permanent               |
//! |      7 |     1 | `compression`       | [`Compression`]; values are permanent             |
//! |      8 |     8 | `block_id`          |                                                   |
//! |     16 |     4 | `data_size`         | payload bytes that follow the header              |
//! |     20 |     4 | `uncompressed_size` | payload bytes as the user sees them               |
//! |     24 |     4 | `checksum`          | CRC-32C of the payload                            |
//! |     28 |     2 | `version`           | the user's own                                    |
//! |     30 |     2 | `flags`             | the user's own                                    |
//! |     32 |     1 | `encryption`        | [`Encryption`]; values are permanent              |
//! |     33 |     3 | zero                | written as 0, refused otherwise                   |
//! |     36 |     4 | header checksum     | CRC-32C of bytes `0..36`                          |
//! |     40 |     n | payload             |                                                   |
//!
//! Integers are little-endian. An unknown type, compression or encryption is an error, never a
//! default.

use bytes::{BufMut, Bytes, BytesMut};

use crate::checksum;
use crate::error::{Defect, Error, Place, Result};

/// Names a block. `BlockId(0)` never names one: on a write it asks the store to allocate an id.
///
/// Ids are allocated one after the other, above the highest that a commit has named. An id that a
/// caller names changes nothing before it is committed. Once `u64::MAX` is, ids come from below:
/// from where allocation was, or, in a later session, from above the highest block below the top.
/// There the id of a deleted block may come again, which it never does otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BlockId(pub u64);

/// Names a transaction of one open store. Ids are never reused while the store is open and mean
/// nothing after it is opened again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionId(pub u64);

/// The place of a commit in the total order of commits. The first commit of a store is `Lsn(1)`;
/// `Lsn(0)` is the empty store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

macro_rules! display_number {
    ($($ty:ident),+) => {$(
        impl std::fmt::Display for $ty {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    )+};
}
display_number!(BlockId, TransactionId, Lsn);

macro_rules! coded_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $code:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[non_exhaustive]
        pub enum $name { $($(#[$vdoc])* $variant = $code,)+ }

        impl $name {
            /// The permanent code on disk.
            pub const fn code(self) -> u8 {
                self as u8
            }

            /// Returns the variant of a code, or `None` for a code that this version does not know.
            pub const fn from_code(code: u8) -> Option<$name> {
                match code { $($code => Some($name::$variant),)+ _ => None }
            }
        }
    };
}

coded_enum! {
    /// The kind of the payload. The store does not interpret it; codes are permanent.
    BlockType {
        /// Rows of a table.
        TableData = 1,
        /// Samples of a time series.
        TimeSeriesData = 2,
        /// Documents.
        DocumentData = 3,
        /// Nodes of an index.
        IndexData = 4,
        /// An entry of the user's own log.
        LogEntry = 5,
        /// Anything that describes other blocks.
        Metadata = 6,
    }
}

coded_enum! {
    /// How the stored payload is compressed. Codes are permanent.
    Compression {
        /// Stored as given.
        None = 0,
    }
}

coded_enum! {
    /// How the stored payload is encrypted. Codes are permanent.
    Encryption {
        /// Stored as given.
        None = 0,
    }
}

/// Describes a block's payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockHeader {
    /// The block's id; 0 before one is allocated.
    pub block_id: BlockId,
    /// The kind of the payload.
    pub block_type: BlockType,
    /// How the payload is compressed.
    pub compression: Compression,
    /// How the payload is encrypted.
    pub encryption: Encryption,
    /// Length of `data` in bytes.
    pub data_size: u32,
    /// Length of the payload in bytes after decompression.
    pub uncompressed_size: u32,
    /// CRC-32C of `data`.
    pub checksum: u32,
    /// The user's own version number, stored and returned as given.
    pub version: u16,
    /// The user's own flags, stored and returned as given.
    pub flags: u16,
}

impl BlockHeader {
    /// Whether both lengths agree, as they do without compression.
    pub(crate) fn lengths_agree(&self) -> bool {
        self.compression != Compression::None || self.uncompressed_size == self.data_size
    }
}

/// A header and its payload.
///
/// # Examples
/// ```
/// use aegis_blocks::{Block, BlockId, BlockType};
/// let block = Block::new(BlockId(7), BlockType::TableData, "seven");
/// assert_eq!(block.header.data_size, 5);
/// assert!(block.verify_checksum());
/// # Ok::<(), aegis_blocks::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Describes the payload.
    pub header: BlockHeader,
    /// The payload; cloning it shares the bytes.
    pub data: Bytes,
}

const MAGIC: [u8; 4] = *b"AGBK";
const ENCODING_VERSION: u16 = 1;
const HEADER_LEN: usize = 40;
const CHECKED_LEN: usize = 36;

impl Block {
    /// Makes a block and computes its checksum. Pass `BlockId(0)` to have the store allocate an id.
    ///
    /// # Panics
    /// If the payload is longer than `u32::MAX` bytes, which no store accepts.
    pub fn new(id: BlockId, ty: BlockType, data: impl Into<Bytes>) -> Block {
        let data = data.into();
        assert!(u32::try_from(data.len()).is_ok(), "a payload holds at most u32::MAX bytes");
        let data_size = data.len() as u32;
        Block {
            header: BlockHeader {
                block_id: id,
                block_type: ty,
                compression: Compression::None,
                encryption: Encryption::None,
                data_size,
                uncompressed_size: data_size,
                checksum: checksum::crc32c(&data),
                version: 0,
                flags: 0,
            },
            data,
        }
    }

    /// Makes a block without payload.
    pub fn empty(id: BlockId, ty: BlockType) -> Block {
        Block::new(id, ty, Bytes::new())
    }

    /// Returns whether the header's length and checksum match the payload.
    pub fn verify_checksum(&self) -> bool {
        self.header.data_size as usize == self.data.len()
            && self.header.checksum == checksum::crc32c_cold(&self.data)
    }

    /// Returns the length in bytes of the block when serialised.
    pub fn size(&self) -> usize {
        HEADER_LEN + self.data.len()
    }

    /// Serialises the block on its own, for transport outside a store.
    ///
    /// # Errors
    /// - [`Error::InvalidArgument`]: the header does not match the payload (it was changed after
    ///   [`Block::new`]).
    ///
    /// # Examples
    /// ```
    /// use aegis_blocks::{Block, BlockId, BlockType};
    /// let block = Block::new(BlockId(7), BlockType::Metadata, vec![1, 2, 3]);
    /// assert_eq!(Block::from_bytes(&block.to_bytes()?)?, block);
    /// # Ok::<(), aegis_blocks::Error>(())
    /// ```
    pub fn to_bytes(&self) -> Result<Bytes> {
        self.check_header()?;
        let h = &self.header;
        let mut out = BytesMut::with_capacity(self.size());
        out.put_slice(&MAGIC);
        out.put_u16_le(ENCODING_VERSION);
        out.put_u8(h.block_type.code());
        out.put_u8(h.compression.code());
        out.put_u64_le(h.block_id.0);
        out.put_u32_le(h.data_size);
        out.put_u32_le(h.uncompressed_size);
        out.put_u32_le(h.checksum);
        out.put_u16_le(h.version);
        out.put_u16_le(h.flags);
        out.put_u8(h.encryption.code());
        out.put_bytes(0, 3);
        let header_crc = checksum::crc32c(&out[..CHECKED_LEN]);
        out.put_u32_le(header_crc);
        out.put_slice(&self.data);
        Ok(out.freeze())
    }

    /// Reads a block that [`Block::to_bytes`] wrote. The payload is copied.
    ///
    /// # Errors
    /// - [`Error::Corrupt`]: the bytes are cut, longer than the block, damaged, or of a kind that
    ///   this version does not know.
    pub fn from_bytes(data: &[u8]) -> Result<Block> {
        let header = decode_header(data)?;
        let payload = &data[HEADER_LEN..];
        if payload.len() != header.data_size as usize {
            return Err(malformed(HEADER_LEN, Defect::Truncated));
        }
        let block = Block { header, data: Bytes::copy_from_slice(payload) };
        if !block.verify_checksum() {
            return Err(malformed(HEADER_LEN, Defect::PayloadChecksum));
        }
        Ok(block)
    }

    /// Refuses a block whose header was changed so that it no longer describes the payload.
    pub(crate) fn check_header(&self) -> Result<()> {
        let refuse = |reason| Err(Error::InvalidArgument { argument: "block", reason });
        if !self.verify_checksum() {
            return refuse("the header's length or checksum does not match the payload");
        }
        if !self.header.lengths_agree() {
            return refuse("uncompressed_size differs from data_size without compression");
        }
        Ok(())
    }
}

fn decode_header(data: &[u8]) -> Result<BlockHeader> {
    if data.len() < HEADER_LEN {
        return Err(malformed(data.len(), Defect::Truncated));
    }
    let word16 = |at: usize| u16::from_le_bytes([data[at], data[at + 1]]);
    let word32 =
        |at: usize| u32::from_le_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]]);
    let known = data[..4] == MAGIC
        && word16(4) == ENCODING_VERSION
        && data[33..CHECKED_LEN] == [0, 0, 0]
        && word32(CHECKED_LEN) == checksum::crc32c(&data[..CHECKED_LEN]);
    if !known {
        return Err(malformed(0, Defect::BlockEncoding));
    }
    let unknown = || malformed(0, Defect::BlockEncoding);
    let header = BlockHeader {
        block_id: BlockId(u64::from(word32(8)) | u64::from(word32(12)) << 32),
        block_type: BlockType::from_code(data[6]).ok_or_else(unknown)?,
        compression: Compression::from_code(data[7]).ok_or_else(unknown)?,
        encryption: Encryption::from_code(data[32]).ok_or_else(unknown)?,
        data_size: word32(16),
        uncompressed_size: word32(20),
        checksum: word32(24),
        version: word16(28),
        flags: word16(30),
    };
    if header.lengths_agree() { Ok(header) } else { Err(unknown()) }
}

fn malformed(offset: usize, defect: Defect) -> Error {
    let place = Place { file: "block".to_string(), offset: offset as u64, lsn: None, block: None };
    Error::Corrupt { defect, place }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Block {
        let mut block =
            Block::new(BlockId(0x0102_0304_0506_0708), BlockType::IndexData, vec![9; 33]);
        block.header.version = 0x1122;
        block.header.flags = 0x3344;
        block
    }

    #[test]
    fn round_trip_keeps_every_field() {
        for block in [sample(), Block::empty(BlockId(1), BlockType::Metadata)] {
            let bytes = block.to_bytes().expect("encodes");
            assert_eq!(bytes.len(), block.size());
            assert_eq!(Block::from_bytes(&bytes).expect("decodes"), block);
        }
    }

    #[test]
    fn every_cut_is_refused() {
        let bytes = sample().to_bytes().expect("encodes");
        for len in 0..bytes.len() {
            assert!(matches!(Block::from_bytes(&bytes[..len]), Err(Error::Corrupt { .. })));
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(matches!(Block::from_bytes(&longer), Err(Error::Corrupt { .. })));
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let bytes = sample().to_bytes().expect("encodes");
        for at in 0..bytes.len() * 8 {
            let mut damaged = bytes.to_vec();
            damaged[at / 8] ^= 1 << (at % 8);
            assert!(matches!(Block::from_bytes(&damaged), Err(Error::Corrupt { .. })), "bit {at}");
        }
    }

    #[test]
    fn lengths_that_disagree_without_compression_are_refused() {
        let mut bytes = sample().to_bytes().expect("encodes").to_vec();
        bytes[20] += 1;
        let crc = checksum::crc32c(&bytes[..CHECKED_LEN]);
        bytes[CHECKED_LEN..HEADER_LEN].copy_from_slice(&crc.to_le_bytes());
        let error = Block::from_bytes(&bytes).expect_err("to_bytes writes no such block");
        assert!(matches!(error, Error::Corrupt { defect: Defect::BlockEncoding, .. }), "{error:?}");
    }

    #[test]
    fn header_that_lies_is_not_encoded() {
        let mut block = sample();
        block.data = Bytes::from_static(b"other bytes");
        assert!(matches!(block.to_bytes(), Err(Error::InvalidArgument { .. })));
        assert!(!block.verify_checksum());
    }
}
