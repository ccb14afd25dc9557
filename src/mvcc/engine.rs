//! The contract, written once: every [`StorageBackend`] method over what a backend does its own way.
//!
//! Owns [`Mvcc`] (index, transactions, ids, counters) and the blanket implementation. A backend says,
//! through [`Engine`], how a version becomes a block and how a batch is committed; all checks on
//! blocks, ids and transactions are here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::{Durability, OldestSnapshot, StorageBackend, StorageStats};
use crate::block::{Block, BlockId, Lsn, TransactionId};
use crate::canary::{Bug, planted};
use crate::error::{Error, Result, SnapshotLimit};
use crate::mvcc::batch::{Batch, Operation, Precondition};
use crate::mvcc::counters::{Counters, Delta};
use crate::mvcc::ids::IdAllocator;
use crate::mvcc::index::{Change, Index, Versioned};
use crate::mvcc::transactions::{Released, TransactionTable};
use crate::mvcc::version::VersionLen;
use crate::mvcc::word::Phase;
use crate::sync::{AtomicU64, Ordering};
use crate::ticket::CommitTicket;
use crate::transaction::{BatchOperation, IsolationLevel, Savepoint, WriteBatch};

/// What memory and local share: versions, transactions, ids, statistics.
#[derive(Debug)]
pub(crate) struct Mvcc<V> {
    pub(crate) limits: Limits,
    pub(crate) index: Index<V>,
    pub(crate) transactions: TransactionTable,
    pub(crate) ids: IdAllocator,
    /// The highest id that a commit named.
    pub(crate) committed: IdAllocator,
    pub(crate) counters: Counters,
    /// Nanoseconds on the clock until which no snapshot can be too old.
    age_due: AtomicU64,
}

/// The limits on what a caller may put in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) block_len_max: u32,
    pub(crate) transaction_len_max: u64,
    pub(crate) open_transactions_max: u64,
    /// [`Duration::MAX`] for no limit.
    pub(crate) snapshot_age_max: Duration,
    /// `u64::MAX` for no limit.
    pub(crate) snapshot_pinned_max: u64,
}

/// Open transactions where nobody asks for another limit: far above what threads begin, far below
/// what memory holds, and room for all commits that one thread may have in flight.
pub(crate) const OPEN_TRANSACTIONS_MAX: u64 = 1 << 16;

/// Whoever reads a place that is gone looks for the new one, which is in the index before that. Without
/// one he would look for ever.
const UNMOVED: &str = "a segment went though somebody sees a block in it";

/// What a backend does its own way.
pub trait Engine: Send + Sync {
    /// A block's version as the index keeps it.
    #[expect(private_bounds, reason = "sealed: only the two backends of this crate implement it")]
    type Version: VersionLen;

    #[doc(hidden)]
    #[expect(private_interfaces, reason = "sealed, as above")]
    fn mvcc(&self) -> &Mvcc<Self::Version>;

    /// As [`StorageBackend::handle`].
    #[doc(hidden)]
    fn handle(&self) -> Option<Arc<dyn StorageBackend>>;

    #[doc(hidden)]
    /// The block of a version; `None` when the version was moved and the index knows its new place.
    fn fetch(&self, id: BlockId, version: &Self::Version) -> Result<Option<Block>>;

    #[doc(hidden)]
    #[expect(private_interfaces, reason = "sealed, as above")]
    fn hand_in(&self, batch: Batch, durability: Option<Durability>) -> Result<CommitTicket>;

    #[doc(hidden)]
    fn make_durable(&self) -> Result<()>;

    /// The newest commit known durable.
    #[doc(hidden)]
    fn durable_lsn(&self) -> Lsn;

    /// The time to some milliseconds, of which only differences mean anything.
    #[doc(hidden)]
    fn now(&self) -> Duration;

    /// Makes sure that somebody works at the commits that were handed in, if need be this thread.
    #[doc(hidden)]
    fn help_along(&self);

