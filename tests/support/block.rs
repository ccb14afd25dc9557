//! A block of an id and a payload, the rest of its header as most tests have it.

use aegis_blocks::{Block, BlockId, BlockType};

pub fn block(id: u64, data: impl Into<bytes::Bytes>) -> Block {
    Block::new(BlockId(id), BlockType::TableData, data)
}
