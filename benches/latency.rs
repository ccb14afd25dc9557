//! Latency of commits beside checkpoints, compaction and backups:
//! `cargo bench --bench latency [-- DIR]`.
//!
//! | what       | value                                                                          |
//! |------------|--------------------------------------------------------------------------------|
//! | commits    | durable, 4 KiB, from [`THREADS`] threads that overwrite 1,000 blocks each      |
//! | checkpoint | of [`CHECKPOINTED`] blocks of 16 bytes, over half of which changed: a new base |
//! | compaction | of [`FILLED`] blocks of 4 KiB, of which nine in ten were deleted at random     |
//! | backup     | of [`FILLED`] blocks of 4 KiB, whole, into another directory of the same disk  |
//! | seed       | [`SEED`]                                                                       |
//!
//! Each round has quiet commits before and after the commits beside the work, on the same store. So
//! a change in the disk's speed meets both. Percentiles are over all rounds. The ratio of a
//! percentile is the median over rounds of the ratios within a round. Nothing is asserted about
//! time. `DIR` lies on the disk to try. `AEGIS_LATENCY` chooses: `checkpoint`, `compaction`,
//! `backup`, or all without it.

#[path = "../tests/support/xorshift.rs"]
mod xorshift;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aegis_blocks::{
    Block, BlockId, BlockType, Durability, LocalBackend, Result, StorageBackend, WriteBatch,
};
use bytes::Bytes;

use xorshift::Rng;

const SEED: u64 = 0x1a7e_2c7e_5eed_0001;
const THREADS: u64 = 4;
const COMMIT_LEN: usize = 4096;
/// Ids that the measured commits write begin here.
const OWN_FIRST: u64 = 1 << 32;
const CHECKPOINTED: [u64; 2] = [1_000_000, 4_000_000];
const FILLED: u64 = 100_000;
const ROUNDS: usize = 5;
const QUIET: Duration = Duration::from_millis(1500);
/// Log over its live bytes at which the space counts as reclaimed.
const ROOM_MAX: f64 = 1.5;
const COMPACTION_MAX: Duration = Duration::from_secs(60);
const COMPACTION_ROUNDS: usize = 3;

/// Latencies of commits, sorted.
struct Latencies(Vec<Duration>);

const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)];

impl Latencies {
    fn new(mut all: Vec<Duration>) -> Latencies {
        all.sort_unstable();
        Latencies(all)
    }

    fn at(&self, quantile: f64) -> Duration {
        let last = self.0.len().saturating_sub(1);
        self.0.get((last as f64 * quantile).round() as usize).copied().unwrap_or_default()
    }
}

/// Commits that were asked for while `work` ran on this thread; each thread stops when it is over.
fn commits_beside<R>(store: &LocalBackend, work: impl FnOnce() -> R) -> (Latencies, R) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let done = &done;
        let start = |thread| scope.spawn(move || commit_until(store, thread, done));
        let threads: Vec<_> = (0..THREADS).map(start).collect();
        let result = work();
        done.store(true, Ordering::Relaxed);
        let took = threads.into_iter().flat_map(|thread| thread.join().expect("it commits"));
        (Latencies::new(took.collect()), result)
    })
}

fn commit_until(store: &LocalBackend, thread: u64, done: &AtomicBool) -> Vec<Duration> {
    let payload = Bytes::from(vec![thread as u8; COMMIT_LEN]);
    let (mut rng, mut took) = (Rng(SEED + thread), Vec::new());
    while !done.load(Ordering::Relaxed) {
        let id = OWN_FIRST + thread * 1000 + rng.below(1000);
        let block = Block::new(BlockId(id), BlockType::TableData, payload.clone());
        let started = Instant::now();
        store.write_block(block).expect("commits");
        took.push(started.elapsed());
    }
    took
}

fn quiet(store: &LocalBackend) -> Latencies {
    commits_beside(store, || std::thread::sleep(QUIET)).0
}

/// One round: quiet commits around the ones beside the work.
struct Round {
    quiet: Latencies,
    beside: Latencies,
}

