//! Durable and buffered commits over the public API, the same work every time.
//!
//! | what       | value                                                             |
//! |------------|-------------------------------------------------------------------|
//! | workload   | each thread overwrites blocks of its own range, one a commit      |
//! | sizes      | [`SIZES`], payloads from a generator seeded with [`SEED`]         |
//! | threads    | [`THREADS`]                                                       |
//! | durability | both                                                              |
//! | length     | [`COMMITS`] commits a run, [`RUNS`] runs, the median is printed   |
//!
//! Run with `cargo bench`. Nothing is asserted about time; every run checks that the store holds
//! the committed blocks. `aegis-blocks bench` measures the same beside the disk's rooflines.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on stops")]

use std::time::Instant;

use aegis_blocks::{Block, BlockId, BlockType, Durability, LocalBackend, StorageBackend};
use bytes::Bytes;

const SIZES: [usize; 2] = [4 << 10, 64 << 10];
const THREADS: [u64; 3] = [1, 8, 64];
const COMMITS: u64 = 4096;
const RUNS: usize = 3;
const BLOCKS_PER_THREAD: u64 = 16;
const SEED: u64 = 0x5eed;

fn main() {
    println!(
        "{:>10}  {:>8}  {:>7}  {:>9}  {:>12}",
        "durability", "size", "threads", "commits/s", "syncs/commit"
    );
    for durability in [Durability::Durable, Durability::Buffered] {
        for size in SIZES {
            for threads in THREADS {
                let mut runs: Vec<(f64, f64)> =
                    (0..RUNS).map(|_| run(durability, size, threads)).collect();
                runs.sort_by(|a, b| a.0.total_cmp(&b.0));
                let (per_s, syncs) = runs[RUNS / 2];
                println!("{durability:>10?}  {size:>8}  {threads:>7}  {per_s:>9.0}  {syncs:>12.3}");
            }
        }
    }
}

/// Returns commits a second and syncs for each commit.
fn run(durability: Durability, size: usize, threads: u64) -> (f64, f64) {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalBackend::options().durability(durability).open(dir.path()).unwrap();
    let each = COMMITS / threads;
    store.prepare_space(COMMITS * (size as u64 + 8192)).unwrap();
    let payloads: Vec<Bytes> = (0..threads).map(|thread| payload(size, thread)).collect();
    let before = store.stats();
    let started = Instant::now();
    std::thread::scope(|scope| {
        for (thread, payload) in payloads.iter().enumerate() {
            let store = &store;
            scope.spawn(move || {
                for i in 0..each {
                    let id = BlockId(1 + thread as u64 * BLOCKS_PER_THREAD + i % BLOCKS_PER_THREAD);
                    let block = Block::new(id, BlockType::TableData, payload.clone());
                    store.write_block(block).unwrap();
                }
            });
        }
    });
    let elapsed = started.elapsed().as_secs_f64();
    let after = store.stats();
    let commits = each * threads;
    assert_eq!(after.commits - before.commits, commits);
    for (thread, payload) in payloads.iter().enumerate() {
        let id = BlockId(1 + thread as u64 * BLOCKS_PER_THREAD);
        assert_eq!(store.read_block(id).unwrap().data, payload);
    }
    store.close().unwrap();
    (commits as f64 / elapsed, (after.log_syncs - before.log_syncs) as f64 / commits as f64)
}

/// Noise from a linear congruential generator (constants of Numerical Recipes).
fn payload(size: usize, thread: u64) -> Bytes {
    let mut state = SEED ^ thread;
    let step = |_| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..size).map(step).collect()
}
