//! What a store costs in room and in time to open: `cargo bench --bench space [-- BLOCKS BYTES]`.
//!
//! Fills a store with 100,000 blocks of 4 KiB (or so many of so many bytes) with buffered commits of 100,
//! closes and opens it, overwrites each block ten times on average at random, lets it settle, kills a
//! process that has written 250 MiB more, and opens what that left. Prints one line a step. Files are
//! counted by the blocks that the file system gave them. Seed: [`SEED`].

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use aegis_blocks::{
    Block, BlockId, BlockType, Durability, LocalBackend, Result, StorageBackend, WriteBatch,
};

const SEED: u64 = 0x1357_9bdf_2468_ace1;
const BATCH_COUNT: u64 = 100;
const KILLED_LEN: u64 = 250 << 20;
/// Tells the child process what it is.
const CHILD: &str = "AEGIS_BENCH_CHILD";

/// Marsaglia's xorshift64.
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

struct Bench {
    count: u64,
    len: usize,
    path: std::path::PathBuf,
}

impl Bench {
    fn open(&self) -> Result<(LocalBackend, Duration)> {
        let started = Instant::now();
        let options = LocalBackend::options().durability(Durability::Buffered);
        let store = options.open(&self.path)?;
        Ok((store, started.elapsed()))
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

        self.kill_a_writer();
        let (store, elapsed) = self.open()?;
        println!(
            "opened after kill -9 with {} bytes of log to read: {elapsed:?}",
            store.recovery().bytes
        );
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

    fn kill_a_writer(&self) {
        let me = std::env::current_exe().expect("this program");
        let arguments = [self.count.to_string(), self.len.to_string()];
        let child = Command::new(me).args(arguments).env(CHILD, &self.path).status();
        println!("writer: {}", child.expect("a child process"));
    }

    /// What the child does: it ends without a goodbye.
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

/// What the files of a directory take on the disk.
fn disk_len(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|file| file.blocks() * 512).sum()
}

fn main() -> Result<()> {
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse().ok());
    let count = numbers.next().unwrap_or(100_000);
    let len = numbers.next().unwrap_or(4096) as usize;
    if let Some(path) = std::env::var_os(CHILD) {
        return Bench { count, len, path: path.into() }.write_and_die();
    }
    let dir = tempfile::tempdir().expect("a directory");
    println!("{count} blocks of {len} bytes, seed {SEED:#x}");
    Bench { count, len, path: dir.path().join("store") }.run()
}