fn report(what: &str, rounds: Vec<Round>) {
    let merged = |of: fn(&Round) -> &Latencies| {
        Latencies::new(rounds.iter().flat_map(|round| of(round).0.iter().copied()).collect())
    };
    let (quiet, beside) = (merged(|round| &round.quiet), merged(|round| &round.beside));
    println!("\n{what}: {} quiet commits, {} beside it", quiet.0.len(), beside.0.len());
    println!("{:>8} {:>12} {:>12} {:>8}", "", "quiet", "beside it", "ratio");
    for (name, quantile) in QUANTILES {
        let ratio = |r: &Round| {
            r.beside.at(quantile).as_secs_f64() / r.quiet.at(quantile).as_secs_f64().max(1e-9)
        };
        let mut ratios: Vec<f64> = rounds.iter().map(ratio).collect();
        ratios.sort_by(f64::total_cmp);
        println!(
            "{name:>8} {:>9} us {:>9} us {:>8.2}",
            quiet.at(quantile).as_micros(),
            beside.at(quantile).as_micros(),
            ratios[ratios.len() / 2]
        );
    }
    let stalls = beside.0.iter().filter(|took| **took > Duration::from_millis(20)).count();
    let before = quiet.0.iter().filter(|took| **took > Duration::from_millis(20)).count();
    println!("over 20 ms: {before} quiet, {stalls} beside it");
}

/// Writes these blocks with buffered commits of a thousand.
fn fill(store: &LocalBackend, ids: impl Iterator<Item = u64>, len: usize) -> Result<()> {
    let payload = Bytes::from(vec![7; len]);
    let mut batch = WriteBatch::new();
    for id in ids {
        batch.write(Block::new(BlockId(id), BlockType::TableData, payload.clone()));
        if batch.len() == 1000 {
            store.apply_with(std::mem::take(&mut batch), Durability::Buffered)?;
        }
    }
    store.apply_with(batch, Durability::Buffered)?;
    store.sync()
}

fn beside_checkpoints(dir: &Path, blocks: u64) -> Result<()> {
    // Nothing by itself.
    let options = LocalBackend::options().checkpoint_log_len(1 << 50).space_amplification_max(1e6);
    let path = dir.join(format!("checkpoint-{blocks}"));
    let store = options.open(&path)?;
    fill(&store, 1..=blocks, 16)?;
    store.checkpoint()?;
    let (mut rounds, mut took) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        // Deltas may hold half of what a base does.
        fill(&store, (1..=blocks).filter(|id| id % 8 < 5), 16)?;
        let before = quiet(&store);
        let (beside, elapsed) = commits_beside(&store, || {
            let started = Instant::now();
            store.checkpoint().map(|()| started.elapsed())
        });
        took.push(elapsed?);
        let after = quiet(&store);
        let quiet = Latencies::new([before.0, after.0].concat());
        rounds.push(Round { quiet, beside });
    }
    took.sort_unstable();
    let len = store.stats().checkpoint_bytes >> 20;
    println!("\ncheckpoints of {blocks} blocks, {len} MiB: {took:?}");
    report(&format!("beside a checkpoint of {blocks} blocks"), rounds);
    store.close()?;
    std::fs::remove_dir_all(&path).expect("it goes");
    Ok(())
}

/// The log without the space ahead of its tail, and all files with it, over the live bytes. The
/// space ahead is some 64 MiB in every store, so in a small one the second is no measure of
/// maintenance.
fn room(store: &LocalBackend) -> Result<(f64, f64)> {
    let space = store.space()?;
    let live = space.live_bytes as f64;
    let log = (space.live_bytes + space.dead_bytes + space.empty_bytes) as f64;
    Ok((log / live, space.file_bytes as f64 / live))
}

