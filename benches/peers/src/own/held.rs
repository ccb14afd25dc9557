//! Memory of a snapshot held over a run of overwrites. It is in proportion to the blocks that were
//! overwritten, however often, and none after its drop.

use aegis_blocks::{
    Block, BlockId, BlockType, LocalBackend, StorageBackend, StorageExt, WriteBatch,
};

use crate::failure::{Failure, Outcome};
use crate::meter::{anonymous_len, resident_len};
use crate::own::{failed, fill};
use crate::payload::Payloads;

/// Small blocks, so that the bytes of the log do not drown those of the index.
const LEN: usize = 64;

/// Overwrites one, two and four quarters of `blocks` blocks under a held snapshot.
pub fn run(store: &LocalBackend, blocks: u64) -> Outcome<()> {
    fill(store, blocks, LEN)?;
    println!(
        "| state | undo entries | index bytes by `stats()` | a held version | anonymous memory, KiB | resident, KiB |"
    );
    println!("|---|---:|---:|---:|---:|---:|");
    let base = print(store, "nothing held", None);
    let snapshot = store.snapshot().map_err(failed)?;
    // Blocks of this length start behind those that `with_store` filled with another.
    let first = crate::own::HOT_BLOCKS + 1;
    let expected = snapshot.read(BlockId(first)).map_err(failed)?.data;
    for quarters in [1, 2, 4] {
        let count = (blocks - first) * quarters / 4;
        overwrite(store, first, count, quarters)?;
        print(store, &format!("{count} blocks overwritten"), Some(base));
        let undone = store.stats().undo_entries;
        if undone < count {
            return Err(Failure::Lost { id: undone });
        }
    }
    overwrite(store, first, blocks - first, 9)?;
    print(store, "all of them once more", Some(base));
    if snapshot.read(BlockId(first)).map_err(failed)?.data != expected {
        return Err(Failure::Lost { id: first });
    }
    drop(snapshot);
    overwrite(store, first, 1, 10)?;
    let after = print(store, "snapshot dropped, one more commit", Some(base));
    println!("\nIndex bytes that the dropped snapshot left behind: {}", after.saturating_sub(base));
    Ok(())
}

fn overwrite(store: &LocalBackend, first: u64, count: u64, number: u64) -> Outcome<()> {
    let payloads = Payloads::new(1, number as usize, LEN);
    for start in (0..count).step_by(1000) {
        let mut batch = WriteBatch::new();
        for i in start..(start + 1000).min(count) {
            let data = payloads.get(i).clone();
            batch.write(Block::new(BlockId(first + i), BlockType::TableData, data));
        }
        store.apply(batch).map_err(failed)?;
    }
    Ok(())
}

/// Prints a line and returns the index's bytes.
fn print(store: &LocalBackend, state: &str, base: Option<u64>) -> u64 {
    let stats = store.stats();
    let each = match base {
        Some(base) if stats.undo_entries > 0 => {
            format!(
                "{:.0} bytes",
                stats.index_bytes.saturating_sub(base) as f64 / stats.undo_entries as f64
            )
        }
        _ => "-".into(),
    };
    let (undone, index) = (stats.undo_entries, stats.index_bytes);
    let (anonymous, resident) = (anonymous_len() >> 10, resident_len() >> 10);
    println!("| {state} | {undone} | {index} | {each} | {anonymous} | {resident} |");
    index
}
