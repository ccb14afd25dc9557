//! Space of a store and time to open it: `cargo bench --bench space [-- BLOCKS BYTES]`.
//!
//! Fills a store with 100,000 blocks of 4 KiB (or so many of so many bytes) with buffered commits
//! of 100, closes and opens it. Overwrites each block ten times on average at random and waits
//! until the store is idle. Kills a process that has written 250 MiB more, and opens the store
//! again. Prints one line a step. Files are counted by the blocks that the file system gave them.
//! Seed: [`SEED`].
//!
//! `AEGIS_SPACE=open` leaves the overwriting out. It opens five times after a close, and after a
//! kill. Then it does so after the kill of a process that had read about half of the log of the
//! first one.
//!
//! `AEGIS_SPACE=lone` compares durable commits of one thread into used segments, after overwriting
//! each block three times, with those of a new store into zeroed space. They take turns of
//! [`LONE_COUNT`].
//!
//! `AEGIS_SPACE=uniform` and `AEGIS_SPACE=zipf` (`-- BLOCKS BYTES SEGMENT_BYTES`) tell the bytes
//! written for each byte overwritten, at 70 % utilisation (`space_amplification_max` of 1 / 0.7). A
//! turn of five overwrites a block is not counted; two of five are. Zipf: the rank `r` of a block
//! is drawn with a probability in proportion to `1 / r^0.99`, by inversion of the summed
//! probabilities. See L. Devroye, *Non-Uniform Random Variate Generation*, 1986, III.2. The ranks
//! of the blocks are shuffled.

#[path = "../tests/support/xorshift.rs"]
mod xorshift;

use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use aegis_blocks::{
    Block, BlockId, BlockType, Durability, LocalBackend, OpenPhase, OpenProgress, Options, Result,
    StorageBackend, WriteBatch,
};

use xorshift::Rng;

const SEED: u64 = 0x1357_9bdf_2468_ace1;
const BATCH_COUNT: u64 = 100;
const ZIPF_EXPONENT: f64 = 0.99;
/// Live bytes for each byte of the log, where write amplification is measured.
const UTILISATION: f64 = 0.7;
const LONE_COUNT: u64 = 500;
const LONE_TURNS: usize = 9;
const KILLED_LEN: u64 = 250 << 20;
/// Tells the child process where the store is.
const CHILD: &str = "AEGIS_BENCH_CHILD";
/// Tells the child process to open the store and nothing more.
const OPENS: &str = "AEGIS_BENCH_OPENS";
const OPEN_COUNT: usize = 5;

/// Which blocks are overwritten.
enum Draw {
    Uniform(u64),
    /// Summed weights by rank, and the block of each rank.
    Zipf(Vec<f64>, Vec<u64>),
}

impl Draw {
    fn zipf(count: u64, rng: &mut Rng) -> Draw {
        let mut sum = 0.0;
        let sums = (1..=count).map(|rank| {
            sum += (rank as f64).powf(-ZIPF_EXPONENT);
            sum
        });
        let sums = sums.collect();
        let mut ids: Vec<u64> = (1..=count).collect();
        for n in (1..ids.len()).rev() {
            ids.swap(n, rng.below(n as u64 + 1) as usize);
        }
        Draw::Zipf(sums, ids)
    }

    fn id(&self, rng: &mut Rng) -> u64 {
        match self {
            Draw::Uniform(count) => rng.below(*count) + 1,
            Draw::Zipf(sums, ids) => {
                let unit = rng.below(1 << 53) as f64 / (1_u64 << 53) as f64;
                let at = unit * sums[sums.len() - 1];
                ids[sums.partition_point(|sum| *sum <= at).min(ids.len() - 1)]
            }
        }
    }
}

struct Bench {
    count: u64,
    len: usize,
    segment_len: Option<u64>,
    path: std::path::PathBuf,
}

impl Bench {
    fn open(&self) -> Result<(LocalBackend, Duration)> {
        let started = Instant::now();
        let store = self.options().open(&self.path)?;
        Ok((store, started.elapsed()))
    }

    fn options(&self) -> Options {
        let options = LocalBackend::options().durability(Durability::Buffered);
        match self.segment_len {
            Some(len) => options.segment_len_max(len).block_len_max((len / 2) as u32),
            None => options,
        }
    }

