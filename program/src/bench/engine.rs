//! The engine under the closed loop: a fresh store, space prepared ahead, then commits.
//!
//! Steady state means that the log writes into space that was written before. So the space for all
//! slices of a round is prepared before the clock starts. After the last slice every thread's first
//! and last acknowledged blocks are read back and compared.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aegis_blocks::{
    Block, BlockId, BlockType, GROUP_SIZES, LocalBackend, StorageBackend, StorageStats,
};

use crate::bench::machine;
use crate::bench::workload::{Committer, Payloads, Sample, Workload, closed_loop};
use crate::failure::Failure;
use crate::store::{DurabilityArg, WriteModeArg};

/// How the store under test is opened.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    /// When a commit returns.
    pub durability: DurabilityArg,
    /// How the log is written; the store's own choice without it.
    pub write_mode: Option<WriteModeArg>,
}

/// Measurements of the engine in one slice.
pub struct EngineSample {
    /// Commits and latencies.
    pub sample: Sample,
    /// Counters of the store for that slice.
    pub counted: Counted,
    /// Bytes of space prepared before the first slice.
    pub prepared_len: u64,
}

/// Differences of the store's counters over the run.
#[derive(Debug, Clone, Copy)]
pub struct Counted {
    /// Syncs that commits waited for.
    pub log_syncs: u64,
    /// Groups written.
    pub groups: u64,
    /// Bytes of frames and padding.
    pub log_bytes: u64,
    /// Bytes of zeros written ahead.
    pub zeroed_bytes: u64,
    /// Groups by size (see `StorageStats::group_sizes`).
    pub group_sizes: [u64; GROUP_SIZES],
    /// Writing the group, syncing it, publishing it and waking its callers: sums over commits.
    pub phases: [Duration; 3],
}

impl Counted {
    fn count_between(before: &StorageStats, after: &StorageStats) -> Counted {
        Counted {
            log_syncs: after.log_syncs - before.log_syncs,
            groups: after.groups - before.groups,
            log_bytes: after.log_bytes - before.log_bytes,
            zeroed_bytes: after.zeroed_bytes - before.zeroed_bytes,
            group_sizes: std::array::from_fn(|at| after.group_sizes[at] - before.group_sizes[at]),
            phases: [
                after.write_time - before.write_time,
                after.sync_time - before.sync_time,
                after.wake_time - before.wake_time,
            ],
        }
    }
}

/// The run before the runs, in which the store learns how long a sync takes.
const WARM_UP: Duration = Duration::from_millis(50);

/// A store under test, and its threads between two slices.
pub struct Engine {
    store: LocalBackend,
    path: PathBuf,
    writers: Vec<Writer>,
    prepared_len: u64,
}

/// How long commits go on, and how many there are in a second.
#[derive(Debug, Clone, Copy)]
pub struct ExpectedLoad {
    pub length: Duration,
    pub commits_per_s: f64,
}

impl Engine {
    /// Makes a new store at `path` and prepares space for the [`ExpectedLoad`].
    pub fn start(
        path: PathBuf,
        setup: &Setup,
        workload: &Workload,
        payloads: &Arc<Payloads>,
        expected: ExpectedLoad,
    ) -> Result<Engine, Failure> {
        let mut options = LocalBackend::options().durability(setup.durability.into());
        if let Some(mode) = setup.write_mode {
            options = options.write_mode(mode.into());
        }
        let store = options.open(&path)?;
        let wanted_len =
            estimate_log_len(workload, expected.length + WARM_UP, expected.commits_per_s);
        let prepared_len = wanted_len.min(machine::free_space_len(&path) / 4);
        store.prepare_space(prepared_len)?;
        let writers = (0..workload.threads)
            .map(|thread| Writer::new(store.clone(), *workload, Arc::clone(payloads), thread));
        let (_, writers) = closed_loop(writers.collect(), 1, WARM_UP)?;
        Ok(Engine { store, path, writers, prepared_len })
    }

    /// Commits from all threads for `length`.
    pub fn run_slice(&mut self, length: Duration) -> Result<EngineSample, Failure> {
        let before = self.store.stats();
        let writers = std::mem::take(&mut self.writers);
        let (sample, writers) = closed_loop(writers, 1, length)?;
        self.writers = writers;
        let counted = Counted::count_between(&before, &self.store.stats());
        self.wait_for_zeroing();
        Ok(EngineSample { sample, counted, prepared_len: self.prepared_len })
    }

