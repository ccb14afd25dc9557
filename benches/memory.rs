//! Commits and reads of the store in memory: the cost of the engine without a disk.
//!
//! | what     | value                                                                      |
//! |----------|----------------------------------------------------------------------------|
//! | workload | each thread overwrites, then reads, [`BLOCKS_PER_THREAD`] blocks of its own |
//! | sizes    | [`SIZES`]; payloads are shared, so nothing is copied                       |
//! | threads  | [`THREADS`]                                                                |
//! | length   | [`OPERATIONS`] of each thread a run, [`RUNS`] runs, the median is printed  |
//!
//! Run with `cargo bench --bench memory`. Every block is compared with its last commit.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on stops")]

use std::time::Instant;

use aegis_blocks::{Block, BlockId, BlockType, MemoryBackend, StorageBackend};
use bytes::Bytes;

const SIZES: [usize; 2] = [100, 4096];
const THREADS: [u64; 3] = [1, 2, 8];
const BLOCKS_PER_THREAD: u64 = 1000;
const OPERATIONS: u64 = 500_000;
const RUNS: usize = 5;

fn main() {
    println!("{:>8}  {:>7}  {:>10}  {:>10}", "size", "threads", "commits/s", "reads/s");
    for size in SIZES {
        for threads in THREADS {
            let mut runs: Vec<_> = (0..RUNS).map(|_| run(size, threads)).collect();
            let mut median = |of: fn(&(f64, f64)) -> f64| {
                runs.sort_by(|a, b| of(a).total_cmp(&of(b)));
                of(&runs[RUNS / 2])
            };
            let (commits, reads) = (median(|run| run.0), median(|run| run.1));
            println!("{size:>8}  {threads:>7}  {commits:>10.0}  {reads:>10.0}");
        }
    }
}

/// Returns commits and reads a second.
fn run(size: usize, threads: u64) -> (f64, f64) {
    let store = MemoryBackend::new();
    // The last commit of a block says which one it was.
    let payload = |number: u64| Bytes::from(vec![number as u8; size]);
    let id = |thread: u64, number: u64| {
        BlockId(1 + thread * BLOCKS_PER_THREAD + number % BLOCKS_PER_THREAD)
    };
    let commits = timed(threads, |thread| {
        let payloads: Vec<Bytes> = (0..256).map(payload).collect();
        for number in 0..OPERATIONS {
            let data = payloads[number as usize % 256].clone();
            store.write_block(Block::new(id(thread, number), BlockType::TableData, data)).unwrap();
        }
    });
    let reads = timed(threads, |thread| {
        for number in 0..OPERATIONS {
            assert_eq!(store.read_block(id(thread, number)).unwrap().data.len(), size);
        }
    });
    for thread in 0..threads {
        for number in OPERATIONS - BLOCKS_PER_THREAD..OPERATIONS {
            let found = store.read_block(id(thread, number)).unwrap();
            assert_eq!(found.data, payload(number % 256));
        }
    }
    (commits, reads)
}

/// Runs the same on each thread and returns operations a second.
fn timed(threads: u64, body: impl Fn(u64) + Sync) -> f64 {
    let started = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let body = &body;
            scope.spawn(move || body(thread));
        }
    });
    (OPERATIONS * threads) as f64 / started.elapsed().as_secs_f64()
}
