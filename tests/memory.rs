//! The index's memory: what `stats()` says it is, and what the operating system sees.
//!
//! A test binary of its own with one test, so that the process's memory is the store's. It fills
//! [`BLOCKS`] dense ids; `AEGIS_BLOCKS` sets another number:
//!
//! ```text
//! AEGIS_BLOCKS=16000000 cargo test --release --test memory -- --nocapture
//! ```
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use aegis_blocks::{Block, BlockId, BlockType, Durability, LocalBackend, StorageBackend};
use bytes::Bytes;

const BLOCKS: u64 = 4_000_000;
const BLOCKS_PER_TRANSACTION: u64 = 5_000;
/// Transactions before the first look at memory. They are short, so that what an allocator keeps of
/// them is little beside the index.
const WARM_UP_COUNT: u64 = 8;
/// Bytes of index a block at most, by its own account and by the operating system's.
const BYTES_PER_BLOCK_MAX: f64 = 40.0;
/// The store's own account may be this much below the operating system's: allocators round up and
/// keep what was freed.
const HIDDEN_PER_BLOCK_MAX: f64 = 4.0;

#[test]
fn dense_ids_cost_at_most_forty_bytes_of_index_each() {
    let blocks = std::env::var("AEGIS_BLOCKS").map_or(BLOCKS, |count| count.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let options = LocalBackend::options().durability(Durability::Buffered).recent_len(0);
    let store = options.open(dir.path().join("store")).unwrap();
    // Overwriting brings buffers and allocator to their full size; what grows later is the index.
    for _ in 0..WARM_UP_COUNT {
        fill(&store, 1, BLOCKS_PER_TRANSACTION);
    }
    let (index_before, resident_before) = (store.stats().index_bytes, resident_len());
    let mut next = BLOCKS_PER_TRANSACTION + 1;
    while next <= blocks {
        let last = blocks.min(next + BLOCKS_PER_TRANSACTION - 1);
        fill(&store, next, last);
        next = last + 1;
    }
    let (index_after, resident_after) = (store.stats().index_bytes, resident_len());

    assert_eq!(store.stats().total_blocks, blocks);
    let added = (blocks - BLOCKS_PER_TRANSACTION) as f64;
    let stated = (index_after - index_before) as f64 / added;
    let seen = resident_after.saturating_sub(resident_before) as f64 / added;
    println!("{blocks} blocks: {stated:.1} bytes a block by stats(), {seen:.1} by the system");
    assert!(index_after as f64 / blocks as f64 <= BYTES_PER_BLOCK_MAX, "{index_after} bytes");
    assert!(seen <= BYTES_PER_BLOCK_MAX, "{seen:.1} bytes a block by the system");
    assert!(seen - stated <= HIDDEN_PER_BLOCK_MAX, "{stated:.1} stated, {seen:.1} seen");
    store.close().unwrap();
}

/// Writes empty blocks with the ids from `first` to `last` in one transaction.
fn fill(store: &LocalBackend, first: u64, last: u64) {
    let tx = store.begin_transaction().unwrap();
    for id in first..=last {
        let block = Block::new(BlockId(id), BlockType::Metadata, Bytes::new());
        store.write_block_in_tx(tx, block).unwrap();
    }
    store.commit_transaction(tx).unwrap();
}

/// Bytes of memory that the process holds and shares with no file.
fn resident_len() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let mut fields = statm.split_whitespace().map(|field| field.parse::<u64>().unwrap());
    let (resident, shared) = (fields.nth(1).unwrap(), fields.next().unwrap());
    (resident - shared) * page_len()
}

fn page_len() -> u64 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).unwrap().unwrap() as u64
}