/// A store in which nine blocks in ten are dead, and nothing was done about it.
fn mostly_deleted(path: &Path) -> Result<LocalBackend> {
    let store = LocalBackend::options().space_amplification_max(1e6).open(path)?;
    fill(&store, 1..=FILLED, COMMIT_LEN)?;
    let mut rng = Rng(SEED);
    let mut batch = WriteBatch::new();
    for id in (1..=FILLED).filter(|_| rng.below(10) > 0) {
        batch.delete(BlockId(id));
    }
    store.apply(batch)?;
    // Where the commits go, so that the live bytes stay what they are.
    fill(&store, (0..THREADS * 1000).map(|n| OWN_FIRST + n), COMMIT_LEN)?;
    store.checkpoint()?;
    Ok(store)
}

fn beside_compaction(dir: &Path) -> Result<()> {
    let (mut rounds, mut took) = (Vec::new(), Vec::new());
    for round in 0..COMPACTION_ROUNDS {
        let path = dir.join(format!("compaction-{round}"));
        let store = mostly_deleted(&path)?;
        let before = quiet(&store);
        store.close()?;
        let store = LocalBackend::open(&path)?;
        let first = room(&store)?;
        let (beside, elapsed) = commits_beside(&store, || {
            let started = Instant::now();
            while room(&store)?.0 > ROOM_MAX && started.elapsed() < COMPACTION_MAX {
                std::thread::sleep(Duration::from_millis(50));
            }
            Ok(started.elapsed())
        });
        took.push((elapsed?, first, room(&store)?));
        // From here on only garbage of the commits themselves causes moves.
        let after = quiet(&store);
        let quiet = Latencies::new([before.0, after.0].concat());
        rounds.push(Round { quiet, beside });
        store.close()?;
        std::fs::remove_dir_all(&path).expect("it goes");
    }
    println!();
    for (elapsed, first, last) in took {
        println!(
            "log over blocks in force {:.2} -> {:.2}, files {:.2} -> {:.2}, in {elapsed:.1?} beside commits",
            first.0, last.0, first.1, last.1
        );
    }
    report("beside compaction of a store nine tenths of which were deleted", rounds);
    Ok(())
}

fn beside_backups(dir: &Path) -> Result<()> {
    let path = dir.join("backed-up");
    let store = LocalBackend::open(&path)?;
    fill(&store, 1..=FILLED, COMMIT_LEN)?;
    fill(&store, (0..THREADS * 1000).map(|n| OWN_FIRST + n), COMMIT_LEN)?;
    store.checkpoint()?;
    let (mut rounds, mut made) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let target = dir.join("backup");
        let before = quiet(&store);
        let (beside, elapsed) = commits_beside(&store, || {
            let started = Instant::now();
            let report = store.backup_to(&target, None, &|_| ControlFlow::Continue(()))?;
            Ok((report.bytes >> 20, started.elapsed()))
        });
        made.push(elapsed?);
        std::fs::remove_dir_all(&target).expect("it goes");
        let after = quiet(&store);
        let quiet = Latencies::new([before.0, after.0].concat());
        rounds.push(Round { quiet, beside });
    }
    println!("\nbackups, MiB and time: {made:?}");
    report("beside a backup", rounds);
    store.close()?;
    std::fs::remove_dir_all(&path).expect("it goes");
    Ok(())
}

fn main() -> Result<()> {
    let parent = std::env::args_os().skip(1).find(|arg| !arg.to_string_lossy().starts_with("--"));
    let parent = parent.map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::tempdir_in(parent).expect("a directory");
    let chosen = std::env::var("AEGIS_LATENCY").unwrap_or_default();
    println!("{THREADS} threads, {COMMIT_LEN} bytes a commit, {ROUNDS} rounds, seed {SEED:#x}");
    let is_chosen = |what: &str| chosen.is_empty() || chosen == what;
    if is_chosen("checkpoint") {
        CHECKPOINTED.iter().try_for_each(|blocks| beside_checkpoints(dir.path(), *blocks))?;
    }
    if is_chosen("compaction") {
        beside_compaction(dir.path())?;
    }
    if is_chosen("backup") {
        beside_backups(dir.path())?;
    }
    Ok(())
}
