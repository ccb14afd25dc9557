//! How the golden stores were made: without threads, so that a copy of the files between two calls
//! is what `kill -9` leaves there.

use std::ops::ControlFlow;
use std::path::Path;

use aegis_blocks::{
    Block, BlockId, BlockType, LocalBackend, Options, StorageBackend, StorageExt, WriteBatch,
};

use crate::archive::{Files, read_directory, write_directory};
use crate::options::short_segments;

const SEGMENT_LEN: u64 = 64 << 10;
const TYPES: [BlockType; 6] = [
    BlockType::TableData,
    BlockType::TimeSeriesData,
    BlockType::DocumentData,
    BlockType::IndexData,
    BlockType::LogEntry,
    BlockType::Metadata,
];

fn options() -> Options {
    short_segments(SEGMENT_LEN, SEGMENT_LEN / 2)
        .single_threaded(true)
        // Nothing by itself: what is in a store is what its maker asked for.
        .checkpoint_log_len(1 << 40)
        .space_amplification_max(1e6)
}

/// A block whose payload tells which it is, and is one byte for the most part, to be kept in few
/// bytes.
fn block(id: u64, version: u16, len: usize) -> Block {
    let mut data = format!("block {id} version {version}").into_bytes();
    data.resize(len, b'a' + (id % 26) as u8);
    let mut block = Block::new(BlockId(id), TYPES[(id % 6) as usize], data);
    (block.header.version, block.header.flags) = (version, (id % 7) as u16);
    block
}

fn write(store: &LocalBackend, id: u64, version: u16, len: usize) {
    store.write_block(block(id, version, len)).expect("writes");
}

/// What a kill now leaves.
fn killed(store: LocalBackend, path: &Path) -> Files {
    let files = read_directory(path);
    drop(store);
    files
}

fn closed(store: LocalBackend, path: &Path) -> Files {
    store.close().expect("closes");
    read_directory(path)
}

fn empty(path: &Path) -> Files {
    closed(options().open(path).expect("opens"), path)
}

/// Every type, lengths from nothing to the longest, overwrites, deletions, far ids, transactions.
fn blocks(path: &Path) -> Files {
    let store = options().open(path).expect("opens");
    for id in 1..=24 {
        write(&store, id, 1, (id as usize - 1) * 37);
    }
    write(&store, 25, 1, SEGMENT_LEN as usize / 2);
    for id in [1 << 20, 1 << 40, u64::MAX - 1] {
        write(&store, id, 1, 100);
    }
    for id in (2..=24).step_by(3) {
        write(&store, id, 2, 200);
    }
    for id in (3..=24).step_by(4) {
        store.delete_block(BlockId(id)).expect("deletes");
    }
    let transaction = store.begin().expect("begins");
    for id in 30..40 {
        transaction.write(block(id, 3, 50)).expect("writes");
    }
    transaction.delete(BlockId(5)).expect("deletes");
    transaction.commit().expect("commits");
    closed(store, path)
}

/// A transaction that takes several segments.
fn large(path: &Path) -> Files {
    let store = options().open(path).expect("opens");
    write(&store, 1, 1, 100);
    let mut batch = WriteBatch::new();
    for id in 1..=8 {
        batch.write(block(id, 2, 30_000));
    }
    store.apply(batch).expect("commits");
    write(&store, 9, 1, 100);
    killed(store, path)
}

/// A base with leaves of every shape and a page above them, a delta, and log behind that.
fn checkpointed(path: &Path) -> Files {
    let store = options().open(path).expect("opens");
    let mut batch = WriteBatch::new();
    let near = (0..130).map(|n| 10_000 + n * 3);
    let far = (1..=110).map(|n| n << 40);
    for id in (1..=200).chain(near).chain(far) {
        batch.write(block(id, 1, 24));
    }
    store.apply(batch).expect("commits");
    store.checkpoint().expect("a base");
    for id in 1..=20 {
        write(&store, id * 2, 2, 60);
    }
    for id in [3, 10_003, 5 << 40] {
        store.delete_block(BlockId(id)).expect("deletes");
    }
    store.checkpoint().expect("a delta");
    for id in 100..110 {
        write(&store, id, 3, 60);
    }
    store.delete_block(BlockId(11)).expect("deletes");
    killed(store, path)
}

/// Blocks that were moved out of segments that are gone.
fn compacted(path: &Path) -> Files {
    let store = options().open(path).expect("opens");
    for version in 1..=4 {
        for id in (1..=60).filter(|id| id % version == 0) {
            write(&store, id, version as u16, 3000);
        }
    }
    store.checkpoint().expect("a base");
    store.compact_now().expect("compacts");
    for id in 61..=64 {
        write(&store, id, 1, 100);
    }
    killed(store, path)
}

/// The last commit is there in part, and its caller was told of none.
fn torn(path: &Path) -> Files {
    let store = options().open(path).expect("opens");
    for id in 1..=10 {
        write(&store, id, 1, 500);
    }
    write(&store, 11, 1, 6000);
    let mut files = killed(store, path);
    let last = b"block 11 version 1";
    let holds = |bytes: &&mut Vec<u8>| bytes.windows(last.len()).any(|bytes| bytes == last);
    let tail = files.values_mut().find(holds).expect("the log ends there");
    let end = tail.iter().rposition(|byte| *byte != 0).expect("a frame");
    tail[end / 4096 * 4096..].fill(0);
    files
}

/// What recovery makes of that, with a checkpoint and commits behind it.
fn recovered(path: &Path) -> Files {
    let left = torn(&path.with_extension("torn"));
    write_directory(path, &left);
    let store = options().open(path).expect("recovers");
    store.checkpoint().expect("a base");
    for id in 12..=15 {
        write(&store, id, 1, 500);
    }
    killed(store, path)
}

/// A backup beside which commits went on.
fn backup(path: &Path) -> Files {
    let store = options().open(path.with_extension("source")).expect("opens");
    for id in 1..=30 {
        write(&store, id, 1, 1000);
    }
    store.checkpoint().expect("a base");
    for id in 5..=9 {
        write(&store, id, 2, 1000);
    }
    let watch = |_| ControlFlow::Continue(());
    store.backup_to(path, None, &watch).expect("a backup");
    write(&store, 31, 1, 1000);
    drop(store);
    read_directory(path)
}

/// The files of a golden store, made in a directory that does not exist yet.
pub type Make = fn(&Path) -> Files;

/// Every golden store by name.
pub const MAKERS: [(&str, Make); 8] = [
    ("empty", empty),
    ("blocks", blocks),
    ("large", large),
    ("checkpointed", checkpointed),
    ("compacted", compacted),
    ("torn", torn),
    ("recovered", recovered),
    ("backup", backup),
];
