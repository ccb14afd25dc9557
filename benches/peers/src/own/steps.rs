//! The steps of a ratio's threads.

use std::collections::VecDeque;

use aegis_blocks::{
    Block, BlockId, BlockType, CommitTicket, LocalBackend, StorageBackend, StorageExt, WriteBatch,
};

use crate::closed_loop::Worker;
use crate::failure::{Failure, Outcome};
use crate::own::{HOT_BLOCKS, failed, is_filled};
use crate::payload::{Noise, Payloads};
use crate::workloads::BLOCK_LEN;

/// Ids that a thread overwrites; each thread has its own, above the hot blocks and the small ones.
const OWN_IDS: u64 = 256;
const FIRST_ID: u64 = 1 << 32;

/// `write_block`, one after the other.
pub struct Plain<'a> {
    store: &'a LocalBackend,
    first: u64,
    payloads: Payloads,
    commits: u64,
}

impl<'a> Plain<'a> {
    /// A thread's writer.
    pub fn new(store: &'a LocalBackend, thread: usize) -> Self {
        let first = FIRST_ID + thread as u64 * OWN_IDS;
        Plain { store, first, payloads: Payloads::new(1, thread, BLOCK_LEN), commits: 0 }
    }

    fn next(&mut self) -> Block {
        let id = self.first + self.commits % OWN_IDS;
        let block =
            Block::new(BlockId(id), BlockType::TableData, self.payloads.get(self.commits).clone());
        self.commits += 1;
        block
    }

    fn check_last(&self) -> Outcome<u64> {
        let Some(last) = self.commits.checked_sub(1) else { return Ok(0) };
        let id = self.first + last % OWN_IDS;
        let found = self.store.read_block(BlockId(id)).map_err(failed)?;
        if found.data == *self.payloads.get(last) { Ok(1) } else { Err(Failure::Lost { id }) }
    }
}

impl Worker for Plain<'_> {
    fn step(&mut self) -> Outcome<u64> {
        let block = self.next();
        self.store.write_block(block).map(|_| 1).map_err(failed)
    }

    fn check(&mut self) -> Outcome<u64> {
        self.check_last()
    }
}

/// The same as batches of one.
pub struct Batch<'a>(pub Plain<'a>);

impl Worker for Batch<'_> {
    fn step(&mut self) -> Outcome<u64> {
        let mut batch = WriteBatch::new();
        batch.write(self.0.next());
        self.0.store.apply(batch).map(|_| 1).map_err(failed)
    }

    fn check(&mut self) -> Outcome<u64> {
        self.0.check_last()
    }
}

/// The same in a transaction that first reads four hot blocks.
pub struct SnapshotWrite<'a> {
    plain: Plain<'a>,
    noise: Noise,
    hot: Payloads,
}

impl<'a> SnapshotWrite<'a> {
    /// A thread's writer.
    pub fn new(store: &'a LocalBackend, thread: usize) -> Self {
        let hot = Payloads::new(1, 0, BLOCK_LEN);
        SnapshotWrite { plain: Plain::new(store, thread), noise: Noise::new(thread as u64), hot }
    }
}

impl Worker for SnapshotWrite<'_> {
    fn step(&mut self) -> Outcome<u64> {
        let tx = self.plain.store.begin().map_err(failed)?;
        for _ in 0..4 {
            let id = 1 + self.noise.below(HOT_BLOCKS);
            is_filled(id, &tx.read(BlockId(id)).map_err(failed)?.data, &self.hot)?;
        }
        tx.write(self.plain.next()).map_err(failed)?;
        tx.commit().map(|_| 1).map_err(failed)
    }

    fn check(&mut self) -> Outcome<u64> {
        self.plain.check_last()
    }
}

/// The same reads and the same write, without a transaction.
pub struct ReadsAndWrite<'a> {
    read: Read<'a>,
    plain: Plain<'a>,
}

impl<'a> ReadsAndWrite<'a> {
    /// A thread's writer.
    pub fn new(store: &'a LocalBackend, thread: usize) -> Self {
        ReadsAndWrite {
            read: Read::new(store, thread, HOT_BLOCKS),
            plain: Plain::new(store, thread),
        }
    }
}

impl Worker for ReadsAndWrite<'_> {
    fn step(&mut self) -> Outcome<u64> {
        for _ in 0..4 {
            self.read.step()?;
        }
        self.plain.step()
    }

    fn check(&mut self) -> Outcome<u64> {
        self.plain.check_last()
    }
}

/// One thread that keeps many commits in flight: a step hands one in and waits for the oldest.
pub struct Tickets<'a> {
    plain: Plain<'a>,
    in_flight: VecDeque<CommitTicket>,
    in_flight_max: usize,
}

impl<'a> Tickets<'a> {
    /// The thread's writer.
    pub fn new(store: &'a LocalBackend, thread: usize, in_flight_max: usize) -> Self {
        let in_flight = VecDeque::with_capacity(in_flight_max);
        Tickets { plain: Plain::new(store, thread), in_flight, in_flight_max }
    }
}

impl Worker for Tickets<'_> {
    fn step(&mut self) -> Outcome<u64> {
        if self.in_flight.len() == self.in_flight_max
            && let Some(oldest) = self.in_flight.pop_front()
        {
            oldest.wait().map_err(failed)?;
        }
        let tx = self.plain.store.begin().map_err(failed)?;
        tx.write(self.plain.next()).map_err(failed)?;
        self.in_flight.push_back(tx.submit().map_err(failed)?);
        Ok(1)
    }

    fn check(&mut self) -> Outcome<u64> {
        for ticket in self.in_flight.drain(..) {
            ticket.wait().map_err(failed)?;
        }
        self.plain.check_last()
    }
}

/// Begins a read transaction and drops it.
pub struct View<'a>(pub &'a LocalBackend);

impl Worker for View<'_> {
    fn step(&mut self) -> Outcome<u64> {
        self.0.snapshot().map(|_| 1).map_err(failed)
    }

    fn check(&mut self) -> Outcome<u64> {
        Ok(0)
    }
}

/// Reads a random block, among the first so many.
pub struct Read<'a> {
    store: &'a LocalBackend,
    noise: Noise,
    among: u64,
    hot: Payloads,
}

impl<'a> Read<'a> {
    /// A thread's reader.
    pub fn new(store: &'a LocalBackend, thread: usize, among: u64) -> Self {
        Read { store, noise: Noise::new(thread as u64), among, hot: Payloads::new(1, 0, BLOCK_LEN) }
    }
}

impl Worker for Read<'_> {
    fn step(&mut self) -> Outcome<u64> {
        let id = 1 + self.noise.below(self.among);
        let block = self.store.read_block(BlockId(id)).map_err(failed)?;
        is_filled(id, &block.data, &self.hot).map(|()| 1)
    }

    fn check(&mut self) -> Outcome<u64> {
        Ok(0)
    }
}
