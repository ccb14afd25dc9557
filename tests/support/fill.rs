//! Blocks that take space: one byte, the block's id, as often as asked for.

use aegis_blocks::{Block, BlockId, BlockType};

pub fn filling(id: u64, len: usize) -> Block {
    Block::new(BlockId(id), BlockType::TableData, vec![id as u8; len])
}
