//! A story for every bug that was found: what was done, what happened, what happens now.

use aegis_blocks::io::sim::SimDisk;
use aegis_blocks::{Block, BlockId, BlockType, LocalBackend, Options, StorageBackend};

fn options() -> Options {
    LocalBackend::options()
        .single_threaded(true)
        .segment_len_max(64 << 10)
        .block_len_max(32 << 10)
        .zero_ahead_len(0)
}

fn open(disk: &SimDisk) -> LocalBackend<SimDisk> {
    LocalBackend::open_on(disk.clone(), options()).expect("the store opens")
}

fn block(id: u64, len: usize) -> Block {
    Block::new(BlockId(id), BlockType::TableData, vec![id as u8; len])
}

/// Commits six blocks of 16 KiB, more than a segment holds.
fn commit_big(store: &LocalBackend<SimDisk>) -> aegis_blocks::Result<()> {
    let tx = store.begin_transaction()?;
    for id in 60..66 {
        store.write_block_in_tx(tx, block(id, 16 << 10))?;
    }
    store.commit_transaction(tx)
}

/// A transaction longer than a segment, and shorter than the 1 MiB from which commits were split, fit
/// nowhere: the log made one segment after the other, until the disk or the memory was full.
#[test]
fn transaction_longer_than_a_short_segment_is_split() {
    let disk = SimDisk::new(1);
    disk.set_capacity(Some(8 << 20));
    let store = open(&disk);
    commit_big(&store).expect("committed in parts");
    store.close().expect("closed");
    let store = open(&disk);
    for id in 60..66 {
        assert_eq!(store.read_block(BlockId(id)).expect("there").data, block(id, 16 << 10).data);
    }
}