    /// Reads the blocks, this thread alone or together with others.
    #[doc(hidden)]
    fn read_many(&self, ids: &[BlockId]) -> Result<Vec<Block>>;

    #[doc(hidden)]
    fn check_open(&self) -> Result<()>;

    #[doc(hidden)]
    fn add_stats(&self, stats: &mut StorageStats);
}

impl<V: VersionLen> Mvcc<V> {
    pub(crate) fn new(limits: Limits) -> Mvcc<V> {
        let index = Index::default();
        let pins = Arc::clone(index.pins());
        Mvcc {
            limits,
            index,
            transactions: TransactionTable::new(limits.open_transactions_max, pins),
            ids: IdAllocator::default(),
            committed: IdAllocator::default(),
            counters: Counters::default(),
            age_due: AtomicU64::new(0),
        }
    }

    /// Publishes a group of commits and counts what it changed. One publisher at a time. Calls
    /// `replaced` with the old and the new version of each change.
    pub(crate) fn publish(
        &self,
        changes: impl IntoIterator<Item = Change<V>>,
        visible: Lsn,
        mut replaced: impl FnMut(Option<&V>, Option<&V>),
    ) {
        let mut delta = Delta::default();
        let committed = &self.committed;
        let changes = changes.into_iter().inspect(|(id, ..)| committed.raise(*id));
        self.index.publish(changes, visible, |old, new| {
            delta.count(old, new);
            replaced(old, new);
        });
        self.counters.add(&delta);
        self.counters.writes.add(delta.writes);
        self.counters.deletes.add(delta.deletes);
    }

    /// Puts committed changes in place while nobody reads: recovery. Calls `replaced` as
    /// [`Mvcc::publish`].
    pub(crate) fn load(
        &self,
        changes: impl IntoIterator<Item = Change<V>>,
        mut replaced: impl FnMut(Option<&V>, Option<&V>),
    ) {
        let mut delta = Delta::default();
        let changes = changes.into_iter().inspect(|(id, ..)| {
            if !planted(Bug::IdsAfterReplay) {
                self.raise_ids(*id);
            }
        });
        self.index.load(changes, |old, new| {
            delta.count(old, new);
            replaced(old, new);
        });
        self.counters.add(&delta);
    }

    /// Takes over totals that were counted before: those of a checkpoint.
    pub(crate) fn load_totals(&self, blocks: u64, bytes: u64, id_max: BlockId) {
        self.counters.take_over(blocks, bytes);
        if !planted(Bug::IdsAfterCheckpoint) {
            self.raise_ids(id_max);
        }
    }

    /// Committed blocks, and the sum of their payload lengths.
    pub(crate) fn totals(&self) -> (u64, u64) {
        let c = &self.counters;
        // Removals are read first: what is added in between can only make the difference larger.
        let (removed, bytes_removed) = (c.blocks_removed.sum(), c.bytes_removed.sum());
        (c.blocks_added.sum() - removed, c.bytes_added.sum() - bytes_removed)
    }

    fn raise_ids(&self, id: BlockId) {
        self.ids.raise(id);
        self.committed.raise(id);
    }

    /// Ends the transaction that a commit belonged to, now that its result is known.
    pub(crate) fn end_transaction(&self, tx: Option<TransactionId>, result: &Result<Lsn>) {
        let Some(tx) = tx else { return };
        let outcome = match result {
            Ok(_) => Phase::Committed,
            Err(_) => Phase::RolledBack,
        };
        self.release(self.transactions.end(tx, outcome));
    }

    fn release(&self, released: Option<Released>) {
        if let Some(Released { lsn, was_last }) = released {
            self.index.released(lsn, was_last);
        }
    }

