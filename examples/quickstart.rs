//! Opens a store, writes, commits a transaction, reads, closes, and finds everything again.
//!
//! Run with `cargo run --example quickstart`.

use aegis_blocks::{Block, BlockId, BlockType, Error, LocalBackend, StorageBackend, StorageExt};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("accounts.store");
    let store = LocalBackend::open(&path)?; // one directory, made where it is missing

    // A single write is its own transaction: durable when it returns. Id 0 asks for a new id.
    let alice = store.write_block(row(BlockId(0), "alice 100"))?;
    println!("alice is block {alice}");

    // Several changes, all or nothing. Others see none of them before the commit.
    let tx = store.begin()?;
    tx.write(row(alice, "alice 70"))?;
    let bob = tx.write(row(BlockId(0), "bob 30"))?;
    assert!(!store.block_exists(bob)?);
    let lsn = tx.commit()?;
    println!("committed as number {} in the order of commits", lsn.ok_or("it wrote blocks")?);

    // Of two transactions that write the same block, the first to commit wins.
    let (first, second) = (store.begin()?, store.begin()?);
    first.write(row(alice, "alice 60"))?;
    second.write(row(alice, "alice 50"))?;
    first.commit()?;
    match second.commit() {
        Err(lost @ Error::Conflict { .. }) => println!("as it should be: {lost}"),
        other => return Err(format!("expected a conflict, got {other:?}").into()),
    }
    store.close()?;

    let store = LocalBackend::open(&path)?;
    for id in store.ids(..)? {
        let block = store.read_block(id)?;
        println!("block {id}: {}", String::from_utf8_lossy(&block.data));
    }
    assert_eq!(&store.read_block(alice)?.data[..], b"alice 60");
    assert_eq!(&store.read_block(bob)?.data[..], b"bob 30");
    store.close()?;
    Ok(())
}

fn row(id: BlockId, text: &'static str) -> Block {
    Block::new(id, BlockType::TableData, text)
}
