//! One store of a size: filled once, then measured in turns.
//!
//! A turn, in this order:
//!
//! 1. Opens the closed store and reads its probe, [`OPENS`] times.
//! 2. A child process writes and is killed; opens what that left and reads the probe.
//! 3. Overwrites the hot blocks, makes a checkpoint, closes and opens: no index entry and no
//!    payload is in the store's own memory any more. Reads each hot block once, then random ones
//!    against the clock.
//! 4. Overwrites random blocks against the clock.
//! 5. Makes a checkpoint, asks `stats()`, closes.
//!
//! The *probe* is the block behind the last one that was filled. Only [`Victim`] overwrites it,
//! durably and with other bytes in each round. So the one read of each open tells whether it found
//! the latest commit.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aegis_blocks::{
    Block, BlockId, BlockType, Durability, LocalBackend, StorageBackend, WriteBatch,
};
use bytes::Bytes;
use tempfile::TempDir;

use crate::cell::{Figures, figures};
use crate::closed_loop::{Length, Many, Sample, Worker, run as closed_loop};
use crate::failure::{Failure, Outcome};
use crate::growth::killed::Victim;
use crate::growth::steps::{Hot, Overwrite, Read};
use crate::own::{failed, fill};
use crate::payload::Payloads;
use crate::workloads::BLOCK_LEN;
use crate::workloads::space::disk_len;
use crate::workloads::views::median;

/// Bytes of a block that nothing has overwritten yet.
pub const SMALL_LEN: usize = 16;

/// Threads that commit.
pub const CROWD: usize = 64;

/// Opens of a closed store in a turn.
const OPENS: usize = 5;

/// A store on the disk; closed between two turns.
pub struct Store {
    blocks: u64,
    dir: TempDir,
}

impl Store {
    /// Fills a new store in a directory of its own and closes it.
    pub fn fill(parent: &Path, blocks: u64) -> Outcome<Store> {
        let dir = tempfile::Builder::new()
            .prefix("aegis-growth-")
            .tempdir_in(parent)
            .map_err(Failure::io("cannot make a directory in", parent))?;
        let store = Store { blocks, dir };
        let opened = open_buffered(&store.path())?;
        fill(&opened, blocks, SMALL_LEN)?;
        opened.write_block(probe(blocks, 0)).map_err(failed)?;
        opened.sync().map_err(failed)?;
        opened.checkpoint().map_err(failed)?;
        opened.close().map_err(failed)?;
        Ok(store)
    }

    /// One turn; `time` is how long a clock runs.
    pub fn measure(&self, round: usize, time: Duration) -> Outcome<Figures> {
        let (closed_ms, killed_ms, log_len) = self.opens(round as u64)?;
        let hot = Hot::spread(self.blocks);
        let store = self.open()?;
        hot.overwrite(&store)?;
        store.checkpoint().map_err(failed)?;
        store.close().map_err(failed)?;

        let store = self.open()?;
        hot.read_all(&store)?;
        let reads = sample(1, time, |_| Ok(Many(Read::new(&store, round, &hot))))?;
        let commits =
            sample(CROWD, time, |thread| Ok(Overwrite::new(&store, round, thread, self.blocks)))?;
        store.checkpoint().map_err(failed)?;
        let stats = store.stats();
        store.close().map_err(failed)?;
        if commits.checked == 0 {
            return Err(Failure::Unchecked { cell: format!("{} blocks", self.blocks) });
        }

        let disk = disk_len(self.dir.path()).map_err(Failure::io("cannot measure", self.path()))?;
        let a_block = |bytes: u64| bytes as f64 / stats.total_blocks as f64;
        let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let mut all = Figures::from([
            ("open_closed_ms".into(), closed_ms),
            ("open_killed_ms".into(), killed_ms),
            ("replayed_mib".into(), mebibytes(log_len)),
            ("index_bytes_a_block".into(), a_block(stats.index_bytes)),
            ("checkpoint_bytes_a_block".into(), a_block(stats.checkpoint_bytes)),
            ("disk_mib".into(), mebibytes(disk)),
        ]);
        let named = |noun: &'static str, sample: &Sample, len| {
            figures(sample, len)
                .into_iter()
                .map(move |(name, value)| (format!("{noun}_{name}"), value))
        };
        all.extend(named("read", &reads, 0));
        all.extend(named("commit", &commits, BLOCK_LEN));
        Ok(all)
    }

    /// Removes the files; the directory itself goes when the store is dropped.
    pub fn remove(&self) -> Outcome<()> {
        let path = self.path();
        std::fs::remove_dir_all(&path).map_err(Failure::io("cannot remove", path))
    }

    /// Milliseconds of opening after a close and after a kill, and the log bytes that the latter
    /// read.
    fn opens(&self, round: u64) -> Outcome<(f64, f64, u64)> {
        let mut closed_ms = Vec::new();
        for _ in 0..OPENS {
            let (store, ms) = self.open_and_read(round)?;
            closed_ms.push(ms);
            store.close().map_err(failed)?;
        }
        Victim { path: self.path(), blocks: self.blocks, round: round + 1 }.kill()?;
        let (store, killed_ms) = self.open_and_read(round + 1)?;
        let log_len = store.recovery().bytes;
        store.close().map_err(failed)?;
        Ok((median(&mut closed_ms), killed_ms, log_len))
    }

    /// Opens and reads the probe of a round, which must be its latest.
    fn open_and_read(&self, round: u64) -> Outcome<(LocalBackend, f64)> {
        let (id, probe) = (self.blocks + 1, probe(self.blocks, round));
        let started = Instant::now();
        let store = self.open()?;
        let found = store.read_block(BlockId(id)).map_err(failed)?.data;
        let ms = started.elapsed().as_secs_f64() * 1e3;
        if found == probe.data { Ok((store, ms)) } else { Err(Failure::Lost { id }) }
    }

    fn open(&self) -> Outcome<LocalBackend> {
        LocalBackend::open(self.path()).map_err(failed)
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("store")
    }
}

/// Opens a store whose commits wait for no sync.
pub fn open_buffered(path: &Path) -> Outcome<LocalBackend> {
    LocalBackend::options().durability(Durability::Buffered).open(path).map_err(failed)
}

/// The block behind the last one, as a round writes it.
pub fn probe(blocks: u64, round: u64) -> Block {
    block(blocks + 1, Payloads::new(1, 0, BLOCK_LEN).get(round))
}

/// A block of the kind that all are here.
pub fn block(id: u64, data: &Bytes) -> Block {
    Block::new(BlockId(id), BlockType::TableData, data.clone())
}

/// Writes blocks in batches of 100.
pub fn apply(store: &LocalBackend, blocks: impl IntoIterator<Item = Block>) -> Outcome<()> {
    let mut batch = WriteBatch::new();
    for block in blocks {
        batch.write(block);
        if batch.len() == 100 {
            store.apply(std::mem::take(&mut batch)).map_err(failed)?;
        }
    }
    store.apply(batch).map(drop).map_err(failed)
}

fn sample<W: Worker>(
    threads: usize,
    time: Duration,
    make: impl Fn(usize) -> Outcome<W> + Sync,
) -> Outcome<Sample> {
    closed_loop(threads, time / 4, Length::Time(time), make)
}
