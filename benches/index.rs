//! Cost of the index: `cargo bench --bench index [-- BLOCKS]`.
//!
//! | what          | value                                                                   |
//! |---------------|-------------------------------------------------------------------------|
//! | random ids    | bytes of a checkpoint a block, [`RANDOM`] blocks with random 64-bit ids |
//! | hot reads     | of [`HOT`] blocks of 256 bytes among [`READ_AMONG`], index in memory,   |
//! |               | then in the image                                                       |
//! | image written | bytes of checkpoints over user bytes: uniform overwrites of BLOCKS      |
//! |               | (10 million) with blocks of 256 bytes, and of 4 KiB                     |
//! | seed          | [`SEED`]                                                                |
//!
//! Bytes of checkpoints are those the process wrote (`/proc/self/io`) less those the store counts
//! as log and zeros. The blocks that are overwritten held 16 bytes, so that ten million of them fit
//! on a small disk. The image has a record for each all the same.

#[path = "../tests/support/xorshift.rs"]
mod xorshift;

use std::time::Instant;

use aegis_blocks::{
    Block, BlockId, BlockType, Durability, LocalBackend, Options, Result, StorageBackend,
    WriteBatch,
};
use bytes::Bytes;

use xorshift::Rng;

const SEED: u64 = 0x2468_ace1_1357_9bdf;
const RANDOM: u64 = 1_000_000;
const READ_AMONG: u64 = 1_000_000;
const HOT: u64 = 100_000;
const READ_ROUNDS: usize = 5;
const OVERWRITTEN: u64 = 10_000_000;
/// User bytes of a measured run.
const USER_LEN: u64 = 3 << 30;

fn options() -> Options {
    LocalBackend::options().durability(Durability::Buffered)
}

/// Writes a block of so many bytes under each id, a thousand a commit.
fn write(store: &LocalBackend, ids: impl Iterator<Item = u64>, len: usize) -> Result<()> {
    let (payload, mut batch) = (Bytes::from(vec![7; len]), WriteBatch::new());
    for id in ids {
        batch.write(Block::new(BlockId(id), BlockType::TableData, payload.clone()));
        if batch.len() == 1000 {
            store.apply(std::mem::take(&mut batch))?;
        }
    }
    store.apply(batch)?;
    store.sync()
}

fn random_ids(store: &LocalBackend) -> Result<()> {
    let mut rng = Rng(SEED);
    write(store, (0..RANDOM).map(|_| rng.next()), 16)?;
    store.checkpoint()?;
    let stats = store.stats();
    let each = stats.checkpoint_bytes as f64 / stats.total_blocks as f64;
    println!("random 64-bit ids: {each:.1} bytes of checkpoint a block");
    Ok(())
}

/// Nanoseconds a read: the median of some rounds.
fn hot_reads(store: &LocalBackend) -> Result<f64> {
    let mut times = Vec::new();
    for round in 0..=READ_ROUNDS {
        let (mut rng, started) = (Rng(SEED), Instant::now());
        for _ in 0..HOT * 5 {
            let id = 1 + rng.next() % HOT * (READ_AMONG / HOT);
            std::hint::black_box(store.read_block(BlockId(id))?);
        }
        if round > 0 {
            times.push(started.elapsed().as_nanos() as f64 / (HOT * 5) as f64);
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(times[READ_ROUNDS / 2])
}

fn read_through_the_image(store: &LocalBackend) -> Result<()> {
    write(store, 1..=READ_AMONG, 256)?;
    assert_eq!(store.stats().checkpoint_bytes, 0, "the index is in memory");
    let in_memory = hot_reads(store)?;
    store.checkpoint()?;
    let in_image = hot_reads(store)?;
    let ratio = in_image / in_memory;
    println!("hot reads: {in_memory:.0} ns in memory, {in_image:.0} ns in the image: {ratio:.2}");
    Ok(())
}

/// Bytes that this process has written.
fn written_len() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|value| value.parse().ok()).unwrap_or_default()
}

fn images_over_user_bytes(store: &LocalBackend, blocks: u64, len: usize) -> Result<()> {
    write(store, 1..=blocks, 16)?;
    store.checkpoint()?;
    let (before, written_before) = (store.stats(), written_len());
    let mut rng = Rng(SEED);
    let count = USER_LEN / len as u64;
    write(store, (0..count).map(|_| 1 + rng.next() % blocks), len)?;
    store.checkpoint()?;
    let after = store.stats();
    let logged = after.log_bytes - before.log_bytes + after.zeroed_bytes - before.zeroed_bytes;
    let images = (written_len() - written_before).saturating_sub(logged);
    println!(
        "{blocks} blocks overwritten with {len} bytes: {:.3} of the user bytes in checkpoints",
        images as f64 / USER_LEN as f64
    );
    Ok(())
}

fn in_a_store(options: Options, body: impl FnOnce(&LocalBackend) -> Result<()>) -> Result<()> {
    let dir = tempfile::tempdir().expect("a directory");
    let store = options.open(dir.path().join("store"))?;
    body(&store)?;
    store.close()
}

fn main() -> Result<()> {
    let blocks = std::env::args().skip(1).find_map(|argument| argument.parse().ok());
    let blocks = blocks.unwrap_or(OVERWRITTEN);
    println!("seed {SEED:#x}");
    in_a_store(options(), random_ids)?;
    let in_memory = options().checkpoint_log_len(1 << 40).memory_len_max(2 << 30);
    in_a_store(in_memory, read_through_the_image)?;
    for len in [256, 4096] {
        in_a_store(options(), |store| images_over_user_bytes(store, blocks, len))?;
    }
    Ok(())
}
