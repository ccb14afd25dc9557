//! Fixed work on a store. `aegis-blocks-instructions WORK COUNT DIR` does one kind of work `COUNT`
//! times in a new store. `DIR` should lie in memory (`/dev/shm`). `list` names the kinds.
//!
//! For `scripts/instructions`, which counts instructions under valgrind. The difference of two
//! counts over the difference of their work is the cost of one operation, without opening and
//! filling. One thread, and a store without threads of its own, so that the same work is the same
//! instructions.

use std::path::Path;
use std::time::Duration;

use aegis_blocks::{
    Block, BlockId, BlockType, Durability, LocalBackend, Result, StorageBackend, StorageExt,
    WriteBatch,
};
use bytes::Bytes;

/// Blocks that the store holds before the work.
const BLOCKS: u64 = 1000;
const LEN: usize = 4096;

/// One operation; the number of it comes along.
type Work = fn(&LocalBackend, &Bytes, u64) -> Result<()>;

/// Every kind of work.
const WORKS: [(&str, Work); 10] = [
    ("commit", commit),
    ("commit-small", commit_small),
    ("commit-buffered", commit_buffered),
    ("commit-batch-of-16", commit_batch),
    ("transaction", transaction),
    ("ticket", ticket),
    ("begin-drop", begin_drop),
    ("read", read),
    ("read-in-transaction", read_in_transaction),
    ("exists", exists),
];

fn id(n: u64) -> BlockId {
    // A step that shares no factor with the count visits every block.
    BlockId(1 + n * 619 % BLOCKS)
}

fn block(n: u64, data: Bytes) -> Block {
    Block::new(id(n), BlockType::TableData, data)
}

/// A durable commit of 4 KiB.
fn commit(store: &LocalBackend, data: &Bytes, n: u64) -> Result<()> {
    store.write_block(block(n, data.clone())).map(drop)
}

/// A durable commit of 100 bytes.
fn commit_small(store: &LocalBackend, data: &Bytes, n: u64) -> Result<()> {
    store.write_block(block(n, data.slice(..100))).map(drop)
}

fn commit_buffered(store: &LocalBackend, data: &Bytes, n: u64) -> Result<()> {
    store.write_block_with(block(n, data.clone()), Durability::Buffered).map(drop)
}

fn commit_batch(store: &LocalBackend, data: &Bytes, n: u64) -> Result<()> {
    let mut batch = WriteBatch::new();
    for part in 0..16 {
        batch.write(block(16 * n + part, data.slice(..512)));
    }
    store.apply(batch).map(drop)
}

/// Reads two blocks and writes both.
fn transaction(store: &LocalBackend, data: &Bytes, n: u64) -> Result<()> {
    let transaction = store.begin()?;
    for part in 0..2 {
        transaction.read(id(2 * n + part))?;
        transaction.write(block(2 * n + part, data.slice(..512)))?;
    }
    transaction.commit().map(drop)
}

/// Hands in four commits and waits for them then.
fn ticket(store: &LocalBackend, data: &Bytes, n: u64) -> Result<()> {
    let mut tickets = Vec::with_capacity(4);
    for part in 0..4 {
        let transaction = store.begin()?;
        transaction.write(block(4 * n + part, data.slice(..512)))?;
        tickets.push(transaction.submit()?);
    }
    tickets.into_iter().try_for_each(|ticket| ticket.wait().map(drop))
}

fn begin_drop(store: &LocalBackend, _: &Bytes, _: u64) -> Result<()> {
    store.begin().map(drop)
}

fn read(store: &LocalBackend, _: &Bytes, n: u64) -> Result<()> {
    store.read_block(id(n)).map(drop)
}

fn read_in_transaction(store: &LocalBackend, _: &Bytes, n: u64) -> Result<()> {
    let transaction = store.begin()?;
    transaction.read(id(n)).map(drop)
}

fn exists(store: &LocalBackend, _: &Bytes, n: u64) -> Result<()> {
    store.block_exists(id(n)).map(drop)
}

fn run(work: Work, count: u64, dir: &Path) -> Result<()> {
    // Nothing depends on a clock.
    let store = LocalBackend::options()
        .single_threaded(true)
        .sync_interval(Duration::from_secs(100_000))
        .open(dir)?;
    let data: Bytes =
        (0..LEN as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut batch = WriteBatch::new();
    for n in 0..BLOCKS {
        batch.write(block(n, data.clone()));
    }
    store.apply(batch)?;
    for n in 0..count {
        work(&store, &data, n)?;
    }
    store.close()
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [list] if list == "list" => {
            WORKS.iter().for_each(|(name, _)| println!("{name}"));
            Ok(())
        }
        [name, count, dir] => {
            let work = WORKS.iter().find(|(known, _)| known == name);
            let (_, work) = work.unwrap_or_else(|| panic!("no work is called {name}"));
            run(*work, count.parse().expect("a count"), Path::new(dir))
        }
        _ => panic!("aegis-blocks-instructions list | WORK COUNT DIR"),
    }
}