    /// Writes batches of these blocks and returns the most that the files took meanwhile.
    fn write(&self, store: &LocalBackend, ids: impl Iterator<Item = u64>) -> Result<u64> {
        let (mut batch, mut peak, mut batches) = (WriteBatch::new(), 0, 0);
        for id in ids {
            let data = vec![id as u8; self.len];
            batch.write(Block::new(BlockId(id), BlockType::TableData, data));
            if batch.len() as u64 == BATCH_COUNT {
                store.apply(std::mem::take(&mut batch))?;
                batches += 1;
                if batches % 100 == 0 {
                    peak = peak.max(disk_len(&self.path));
                }
            }
        }
        store.apply(batch)?;
        Ok(peak.max(disk_len(&self.path)))
    }

    fn run(&self) -> Result<()> {
        let (store, _) = self.open()?;
        self.write(&store, 1..=self.count)?;
        let live = store.stats().total_bytes;
        self.say("filled", &store, disk_len(&self.path), live);
        let started = Instant::now();
        store.checkpoint()?;
        let stats = store.stats();
        let per_block = stats.checkpoint_bytes as f64 / self.count as f64;
        println!(
            "checkpoint: {:?}, {per_block:.1} bytes a block, index in memory {} bytes",
            started.elapsed(),
            stats.index_bytes
        );
        store.close()?;
        let (store, elapsed) = self.open()?;
        println!("opened after close: {elapsed:?}");

        let (mut rng, before) = (Rng(SEED), store.stats());
        let ids = (0..10 * self.count).map(|_| rng.below(self.count) + 1);
        let peak = self.write(&store, ids)?;
        let after = store.stats();
        self.say("overwritten ten times, at its peak", &store, peak, live);
        let written = after.log_bytes - before.log_bytes + after.zeroed_bytes - before.zeroed_bytes;
        println!(
            "written to the log, zeros included, over what was overwritten: {:.2}",
            written as f64 / (10 * live) as f64
        );
        std::thread::sleep(Duration::from_secs(10));
        self.say("settled for 10 s", &store, disk_len(&self.path), live);
        store.close()?;

        self.kill_a_child(false);
        let (store, elapsed) = self.open()?;
        println!(
            "opened after kill -9 with {} bytes of log to read: {elapsed:?}",
            store.recovery().bytes
        );
        store.close()
    }

    /// How long opening takes.
    fn open_again(&self) -> Result<()> {
        let (store, _) = self.open()?;
        self.write(&store, 1..=self.count)?;
        store.checkpoint()?;
        store.close()?;
        for how in ["close", "kill -9", "kill -9, twice"] {
            let mut times = Vec::new();
            for _ in 0..OPEN_COUNT {
                if how != "close" {
                    self.kill_a_child(false);
                }
                if how == "kill -9, twice" {
                    self.kill_a_child(true);
                }
                let (store, elapsed) = self.open()?;
                times.push((elapsed, store.recovery().bytes));
                store.close()?;
            }
            times.sort_unstable();
            let median = times[OPEN_COUNT / 2].0;
            println!("opened after {how}: median {median:?}; with bytes of log read: {times:?}");
        }
        Ok(())
    }

    /// Cost of a lone commit in a used segment.
    fn commit_alone(&self, rng: &mut Rng) -> Result<()> {
        let zeroed = self.options().open(self.path.with_extension("zeroed"))?;
        zeroed.prepare_space(256 << 20)?;
        let (used, _) = self.open()?;
        self.write(&used, 1..=self.count)?;
        self.write(&used, (0..3 * self.count).map(|_| rng.below(self.count) + 1))?;
        // Moves that the overwriting left are not measured.
        used.pause_compaction()?;
        zeroed.pause_compaction()?;
        let before = used.stats();
        let took = |store: &LocalBackend, turn: usize| {
            let started = Instant::now();
            for id in 1..=LONE_COUNT {
                let block =
                    Block::new(BlockId(id), BlockType::TableData, vec![turn as u8; self.len]);
                store.write_block_with(block, Durability::Durable)?;
            }
            Ok(started.elapsed().as_secs_f64() / LONE_COUNT as f64)
        };
        let mut ratios = Vec::new();
        for turn in 0..LONE_TURNS {
            let (in_used, in_zeroed) = (took(&used, turn)?, took(&zeroed, turn)?);
            ratios.push(in_used / in_zeroed);
        }
        ratios.sort_by(f64::total_cmp);
        let after = used.stats();
        println!(
            "a lone commit into segments used before over one into zeroed space: {:.2} ({:.2} to {:.2}); {} bytes of log, {} zeroed",
            ratios[LONE_TURNS / 2],
            ratios[0],
            ratios[LONE_TURNS - 1],
            after.log_bytes - before.log_bytes,
            after.zeroed_bytes - before.zeroed_bytes
        );
        used.close()?;
        zeroed.close()
    }

