//! The memory backend: the contract without a disk.
//!
//! Owns the commit lock; a commit is checked, given its LSN and published under it. Versions are the
//! blocks themselves, shared with readers. Nothing survives the process; `sync` has nothing to do.

use std::sync::Arc;

use crate::backend::{Durability, StorageStats};
use crate::block::{Block, BlockId, Lsn};
use crate::error::{Error, Result};
use crate::mvcc::batch::{Batch, Operation};
use crate::mvcc::engine::{Limits, VersionLen};
use crate::mvcc::overlay::Overlay;
use crate::mvcc::{Engine, Mvcc};
use crate::sync::Mutex;
use crate::ticket::CommitTicket;

/// A store in memory, with the semantics of [`LocalBackend`](crate::LocalBackend) and none of its
/// durability. Clones are handles to the same store.
///
/// # Examples
/// ```
/// use aegis_blocks::{Block, BlockId, BlockType, MemoryBackend, StorageBackend};
/// let store = MemoryBackend::new();
/// let id = store.write_block(Block::new(BlockId(0), BlockType::LogEntry, "entry"))?;
/// assert_eq!(&store.read_block(id)?.data[..], b"entry");
/// # Ok::<(), aegis_blocks::Error>(())
/// ```
#[derive(Clone)]
pub struct MemoryBackend {
    inner: Arc<Inner>,
}

/// Without its blocks: what a program logs of its store is not what it keeps there.
impl std::fmt::Debug for MemoryBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryBackend")
            .field("visible", &self.inner.mvcc.index.visible())
            .finish_non_exhaustive()
    }
}

struct Inner {
    mvcc: Mvcc<Block>,
    /// Commits are made one by one, so nothing is ever in flight.
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
        let inner = Inner { mvcc: Mvcc::new(limits), commits: Mutex::default() };
        MemoryBackend { inner: Arc::new(inner) }
    }
}

impl Inner {
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
        &self.inner.mvcc
    }

    fn fetch(&self, _id: BlockId, version: &Block) -> Result<Block> {
        Ok(version.clone())
    }

    fn hand_in(&self, batch: Batch, _durability: Option<Durability>) -> Result<CommitTicket> {
        let transaction = batch.transaction;
        let result = self.inner.commit(batch);
        self.inner.mvcc.end_transaction(transaction, &result);
        Ok(CommitTicket::answered(result))
    }

    fn make_durable(&self) -> Result<()> {
        Ok(())
    }

    fn check_open(&self) -> Result<()> {
        Ok::<(), Error>(())
    }

    fn add_stats(&self, _stats: &mut StorageStats) {}
}
