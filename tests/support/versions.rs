//! Blocks of which each version has bytes of its own, and a model of which version is the newest.

use std::collections::BTreeMap;

use aegis_blocks::io::Disk;
use aegis_blocks::{Block, BlockId, BlockType, LocalBackend, StorageBackend, StorageExt};

/// Each id with its version.
pub type Model = BTreeMap<u64, u64>;

/// Up to 3,000 bytes of this version of a block.
pub fn payload(id: u64, version: u64) -> Vec<u8> {
    let len = 1 + (id * 37 + version * 101) % 3000;
    (0..len).map(|n| (id + version * 7 + n) as u8).collect()
}

pub fn block(id: u64, version: u64) -> Block {
    Block::new(BlockId(id), BlockType::TableData, payload(id, version))
}

/// The store lists and holds exactly the blocks of the model, and its totals are theirs.
pub fn check<D: Disk>(store: &LocalBackend<D>, model: &Model, context: &str) {
    let ids: Vec<u64> = store.ids(..).expect("lists").iter().map(|id| id.0).collect();
    assert!(ids.iter().eq(model.keys()), "{context}: ids are {ids:?}, not {:?}", model.keys());
    let walk = store.ids_in(..).expect("begins").rev().map(|id| id.expect("looks up").0);
    assert!(walk.eq(model.keys().rev().copied()), "{context}: from the high end down");
    let mut bytes = 0;
    for (id, version) in model {
        let read =
            store.read_block(BlockId(*id)).unwrap_or_else(|e| panic!("{context}: {id}: {e}"));
        assert!(read.data == payload(*id, *version), "{context}: block {id} is another version");
        bytes += read.data.len() as u64;
    }
    let stats = store.stats();
    let totals = (stats.total_blocks, stats.total_bytes);
    assert_eq!(totals, (model.len() as u64, bytes), "{context}");
}