    /// Bytes written for each byte overwritten.
    fn amplify(&self, draw: &Draw, rng: &mut Rng) -> Result<()> {
        let options = self.options().space_amplification_max(1.0 / UTILISATION);
        let store = options.open(&self.path)?;
        self.write(&store, 1..=self.count)?;
        let live = store.stats().total_bytes;
        for turn in ["not counted", "first", "second"] {
            let before = store.stats();
            let started = Instant::now();
            let peak = self.write(&store, (0..5 * self.count).map(|_| draw.id(rng)))?;
            let after = store.stats();
            // A batch that draws a block twice writes it once.
            let user_len = (after.write_ops - before.write_ops) * self.len as u64;
            let over = |written: u64| written as f64 / user_len as f64;
            println!(
                "{turn} turn: {:.2} to the log and {:.2} zeros for each byte, peak {:.2} of the blocks, {:.1?}",
                over(after.log_bytes - before.log_bytes),
                over(after.zeroed_bytes - before.zeroed_bytes),
                peak as f64 / live as f64,
                started.elapsed()
            );
            after.stalls.iter().for_each(|(cause, stall)| println!("  {cause}: {stall:?}"));
        }
        store.close()
    }

    fn say(&self, what: &str, store: &LocalBackend, disk_len: u64, live: u64) {
        let ratio = disk_len as f64 / live as f64;
        println!(
            "{what}: {} MB on disk, {ratio:.2} of the blocks, {} segments",
            disk_len >> 20,
            store.stats().segments
        );
    }

    /// Has a child process write, or only open the store, and die of it.
    fn kill_a_child(&self, opens: bool) {
        let me = std::env::current_exe().expect("this program");
        let mut child = Command::new(me);
        child.args([self.count.to_string(), self.len.to_string()]).env(CHILD, &self.path);
        if opens {
            child.env(OPENS, "1");
        }
        let status = child.status().expect("a child process");
        println!("{}: {status}", if opens { "opener" } else { "writer" });
    }

    /// The child that opens the store: it dies before it has read the log.
    fn open_and_die(&self) -> Result<()> {
        let die = |at: OpenProgress| match at.phase {
            OpenPhase::Replay if 2 * at.bytes_done >= at.bytes_total => std::process::abort(),
            _ => ControlFlow::Continue(()),
        };
        self.options().on_progress(die).open(&self.path)?.close()
    }

    /// The child that writes: it ends without a close.
    fn write_and_die(&self) -> Result<()> {
        let (store, _) = self.open()?;
        let mut rng = Rng(SEED);
        while store.stats().log_bytes < KILLED_LEN {
            let ids: Vec<u64> = (0..BATCH_COUNT).map(|_| rng.below(self.count) + 1).collect();
            self.write(&store, ids.into_iter())?;
        }
        store.sync()?;
        std::process::abort();
    }
}

/// Space of a directory's files on the disk.
fn disk_len(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|file| file.blocks() * 512).sum()
}

fn main() -> Result<()> {
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse().ok());
    let count = numbers.next().unwrap_or(100_000);
    let len = numbers.next().unwrap_or(4096) as usize;
    let segment_len = numbers.next();
    if let Some(path) = std::env::var_os(CHILD) {
        let bench = Bench { count, len, segment_len, path: path.into() };
        return match std::env::var_os(OPENS) {
            Some(_) => bench.open_and_die(),
            None => bench.write_and_die(),
        };
    }
    let dir = tempfile::tempdir().expect("a directory");
    println!("{count} blocks of {len} bytes, seed {SEED:#x}");
    let bench = Bench { count, len, segment_len, path: dir.path().join("store") };
    let mut rng = Rng(SEED);
    match std::env::var("AEGIS_SPACE").as_deref() {
        Ok("open") => bench.open_again(),
        Ok("lone") => bench.commit_alone(&mut rng),
        Ok("uniform") => bench.amplify(&Draw::Uniform(count), &mut rng),
        Ok("zipf") => bench.amplify(&Draw::zipf(count, &mut rng), &mut rng),
        _ => bench.run(),
    }
}