    /// Waits until the store's background zeroing is done (a second at most), so that the next loop
    /// has the disk for itself.
    fn wait_for_zeroing(&self) {
        const STEP: Duration = Duration::from_millis(5);
        const STEPS_MAX: usize = 200;
        let mut zeroed_bytes = self.store.stats().zeroed_bytes;
        for _ in 0..STEPS_MAX {
            std::thread::sleep(STEP);
            let before = std::mem::replace(&mut zeroed_bytes, self.store.stats().zeroed_bytes);
            if before == zeroed_bytes {
                return;
            }
        }
    }

    /// Reads back a sample of the acknowledged blocks, closes and removes the store. Returns how
    /// many blocks were compared.
    pub fn finish(self) -> Result<u64, Failure> {
        let mut checked = 0;
        for writer in &self.writers {
            checked += writer.compare_blocks()?;
        }
        drop(self.writers);
        self.store.close()?;
        remove_store(&self.path).map_err(|e| Failure::io("cannot remove", &self.path, e))?;
        Ok(checked)
    }
}

/// Removes a store and waits until the file system is done with it.
fn remove_store(path: &Path) -> io::Result<()> {
    std::fs::remove_dir_all(path)?;
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

/// An upper estimate of the log's length: every commit with its headers, every group (of one
/// commit, at worst) padded to a page, and some. The space that the store keeps ahead of its tail
/// is added, or it would be zeroed while the clock runs.
fn estimate_log_len(workload: &Workload, length: Duration, expected_per_s: f64) -> u64 {
    const PAGE_LEN: f64 = 4096.0;
    const SPACE_LEN_MIN: f64 = 64e6;
    const SPACE_LEN_MAX: f64 = 8e9;
    /// The default of `Options::zero_ahead_len`, and the next segment.
    const AHEAD_LEN: u64 = 128 << 20;
    let padding_len = PAGE_LEN / (workload.threads as f64 / 2.0).max(1.0);
    let commit_len = workload.commit_len() as f64 + 256.0 + 64.0 * workload.batch as f64;
    let len = expected_per_s * length.as_secs_f64() * (commit_len + padding_len);
    len.clamp(SPACE_LEN_MIN, SPACE_LEN_MAX) as u64 + AHEAD_LEN
}

/// One thread's commits and what it remembers of them.
struct Writer {
    store: LocalBackend,
    workload: Workload,
    payloads: Arc<Payloads>,
    thread: usize,
    next: usize,
    /// Acknowledged: the first [`REMEMBERED`] blocks, then the last ones in a ring. The second
    /// field tells the payload.
    acked: Vec<(BlockId, usize)>,
    acked_count: usize,
}

/// Blocks that a thread remembers from the beginning, and as many from the end.
const REMEMBERED: usize = 16;

impl Writer {
    fn new(
        store: LocalBackend,
        workload: Workload,
        payloads: Arc<Payloads>,
        thread: usize,
    ) -> Self {
        let acked = Vec::with_capacity(2 * REMEMBERED);
        Writer { store, workload, payloads, thread, next: 0, acked, acked_count: 0 }
    }

    fn make_next_block(&mut self) -> (Block, usize) {
        let index = self.next;
        self.next += 1;
        let payload = self.payloads.get(self.thread, index).clone();
        (Block::new(BlockId(0), BlockType::TableData, payload), index)
    }

    fn commit_one(&mut self) -> aegis_blocks::Result<(BlockId, usize)> {
        let (block, index) = self.make_next_block();
        Ok((self.store.write_block(block)?, index))
    }

    /// Returns the last block of the batch.
    fn commit_batch(&mut self) -> aegis_blocks::Result<(BlockId, usize)> {
        let tx = self.store.begin_transaction()?;
        let mut last = (BlockId(0), 0);
        for _ in 0..self.workload.batch {
            let (block, index) = self.make_next_block();
            last = (self.store.write_block_in_tx(tx, block)?, index);
        }
        self.store.commit_transaction(tx)?;
        Ok(last)
    }

    fn remember_block(&mut self, acked: (BlockId, usize)) {
        if self.acked.len() < 2 * REMEMBERED {
            self.acked.push(acked);
        } else {
            self.acked[REMEMBERED + self.acked_count % REMEMBERED] = acked;
        }
        self.acked_count += 1;
    }

    /// Reads the remembered blocks back and returns their number.
    fn compare_blocks(&self) -> Result<u64, Failure> {
        for (id, index) in &self.acked {
            let block = self.store.read_block(*id)?;
            if block.data != *self.payloads.get(self.thread, *index) {
                return Err(Failure::new(format!(
                    "block {id} does not hold what was acknowledged"
                )));
            }
        }
        Ok(self.acked.len() as u64)
    }
}

impl Committer for Writer {
    fn commit(&mut self) -> Result<(), Failure> {
        let acked = if self.workload.batch == 1 { self.commit_one() } else { self.commit_batch() }?;
        self.remember_block(acked);
        Ok(())
    }
}