    /// Gives up snapshots that are over a limit, oldest first. Costs next to nothing while none is.
    fn keep_limits(&self, now: impl FnOnce() -> Duration) {
        if self.limits.snapshot_age_max != Duration::MAX {
            self.keep_age(now());
        }
        let pinned_max = self.limits.snapshot_pinned_max;
        while self.index.pinned_len() > pinned_max
            && let Some(oldest) = self.transactions.oldest()
            && self.index.pins_more_than(pinned_max, oldest.snapshot)
            && self.give_up(oldest.id, SnapshotLimit::PinnedBytes(pinned_max))
        {}
    }

    fn keep_age(&self, now: Duration) {
        if now <= Duration::from_nanos(self.age_due.load(Ordering::Relaxed)) {
            return;
        }
        let age_max = self.limits.snapshot_age_max;
        let mut oldest = self.transactions.oldest();
        while let Some(old) = oldest
            && now.saturating_sub(old.begun_at) > age_max
        {
            if !self.give_up(old.id, SnapshotLimit::Age(age_max)) {
                return;
            }
            oldest = self.transactions.oldest();
        }
        let due = oldest.map_or(now, |oldest| oldest.begun_at).saturating_add(age_max);
        let due = u64::try_from(due.as_nanos()).unwrap_or(u64::MAX);
        self.age_due.store(due, Ordering::Relaxed);
    }

    /// False when its versions are not free yet.
    fn give_up(&self, id: TransactionId, limit: SnapshotLimit) -> bool {
        let released = self.transactions.give_up(id, limit);
        self.release(released);
        released.is_some()
    }

    /// Takes the operations of a transaction for its commit. A transaction that was given up ends.
    fn start_commit(&self, tx: TransactionId) -> Result<Batch> {
        self.transactions.start_commit(tx).inspect_err(|error| {
            if matches!(error, Error::SnapshotTooOld { .. }) {
                self.end_transaction(Some(tx), &Err(error.clone()));
            }
        })
    }

    /// Names the blocks of a batch, and says what must exist for its deletes.
    fn name_batch(&self, batch: WriteBatch) -> Result<(Vec<BlockId>, Batch)> {
        let (mut ids, mut operations, mut needed) = (Vec::new(), BTreeMap::new(), Vec::new());
        let mut len = 0;
        for operation in batch {
            match operation {
                BatchOperation::Write(block) => {
                    let block = self.name_block(block)?;
                    let id = block.header.block_id;
                    ids.push(id);
                    len += block.data.len() as u64;
                    let before = operations.insert(id, Operation::Write(block));
                    len -= before.as_ref().map_or(0, Operation::payload_len);
                }
                BatchOperation::Delete(id) => match operations.insert(id, Operation::Delete) {
                    None => needed.push(id),
                    Some(Operation::Write(block)) => len -= block.data.len() as u64,
                    Some(_) => return Err(Error::BlockNotFound { id }),
                },
            }
        }
        let len_max = self.limits.transaction_len_max;
        if len > len_max {
            return Err(Error::TransactionTooLarge { len, len_max });
        }
        let operations = operations.into_iter().collect();
        let precondition = Precondition::Exist(needed);
        Ok((ids, Batch { operations, precondition, reads: None, transaction: None }))
    }

    fn oldest_snapshot(&self, now: Duration) -> Option<OldestSnapshot> {
        let oldest = self.transactions.oldest()?;
        Some(OldestSnapshot { lsn: oldest.snapshot, age: now.saturating_sub(oldest.begun_at) })
    }

    /// The version of a block that a transaction sees beneath its own operations.
    fn read_for(&self, snapshot: Option<Lsn>, id: BlockId) -> Result<Option<Versioned<V>>> {
        match snapshot {
            Some(_) if planted(Bug::SnapshotMoves) => self.index.read(id),
            Some(snapshot) => self.index.read_at(id, snapshot),
            None => self.index.read(id),
        }
    }

