//! Sixteen threads commit durably at the same time; their commits share syncs.
//!
//! Run with `cargo run --release --example group_commit [DIR]`, where `DIR` lies on the disk to
//! try. Without it the store goes to the directory for temporary files.

use std::time::{Duration, Instant};

use aegis_blocks::{Block, BlockId, BlockType, LocalBackend, StorageBackend};

const THREADS: u64 = 16;
const RUN_TIME: Duration = Duration::from_secs(2);
const BLOCK_LEN: usize = 4 << 10;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let parent = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, Into::into);
    let dir = tempfile::tempdir_in(parent)?;
    let store = LocalBackend::open(dir.path().join("store"))?;

    let started = Instant::now();
    std::thread::scope(|scope| -> aegis_blocks::Result<()> {
        let writers: Vec<_> = (1..=THREADS)
            .map(|thread| {
                let store = store.clone();
                scope.spawn(move || commit_until(&store, BlockId(thread), started + RUN_TIME))
            })
            .collect();
        for writer in writers {
            writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok(())
    })?;
    let seconds = started.elapsed().as_secs_f64();

    let stats = store.stats();
    println!("{THREADS} threads, {BLOCK_LEN} bytes a commit, {seconds:.1} s");
    println!("commits     {} ({:.0} a second)", stats.commits, stats.commits as f64 / seconds);
    println!("syncs       {}", stats.log_syncs);
    println!("group size  {:.1} commits", stats.commits as f64 / stats.groups.max(1) as f64);
    store.close()?;
    Ok(())
}

/// Overwrites one block, a durable commit each time.
fn commit_until(store: &LocalBackend, id: BlockId, end: Instant) -> aegis_blocks::Result<()> {
    let payload = bytes::Bytes::from(vec![id.0 as u8; BLOCK_LEN]);
    while Instant::now() < end {
        store.write_block(Block::new(id, BlockType::LogEntry, payload.clone()))?;
    }
    Ok(())
}
