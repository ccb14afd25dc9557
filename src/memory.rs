//! The memory backend: the contract without a disk.
//!
//! A forked child has a copy of it all, even of locks that other threads held. So every call is
//! refused there, as with a store on disk, and a drop leaks memory that another thread may have
//! been changing.

use std::sync::Arc;
use std::time::Duration;

use crate::backend::{Durability, StorageBackend, StorageStats};
use crate::block::{Block, BlockId, Lsn};
use crate::error::Result;
use crate::io::Env;
use crate::io::os::coarse_clock;
use crate::mvcc::batch::{Batch, Operation};
use crate::mvcc::handles::Handles;
use crate::mvcc::index::LookedUp;
use crate::mvcc::state::{Limits, OPEN_TRANSACTIONS_MAX};
use crate::mvcc::unpublished::Unpublished;
use crate::mvcc::version::VersionLen;
use crate::mvcc::{Engine, Mvcc};
use crate::sync::{Mutex, Process, ProcessBound};
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
    inner: Arc<ProcessBound<MemoryStore>>,
    /// `None` in those that are in there.
    handles: Option<Arc<Handles<MemoryBackend>>>,
}

struct MemoryStore {
    mvcc: Mvcc<Block>,
    /// Commits are made one by one, so nothing is ever in flight.
    commits: Mutex<Unpublished>,
    clock: Clock,
}

/// Tells the time. Only differences mean anything.
type Clock = Box<dyn Fn() -> Duration + Send + Sync>;

/// Without its blocks, which must not get into a program's log.
impl std::fmt::Debug for MemoryBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryBackend")
            .field("visible", &self.inner.mvcc.index.visible_lsn())
            .finish_non_exhaustive()
    }
}

impl Default for MemoryBackend {
    fn default() -> Self {
        MemoryBackend::new()
    }
}

impl MemoryBackend {
    /// Makes an empty store.
    pub fn new() -> MemoryBackend {
        MemoryBackend::options().build()
    }

    /// Options to make a store with.
    pub fn options() -> MemoryOptions {
        MemoryOptions::default()
    }
}

/// How to make a store in memory. Every setter takes and returns the options.
///
/// # Examples
/// ```
/// use aegis_blocks::{Error, MemoryBackend, StorageExt};
/// let store = MemoryBackend::options().open_transactions_max(1).build();
/// let held = store.snapshot()?;
/// assert!(matches!(store.try_begin(), Err(Error::TooManyTransactions { open: 1, max: 1 })));
/// drop(held);
/// store.try_begin()?;
/// # Ok::<(), aegis_blocks::Error>(())
/// ```
pub struct MemoryOptions {
    limits: Limits,
    clock: Clock,
}

impl std::fmt::Debug for MemoryOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryOptions").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Default for MemoryOptions {
    fn default() -> Self {
        let limits = Limits {
            block_len_max: u32::MAX,
            transaction_len_max: u64::MAX,
            open_transactions_max: OPEN_TRANSACTIONS_MAX,
            snapshot_age_max: Duration::MAX,
            snapshot_pinned_max: u64::MAX,
        };
        MemoryOptions { limits, clock: Box::new(coarse_clock) }
    }
}

impl MemoryOptions {
    /// Transactions and snapshots that may be open at once; as
    /// [`Options::open_transactions_max`](crate::Options::open_transactions_max). Default: 65,536.
    #[must_use]
    pub fn open_transactions_max(mut self, count: u64) -> MemoryOptions {
        self.limits.open_transactions_max = count;
        self
    }

    /// How long a snapshot may be open; as
    /// [`Options::snapshot_age_max`](crate::Options::snapshot_age_max). Default: no limit.
    #[must_use]
    pub fn snapshot_age_max(mut self, age: Duration) -> MemoryOptions {
        self.limits.snapshot_age_max = age;
        self
    }

    /// Bytes of older versions that are kept for snapshots; as
    /// [`Options::snapshot_pinned_max`](crate::Options::snapshot_pinned_max), all of it memory
    /// here. Default: no limit.
    #[must_use]
    pub fn snapshot_pinned_max(mut self, bytes: u64) -> MemoryOptions {
        self.limits.snapshot_pinned_max = bytes;
        self
    }

    /// Takes the time from `env`, for instance a simulated one, and not from the operating system.
    #[must_use]
    pub fn clock_of(mut self, env: impl Env) -> MemoryOptions {
        self.clock = Box::new(move || env.recently());
        self
    }

    /// Makes an empty store.
    pub fn build(self) -> MemoryBackend {
        let MemoryOptions { limits, clock } = self;
        let inner = MemoryStore { mvcc: Mvcc::new(limits), commits: Mutex::default(), clock };
        let inner = Arc::new(ProcessBound::new(inner));
        MemoryBackend { inner, handles: Some(Arc::default()) }
    }
}

impl MemoryStore {
    fn commit(&self, batch: Batch) -> Result<Lsn> {
        let in_flight = self.commits.lock();
        if let Err(error) = in_flight.check_batch(&batch, &self.mvcc.index) {
            self.mvcc.counters.conflicts.add(u64::from(error.is_retryable()));
            return Err(error);
        }
        let lsn = Lsn(self.mvcc.index.visible_lsn().0 + 1);
        let changes = batch.operations.into_iter().map(|(id, operation)| match operation {
            Operation::Write(block) => (id, lsn, Some(block)),
            Operation::Delete => (id, lsn, None),
            Operation::Move { .. } => unreachable!("memory has no segments to empty"),
        });
        let moment = self.mvcc.lock_moment();
        self.mvcc.publish_and_count(changes, &LookedUp::default(), lsn, |_, _| {});
        self.mvcc.counters.commits.add(1);
        drop(moment);
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

    fn handle(&self) -> Option<Arc<dyn StorageBackend>> {
        let inner = &self.inner;
        // In a forked child a slot may be in the making for ever.
        let handles = self.handles.as_ref().filter(|_| inner.process().is_current())?;
        Some(handles.handle_of_thread(|| MemoryBackend { inner: Arc::clone(inner), handles: None }))
    }

    fn fetch_block(&self, _id: BlockId, version: &Block) -> Result<Option<Block>> {
        Ok(Some(version.clone()))
    }

    fn submit_batch(&self, batch: Batch, _durability: Option<Durability>) -> Result<CommitTicket> {
        let transaction = batch.transaction;
        let result = self.inner.commit(batch);
        self.inner.mvcc.end_transaction(transaction, &result);
        Ok(CommitTicket::answered(result.map(Some), Durability::Buffered))
    }

    fn make_durable(&self) -> Result<()> {
        Ok(())
    }

    /// As durable as can be here: a visible commit survives all that the store does.
    fn durable_lsn(&self) -> Lsn {
        self.inner.mvcc.index.visible_lsn()
    }

    fn now(&self) -> Duration {
        (self.inner.clock)()
    }

    fn ensure_commit_progress(&self) {}

    fn read_many(&self, ids: &[BlockId]) -> Result<Vec<Block>> {
        ids.iter().map(|id| self.read_block(*id)).collect()
    }

    fn commits_may_wait(&self) -> bool {
        false
    }

    fn check_open(&self) -> Result<()> {
        self.inner.process().check()
    }

    fn process(&self) -> &Process {
        self.inner.process()
    }

    fn add_stats(&self, _stats: &mut StorageStats) {}
}
