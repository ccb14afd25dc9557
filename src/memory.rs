//! The memory backend: the contract without a disk.
//!
//! Owns the commit lock; a commit is checked, given its LSN and published under it. Versions are the
//! blocks themselves, shared with readers. Nothing survives the process; `sync` has nothing to do.

use parking_lot::Mutex;

use crate::backend::StorageStats;
use crate::block::{Block, BlockId, Lsn};
use crate::error::{Error, Result};
use crate::mvcc::batch::{Batch, Operation};
use crate::mvcc::engine::{Limits, VersionLen};
use crate::mvcc::overlay::Overlay;
use crate::mvcc::{Engine, Mvcc};

/// A store in memory, with the semantics of [`LocalBackend`](crate::LocalBackend) and none of its
/// durability. Share it between threads by reference or in an `Arc`.
///
/// # Examples
/// ```
/// use aegis_blocks::{Block, BlockId, BlockType, MemoryBackend, StorageBackend};
/// let store = MemoryBackend::new();
/// let id = store.write_block(Block::new(BlockId(0), BlockType::LogEntry, "entry"))?;
/// assert_eq!(&store.read_block(id)?.data[..], b"entry");
/// # Ok::<(), aegis_blocks::Error>(())
/// ```
#[derive(Debug)]
pub struct MemoryBackend {
    mvcc: Mvcc<Block>,
    commits: Mutex<Overlay>,
}

impl Default for MemoryBackend {
    fn default() -> Self {
        MemoryBackend::new()
    }
}

impl MemoryBackend {
    /// Makes an empty store.
    pub fn new() -> MemoryBackend {
        let limits = Limits { block_len_max: u32::MAX, transaction_len_max: u64::MAX };
        MemoryBackend { mvcc: Mvcc::new(limits), commits: Mutex::default() }
    }
}

impl VersionLen for Block {
    fn payload_len(&self) -> u64 {
        self.data.len() as u64
    }
}

#[expect(private_interfaces, reason = "the sealed trait's own types")]
impl Engine for MemoryBackend {
    type Version = Block;

    fn mvcc(&self) -> &Mvcc<Block> {
        &self.mvcc
    }

    fn fetch(&self, _id: BlockId, version: &Block) -> Result<Block> {
        Ok(version.clone())
    }

    fn commit(&self, batch: Batch) -> Result<Lsn> {
        let in_flight = self.commits.lock();
        if let Err(error) = in_flight.check(&batch, &self.mvcc.index) {
            self.mvcc.counters.conflicts.add(u64::from(error.is_retryable()));
            return Err(error);
        }
        let lsn = Lsn(self.mvcc.index.visible().0 + 1);
        let changes = batch.operations.into_iter().map(|(id, operation)| match operation {
            Operation::Write(block) => (id, lsn, Some(block)),
            Operation::Delete => (id, lsn, None),
        });
        self.mvcc.publish(changes, lsn);
        self.mvcc.counters.commits.add(1);
        Ok(lsn)
    }

    fn make_durable(&self) -> Result<()> {
        Ok(())
    }

    fn check_open(&self) -> Result<()> {
        Ok::<(), Error>(())
    }

    fn add_stats(&self, _stats: &mut StorageStats) {}
}