    /// Takes an id for a write: allocates one for `BlockId(0)`, stays above any other.
    fn name_block(&self, mut block: Block) -> Result<Block> {
        let (len, len_max) = (block.data.len() as u64, u64::from(self.limits.block_len_max));
        if len > len_max {
            return Err(Error::BlockTooLarge { len, len_max });
        }
        block.check_header()?;
        if block.header.block_id == BlockId(0) {
            block.header.block_id = self.ids.allocate()?;
        } else {
            self.ids.raise(block.header.block_id);
        }
        Ok(block)
    }

    fn stats(&self, now: Duration) -> StorageStats {
        let c = &self.counters;
        let oldest = self.oldest_snapshot(now);
        let (total_blocks, total_bytes) = self.totals();
        StorageStats {
            total_blocks,
            total_bytes,
            read_ops: c.reads.sum(),
            write_ops: c.writes.sum(),
            delete_ops: c.deletes.sum(),
            commits: c.commits.sum(),
            conflicts: c.conflicts.sum(),
            rollbacks: self.transactions.rolled_back_count(),
            open_transactions: self.transactions.open_count(),
            visible_lsn: self.index.visible(),
            durable_lsn: self.index.visible(),
            index_bytes: self.index.heap_len(),
            undo_entries: self.index.undo_count(),
            pinned_bytes: self.index.pinned_len(),
            oldest_snapshot: oldest.map(|oldest| oldest.lsn),
            oldest_snapshot_age: oldest.map_or(Duration::ZERO, |oldest| oldest.age),
            ..StorageStats::default()
        }
    }
}

impl<E: Engine> StorageBackend for E {
    fn write_block(&self, block: Block) -> Result<BlockId> {
        write(self, block, None)
    }

    fn write_block_with(&self, block: Block, durability: Durability) -> Result<BlockId> {
        write(self, block, Some(durability))
    }

    fn read_block(&self, id: BlockId) -> Result<Block> {
        self.check_open()?;
        let mvcc = self.mvcc();
        let mut version = mvcc.index.read(id)?.ok_or(Error::BlockNotFound { id })?;
        mvcc.counters.reads.add(1);
        loop {
            if let Some(block) = self.fetch(id, &version.value)? {
                return Ok(block);
            }
            let next = mvcc.index.read(id)?.ok_or(Error::BlockNotFound { id })?;
            assert!(next.value.place() != version.value.place(), "{UNMOVED}");
            version = next;
        }
    }

    fn delete_block(&self, id: BlockId) -> Result<()> {
        delete(self, id, None)
    }

    fn delete_block_with(&self, id: BlockId, durability: Durability) -> Result<()> {
        delete(self, id, Some(durability))
    }

    fn block_exists(&self, id: BlockId) -> Result<bool> {
        self.check_open()?;
        Ok(self.mvcc().index.read(id)?.is_some())
    }

    fn begin_transaction(&self) -> Result<TransactionId> {
        self.begin_transaction_at(IsolationLevel::Snapshot)
    }

    fn begin_transaction_at(&self, isolation: IsolationLevel) -> Result<TransactionId> {
        self.begin_transaction_within(isolation, Duration::ZERO)
    }

    fn begin_transaction_within(
        &self,
        isolation: IsolationLevel,
        timeout: Duration,
    ) -> Result<TransactionId> {
        self.check_open()?;
        let mvcc = self.mvcc();
        mvcc.keep_limits(|| self.now());
        let begun = mvcc.transactions.begin(isolation, self.now());
        match begun {
            Err(Error::TooManyTransactions { .. }) if !timeout.is_zero() => {
                self.help_along();
                mvcc.transactions.begin_within(isolation, timeout, || self.now())
            }
            begun => begun,
        }
    }

    fn write_block_in_tx(&self, tx: TransactionId, block: Block) -> Result<BlockId> {
        look(self)?;
        let mvcc = self.mvcc();
        mvcc.transactions.with(tx, |pending| {
            let block = mvcc.name_block(block)?;
            let id = block.header.block_id;
            pending.put(id, Operation::Write(block), mvcc.limits.transaction_len_max)?;
            Ok(id)
        })
    }

