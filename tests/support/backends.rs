//! Checks that run on a store in memory and on a local one.

use std::sync::Arc;

use aegis_blocks::{Block, BlockId, BlockType, MemoryBackend, StorageBackend};

/// Runs a check on each backend, with blocks 1 and 2 in the store. Nothing of it may be left
/// behind.
pub fn on_each(local: impl StorageBackend + 'static, check: impl Fn(Arc<dyn StorageBackend>)) {
    let stores: [Arc<dyn StorageBackend>; 2] = [Arc::new(MemoryBackend::new()), Arc::new(local)];
    for store in stores {
        for id in [1, 2] {
            let block = Block::new(BlockId(id), BlockType::TableData, "old");
            store.write_block(block).expect("writes");
        }
        check(Arc::clone(&store));
        let stats = store.stats();
        assert_eq!((stats.open_transactions, stats.undo_entries), (0, 0), "nothing is left behind");
    }
}
