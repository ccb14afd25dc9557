//! Reading many blocks: on the calling thread while they are in memory, and with the I/O workers
//! while they come from the disk.
//!
//! Owns [`Round`]: some ids, which threads take chunk by chunk. Invariants:
//!
//! 1. The caller waits for chunks that a worker has begun, never for a worker to begin.
//! 2. A worker holds the store no longer than the caller does, so that dropping the last handle
//!    after the call closes the store.
//!
//! The time that blocks take tells whether they are in memory. The cost is one reading of the clock
//! for every [`PROBE_COUNT`] blocks. *Measured* by `benches/read.rs`.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::backend::StorageBackend;
use crate::block::{Block, BlockId};
use crate::error::Result;
use crate::io::pool::{Command, IoPool};
use crate::io::{Disk, Env};
use crate::local::LocalBackend;
use crate::local::session::OpenStore;
use crate::local::space::quota::Quota;
use crate::sync::{Condvar, Mutex, Ordering, ProcessBound};

/// Blocks that the caller reads between two readings of the clock.
const PROBE_COUNT: usize = 32;
/// Blocks of a round with workers. After it, the caller measures again.
const ROUND_COUNT_MAX: usize = 2048;
/// Blocks that a thread takes at a time.
const CHUNK_COUNT: usize = 16;
/// Reading a block from memory takes a fraction of this, and from a disk many times as long.
const HOT_TIME_PER_BLOCK: Duration = Duration::from_micros(10);
/// Verifying bytes in memory, page faults included, is faster than this.
const HOT_BYTES_PER_MICROSECOND: u64 = 1000;

/// Reads blocks, in the order of their ids.
pub(super) fn read_many<D: Disk>(store: &LocalBackend<D>, ids: &[BlockId]) -> Result<Vec<Block>> {
    let mut blocks = Vec::with_capacity(ids.len());
    let mut rest = ids;
    while !rest.is_empty() {
        let (probe, behind) = rest.split_at(rest.len().min(PROBE_COUNT));
        rest = behind;
        let cold = read_alone(store, probe, &mut blocks)?;
        if let Some(pool) = store.inner.pool.as_deref()
            && cold
            && rest.len() > CHUNK_COUNT
        {
            let (round, behind) = rest.split_at(rest.len().min(ROUND_COUNT_MAX));
            rest = behind;
            Round::new(store, round).read_with_workers(store, pool, &mut blocks)?;
        }
    }
    Ok(blocks)
}

/// Reads some blocks on this thread. Returns true if they came from the disk.
fn read_alone<D: Disk>(
    store: &LocalBackend<D>,
    ids: &[BlockId],
    blocks: &mut Vec<Block>,
) -> Result<bool> {
    let (started, mut len) = (store.inner.disk.now(), 0);
    for id in ids {
        let block = store.read_block(*id)?;
        len += block.data.len() as u64;
        blocks.push(block);
    }
    let hot = HOT_TIME_PER_BLOCK * ids.len() as u32
        + Duration::from_micros(len / HOT_BYTES_PER_MICROSECOND);
    Ok(store.inner.disk.now().saturating_sub(started) > hot)
}

/// Ids that several threads read.
struct Round<D: Disk> {
    store: Weak<ProcessBound<OpenStore<Quota<D>>>>,
    ids: Vec<BlockId>,
    /// The first id that no thread has taken.
    next: AtomicUsize,
    state: Mutex<RoundState>,
    all_left: Condvar,
}

#[derive(Default)]
struct RoundState {
    working_count: usize,
    over: bool,
    chunks: Vec<Option<Result<Vec<Block>>>>,
}

/// A worker at work, until it is dropped.
struct Working<'a, D: Disk>(&'a Round<D>);

impl<D: Disk> Drop for Working<'_, D> {
    fn drop(&mut self) {
        self.0.state.lock().working_count -= 1;
        self.0.all_left.notify_all();
    }
}

impl<D: Disk> Round<D> {
    fn new(store: &LocalBackend<D>, ids: &[BlockId]) -> Arc<Round<D>> {
        let mut state = RoundState::default();
        state.chunks.resize_with(ids.len().div_ceil(CHUNK_COUNT), || None);
        Arc::new(Round {
            store: Arc::downgrade(&store.inner),
            ids: ids.to_vec(),
            next: AtomicUsize::new(0),
            state: Mutex::new(state),
            all_left: Condvar::new(),
        })
    }

    /// Reads all ids, with the workers that are free.
    fn read_with_workers(
        self: Arc<Self>,
        store: &LocalBackend<D>,
        pool: &IoPool,
        blocks: &mut Vec<Block>,
    ) -> Result<()> {
        for _ in 0..pool.worker_count() {
            let round = Arc::clone(&self);
            if pool.try_submit(Command::new("read blocks", move || round.run_worker())).is_err() {
                break;
            }
        }
        self.read_chunks(store);
        let mut state = self.state.lock();
        state.over = true;
        while state.working_count > 0 {
            self.all_left.wait(&mut state);
        }
        let chunks = std::mem::take(&mut state.chunks);
        drop(state);
        for (chunk, ids) in chunks.into_iter().zip(self.ids.chunks(CHUNK_COUNT)) {
            match chunk {
                Some(read) => blocks.extend(read?),
                // Its worker panicked.
                None => drop(read_alone(store, ids, blocks)?),
            }
        }
        Ok(())
    }

    /// Runs on a worker: reads chunks while the caller waits.
    fn run_worker(&self) {
        let mut state = self.state.lock();
        if state.over {
            return;
        }
        state.working_count += 1;
        drop(state);
        let _working = Working(self);
        // Dropped before `_working`, so before the caller stops waiting.
        if let Some(inner) = self.store.upgrade() {
            self.read_chunks(&LocalBackend { inner, handles: None });
        }
    }

    /// Takes chunks until none is left or one fails. Chunks behind a failed one are not read.
    fn read_chunks(&self, store: &LocalBackend<D>) {
        loop {
            let start = self.next.fetch_add(CHUNK_COUNT, Ordering::Relaxed);
            let Some(rest) = self.ids.get(start..).filter(|rest| !rest.is_empty()) else { return };
            let ids = &rest[..rest.len().min(CHUNK_COUNT)];
            let read: Result<Vec<Block>> = ids.iter().map(|id| store.read_block(*id)).collect();
            if read.is_err() {
                self.next.fetch_max(self.ids.len(), Ordering::Relaxed);
            }
            self.state.lock().chunks[start / CHUNK_COUNT] = Some(read);
        }
    }
}