    fn read_block_in_tx(&self, tx: TransactionId, id: BlockId) -> Result<Block> {
        look(self)?;
        // The transaction's lock is not held while the block is fetched: that may do I/O. Its pin
        // keeps the version; should it end meanwhile, this read came before the end.
        let mut gone = None;
        loop {
            match visible_in_tx(self.mvcc(), tx, id)? {
                Seen::Own(block) => return Ok(block),
                Seen::Committed(version) => {
                    if let Some(block) = self.fetch(id, &version.value)? {
                        self.mvcc().counters.reads.add(1);
                        return Ok(block);
                    }
                    let place = version.value.place();
                    assert!(gone.replace(place) != Some(place), "{UNMOVED}");
                }
                Seen::Nothing => return Err(Error::BlockNotFound { id }),
            }
        }
    }

    fn delete_block_in_tx(&self, tx: TransactionId, id: BlockId) -> Result<()> {
        look(self)?;
        let mvcc = self.mvcc();
        mvcc.transactions.with(tx, |pending| {
            pending.note_read(id);
            let visible = match pending.own(id) {
                Some(own) => matches!(own, Operation::Write(_)),
                None => mvcc.read_for(pending.snapshot(), id)?.is_some(),
            };
            if !visible {
                return Err(Error::BlockNotFound { id });
            }
            pending.put(id, Operation::Delete, mvcc.limits.transaction_len_max)
        })
    }

    fn block_exists_in_tx(&self, tx: TransactionId, id: BlockId) -> Result<bool> {
        look(self)?;
        Ok(!matches!(visible_in_tx(self.mvcc(), tx, id)?, Seen::Nothing))
    }

    fn commit_transaction(&self, tx: TransactionId) -> Result<()> {
        self.submit_transaction(tx, None)?.wait().map(|_| ())
    }

    fn submit_transaction(
        &self,
        tx: TransactionId,
        durability: Option<Durability>,
    ) -> Result<CommitTicket> {
        look(self)?;
        let mvcc = self.mvcc();
        let batch = mvcc.start_commit(tx)?;
        // A transaction that changed nothing commits by ending.
        if batch.operations.is_empty() {
            mvcc.counters.commits.add(1);
            mvcc.end_transaction(Some(tx), &Ok(mvcc.index.visible()));
            return Ok(CommitTicket::answered(Ok(None), Durability::Durable));
        }
        self.hand_in(batch, durability)
            .inspect_err(|error| mvcc.end_transaction(Some(tx), &Err(error.clone())))
    }

    fn ids_in_tx(&self, tx: TransactionId, first: BlockId, last: BlockId) -> Result<Vec<BlockId>> {
        look(self)?;
        let mvcc = self.mvcc();
        mvcc.transactions.with(tx, |pending| {
            pending.note_range(first, last);
            let mut ids = match pending.snapshot() {
                Some(snapshot) => mvcc.index.ids_at(first, last, usize::MAX, snapshot)?,
                None => mvcc.index.ids(first, last, usize::MAX)?,
            };
            let deleted = |id: &BlockId| matches!(pending.own(*id), Some(Operation::Delete));
            ids.retain(|id| !deleted(id));
            let written = pending.own_range(first, last);
            ids.extend(
                written.filter(|(_, own)| matches!(own, Operation::Write(_))).map(|(id, _)| *id),
            );
            ids.sort_unstable();
            ids.dedup();
            Ok(ids)
        })
    }

    fn savepoint_in_tx(&self, tx: TransactionId) -> Result<Savepoint> {
        look(self)?;
        self.mvcc().transactions.with(tx, |pending| Ok(pending.savepoint(tx)))
    }

