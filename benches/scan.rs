//! Cost of listing: `cargo bench --bench scan [-- BLOCKS]`.
//!
//! | what           | value                                                                   |
//! |----------------|-------------------------------------------------------------------------|
//! | listing        | the processor time to walk all ids of [`FEW`] and of four times as many |
//! |                | blocks, and their ratio                                                 |
//! | ids            | dense: one after the other; sparse: one in each 1,000, so one a page    |
//! |                | of the index                                                            |
//! | stores         | in memory; local with the index in memory, and in a checkpoint's image  |
//! | first of range | of BLOCKS (10 million) dense blocks in the image, from a random id to   |
//! |                | the end, [`LOOKS`] times: the id alone, and the block; the most that    |
//! |                | one takes on the heap of its thread                                     |
//! | payload        | 16 bytes                                                                |
//! | rounds         | [`ROUNDS`], few and many in turns; medians                              |
//! | seed           | [`SEED`]                                                                |

#[path = "../tests/support/allocator.rs"]
mod allocator;
#[path = "../tests/support/xorshift.rs"]
mod xorshift;

use std::time::{Duration, Instant};

use aegis_blocks::{
    Block, BlockId, BlockType, Durability, LocalBackend, MemoryBackend, Options, Result,
    StorageBackend, StorageExt, WriteBatch,
};
use bytes::Bytes;
use nix::time::{ClockId, clock_gettime};

use xorshift::Rng;

const SEED: u64 = 0x2468_ace1_1357_9bdf;
const FEW: u64 = 100_000;
const ROUNDS: usize = 9;
const LOOKS: usize = 1001;
const BLOCKS: u64 = 10_000_000;
const SPARSE: u64 = 1000;

/// Without checkpoints of its own accord.
fn options() -> Options {
    let options = LocalBackend::options().durability(Durability::Buffered);
    options.checkpoint_log_len(1 << 40).memory_len_max(2 << 30)
}

/// Writes so many blocks, a thousand a commit, each `apart` ids above the last one.
fn fill(store: &dyn StorageBackend, count: u64, apart: u64) -> Result<()> {
    let (payload, mut batch) = (Bytes::from(vec![7; 16]), WriteBatch::new());
    for number in 1..=count {
        let id = BlockId(number * apart);
        batch.write(Block::new(id, BlockType::TableData, payload.clone()));
        if batch.len() == 1000 {
            store.apply(std::mem::take(&mut batch))?;
        }
    }
    store.apply(batch)?;
    store.sync()
}

fn median<T: Copy + Ord>(values: &mut [T]) -> T {
    values.sort_unstable();
    values[values.len() / 2]
}

/// Processor time of this thread: a long walk is interrupted by others, a short one is not.
fn spent() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a clock").into()
}

/// The time to walk all ids.
fn list(store: &impl StorageExt, count: u64) -> Result<Duration> {
    let started = spent();
    let (mut seen, mut sum) = (0, 0_u64);
    for id in store.ids_in(..)? {
        seen += 1;
        sum = sum.wrapping_add(id?.0);
    }
    std::hint::black_box(sum);
    assert_eq!(seen, count, "each id once");
    Ok(spent() - started)
}

fn compare(what: &str, few: &impl StorageExt, many: &impl StorageExt) -> Result<()> {
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        times[0].push(list(few, FEW)?);
        times[1].push(list(many, 4 * FEW)?);
    }
    let [few, many] = times.map(|mut times| median(&mut times).as_secs_f64() * 1e3);
    let ratio = many / few;
    println!("{what:28} {FEW}: {few:6.1} ms, {}: {many:6.1} ms, ratio {ratio:.2}", 4 * FEW);
    Ok(())
}

fn listing(name: &str, apart: u64) -> Result<()> {
    let (few, many) = (MemoryBackend::new(), MemoryBackend::new());
    fill(&few, FEW, apart)?;
    fill(&many, 4 * FEW, apart)?;
    compare(&format!("{name}, in memory"), &few, &many)?;
    drop((few, many));
    let dir = tempfile::tempdir().expect("a directory");
    let few = options().open(dir.path().join("few"))?;
    let many = options().open(dir.path().join("many"))?;
    fill(&few, FEW, apart)?;
    fill(&many, 4 * FEW, apart)?;
    compare(&format!("{name}, local"), &few, &many)?;
    few.checkpoint()?;
    many.checkpoint()?;
    compare(&format!("{name}, local, in the image"), &few, &many)?;
    few.close()?;
    many.close()
}

/// Calls `look` from random ids on, and prints median times and the most heap bytes.
fn look_up(what: &str, blocks: u64, look: impl Fn(BlockId) -> Result<BlockId>) -> Result<()> {
    let (mut rng, mut times, mut waits, mut peak_max) = (Rng(SEED), Vec::new(), Vec::new(), 0);
    for _ in 0..LOOKS {
        let from = BlockId(1 + rng.next() % blocks);
        let before = allocator::begin();
        let (started, began) = (spent(), Instant::now());
        assert_eq!(look(from)?, from, "the ids are dense");
        times.push(spent() - started);
        waits.push(began.elapsed());
        peak_max = peak_max.max(allocator::account().peak - before.live);
    }
    let [time, wait] = [times, waits].map(|mut all| median(&mut all).as_secs_f64() * 1e6);
    println!(
        "{what:28} {time:.1} us of the processor, {wait:.1} us in all, {peak_max} bytes of heap"
    );
    Ok(())
}

fn first_of_a_range(blocks: u64) -> Result<()> {
    let dir = tempfile::tempdir().expect("a directory");
    let store = LocalBackend::options().durability(Durability::Buffered);
    let store = store.open(dir.path().join("store"))?;
    fill(&store, blocks, 1)?;
    store.checkpoint()?;
    let none = aegis_blocks::Error::IdsExhausted;
    look_up("first id of a range", blocks, |from| {
        let first = store.first_in(from..)?;
        first.ok_or_else(|| none.clone())
    })?;
    let snapshot = store.snapshot()?;
    for what in ["first block, from the disk", "first block, again"] {
        look_up(what, blocks, |from| {
            let first = snapshot.range(from..)?.next();
            first.unwrap_or_else(|| Err(none.clone())).map(|block| block.header.block_id)
        })?;
    }
    drop(snapshot);
    store.close()
}

fn main() -> Result<()> {
    let blocks = std::env::args().skip(1).find_map(|argument| argument.parse().ok());
    println!("seed {SEED:#x}");
    listing("dense", 1)?;
    listing("sparse", SPARSE)?;
    first_of_a_range(blocks.unwrap_or(BLOCKS))
}
