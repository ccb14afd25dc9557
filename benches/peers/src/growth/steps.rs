//! The steps of a turn's threads: overwrite random blocks, read random hot ones.

use aegis_blocks::{BlockId, LocalBackend, StorageBackend};

use crate::closed_loop::Worker;
use crate::failure::{Failure, Outcome};
use crate::growth::SEED;
use crate::growth::store::{apply, block};
use crate::own::{failed, is_filled};
use crate::payload::{Noise, Payloads};
use crate::workloads::BLOCK_LEN;

/// Blocks that are read, at most.
const HOT_BLOCKS_MAX: u64 = 10_000;

/// A sequence for each thread of each round.
fn noise(round: usize, thread: usize) -> Noise {
    Noise::new(SEED + ((round as u64) << 32 | thread as u64))
}

/// Blocks that lie evenly among all: equally many payloads in every store, but each in another part
/// of the index.
pub struct Hot {
    count: u64,
    stride: u64,
    payloads: Payloads,
}

impl Hot {
    /// Chooses among blocks 1 to `blocks`.
    pub fn spread(blocks: u64) -> Hot {
        let count = blocks.min(HOT_BLOCKS_MAX);
        Hot { count, stride: blocks / count, payloads: Payloads::new(1, 0, BLOCK_LEN) }
    }

    fn id(&self, index: u64) -> u64 {
        1 + index * self.stride
    }

    /// Gives all of them payloads of [`BLOCK_LEN`] that follow from their ids.
    pub fn overwrite(&self, store: &LocalBackend) -> Outcome<()> {
        let ids = (0..self.count).map(|index| self.id(index));
        apply(store, ids.map(|id| block(id, self.payloads.get(id))))
    }

    /// Reads every one once and compares all of its bytes.
    pub fn read_all(&self, store: &LocalBackend) -> Outcome<()> {
        for id in (0..self.count).map(|index| self.id(index)) {
            let found = store.read_block(BlockId(id)).map_err(failed)?.data;
            if found != *self.payloads.get(id) {
                return Err(Failure::Lost { id });
            }
        }
        Ok(())
    }
}

/// Reads a random hot block.
pub struct Read<'a> {
    store: &'a LocalBackend,
    noise: Noise,
    hot: &'a Hot,
}

impl<'a> Read<'a> {
    /// The only reader of a round.
    pub fn new(store: &'a LocalBackend, round: usize, hot: &'a Hot) -> Self {
        Read { store, noise: noise(round, 0), hot }
    }
}

impl Worker for Read<'_> {
    fn step(&mut self) -> Outcome<u64> {
        let id = self.hot.id(self.noise.below(self.hot.count));
        let data = self.store.read_block(BlockId(id)).map_err(failed)?.data;
        is_filled(id, &data, &self.hot.payloads).map(|()| 1)
    }

    fn check(&mut self) -> Outcome<u64> {
        self.hot.read_all(self.store).map(|()| self.hot.count)
    }
}

/// `write_block` over a random block of 1 to `blocks`; threads share none, so each knows what its
/// latest one must hold.
pub struct Overwrite<'a> {
    store: &'a LocalBackend,
    noise: Noise,
    payloads: Payloads,
    threads: u64,
    thread: u64,
    blocks: u64,
    commits: u64,
    latest: Option<u64>,
}

impl<'a> Overwrite<'a> {
    /// A thread's writer.
    pub fn new(store: &'a LocalBackend, round: usize, thread: usize, blocks: u64) -> Self {
        let threads = crate::growth::store::CROWD;
        Overwrite {
            store,
            noise: noise(round, thread),
            payloads: Payloads::new(threads, thread, BLOCK_LEN),
            threads: threads as u64,
            thread: thread as u64,
            blocks,
            commits: 0,
            latest: None,
        }
    }
}

impl Worker for Overwrite<'_> {
    fn step(&mut self) -> Outcome<u64> {
        let id = 1 + self.noise.below(self.blocks / self.threads) * self.threads + self.thread;
        let block = block(id, self.payloads.get(self.commits));
        self.store.write_block(block).map_err(failed)?;
        self.commits += 1;
        self.latest = Some(id);
        Ok(1)
    }

    fn check(&mut self) -> Outcome<u64> {
        let Some(id) = self.latest else { return Ok(0) };
        let found = self.store.read_block(BlockId(id)).map_err(failed)?.data;
        let expected = self.payloads.get(self.commits - 1);
        if found == *expected { Ok(1) } else { Err(Failure::Lost { id }) }
    }
}