    fn rollback_to_savepoint(&self, tx: TransactionId, savepoint: Savepoint) -> Result<()> {
        look(self)?;
        self.mvcc().transactions.with(tx, |pending| pending.rollback_to(tx, savepoint))
    }

    fn apply(&self, batch: WriteBatch) -> Result<Vec<BlockId>> {
        apply(self, batch, None)
    }

    fn apply_with(&self, batch: WriteBatch, durability: Durability) -> Result<Vec<BlockId>> {
        apply(self, batch, Some(durability))
    }

    fn read_blocks(&self, ids: &[BlockId]) -> Result<Vec<Block>> {
        self.check_open()?;
        self.read_many(ids)
    }

    fn rollback_transaction(&self, tx: TransactionId) -> Result<()> {
        self.check_open()?;
        let mvcc = self.mvcc();
        mvcc.release(mvcc.transactions.rollback(tx)?);
        Ok(())
    }

    fn handle(&self) -> Option<Arc<dyn StorageBackend>> {
        Engine::handle(self)
    }

    fn sync(&self) -> Result<()> {
        self.check_open()?;
        self.make_durable()
    }

    fn sync_to(&self, lsn: Lsn) -> Result<()> {
        self.check_open()?;
        if lsn > self.mvcc().index.visible() {
            return Err(Error::InvalidArgument { argument: "lsn", reason: "no commit has it yet" });
        }
        if lsn <= self.durable_lsn() { Ok(()) } else { self.make_durable() }
    }

    fn oldest_snapshot(&self) -> Option<OldestSnapshot> {
        self.mvcc().oldest_snapshot(self.now())
    }

    fn stats(&self) -> StorageStats {
        let mut stats = self.mvcc().stats(self.now());
        stats.durable_lsn = self.durable_lsn();
        self.add_stats(&mut stats);
        stats
    }
}

/// What an operation of a transaction begins with.
fn look<E: Engine>(engine: &E) -> Result<()> {
    engine.check_open()?;
    engine.mvcc().keep_limits(|| engine.now());
    Ok(())
}

fn write<E: Engine>(engine: &E, block: Block, durability: Option<Durability>) -> Result<BlockId> {
    look(engine)?;
    let block = engine.mvcc().name_block(block)?;
    let id = block.header.block_id;
    engine.hand_in(Batch::write(block), durability)?.wait().map(|_| id)
}

fn delete<E: Engine>(engine: &E, id: BlockId, durability: Option<Durability>) -> Result<()> {
    look(engine)?;
    engine.hand_in(Batch::delete(id), durability)?.wait().map(|_| ())
}

fn apply<E: Engine>(
    engine: &E,
    batch: WriteBatch,
    durability: Option<Durability>,
) -> Result<Vec<BlockId>> {
    look(engine)?;
    let (ids, batch) = engine.mvcc().name_batch(batch)?;
    if batch.operations.is_empty() {
        return Ok(ids);
    }
    engine.hand_in(batch, durability)?.wait().map(|_| ids)
}

enum Seen<V> {
    Own(Block),
    Committed(Versioned<V>),
    Nothing,
}

fn visible_in_tx<V: VersionLen>(mvcc: &Mvcc<V>, tx: TransactionId, id: BlockId) -> Result<Seen<V>> {
    let committed = mvcc.transactions.with_view(tx, |view| {
        Ok(match mvcc.read_for(view.snapshot, id)? {
            Some(version) => Seen::Committed(version),
            None => Seen::Nothing,
        })
    });
    if let Some(seen) = committed {
        return seen;
    }
    mvcc.transactions.with(tx, |pending| {
        pending.note_read(id);
        Ok(match pending.own(id) {
            Some(Operation::Write(block)) => Seen::Own(block.clone()),
            Some(_) => Seen::Nothing,
            None => match mvcc.read_for(pending.snapshot(), id)? {
                Some(version) => Seen::Committed(version),
                None => Seen::Nothing,
            },
        })
    })
}
